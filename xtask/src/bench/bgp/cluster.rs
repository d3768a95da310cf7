//! What needs a cluster: Services that come and go, many peers, restarts, nodes that are lost, and BFD under load.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrolb_lab::client::{Client as Browser, Probe};
use ferrolb_lab::lab::NAMESPACE as FERROLB;
use ferrolb_lab::{Lab, Program, wait_until};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::collector::Collector;
use super::frr::Router;
use super::{ASN, NODES, PATIENCE, Row, Times, Usage, mebibytes, millis, progress, verdict};

const NAMESPACE: &str = "default";
const ECHO: u16 = 53;
const WIRE: Duration = Duration::from_millis(20);
const NODE_LOSS: Duration = Duration::from_millis(400);
const MEMORY: u64 = 24 * 1024;

/// A BGPPeer for the nodes that `selector` matches, with further lines.
pub(super) fn peer(name: &str, address: IpAddr, selector: &str, more: &str) -> String {
    format!(
        "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: {name}, namespace: {FERROLB}}}\n\
         spec: {{myASN: {NODES}, peerASN: {ASN}, peerAddress: {address}, connectTime: 1s, nodeSelectors: [{selector}]{more}}}\n"
    )
}

/// The label of one node.
const NODE_1: &str = "{matchLabels: {kubernetes.io/hostname: node-1}}";
/// All but the node of the pods.
const NOT_NODE_4: &str = "{matchExpressions: [{key: kubernetes.io/hostname, operator: NotIn, values: [node-4]}]}";

/// Services `bench-N` without a selector, and an endpoint on the last node for each.
async fn services(lab: &Lab, count: usize) -> Result<()> {
    let (services, slices): (Api<Service>, Api<EndpointSlice>) = apis(lab);
    let create = async |name: String| -> Result<()> {
        let service = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "app": "bench" } },
            "spec": {
                "type": "LoadBalancer",
                "allocateLoadBalancerNodePorts": false,
                "ports": [{ "port": 80 }],
            },
        }))?;
        let slice = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name, "app": "bench" } },
            "addressType": "IPv4",
            "ports": [{ "port": 80 }],
            "endpoints": [endpoint(true)],
        }))?;
        slices.create(&PostParams::default(), &slice).await?;
        services.create(&PostParams::default(), &service).await?;
        Ok(())
    };
    let all = stream::iter(0..count).map(|n| create(format!("bench-{n}")));
    all.buffer_unordered(16).try_collect::<Vec<_>>().await.map(drop)
}

fn endpoint(ready: bool) -> serde_json::Value {
    json!({ "addresses": ["10.244.9.9"], "nodeName": "node-4", "conditions": { "ready": ready, "serving": ready } })
}

fn apis(lab: &Lab) -> (Api<Service>, Api<EndpointSlice>) {
    let client = lab.client();
    (
        Api::namespaced(client.clone(), NAMESPACE),
        Api::namespaced(client, NAMESPACE),
    )
}

async fn clear(lab: &Lab) -> Result<()> {
    for kind in ["services", "endpointslices"] {
        lab.kubectl(&["-n", NAMESPACE, "delete", kind, "-l", "app=bench"])
            .await?;
    }
    Ok(())
}

/// From the API server's word that an endpoint is ready, or is not any more, to the UPDATE on the wire.
pub(super) async fn service(lab: &Lab, collector: &Collector, router: IpAddr, runs: u32) -> Result<Vec<Row>> {
    let peer = peer("bench-one", router, NODE_1, "");
    lab.apply(FERROLB, &peer).await?;
    collector.forget();
    services(lab, 1).await?;
    let address = collector.until("the first route", |heard| heard.addresses.keys().next().copied())?;
    let (_, slices) = apis(lab);
    let (mut up, mut down) = (Times::default(), Times::default());
    for run in 0..2 * runs {
        let ready = run % 2 == 1;
        let patch = Patch::Merge(json!({ "endpoints": [endpoint(ready)] }));
        slices.patch("bench-0", &PatchParams::default(), &patch).await?;
        let told = Instant::now();
        let heard = collector.until("the change", |heard| {
            let (announced, at) = heard.addresses.get(&address)?;
            (*announced == ready).then_some(*at)
        })?;
        let times = if ready { &mut up } else { &mut down };
        times.add(heard.saturating_duration_since(told));
    }
    clear(lab).await?;
    lab.delete(FERROLB, &peer).await?;
    let row = |times: &Times, what: &str| {
        let met = verdict(times.quantile(99) <= WIRE);
        let how = format!(
            "from the answer to the write, without asking kube-proxy; goal p99 {}: {met}",
            millis(WIRE)
        );
        times.row(what, &how)
    };
    Ok(vec![
        row(&up, "endpoint ready -> UPDATE on the wire"),
        row(&down, "endpoint gone -> withdrawn on the wire"),
    ])
}

