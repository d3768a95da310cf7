//! What changes under way while routers know of a Service: drains, pods that move, keys, policies that are asked for, and
//! outages. Seen from the router and from a client behind it.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::client::Probe;
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::{Program, wait_until};
use serde_json::Value;

use crate::bgp::{NODES, Told, all, nobody_tells, none_failed, page, secret, state, steady, web};
use crate::manifests::{advertisement, deployment, service};
use crate::router::Router;
use crate::scene::{PATIENCE, Scene};

/// A policy called like the scenario's namespace, for its pool.
fn policy(s: &Scene, spec: &str) -> String {
    let name = s.namespace();
    format!(
        "apiVersion: ferrolb.io/v1alpha1\nkind: AnnouncementPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{ipAddressPools: [{name}], {spec}}}\n"
    )
}

/// A Service `web` with a port for UDP echo, 3 pods, and its address.
async fn echo(s: &Scene) -> Result<IpAddr> {
    s.apply(&deployment("web", 3)).await?;
    let udp = "- { name: echo, port: 5353, protocol: UDP }\n";
    let yaml = service("web", "web", "type: LoadBalancer").replace("  type:", &format!("    {udp}  type:"));
    s.apply(&yaml).await?;
    s.ready("web", 3).await?;
    Ok(s.addresses("web", 1).await?[0])
}

/// How many objects of a kind tell something of a Service `web`, for each node that has any.
async fn told_of(s: &Scene, kind: &str) -> Result<Vec<(String, usize)>> {
    let of = format!(
        "metallb.io/service-name=web,metallb.io/service-namespace={}",
        s.namespace()
    );
    let args = ["-n", NAMESPACE, "get", kind, "-l", &of, "-o", "json"];
    let list: Value = serde_json::from_str(&s.lab().kubectl(&args).await?)?;
    let items = list["items"].as_array().context("a list has items")?;
    let node = |item: &Value| item["status"]["node"].as_str().unwrap_or_default().to_owned();
    let mut told = std::collections::BTreeMap::new();
    items.iter().for_each(|item| *told.entry(node(item)).or_default() += 1);
    Ok(told.into_iter().collect())
}

async fn tell(s: &Scene, kind: &str, nodes: &[&str]) -> Result<()> {
    wait_until(&format!("{kind} of {nodes:?} alone"), PATIENCE, async || {
        let told = told_of(s, kind).await?;
        let right = told.iter().map(|(node, count)| (node.as_str(), *count));
        ensure!(right.eq(nodes.iter().map(|node| (*node, 1))), "there are {told:?}");
        Ok(())
    })
    .await
}

/// A speaker that does layer 2 alone from now on, or BGP alone, takes back what it has said of the other, and of nothing else.
pub(crate) async fn one_protocol_alone(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let told = Told::new(&s, NODES);
    told.apply(&s, &router).await?;
    let layer2 = advertisement(&[s.namespace().to_owned()]);
    s.apply_config(&layer2).await?;
    let address = web(&s, 1, "type: LoadBalancer").await?;
    let prefix = format!("{address}/32");
    router.forwards(&s, &prefix, &all(&s)).await?;
    let owner = s.owner(address).await?;
    tell(&s, "servicebgpstatuses", &all(&s)).await?;
    tell(&s, "servicel2statuses", &[&owner]).await?;

    let others: Vec<&str> = all(&s).into_iter().filter(|node| *node != owner).collect();
    let speaker = s.node(&owner)?.program(Program::Speaker)?;
    let both = speaker.spec();
    speaker.restart_with(both.clone().args(["--layer2-only"]))?;
    tell(&s, "servicebgpstatuses", &others).await?;
    router.forwards(&s, &prefix, &others).await?;
    tell(&s, "servicel2statuses", &[&owner]).await?;
    speaker.restart_with(both.clone())?;
    tell(&s, "servicebgpstatuses", &all(&s)).await?;

    speaker.restart_with(both.clone().args(["--exclude-interfaces=*"]))?;
    let heir = wait_until("an heir", PATIENCE, async || {
        let heir = s.owner(address).await?;
        ensure!(heir != owner, "it is {heir}");
        Ok(heir)
    })
    .await?;
    tell(&s, "servicel2statuses", &[&heir]).await?;
    tell(&s, "servicebgpstatuses", &all(&s)).await?;
    speaker.restart_with(both)?;
    s.wait_ferrolb_ready().await?;
    s.lab().delete(NAMESPACE, &layer2).await?;
    tell(&s, "servicel2statuses", &[]).await?;
    told.delete(&s, &router).await
}

