//! A node with a real kubelet and a real container runtime, in the place of the stand-in of [`crate::kubelet`].
//!
//! The node is a machine of its own as far as a process can tell: network, mount, process, host name, IPC and cgroup
//! namespaces, a root file system that is gone with the power, and a disk that is not (`lab_pod machine` makes the inside).
//! containerd runs pods from images that were imported from files, by runc, behind `cni0`. What the kubelet tells the API
//! server is its own.
//!
//! Everything inside dies with the machine's process 1: that is the power cut. What else there is of a node, its cgroups and its
//! disk, is written down or named so that [`crate::run_dir`] finds it when the lab was killed.

mod ability;
pub(crate) mod cgroups;
mod files;
pub(crate) mod images;

pub use ability::why_not;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ferrolb_controlplane::Invocation;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::Namespace;
use crate::net::node::PodNetwork;
use crate::process::{Process, Spec};

/// Where containerd listens, inside.
const SOCKET: &str = "/run/containerd/containerd.sock";
/// How long a program of the node may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

/// A program of the node that can be stopped and started by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// containerd; its containers run on without it.
    Runtime,
    /// The kubelet; its pods run on without it.
    Kubelet,
}

impl Service {
    /// As it stands in the command line.
    fn program(self) -> &'static str {
        match self {
            Self::Runtime => "containerd",
            Self::Kubelet => "kubelet",
        }
    }

    /// What makes process 1 start it.
    fn start_signal(self) -> Signal {
        match self {
            Self::Runtime => Signal::SIGUSR1,
            Self::Kubelet => Signal::SIGUSR2,
        }
    }
}

/// What a node is made of.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The node's name in the cluster.
    pub(crate) name: String,
    /// The node's network namespace, with `cni0` in it.
    pub(crate) namespace: Namespace,
    /// The node's addresses, the preferred family first.
    pub(crate) addresses: Vec<IpAddr>,
    /// Where the pods' addresses come from.
    pub(crate) pods: PodNetwork,
    /// The kubelet's executable, and the arguments that have to come first.
    pub(crate) kubelet: Invocation,
    /// How the kubelet reaches the API server, as `system:node:NAME`.
    pub(crate) kubeconfig: PathBuf,
    /// The certificate of the cluster's authority.
    pub(crate) authority: PathBuf,
    /// The `lab_pod` executable.
    pub(crate) lab_pod: PathBuf,
    /// The lab's run directory.
    pub(crate) run_dir: PathBuf,
    /// Where the programs' output goes.
    pub(crate) log_dir: PathBuf,
}

/// A node that is on or off. Dropping it cuts its power.
#[derive(Debug)]
pub(crate) struct RealNode {
    name: String,
    machine: Process,
    cgroups: Vec<PathBuf>,
}

impl RealNode {
    /// Makes the node and switches it on: its runtime starts, its kubelet does not yet.
    pub(crate) fn start(config: &Config) -> Result<Self> {
        let name = config.name.clone();
        let directory = config.run_dir.join("nodes").join(&name);
        let (root, settings) = (directory.join("root"), directory.join("settings"));
        let id = config.run_dir.file_name().unwrap_or_default().to_string_lossy();
        let disk = disk(&id).join(&name);
        for path in [&root, &settings, &disk] {
            fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        }
        let services = files::write(config, &settings)?;
        let log = |what: &str| config.log_dir.join(format!("{what}-{name}.log"));
        let service = |what: &str, words: &Path| format!("{}:{}", log(what).display(), words.display());
        let mut args: Vec<OsString> = vec!["machine".into()];
        let mut flag = |name: &str, value: OsString| args.extend([name.into(), value]);
        flag("--hostname", name.clone().into());
        flag("--root", root.into());
        flag("--disk", disk.into());
        for path in [
            &settings,
            &config.kubelet.executable,
            &config.kubeconfig,
            &config.authority,
        ] {
            flag("--share", path.into());
        }
        let cgroups = cgroups::make(&config.run_dir, &name)?;
        for cgroup in &cgroups {
            flag("--cgroup", cgroup.into());
        }
        flag("--service", service("containerd", &services.runtime).into());
        flag("--service", service("kubelet", &services.kubelet).into());
        // Left alone it would follow the lowest of its ports', and every pod that comes or goes could make the gateway's address
        // stale in all the others.
        let pinned = format!("link set cni0 address 02:00:0a:f4:00:{:02x}\n", config.pods.index);
        config.namespace.ip(&pinned)?;
        let spec = Spec::new(format!("machine-{name}"), &config.lab_pod, log("machine"));
        let machine = Process::start(spec.args(args).namespace(&config.namespace))?;
        Ok(Self { name, machine, cgroups })
    }

    /// The process that is the machine to the outside.
    pub(crate) fn machine(&self) -> &Process {
        &self.machine
    }

    /// Waits until the container runtime answers. Blocks.
    pub(crate) fn wait_runtime(&self) -> Result<()> {
        self.patiently("containerd to answer", || {
            let socket = self.socket()?;
            UnixStream::connect(&socket).with_context(|| format!("connect to {}", socket.display()))?;
            Ok(())
        })
    }

