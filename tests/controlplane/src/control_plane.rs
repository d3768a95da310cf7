//! One cluster's control plane on paper: every file its programs read, every command line.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::access::{kubeconfig, token_file, write_secret};
use crate::pki::{Authority, service_account_key};
use crate::programs::{Program, Programs};
use crate::{API_PORT, ETCD_PORT, PROXY_HEALTH_PORT, User};

/// What the cluster is to look like.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The addresses of the control plane's host, the cluster's first family first.
    pub addresses: Vec<IpAddr>,
    /// The names of the nodes.
    pub nodes: Vec<String>,
    /// How long a node may be silent before it is called NotReady.
    pub node_monitor_grace: Duration,
}

impl Plan {
    fn families(&self) -> (bool, bool) {
        (
            self.addresses.iter().any(IpAddr::is_ipv4),
            self.addresses.iter().any(IpAddr::is_ipv6),
        )
    }

    /// The ranges of those families that are in use, the first family first.
    fn ranges(&self, v4: &'static str, v6: &'static str) -> String {
        let ranges: Vec<&str> = self
            .addresses
            .iter()
            .map(|address| if address.is_ipv4() { v4 } else { v6 })
            .collect();
        ranges.join(",")
    }
}

/// How kube-proxy programs the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ProxyMode {
    /// nftables rules.
    #[default]
    Nftables,
    /// iptables rules.
    Iptables,
}

impl ProxyMode {
    /// The value of `--proxy-mode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// A program and what to give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// What it is.
    pub program: Program,
    /// The executable.
    pub executable: PathBuf,
    /// All its arguments.
    pub args: Vec<String>,
}

/// The control plane of one cluster; its files lie in one directory.
#[derive(Debug)]
pub struct ControlPlane {
    programs: Programs,
    directory: PathBuf,
    plan: Plan,
    authority: Authority,
    users: Vec<(User, String)>,
}

