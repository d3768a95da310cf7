//! `xtask soak`: a cluster under load in which speakers stall, heartbeats get lost and the API server restarts, and no node
//! ever fails: no address may change its owner, and no client may lose an answer.
//!
//! Every core is busy all the time. A seed draws the faults; where they meet what the programs just do is chance, so that a
//! seed says what was tried and does not replay a moment. keepalived, where it is installed, stands beside: its master
//! stalls whenever a speaker does, and how often it changes its mind says whether the stalls were worth something.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::value_parser;
use ferrolb_api::VirtualIp;
use ferrolb_lab::client::{Client as Browser, Loss, Probe, Prober};
use ferrolb_lab::lab::NAMESPACE as FERROLB;
use ferrolb_lab::{Lab, Node, Program, Setup, privilege, wait_until};
use futures::StreamExt;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::bench::keepalived::Keepalived;
use crate::bench::{footer, l2, pool, publish, runtime};
use crate::image;

const NAMESPACE: &str = "default";
/// Addresses, and how many of them clients ask for.
const ADDRESSES: usize = 12;
const ASKED: usize = 3;
const PERIOD: Duration = Duration::from_millis(5);
/// What anything may take at most, on a machine without an idle core.
const PATIENCE: Duration = Duration::from_secs(120);
/// Nothing happens for so long before the owners are looked at.
const REST: Duration = Duration::from_secs(12);
/// How long the LAN is asked who has an address.
const ASK: Duration = Duration::from_millis(200);
/// How often what has happened so far is told.
const TELL: Duration = Duration::from_secs(30);

/// Drops what speakers send each other, and nothing else.
const CUT: &str = "add table inet soak; add chain inet soak in { type filter hook input priority 0; }; \
                   add rule inet soak in udp dport 7947 drop";
const MEND: &str = "delete table inet soak";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long faults go on.
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// One minute.
    #[arg(long)]
    quick: bool,
    /// What the faults are drawn from; the clock's by default.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The longest stall of a speaker, in milliseconds; the shortest is a third of it.
    #[arg(long, default_value_t = 150, value_name = "MS", value_parser = value_parser!(u64).range(3..=5_000))]
    stall: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    image::measure_shipped()?;
    privilege::acquire()?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let minutes = if args.quick { 1 } else { args.minutes };
    eprintln!("soak: {minutes} min, seed {seed}");
    let (text, broken) = runtime()?.block_on(async {
        // No node fails, and none shall seem to: after a slow start of the API server every node may count as lost, even with the
        // 40 s that Kubernetes has by default. Then it takes the endpoints away, and questions are lost whoever announces.
        let setup = Setup {
            nodes: 4,
            node_monitor_grace: Duration::from_secs(600),
            ..Setup::named("soak")
        };
        let lab = Lab::start(setup).await?;
        let soak = async {
            let mut soak = Soak::new(&lab, seed, args.stall).await?;
            soak.go_on(Duration::from_secs(60 * minutes)).await?;
            soak.judge(minutes, seed).await
        };
        soak.await
            .map_err(|error| anyhow!("{error:#}\n{}", lab.failure_report()))
    })?;
    publish("soak", &text)?;
    ensure!(broken.is_empty(), "promises were broken: {}", broken.join("; "));
    Ok(())
}

/// Who owns an address: the node, and how many owners there have been.
type Owner = (String, u64);

struct Soak<'a> {
    lab: &'a Lab,
    random: fastrand::Rng,
    longest: u64,
    client: Browser,
    before: BTreeMap<String, Owner>,
    probers: Vec<(IpAddr, Prober)>,
    /// What Kubernetes thinks of the pods behind the addresses that are asked for.
    endpoints: UnboundedReceiver<String>,
    keepalived: Option<Keepalived<'a>>,
    done: BTreeMap<&'static str, u32>,
}

