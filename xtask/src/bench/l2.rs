//! `xtask bench l2`: what clients see when nodes and speakers fail and addresses move, beside keepalived in the same run.
//!
//! Nodes are lost by taking their port off the bridge, without a signal to anybody, while the API server is stopped. The
//! pods run on a node that announces nothing. Clients ask once a millisecond.

mod arp;
mod faults;
pub(crate) mod keepalived;
mod many;
mod stalls;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{ValueEnum, value_parser};
use ferrolb_api::{Placement, VirtualIp};
use ferrolb_lab::client::{Client as Browser, Probe, Prober, Tally};
use ferrolb_lab::lab::NAMESPACE as FERROLB;
use ferrolb_lab::net::Host;
use ferrolb_lab::{Lab, Node, Setup, privilege, wait_until};
use kube::Api;

use super::figures::{Row, Times, millis, table, verdict};
use super::{footer, pool, progress, publish, runtime};
use keepalived::Keepalived;

const NAMESPACE: &str = "default";
/// What anything may take at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two questions of a client.
const PERIOD: Duration = Duration::from_millis(1);
/// From the end of one fault to the next: heartbeats flow again, and announcements are over.
const REST: Duration = Duration::from_millis(1500);
/// How long the LAN is asked who has an address.
const ASK: Duration = Duration::from_millis(60);
/// The UDP port of the echo.
pub(crate) const ECHO: u16 = 53;
/// The TCP port of the echo.
const TCP: u16 = 7;
/// The label of a node that gives its addresses up.
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

const NODE_LOSS: (Duration, Duration) = (Duration::from_millis(130), Duration::from_millis(200));
const KEEPALIVED: f64 = 0.6;
/// A machine that makes clients wait for longer than this by itself is not quiet enough to lose a node on.
const NOISE: Duration = Duration::from_millis(50);
/// So often it is looked at again.
const LOOKS: u32 = 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often a node is lost, of FerroLB and of each keepalived; other faults at most twenty times.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Everything once or twice, with few addresses: to see that the bench works.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART,...")]
    only: Vec<Part>,
}

/// What is measured, in this order.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Replies and a storm, with one address.
    Arp,
    /// Nodes that are lost, and keepalived's.
    NodeLoss,
    /// Speakers that are killed, stopped and upgraded.
    Faults,
    /// Owners that stand still under load, and keepalived's.
    Stalls,
    /// Planned moves.
    Planned,
    /// A node that is lost with two hundred addresses.
    Many,
    /// Replies, a storm and memory, with a thousand addresses.
    Thousand,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    privilege::acquire()?;
    let text = runtime()?.block_on(measure(args))?;
    publish("l2", &text)
}

async fn measure(args: &Args) -> Result<String> {
    let setup = Setup {
        nodes: 4,
        ..Setup::named("bench-l2")
    };
    let lab = Lab::start(setup).await?;
    let outcome = async { Bench::new(&lab).await?.measure(args).await }.await;
    outcome.map_err(|error| anyhow!("{error:#}\n{}", lab.failure_report()))
}

struct Bench<'a> {
    lab: &'a Lab,
    address: IpAddr,
    /// Knows the address.
    client: Browser,
    /// Asks for it anew, each time.
    guest: Browser,
    /// How many Services there are beside the first.
    more: usize,
    hosts: BTreeMap<String, Host>,
    keepalived: Option<Rc<Keepalived<'a>>>,
    rows: Vec<Row>,
}

impl<'a> Bench<'a> {
    async fn new(lab: &'a Lab) -> Result<Self> {
        lab.apply(FERROLB, &pool("172.30.1.0-172.30.8.255")).await?;
        lab.apply(FERROLB, ADVERTISEMENT).await?;
        lab.apply(NAMESPACE, PODS).await?;
        lab.wait_pods_ready(NAMESPACE, "app=echo", 2, PATIENCE).await?;
        lab.apply(NAMESPACE, &service("echo")).await?;
        let address = lab.wait_external_ips(NAMESPACE, "echo", 1, PATIENCE).await?[0];
        let bench = Self {
            lab,
            address,
            client: Browser::new(lab.client_host().namespace()),
            guest: Browser::new(lab.add_host("guest", 200)?.namespace()),
            more: 0,
            hosts: BTreeMap::new(),
            keepalived: None,
            rows: Vec::new(),
        };
        bench.echoed(&bench.client).await?;
        bench.echoed(&bench.guest).await?;
        Ok(bench)
    }

