//! Services told to a router by BGP: seen from the router, from a client behind it, and from the objects of the API.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::client::Steady;
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::{Program, wait_until};
use serde_json::Value;

use crate::manifests::{deployment, pool, service};
use crate::router::{ASN, Router};
use crate::scene::{PATIENCE, Scene};

/// The AS of the nodes where they have one of their own.
pub(crate) const NODES: u32 = 64600;

/// The length of an aggregate that the range of a scenario's pool allows: its widest block is a /28.
const AGGREGATE: u32 = 28;

/// The objects of one scenario, all called like its namespace.
pub(crate) struct Told {
    name: String,
    asn: u32,
    /// Further lines of the BGPPeer's spec.
    pub(crate) peer: String,
    /// Further lines of the BGPAdvertisement's spec.
    pub(crate) advertisement: String,
}

impl Told {
    pub(crate) fn new(s: &Scene, asn: u32) -> Self {
        Told {
            name: s.namespace().to_owned(),
            asn,
            peer: String::new(),
            advertisement: String::new(),
        }
    }

    /// All of them, with the router's address.
    pub(crate) fn yaml(&self, s: &Scene, address: &str) -> String {
        let (name, asn) = (&self.name, self.asn);
        format!(
            "{}\n---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
             spec:\n  myASN: {asn}\n  peerASN: {ASN}\n  peerAddress: {address}\n  connectTime: 1s\n{}---\n{}",
            pool(name, s.namespace(), &[&s.range_v4(), &s.range_v6()]),
            indented(&self.peer),
            self.advertisement_yaml(name)
        )
    }

    /// A BGPAdvertisement of that name.
    pub(crate) fn advertisement_yaml(&self, name: &str) -> String {
        format!(
            "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
             spec:\n  ipAddressPools: [{0}]\n  peers: [{0}]\n{1}",
            self.name,
            indented(&self.advertisement)
        )
    }

    pub(crate) async fn apply(&self, s: &Scene, router: &Router) -> Result<()> {
        s.apply_config(&self.yaml(s, &router.address())).await
    }

    /// Takes peer and advertisement back, so that the next scenario begins without them.
    pub(crate) async fn delete(&self, s: &Scene, router: &Router) -> Result<()> {
        s.lab().delete(NAMESPACE, &self.yaml(s, &router.address())).await
    }
}

/// Lines of a spec.
fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("  {line}\n")).collect()
}

/// A Service `web` on all nodes, and its address.
pub(crate) async fn web(s: &Scene, replicas: u32, spec: &str) -> Result<IpAddr> {
    s.apply(&deployment("web", replicas)).await?;
    s.apply(&service("web", "web", spec)).await?;
    s.ready("web", usize::try_from(replicas)?).await?;
    Ok(s.addresses("web", 1).await?[0])
}

/// Logs, state and metrics of all speakers are without this part of a key.
pub(crate) async fn nobody_tells(s: &Scene, key: &str) -> Result<()> {
    for node in s.nodes() {
        let said = std::fs::read_to_string(node.program(Program::Speaker)?.log())?;
        let shown = s.json(&format!("speakerstate/{}", node.name())).await?.to_string();
        let metrics = s.metrics(node.host()).await?;
        let told = [said, shown, metrics].concat().contains(key);
        ensure!(!told, "{} tells the key", node.name());
    }
    Ok(())
}

/// A Secret with the key of sessions.
pub(crate) fn secret(name: &str, key: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         type: kubernetes.io/basic-auth\nstringData: {{username: '', password: {key}}}\n"
    )
}

/// Who asks for the page behind the router without a pause.
pub(crate) fn steady(router: &Router, address: IpAddr) -> Result<Steady> {
    let every = Duration::from_millis(5);
    router
        .client()
        .steady_http((address, 80).into(), "lab.example", "/", every)
}

/// No request failed.
pub(crate) fn none_failed(steady: Steady) -> Result<()> {
    let seen = steady.stop()?;
    ensure!(seen.failed == 0 && seen.retried == 0 && seen.requests > 10, "{seen:?}");
    Ok(())
}

/// The names of all nodes.
pub(crate) fn all(s: &Scene) -> Vec<&str> {
    s.nodes().iter().map(|node| node.name()).collect()
}

