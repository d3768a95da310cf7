//! What a BGPPeer and its policies can say, against a router that has to agree: everything at once over IPv6 and several hops,
//! addresses that nodes give, routers that dial themselves, and peers with which something is wrong beside one that is right.

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::lab::{EventLine, NAMESPACE};
use ferrolb_lab::wait_until;
use serde_json::Value;

use crate::bgp::{NODES, Told, all, page, session, state, web};
use crate::manifests::{deployment, service};
use crate::router::{ASN, Router};
use crate::scene::{PATIENCE, Scene};

/// Where the speakers of this group listen, which may not have port 179.
pub(crate) const PORT: u16 = 1790;

/// A selector of one node.
fn only(node: &str) -> String {
    format!("[{{matchLabels: {{kubernetes.io/hostname: {node}}}}}]")
}

/// A policy called `name` for `node`, and what it says of BGP.
fn policy(name: &str, node: &str, bgp: &str) -> String {
    format!(
        "apiVersion: ferrolb.io/v1alpha1\nkind: AnnouncementPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{nodeSelectors: {}, bgp: {{{bgp}}}}}\n",
        only(node)
    )
}

/// The ends of a session that is a hop away from both: the node's and the router's.
const FAR: [&str; 2] = ["fd00:98::1", "fd00:98::9"];

