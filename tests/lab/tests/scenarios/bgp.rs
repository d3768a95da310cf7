//! Services told to a router by BGP: seen from the router, from a client behind it, and from the objects of the API.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::{Program, wait_until};
use serde_json::Value;

use crate::manifests::{deployment, pool, service};
use crate::router::{ASN, Router};
use crate::scene::{PATIENCE, Scene};

/// The AS of the nodes where they have one of their own.
const NODES: u32 = 64600;

/// The objects of one scenario, all called like its namespace.
struct Told {
    name: String,
    asn: u32,
    /// Further lines of the BGPPeer's spec.
    peer: &'static str,
    /// Further lines of the BGPAdvertisement's spec.
    advertisement: &'static str,
}

impl Told {
    fn new(s: &Scene, asn: u32) -> Self {
        Told {
            name: s.namespace().to_owned(),
            asn,
            peer: "",
            advertisement: "",
        }
    }

    fn yaml(&self, s: &Scene, router: &Router) -> String {
        let (name, asn, address) = (&self.name, self.asn, router.address());
        let lines = |text: &str| text.lines().map(|line| format!("  {line}\n")).collect::<String>();
        let (peer, advertisement) = (lines(self.peer), lines(self.advertisement));
        format!(
            "{}\n---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
             spec:\n  myASN: {asn}\n  peerASN: {ASN}\n  peerAddress: {address}\n  connectTime: 1s\n{peer}\
             ---\napiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\n\
             metadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
             spec:\n  ipAddressPools: [{name}]\n  peers: [{name}]\n{advertisement}",
            pool(name, s.namespace(), &[&s.range_v4()])
        )
    }

    async fn apply(&self, s: &Scene, router: &Router) -> Result<()> {
        s.apply_config(&self.yaml(s, router)).await
    }

    /// Takes peer and advertisement back, so that the next scenario begins without them.
    async fn delete(&self, s: &Scene, router: &Router) -> Result<()> {
        s.lab().delete(NAMESPACE, &self.yaml(s, router)).await
    }
}

/// A Service `web` on all nodes, and its address.
async fn web(s: &Scene, replicas: u32, spec: &str) -> Result<IpAddr> {
    s.apply(&deployment("web", replicas)).await?;
    s.apply(&service("web", "web", spec)).await?;
    s.ready("web", usize::try_from(replicas)?).await?;
    Ok(s.addresses("web", 1).await?[0])
}

/// The names of all nodes.
fn all(s: &Scene) -> Vec<&str> {
    s.nodes().iter().map(|node| node.name()).collect()
}

/// The page, as the client behind the router gets it.
async fn page(router: &Router, address: IpAddr) -> Result<String> {
    wait_until(
        &format!("a page from {address} behind the router"),
        PATIENCE,
        async || {
            let client = router.client();
            let get = move || client.http_get(address, 80, "lab.example", "/", Duration::from_secs(1));
            let response = tokio::task::spawn_blocking(get).await??;
            ensure!(response.status == 200, "status {}", response.status);
            Ok(response.line("node").context("the page names its node")?.to_owned())
        },
    )
    .await
}

/// The router has a next hop per node, its client reaches the Service through every one of them, and a node that is
/// labelled to be left out is left out, with notice.
pub(crate) async fn every_node_is_a_next_hop(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let told = Told::new(&s, NODES);
    told.apply(&s, &router).await?;
    let address = web(&s, 3, "type: LoadBalancer").await?;
    let prefix = format!("{address}/32");
    router.forwards(&s, &prefix, &all(&s)).await?;
    let mut nodes = std::collections::BTreeSet::new();
    for _ in 0..60 {
        nodes.insert(page(&router, address).await?);
    }
    ensure!(nodes.len() == 3, "pages came from {nodes:?} only");

    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    s.kubectl(&["label", "node", "node-1", &format!("{label}=true")])
        .await?;
    let drained = async {
        let leaving = s.node("node-1")?.host().address().to_string();
        wait_until("the route of node-1 to be marked as leaving", PATIENCE, async || {
            let paths = router.paths(&prefix)?;
            let path = paths.iter().find(|path| path["peer"]["peerId"] == leaving);
            let community = path.context("the route is gone")?["community"]["string"].to_string();
            ensure!(community.contains("graceful-shutdown"), "it carries {community}");
            Ok(())
        })
        .await?;
        router.forwards(&s, &prefix, &["node-2", "node-3"]).await?;
        page(&router, address).await
    }
    .await;
    s.kubectl(&["label", "node", "node-1", &format!("{label}-")]).await?;
    drained?;
    router.forwards(&s, &prefix, &all(&s)).await?;
    s.kubectl(&["delete", "svc", "web"]).await?;
    router.forwards(&s, &prefix, &[]).await?;
    told.delete(&s, &router).await
}