/// The page, as the client behind the router gets it.
pub(crate) async fn page(router: &Router, address: IpAddr) -> Result<String> {
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
    let mut nodes = BTreeSet::new();
    for _ in 0..60 {
        nodes.insert(page(&router, address).await?);
    }
    ensure!(nodes.len() == 3, "pages came from {nodes:?} only");

    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    s.kubectl(&["label", "node", "node-1", &format!("{label}=true")])
        .await?;
    let drained = async {
        router.leaving(&s, "node-1", &prefix).await?;
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

/// Under traffic policy Local only nodes with an endpoint are next hops, and an endpoint sees the client's own address.
pub(crate) async fn local_traffic_policy(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let told = Told::new(&s, NODES);
    told.apply(&s, &router).await?;
    let address = web(&s, 1, "type: LoadBalancer\nexternalTrafficPolicy: Local").await?;
    let prefix = format!("{address}/32");
    let node = page(&router, address).await?;
    router.forwards(&s, &prefix, &[&node]).await?;
    s.kubectl(&["scale", "deployment", "web", "--replicas=3"]).await?;
    s.ready("web", 3).await?;
    router.forwards(&s, &prefix, &all(&s)).await?;
    s.kubectl(&["scale", "deployment", "web", "--replicas=0"]).await?;
    router.forwards(&s, &prefix, &[]).await?;
    told.delete(&s, &router).await
}

/// Over one IPv4 session a router learns both addresses of a Service, each with a next hop of its family.
pub(crate) async fn both_families(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let mut told = Told::new(&s, NODES);
    told.peer = "dualStackAddressFamily: true".to_owned();
    told.apply(&s, &router).await?;
    s.apply(&deployment("web", 1)).await?;
    s.apply(&service(
        "web",
        "web",
        "type: LoadBalancer\nipFamilyPolicy: RequireDualStack",
    ))
    .await?;
    for address in s.addresses("web", 2).await? {
        let length = if address.is_ipv4() { 32 } else { 128 };
        router.forwards(&s, &format!("{address}/{length}"), &all(&s)).await?;
    }
    told.delete(&s, &router).await
}

/// What an advertisement and a policy say of a route arrives, and their changes reset no session.
pub(crate) async fn attributes(s: Scene) -> Result<()> {
    let router = Router::start(&s, ASN, &[]).await?;
    let mut told = Told::new(&s, ASN);
    told.apply(&s, &router).await?;
    let address = web(&s, 1, "type: LoadBalancer").await?;
    let prefix = format!("{address}/32");
    router.forwards(&s, &prefix, &all(&s)).await?;
    let path = &router.paths(&prefix)?[0];
    ensure!(
        path["locPrf"] == 100,
        "the default local preference is {}",
        path["locPrf"]
    );

    let alias = format!(
        "apiVersion: metallb.io/v1beta1\nkind: Community\nmetadata: {{name: {0}, namespace: {NAMESPACE}}}\n\
         spec: {{communities: [{{name: {0}-fast, value: '64512:77'}}]}}\n---\n\
         apiVersion: ferrolb.io/v1alpha1\nkind: AnnouncementPolicy\nmetadata: {{name: {0}}}\n\
         spec: {{ipAddressPools: [{0}], bgp: {{med: 30, largeCommunities: ['64512:8:9']}}}}\n",
        told.name
    );
    s.apply_config(&alias).await?;
    let community = format!(
        "localPref: 150\ncommunities: [{}-fast, '64512:78']\naggregationLength: {AGGREGATE}",
        told.name
    );
    told.advertisement = community;
    told.apply(&s, &router).await?;
    // The host route goes, the aggregate comes.
    let aggregate = prefix_of(address, AGGREGATE)?;
    router.forwards(&s, &aggregate, &all(&s)).await?;
    router.forwards(&s, &prefix, &[]).await?;
    wait_until("the attributes to arrive", PATIENCE, async || {
        let paths = router.paths(&aggregate)?;
        let path = paths.first().context("there is no path")?;
        let (community, large) = (&path["community"]["string"], &path["largeCommunity"]["string"]);
        let right = path["locPrf"] == 150 && path["metric"] == 30 && *community == "64512:77 64512:78";
        ensure!(right && *large == "64512:8:9", "it is {path}");
        Ok(())
    })
    .await?;
    page(&router, address).await?;
    ensure!(router.establishments(&s)? == 3, "a session was reset");
    s.lab().delete(NAMESPACE, &alias).await?;
    told.delete(&s, &router).await
}

/// A session needs the key of its Secret; without it, object and router say so.
pub(crate) async fn password(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &["neighbor @ password s3cret-of-the-lab"]).await?;
    let mut told = Told::new(&s, NODES);
    told.peer = "passwordSecret: {name: router-key}".to_owned();
    told.apply(&s, &router).await?;
    state(&s, "node-1", "that the Secret is missing", |session| {
        let error = session["lastError"].as_str().unwrap_or_default();
        session["state"] == "Idle" && error.contains("\"router-key\"") && error.contains("basic-auth")
    })
    .await?;
    let secret = |key: &str| secret("router-key", key);
    s.apply_config(&secret("wrong")).await?;
    state(&s, "node-1", "that it cannot connect", |session| {
        session["lastError"]
            .as_str()
            .is_some_and(|error| error.starts_with("cannot connect"))
    })
    .await?;
    s.apply_config(&secret("s3cret-of-the-lab")).await?;
    router.established(&s).await?;
    let address = web(&s, 1, "type: LoadBalancer").await?;
    router.forwards(&s, &format!("{address}/32"), &all(&s)).await?;
    nobody_tells(&s, "s3cret").await?;
    told.delete(&s, &router).await?;
    s.lab().delete(NAMESPACE, &secret("x")).await
}

/// With graceful restart the router keeps its routes while a speaker is killed, and while one is stopped and started:
/// no request fails, and the session comes back.
pub(crate) async fn restart_keeps_routes(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let mut told = Told::new(&s, NODES);
    told.peer = "enableGracefulRestart: true".to_owned();
    told.apply(&s, &router).await?;
    let address = web(&s, 3, "type: LoadBalancer").await?;
    let prefix = format!("{address}/32");
    router.forwards(&s, &prefix, &all(&s)).await?;
    page(&router, address).await?;
    let steady = steady(&router, address)?;
    let speaker = s.node("node-1")?.program(Program::Speaker)?;
    for (how, times) in [("killed", 2), ("stopped", 3)] {
        match how {
            "killed" => speaker.kill(),
            _ => drop(speaker.stop(PATIENCE).await?),
        }
        wait_until(&format!("the router to miss node-1, {how}"), PATIENCE, async || {
            let session = router.session(&s, "node-1")?;
            ensure!(session["bgpState"] != "Established", "it has not noticed");
            Ok(())
        })
        .await?;
        router.forwards(&s, &prefix, &all(&s)).await?;
        speaker.restart()?;
        wait_until(&format!("node-1 to be back, {how}"), PATIENCE, async || {
            let session = router.session(&s, "node-1")?;
            let times_seen = session["connectionsEstablished"].as_u64();
            ensure!(
                session["bgpState"] == "Established" && times_seen == Some(times),
                "it is {session}"
            );
            Ok(())
        })
        .await?;
        router.forwards(&s, &prefix, &all(&s)).await?;
    }
    none_failed(steady)?;
    told.delete(&s, &router).await
}

/// BFD comes up beside the session; when the speaker is killed the router knows long before the hold time is over.
pub(crate) async fn bfd(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &["neighbor @ timers 60 180", "neighbor @ bfd 3 100 100"]).await?;
    let mut told = Told::new(&s, NODES);
    let profile = format!(
        "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {{name: fast, namespace: {NAMESPACE}}}\n\
         spec: {{receiveInterval: 100, transmitInterval: 100, detectMultiplier: 3}}\n"
    );
    s.apply_config(&profile).await?;
    told.peer = "bfdProfile: fast\nholdTime: 180s".to_owned();
    told.apply(&s, &router).await?;
    let address = web(&s, 1, "type: LoadBalancer").await?;
    let prefix = format!("{address}/32");
    router.forwards(&s, &prefix, &all(&s)).await?;
    for node in s.nodes() {
        state(&s, node.name(), "that BFD is up", |session| {
            session["bfd"]["state"] == "Up"
        })
        .await?;
    }
    let metrics = s.metrics(s.node("node-1")?.host()).await?;
    let up = format!(
        "metallb_bfd_session_up{{peer=\"{}:179\",vrf=\"default\"}} 1",
        router.address()
    );
    ensure!(metrics.lines().any(|line| line == up), "no {up} in:\n{metrics}");

    // The router's side: the speaker falls silent, with its connection open.
    let speaker = s.node("node-1")?.program(Program::Speaker)?;
    speaker.freeze()?;
    let start = std::time::Instant::now();
    let gone = router.forwards(&s, &prefix, &["node-2", "node-3"]).await;
    let after = start.elapsed();
    speaker.thaw()?;
    gone?;
    ensure!(after < Duration::from_secs(3), "only after {after:?}");
    router.forwards(&s, &prefix, &all(&s)).await?;
    told.delete(&s, &router).await?;
    s.lab().delete(NAMESPACE, &profile).await
}

