//! One cluster: made, acted on, asked, taken down.
//!
//! ```no_run
//! # async fn story() -> anyhow::Result<()> {
//! use ferrolb_lab::{Lab, Setup};
//! let lab = Lab::start(Setup::named("failover")).await?;
//! lab.apply("default", include_str!("../../../../deploy/base/00-namespace.yaml")).await?;
//! lab.node("node-1")?.power_off()?;
//! # Ok(()) }
//! ```
//!
//! A [`Lab`] owns every process and namespace it made; dropping it takes them away. Only its logs stay.

mod boot;
mod ferrolb;
mod kubectl;
mod node;
mod report;
mod setup;
mod shared;
mod verbs;
mod wait;

pub use ferrolb::{ADMIN_PORT, NAMESPACE, binary, programs_are_in};
pub use kubectl::Kubectl;
pub use node::{Node, Program};
pub use setup::{NodeKind, Setup};
pub use verbs::EventLine;
pub use wait::{ensure_seen, wait_until};

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrolb_controlplane::{Authority, Programs};
use kube::Client;

use crate::net::{Host, Lan};
use crate::process::{Process, Spec};
use crate::{interrupt, privilege};
use boot::Control;
use shared::Shared;

/// A running cluster.
#[derive(Debug)]
pub struct Lab {
    client: DebugClient,
    nodes: Vec<Node>,
    controllers: Vec<Process>,
    control: Control,
    extra: Mutex<Vec<Process>>,
    startup: Vec<(&'static str, Duration)>,
    // Last: the namespaces go when it is dropped.
    shared: Arc<Shared>,
}

/// A client, which has no Debug of its own.
struct DebugClient(Client);

impl std::fmt::Debug for DebugClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Client")
    }
}

impl Lab {
    /// Starts a cluster and waits until it is ready for pods, and FerroLB for Services. Progress of a first build of
    /// Kubernetes goes to standard error.
    ///
    /// # Errors
    /// When something does not come up; the message ends with where the logs are.
    pub async fn start(setup: Setup) -> Result<Self> {
        Self::start_reporting(setup, &mut |line| eprintln!("{line}")).await
    }

    /// Like [`Lab::start`], with progress told to `report`.
    pub async fn start_reporting(setup: Setup, report: &mut dyn FnMut(&str)) -> Result<Self> {
        privilege::acquire()?;
        interrupt::install()?;
        // An error means that somebody has chosen a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let programs = Programs::obtain(report)?;
        let mut clock = Clock::new();
        let shared = Arc::new(Shared::prepare(setup, programs)?);
        clock.lap("network");
        let outcome = Self::bring_up(shared.clone(), clock).await;
        outcome.with_context(|| report::of_start(&shared.setup.name, &shared.log_dir))
    }

    async fn bring_up(shared: Arc<Shared>, mut clock: Clock) -> Result<Self> {
        let client = shared.admin_client().await?;
        let control = Control::start(&shared, &client).await?;
        clock.lap("control plane");
        let nodes = boot::start_nodes(&shared)?;
        let controllers = match shared.setup.kind {
            NodeKind::Light => Self::finish_light(&shared, &client, &nodes).await?,
            NodeKind::Real => {
                Self::finish_real(&shared, &client, &nodes).await?;
                Vec::new()
            }
        };
        clock.lap("nodes and FerroLB");
        let extra = Mutex::default();
        Ok(Self {
            client: DebugClient(client),
            nodes,
            controllers,
            control,
            extra,
            startup: clock.laps,
            shared,
        })
    }

    /// Makes light nodes ready, and FerroLB's processes at the same time; returns the controllers.
    async fn finish_light(shared: &Arc<Shared>, client: &Client, nodes: &[Node]) -> Result<Vec<Process>> {
        let ferrolb = async {
            if !shared.setup.ferrolb {
                return Ok(Vec::new());
            }
            let controllers = ferrolb::start(shared, client, nodes).await?;
            ferrolb::wait_ready(shared, &controllers, nodes).await?;
            Ok(controllers)
        };
        let (controllers, ()) = tokio::try_join!(ferrolb, boot::finish_nodes(client, nodes))?;
        Ok(controllers)
    }

    /// Makes real nodes ready, then FerroLB's pods.
    async fn finish_real(shared: &Arc<Shared>, client: &Client, nodes: &[Node]) -> Result<()> {
        boot::start_kubelets(shared, nodes).await?;
        boot::finish_nodes(client, nodes).await?;
        if shared.setup.ferrolb {
            ferrolb::deploy(shared).await?;
        }
        Ok(())
    }