/// A cordon drains a node where a policy says so, without a lost packet; nodes that are all cordoned keep what nobody else
/// can carry; and when it ends, everything is as before.
pub(crate) async fn cordoned_nodes(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let told = Told::new(&s, NODES);
    told.apply(&s, &router).await?;
    let policy = policy(
        &s,
        "drain: {triggers: [Cordon]}, bgp: {gracefulShutdown: {waitSeconds: 2}}",
    );
    s.apply_config(&policy).await?;
    let address = echo(&s).await?;
    let prefix = format!("{address}/32");
    router.forwards(&s, &prefix, &all(&s)).await?;
    page(&router, address).await?;
    let prober = router
        .client()
        .probe((address, 5353).into(), Probe::Udp, Duration::from_millis(1))?;

    let drained = async {
        s.kubectl(&["cordon", "node-1"]).await?;
        router.leaving(&s, "node-1", &prefix).await?;
        router.forwards(&s, &prefix, &["node-2", "node-3"]).await?;
        s.kubectl(&["cordon", "node-2"]).await?;
        router.forwards(&s, &prefix, &["node-3"]).await?;
        // Now none is left that could carry it: all of them do again.
        s.kubectl(&["cordon", "node-3"]).await?;
        router.forwards(&s, &prefix, &all(&s)).await?;
        s.kubectl(&["uncordon", "node-2"]).await?;
        router.forwards(&s, &prefix, &["node-2"]).await
    }
    .await;
    for node in s.nodes() {
        s.kubectl(&["uncordon", node.name()]).await?;
    }
    drained?;
    router.forwards(&s, &prefix, &all(&s)).await?;
    let tally = prober.stop();
    ensure!(tally.lost == 0 && tally.sent > 300, "{tally:?}");
    told.delete(&s, &router).await?;
    s.lab().delete(NAMESPACE, &policy).await
}

/// Under traffic policy Local the route follows the pod from node to node.
pub(crate) async fn pod_moves(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let told = Told::new(&s, NODES);
    told.apply(&s, &router).await?;
    let address = web(&s, 1, "type: LoadBalancer\nexternalTrafficPolicy: Local").await?;
    let prefix = format!("{address}/32");
    let first = page(&router, address).await?;
    router.forwards(&s, &prefix, &[&first]).await?;
    s.kubectl(&["cordon", &first]).await?;
    let moved = async {
        s.kubectl(&["delete", "pods", "-l", "app=web"]).await?;
        let others: Vec<_> = all(&s).into_iter().filter(|node| *node != first).collect();
        wait_until("the route to be with another node", PATIENCE, async || {
            let hops = router.hops(&prefix)?;
            let with = |node: &&str| s.node(node).is_ok_and(|n| hops == [n.host().address().to_string()]);
            ensure!(others.iter().any(with), "the next hops are {hops:?}");
            Ok(())
        })
        .await?;
        let node = page(&router, address).await?;
        ensure!(node != first, "the page comes from {node}");
        router.forwards(&s, &prefix, &[&node]).await
    }
    .await;
    s.kubectl(&["uncordon", &first]).await?;
    moved?;
    told.delete(&s, &router).await
}

/// A Service has the policy that it asks for if it may, and is told when it may not.
pub(crate) async fn policy_on_request(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let told = Told::new(&s, NODES);
    told.apply(&s, &router).await?;
    let name = s.namespace().to_owned();
    let offered = |namespace: &str| {
        policy(
            &s,
            &format!("onRequest: {{namespaces: [{namespace}]}}, bgp: {{med: 200}}"),
        )
    };
    s.apply_config(&offered(&name)).await?;
    let address = web(&s, 1, "type: LoadBalancer").await?;
    let prefix = format!("{address}/32");
    router.forwards(&s, &prefix, &all(&s)).await?;
    let med = async |wanted: u32| {
        wait_until(&format!("a MED of {wanted}"), PATIENCE, async || {
            let paths = router.paths(&prefix)?;
            let meds: Vec<_> = paths.iter().map(|path| path["metric"].as_u64().unwrap_or(0)).collect();
            ensure!(meds == [u64::from(wanted); 3], "it is {meds:?}");
            Ok(())
        })
        .await
    };
    med(0).await?;
    let ask = async |policy: &str| {
        let annotation = format!("ferrolb.io/announcement-policy={policy}");
        s.kubectl(&["annotate", "--overwrite", "svc", "web", &annotation]).await
    };
    ask(&name).await?;
    med(200).await?;
    ask("no-such-policy").await?;
    s.event("web", "policyNotGranted", "\"no-such-policy\"").await?;
    med(0).await?;
    ask(&name).await?;
    med(200).await?;
    s.apply_config(&offered("somebody-else")).await?;
    s.event("web", "policyNotGranted", "spec.onRequest.namespaces").await?;
    med(0).await?;
    ensure!(router.establishments(&s)? == 3, "a session was reset");
    told.delete(&s, &router).await?;
    s.lab().delete(NAMESPACE, &offered(&name)).await
}

