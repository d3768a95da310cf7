//! A stand-in for the kubelet: it keeps the promises of a node to the API server and runs pods as processes.
//!
//! [`Kubelet`] is the seam behind which a node with a real kubelet and container runtime can take its place: a node is
//! started, stopped (its power is cut), frozen and thawed, and everything else about it is seen through the API
//! server alone.
//!
//! What it does, as `system:node:NAME` under the Node authorizer and NodeRestriction: it registers the Node, renews
//! its Lease every second, and runs the pods bound to it: a network namespace per pod behind `cni0`, a process per
//! container ([`images`] says which), restarts, probes, status, graceful deletion. ReplicaSets, readiness in
//! EndpointSlices, NotReady, eviction are the real controllers' work on top of that.
//!
//! All its traffic, probes too, leaves from the node's network namespace, because the thread it runs on is inside: cut
//! the node off, and the stand-in is cut off with it, while its pods run on.
//!
//! What it has not: logs and exec through the API server, secrets and projected tokens (their directories are empty),
//! changes of a ConfigMap after the pod has started, resource limits, users, host ports.

mod agent;
mod container;
mod environment;
pub mod images;
mod network;
mod node;
mod pod;
mod probe;
mod status;
mod volumes;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use tokio::sync::mpsc as async_mpsc;

use crate::net::Namespace;
use crate::net::node::PodNetwork;
use images::Images;

/// What a node is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name in the cluster.
    pub name: String,
    /// The node's network namespace, with `cni0` in it. Pods' namespaces take its name as the beginning of theirs.
    pub namespace: Namespace,
    /// The node's addresses, the preferred family first.
    pub addresses: Vec<IpAddr>,
    /// Where the pods' addresses come from.
    pub pods: PodNetwork,
    /// How to reach the API server from inside the namespace, as the user `system:node:NAME`.
    pub kubeconfig: PathBuf,
    /// The lab's run directory: the node keeps its pods' files below it.
    pub run_dir: PathBuf,
    /// Where the containers' logs go.
    pub log_dir: PathBuf,
    /// Labels of the Node beyond host name, operating system and architecture.
    pub labels: BTreeMap<String, String>,
    /// What images there are.
    pub images: Images,
}

enum Control {
    /// Block until the sender of the second channel is gone.
    Freeze(mpsc::Sender<()>, mpsc::Receiver<()>),
    Stop,
}

/// A node's agent while it runs. Dropping it cuts the node's power: its pods die, the API server is told nothing.
#[derive(Debug)]
pub struct Kubelet {
    config: Config,
    control: async_mpsc::UnboundedSender<Control>,
    frozen: Mutex<Option<mpsc::Sender<()>>>,
    thread: Option<JoinHandle<()>>,
}

impl Kubelet {
    /// Starts the agent. It registers the node as soon as it reaches the API server, however long that takes.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the kubeconfig cannot be used.
    pub fn start(config: Config) -> Result<Self> {
        let (control, commands) = async_mpsc::unbounded_channel();
        let (report, started) = mpsc::channel();
        let inner = config.clone();
        let thread = std::thread::Builder::new()
            .name(format!("kubelet-{}", config.name))
            .spawn(move || run(inner, commands, &report))
            .context("start the kubelet's thread")?;
        started
            .recv()
            .map_err(|_| anyhow!("the kubelet of {} ended at once", config.name))??;
        Ok(Self {
            config,
            control,
            frozen: Mutex::new(None),
            thread: Some(thread),
        })
    }

    /// What the node was started as; to start it again after [`Kubelet::stop`].
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Stops the agent without a farewell while its pods run on; waits until it stands still. Twice is once.
    pub fn freeze(&self) {
        let mut frozen = self.frozen.lock().unwrap_or_else(PoisonError::into_inner);
        if frozen.is_some() {
            return;
        }
        let (acknowledge, standing) = mpsc::channel();
        let (thaw, wait) = mpsc::channel();
        if self.control.send(Control::Freeze(acknowledge, wait)).is_ok() {
            // An error means that the thread has ended, which is standing still, too.
            let _ = standing.recv();
        }
        *frozen = Some(thaw);
    }

    /// Undoes [`Kubelet::freeze`].
    pub fn thaw(&self) {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Cuts the node's power: agent and pods are gone when this returns, and the API server has heard nothing.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        // It cannot receive while it stands still.
        self.thaw();
        // Fails only when the thread has ended already.
        let _ = self.control.send(Control::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(node = self.config.name, "the kubelet's thread has panicked");
        }
    }
}

/// The agent's thread: one runtime inside the node's network namespace.
fn run(config: Config, commands: async_mpsc::UnboundedReceiver<Control>, report: &mpsc::Sender<Result<()>>) {
    let runtime = setns(config.namespace.fd(), CloneFlags::CLONE_NEWNET)
        .context("enter the node's network namespace")
        .and_then(|()| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("start the kubelet's runtime")
        });
    let (runtime, log) = match runtime.and_then(|runtime| Ok((runtime, open_log(&config)?))) {
        Ok(ready) => ready,
        Err(error) => {
            // The receiver waits for exactly this.
            let _ = report.send(Err(error));
            return;
        }
    };
    let _log = tracing::subscriber::set_default(log);
    runtime.block_on(async {
        let context = match agent::Context::new(config).await {
            Ok(context) => context,
            Err(error) => {
                let _ = report.send(Err(error));
                return;
            }
        };
        let _ = report.send(Ok(()));
        tokio::select! {
            () = obey(commands) => {}
            () = agent::run(context) => {}
        }
    });
}

/// What the thread of the agent logs goes to `kubelet-<node>.log`.
fn open_log(config: &Config) -> Result<impl tracing::Subscriber + Send + Sync + use<>> {
    let path = config.log_dir.join(format!("kubelet-{}.log", config.name));
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    Ok(tracing_subscriber::fmt()
        .with_env_filter("warn,ferrolb_lab=debug")
        .with_ansi(false)
        .with_writer(Mutex::new(file))
        .finish())
}

/// Carries out commands until the one to stop.
async fn obey(mut commands: async_mpsc::UnboundedReceiver<Control>) {
    while let Some(Control::Freeze(acknowledge, thaw)) = commands.recv().await {
        let _ = acknowledge.send(());
        // Blocks the only thread of the runtime, on purpose: nothing of the agent moves.
        let _ = thaw.recv();
    }
}