    /// How long each step of the start took.
    pub fn startup(&self) -> &[(&'static str, Duration)] {
        &self.startup
    }

    /// What the lab was asked to be.
    pub fn setup(&self) -> &Setup {
        &self.shared.setup
    }

    /// The number of the lab on this machine; its namespaces are called `flb<id>-...`.
    pub fn id(&self) -> u32 {
        self.shared.run_dir.id()
    }

    /// The directory of the lab's files, gone with the lab. The script `kubectl` in it works from outside.
    pub fn run_dir(&self) -> &Path {
        self.shared.run_dir.path()
    }

    /// Where the logs are; they stay.
    pub fn log_dir(&self) -> &Path {
        &self.shared.log_dir
    }

    /// An administrator's kubeconfig for use from outside.
    pub fn kubeconfig(&self) -> PathBuf {
        self.shared.kubeconfig()
    }

    /// The authority that signs the control plane's certificates, whose files lie in the folder `kubernetes` of
    /// [`Lab::run_dir`].
    pub fn authority(&self) -> &Authority {
        self.shared.plane.authority()
    }

    /// A client with all rights, through the forwarder: faults on the LAN do not touch it.
    pub fn client(&self) -> Client {
        self.client.0.clone()
    }

    /// The LAN.
    pub fn lan(&self) -> &Lan {
        &self.shared.lan
    }

    /// The host on which etcd, the API server and FerroLB's controller run.
    pub fn control_plane(&self) -> &Host {
        &self.shared.control_host
    }

    /// The host of a client on the LAN, outside of the cluster.
    pub fn client_host(&self) -> &Host {
        &self.shared.client_host
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .with_context(|| format!("the lab has no node {name}"))
    }

    /// The executable of one of FerroLB's programs.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn binary(&self, name: &str) -> Result<PathBuf> {
        ferrolb::binary(name)
    }

    /// FerroLB's controller; the first, where there are several.
    ///
    /// # Panics
    /// When the lab was made without FerroLB.
    pub fn controller(&self) -> &Process {
        self.controllers.first().expect("the lab runs FerroLB")
    }

    /// FerroLB's controllers.
    pub fn controllers(&self) -> &[Process] {
        &self.controllers
    }

    /// The API server; after a restart wait with [`Lab::wait_api_ready`].
    pub fn api_server(&self) -> &Process {
        &self.control.api_server
    }

    /// The controller manager.
    pub fn controller_manager(&self) -> &Process {
        &self.control.controller_manager
    }

    /// Every process of the lab, those started by [`Lab::start_process`] too.
    pub fn processes(&self) -> Vec<Process> {
        let control = &self.control;
        let mut all: Vec<Process> = [
            &control.etcd,
            &control.api_server,
            &control.controller_manager,
            &control.scheduler,
        ]
        .map(Clone::clone)
        .into();
        all.extend(self.controllers.iter().cloned());
        for node in &self.nodes {
            all.extend(node.processes().cloned());
        }
        all.extend(
            self.extra
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .iter()
                .cloned(),
        );
        all
    }

    /// Adds a host to the LAN; see [`crate::net::Host`] for what `number` means. Free are 20 to 99 past the nodes, and
    /// 200 to 254.
    pub fn add_host(&self, name: &str, number: u8) -> Result<Host> {
        self.shared.lan.add_host(name, number)
    }

    /// How to start a program on a host of the lab, logging to `<name>.log` beside the other logs.
    pub fn spec(&self, name: &str, program: impl AsRef<Path>, host: &Host) -> Spec {
        self.shared.spec(name, program.as_ref(), host)
    }

    /// Starts a program that lives at most as long as the lab.
    pub fn start_process(&self, spec: Spec) -> Result<Process> {
        let process = Process::start(spec)?;
        self.extra
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .push(process.clone());
        Ok(process)
    }

    /// Where the logs are and how the most telling ones end; for a failed scenario.
    pub fn failure_report(&self) -> String {
        report::of_failure(self)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Before the kubelets, so that nothing reacts to the others' going.
        for process in self.processes() {
            process.kill();
        }
    }
}

/// Laps of the start.
#[derive(Debug)]
struct Clock {
    last: Instant,
    laps: Vec<(&'static str, Duration)>,
}

impl Clock {
    fn new() -> Self {
        Self {
            last: Instant::now(),
            laps: Vec::new(),
        }
    }

    fn lap(&mut self, name: &'static str) {
        self.laps.push((name, self.last.elapsed()));
        self.last = Instant::now();
    }
}
