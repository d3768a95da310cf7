//! `xtask bench`: FerroLB measured in a real cluster on this machine. Figures are the machine's; what they are compared
//! with is measured in the same run.

mod allocation;
mod figures;
mod first_service;

use anyhow::Result;
use clap::Subcommand;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Bursts of Services beside a bare client that writes the same; restart, memory, writes per Service.
    Allocation(allocation::Args),
    /// From a Service's creation to its address and its first page; memory, idle CPU time, size of the programs.
    FirstService(first_service::Args),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Allocation(args) => allocation::run(args),
        What::FirstService(args) => first_service::run(args),
    }
}