/// SpeakerState, ServiceBGPStatus, metrics and events say what is told to whom, and that a router is gone.
pub(crate) async fn status(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let mut told = Told::new(&s, NODES);
    told.peer = "holdTime: 9s".to_owned();
    told.apply(&s, &router).await?;
    let address = web(&s, 1, "type: LoadBalancer\nexternalTrafficPolicy: Local").await?;
    let node = page(&router, address).await?;
    state(&s, &node, "what it told", |session| {
        let agreed = &session["negotiated"];
        session["state"] == "Established"
            && session["prefixesSent"] == 1
            && session["since"].is_string()
            && agreed["peerAsn"] == ASN
            && agreed["holdSeconds"] == 9
            && agreed["capabilities"].to_string().contains("ipv4-unicast")
    })
    .await?;
    let of = format!(
        "metallb.io/service-name=web,metallb.io/service-namespace={}",
        s.namespace()
    );
    let list = async || -> Result<Vec<Value>> {
        let args = ["-n", NAMESPACE, "get", "servicebgpstatuses", "-l", &of, "-o", "json"];
        let list: Value = serde_json::from_str(&s.lab().kubectl(&args).await?)?;
        Ok(list["items"].as_array().context("a list has items")?.clone())
    };
    wait_until("one ServiceBGPStatus", PATIENCE, async || {
        let items = list().await?;
        let statuses: Vec<&Value> = items.iter().map(|item| &item["status"]).collect();
        let right = |status: &Value| status["node"] == node && status["peers"] == serde_json::json!([told.name]);
        ensure!(
            matches!(statuses[..], [status] if right(status)),
            "there are {statuses:?}"
        );
        Ok(())
    })
    .await?;
    let metrics = s.metrics(s.node(&node)?.host()).await?;
    let peer = format!("{{peer=\"{}:179\",vrf=\"default\"}}", router.address());
    for line in [
        format!("metallb_bgp_session_up{peer} 1"),
        format!("metallb_bgp_announced_prefixes_total{peer} 1"),
        format!(
            "metallb_speaker_announced{{service=\"{}/web\",protocol=\"bgp\",node=\"{node}\",ip=\"{address}\"}} 1",
            s.namespace()
        ),
    ] {
        ensure!(metrics.lines().any(|l| l == line), "no {line} in:\n{metrics}");
    }
    let event = async |reason: &str| {
        wait_until(&format!("event {reason}"), PATIENCE, async || {
            let events = s.events(NAMESPACE, "BGPPeer", &told.name).await?;
            let by_node = |message: &str| message.contains(&format!("{node:?}"));
            ensure!(
                events.iter().any(|e| e.reason == reason && by_node(&e.message)),
                "{events:?}"
            );
            Ok(())
        })
        .await
    };
    event("bgpSessionUp").await?;

    s.kubectl(&["delete", "svc", "web"]).await?;
    wait_until("no ServiceBGPStatus", PATIENCE, async || {
        let items = list().await?;
        ensure!(items.is_empty(), "there are {items:?}");
        Ok(())
    })
    .await?;
    router.shut_down(&s, &node, "maintenance tonight")?;
    state(&s, &node, "what the router said", |session| {
        let error = session["lastError"].as_str().unwrap_or_default();
        session["state"] != "Established" && error.contains("maintenance tonight")
    })
    .await?;
    told.delete(&s, &router).await?;
    wait_until("no session to be told", PATIENCE, async || {
        let shown = s.json(&format!("speakerstate/{node}")).await?;
        ensure!(shown["status"]["bgp"].is_null(), "it says {}", shown["status"]["bgp"]);
        Ok(())
    })
    .await
}

