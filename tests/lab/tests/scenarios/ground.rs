//! The ground under every other scenario: the cluster and its faults, without FerroLB.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ferrolb_controlplane::PROXY_HEALTH_PORT;
use ferrolb_lab::net::{Host, http_get};
use ferrolb_lab::process::Capabilities;
use ferrolb_lab::{Program, Story, privilege, realnode, run_dir, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

/// The cluster is up.
pub(crate) async fn three_nodes_are_ready(story: Story) -> Result<()> {
    let nodes = story.kubectl(&["get", "nodes", "--no-headers"]).await?;
    ensure!(
        nodes.lines().filter(|line| line.contains(" Ready ")).count() == 3,
        "{nodes}"
    );
    Ok(())
}

/// A node that loses the API server alone turns NotReady, and the LAN still reaches it.
pub(crate) async fn node_without_api_server(story: Story) -> Result<()> {
    let node = story.node("node-1")?;
    node.cut_api()?;
    story.wait_node_ready("node-1", false, PATIENCE).await?;
    reach(story.client_host(), node.host())
        .await
        .context("the LAN reaches the node")?;
    node.restore_api()?;
    story.wait_node_ready("node-1", true, PATIENCE).await
}

/// A node without a link is reached by nobody, whether it can see that or not.
pub(crate) async fn node_without_link(story: Story) -> Result<()> {
    let node = story.node("node-2")?;
    for cut in [ferrolb_lab::Node::cut_link, ferrolb_lab::Node::isolate] {
        cut(node)?;
        ensure!(
            reach(story.client_host(), node.host()).await.is_err(),
            "the node is still reached"
        );
        node.restore_link()?;
        wait_until("the node to be reached again", PATIENCE, async || {
            reach(story.client_host(), node.host()).await
        })
        .await?;
    }
    story.wait_node_ready("node-2", true, PATIENCE).await
}

/// A node whose kubelet hangs turns NotReady while its kube-proxy goes on; one that lost its power comes back.
pub(crate) async fn node_without_kubelet_or_power(story: Story) -> Result<()> {
    let node = story.node("node-3")?;
    node.freeze(Program::Kubelet)?;
    story.wait_node_ready("node-3", false, PATIENCE).await?;
    reach(story.client_host(), node.host())
        .await
        .context("kube-proxy goes on")?;
    node.thaw(Program::Kubelet)?;
    story.wait_node_ready("node-3", true, PATIENCE).await?;

    node.power_off()?;
    story.wait_node_ready("node-3", false, PATIENCE).await?;
    node.power_on()?;
    story.wait_node_ready("node-3", true, PATIENCE).await
}

/// A confined program holds what it was given, and nothing that it could get more with.
pub(crate) async fn confined_program(story: Story) -> Result<()> {
    for (capabilities, held) in [
        (Capabilities::NetRawOnly, "0000000000002000"),
        (Capabilities::None, "0000000000000000"),
    ] {
        let name = format!("confined-{capabilities:?}");
        let spec = story
            .spec(&name, "/bin/cat", story.client_host())
            .args(["/proc/self/status"]);
        let process = story.start_process(spec.capabilities(capabilities))?;
        let exit = process.wait_exit(PATIENCE).await.context("cat does not end")?;
        let status = process.log_tail(100);
        ensure!(exit.success(), "{exit}: {status}");
        for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            ensure!(
                status.contains(&format!("{set}:\t{held}")),
                "{name}: {set} is not {held}: {status}"
            );
        }
        ensure!(status.contains("NoNewPrivs:\t1"), "{name} may gain privileges");
        if !privilege::in_user_namespace() {
            ensure!(
                status.contains("Uid:\t65534\t65534\t65534\t65534"),
                "{name} is not nobody: {status}"
            );
        }
    }
    Ok(())
}

/// What a lab leaves that was killed with SIGKILL is gone after a sweep; this lab stays.
pub(crate) async fn killed_lab_is_swept(story: Story) -> Result<()> {
    if privilege::in_user_namespace() {
        // The kernel takes everything away with the last process of the namespace.
        return Ok(());
    }
    swept_after_kill("bare::three_nodes_are_ready", |lab| {
        lab.path.join("kubernetes/etcd").is_dir()
    })
    .await?;
    three_nodes_are_ready(story).await
}

/// Plays a scenario in a process of its own, kills that as soon as its lab is `begun`, and sweeps: nothing is left.
pub(crate) async fn swept_after_kill(scenario: &str, begun: impl Fn(&run_dir::Living) -> bool) -> Result<()> {
    let mut other = Command::new(std::env::current_exe()?)
        .args(["--exact", scenario])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = i32::try_from(other.id())?;
    let started = wait_until("another lab to begin", PATIENCE, async || {
        let lab = run_dir::list()?
            .into_iter()
            .find(|lab| lab.pid == Some(pid))
            .context("no lab")?;
        let running = begun(&lab);
        running.then_some(lab).ok_or_else(|| anyhow!("it has not"))
    })
    .await;
    other.kill()?;
    other.wait()?;
    let lab = started?;
    let prefix = format!("flb{}-", lab.id);
    ensure!(
        !namespaces(&prefix)?.is_empty(),
        "the killed lab has left nothing to sweep"
    );
    // A child that was just being started holds the lab's lock, until it too is gone.
    wait_until("nothing to be left of the killed lab", PATIENCE, async || {
        run_dir::sweep()?;
        let left = (namespaces(&prefix)?, realnode::remains(lab.id));
        ensure!(
            left.0.is_empty() && left.1.is_empty() && !lab.path.exists(),
            "left: {left:?}"
        );
        Ok(())
    })
    .await
}

fn namespaces(prefix: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/run/netns")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            found.push(name);
        }
    }
    Ok(found)
}

/// Succeeds when kube-proxy of `to` answers `from`.
async fn reach(from: &Host, to: &Host) -> Result<()> {
    let (namespace, address) = (
        from.namespace().clone(),
        SocketAddr::new(to.address(), PROXY_HEALTH_PORT),
    );
    match tokio::task::spawn_blocking(move || http_get(&namespace, address, "/healthz")).await?? {
        // 503 is an answer, too: a node about to be drained says so.
        (200 | 503, _) => Ok(()),
        (status, body) => bail!("{status}: {body}"),
    }
}
