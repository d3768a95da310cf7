//! `xtask controlplane`: builds Kubernetes for the lab, and MetalLB and Helm where they are wanted, unless they are in the cache,
//! and says where they are and how long it took, so that a test run can show this step apart.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use ferrolb_controlplane::{KUBERNETES_VERSION, METALLB_VERSION, Metallb, Program, Programs};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build MetalLB as well, which scenarios move in from.
    #[arg(long)]
    metallb: bool,
    /// Build Helm as well, which renders the chart.
    #[arg(long)]
    helm: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    // A reader that has gone away does not stop the build; the last line tells.
    let mut report = |line: &str| drop(writeln!(std::io::stdout(), "{line}"));
    let start = Instant::now();
    let programs = Programs::obtain(&mut report)?;
    ready(
        &format!("Kubernetes {KUBERNETES_VERSION}"),
        start,
        &programs.invocation(Program::ApiServer).0,
    )?;
    if args.metallb {
        let start = Instant::now();
        let metallb = Metallb::obtain(&mut report)?;
        ready(&format!("MetalLB {METALLB_VERSION}"), start, &metallb.speaker)?;
    }
    if args.helm {
        let start = Instant::now();
        let helm = ferrolb_controlplane::helm(&mut report)?;
        ready("Helm", start, &helm)?;
    }
    Ok(())
}

fn ready(what: &str, start: Instant, executable: &Path) -> Result<()> {
    writeln!(
        std::io::stdout(),
        "{what} is ready after {:.1} s: {}",
        start.elapsed().as_secs_f32(),
        executable.display()
    )?;
    Ok(())
}
