//! A node announces an address when its kube-proxy serves it: kube-proxies that hang, that are not there, that have
//! never been a matter before.
//!
//! `node-1` alone announces, where a scenario does not say otherwise, and the pods run on `node-2`: what kube-proxy of `node-1`
//! does is all that counts.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ferrolb_lab::{Program, wait_until};
use serde_json::Value;

use crate::bgp::{NODES, Told};
use crate::failover::{asking, none_lost, told as tally_of};
use crate::manifests::{deployment, service};
use crate::router::Router;
use crate::scene::{PATIENCE, Scene};

const ANNOUNCER: &str = "node-1";
const BACKENDS: &str = "node-2";

const WAITING: &str = "ferrolb_speaker_withheld{reason=\"DataPathNotReady\"} 1";

/// Less than the second after which a lost SYN is sent again: one that is lost is a failure.
const FIRST: Duration = Duration::from_millis(900);

fn on(nodes: &str) -> String {
    format!(
        "  nodeSelectors:\n    - matchExpressions:\n        \
         - {{ key: kubernetes.io/hostname, operator: In, values: [{nodes}] }}\n"
    )
}

/// Pods that are ready, a pool that `node-1` alone announces, and a policy by which it waits for its kube-proxy.
async fn prepared(s: &Scene, wait_seconds: u32) -> Result<()> {
    s.apply_config(&(s.pool() + &on(ANNOUNCER))).await?;
    s.apply_config(&patience(s, wait_seconds)).await?;
    let pinned = format!("      nodeSelector: {{ kubernetes.io/hostname: {BACKENDS} }}\n");
    s.apply(&(deployment("web", 2) + &pinned)).await?;
    s.ready("web", 2).await?;
    s.fence().await
}

fn patience(s: &Scene, seconds: u32) -> String {
    format!(
        "apiVersion: ferrolb.io/v1alpha1\nkind: AnnouncementPolicy\nmetadata: {{name: {0}}}\n\
         spec: {{ipAddressPools: [{0}], endpoints: {{waitSeconds: {seconds}}}}}\n",
        s.namespace()
    )
}

/// Stops kube-proxy of the announcer while `told` is told.
async fn while_it_hangs(s: &Scene, told: impl Future<Output = Result<()>>) -> Result<()> {
    let node = s.node(ANNOUNCER)?;
    node.freeze(Program::Proxy)?;
    let result = told.await;
    node.thaw(Program::Proxy)?;
    result
}

/// The announcer's metrics have this line.
async fn says(s: &Scene, line: &str) -> Result<()> {
    wait_until(&format!("{ANNOUNCER} to say {line:?}"), PATIENCE, async || {
        let metrics = s.metrics(s.node(ANNOUNCER)?.host()).await?;
        ensure!(metrics.lines().any(|l| l == line), "it says\n{metrics}");
        Ok(())
    })
    .await
}

/// A page with the first packet that is sent for it.
async fn first_page(s: &Scene, address: IpAddr) -> Result<()> {
    let client = s.browser();
    let get = move || client.http_get(address, 80, "lab.example", "/", FIRST);
    let response = tokio::task::spawn_blocking(get).await?.context("the first question")?;
    ensure!(response.status == 200, "status {}", response.status);
    Ok(())
}

/// A new address is not answered while kube-proxy of its node hangs, and the reason is shown; once it goes on, the address is
/// answered and served. (The very first packet may still come before the rules: kube-proxy does not say what it wrote.)
pub(crate) async fn hanging(s: Scene) -> Result<()> {
    prepared(&s, 60).await?;
    let mut address = None;
    while_it_hangs(&s, async {
        let new = s
            .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
            .await?;
        address = Some(new);
        says(&s, WAITING).await?;
        ensure!(s.placement(new).await?.owner == ANNOUNCER, "it is placed elsewhere");
        ensure!(s.who_answers(new).await?.is_empty(), "it is answered");
        Ok(())
    })
    .await?;
    let address = address.context("an address")?;
    s.answered_by(address, ANNOUNCER).await?;
    s.page(address, 80).await?;
    wait_until("nothing to wait any more", PATIENCE, async || {
        let metrics = s.metrics(s.node(ANNOUNCER)?.host()).await?;
        ensure!(!metrics.contains("DataPathNotReady"), "it still waits:\n{metrics}");
        Ok(())
    })
    .await?;
    says(&s, "ferrolb_kube_proxy_readable 1").await
}