/// Memory and idle CPU time of a speaker with so many peers that hold so many prefixes each.
pub(super) async fn peers(
    lab: &Lab,
    collector: &Collector,
    (count, prefixes): (u8, usize),
    idle: Duration,
) -> Result<Vec<Row>> {
    collector.forget();
    services(lab, prefixes).await?;
    let all = (1..=count).map(|n| {
        let address = Ipv4Addr::new(10, 98, 0, n);
        peer(&format!("bench-{n}"), address.into(), NODE_1, "")
    });
    let all = all.collect::<Vec<_>>().join("---\n");
    lab.apply(FERROLB, &all).await?;
    let total = usize::from(count) * prefixes;
    collector.until("all routes at all peers", |heard| {
        (heard.announced >= total).then_some(())
    })?;
    let pid = lab.node("node-1")?.program(Program::Speaker)?.pid();
    let before = Usage::of(pid)?;
    tokio::time::sleep(idle).await;
    let after = Usage::of(pid)?;
    let cpu = after.percent_of_a_core_since(&before, idle);
    lab.delete(FERROLB, &all).await?;
    clear(lab).await?;
    Ok(vec![
        Row::new(
            format!("{count} peers x {prefixes} prefixes: memory of the speaker"),
            mebibytes(after.rss),
            String::new(),
            format!(
                "VmRSS; most ever {}; goal 24 MiB: {}",
                mebibytes(after.peak),
                verdict(after.rss <= MEMORY)
            ),
        ),
        Row::new(
            "  its CPU time, idle",
            format!("{cpu:.2} %"),
            String::new(),
            format!(
                "of one core, over {} s; goal < 1 %: {}",
                idle.as_secs(),
                verdict(cpu < 1.0)
            ),
        ),
    ])
}

/// An echo on the last node, told to FRR by the others, and a client behind FRR.
pub(super) struct Path<'a> {
    lab: &'a Lab,
    frr: &'a Router,
    client: Browser,
    address: IpAddr,
    objects: String,
}

impl<'a> Path<'a> {
    /// Watched by BFD at this interval in milliseconds; or with graceful restart, which BFD would not wait for.
    pub(super) async fn new(lab: &'a Lab, frr: &'a Router, client: &Browser, interval: Option<u32>) -> Result<Self> {
        let profile = interval.map(|interval| {
            format!(
                "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {{name: bench, namespace: {FERROLB}}}\n\
                 spec: {{receiveInterval: {interval}, transmitInterval: {interval}, detectMultiplier: 3}}\n---\n"
            )
        });
        let more = match &profile {
            Some(_) => ", bfdProfile: bench",
            None => ", enableGracefulRestart: true",
        };
        let peer = peer("bench-frr", frr.host().address(), NOT_NODE_4, more);
        let objects = profile.unwrap_or_default() + &peer;
        lab.apply(FERROLB, &objects).await?;
        lab.apply(NAMESPACE, PODS).await?;
        lab.wait_pods_ready(NAMESPACE, "app=echo", 2, PATIENCE).await?;
        let address = lab.wait_external_ips(NAMESPACE, "echo", 1, PATIENCE).await?[0];
        let path = Path {
            lab,
            frr,
            client: client.clone(),
            address,
            objects,
        };
        path.stands().await?;
        Ok(path)
    }

    /// Waits until FRR has the route from each of the three nodes, and the client an answer.
    async fn stands(&self) -> Result<()> {
        wait_until("three next hops and an echo", PATIENCE, async || {
            for node in &self.lab.nodes()[..3] {
                let held = self.frr.prefixes(node.host().address())?;
                ensure!(held == 1, "{} has told {held}", node.name());
            }
            self.client.udp(self.target(), b"0", Duration::from_secs(1)).map(drop)
        })
        .await
    }

    fn target(&self) -> SocketAddr {
        SocketAddr::new(self.address, ECHO)
    }

    pub(super) async fn end(self) -> Result<()> {
        self.lab.delete(NAMESPACE, PODS).await?;
        self.lab.delete(FERROLB, &self.objects).await
    }