    async fn measure(mut self, args: &Args) -> Result<String> {
        let (losses, faults) = match args.quick {
            true => (2, 1),
            false => (args.runs, args.runs.min(20)),
        };
        let (questions, storm) = match args.quick {
            true => (50, Duration::from_secs(2)),
            false => (4_000, Duration::from_secs(10)),
        };
        let asked_for = |part| args.only.is_empty() || args.only.contains(&part);
        if asked_for(Part::Arp) {
            self.arp_latency(questions, &[self.address])?;
            self.storm(storm, 1).await?;
        }
        if asked_for(Part::NodeLoss) {
            let ours = self.node_losses(losses).await?;
            self.beside_keepalived(&ours, losses).await?;
        }
        if asked_for(Part::Faults) {
            self.speaker_faults(faults).await?;
        }
        if asked_for(Part::Stalls) {
            self.stalls(faults).await?;
        }
        if asked_for(Part::Planned) {
            self.planned(faults).await?;
        }
        if asked_for(Part::Many) {
            let (count, runs) = if args.quick { (20, 1) } else { (200, 3) };
            self.many_addresses(count, runs).await?;
        }
        if asked_for(Part::Thousand) {
            let count = if args.quick { 40 } else { 1_000 };
            let addresses = self.own(count).await?;
            self.memory(count).await?;
            self.arp_latency(questions, &addresses)?;
            self.storm(storm, count).await?;
        }
        let head = ["what", "median or value", "p99", "how it was measured"];
        let text = table(head, &self.rows);
        Ok(format!("{text}\n{}", footer("4 nodes, kube-proxy in nftables mode")))
    }

    /// Loses the owner time and again while the API server is stopped; the longest silence of each.
    async fn node_losses(&mut self, runs: u32) -> Result<Times> {
        self.lab.api_server().kill();
        let mut silences = Times::default();
        let mut owner = self.owner().await?;
        for run in 1..=runs {
            progress(&format!("node loss {run} of {runs}"));
            let tally = self.lose(owner.host(), self.address, run).await?;
            owner = self.owner_other_than(Some(owner)).await?;
            silences.add(tally.longest_gap);
        }
        self.back().await?;
        let (median, tail) = (silences.median(), silences.quantile(99));
        let met = verdict(median <= NODE_LOSS.0 && tail <= NODE_LOSS.1);
        self.rows.push(silences.row(
            "node lost, API server stopped: longest silence",
            &format!(
                "max {}; goal p50 {}, p99 {}: {met}",
                millis(silences.quantile(100)),
                millis(NODE_LOSS.0),
                millis(NODE_LOSS.1)
            ),
        ));
        Ok(silences)
    }

    /// The same with keepalived.
    async fn beside_keepalived(&mut self, ours: &Times, runs: u32) -> Result<()> {
        let Some(keepalived) = self.keepalived()? else {
            return Ok(());
        };
        for interval in ["0.08", "0.1"] {
            let mut silences = Times::default();
            keepalived.start(interval)?;
            for run in 1..=runs {
                progress(&format!("keepalived with advert_int {interval}, loss {run} of {runs}"));
                let master = keepalived.settled(&self.client).await?;
                let tally = self.lose(master, keepalived::ADDRESS.into(), run).await?;
                silences.add(tally.longest_gap);
            }
            keepalived.stop();
            let ratio = ours.median().as_secs_f64() / silences.median().as_secs_f64().max(1e-9);
            let how = match interval {
                "0.08" => format!("; goal {KEEPALIVED}: {}", verdict(ratio <= KEEPALIVED)),
                _ => String::new(),
            };
            self.rows.push(silences.row(
                &format!("  keepalived, VRRPv3, advert_int {interval}"),
                &format!("max {}; {}", millis(silences.quantile(100)), keepalived::HOW),
            ));
            self.rows.push(Row::new(
                "  FerroLB's part of it",
                format!("{ratio:.2}"),
                String::new(),
                format!("ratio of medians{how}"),
            ));
        }
        Ok(())
    }

