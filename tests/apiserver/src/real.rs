//! The real thing: etcd and kube-apiserver on ports of the loopback interface, without nodes and without controllers.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ferrolb_controlplane::{API_PORT, ControlPlane, ETCD_PORT, Invocation, Plan, Programs, User};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::client::client;

/// How long it may take to come up, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running pair of etcd and kube-apiserver with FerroLB's CustomResourceDefinitions. Dropped, both are killed and their
/// files removed, unless the test has failed; if the thread that started them dies, the kernel kills them.
#[derive(Debug)]
pub struct RealApiServer {
    kubeconfig: String,
    directory: PathBuf,
    children: Vec<Child>,
}

impl RealApiServer {
    /// Starts them; `report` hears about it when they have to be built first, which takes minutes. Call it from a thread
    /// that lives as long as they shall.
    ///
    /// # Errors
    /// When the programs cannot be had or do not come up.
    pub async fn start(report: &mut dyn FnMut(&str)) -> Result<Self> {
        let programs = Programs::obtain(report)?;
        let directory = std::env::temp_dir().join(format!("ferrolb-apiserver-{}", std::process::id()));
        let mut server = RealApiServer {
            kubeconfig: String::new(),
            directory: directory.clone(),
            children: Vec::new(),
        };
        let plan = Plan {
            // Told to clients in the cluster, of which there are none; the API server refuses the loopback address.
            addresses: vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))],
            nodes: Vec::new(),
            node_monitor_grace: Duration::from_secs(40),
        };
        let plane = ControlPlane::prepare(programs, &directory, plan)?;
        let [client, peer, api] = free_ports()?;
        let ports = [
            (format!(":{ETCD_PORT}"), format!(":{client}")),
            (":2380".to_owned(), format!(":{peer}")),
            (format!("--secure-port={API_PORT}"), format!("--secure-port={api}")),
        ];
        let mut api_server = plane.api_server();
        api_server.args.push("--bind-address=127.0.0.1".to_owned());
        for mut invocation in [plane.etcd(), api_server] {
            for arg in &mut invocation.args {
                *arg = ports.iter().fold(arg.clone(), |arg, (from, to)| arg.replace(from, to));
            }
            server.children.push(start(&invocation, &directory)?);
        }
        let path = directory.join("test.kubeconfig");
        let url = format!("https://127.0.0.1:{api}");
        plane.write_kubeconfig(&path, &url, &User::Admin.name(), plane.token(&User::Admin))?;
        server.kubeconfig = fs::read_to_string(&path).context("read the kubeconfig")?;
        server.ready().await?;
        Ok(server)
    }

    /// A kubeconfig for it, with all rights.
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let client = client(&self.kubeconfig).await?;
        let ask = || hyper::Request::get("/readyz").body(Vec::new()).context("a request");
        while client.request_text(ask()?).await.is_err() {
            self.alive(deadline)?;
            sleep(Duration::from_millis(100)).await;
        }
        let definitions = Api::<CustomResourceDefinition>::all(client.clone());
        let crds = ferrolb_api::crds();
        for crd in &crds {
            definitions
                .create(&PostParams::default(), crd)
                .await
                .with_context(|| format!("create the definition of {}", crd.spec.names.kind))?;
        }
        for (crd, version) in crds
            .iter()
            .flat_map(|crd| crd.spec.versions.iter().map(move |v| (crd, v)))
        {
            let names = &crd.spec.names;
            let kind = GroupVersionKind::gvk(&crd.spec.group, &version.name, &names.kind);
            let resource = ApiResource::from_gvk_with_plural(&kind, &names.plural);
            let objects = Api::<DynamicObject>::all_with(client.clone(), &resource);
            while objects.list(&ListParams::default()).await.is_err() {
                self.alive(deadline)?;
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    fn alive(&mut self, deadline: Instant) -> Result<()> {
        for child in &mut self.children {
            if let Some(status) = child.try_wait().context("look after a program")? {
                bail!(
                    "a program of the control plane ended ({status}); its log is in {}",
                    self.directory.display()
                );
            }
        }
        ensure!(
            Instant::now() < deadline,
            "the API server did not come up within {} s",
            PATIENCE.as_secs()
        );
        Ok(())
    }
}

impl Drop for RealApiServer {
    fn drop(&mut self) {
        // The API server first: without etcd it would complain for a while. Errors mean that they are gone already.
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("logs are kept in {}", self.directory.display());
        } else {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

fn start(invocation: &Invocation, directory: &Path) -> Result<Child> {
    let name = invocation.program.name();
    let log = File::create(directory.join(format!("{name}.log"))).context("make a log")?;
    let mut command = Command::new(&invocation.executable);
    command
        .args(&invocation.args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("share the log")?)
        .stderr(log);
    // SAFETY: the closure makes one system call, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
    }
    command.spawn().with_context(|| format!("start {name}"))
}

/// Ports that nobody listens on; somebody may take one before it is used, which its user then says.
fn free_ports() -> Result<[u16; 3]> {
    let listeners = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener.context("find a free port")?.local_addr()?.port();
    }
    Ok(ports)
}