/// A key that changes on one side ends the session, with the reason shown; when both sides have it, it is back. Changed
/// on both sides within the hold time, routers aside, nothing has to end.
pub(crate) async fn key_change(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &["neighbor @ password first-of-the-lab"]).await?;
    let mut told = Told::new(&s, NODES);
    told.peer = "passwordSecret: {name: changing-key}\nholdTime: 9s".to_owned();
    let secret = |key: &str| secret("changing-key", key);
    s.apply_config(&secret("first-of-the-lab")).await?;
    told.apply(&s, &router).await?;
    router.established(&s).await?;
    let address = web(&s, 1, "type: LoadBalancer").await?;
    let prefix = format!("{address}/32");
    router.forwards(&s, &prefix, &all(&s)).await?;

    s.apply_config(&secret("second-of-the-lab")).await?;
    state(&s, "node-1", "that the session is gone", |session| {
        session["state"] != "Established" && !session["lastError"].as_str().unwrap_or_default().is_empty()
    })
    .await?;
    router.forwards(&s, &prefix, &[]).await?;
    router.each_neighbour(&s, "password second-of-the-lab")?;
    router.established(&s).await?;
    router.forwards(&s, &prefix, &all(&s)).await?;

    router.each_neighbour(&s, "password third-of-the-lab")?;
    s.apply_config(&secret("third-of-the-lab")).await?;
    router.established(&s).await?;
    router.forwards(&s, &prefix, &all(&s)).await?;
    page(&router, address).await?;
    nobody_tells(&s, "of-the-lab").await?;
    told.delete(&s, &router).await?;
    s.lab().delete(NAMESPACE, &secret("x")).await
}

/// A directory in memory for the snapshots of a speaker, which goes when this does.
struct InMemory(PathBuf);

