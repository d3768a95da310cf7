//! A node of the cluster, and what a scenario may do to it.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ferrolb_controlplane::User;
use nix::sys::signal::Signal;

use super::NodeKind;
use super::shared::Shared;
use crate::kubelet::images::{Images, built_lab_pod};
use crate::kubelet::{self, Kubelet};
use crate::net::{Host, node::PodNetwork};
use crate::process::Process;
use crate::realnode::{self, RealNode, Service};

/// A program of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The kubelet or its stand-in: the node's voice towards the API server.
    Kubelet,
    /// The container runtime, which only real nodes have.
    Runtime,
    /// kube-proxy.
    Proxy,
    /// FerroLB's speaker, on a light node; on a real one it is a pod.
    Speaker,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    host: Host,
    pods: PodNetwork,
    agent: Agent,
    proxy: OnceLock<Process>,
    speaker: OnceLock<Process>,
    shared: Arc<Shared>,
}

/// What runs the node's pods.
#[derive(Debug)]
enum Agent {
    Light(Box<Mutex<Power>>),
    Real(Arc<RealNode>),
}

#[derive(Debug)]
struct Power {
    config: kubelet::Config,
    running: Option<Kubelet>,
}

impl Agent {
    fn light(shared: &Shared, host: &Host, pods: &PodNetwork) -> Result<Self> {
        let name = host.name().to_owned();
        let config = kubelet::Config {
            namespace: host.namespace().clone(),
            addresses: host.addresses(),
            pods: pods.clone(),
            kubeconfig: shared.plane.kubeconfig(&User::Node(name.clone())),
            run_dir: shared.run_dir.path().to_owned(),
            log_dir: shared.log_dir.clone(),
            labels: Default::default(),
            images: Images::built()?,
            name,
        };
        let running = Some(Kubelet::start(config.clone())?);
        Ok(Self::Light(Box::new(Mutex::new(Power { config, running }))))
    }

    fn real(shared: &Shared, host: &Host, pods: &PodNetwork) -> Result<Self> {
        let name = host.name().to_owned();
        let config = realnode::Config {
            namespace: host.namespace().clone(),
            addresses: host.addresses(),
            pods: pods.clone(),
            kubelet: shared.plane.kubelet(),
            kubeconfig: shared.plane.kubeconfig(&User::Node(name.clone())),
            authority: shared.plane.ca_file(),
            lab_pod: built_lab_pod()?,
            run_dir: shared.run_dir.path().to_owned(),
            log_dir: shared.log_dir.clone(),
            name,
        };
        Ok(Self::Real(Arc::new(RealNode::start(&config)?)))
    }
}

impl Node {
    /// Makes a host, whose network is that of a node, a node of the kind that the lab is of. A light one's kubelet starts now.
    pub(super) fn start(shared: Arc<Shared>, host: Host, pods: PodNetwork) -> Result<Self> {
        let agent = match shared.setup.kind {
            NodeKind::Light => Agent::light(&shared, &host, &pods)?,
            NodeKind::Real => Agent::real(&shared, &host, &pods)?,
        };
        Ok(Self {
            host,
            pods,
            agent,
            proxy: OnceLock::new(),
            speaker: OnceLock::new(),
            shared,
        })
    }

    /// Starts kube-proxy, which gives up on a node that is not registered.
    pub(super) fn start_proxy(&self) -> Result<()> {
        let invocation = self.shared.plane.proxy(self.name(), self.shared.setup.proxy);
        let process = self
            .shared
            .start(&format!("kube-proxy-{}", self.name()), &self.host, invocation)?;
        self.proxy.set(process).ok().context("kube-proxy is started once")
    }

    /// Takes note of the speaker that was started here.
    pub(super) fn set_speaker(&self, process: Process) -> Result<()> {
        self.speaker.set(process).ok().context("the speaker is started once")
    }

    /// The node's name in the cluster.
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// The node's place on the LAN.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The node's pod ranges.
    pub fn pods(&self) -> &PodNetwork {
        &self.pods
    }

