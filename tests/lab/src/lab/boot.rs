//! The order in which a cluster comes up, and what each step waits for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use ferrolb_controlplane::{ETCD_PORT, PROXY_HEALTH_PORT};
use k8s_openapi::api::core::v1::{Node as NodeObject, ServiceAccount};
use kube::api::ListParams;
use kube::{Api, Client};

use super::node::{Node, Program};
use super::shared::{Shared, target_dir};
use super::wait::{ensure_seen, wait_until};
use crate::net::{Host, http_get, node as node_network};
use crate::process::Process;
use crate::realnode::{Service, images};

/// How long any step of the start may take; a loaded machine is several times slower than a quiet one.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// The four programs on the control plane's host.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) etcd: Process,
    pub(super) api_server: Process,
    pub(super) controller_manager: Process,
    pub(super) scheduler: Process,
}

impl Control {
    /// Starts them in the order of their needs; returns when the API server is ready.
    pub(super) async fn start(shared: &Shared, client: &Client) -> Result<Self> {
        let host = &shared.control_host;
        let etcd = shared.start("etcd", host, shared.plane.etcd())?;
        wait_for_etcd(host, &etcd).await?;
        let api_server = shared.start("kube-apiserver", host, shared.plane.api_server())?;
        wait_for_api_server(client, &api_server).await?;
        let controller_manager = shared.start("kube-controller-manager", host, shared.plane.controller_manager())?;
        let scheduler = shared.start("kube-scheduler", host, shared.plane.scheduler())?;
        Ok(Self {
            etcd,
            api_server,
            controller_manager,
            scheduler,
        })
    }
}

async fn wait_for_etcd(host: &Host, etcd: &Process) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ETCD_PORT));
    wait_until("etcd to listen", PATIENCE, async || {
        still_alive(etcd)?;
        host.namespace().run(|| TcpStream::connect(address))??;
        Ok(())
    })
    .await
}

/// Waits for `/readyz`.
pub(super) async fn wait_for_api_server(client: &Client, api_server: &Process) -> Result<()> {
    wait_until("the API server to be ready", PATIENCE, async || {
        still_alive(api_server)?;
        let request = kube::core::Request::new("/readyz").list(&ListParams::default())?;
        client.request_text(request).await?;
        Ok(())
    })
    .await
}

fn still_alive(process: &Process) -> Result<()> {
    match process.exit() {
        None => Ok(()),
        Some(exit) => Err(anyhow!(
            "{} has ended ({exit}): {}",
            process.name(),
            process.log_tail(3)
        )),
    }
}

/// Turns the hosts into nodes and starts their kubelets; the nodes register in their own time.
pub(super) fn start_nodes(shared: &Arc<Shared>) -> Result<Vec<Node>> {
    let networks: Vec<_> = (1..=shared.setup.nodes)
        .map(|index| node_network::PodNetwork {
            index,
            families: shared.setup.families,
        })
        .collect();
    let all: Vec<_> = shared.node_hosts.iter().zip(&networks).collect();
    let mut nodes = Vec::new();
    for (host, network) in &all {
        let others: Vec<_> = all
            .iter()
            .filter(|(other, _)| other.name() != host.name())
            .copied()
            .collect();
        node_network::configure(host, network, &others)?;
        nodes.push(Node::start(shared.clone(), (*host).clone(), (*network).clone())?);
    }
    node_network::add_routes(&shared.control_host, &all)?;
    Ok(nodes)
}

/// Gives real nodes their images and starts their kubelets, all at the same time.
pub(super) async fn start_kubelets(shared: &Shared, nodes: &[Node]) -> Result<()> {
    let mut archives = images::make_own(&shared.run_dir.path().join("images"))?;
    if shared.setup.ferrolb {
        archives.extend(images::products(&target_dir())?);
    }
    let archives = Arc::new(archives);
    let started = nodes.iter().map(|node| {
        let archives = archives.clone();
        node.blocking(move |real| {
            real.wait_runtime()?;
            archives.iter().try_for_each(|archive| real.import(archive))?;
            real.start_service(Service::Kubelet)
        })
    });
    futures::future::try_join_all(started).await.map(drop)
}

/// Waits until every node is registered, then starts a kube-proxy on each, then waits until all is ready for pods.
pub(super) async fn finish_nodes(client: &Client, nodes: &[Node]) -> Result<()> {
    let api: Api<NodeObject> = Api::all(client.clone());
    wait_until("the nodes to register", PATIENCE, async || {
        let found = api.list_metadata(&ListParams::default()).await?.items.len();
        ensure_seen(found >= nodes.len(), || format!("{found} of {}", nodes.len()))
    })
    .await?;
    for node in nodes {
        node.start_proxy()?;
    }
    let (proxies, ready, account) = tokio::join!(
        futures::future::try_join_all(nodes.iter().map(wait_for_proxy)),
        wait_for_nodes(&api, nodes.len()),
        wait_for_default_account(client),
    );
    proxies.and(ready).and(account)
}

async fn wait_for_proxy(node: &Node) -> Result<()> {
    let proxy = node.program(Program::Proxy)?;
    wait_until(&format!("kube-proxy of {}", node.name()), PATIENCE, async || {
        still_alive(proxy)?;
        healthy(node.host(), PROXY_HEALTH_PORT, "/healthz").await
    })
    .await
}

async fn wait_for_nodes(api: &Api<NodeObject>, count: usize) -> Result<()> {
    wait_until("the nodes to be Ready", PATIENCE, async || {
        let nodes = api.list(&ListParams::default()).await?;
        let ready = nodes.items.iter().filter(|node| is_ready(node)).count();
        ensure_seen(ready >= count, || format!("{ready} of {count} are Ready"))
    })
    .await
}

/// Whether the node's Ready condition is true.
pub(super) fn is_ready(node: &NodeObject) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Pods cannot be made in a namespace before its default service account is there.
async fn wait_for_default_account(client: &Client) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    wait_until("the default service account", PATIENCE, async || {
        accounts.get_metadata("default").await?;
        Ok(())
    })
    .await
}

/// Succeeds when the host itself gets 200 for `path` from its own `port`.
pub(super) async fn healthy(host: &Host, port: u16, path: &'static str) -> Result<()> {
    let namespace = host.namespace().clone();
    let loopback = if host.v4().is_some() {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        IpAddr::V6(Ipv6Addr::LOCALHOST)
    };
    let address = SocketAddr::new(loopback, port);
    let (status, body) = tokio::task::spawn_blocking(move || http_get(&namespace, address, path)).await??;
    ensure_seen(status == 200, || format!("{path} says {status}: {}", body.trim()))
}