/// After the time that the policy gives the address is answered all the same, and its Service is told.
pub(crate) async fn hanging_for_long(s: Scene) -> Result<()> {
    prepared(&s, 2).await?;
    while_it_hangs(&s, async {
        let address = s
            .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
            .await?;
        s.answered_by(address, ANNOUNCER).await?;
        s.event("web", "dataPathNotReady", "it does not answer").await
    })
    .await
}

/// Whoever has announced an address goes on: its kube-proxy may hang, and its speaker be restarted meanwhile.
pub(crate) async fn restarted_while_it_hangs(s: Scene) -> Result<()> {
    prepared(&s, 60).await?;
    let address = s
        .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
        .await?;
    s.page(address, 80).await?;
    s.owner(address).await?;
    while_it_hangs(&s, async {
        s.node(ANNOUNCER)?.program(Program::Speaker)?.kill();
        s.node(ANNOUNCER)?.restart(Program::Speaker)?;
        s.wait_ferrolb_ready().await?;
        s.answered_by(address, ANNOUNCER).await?;
        first_page(&s, address).await?;
        let metrics = s.metrics(s.node(ANNOUNCER)?.host()).await?;
        ensure!(!metrics.contains("DataPathNotReady"), "it waits:\n{metrics}");
        Ok(())
    })
    .await
}

/// Where no kube-proxy is, nothing waits for it.
pub(crate) async fn absent(s: Scene) -> Result<()> {
    prepared(&s, 60).await?;
    s.node(ANNOUNCER)?.kill(Program::Proxy)?;
    let told = async {
        let address = s
            .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
            .await?;
        s.answered_by(address, ANNOUNCER).await?;
        says(&s, "ferrolb_kube_proxy_readable 0").await
    }
    .await;
    s.node(ANNOUNCER)?.restart(Program::Proxy)?;
    told
}

/// Of several Services, each made when its pods are ready, the first question after the address is answered for gets its page.
pub(crate) async fn first_question(s: Scene) -> Result<()> {
    prepared(&s, 5).await?;
    let mut lost = 0;
    let mut took = Vec::new();
    for number in 0..SERVICES {
        let name = format!("web-{number}");
        let start = Instant::now();
        let address = s
            .apply_and_address(&name, &service(&name, "web", "type: LoadBalancer"))
            .await?;
        answered_for(&s, address).await?;
        lost += u32::from(first_page(&s, address).await.is_err());
        s.page(address, 80).await?;
        took.push(start.elapsed().as_millis());
    }
    eprintln!("  {lost} of {SERVICES} first questions lost; from the Service to the first page: {took:?} ms");
    ensure!(lost == 0, "{lost} first questions were lost");
    Ok(())
}

const SERVICES: u32 = 6;

/// Returns with the first answer.
async fn answered_for(s: &Scene, address: IpAddr) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let client = s.browser();
        let ask = move || client.resolve(address, Duration::from_millis(20));
        if !tokio::task::spawn_blocking(ask).await??.is_empty() {
            return Ok(());
        }
    }
    bail!("nobody answers for {address}")
}

/// Two pods that never share a node, behind a Service with traffic policy Local; its address.
async fn spread_local(s: &Scene) -> Result<IpAddr> {
    let apart = "      topologySpreadConstraints:\n        - { maxSkew: 1, topologyKey: kubernetes.io/hostname, \
                 whenUnsatisfiable: DoNotSchedule, labelSelector: { matchLabels: { app: web } } }\n";
    s.apply(&(deployment("web", 2) + apart)).await?;
    s.apply(LOCAL).await?;
    s.ready("web", 2).await?;
    Ok(s.addresses("web", 1).await?[0])
}

async fn pods(s: &Scene) -> Result<Vec<(String, String)>> {
    let pods = s.kubectl(&["get", "pods", "-l", "app=web", "-o", "json"]).await?;
    let pods: Value = serde_json::from_str(&pods)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods = pods["items"].as_array().context("pods")?.iter();
    Ok(pods
        .map(|pod| (text(&pod["spec"]["nodeName"]), text(&pod["metadata"]["name"])))
        .collect())
}

/// The two nodes of the pods.
async fn nodes_of(s: &Scene) -> Result<(String, String)> {
    match &pods(s).await?[..] {
        [one, two] => Ok((one.0.clone(), two.0.clone())),
        other => bail!("there are {other:?}"),
    }
}