    /// The node, if it is a real one.
    fn real(&self) -> Result<&Arc<RealNode>> {
        match &self.agent {
            Agent::Real(real) => Ok(real),
            Agent::Light(_) => bail!("{} is a light node", self.name()),
        }
    }

    /// Does what takes a while with a real node, on a thread for such things.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&RealNode) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let real = self.real()?.clone();
        tokio::task::spawn_blocking(move || work(&real)).await?
    }

    /// Imports an image from an OCI archive into the runtime of a real node.
    pub async fn import_image(&self, archive: &Path) -> Result<()> {
        let archive = archive.to_owned();
        self.blocking(move |real| real.import(&archive)).await
    }

    /// Gives an image of a real node another name as well; both in full, as in `docker.io/ferrolb/ferrolb-speaker:v0.1.0`.
    pub async fn tag_image(&self, image: &str, name: &str) -> Result<()> {
        let (image, name) = (image.to_owned(), name.to_owned());
        self.blocking(move |real| real.tag(&image, &name)).await
    }

    /// The ids of the processes on a real node, in pods or not, whose program's file is called so.
    pub fn processes_called(&self, program: &str) -> Result<Vec<i32>> {
        Ok(self.real()?.processes(program))
    }

    /// The process of a program.
    ///
    /// # Errors
    /// For what runs inside of a real node, for the kubelet of a light one, which is a thread, and for a program that was never
    /// started.
    pub fn program(&self, program: Program) -> Result<&Process> {
        let process = match program {
            Program::Kubelet | Program::Runtime => None,
            Program::Proxy => self.proxy.get(),
            Program::Speaker => self.speaker.get(),
        };
        process.with_context(|| format!("there is no process {program:?} of {}", self.name()))
    }

    /// All processes of the node, its pods apart; a real node is one, with everything that runs inside.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let machine = match &self.agent {
            Agent::Real(real) => Some(real.machine()),
            Agent::Light(_) => None,
        };
        self.outside().chain(machine)
    }

    /// The processes that the lab itself runs on the node.
    fn outside(&self) -> impl Iterator<Item = &Process> {
        [&self.proxy, &self.speaker].into_iter().filter_map(OnceLock::get)
    }

    /// Takes the network cable out: `eth0` loses its carrier. Pods and processes run on.
    pub fn cut_link(&self) -> Result<()> {
        self.shared.lan.unplug(&self.host)
    }

    /// Cuts the node off from the LAN while its `eth0` keeps the carrier, as a fault deeper in the network does.
    pub fn isolate(&self) -> Result<()> {
        self.shared.lan.isolate(&self.host)
    }

    /// Undoes [`Node::cut_link`] and [`Node::isolate`].
    pub fn restore_link(&self) -> Result<()> {
        self.shared.lan.plug(&self.host)
    }

    /// Cuts the node off from the control plane's host alone: what it sends there is never answered.
    pub fn cut_api(&self) -> Result<()> {
        self.routes_at_the_control_plane("replace")
    }

    /// Undoes [`Node::cut_api`].
    pub fn restore_api(&self) -> Result<()> {
        self.routes_at_the_control_plane("del")
    }

    /// The answers are what gets lost, at the control plane, so that the node sees silence rather than an error.
    fn routes_at_the_control_plane(&self, verb: &str) -> Result<()> {
        let batch: String = self
            .host
            .addresses()
            .iter()
            .map(|address| format!("route {verb} blackhole {address}\n"))
            .collect();
        self.shared.control_host.namespace().ip(&batch)
    }

    /// Stops a program in its tracks; it is alive and says nothing until [`Node::thaw`].
    pub fn freeze(&self, program: Program) -> Result<()> {
        match (&self.agent, program) {
            (Agent::Real(real), Program::Kubelet) => real.signal(Service::Kubelet, Signal::SIGSTOP),
            (Agent::Real(real), Program::Runtime) => real.signal(Service::Runtime, Signal::SIGSTOP),
            (Agent::Light(power), Program::Kubelet) => {
                lock(power).running.iter().for_each(Kubelet::freeze);
                Ok(())
            }
            _ => self.program(program)?.freeze(),
        }
    }

    /// Undoes [`Node::freeze`].
    pub fn thaw(&self, program: Program) -> Result<()> {
        match (&self.agent, program) {
            (Agent::Real(real), Program::Kubelet) => real.signal(Service::Kubelet, Signal::SIGCONT),
            (Agent::Real(real), Program::Runtime) => real.signal(Service::Runtime, Signal::SIGCONT),
            (Agent::Light(power), Program::Kubelet) => {
                lock(power).running.iter().for_each(Kubelet::thaw);
                Ok(())
            }
            _ => self.program(program)?.thaw(),
        }
    }

    /// Kills a program without warning. With the kubelet of a light node its pods die; a real node's run on.
    pub fn kill(&self, program: Program) -> Result<()> {
        match (&self.agent, program) {
            (Agent::Real(real), Program::Kubelet) => real.kill(Service::Kubelet)?,
            (Agent::Real(real), Program::Runtime) => real.kill(Service::Runtime)?,
            (Agent::Light(power), Program::Kubelet) => lock(power).running = None,
            _ => self.program(program)?.kill(),
        }
        Ok(())
    }

    /// Starts a program anew, killing it first if it still runs.
    pub fn restart(&self, program: Program) -> Result<()> {
        match (&self.agent, program) {
            (Agent::Real(real), Program::Kubelet) => {
                real.kill(Service::Kubelet)?;
                real.start_service(Service::Kubelet)
            }
            (Agent::Real(real), Program::Runtime) => {
                real.kill(Service::Runtime)?;
                real.start_service(Service::Runtime)?;
                real.wait_runtime()
            }
            (Agent::Light(power), Program::Kubelet) => {
                let mut power = lock(power);
                power.running = None;
                power.running = Some(Kubelet::start(power.config.clone())?);
                Ok(())
            }
            _ => self.program(program)?.restart(),
        }
    }

    /// Cuts the power: the cable is dead and every program and pod of the node gone, at once.
    pub fn power_off(&self) -> Result<()> {
        self.cut_link()?;
        if let Agent::Real(real) = &self.agent {
            real.power_off()?;
        }
        self.outside().for_each(Process::kill);
        match &self.agent {
            Agent::Real(_) => Ok(()),
            Agent::Light(_) => self.kill(Program::Kubelet),
        }
    }

    /// Boots the node after [`Node::power_off`]; a real one with the same disk.
    pub fn power_on(&self) -> Result<()> {
        self.restore_link()?;
        match &self.agent {
            Agent::Real(real) => real.power_on()?,
            Agent::Light(_) => self.restart(Program::Kubelet)?,
        }
        self.outside().try_for_each(Process::restart)
    }

    /// Sets a label of the Node object, or removes it.
    pub async fn label(&self, key: &str, value: Option<&str>) -> Result<()> {
        let change = value.map_or_else(|| format!("{key}-"), |value| format!("{key}={value}"));
        self.kubectl(&["label", "node", self.name(), "--overwrite", &change])
            .await
    }

    /// `kubectl drain`: cordons the node and evicts its pods.
    pub async fn drain(&self, timeout: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", timeout.as_secs().max(1));
        let options = ["--ignore-daemonsets", "--force", "--delete-emptydir-data"];
        self.kubectl(&[["drain", self.name(), &timeout].as_slice(), &options].concat())
            .await
    }

    /// `kubectl uncordon`.
    pub async fn uncordon(&self) -> Result<()> {
        self.kubectl(&["uncordon", self.name()]).await
    }

    async fn kubectl(&self, args: &[&str]) -> Result<()> {
        self.shared.kubectl.run(args, "").await.map(drop)
    }
}

fn lock(power: &Mutex<Power>) -> MutexGuard<'_, Power> {
    power.lock().unwrap_or_else(PoisonError::into_inner)
}