impl<'a> Soak<'a> {
    async fn new(lab: &'a Lab, seed: u64, longest: u64) -> Result<Self> {
        lab.apply(FERROLB, &pool("172.30.1.0-172.30.8.255")).await?;
        lab.apply(FERROLB, l2::ADVERTISEMENT).await?;
        lab.apply(NAMESPACE, l2::PODS).await?;
        lab.wait_pods_ready(NAMESPACE, "app=echo", 2, PATIENCE).await?;
        let services: Vec<String> = (0..ADDRESSES).map(|n| l2::service(&format!("soak-{n}"))).collect();
        lab.apply(NAMESPACE, &services.join("---\n")).await?;
        let client = Browser::new(lab.client_host().namespace());
        let mut probers = Vec::new();
        for number in 0..ADDRESSES {
            let service = format!("soak-{number}");
            let address = lab.wait_external_ips(NAMESPACE, &service, 1, PATIENCE).await?[0];
            let target = SocketAddr::new(address, l2::ECHO);
            wait_until("an echo", PATIENCE, async || {
                client.udp(target, b"0", Duration::from_secs(1))
            })
            .await?;
            if number < ASKED {
                probers.push((address, client.probe(target, Probe::Udp, PERIOD)?));
            }
        }
        let keepalived = Keepalived::find(lab)?;
        if let Some(keepalived) = &keepalived {
            keepalived.start("0.08")?;
            keepalived.settled(&client).await?;
        }
        let mut soak = Self {
            lab,
            random: fastrand::Rng::with_seed(seed),
            longest,
            client,
            before: BTreeMap::new(),
            probers,
            endpoints: watch_endpoints(lab.client()),
            keepalived,
            done: BTreeMap::new(),
        };
        soak.before = wait_until("all addresses to be announced", PATIENCE, async || soak.owners().await).await?;
        soak.load()?;
        Ok(soak)
    }

    /// Keeps every core busy for as long as the lab lives.
    fn load(&self) -> Result<()> {
        for core in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let spec = self
                .lab
                .spec(&format!("load-{core}"), "/bin/sh", self.lab.client_host());
            self.lab.start_process(spec.args(["-c", "while :; do :; done"]))?;
        }
        Ok(())
    }

    /// Every address with its owner; an error while one has none, or another announcer.
    async fn owners(&self) -> Result<BTreeMap<String, Owner>> {
        let ips = Api::<VirtualIp>::all(self.lab.client())
            .list(&ListParams::default())
            .await?;
        let owners = ips.items.into_iter().map(|ip| {
            let status = ip.status.context("no status")?;
            let placement = status.placement.context("not placed")?;
            let announcer = status.announcer.context("not announced")?.node;
            ensure!(announcer == placement.owner, "announced by {announcer}");
            Ok((ip.spec.address, (placement.owner, placement.epoch)))
        });
        let owners = owners.collect::<Result<BTreeMap<_, _>>>()?;
        ensure!(owners.len() == ADDRESSES, "there are {}", owners.len());
        Ok(owners)
    }

    async fn go_on(&mut self, time: Duration) -> Result<()> {
        let (begin, mut told) = (Instant::now(), Instant::now());
        while begin.elapsed() < time {
            match self.random.u8(..20) {
                0 => self.restart_api_server().await?,
                1..4 => self.lose_heartbeats().await?,
                4..6 => self.stall(3).await?,
                _ => self.stall(1).await?,
            }
            tokio::time::sleep(Duration::from_millis(self.random.u64(50..600))).await;
            if told.elapsed() > TELL {
                told = Instant::now();
                eprintln!("soak: {} s, {:?}", begin.elapsed().as_secs(), self.done);
            }
        }
        Ok(())
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    /// Some of the nodes that announce; node 4 has the pods.
    fn some(&mut self, count: usize) -> Vec<&'a Node> {
        let nodes = self.lab.nodes()[..3].iter();
        self.random.choose_multiple(nodes, count)
    }

    /// So many speakers stand still at once, keepalived's master with them.
    async fn stall(&mut self, speakers: usize) -> Result<()> {
        self.count(if speakers == 1 {
            "stalls of a speaker"
        } else {
            "stalls of all speakers"
        });
        let time = Duration::from_millis(self.random.u64(self.longest / 3..=self.longest));
        let nodes = self.some(speakers);
        for node in &nodes {
            node.freeze(Program::Speaker)?;
        }
        if let Some(keepalived) = &self.keepalived {
            keepalived.freeze()?;
        }
        tokio::time::sleep(time).await;
        for node in &nodes {
            node.thaw(Program::Speaker)?;
        }
        self.keepalived.as_ref().map_or(Ok(()), Keepalived::thaw)
    }

    async fn lose_heartbeats(&mut self) -> Result<()> {
        self.count("heartbeats lost for up to 3 s");
        let count = self.random.usize(1..=3);
        let nodes = self.some(count);
        for node in &nodes {
            node.host().namespace().output("nft", &[CUT])?;
        }
        tokio::time::sleep(Duration::from_millis(self.random.u64(100..3_000))).await;
        for node in &nodes {
            node.host().namespace().output("nft", &[MEND])?;
        }
        Ok(())
    }

    async fn restart_api_server(&mut self) -> Result<()> {
        self.count("restarts of the API server");
        self.lab.api_server().kill();
        // Faults go on meanwhile.
        for _ in 0..self.random.u8(1..10) {
            self.stall(1).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        self.lab.api_server().restart()?;
        self.lab.wait_api_ready().await
    }

    /// What has become of it all, and which promises were broken.
    async fn judge(mut self, minutes: u64, seed: u64) -> Result<(String, Vec<String>)> {
        tokio::time::sleep(REST).await;
        self.lab.wait_ferrolb_ready().await?;
        let after = wait_until("all addresses to be announced", PATIENCE, async || self.owners().await).await?;
        let (mut asked, mut lost, mut longest) = (0, 0, Duration::ZERO);
        let mut when = Vec::new();
        for (address, prober) in self.probers.drain(..) {
            let tally = prober.stop();
            asked += tally.sent;
            lost += tally.lost;
            longest = longest.max(tally.longest_gap);
            when.extend(tally.losses.iter().map(|loss| line(address, loss)));
        }
        while let Ok(change) = self.endpoints.try_recv() {
            when.push(change);
        }
        when.sort();
        let changes = |(address, (_, epoch)): (&String, &Owner)| {
            let before = self.before.get(address).map_or(0, |(_, before)| *before);
            epoch.saturating_sub(before)
        };
        let takeovers: u64 = after.iter().map(changes).sum();
        let mut broken = Vec::new();
        for (address, (owner, _)) in &after {
            let answers = self.client.resolve(address.parse::<IpAddr>()?, ASK)?.only();
            let host = self.lab.node(owner)?.host();
            if answers.as_ref() != Some(&host.mac()) {
                broken.push(format!("{address} is {owner}'s and answered by {answers:?}"));
            }
        }
        if takeovers > 0 {
            broken.push(format!("owners have changed {takeovers} times"));
        }
        if lost > 0 {
            broken.push(format!("{lost} questions were lost"));
        }
        let mut text = format!(
            "{minutes} min, seed {seed}, every core busy, stalls of {} to {} ms:\n\n",
            self.longest / 3,
            self.longest
        );
        for (what, count) in &self.done {
            writeln!(text, "- {count} {what}")?;
        }
        writeln!(text, "- {takeovers} changes of owner of {ADDRESSES} addresses; goal 0")?;
        let longest = longest.as_millis();
        writeln!(
            text,
            "- {lost} of {asked} questions lost; goal 0; longest silence {longest} ms"
        )?;
        if let Some(keepalived) = &self.keepalived {
            let changes = keepalived.takeovers();
            writeln!(
                text,
                "- {changes} changes of master of keepalived (advert_int 0.08) in the same stalls"
            )?;
        }
        if lost > 0 {
            writeln!(
                text,
                "\nWhat was lost, and what Kubernetes thought of the pods meanwhile:\n"
            )?;
            when.iter().try_for_each(|line| writeln!(text, "- {line}"))?;
        }
        Ok((
            format!("{text}\n{}", footer("4 nodes, kube-proxy in nftables mode")),
            broken,
        ))
    }
}

