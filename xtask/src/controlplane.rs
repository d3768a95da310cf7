//! `xtask controlplane`: builds Kubernetes for the lab, unless it is in the cache.

use anyhow::Result;
use ferrolb_controlplane::{Program, Programs};

#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(Args {}: &Args) -> Result<()> {
    let programs = Programs::obtain(&mut |line| println!("{line}"))?;
    println!(
        "the lab's Kubernetes is ready: {}",
        programs.invocation(Program::ApiServer).0.display()
    );
    Ok(())
}
