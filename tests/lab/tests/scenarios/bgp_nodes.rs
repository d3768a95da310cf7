//! Nodes and their routers: a node that loses its power, of which a router knows at once with BFD and when the hold time is
//! over without it, seen by a client behind it; and a router at the end of a link that has no addresses but the kernel's own.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::client::Probe;
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::wait_until;

use crate::bgp::{NODES, Told, page, state, web};
use crate::failover::{served_again, told as tally_of};
use crate::hand_over::upgrade;
use crate::manifests::{deployment, pool, service};
use crate::router::{ASN, Router};
use crate::scene::{PATIENCE, Scene};

/// The node that the router prefers, and that is lost.
const LOST: &str = "node-1";
/// Its interface to a router alone.
const UPLINK: &str = "uplink";
/// What FRR grants the smallest hold time that BGP allows.
const HOLD: Duration = Duration::from_secs(3);

/// A BFD of 100 ms x 3 finds the node dead.
pub(crate) async fn lost_with_bfd(s: Scene) -> Result<()> {
    let profile = format!(
        "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {{name: fast, namespace: {NAMESPACE}}}\n\
         spec: {{receiveInterval: 100, transmitInterval: 100, detectMultiplier: 3}}\n"
    );
    s.apply_config(&profile).await?;
    let lines = ["neighbor @ timers 60 180", "neighbor @ bfd 3 100 100"];
    let silence = silence(&s, &lines, "bfdProfile: fast\nholdTime: 180s").await?;
    // `xtask bench bgp` measures; this bound is one that a busy machine keeps, too.
    ensure!(silence < Duration::from_secs(2), "the client waited for {silence:?}");
    s.lab().delete(NAMESPACE, &profile).await
}

/// The hold time alone finds the node dead.
pub(crate) async fn lost_without_bfd(s: Scene) -> Result<()> {
    let silence = silence(&s, &["neighbor @ timers 1 3"], "holdTime: 3s\nkeepaliveTime: 1s").await?;
    ensure!(silence < 2 * HOLD, "the client waited for {silence:?}");
    Ok(())
}

/// How long a client behind a router, whose neighbours have these lines, waits when the node fails that its packets go to.
async fn silence(s: &Scene, lines: &[&str], peer: &str) -> Result<Duration> {
    let router = Router::start(s, ASN, lines).await?;
    let mut told = Told::new(s, ASN);
    told.peer = peer.to_owned();
    let on = |operator: &str| {
        format!(
            "nodeSelectors:\n- matchExpressions:\n  - {{key: kubernetes.io/hostname, operator: {operator}, values: [{LOST}]}}\n"
        )
    };
    told.advertisement = format!("localPref: 200\n{}", on("In"));
    told.apply(s, &router).await?;
    told.advertisement = format!("localPref: 100\n{}", on("NotIn"));
    let others = told.advertisement_yaml("others");
    s.apply_config(&others).await?;

    let elsewhere = format!(
        "      affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [\
         {{matchExpressions: [{{key: kubernetes.io/hostname, operator: NotIn, values: [{LOST}]}}]}}]}}}}}}\n"
    );
    s.apply(&(deployment("web", 2) + &elsewhere)).await?;
    let udp = "- { name: echo, port: 5353, protocol: UDP }\n";
    s.apply(&service("web", "web", "type: LoadBalancer").replace("  type:", &format!("    {udp}  type:")))
        .await?;
    s.ready("web", 2).await?;
    let address = s.addresses("web", 1).await?[0];
    let prefix = format!("{address}/32");
    router.forwards(s, &prefix, &[LOST]).await?;
    page(&router, address).await?;
    if peer.contains("bfd") {
        state(s, LOST, "that BFD is up", |session| session["bfd"]["state"] == "Up").await?;
    }

    let every = Duration::from_millis(1);
    let prober = router.client().probe((address, 5353).into(), Probe::Udp, every)?;
    served_again(&prober, 0).await?;
    let before = prober.so_far().answered();
    s.node(LOST)?.power_off()?;
    served_again(&prober, before).await?;
    router.forwards(s, &prefix, &["node-2", "node-3"]).await?;
    let tally = tally_of(
        if peer.contains("bfd") {
            "node lost, BFD"
        } else {
            "node lost"
        },
        prober,
    );

    s.node(LOST)?.power_on()?;
    s.node_ready(LOST).await?;
    s.wait_ferrolb_ready().await?;
    wait_until("the router to prefer the node again", PATIENCE, async || {
        let hops = router.hops(&prefix)?;
        ensure!(
            hops == [s.node(LOST)?.host().address().to_string()],
            "the next hops are {hops:?}"
        );
        Ok(())
    })
    .await?;
    s.lab().delete(NAMESPACE, &others).await?;
    told.delete(s, &router).await?;
    Ok(tally.longest_gap)
}

/// By the name of an interface: router and node find each other by Router Advertisements, and an IPv4 route has an IPv6 next
/// hop (RFC 8950).
pub(crate) async fn unnumbered(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let name = s.namespace();
    let node = s.node(LOST)?;
    router.link(node.host(), UPLINK, NODES)?;
    let yaml = format!(
        "{}\n---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec:\n  myASN: {NODES}\n  peerASN: {ASN}\n  interface: {UPLINK}\n  connectTime: 1s\n  \
         nodeSelectors: [{{matchLabels: {{kubernetes.io/hostname: {LOST}}}}}]\n\
         ---\napiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec: {{ipAddressPools: [{name}], peers: [{name}]}}\n",
        pool(name, s.namespace(), &[&s.range_v4()])
    );
    s.apply_config(&yaml).await?;
    let address = web(&s, 1, "type: LoadBalancer").await?;
    let prefix = format!("{address}/32");
    wait_until("a next hop on the link", PATIENCE, async || {
        let paths = router.paths(&prefix)?;
        let path = paths.first().context("there is no path")?;
        let hop = &path["nexthops"][0];
        let address = hop["ip"].as_str().unwrap_or_default();
        let on_link = address.starts_with("fe80:") && hop["used"] == true;
        ensure!(on_link, "it is {path}");
        Ok(())
    })
    .await?;
    page(&router, address).await?;
    state(&s, LOST, "the session on the link", |session| {
        session["state"] == "Established" && session["prefixesSent"] == 1
    })
    .await?;
    // The next speaker goes on with it.
    upgrade(&s, LOST).await?;
    let own = format!("{UPLINK}-{LOST}");
    let session = router.bgp(&format!("show bgp neighbors {own}"))?[&own].take();
    let times = &session["connectionsEstablished"];
    ensure!(session["bgpState"] == "Established" && *times == 1, "it is {session}");
    s.kubectl(&["delete", "svc", "web"]).await?;
    wait_until("the route to go", PATIENCE, async || {
        ensure!(router.paths(&prefix)?.is_empty(), "it is there");
        Ok(())
    })
    .await?;
    s.lab().delete(NAMESPACE, &yaml).await
}