/// Every setting of a peer and of its routes that a router can see, over IPv6 between addresses of the machines themselves:
/// AS numbers, router id, timers, both families with IPv6 next hops (RFC 8950), BFD over several hops, and what a policy adds.
pub(crate) async fn every_setting(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let node = s.node("node-1")?.host();
    let [ours, theirs] = FAR;
    let to = |a: &ferrolb_lab::net::Host| a.v6().map(|a| a.to_string()).context("it has IPv6");
    node.namespace().ip(&format!(
        "addr add {ours}/128 dev lo nodad\nroute add {theirs}/128 via {}\n",
        to(router.host())?
    ))?;
    router.host().namespace().ip(&format!(
        "addr add {theirs}/128 dev lo nodad\nroute add {ours}/128 via {}\n",
        to(node)?
    ))?;
    let lines = [
        "remote-as 64700",
        "passive",
        "ebgp-multihop 4",
        &format!("update-source {theirs}"),
        "timers 7 21",
        "capability extended-nexthop",
        "bfd 3 100 100",
    ];
    let mut lines: Vec<_> = lines.iter().map(|line| format!("neighbor {ours} {line}")).collect();
    for family in ["ipv4", "ipv6"] {
        lines.push(format!("address-family {family} unicast"));
        lines.push(format!("neighbor {ours} activate"));
        lines.push("exit-address-family".to_owned());
    }
    router.configure_bgp(&lines)?;

    let name = s.namespace();
    let mut told = Told::new(&s, NODES);
    // In place of the address and the number that every other scenario has.
    let yaml = |told: &Told| {
        told.yaml(&s, theirs)
            .replace(&format!("peerASN: {ASN}"), "dynamicASN: external")
    };
    told.peer = format!(
        "localASN: 64700\nsourceAddress: '{ours}'\nrouterID: 10.9.9.9\nholdTime: 30s\nkeepaliveTime: 5s\nebgpMultiHop: true\n\
         dualStackAddressFamily: true\nenableGracefulRestart: true\nbfdProfile: {name}\nnodeSelectors: {}\n",
        only("node-1")
    );
    told.advertisement = "communities: ['64512:77', 'large:64512:1:2']\nasPathPrepend: 2".to_owned();
    let more = format!(
        "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec: {{receiveInterval: 100, transmitInterval: 100, detectMultiplier: 3, minimumTtl: 250}}\n---\n{}",
        policy(
            name,
            "node-1",
            "med: 30, largeCommunities: ['64512:8:9'], extendedCommunities: ['rt:64512:100', 'soo:192.0.2.1:7'], \
             linkBandwidth: {megabitsPerEndpoint: 100}"
        )
    );
    s.apply_config(&more).await?;
    s.apply_config(&yaml(&told)).await?;
    let here = "      nodeSelector: {kubernetes.io/hostname: node-1}\n";
    s.apply(&(deployment("web", 2) + here)).await?;
    let dual = "type: LoadBalancer\nipFamilyPolicy: RequireDualStack";
    s.apply(&service("web", "web", dual)).await?;
    s.ready("web", 2).await?;
    let addresses = s.addresses("web", 2).await?;

    for address in &addresses {
        let prefix = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
        let path = wait_until(&format!("a path to {prefix}"), PATIENCE, async || {
            let paths = router.paths(&prefix)?;
            paths.into_iter().next().context("there is none")
        })
        .await?;
        let extended = path["extendedCommunity"]["string"].to_string();
        let wrong = [
            (path["aspath"]["string"] == "64700 64700 64700", "AS path"),
            (path["metric"] == 30, "MED"),
            (path["community"]["string"] == "64512:77", "community"),
            (
                path["largeCommunity"]["string"] == "64512:1:2 64512:8:9",
                "large communities",
            ),
            (
                extended.contains("RT:64512:100") && extended.contains("SoO:192.0.2.1:7"),
                "extended communities",
            ),
            // Two endpoints on the node: 200 Mbit/s, in octets.
            (extended.contains("LB:64700:25000000"), "link bandwidth"),
            (path["nexthops"][0]["ip"] == ours, "next hop"),
        ];
        let wrong: Vec<_> = wrong.iter().filter(|(right, _)| !right).map(|(_, what)| what).collect();
        ensure!(wrong.is_empty(), "{wrong:?} of {path}");
    }
    let seen = router.bgp(&format!("show bgp neighbors {ours}"))?[ours].take();
    let right = seen["bgpState"] == "Established"
        && seen["remoteAs"] == 64700
        && seen["remoteRouterId"] == "10.9.9.9"
        && seen["bgpTimerHoldTimeMsecs"] == 21_000
        && seen["hostForeign"] == ours
        && seen["connectionsEstablished"] == 1;
    ensure!(right, "it is {seen}");
    state(&s, "node-1", "all that was agreed upon", |session| {
        let agreed = &session["negotiated"];
        let capabilities = agreed["capabilities"].to_string();
        let said = ["ipv4-unicast", "ipv6-unicast", "extended-next-hop", "graceful-restart"];
        agreed["peerAsn"] == ASN
            && agreed["holdSeconds"] == 21
            && agreed["keepaliveSeconds"] == 5
            && said.iter().all(|part| capabilities.contains(part))
            && session["bfd"]["state"] == "Up"
    })
    .await?;
    page(
        &router,
        addresses
            .iter()
            .copied()
            .find(|a| a.is_ipv4())
            .context("an IPv4 address")?,
    )
    .await?;
    s.lab().delete(NAMESPACE, &yaml(&told)).await?;
    s.lab().delete(NAMESPACE, &more).await
}

