//! Nodes that are drained, and addresses that are moved because somebody asks for it, under a client that asks without a
//! pause and loses nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::{Program, wait_until};

use crate::failover::{NODE_LOSS, Served, V4, none_lost, served_again, told};
use crate::manifests::{deployment, service};
use crate::scene::{PATIENCE, Scene};

/// Kubernetes misses a node, and its silence was waited out.
const NOTICED: Duration = Duration::from_secs(90);

/// A policy for the scenario's pool; deleted at its end, since policies are the cluster's.
async fn policy(s: &Scene, spec: &str) -> Result<()> {
    let name = s.namespace();
    let policy = format!(
        "apiVersion: ferrolb.io/v1alpha1\nkind: AnnouncementPolicy\nmetadata: {{ name: {name} }}\n\
         spec:\n  ipAddressPools: [{name}]\n{spec}"
    );
    s.apply(&policy).await
}

async fn without_policy(s: &Scene) -> Result<()> {
    s.kubectl(&["delete", "announcementpolicy", s.namespace()])
        .await
        .map(drop)
}

/// Drains the owner, sees the address move without a loss, ends the drain, and sees it stay.
async fn drained(s: Scene, what: &str, drain: &[&str], undo: &[&str]) -> Result<()> {
    policy(&s, "  drain: { triggers: [Cordon, Taint] }\n").await?;
    let served = Served::new(s.clone(), V4).await?;
    let owner = served.placement.owner.clone();
    let named = |args: &[&str]| args.iter().map(|a| a.replace("NODE", &owner)).collect::<Vec<_>>();
    let run = async |args: &[&str]| {
        let args = named(args);
        let args = args.iter().map(String::as_str).collect::<Vec<_>>();
        s.kubectl(&args).await.map(drop)
    };
    let prober = served.probe(&s.browser()).await?;
    run(drain).await?;
    let heir = served.inherited().await;
    run(undo).await?;
    let heir = heir?;
    s.fence().await?;
    ensure!(s.owner(served.address).await? == heir, "the address moved back");
    served_again(&prober, prober.so_far().answered()).await?;
    none_lost(&told(what, prober))?;
    without_policy(&s).await
}

/// A node that is cordoned gives its addresses up where a policy says so.
pub(crate) async fn cordoned_node(s: Scene) -> Result<()> {
    drained(s, "node cordoned", &["cordon", "NODE"], &["uncordon", "NODE"]).await
}

/// The same with a taint that evicts.
pub(crate) async fn tainted_node(s: Scene) -> Result<()> {
    let taint = ["taint", "node", "NODE", "maintenance=soon:NoExecute"];
    drained(s, "node tainted", &taint, &["taint", "node", "NODE", "maintenance-"]).await
}

/// All nodes are cordoned, the owner last: it keeps the address and says why, until one of the others comes back.
pub(crate) async fn last_candidate(s: Scene) -> Result<()> {
    policy(&s, "  drain: { triggers: [Cordon] }\n").await?;
    let served = Served::new(s.clone(), V4).await?;
    let (owner, standbys) = (&served.placement.owner, &served.placement.standbys);
    let prober = served.probe(&s.browser()).await?;
    let kept = async {
        for node in standbys.iter().chain([owner]) {
            s.kubectl(&["cordon", node]).await?;
        }
        s.condition(served.address, "Announced", "True", "LastCandidate")
            .await?;
        ensure!(s.owner(served.address).await? == *owner, "it was drained as the last");
        s.kubectl(&["uncordon", &standbys[0]]).await?;
        let heir = s.other_owner(served.address, owner).await?;
        ensure!(heir == standbys[0], "{heir} has it");
        s.answered_by(served.address, &heir).await
    }
    .await;
    for node in standbys.iter().chain([owner]) {
        s.kubectl(&["uncordon", node]).await?;
    }
    kept?;
    served_again(&prober, prober.so_far().answered()).await?;
    none_lost(&told("last candidate", prober))?;
    without_policy(&s).await
}

/// One standby is cordoned, and Kubernetes has lost sight of the other: better than nobody, they go on standing by. The
/// owner loses its power, one of them takes over, and has the address although Kubernetes calls the dead owner Ready for a
/// while, and the heir unfit.
pub(crate) async fn last_resort(s: Scene) -> Result<()> {
    policy(&s, "  drain: { triggers: [Cordon] }\n").await?;
    let served = Served::new(s.clone(), V4).await?;
    let owner = &served.placement.owner;
    let [cordoned, lost] = &served.placement.standbys[..] else {
        bail!("two standbys are needed: {:?}", served.placement);
    };
    let prober = served.probe(&s.browser()).await?;
    let inherited = async {
        s.kubectl(&["cordon", cordoned]).await?;
        stand_by(&served, &[lost]).await?;
        s.node(lost)?.freeze(Program::Kubelet)?;
        // Nobody is left, so everybody is welcome.
        stand_by(&served, &[cordoned, lost]).await?;
        served.watched().await?;

        let before = prober.so_far().answered();
        served.owner()?.power_off()?;
        served_again(&prober, before).await?;
        let heir = served.inherited().await?;
        s.wait_node_ready(owner, false, NOTICED).await?;
        // The owner was to have the address back until its silence was waited out; then the other one stands by again.
        wait_until("the silence to be waited out", NOTICED, async || {
            let now = s.placement(served.address).await?;
            let other = now.standbys.iter().find(|node| *node != owner);
            ensure!(now.owner == heir && other.is_some(), "{now:?}");
            Ok(())
        })
        .await?;
        ensure!(served.inherited().await? == heir, "the address moved once more");
        anyhow::Ok(heir)
    }
    .await;
    let tally = told("last resort", prober);
    served.owner()?.power_on()?;
    s.node(lost)?.thaw(Program::Kubelet)?;
    s.kubectl(&["uncordon", cordoned]).await?;
    for node in [owner, lost] {
        s.node_ready(node).await?;
    }
    let heir = inherited?;
    ensure!(tally.longest_gap < NODE_LOSS, "nobody answered for too long: {tally:?}");
    s.wait_ferrolb_ready().await?;
    s.fence().await?;
    ensure!(served.inherited().await? == heir, "the address moved back");
    without_policy(&s).await
}

