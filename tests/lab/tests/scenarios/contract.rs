//! What others script against: flags, exit codes, the admin endpoints, a clean end.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ferrolb_lab::{Program, wait_until};

use crate::manifests::{deployment, service};
use crate::scene::{PATIENCE, Scene};

/// Unknown flags and bad values: exit code 2 and one clear line that names the flag or the value.
pub(crate) async fn bad_flags(s: Scene) -> Result<()> {
    for (program, args, said) in [
        ("ferrolb-controller", vec!["--no-such-flag"], "--no-such-flag"),
        ("ferrolb-controller", vec!["--admin-addr", "nowhere"], "nowhere"),
        ("ferrolb-controller", vec!["--log-format", "xml"], "xml"),
        (
            "ferrolb-speaker",
            vec!["--node-name", "a", "--log-level", "loud"],
            "loud",
        ),
        ("ferrolb-speaker", vec![], "--node-name"),
    ] {
        let output = Command::new(s.binary(program)?)
            .args(&args)
            .env_remove("FERROLB_NODE_NAME")
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2), "{program} {args:?}: {}", output.status);
        ensure!(
            text.trim().lines().count() == 1 && text.contains(said),
            "{program} {args:?} says:\n{text}"
        );
    }
    Ok(())
}

/// The admin endpoints of both programs answer, and metrics are called what users of the API know.
pub(crate) async fn admin_endpoints(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 1)).await?;
    s.apply(&service("web", "web", "type: LoadBalancer")).await?;
    s.ready("web", 1).await?;
    let address = s.addresses("web", 1).await?[0];
    s.page(address, 80).await?;
    let owner = s.owner(address).await?;
    let (controller, speaker) = (s.control_plane(), s.node(&owner)?.host());
    for host in [controller, speaker] {
        for path in ["/healthz", "/readyz", "/version"] {
            let (status, body) = s.admin_of(host, path).await?;
            ensure!(status == 200, "{} {path}: {status} {body}", host.name());
        }
    }
    let pool = s.namespace();
    for (host, wanted) in [
        (
            controller,
            format!("metallb_allocator_addresses_total{{pool=\"{pool}\"}} 306"),
        ),
        (
            controller,
            format!("metallb_allocator_addresses_in_use_total{{pool=\"{pool}\"}} 1"),
        ),
        (speaker, format!("metallb_layer2_responses_sent{{ip=\"{address}\"}} ")),
    ] {
        wait_until(&format!("metric {wanted} of {}", host.name()), PATIENCE, async || {
            let metrics = s.metrics(host).await?;
            ensure!(metrics.contains(&wanted), "{metrics}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// SIGTERM ends both programs within 5 s with exit code 0; started again, they go on.
pub(crate) async fn clean_end(s: Scene) -> Result<()> {
    let speaker = s.node("node-1")?.program(Program::Speaker)?;
    for program in [s.controller(), speaker] {
        let begin = Instant::now();
        let status = program.stop(Duration::from_secs(5)).await?;
        ensure!(
            status.success(),
            "{} ended with {status} after {:?}",
            program.name(),
            begin.elapsed()
        );
        program.restart()?;
    }
    s.wait_ferrolb_ready().await?;
    s.fence().await
}

/// The speaker runs with NET_RAW alone, the controller with nothing.
pub(crate) async fn capabilities(s: Scene) -> Result<()> {
    const NET_RAW: u64 = 1 << 13;
    let speaker = s.node("node-1")?.program(Program::Speaker)?;
    for (program, allowed) in [(s.controller(), 0), (speaker, NET_RAW)] {
        let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid()))?;
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let line = status.lines().find(|l| l.starts_with(set)).unwrap_or_default();
            let held = u64::from_str_radix(line.split_whitespace().nth(1).unwrap_or("?"), 16)?;
            ensure!(held & !allowed == 0, "{} holds {line}", program.name());
        }
    }
    Ok(())
}