async fn pod_on(s: &Scene, node: &str) -> Result<String> {
    let pods = pods(s).await?.into_iter();
    let mut here = pods.filter(|(on, _)| on == node).map(|(_, pod)| pod);
    here.next().with_context(|| format!("no pod on {node}"))
}

/// Under traffic policy Local a node loses its last pod, which serves until it ends: the address goes to the node with the other
/// pod, and a client that asks every millisecond loses nothing.
pub(crate) async fn last_local_endpoint(s: Scene) -> Result<()> {
    s.apply_config(&s.pool()).await?;
    let address = spread_local(&s).await?;
    let prober = asking(&s.browser(), SocketAddr::new(address, 53)).await?;
    let owner = s.owner(address).await?;
    s.kubectl(&["cordon", &owner]).await?;
    let moved = async {
        let pod = pod_on(&s, &owner).await?;
        s.kubectl(&["delete", "pod", &pod]).await?;
        s.other_owner(address, &owner).await
    }
    .await;
    s.kubectl(&["uncordon", &owner]).await?;
    let heir = moved?;
    s.answered_by(address, &heir).await?;
    none_lost(&tally_of("last local endpoint", prober))
}

/// The same by BGP, for a client behind a router: the node takes its route back while its pod still serves.
pub(crate) async fn last_local_endpoint_by_bgp(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let told = Told::new(&s, NODES);
    told.apply(&s, &router).await?;
    let address = spread_local(&s).await?;
    let prefix = format!("{address}/32");
    let (leaving, staying) = nodes_of(&s).await?;
    router.forwards(&s, &prefix, &[&leaving, &staying]).await?;
    let prober = asking(&router.client(), SocketAddr::new(address, 53)).await?;
    s.kubectl(&["cordon", &leaving]).await?;
    let moved = async {
        let pod = pod_on(&s, &leaving).await?;
        s.kubectl(&["delete", "pod", &pod]).await?;
        wait_until("the router to turn away", PATIENCE, async || {
            let paths = router.paths(&prefix)?;
            let gone = s.node(&leaving)?.host().address().to_string();
            ensure!(
                paths.iter().all(|path| path["peer"]["peerId"] != gone.as_str()),
                "{paths:?}"
            );
            Ok(())
        })
        .await
    }
    .await;
    s.kubectl(&["uncordon", &leaving]).await?;
    moved?;
    s.ready("web", 2).await?;
    none_lost(&tally_of("last local endpoint, by BGP", prober))?;
    told.delete(&s, &router).await
}

/// A route waits for kube-proxy of its node, the others do not; a speaker that is restarted meanwhile takes none back.
pub(crate) async fn hanging_by_bgp(s: Scene) -> Result<()> {
    let router = Router::start(&s, NODES, &[]).await?;
    let mut told = Told::new(&s, NODES);
    told.peer = "enableGracefulRestart: true".to_owned();
    told.apply(&s, &router).await?;
    s.apply_config(&patience(&s, 60)).await?;
    s.apply(&deployment("web", 2)).await?;
    s.ready("web", 2).await?;
    s.fence().await?;
    let all: Vec<&str> = s.nodes().iter().map(|node| node.name()).collect();
    let others: Vec<&str> = all.iter().copied().filter(|name| *name != ANNOUNCER).collect();
    let web = async |name: &str| {
        s.apply_and_address(name, &service(name, "web", "type: LoadBalancer"))
            .await
    };
    let first = format!("{}/32", web("first").await?);
    router.forwards(&s, &first, &all).await?;
    let mut second = String::new();
    while_it_hangs(&s, async {
        second = format!("{}/32", web("second").await?);
        router.forwards(&s, &second, &others).await?;
        says(&s, "ferrolb_bgp_withheld{reason=\"DataPathNotReady\"} 1").await
    })
    .await?;
    router.forwards(&s, &second, &all).await?;
    while_it_hangs(&s, async {
        let speaker = s.node(ANNOUNCER)?.program(Program::Speaker)?;
        speaker.kill();
        speaker.restart()?;
        router.established(&s).await?;
        for prefix in [&first, &second] {
            router.forwards(&s, prefix, &all).await?;
        }
        Ok(())
    })
    .await?;
    told.delete(&s, &router).await
}

const LOCAL: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: { app: web }
  ports:
    - { name: http, port: 80, targetPort: http }
    - { name: udp, port: 53, targetPort: 5353, protocol: UDP }
"#;