/// One BGPPeer for nodes that each find their router in another place: a label, an annotation, the default gateway. What is
/// missing is told on the node that misses it, and nowhere else.
pub(crate) async fn one_peer_for_a_fleet(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let name = s.namespace();
    let told = Told::new(&s, NODES);
    let yaml = told
        .yaml(&s, "0.0.0.0")
        .replace(&format!("peerASN: {ASN}"), "dynamicASN: external");
    s.apply_config(&yaml).await?;
    let says = |node: &str, address: &str| {
        let asn = if node == "node-2" {
            ", asn: {nodeAnnotation: lab/asn}"
        } else {
            ""
        };
        let peers = format!("peers: [{{name: {name}, address: {{{address}}}{asn}}}]");
        policy(&format!("{name}-{node}"), node, &peers)
    };
    let policies = [
        says("node-1", "nodeLabel: lab/tor"),
        says("node-2", "nodeAnnotation: lab/tor"),
        says("node-3", "defaultGateway: IPv4"),
    ];
    let policies = policies.join("---\n");
    s.apply_config(&policies).await?;
    let address = web(&s, 3, "type: LoadBalancer").await?;
    let prefix = format!("{address}/32");
    session(&s, "node-1", name, "that the label is missing", |session| {
        let error = session["lastError"].as_str().unwrap_or_default();
        error.contains("has no label \"lab/tor\"")
    })
    .await?;

    let at = router.address();
    s.kubectl(&["label", "node", "node-1", &format!("lab/tor={at}")])
        .await?;
    let of_node_2 = [format!("lab/tor={at}"), format!("lab/asn={ASN}")];
    s.kubectl(&["annotate", "node", "node-2", &of_node_2[0], &of_node_2[1]])
        .await?;
    let gateway = s.node("node-3")?.host().namespace();
    let before = gateway.output("ip", &["route", "show", "default"])?;
    gateway.ip(&format!("route replace default via {at}\n"))?;
    let seen = async {
        router.forwards(&s, &prefix, &all(&s)).await?;
        page(&router, address).await?;
        // Without its label a session that stands stays, and says so.
        s.kubectl(&["label", "node", "node-1", "lab/tor-"]).await?;
        session(&s, "node-1", name, "that the label is gone", |session| {
            let error = session["lastError"].as_str().unwrap_or_default();
            session["state"] == "Established" && error.contains("has no label \"lab/tor\"")
        })
        .await?;
        ensure!(router.establishments(&s)? == 3, "a session was reset");
        router.forwards(&s, &prefix, &all(&s)).await
    }
    .await;
    gateway.ip(&format!("route replace {}\n", before.trim()))?;
    s.kubectl(&["annotate", "node", "node-2", "lab/tor-", "lab/asn-"])
        .await?;
    seen?;
    s.lab().delete(NAMESPACE, &policies).await?;
    s.lab().delete(NAMESPACE, &yaml).await
}

/// Routers that insist on dialling are let in where a policy says so; where both sides dial, one connection is kept, time after
/// time.
pub(crate) async fn router_connects(s: Scene) -> Result<()> {
    let port = format!("neighbor @ port {PORT}");
    let lines = ["no neighbor @ passive", "neighbor @ timers connect 1", &port];
    let router = Router::start(&s, NODES, &lines).await?;
    let name = s.namespace();
    let told = Told::new(&s, NODES);
    let opened_by = |who: &str| {
        format!(
            "apiVersion: ferrolb.io/v1alpha1\nkind: AnnouncementPolicy\nmetadata: {{name: {name}}}\n\
             spec: {{bgp: {{peers: [{{name: {name}, openedBy: {who}}}]}}}}\n"
        )
    };
    s.apply_config(&opened_by("Router")).await?;
    told.apply(&s, &router).await?;
    let address = web(&s, 3, "type: LoadBalancer").await?;
    let prefix = format!("{address}/32");
    router.forwards(&s, &prefix, &all(&s)).await?;
    for node in s.nodes() {
        let session = router.session(&s, node.name())?;
        ensure!(session["portForeign"] == PORT, "the speaker has dialled: {session}");
    }
    s.apply_config(&opened_by("Both")).await?;
    s.fence().await?;
    ensure!(router.establishments(&s)? == 3, "a session was reset");
    for times in [6, 9] {
        router.command("clear bgp *")?;
        wait_until("all sessions to be back", PATIENCE, async || {
            let counted = router.establishments(&s)?;
            ensure!(counted == times, "{counted}");
            Ok(())
        })
        .await?;
        router.forwards(&s, &prefix, &all(&s)).await?;
    }
    // Longer than the hold time.
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    ensure!(router.establishments(&s)? == 9, "a session was reset");
    page(&router, address).await?;
    told.delete(&s, &router).await?;
    s.lab().delete(NAMESPACE, &opened_by("Both")).await
}