impl InMemory {
    /// For a speaker that has kept them elsewhere, whose user it is for.
    fn new(s: &Scene, before: &Path) -> Result<Self> {
        let path = PathBuf::from(format!("/dev/shm/ferrolb-lab-{}", s.id()));
        std::fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        let made = InMemory(path);
        let of = std::fs::metadata(before)?;
        std::os::unix::fs::chown(&made.0, Some(of.uid()), Some(of.gid()))?;
        Ok(made)
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        // What is left is in memory, below a name of this lab.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Keys of sessions outlive a speaker where its directory is in memory: one that starts while the API server is away has its
/// session with TCP-MD5. Where it is on a disk no key is written, the session waits for the API server, and the router keeps
/// the routes meanwhile.
pub(crate) async fn keys_without_api_server(s: Scene) -> Result<()> {
    const KEY: &str = "s3cret-of-the-lab";
    let router = Router::start(&s, NODES, &[&format!("neighbor @ password {KEY}")]).await?;
    let mut told = Told::new(&s, NODES);
    told.peer = "enableGracefulRestart: true\npasswordSecret: {name: kept-key}".to_owned();
    s.apply_config(&secret("kept-key", KEY)).await?;
    told.apply(&s, &router).await?;
    let address = web(&s, 3, "type: LoadBalancer").await?;
    let prefix = format!("{address}/32");
    router.forwards(&s, &prefix, &all(&s)).await?;
    page(&router, address).await?;

    let [first, second] = ["node-1", "node-2"].map(|node| s.node(node)?.program(Program::Speaker));
    let (first, second) = (first?, second?);
    let spec = first.spec();
    let on_disk = s.run_dir().join("state/node-1");
    let in_memory = InMemory::new(&s, &on_disk)?;
    let mut moved = spec.clone();
    let dir = moved.args.iter().position(|arg| arg == "--state-dir");
    moved.args[dir.context("the speaker has a state directory")? + 1] = in_memory.0.clone().into();
    first.restart_with(moved)?;
    let established = async |node: &str, times: u64| {
        wait_until(&format!("{node} to be back"), PATIENCE, async || {
            let session = router.session(&s, node)?;
            let right = session["bgpState"] == "Established" && session["connectionsEstablished"] == times;
            ensure!(right, "it is {session}");
            Ok(())
        })
        .await
    };
    established("node-1", 2).await?;
    let kept = |dir: &Path, node: &str| {
        let file = dir.join(format!("speaker-{node}.bgp"));
        std::fs::read_to_string(&file).with_context(|| file.display().to_string())
    };
    wait_until("the route to be in both snapshots", PATIENCE, async || {
        let (there, elsewhere) = (
            kept(&in_memory.0, "node-1")?,
            kept(&s.run_dir().join("state/node-2"), "node-2")?,
        );
        ensure!(
            there.contains(&prefix) && elsewhere.contains(&prefix),
            "{there}\n{elsewhere}"
        );
        ensure!(there.contains(KEY), "the key is not in memory: {there}");
        ensure!(!elsewhere.contains("s3cret"), "the key is on a disk: {elsewhere}");
        Ok(())
    })
    .await?;
    let steady = steady(&router, address)?;
    s.api_server().kill();
    let outage = async {
        first.kill();
        second.kill();
        for node in ["node-1", "node-2"] {
            wait_until(&format!("the router to miss {node}"), PATIENCE, async || {
                let session = router.session(&s, node)?;
                ensure!(session["bgpState"] != "Established", "it has not noticed");
                Ok(())
            })
            .await?;
        }
        first.restart()?;
        second.restart()?;
        established("node-1", 3).await?;
        let session = router.session(&s, "node-2")?;
        ensure!(
            session["bgpState"] != "Established",
            "it has a key from nowhere: {session}"
        );
        router.forwards(&s, &prefix, &all(&s)).await
    }
    .await;
    s.api_server().restart()?;
    s.wait_api_ready().await?;
    outage?;
    established("node-2", 2).await?;
    router.forwards(&s, &prefix, &all(&s)).await?;
    none_failed(steady)?;
    nobody_tells(&s, "s3cret").await?;
    first.restart_with(spec)?;
    established("node-1", 4).await?;
    told.delete(&s, &router).await?;
    s.lab().delete(NAMESPACE, &secret("kept-key", "x")).await
}

/// A speaker that starts while the API server is away has its session and its routes from its snapshot, and no request
/// fails, with graceful restart; when the API server is back it does what has changed meanwhile.
pub(crate) async fn restart_without_api_server(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let mut told = Told::new(&s, NODES);
    told.peer = "enableGracefulRestart: true".to_owned();
    told.apply(&s, &router).await?;
    let address = web(&s, 3, "type: LoadBalancer").await?;
    let prefix = format!("{address}/32");
    router.forwards(&s, &prefix, &all(&s)).await?;
    page(&router, address).await?;
    let steady = steady(&router, address)?;
    // The first file is written at once, one a second after that.
    let file = s.run_dir().join("state/node-1/speaker-node-1.bgp");
    wait_until("the route to be in the snapshot", PATIENCE, async || {
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        ensure!(text.contains(&prefix), "it is not: {text}");
        Ok(())
    })
    .await?;

    let speaker = s.node("node-1")?.program(Program::Speaker)?;
    s.api_server().kill();
    let outage = async {
        speaker.kill();
        wait_until("the router to miss node-1", PATIENCE, async || {
            let session = router.session(&s, "node-1")?;
            ensure!(session["bgpState"] != "Established", "it has not noticed");
            Ok(())
        })
        .await?;
        speaker.restart()?;
        wait_until("node-1 to be back without the API server", PATIENCE, async || {
            let session = router.session(&s, "node-1")?;
            ensure!(
                session["bgpState"] == "Established" && session["connectionsEstablished"] == 2,
                "it is {session}"
            );
            let received = &session["addressFamilyInfo"]["ipv4Unicast"]["acceptedPrefixCounter"];
            ensure!(received == 1, "it has told {received}");
            Ok(())
        })
        .await?;
        router.forwards(&s, &prefix, &all(&s)).await
    }
    .await;
    s.api_server().restart()?;
    s.wait_api_ready().await?;
    outage?;
    none_failed(steady)?;
    s.kubectl(&["delete", "svc", "web"]).await?;
    router.forwards(&s, &prefix, &[]).await?;
    told.delete(&s, &router).await
}
