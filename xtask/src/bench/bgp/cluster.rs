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
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::announcer::Announcer;
use super::collector::Collector;
use super::frr::Router;
use super::silent::{DETECTION, Seen, Silent};
use super::{ASN, NODES, PATIENCE, Row, Times, Usage, mebibytes, millis, progress, verdict};

pub(super) const NAMESPACE: &str = "default";
/// The port of the UDP echo.
pub(super) const ECHO: u16 = 53;
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

/// A BFDProfile `bench` with this interval in milliseconds, three times.
pub(super) fn profile(interval: u32) -> String {
    format!(
        "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {{name: bench, namespace: {FERROLB}}}\n\
         spec: {{receiveInterval: {interval}, transmitInterval: {interval}, detectMultiplier: 3}}\n"
    )
}

/// The label of one node.
pub(super) const NODE_1: &str = "{matchLabels: {kubernetes.io/hostname: node-1}}";
/// All but the node of the pods.
const NOT_NODE_4: &str = "{matchExpressions: [{key: kubernetes.io/hostname, operator: NotIn, values: [node-4]}]}";

/// Services `bench-N` without a selector, and an endpoint on the last node for each.
pub(super) async fn services(lab: &Lab, count: usize) -> Result<()> {
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

pub(super) async fn clear(lab: &Lab) -> Result<()> {
    let (services, slices) = apis(lab);
    let (how, which) = (DeleteParams::default(), ListParams::default().labels("app=bench"));
    services.delete_collection(&how, &which).await?;
    slices.delete_collection(&how, &which).await?;
    wait_until("the Services to be gone", PATIENCE, async || {
        let left = services.list(&which).await?.items.len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await
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
    (collector, via): (&Collector, IpAddr),
    announcer: &mut Announcer,
    (count, prefixes): (u8, u32),
    idle: Duration,
) -> Result<Vec<Row>> {
    let routers: Vec<IpAddr> = (1..=count).map(|n| Ipv4Addr::new(10, 98, 0, n).into()).collect();
    announcer.tell(lab, collector, (&routers, via), prefixes).await?;
    collector.forget();
    let prefixes = usize::try_from(prefixes)?;
    services(lab, prefixes).await?;
    let all = routers
        .iter()
        .zip(1..)
        .map(|(address, n)| peer(&format!("bench-{n}"), *address, NODE_1, ""));
    let all = all.collect::<Vec<_>>().join("---\n");
    lab.apply(FERROLB, &all).await?;
    let total = usize::from(count) * prefixes;
    collector.until("all routes at all peers", |heard| {
        (heard.announced >= total).then_some(())
    })?;
    let pid = lab.node("node-1")?.program(Program::Speaker)?.pid();
    // Objects that tell of all these routes are still being written.
    tokio::time::sleep(idle / 4).await;
    let (before, beside) = (Usage::of(pid)?, announcer.usage()?);
    tokio::time::sleep(idle).await;
    let after = Usage::of(pid)?;
    let frr = announcer.used(&beside, idle).await?;
    let cpu = after.percent_of_a_core_since(&before, idle);
    lab.delete(FERROLB, &all).await?;
    clear(lab).await?;
    let ours = [
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
    ];
    Ok(ours.into_iter().chain(frr).collect())
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
        let profile = interval.map(|interval| profile(interval) + "---\n");
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

    /// BFD while four threads of the bench do nothing but count: sessions with FRR that were lost, by the speakers' own account,
    /// and how soon the silence of a router is noticed, by the speakers and by FRR's bfdd.
    pub(super) async fn under_load(&self, announcer: &mut Announcer, time: Duration) -> Result<Vec<Row>> {
        let host = self.lab.add_host("silent", 245)?;
        let silent = Silent::start(host.namespace())?;
        let peer = peer("bench-silent", host.address(), NOT_NODE_4, ", bfdProfile: bench");
        self.lab.apply(FERROLB, &peer).await?;
        announcer.watch(self.lab, host.address()).await?;
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
        let mut seen = silent.end()?;
        self.lab.delete(FERROLB, &peer).await?;
        let frr = seen.remove(&announcer.address()).unwrap_or_default();
        let mut ours = Seen::default();
        for (_, other) in seen {
            ours.alarms += other.alarms;
            ours.silences.append(other.silences);
        }
        let seconds = time.as_secs();
        let row = |what: &str, seen: &Seen, goal: bool| {
            let silences = &seen.silences;
            let (least, most) = (silences.quantile(0), silences.quantile(100));
            let in_time = silences.share(|time| time.abs_diff(DETECTION) <= DETECTION / 20);
            let met = if goal {
                format!("; goal all: {}", verdict(in_time >= 1.0 && seen.alarms == 0))
            } else {
                String::new()
            };
            let how = format!(
                "since the router's last packet; {} to {}; {:.1} % within 5 % of {}, {} false alarms{met}",
                millis(least),
                millis(most),
                100.0 * in_time,
                millis(DETECTION),
                seen.alarms
            );
            silences.row(what, &how)
        };
        let goal = format!("three sessions with FRR, {seconds} s; goal 0: {}", verdict(downs == 0));
        Ok(vec![
            Row::new(
                "BFD 50 ms x 3 under 4 busy loops: sessions lost",
                downs.to_string(),
                String::new(),
                goal,
            ),
            row("  a router falls silent -> noticed", &ours, true),
            row("  the same by FRR's bfdd", &frr, false),
        ])
    }

    /// How often the speakers lost a BFD session with FRR.
    async fn downs(&self) -> Result<u64> {
        let with = format!(
            "metallb_bfd_session_down_events{{peer=\"{}:179\"",
            self.frr.host().address()
        );
        let mut sum = 0;
        for node in &self.lab.nodes()[..3] {
            let metrics = self.lab.metrics(node.host()).await?;
            let line = metrics.lines().find(|line| line.starts_with(&with));
            let line = line.with_context(|| format!("no {with} in:\n{metrics}"))?;
            let count = line.rsplit(' ').next().unwrap_or_default();
            sum += count.parse::<u64>().with_context(|| line.to_owned())?;
        }
        Ok(sum)
    }
}

/// An echo on the last node, and its Service.
pub(super) const PODS: &str = r#"apiVersion: apps/v1
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
          args: ["--http", "8080", "--udp", "5353", "--tcp", "9000"]
          readinessProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1 }
---
apiVersion: v1
kind: Service
metadata: { name: echo }
spec:
  type: LoadBalancer
  selector: { app: echo }
  ports:
    - { name: udp, port: 53, targetPort: 5353, protocol: UDP }
    - { name: tcp, port: 9000 }
"#;