/// Waits until these stand by for the owner, which has not changed.
async fn stand_by(served: &Served, nodes: &[&String]) -> Result<()> {
    let wanted = nodes.iter().copied().collect::<BTreeSet<_>>();
    wait_until(&format!("{wanted:?} to stand by"), NOTICED, async || {
        let now = served.s.placement(served.address).await?;
        let standbys = now.standbys.iter().collect::<BTreeSet<_>>();
        let kept = (&now.owner, now.epoch) == (&served.placement.owner, served.placement.epoch);
        ensure!(kept && standbys == wanted, "{now:?}");
        Ok(())
    })
    .await
}

/// The one interface that the advertisement names loses its carrier on the owner, and nothing else: the controller moves
/// the address.
pub(crate) async fn owner_without_interface(s: Scene) -> Result<()> {
    policy(&s, "  layer2: { subnetCheck: false }\n").await?;
    for node in s.nodes() {
        let pair = "link add lan0 up type veth peer name lan1\nlink set lan1 up\n";
        node.host().namespace().ip(pair)?;
    }
    let moved = async {
        s.apply_config(&(s.pool() + "  interfaces: [lan0]\n")).await?;
        s.apply(&deployment("web", 1)).await?;
        let address = s
            .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
            .await?;
        let owner = s.owner(address).await?;
        s.condition(address, "Announced", "True", "Announced").await?;
        s.node(&owner)?.host().namespace().ip("link set lan1 down\n")?;
        let heir = s.other_owner(address, &owner).await?;
        s.node(&owner)?.host().namespace().ip("link set lan1 up\n")?;
        s.fence().await?;
        ensure!(s.owner(address).await? == heir, "the address moved back");
        s.condition(address, "Announced", "True", &heir).await
    }
    .await;
    for node in s.nodes() {
        node.host().namespace().ip("link del lan0\n")?;
    }
    moved?;
    without_policy(&s).await
}

/// An administrator asks for another node, and gets it without a loss; then for one that may not, and gets the reason.
pub(crate) async fn moved_on_request(s: Scene) -> Result<()> {
    let served = Served::new(s.clone(), V4).await?;
    let prober = served.probe(&s.browser()).await?;
    let address = served.address;
    let ask = async |node: &str| {
        let request = format!("ferrolb.io/move-to={node}");
        let object = address.to_string();
        s.kubectl(&["annotate", "--overwrite", "virtualip", &object, &request])
            .await
    };
    let to = &served.placement.standbys[1];
    ask(to).await?;
    ensure!(served.inherited().await? == *to, "another node has it");
    s.condition(address, "Moved", "True", to).await?;
    s.event("web", "addressMoved", to).await?;
    ask("node-4").await?;
    s.condition(
        address,
        "Moved",
        "False",
        "CannotMove: node node-4 may not announce the address: NotSelected",
    )
    .await?;
    s.event("web", "moveFailed", "NotSelected").await?;
    ensure!(s.owner(address).await? == *to, "it moved once more");
    served_again(&prober, prober.so_far().answered()).await?;
    none_lost(&told("moved on request", prober))
}

/// All addresses are on one node, since the others were excluded. An administrator lets two of them move, and two move.
pub(crate) async fn spread_on_request(s: Scene) -> Result<()> {
    s.apply_config(&s.pool()).await?;
    s.apply(&deployment("web", 2)).await?;
    s.ready("web", 2).await?;
    let (full, others) = s.nodes().split_first().context("no node")?;
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    for node in others {
        node.label(label, Some("true")).await?;
    }
    let made = async {
        let mut addresses = Vec::new();
        for name in ["a", "b", "c", "d"] {
            let service = service(name, "web", "type: LoadBalancer");
            let address = s.apply_and_address(name, &service).await?;
            s.answered_by(address, full.name()).await?;
            addresses.push(address);
        }
        anyhow::Ok(addresses)
    }
    .await;
    for node in others {
        node.label(label, None).await?;
    }
    let addresses = made?;
    s.fence().await?;
    let request = format!("2 {}", s.namespace());
    let object = ["-n", NAMESPACE, "configurationstate", "controller"];
    let ask = format!("ferrolb.io/rebalance={request}");
    let kubectl = async |verb: &[&str], rest: &[&str]| s.lab().kubectl(&[verb, &object, rest].concat()).await;
    kubectl(&["annotate", "--overwrite"], &[&ask]).await?;
    let answer = format!("{request}: moved 2 addresses, as many as it may");
    wait_until("the request to be answered", PATIENCE, async || {
        let state = kubectl(&["get"], &["-o", "json"]).await?;
        ensure!(state.contains(&answer), "{state}");
        Ok(())
    })
    .await?;
    let mut moved = 0;
    for address in addresses {
        let owner = s.owner(address).await?;
        moved += usize::from(owner != full.name());
        s.answered_by(address, &owner).await?;
    }
    ensure!(moved == 2, "{moved} addresses have moved");
    Ok(())
}
