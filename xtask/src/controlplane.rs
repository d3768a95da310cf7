//! `xtask controlplane`: builds Kubernetes for the lab, unless it is in the cache, and says where it is and how long it
//! took, so that a test run can show this step apart.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use ferrolb_controlplane::{KUBERNETES_VERSION, Program, Programs};

#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(Args {}: &Args) -> Result<()> {
    let start = Instant::now();
    // A reader that has gone away does not stop the build; the last line tells.
    let programs = Programs::obtain(&mut |line| drop(writeln!(std::io::stdout(), "{line}")))?;
    let executable = programs.invocation(Program::ApiServer).0;
    writeln!(
        std::io::stdout(),
        "Kubernetes {KUBERNETES_VERSION} for the lab is ready after {:.1} s: {}",
        start.elapsed().as_secs_f32(),
        executable.display()
    )?;
    Ok(())
}
