//! A node of the cluster, and what a scenario may do to it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use ferrolb_controlplane::User;

use super::shared::Shared;
use crate::kubelet::{self, Kubelet, images::Images};
use crate::net::{Host, node::PodNetwork};
use crate::process::Process;

/// A program of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The stand-in for the kubelet: the node's voice towards the API server.
    Kubelet,
    /// kube-proxy.
    Proxy,
    /// FerroLB's speaker.
    Speaker,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    host: Host,
    pods: PodNetwork,
    kubelet: Mutex<Power>,
    proxy: OnceLock<Process>,
    speaker: OnceLock<Process>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Power {
    config: kubelet::Config,
    running: Option<Kubelet>,
}

impl Node {
    /// Starts the kubelet of a host whose network is that of a node.
    pub(super) fn start(shared: Arc<Shared>, host: Host, pods: PodNetwork) -> Result<Self> {
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
        let running = Kubelet::start(config.clone())?;
        Ok(Self {
            host,
            pods,
            kubelet: Mutex::new(Power {
                config,
                running: Some(running),
            }),
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

    fn power(&self) -> MutexGuard<'_, Power> {
        self.kubelet.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The process of a program.
    ///
    /// # Errors
    /// For the kubelet, which is a thread, and for a program that was never started.
    pub fn program(&self, program: Program) -> Result<&Process> {
        let process = match program {
            Program::Kubelet => None,
            Program::Proxy => self.proxy.get(),
            Program::Speaker => self.speaker.get(),
        };
        process.with_context(|| format!("there is no process {program:?} of {}", self.name()))
    }

    /// All processes of the node, its pods apart.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
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
        if program != Program::Kubelet {
            return self.program(program)?.freeze();
        }
        if let Some(kubelet) = &self.power().running {
            kubelet.freeze();
        }
        Ok(())
    }

    /// Undoes [`Node::freeze`].
    pub fn thaw(&self, program: Program) -> Result<()> {
        if program != Program::Kubelet {
            return self.program(program)?.thaw();
        }
        if let Some(kubelet) = &self.power().running {
            kubelet.thaw();
        }
        Ok(())
    }

    /// Kills a program without warning. With the kubelet its pods die.
    pub fn kill(&self, program: Program) -> Result<()> {
        if program == Program::Kubelet {
            self.power().running = None;
            return Ok(());
        }
        self.program(program)?.kill();
        Ok(())
    }

    /// Starts a program anew, killing it first if it still runs.
    pub fn restart(&self, program: Program) -> Result<()> {
        if program != Program::Kubelet {
            return self.program(program)?.restart();
        }
        let mut power = self.power();
        power.running = None;
        power.running = Some(Kubelet::start(power.config.clone())?);
        Ok(())
    }

    /// Cuts the power: the cable is dead and every program and pod of the node gone, at once.
    pub fn power_off(&self) -> Result<()> {
        self.cut_link()?;
        self.processes().for_each(Process::kill);
        self.kill(Program::Kubelet)
    }

    /// Boots the node after [`Node::power_off`].
    pub fn power_on(&self) -> Result<()> {
        self.restore_link()?;
        self.restart(Program::Kubelet)?;
        [&self.proxy, &self.speaker]
            .into_iter()
            .filter_map(OnceLock::get)
            .try_for_each(Process::restart)
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
