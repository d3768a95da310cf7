//! What the parts of a running lab share: where things are and how to reach them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ferrolb_controlplane::{API_PORT, ControlPlane, Invocation, Plan, Programs, User};
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::{Kubectl, Setup};
use crate::forward::Forwarder;
use crate::net::{Host, Lan};
use crate::privilege;
use crate::process::{Process, Spec};
use crate::run_dir::RunDir;

/// The uid that confined programs run as.
const NOBODY: u32 = 65534;

/// The number of the control plane's host on the LAN.
const CONTROL_PLANE: u8 = 2;
/// The number of the client's host on the LAN.
const CLIENT: u8 = 3;
/// The number of `node-1` is one more than this.
const NODES: u8 = 10;

/// The frame of a lab: directories, LAN, hosts, certificates, the door to the API server.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) setup: Setup,
    pub(super) plane: ControlPlane,
    pub(super) lan: Lan,
    pub(super) control_host: Host,
    pub(super) client_host: Host,
    pub(super) node_hosts: Vec<Host>,
    // Held, not used: the door is open as long as it lives.
    _forwarder: Forwarder,
    pub(super) kubectl: Kubectl,
    pub(super) log_dir: PathBuf,
    // Last: dropping it removes the namespaces that everything above uses.
    pub(super) run_dir: RunDir,
}

impl Shared {
    /// Makes directories, hosts and files; starts no program.
    pub(super) fn prepare(setup: Setup, programs: Programs) -> Result<Self> {
        let run_dir = RunDir::create()?;
        let log_dir = make_log_dir(&setup.name, run_dir.id())?;
        let lan = Lan::create(&run_dir.prefix(), setup.families)?;
        let names: Vec<String> = (1..=setup.nodes).map(|index| format!("node-{index}")).collect();
        let mut hosts = vec![("cp", CONTROL_PLANE), ("client", CLIENT)];
        hosts.extend(
            names
                .iter()
                .zip(NODES + 1..)
                .map(|(name, number)| (name.as_str(), number)),
        );
        let mut hosts = lan.add_hosts(&hosts)?.into_iter();
        let (control_host, client_host) = hosts.next().zip(hosts.next()).context("two hosts beside the nodes")?;
        let node_hosts: Vec<Host> = hosts.collect();
        let plan = Plan {
            addresses: control_host.addresses(),
            nodes: names,
            node_monitor_grace: setup.node_monitor_grace,
        };
        let plane = ControlPlane::prepare(programs, &run_dir.path().join("kubernetes"), plan)?;
        let api = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), API_PORT);
        let forwarder = Forwarder::start(control_host.namespace(), api)?;
        let kubeconfig = run_dir.path().join("kubeconfig");
        let server = format!("https://{}", forwarder.local());
        plane.write_kubeconfig(&kubeconfig, &server, "admin", plane.token(&User::Admin))?;
        let kubectl = Kubectl::new(plane.programs(), &kubeconfig, run_dir.path());
        let shared = Self {
            setup,
            plane,
            lan,
            control_host,
            client_host,
            node_hosts,
            _forwarder: forwarder,
            kubectl,
            log_dir,
            run_dir,
        };
        shared.write_script()?;
        Ok(shared)
    }

    /// The administrator's kubeconfig, for use outside of the lab's namespaces.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.run_dir.path().join("kubeconfig")
    }

    fn write_script(&self) -> Result<()> {
        let pid = std::process::id();
        let prefix = match privilege::in_user_namespace() {
            true => format!("nsenter --preserve-credentials -U -n -m -t {pid} -- "),
            false => String::new(),
        };
        let path = self.run_dir.path().join("kubectl");
        fs::write(&path, self.kubectl.script(&prefix)).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("make kubectl executable")
    }

    /// A client with all rights, from outside through the door.
    pub(super) async fn admin_client(&self) -> Result<kube::Client> {
        let text = fs::read_to_string(self.kubeconfig()).context("read the kubeconfig")?;
        let kubeconfig = Kubeconfig::from_yaml(&text).context("parse the kubeconfig")?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        kube::Client::try_from(config).context("make a client")
    }

    /// How to start a program on a host, logging to `<log dir>/<name>.log`.
    pub(super) fn spec(&self, name: &str, program: &Path, host: &Host) -> Spec {
        Spec::new(name, program, self.log_dir.join(format!("{name}.log"))).namespace(host.namespace())
    }

    /// Starts a program of Kubernetes on a host.
    pub(super) fn start(&self, name: &str, host: &Host, invocation: Invocation) -> Result<Process> {
        Process::start(self.spec(name, &invocation.executable, host).args(invocation.args))
    }
}

/// Gives a file or directory to the user that confined programs run as, where there is one.
pub(super) fn give_to_nobody(path: &Path) -> Result<()> {
    if !privilege::has_other_users() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY))
        .with_context(|| format!("give {} to nobody", path.display()))
}

/// `<target>/lab-logs/<name>-<id>`, emptied of what an earlier lab left.
fn make_log_dir(name: &str, id: u32) -> Result<PathBuf> {
    let path = target_dir().join("lab-logs").join(format!("{name}-{id}"));
    if path.exists() {
        fs::remove_dir_all(&path).with_context(|| format!("empty {}", path.display()))?;
    }
    fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    Ok(path)
}

/// The repository.
pub(super) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// Cargo's target directory.
pub(super) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}