/// A router with TTL security hears nobody who does not do the same; where a policy says so, the speaker does.
pub(crate) async fn ttl_security(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &["neighbor @ ttl-security hops 1"]).await?;
    let name = s.namespace();
    let told = Told::new(&s, NODES);
    told.apply(&s, &router).await?;
    let address = web(&s, 1, "type: LoadBalancer").await?;
    session(&s, "node-1", name, "that it is not heard", |session| {
        session["state"] != "Established" && !session["lastError"].as_str().unwrap_or_default().is_empty()
    })
    .await?;
    ensure!(router.establishments(&s)? == 0, "it hears packets with any TTL");
    let policy = format!(
        "apiVersion: ferrolb.io/v1alpha1\nkind: AnnouncementPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{bgp: {{peers: [{{name: {name}, ttlSecurityHops: 1}}]}}}}\n"
    );
    s.apply_config(&policy).await?;
    router.forwards(&s, &format!("{address}/32"), &all(&s)).await?;
    page(&router, address).await?;
    told.delete(&s, &router).await?;
    s.lab().delete(NAMESPACE, &policy).await
}

/// Peers with which something is wrong say so on their own object and in the state of the node; the one beside them never
/// notices, and each of them works once it is set right.
pub(crate) async fn one_fault_each(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let told = Told::new(&s, NODES);
    told.apply(&s, &router).await?;
    let address = web(&s, 1, "type: LoadBalancer").await?;
    let prefix = format!("{address}/32");
    router.forwards(&s, &prefix, &all(&s)).await?;
    let name = s.namespace().to_owned();
    let peer = |n: u8, what: &str| {
        format!(
            "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: {name}-{n}, namespace: {NAMESPACE}}}\n\
             spec: {{myASN: {NODES}, peerASN: {ASN}, connectTime: 1s, {what}}}\n"
        )
    };
    let nobody = "peerAddress: 172.30.9.9";
    let faults = [
        (1, format!("{nobody}, bfdProfile: no-such-profile"), "no-such-profile"),
        (2, format!("peerAddress: {}", router.address()), name.as_str()),
    ];
    for (n, what, part) in &faults {
        s.apply_config(&peer(*n, what)).await?;
        let object = format!("{name}-{n}");
        wait_until(&format!("a warning with {part:?} on {object}"), PATIENCE, async || {
            let events = s.events(NAMESPACE, "BGPPeer", &object).await?;
            let told = |e: &EventLine| e.kind == "Warning" && e.message.contains(part);
            ensure!(events.iter().any(told), "events: {events:?}");
            Ok(())
        })
        .await?;
    }
    let failing = [
        (
            4,
            format!("{nobody}, sourceAddress: 192.0.2.77"),
            "source address 192.0.2.77",
        ),
        (
            5,
            format!("{nobody}, passwordSecret: {{name: no-such-secret}}"),
            "no-such-secret",
        ),
        (6, format!("{nobody}, vrf: no-such-vrf"), "no-such-vrf"),
    ];
    for (n, what, part) in &failing {
        s.apply_config(&peer(*n, what)).await?;
        session(&s, "node-1", &format!("{name}-{n}"), part, |session: &Value| {
            let error = session["lastError"].as_str().unwrap_or_default();
            session["state"] != "Established" && error.contains(part)
        })
        .await?;
        s.lab().delete(NAMESPACE, &peer(*n, what)).await?;
    }
    ensure!(router.establishments(&s)? == 3, "a session was reset");
    router.forwards(&s, &prefix, &all(&s)).await?;
    page(&router, address).await?;
    for (n, what, _) in &faults {
        s.lab().delete(NAMESPACE, &peer(*n, what)).await?;
    }
    told.delete(&s, &router).await
}
