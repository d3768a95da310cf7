//! A cluster that stays: kept by a process in the background until somebody takes it down.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::Families;
use crate::run_dir::{self, Living};
use crate::{Lab, Setup, privilege};

/// The line that ends what [`keep`] writes: the cluster is up, nothing more will be said.
pub const READY: &str = "-- ready --";

/// The file of the run directory that says a lab is of this kind, and how it was made.
const MARK: &str = "interactive";

/// How long a lab may take to go after SIGTERM.
const FAREWELL: Duration = Duration::from_secs(30);

/// Starts a cluster, tells `out` how to use it, then [`READY`], and keeps it until the process is ended by a signal.
/// Call it first thing in `main`.
///
/// # Errors
/// When the cluster does not come up, or nobody reads `out` any more.
pub fn keep(setup: Setup, out: &mut dyn Write) -> Result<()> {
    privilege::acquire()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let start = Instant::now();
    let mut abandoned = false;
    let mut report = |line: &str| abandoned |= writeln!(out, "{line}").and_then(|()| out.flush()).is_err();
    let lab = runtime.block_on(Lab::start_reporting(setup, &mut report))?;
    if abandoned {
        bail!("whoever asked for the cluster has gone");
    }
    fs::write(lab.run_dir().join(MARK), lab.log_dir().display().to_string()).context("mark the lab")?;
    let told = write!(out, "{}\n{READY}\n", manual(&lab, start.elapsed()));
    told.and_then(|()| out.flush()).context("tell about the cluster")?;
    loop {
        std::thread::park();
    }
}

/// Whether the lab is one that [`keep`] keeps.
pub fn is_interactive(lab: &Living) -> bool {
    lab.path.join(MARK).exists()
}

/// Where the logs of a lab that [`keep`] keeps are.
pub fn log_dir(lab: &Living) -> Option<String> {
    fs::read_to_string(lab.path.join(MARK)).ok()
}

/// Ends a lab's process and waits until nothing is left of the lab.
pub fn take_down(lab: &Living) -> Result<()> {
    let pid = lab
        .pid
        .map(Pid::from_raw)
        .with_context(|| format!("the owner of lab {} is unknown", lab.id))?;
    let start = Instant::now();
    signal(pid, Signal::SIGTERM)?;
    while is_living(lab)? {
        if start.elapsed() > FAREWELL {
            signal(pid, Signal::SIGKILL)?;
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    run_dir::sweep()
}

fn is_living(lab: &Living) -> Result<bool> {
    Ok(run_dir::list()?
        .iter()
        .any(|other| other.id == lab.id && other.pid == lab.pid))
}

fn signal(pid: Pid, signal: Signal) -> Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{signal} to process {pid}")),
    }
}

/// How to use the cluster.
fn manual(lab: &Lab, time: Duration) -> String {
    let setup = lab.setup();
    let prefix = format!("flb{}-", lab.id());
    let families = setup.families.join("IPv4", "IPv6").replace(',', " and ");
    let pools = setup
        .families
        .join("172.30.0.100-172.30.0.199", "fd00:30::100-fd00:30::1ff")
        .replace(',', ", ");
    let nodes: Vec<String> = lab
        .nodes()
        .iter()
        .map(|node| format!("{prefix}{}", node.name()))
        .collect();
    let page = if setup.families == Families::V6 {
        "[fd00:30::100]"
    } else {
        "172.30.0.100"
    };
    let enter = match privilege::in_user_namespace() {
        true => format!(
            "nsenter --preserve-credentials -U -n -m -t {} -- ip netns exec",
            std::process::id()
        ),
        false => "ip netns exec".to_owned(),
    };
    let (id, kubeconfig, logs) = (lab.id(), lab.kubeconfig(), lab.log_dir().display());
    let kubectl = lab.run_dir().join("kubectl");
    let state = if setup.ferrolb {
        "with FerroLB"
    } else {
        "without FerroLB"
    };
    format!(
        "lab {id}: {} node(s), kube-proxy in {} mode, {families}, {state}; up in {:.1} s\n\
         \n  export KUBECONFIG={}\
         \n  kubectl          {} get nodes\
         \n  free for pools   {pools}\
         \n  control plane    {prefix}cp\
         \n  nodes            {}\
         \n  the LAN's bridge {prefix}lan\
         \n  a client         {enter} {prefix}client curl http://{page}/\
         \n  logs             {logs}\
         \n  take it down     cargo xtask lab down {id}\n",
        setup.nodes,
        setup.proxy.name(),
        time.as_secs_f32(),
        kubeconfig.display(),
        kubectl.display(),
        nodes.join(" "),
    )
}