/// A line that begins with the time, so that it can be sorted among others and looked up in logs.
fn line(address: IpAddr, loss: &Loss) -> String {
    let time = |time| Timestamp::try_from(time).unwrap_or_default();
    let (first, last) = (time(loss.first), time(loss.last));
    format!(
        "{first:.3}: {} questions to {address} lost until {last:.3}",
        loss.questions
    )
}

/// Tells, in lines like those of [`line`], how many pods are ready behind each address that is asked for, whenever that changes.
fn watch_endpoints(client: Client) -> UnboundedReceiver<String> {
    let (tell, told) = unbounded_channel();
    let names: Vec<_> = (0..ASKED).map(|number| format!("soak-{number}")).collect();
    let those = watcher::Config::default().labels(&format!("kubernetes.io/service-name in ({})", names.join(",")));
    tokio::spawn(async move {
        let slices = Api::<EndpointSlice>::namespaced(client, NAMESPACE);
        let mut changes = watcher(slices, those).default_backoff().applied_objects().boxed();
        let mut before = BTreeMap::new();
        while let Some(slice) = changes.next().await {
            // An error is an API server that is being restarted.
            let Ok(slice) = slice else { continue };
            let ready =
                |endpoint: &&Endpoint| endpoint.conditions.as_ref().and_then(|known| known.ready) != Some(false);
            let ready = slice.endpoints.iter().filter(ready).count();
            let name = slice.name_any();
            if before.insert(name.clone(), ready).is_some_and(|before| before != ready) {
                let line = format!("{:.3}: EndpointSlice {name} has {ready} ready", Timestamp::now());
                if tell.send(line).is_err() {
                    return;
                }
            }
        }
    });
    told
}
