//! One API server, double or real, with what a small cluster needs, and what scenarios do with it.

use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::http::Request;
use ferrolb_apiserver::{ApiServer, client};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::look::{Look, look};
use crate::program::{Directory, Program};

/// Where FerroLB's objects are.
pub(crate) const NAMESPACE: &str = "ferrolb-system";
/// Where the Services are.
const SHOP: &str = "shop";
/// How long anything may take; only a failure takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const SERVICES: &str = "/api/v1/namespaces/shop/services";
pub(crate) const EVENTS: &str = "/api/v1/namespaces/shop/events";
pub(crate) const VIPS: &str = "/apis/ferrolb.io/v1alpha1/virtualips";
pub(crate) const POOLS: &str = "/apis/metallb.io/v1beta1/namespaces/ferrolb-system/ipaddresspools";
pub(crate) const STATES: &str = "/apis/metallb.io/v1beta1/namespaces/ferrolb-system/configurationstates";
pub(crate) const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/ferrolb-system/leases";
const ADVERTISEMENTS: &str = "/apis/metallb.io/v1beta1/namespaces/ferrolb-system/l2advertisements";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
const NODES: &str = "/api/v1/nodes";

/// What somebody does in a world, and what can be compared in the end.
pub(crate) type Scenario = for<'a> fn(&'a mut World) -> Pin<Box<dyn Future<Output = Result<Value>> + 'a>>;

/// One API server and a client.
pub(crate) struct World {
    double: Option<ApiServer>,
    client: Client,
    kubeconfig: PathBuf,
    log: PathBuf,
    _directory: Directory,
}

impl World {
    /// With a double of its own.
    pub(crate) async fn with_double(name: &str) -> Result<Self> {
        let server = ApiServer::start().await?;
        let kubeconfig = server.kubeconfig();
        let mut world = Self::new(&format!("double {name}"), &kubeconfig).await?;
        world.double = Some(server);
        world.furnish().await?;
        Ok(world)
    }

    /// With the real one, emptied of what scenarios left there.
    pub(crate) async fn with_real(name: &str, kubeconfig: &str) -> Result<Self> {
        let world = Self::new(&format!("real {name}"), kubeconfig).await?;
        for path in [
            SERVICES,
            VIPS,
            POOLS,
            ADVERTISEMENTS,
            SLICES,
            NODES,
            STATES,
            LEASES,
            EVENTS,
        ] {
            for object in world.list(path).await? {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                world.delete(&format!("{path}/{name}")).await?;
            }
        }
        world.furnish().await?;
        Ok(world)
    }

    async fn new(name: &str, kubeconfig: &str) -> Result<Self> {
        let directory = Directory::new(name)?;
        let path = directory.0.join("kubeconfig");
        fs::write(&path, kubeconfig).context("write the kubeconfig")?;
        Ok(World {
            double: None,
            client: client(kubeconfig).await?,
            kubeconfig: path,
            log: directory.0.join("controller.log"),
            _directory: directory,
        })
    }

    /// Two namespaces, a Node that is ready, a pool of 256 addresses and its advertisement.
    async fn furnish(&self) -> Result<()> {
        for name in [SHOP, NAMESPACE] {
            let path = format!("/api/v1/namespaces/{name}");
            if self.get(&path).await.is_err() {
                let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
                self.create("/api/v1/namespaces", namespace).await?;
            }
        }
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-1" },
            "status": {
                "addresses": [{ "type": "InternalIP", "address": "198.51.100.1" }],
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        });
        self.create(NODES, node).await?;
        self.create(POOLS, pool("first", &["192.0.2.0/24"])).await?;
        let advertisement = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": { "name": "all" }, "spec": {},
        });
        self.create(ADVERTISEMENTS, advertisement).await?;
        Ok(())
    }

    /// The double, for faults and counts; none in the run with the real API server.
    pub(crate) fn double(&mut self) -> Option<&mut ApiServer> {
        self.double.as_mut()
    }

    /// Starts a controller that need not ask who leads.
    pub(crate) fn controller(&self) -> Result<Program> {
        self.controller_with(&["--leader-elect=false"])
    }

    pub(crate) fn controller_with(&self, more: &[&str]) -> Result<Program> {
        Program::start(&self.kubeconfig, &self.log, more)
    }

    /// The end of the controller's log, for a scenario that failed.
    pub(crate) fn told(&self, with: &str) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines = log.lines().collect::<Vec<_>>();
        let tail = &lines[lines.len().saturating_sub(40)..];
        format!("with {with}; the controller's last words:\n{}\n", tail.join("\n"))
    }

    /// Creates a Service of type LoadBalancer with an endpoint on the Node.
    pub(crate) async fn serve(&self, name: &str) -> Result<()> {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
            "endpoints": [{ "addresses": ["10.244.0.1"], "conditions": { "ready": true }, "nodeName": "node-1" }],
            "ports": [{ "name": "", "protocol": "TCP", "port": 80 }],
        });
        self.create(SLICES, slice).await?;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] },
        });
        self.create(SERVICES, service).await
    }

    /// Waits until `count` Services are served and everything says the same ([`Look::flaw`]).
    pub(crate) async fn at_rest(&self, count: usize) -> Result<Look> {
        self.until(async || {
            let look = look(self).await?;
            Ok(match look.flaw(count) {
                None => Ok(look),
                Some(flaw) => Err(flaw),
            })
        })
        .await
    }

    /// Asks until it holds; what it said last is the error.
    pub(crate) async fn until<T>(&self, mut ask: impl AsyncFnMut() -> Result<Result<T, String>>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask().await? {
                Ok(found) => return Ok(found),
                Err(why) if Instant::now() > deadline => bail!("not within {} s: {why}", PATIENCE.as_secs()),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    pub(crate) async fn list(&self, path: &str) -> Result<Vec<Value>> {
        let list = self.get(path).await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.ask("GET", path, "application/json", Value::Null).await
    }

    pub(crate) async fn create(&self, path: &str, object: Value) -> Result<()> {
        self.ask("POST", path, "application/json", object).await.map(drop)
    }

    pub(crate) async fn merge(&self, path: &str, patch: Value) -> Result<()> {
        self.ask("PATCH", path, "application/merge-patch+json", patch)
            .await
            .map(drop)
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        self.ask("DELETE", path, "application/json", Value::Null)
            .await
            .map(drop)
    }

    async fn ask(&self, method: &str, path: &str, media_type: &str, body: Value) -> Result<Value> {
        let bytes = if body.is_null() {
            Vec::new()
        } else {
            serde_json::to_vec(&body)?
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Content-Type", media_type)
            .body(bytes)?;
        let answer = self.client.request(request).await;
        answer.with_context(|| format!("{method} {path}"))
    }
}

pub(crate) fn pool(name: &str, addresses: &[&str]) -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": { "name": name },
        "spec": { "addresses": addresses },
    })
}