impl ControlPlane {
    /// Makes keys, certificates, tokens and kubeconfigs below `directory`.
    pub fn prepare(programs: Programs, directory: &Path, plan: Plan) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        let mut users = vec![User::Admin, User::ControllerManager, User::Scheduler, User::Proxy];
        users.extend(plan.nodes.iter().cloned().map(User::Node));
        let users = users.into_iter().map(|user| (user, random_token())).collect();
        let plane = Self {
            programs,
            directory: directory.to_owned(),
            plan,
            authority: Authority::new()?,
            users,
        };
        plane.write_keys()?;
        write_secret(&plane.file("tokens.csv"), &token_file(&plane.users))?;
        for (user, token) in &plane.users {
            let local = matches!(user, User::ControllerManager | User::Scheduler);
            let server = if local {
                format!("https://127.0.0.1:{API_PORT}")
            } else {
                plane.server()
            };
            plane.write_kubeconfig(&plane.kubeconfig(user), &server, &user.name(), token)?;
        }
        Ok(plane)
    }

    fn write_keys(&self) -> Result<()> {
        fs::write(self.ca_file(), self.authority.certificate()).context("write ca.crt")?;
        let mut addresses = self.plan.addresses.clone();
        addresses.extend([
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
            // The `kubernetes` Service: the first address of each range.
            IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 1)),
        ]);
        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let server = self.authority.server("kube-apiserver", &names, &addresses)?;
        let kubelet_client = self
            .authority
            .client("kube-apiserver-kubelet-client", "system:masters")?;
        let service_account = service_account_key()?;
        for (name, content) in [
            ("apiserver.crt", &server.certificate),
            ("apiserver.key", &server.key),
            ("kubelet-client.crt", &kubelet_client.certificate),
            ("kubelet-client.key", &kubelet_client.key),
            ("service-account.pub", &service_account.certificate),
            ("service-account.key", &service_account.key),
        ] {
            write_secret(&self.file(name), content)?;
        }
        Ok(())
    }

    /// Where the programs come from.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The authority, for whoever needs another certificate.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The authority's certificate file.
    pub fn ca_file(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// The API server's URL on the LAN.
    pub fn server(&self) -> String {
        match self.plan.addresses[0] {
            IpAddr::V4(address) => format!("https://{address}:{API_PORT}"),
            IpAddr::V6(address) => format!("https://[{address}]:{API_PORT}"),
        }
    }

    /// The user's static token.
    ///
    /// # Panics
    /// When the user is a node that the plan does not name.
    pub fn token(&self, user: &User) -> &str {
        let found = self.users.iter().find(|(known, _)| known == user);
        found
            .map(|(_, token)| token.as_str())
            .unwrap_or_else(|| panic!("{} is no user of the cluster", user.name()))
    }

    /// The user's kubeconfig file, for use on the LAN.
    pub fn kubeconfig(&self, user: &User) -> PathBuf {
        self.file(&user.file_name())
    }

    /// Writes a kubeconfig to `path`, for a user with a token, through `server`.
    pub fn write_kubeconfig(&self, path: &Path, server: &str, user: &str, token: &str) -> Result<()> {
        write_secret(path, &kubeconfig(server, &self.ca_file(), user, token))
    }

    /// etcd, with its data below the directory and nothing flushed to the disk.
    pub fn etcd(&self) -> Invocation {
        let client = format!("http://127.0.0.1:{ETCD_PORT}");
        let peer = "http://127.0.0.1:2380";
        self.invocation(
            Program::Etcd,
            vec![
                "--name=lab".into(),
                format!("--data-dir={}", self.file("etcd").display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=lab={peer}"),
                "--unsafe-no-fsync".into(),
                "--log-level=warn".into(),
            ],
        )
    }

    /// The API server, on every address of its host.
    pub fn api_server(&self) -> Invocation {
        let file = |name: &str| self.file(name).display().to_string();
        self.invocation(
            Program::ApiServer,
            vec![
                format!("--etcd-servers=http://127.0.0.1:{ETCD_PORT}"),
                format!("--advertise-address={}", self.plan.addresses[0]),
                format!("--secure-port={API_PORT}"),
                format!(
                    "--service-cluster-ip-range={}",
                    self.plan.ranges("10.96.0.0/16", "fd00:96::/112")
                ),
                format!("--tls-cert-file={}", file("apiserver.crt")),
                format!("--tls-private-key-file={}", file("apiserver.key")),
                format!("--client-ca-file={}", file("ca.crt")),
                format!("--token-auth-file={}", file("tokens.csv")),
                "--authorization-mode=Node,RBAC".into(),
                "--enable-admission-plugins=NodeRestriction".into(),
                "--service-account-issuer=https://kubernetes.default.svc".into(),
                format!("--service-account-key-file={}", file("service-account.pub")),
                format!("--service-account-signing-key-file={}", file("service-account.key")),
                format!("--kubelet-client-certificate={}", file("kubelet-client.crt")),
                format!("--kubelet-client-key={}", file("kubelet-client.key")),
                "--kubelet-preferred-address-types=InternalIP".into(),
                "--allow-privileged=true".into(),
                // Webhooks are asked in their pods: there is no kube-proxy on this host.
                "--enable-aggregator-routing=true".into(),
            ],
        )
    }

    /// The controller manager, without what a cloud or a network plugin would do, and quick to see a lost node.
    pub fn controller_manager(&self) -> Invocation {
        let kubeconfig = self.kubeconfig(&User::ControllerManager);
        self.invocation(
            Program::ControllerManager,
            vec![
                format!("--kubeconfig={}", kubeconfig.display()),
                format!("--authentication-kubeconfig={}", kubeconfig.display()),
                format!("--authorization-kubeconfig={}", kubeconfig.display()),
                format!(
                    "--service-account-private-key-file={}",
                    self.file("service-account.key").display()
                ),
                format!("--root-ca-file={}", self.ca_file().display()),
                "--use-service-account-credentials=true".into(),
                "--controllers=*,-node-ipam-controller,-node-route-controller,-service-lb-controller".into(),
                "--node-monitor-period=1s".into(),
                format!(
                    "--node-monitor-grace-period={}ms",
                    self.plan.node_monitor_grace.as_millis()
                ),
                "--leader-elect=false".into(),
                // One client per controller; the defaults of 20 and 30 make a burst of objects wait.
                "--kube-api-qps=200".into(),
                "--kube-api-burst=400".into(),
                "--bind-address=127.0.0.1".into(),
            ],
        )
    }

    /// The scheduler.
    pub fn scheduler(&self) -> Invocation {
        let kubeconfig = self.kubeconfig(&User::Scheduler);
        self.invocation(
            Program::Scheduler,
            vec![
                format!("--kubeconfig={}", kubeconfig.display()),
                format!("--authentication-kubeconfig={}", kubeconfig.display()),
                format!("--authorization-kubeconfig={}", kubeconfig.display()),
                "--leader-elect=false".into(),
                "--bind-address=127.0.0.1".into(),
            ],
        )
    }

    /// kube-proxy for one node.
    pub fn proxy(&self, node: &str, mode: ProxyMode) -> Invocation {
        let health = if self.plan.families().0 { "0.0.0.0" } else { "[::]" };
        self.invocation(
            Program::Proxy,
            vec![
                format!("--kubeconfig={}", self.kubeconfig(&User::Proxy).display()),
                format!("--hostname-override={node}"),
                format!("--proxy-mode={}", mode.name()),
                format!("--cluster-cidr={}", self.plan.ranges("10.244.0.0/16", "fd00:244::/32")),
                format!("--healthz-bind-address={health}:{PROXY_HEALTH_PORT}"),
                // These belong to the machine, not to the namespace.
                "--conntrack-max-per-core=0".into(),
                "--conntrack-min=0".into(),
                "--conntrack-tcp-timeout-established=0s".into(),
                "--conntrack-tcp-timeout-close-wait=0s".into(),
            ],
        )
    }

    /// The kubelet, without arguments: what it needs is the node's, but for [`ControlPlane::ca_file`] and its
    /// [`ControlPlane::kubeconfig`].
    pub fn kubelet(&self) -> Invocation {
        self.invocation(Program::Kubelet, Vec::new())
    }

    fn invocation(&self, program: Program, args: Vec<String>) -> Invocation {
        let (executable, mut all) = self.programs.invocation(program);
        all.extend(args);
        Invocation {
            program,
            executable,
            args: all,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// 128 random bits in hexadecimal, from the standard library's randomly keyed hashes.
fn random_token() -> String {
    let half = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}", half(), half())
}
