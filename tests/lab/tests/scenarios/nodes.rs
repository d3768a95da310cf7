//! Nodes that go away: the controller moves their addresses, and clients are served again.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};

use crate::manifests::{deployment, service};
use crate::scene::Scene;

async fn announced(s: &Scene, spec: &str) -> Result<(IpAddr, String)> {
    s.apply(&deployment("web", 3)).await?;
    s.apply(&service("web", "web", spec)).await?;
    s.ready("web", 3).await?;
    let address = s.addresses("web", 1).await?[0];
    s.page(address, 80).await?;
    let owner = s.owner(address).await?;
    Ok((address, owner))
}

/// A node whose link is lost becomes NotReady; its address moves, and the page comes from another node. When it is
/// back, nothing moves back.
pub(crate) async fn lost_node(s: Scene) -> Result<()> {
    let (address, owner) = announced(&s, "type: LoadBalancer").await?;
    s.node(&owner)?.cut_link()?;
    let result = async {
        let heir = s.other_owner(address, &owner).await?;
        s.answered_by(address, &heir).await?;
        s.page(address, 80).await?;
        anyhow::Ok(heir)
    }
    .await;
    s.node(&owner)?.restore_link()?;
    let heir = result?;
    s.node_ready(&owner).await?;
    s.fence().await?;
    ensure!(s.owner(address).await? == heir, "the address moved back by itself");
    s.answered_by(address, &heir).await
}

/// A node labelled to be excluded from load balancers gives its addresses up; unlabelled, it gets nothing back.
pub(crate) async fn excluded_node(s: Scene) -> Result<()> {
    let (address, owner) = announced(&s, "type: LoadBalancer").await?;
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    s.kubectl(&["label", "node", &owner, &format!("{label}=true")]).await?;
    let moved = async {
        let heir = s.other_owner(address, &owner).await?;
        s.answered_by(address, &heir).await?;
        s.page(address, 80).await
    }
    .await;
    s.kubectl(&["label", "node", &owner, &format!("{label}-")]).await?;
    moved.map(drop)
}

/// Under `externalTrafficPolicy: Local` the address follows the last endpoint.
pub(crate) async fn last_local_endpoint(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 1)).await?;
    s.apply(&service(
        "web",
        "web",
        "type: LoadBalancer\nexternalTrafficPolicy: Local",
    ))
    .await?;
    s.ready("web", 1).await?;
    let address = s.addresses("web", 1).await?[0];
    s.page(address, 80).await?;
    let owner = s.owner(address).await?;
    s.kubectl(&["cordon", &owner]).await?;
    let moved = async {
        s.kubectl(&["delete", "pod", "-l", "app=web", "--wait=false"]).await?;
        let heir = s.other_owner(address, &owner).await?;
        let page = s.page(address, 80).await?;
        ensure!(page.node == heir, "the pod runs on {}, the owner is {heir}", page.node);
        Ok(())
    }
    .await;
    s.kubectl(&["uncordon", &owner]).await?;
    moved
}

/// A Service without any endpoint keeps its address but nobody announces it, and the VirtualIP says why.
pub(crate) async fn no_endpoint(s: Scene) -> Result<()> {
    let (address, _) = announced(&s, "type: LoadBalancer").await?;
    s.kubectl(&["scale", "deployment", "web", "--replicas=0"]).await?;
    s.condition(address, "Announced", "False", "NoEndpoint").await?;
    s.unanswered(address).await?;
    ensure!(s.addresses("web", 1).await? == [address], "the address changed");
    s.kubectl(&["scale", "deployment", "web", "--replicas=2"]).await?;
    s.page(address, 80).await.context("after scaling up again")?;
    Ok(())
}

/// Drained with `kubectl drain`, a node loses its pods to others, and clients are served all the while.
pub(crate) async fn drained_node(s: Scene) -> Result<()> {
    let (address, owner) = announced(&s, "type: LoadBalancer").await?;
    let drained = s
        .kubectl(&[
            "drain",
            &owner,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--force",
            "--timeout=60s",
        ])
        .await;
    let served = s.page(address, 80).await;
    s.kubectl(&["uncordon", &owner]).await?;
    drained?;
    served.map(drop)
}