    /// keepalived, which does not run yet; `None` where it is not installed.
    fn keepalived(&mut self) -> Result<Option<Rc<Keepalived<'a>>>> {
        if self.keepalived.is_none() {
            self.keepalived = Keepalived::find(self.lab)?.map(Rc::new);
        }
        if self.keepalived.is_none() {
            progress("keepalived is not installed (Debian package keepalived): left out");
        }
        Ok(self.keepalived.clone())
    }

    /// Takes the host that answers for `address` off the LAN under a client, and puts it back once another one serves.
    async fn lose(&self, host: &Host, address: IpAddr, run: u32) -> Result<Tally> {
        let mut looks = 0;
        let (prober, before) = loop {
            let prober = self.probe(&self.client, address).await?;
            // Not in step with heartbeats.
            tokio::time::sleep(Duration::from_millis(u64::from(run * 13 % 80))).await;
            let before = prober.so_far();
            looks += 1;
            if before.longest_gap < NOISE || looks == LOOKS {
                break (prober, before);
            }
        };
        self.lab.lan().isolate(host)?;
        let served = served_again(&prober, before.answered()).await;
        self.lab.lan().plug(host)?;
        served?;
        Ok(prober.stop())
    }

    /// A prober that is served.
    async fn probe(&self, client: &Browser, address: IpAddr) -> Result<Prober> {
        let target = SocketAddr::new(address, ECHO);
        // Questions while the MAC address is not known are not what is measured.
        client.udp(target, b"0", Duration::from_secs(3))?;
        let prober = client.probe(target, Probe::Udp, PERIOD)?;
        served_again(&prober, 0).await?;
        Ok(prober)
    }

    /// Starts the API server again, and waits until everything has caught up.
    async fn back(&self) -> Result<()> {
        self.lab.api_server().restart()?;
        self.lab.wait_api_ready().await?;
        self.lab.wait_ferrolb_ready().await?;
        let owner = self.owner().await?;
        wait_until("the API server to know the owner", PATIENCE, async || {
            let known = self.placement(self.address).await?.owner;
            ensure!(known == owner.name(), "it knows {known}");
            Ok(())
        })
        .await
    }

    async fn placement(&self, address: IpAddr) -> Result<Placement> {
        let api: Api<VirtualIp> = Api::all(self.lab.client());
        let status = api.get(&address.to_string()).await?.status.unwrap_or_default();
        status.placement.with_context(|| format!("{address} is placed nowhere"))
    }

    /// The node that answers for the address itself.
    async fn owner(&self) -> Result<&'a Node> {
        self.owner_other_than(None).await
    }

    /// Waits until one node alone, another than that, has answered for the address for a while.
    async fn owner_other_than(&self, not: Option<&Node>) -> Result<&'a Node> {
        let not = not.map(Node::name);
        let mut since = Instant::now();
        wait_until("one node to answer", PATIENCE, async || {
            let seen = self.client.resolve(self.address, ASK)?;
            let mut own = seen
                .0
                .iter()
                .map(|reply| (reply.mac == reply.source).then(|| reply.mac.to_string()));
            let first = own.next().flatten();
            let all_same = own.all(|other| other == first);
            let node = self
                .lab
                .nodes()
                .iter()
                .find(|node| first.as_ref() == Some(&node.host().mac()));
            let node = node.filter(|node| all_same && not != Some(node.name()));
            if node.is_none() {
                since = Instant::now();
            }
            let node = node.with_context(|| format!("{seen:?}"))?;
            ensure!(since.elapsed() > REST, "{} answers", node.name());
            Ok(node)
        })
        .await
    }

    async fn echoed(&self, client: &Browser) -> Result<()> {
        wait_until("an echo", PATIENCE, async || {
            client.udp(SocketAddr::new(self.address, ECHO), b"0", Duration::from_secs(1))
        })
        .await
        .map(drop)
    }
}

/// Waits until two hundred questions have been answered since `before` were.
async fn served_again(prober: &Prober, before: u64) -> Result<()> {
    wait_until("the client to be served", PATIENCE, async || {
        let tally = prober.so_far();
        ensure!(tally.answered() >= before + 200, "{tally:?}");
        Ok(())
    })
    .await
}

/// A Service of the pods below.
pub(crate) fn service(name: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec:
  type: LoadBalancer
  selector: {{ app: echo }}
  ports:
    - {{ name: udp, port: {ECHO}, targetPort: 5353, protocol: UDP }}
    - {{ name: tcp, port: {TCP}, targetPort: 9000, protocol: TCP }}
"#
    )
}

/// Instead of the pool's: not on the node of the pods.
pub(crate) const ADVERTISEMENT: &str = r#"apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: { name: bench, namespace: ferrolb-system }
spec:
  ipAddressPools: [bench]
  nodeSelectors:
    - matchExpressions:
        - { key: kubernetes.io/hostname, operator: NotIn, values: [node-4] }
"#;

/// The pods, both on the node that announces nothing. They count as ready until they fail for half a minute: what is
/// measured is how an address is announced, and a busy machine shall not take the endpoints away behind it.
pub(crate) const PODS: &str = r#"apiVersion: apps/v1
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
          readinessProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1, failureThreshold: 30 }
"#;