/// Waits until the SpeakerState of `node` says this of its only session.
pub(crate) async fn state(s: &Scene, node: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
    wait_until(&format!("{node} to say {what}"), PATIENCE, async || {
        let sessions = sessions(s, node).await?;
        let [session] = sessions.as_slice() else {
            anyhow::bail!("its sessions are {sessions:?}")
        };
        ensure!(wanted(session), "it says {session}");
        Ok(())
    })
    .await
}

/// Waits until the SpeakerState of `node` says this of its session with a peer.
pub(crate) async fn session(
    s: &Scene,
    node: &str,
    peer: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<()> {
    wait_until(&format!("{node} to say {what} of {peer}"), PATIENCE, async || {
        let sessions = sessions(s, node).await?;
        let session = sessions.iter().find(|session| session["peer"] == peer);
        let session = session.with_context(|| format!("its sessions are {sessions:?}"))?;
        ensure!(wanted(session), "it says {session}");
        Ok(())
    })
    .await
}

/// The sessions in the SpeakerState of `node`.
async fn sessions(s: &Scene, node: &str) -> Result<Vec<Value>> {
    let state = s.json(&format!("speakerstate/{node}")).await?;
    let sessions = state["status"]["bgp"]["sessions"].as_array();
    Ok(sessions.context("it has no sessions")?.clone())
}

/// The prefix of an IPv4 address, as text.
fn prefix_of(address: IpAddr, length: u32) -> Result<String> {
    let IpAddr::V4(v4) = address else {
        anyhow::bail!("{address} is not IPv4")
    };
    let first = std::net::Ipv4Addr::from_bits(v4.to_bits() & (u32::MAX << (32 - length)));
    Ok(format!("{first}/{length}"))
}
