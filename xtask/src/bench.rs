//! `xtask bench`: FerroLB measured in a real cluster on this machine. Figures are the machine's; what they are compared
//! with is measured in the same run.

mod addresses;
mod allocation;
mod bgp;
mod figures;
mod first_service;
mod install;
pub(crate) mod l2;
mod memory;

use anyhow::{Context, Result};
use clap::Subcommand;
use ferrolb_controlplane::KUBERNETES_VERSION;
use tokio::runtime::{Builder, Runtime};

use crate::{image, repository};

pub(crate) use l2::keepalived;

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
    /// Prefixes, changes, memory, restarts and lost nodes, beside FRR and a bare driver.
    Bgp(bgp::Args),
    /// Installed, upgraded and hurt on nodes with a real kubelet: first page, rollouts, memory in the pod.
    Install(install::Args),
    /// Nodes and speakers that fail, planned moves, upgrades: how long clients wait, beside keepalived.
    L2(l2::Args),
    /// What both programs hold in memory, with as many Services and nodes as you like, none of them real.
    Memory(memory::Args),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    // Which takes whole images, as they were made.
    if !matches!(args.what, What::Install(_)) {
        image::measure_shipped()?;
    }
    match &args.what {
        What::Allocation(args) => allocation::run(args),
        What::Bgp(args) => bgp::run(args),
        What::FirstService(args) => first_service::run(args),
        What::Install(args) => install::run(args),
        What::L2(args) => l2::run(args),
        What::Memory(args) => memory::run(args),
    }
}

/// Progress goes to standard error, so that standard output is the table alone.
fn progress(text: &str) {
    eprintln!("bench: {text}");
}

pub(crate) fn runtime() -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().build().context("start a runtime")
}

/// A pool of these addresses that is announced everywhere.
pub(crate) fn pool(addresses: &str) -> String {
    format!(
        r#"apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {{ name: bench, namespace: ferrolb-system }}
spec: {{ addresses: [{addresses}] }}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {{ name: bench, namespace: ferrolb-system }}
spec: {{ ipAddressPools: [bench] }}
"#
    )
}

/// Where it was measured; `cluster` says what is in the cluster.
pub(crate) fn footer(cluster: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (load, kernel) = (read("/proc/loadavg"), read("/proc/sys/kernel/osrelease"));
    let programs = match std::env::var_os("FERROLB_BIN_DIR") {
        Some(_) => "programs from elsewhere",
        None => "programs as images hold them",
    };
    let build = if cfg!(debug_assertions) {
        "unoptimised"
    } else {
        "optimised"
    };
    format!(
        "Kubernetes {KUBERNETES_VERSION}, {cluster}, {programs}, all on {cores} cores, Linux {}; the bench itself is \
         {build}; load at the end {}.",
        kernel.trim(),
        load.split_whitespace().next().unwrap_or("unknown")
    )
}

/// Shows what came out, and keeps it in `target/bench/<name>.md`.
pub(crate) fn publish(name: &str, text: &str) -> Result<()> {
    println!("{text}");
    let folder = repository().join("target/bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let path = folder.join(format!("{name}.md"));
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}