    /// Speakers killed and restarted in turn under a client, with graceful restart.
    pub(super) async fn restarts(&self, runs: u32) -> Result<Row> {
        let prober = self.client.probe(self.target(), Probe::Udp, Duration::from_millis(1))?;
        for run in 0..runs {
            let node = &self.lab.nodes()[usize::try_from(run)? % 3];
            progress(&format!("restart {} of {runs}", run + 1));
            let speaker = node.program(Program::Speaker)?;
            if run % 2 == 0 {
                speaker.kill();
            } else {
                speaker.stop(PATIENCE).await?;
            }
            speaker.restart()?;
            self.stands().await?;
        }
        let tally = prober.stop();
        Ok(Row::new(
            format!("{runs} restarts of a speaker: probes lost"),
            tally.lost.to_string(),
            millis(tally.longest_gap),
            format!(
                "of {}, one each ms through FRR; killed and stopped in turn, graceful restart; second figure: longest \
                 silence; goal 0: {}",
                tally.sent,
                verdict(tally.lost == 0)
            ),
        ))
    }

    /// The node that a client's packets go through is taken off the network: the longest silence of each.
    pub(super) async fn losses(&self, runs: u32) -> Result<Row> {
        self.frr.hash_by_addresses()?;
        let mut silences = Times::default();
        for run in 0..runs {
            progress(&format!("node loss {} of {runs}", run + 1));
            wait_until("BFD with three nodes", PATIENCE, async || {
                let watched = self.frr.watched()?;
                ensure!(watched == 3, "{watched} are up");
                Ok(())
            })
            .await?;
            let hop = self.frr.next_hop(self.address)?;
            let node = self.lab.nodes().iter().find(|node| node.host().address() == hop);
            let node = node.with_context(|| format!("{hop} is no node"))?;
            let prober = self.client.probe(self.target(), Probe::Udp, Duration::from_millis(1))?;
            let answered = |more: u64| {
                let goal = prober.so_far().answered() + more;
                let prober = &prober;
                async move {
                    wait_until("the client to be served", PATIENCE, async || {
                        let tally = prober.so_far();
                        ensure!(tally.answered() >= goal, "{tally:?}");
                        Ok(())
                    })
                    .await
                }
            };
            answered(300).await?;
            self.lab.lan().isolate(node.host())?;
            let lost = answered(300).await;
            self.lab.lan().plug(node.host())?;
            lost?;
            silences.add(prober.stop().longest_gap);
            self.stands().await?;
        }
        let met = verdict(silences.quantile(100) <= NODE_LOSS);
        let how = format!(
            "client behind FRR, its next hop of three, BFD 100 ms x 3; max {}; goal {}: {met}",
            millis(silences.quantile(100)),
            millis(NODE_LOSS)
        );
        Ok(silences.row("node lost: longest silence", &how))
    }

    /// BFD while four threads of the bench do nothing but count: sessions that were lost, by the speakers' own account.
    pub(super) async fn under_load(&self, time: Duration) -> Result<Row> {
        let stop = Arc::new(AtomicBool::new(false));
        let busy: Vec<_> = (0..4)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || while !stop.load(Ordering::Relaxed) {})
            })
            .collect();
        let before = self.downs().await?;
        tokio::time::sleep(time).await;
        stop.store(true, Ordering::Relaxed);
        busy.into_iter().for_each(|thread| drop(thread.join()));
        let downs = self.downs().await? - before;
        Ok(Row::new(
            "BFD 50 ms x 3 under 4 busy loops: sessions lost",
            downs.to_string(),
            String::new(),
            format!("three sessions, {} s; goal 0: {}", time.as_secs(), verdict(downs == 0)),
        ))
    }

    async fn downs(&self) -> Result<u64> {
        let mut sum = 0;
        for node in &self.lab.nodes()[..3] {
            let metrics = self.lab.metrics(node.host()).await?;
            let lines = metrics
                .lines()
                .filter(|l| l.starts_with("metallb_bfd_session_down_events"));
            for line in lines {
                let count = line.rsplit(' ').next().unwrap_or_default();
                sum += count.parse::<u64>().with_context(|| line.to_owned())?;
            }
        }
        Ok(sum)
    }
}

const PODS: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata: { name: echo }
spec:
  replicas: 2
  selector: { matchLabels: { app: echo } }
  template:
    metadata: { labels: { app: echo } }
    spec:
      nodeSelector: { kubernetes.io/hostname: node-4 }
      containers:
        - name: echo
          image: ferrolb.lab/web:1
          args: ["--http", "8080", "--udp", "5353"]
          readinessProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1 }
---
apiVersion: v1
kind: Service
metadata: { name: echo }
spec:
  type: LoadBalancer
  selector: { app: echo }
  ports: [{ name: udp, port: 53, targetPort: 5353, protocol: UDP }]
"#;
