//! etcd and a real API server on free ports of the loopback address, with the CRDs installed.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferrolb_controlplane::{API_PORT, ControlPlane, ETCD_PORT, Invocation, Plan, Programs, User};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams, ValidationDirective};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config};
use serde_json::{Value, json};

/// How long anything may take; only a failure takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// The namespace of the manifests.
pub(crate) const NAMESPACE: &str = "metallb-system";

/// Ends its processes when it goes; they end with the thread that started them as well.
pub(crate) struct Server {
    client: Client,
    crds: Vec<CustomResourceDefinition>,
    processes: Vec<Child>,
    directory: PathBuf,
}

impl Server {
    /// Starts it, and waits until it has taken every CRD.
    pub(crate) async fn start() -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("crds-{}", std::process::id()));
        let programs = Programs::obtain(&mut |line| println!("{line}")).unwrap();
        let plan = Plan {
            // What is advertised, and reached by nobody: the API server refuses to advertise a loopback address.
            addresses: vec!["192.0.2.1".parse().unwrap()],
            nodes: vec![],
            node_monitor_grace: Duration::from_secs(40),
        };
        let plane = ControlPlane::prepare(programs, &directory, plan).unwrap();
        let [etcd, etcd_peer, api] = free_ports();
        let ports = [(ETCD_PORT, etcd), (ETCD_PORT + 1, etcd_peer), (API_PORT, api)];
        let mut api_server = plane.api_server();
        api_server.args.push("--bind-address=127.0.0.1".to_owned());
        let processes = [plane.etcd(), api_server]
            .map(|invocation| spawn(invocation, &ports, &directory))
            .into();
        let kubeconfig = directory.join("test.kubeconfig");
        let url = format!("https://127.0.0.1:{api}");
        plane
            .write_kubeconfig(&kubeconfig, &url, "admin", plane.token(&User::Admin))
            .unwrap();
        let server = Self {
            client: client(&kubeconfig).await,
            crds: ferrolb_api::crds(),
            processes,
            directory,
        };
        server.wait_ready().await;
        server.install().await;
        server
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    async fn wait_ready(&self) {
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client());
        let namespace = serde_json::from_value(json!({ "metadata": { "name": NAMESPACE } })).unwrap();
        patiently("a namespace can be made", async || {
            namespaces.create(&PostParams::default(), &namespace).await.map(drop)
        })
        .await;
    }

    /// Every CRD is taken as it is, with the cost of all its rules within the budget.
    async fn install(&self) {
        let crds: Api<CustomResourceDefinition> = Api::all(self.client());
        for crd in &self.crds {
            let name = crd.metadata.name.as_deref().unwrap();
            crds.create(&PostParams::default(), crd)
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        for crd in &self.crds {
            for version in &crd.spec.versions {
                let object = json!({
                    "apiVersion": format!("{}/{}", crd.spec.group, version.name),
                    "kind": crd.spec.names.kind,
                    "metadata": { "name": "none" },
                });
                let what = format!("{} {} is served", version.name, crd.spec.names.kind);
                patiently(&what, async || {
                    self.api(&object).list(&Default::default()).await.map(drop)
                })
                .await;
            }
        }
    }

    /// The API of an object's kind and version.
    pub(crate) fn api(&self, object: &Value) -> Api<DynamicObject> {
        let (group, version) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap();
        let kind = object["kind"].as_str().unwrap();
        let crd = self
            .crds
            .iter()
            .find(|crd| crd.spec.group == group && crd.spec.names.kind == kind)
            .unwrap_or_else(|| panic!("no CRD for {group} {kind}"));
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &crd.spec.names.plural);
        if crd.spec.scope == "Namespaced" {
            Api::namespaced_with(self.client(), NAMESPACE, &resource)
        } else {
            Api::all_with(self.client(), &resource)
        }
    }

    /// Applies an object as `kubectl apply --server-side` does, unknown fields refused; gives what is stored.
    pub(crate) async fn apply(&self, object: &Value) -> Result<Value, String> {
        let mut params = PatchParams::apply("test").force();
        params.field_validation = Some(ValidationDirective::Strict);
        let name = object["metadata"]["name"].as_str().unwrap();
        let stored = self.api(object).patch(name, &params, &Patch::Apply(object)).await;
        stored
            .map(|stored| serde_json::to_value(stored).unwrap())
            .map_err(|error| error.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            // It may have ended by itself; then there is nothing to do.
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("logs are kept in {}", self.directory.display());
        } else {
            std::fs::remove_dir_all(&self.directory).unwrap();
        }
    }
}

async fn client(kubeconfig: &Path) -> Client {
    // Another test of the same process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// Ports that nobody listens on.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Starts a program with other ports than the lab's.
fn spawn(invocation: Invocation, ports: &[(u16, u16)], directory: &Path) -> Child {
    let mut args = invocation.args;
    for (from, to) in ports {
        for arg in &mut args {
            *arg = arg.replace(&format!(":{from}"), &format!(":{to}"));
            *arg = arg.replace(&format!("port={from}"), &format!("port={to}"));
        }
    }
    let log = std::fs::File::create(directory.join(format!("{}.log", invocation.program.name()))).unwrap();
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(invocation.executable)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Tries until it works.
async fn patiently<E: std::fmt::Display>(what: &str, attempt: impl AsyncFn() -> Result<(), E>) {
    let begin = Instant::now();
    while let Err(error) = attempt().await {
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