    /// Imports an image from an OCI archive. Blocks.
    pub(crate) fn import(&self, archive: &Path) -> Result<()> {
        self.ctr(&[&["images", "import"], &[archive.to_string_lossy().as_ref()][..]].concat())
            .with_context(|| format!("import {}", archive.display()))
    }

    /// Gives an image another name as well. Blocks.
    pub(crate) fn tag(&self, image: &str, name: &str) -> Result<()> {
        self.ctr(&["images", "tag", "--force", image, name])
    }

    fn ctr(&self, args: &[&str]) -> Result<()> {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(self.socket()?)
            .args(["--namespace", "k8s.io"])
            .args(args)
            .output()
            .context("run ctr")?;
        ensure!(
            output.status.success(),
            "ctr {} on {}: {}",
            args.join(" "),
            self.name,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Starts a service that does not run.
    pub(crate) fn start_service(&self, service: Service) -> Result<()> {
        signal(self.init()?, service.start_signal())
    }

    /// Sends a signal to a service.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn signal(&self, service: Service, what: Signal) -> Result<()> {
        signal(self.service(service)?, what)
    }

    /// Kills a service without warning, and waits until it is gone; what it started runs on. Blocks.
    pub(crate) fn kill(&self, service: Service) -> Result<()> {
        let Ok(pid) = self.service(service) else {
            return Ok(());
        };
        signal(pid, Signal::SIGKILL)?;
        self.patiently(&format!("the end of its {}", service.program()), || {
            ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is there");
            Ok(())
        })
    }

    /// The processes inside, in pods or not, whose program is called so, by their ids outside.
    pub(crate) fn processes(&self, program: &str) -> Vec<i32> {
        let inside = self.cgroups.first().map(|top| cgroups::members_below(top));
        let mut found = inside.unwrap_or_default();
        found.retain(|pid| is_called(*pid, program));
        found
    }

    /// Cuts the power: everything inside is gone when this returns, and nobody was told. Blocks.
    pub(crate) fn power_off(&self) -> Result<()> {
        if let Ok(init) = self.init() {
            signal(init, Signal::SIGKILL)?;
        }
        // It ends when the last process inside has ended.
        self.patiently("the machine's end", || {
            ensure!(!self.machine.is_alive(), "it is alive");
            Ok(())
        })?;
        // A kubelet that found those of before would look for their containers.
        self.patiently("its cgroups to be empty", || {
            self.cgroups.iter().try_for_each(|top| cgroups::empty(top))
        })
    }

    /// Boots the machine after [`RealNode::power_off`], with the same disk. Blocks until the runtime answers.
    pub(crate) fn power_on(&self) -> Result<()> {
        self.machine.restart()?;
        self.wait_runtime()?;
        self.start_service(Service::Kubelet)
    }

    fn socket(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root{SOCKET}", self.init()?)))
    }

    /// The id, outside, of the machine's process 1.
    fn init(&self) -> Result<i32> {
        let outer = self.machine.pid();
        let inner = self.machine.is_alive().then(|| children(outer).next()).flatten();
        inner.with_context(|| format!("{} is off: {}", self.name, self.machine.log_tail(3)))
    }

    fn service(&self, service: Service) -> Result<i32> {
        let program = service.program();
        let found = children(self.init()?).find(|pid| is_called(*pid, program));
        found.with_context(|| format!("no {program} runs on {}", self.name))
    }

    fn patiently(&self, what: &str, mut look: impl FnMut() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        loop {
            match look() {
                Ok(()) => return Ok(()),
                Err(seen) if start.elapsed() > PATIENCE => {
                    bail!("{}: waited {PATIENCE:?} for {what}; last seen: {seen:#}", self.name)
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// Where the disks of the lab of that number are; of those that are named so, all the files that a node leaves.
///
/// On a file system of its own right, not in `/run`: an overlay cannot lie on an overlay, and `/run` is often mounted without leave
/// to execute.
pub(crate) fn disk(id: &str) -> PathBuf {
    Path::new(DISKS).join(id)
}

/// What there is on this machine of the real nodes of the lab of that number: cgroups and disks.
pub fn remains(id: u32) -> Vec<PathBuf> {
    let mut found = cgroups::tops(&id.to_string()).unwrap_or_default();
    found.push(disk(&id.to_string()));
    found.retain(|path| path.exists());
    found
}

/// The numbers of the labs that have disks.
pub(crate) fn labs_with_disks() -> HashSet<u32> {
    let entries = fs::read_dir(DISKS).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

const DISKS: &str = "/var/lib/ferrolb-lab";

fn signal(pid: i32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to process {pid}"))
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn children(of: i32) -> impl Iterator<Item = i32> {
    pids().filter(move |pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        parent.and_then(|parent| parent.trim().parse().ok()) == Some(of)
    })
}

/// Whether the program's file, or the name that a program of many names was called by, is this.
fn is_called(pid: i32, program: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let file = words.next().unwrap_or_default();
    let name = Path::new(file.as_ref()).file_name().and_then(|name| name.to_str());
    name == Some(program) || (name == Some("kube") && words.next().as_deref() == Some(program))
}
