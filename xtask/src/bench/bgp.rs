//! `xtask bench bgp`: what routers hear, how soon, and at what price. FRR is in the same run, and so are a bare driver and a
//! collector that know nothing of the crates they are compared with.
//!
//! `--only` chooses parts; each can be measured alone.

mod announcer;
mod cluster;
mod collector;
mod engine;
mod frr;
mod hand_over;
mod silent;
mod speech;

use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use ferrolb_lab::client::Client as Browser;
use ferrolb_lab::lab::NAMESPACE as FERROLB;
use ferrolb_lab::net::Host;
use ferrolb_lab::{Lab, Setup, privilege};

use super::figures::{Row, Times, Usage, mebibytes, millis, table, verdict};
use super::{footer, progress, publish, runtime};
use announcer::Announcer;
use collector::Collector;
use frr::Router;

/// The AS of routers.
const ASN: u32 = 64512;
/// The AS of nodes.
const NODES: u32 = 64600;
/// What anything may take at most.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Everything once or twice, with few prefixes: to see that the bench works.
    #[arg(long)]
    quick: bool,
    /// These parts alone.
    #[arg(long, value_delimiter = ',', value_name = "PART,...")]
    only: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// From the start to 10,000 and 100,000 prefixes in FRR's RIB.
    Rib,
    /// A thousand changes in a second.
    Changes,
    /// An endpoint that becomes ready, or goes, to the UPDATE.
    Service,
    /// 50 peers with 1,000 prefixes each.
    Peers,
    /// Restarts of speakers with graceful restart.
    Restart,
    /// Upgrades of a speaker with BFD.
    HandOver,
    /// Nodes that are lost, with BFD.
    NodeLoss,
    /// BFD under load.
    BfdLoad,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    privilege::acquire()?;
    let text = runtime()?.block_on(measure(args))?;
    publish("bgp", &text)
}

async fn measure(args: &Args) -> Result<String> {
    let setup = Setup {
        nodes: 4,
        // What is measured is FerroLB: kube-proxy's own time would be most of it.
        speaker_args: vec!["--kube-proxy-metrics=".to_owned()],
        ..Setup::named("bench-bgp")
    };
    let lab = Lab::start(setup).await?;
    let outcome = parts(&lab, args).await;
    outcome.map_err(|error| anyhow!("{error:#}\n{}", lab.failure_report()))
}

async fn parts(lab: &Lab, args: &Args) -> Result<String> {
    let wants = |part| args.only.is_empty() || args.only.contains(&part);
    let quick = args.quick;
    let node = lab.node("node-1")?;
    lab.apply(FERROLB, POOL).await?;
    let mut rows = Vec::new();
    let mut announcer = Announcer::add(lab)?;
    if wants(Part::Rib) {
        let frr = Router::start(lab, 240, false, (&[announcer.address()], &[])).await?;
        let second = Duration::from_secs(1);
        let all = [(10_000, second / 10), (100_000, second)];
        let runs = if quick { 1 } else { 5 };
        for (count, goal) in all {
            progress(&format!("{count} prefixes"));
            rows.extend(engine::rib(&frr, node, count, goal, runs)?);
            rows.push(announcer.rib(lab, &frr, count, runs).await?);
        }
    }
    if [Part::Changes, Part::Service, Part::Peers].into_iter().any(wants) {
        let host = collecting(lab)?;
        let collector = Collector::start(host.namespace())?;
        if wants(Part::Changes) {
            progress("a thousand changes");
            rows.push(engine::changes(&collector, host.address(), node)?);
        }
        if wants(Part::Service) {
            progress("a Service");
            let runs = if quick { 10 } else { 200 };
            rows.extend(cluster::service(lab, &collector, host.address(), runs).await?);
            let runs = if quick { 3 } else { 20 };
            rows.extend(announcer.service(lab, &collector, host.address(), runs).await?);
        }
        if wants(Part::Peers) {
            progress("many peers");
            let (size, idle) = if quick { ((5, 50), 5) } else { ((50, 1000), 60) };
            let collector = (&collector, host.address());
            rows.extend(cluster::peers(lab, collector, &mut announcer, size, Duration::from_secs(idle)).await?);
        }
    }
    if [Part::Restart, Part::HandOver, Part::NodeLoss, Part::BfdLoad]
        .into_iter()
        .any(wants)
    {
        let frr = Router::start(lab, 242, true, (&[], &["bfd 3 50 50"])).await?;
        let client = Browser::new(&frr.behind(lab)?);
        if wants(Part::Restart) {
            let path = cluster::Path::new(lab, &frr, &client, None).await?;
            rows.push(path.restarts(if quick { 2 } else { 20 }).await?);
            path.end().await?;
        }
        if wants(Part::HandOver) {
            let (runs, more) = if quick { (2, 50) } else { (20, 3_500) };
            rows.extend(hand_over::upgrades(lab, &frr, &client, runs, more).await?);
        }
        if wants(Part::NodeLoss) {
            let path = cluster::Path::new(lab, &frr, &client, Some(100)).await?;
            rows.push(path.losses(if quick { 1 } else { 20 }).await?);
            path.end().await?;
        }
        if wants(Part::BfdLoad) {
            progress("BFD under load");
            let path = cluster::Path::new(lab, &frr, &client, Some(50)).await?;
            let time = Duration::from_secs(if quick { 10 } else { 600 });
            rows.extend(path.under_load(&mut announcer, time).await?);
            path.end().await?;
        }
    }
    let head = ["what", "median or value", "p99", "how it was measured"];
    let text = table(head, &rows);
    Ok(format!("{text}\n{}", footer("4 nodes, kube-proxy in nftables mode")))
}

/// A host with the addresses of many routers.
fn collecting(lab: &Lab) -> Result<Host> {
    let host = lab.add_host("collector", 241)?;
    let addresses: String = (1..=50)
        .map(|n| format!("addr add 10.98.0.{n}/32 dev eth0\n"))
        .collect();
    host.namespace().ip(&addresses)?;
    let route = format!("route add 10.98.0.0/24 via {}\n", host.address());
    lab.node("node-1")?.host().namespace().ip(&route)?;
    Ok(host)
}

const POOL: &str = r#"apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: { name: bench, namespace: ferrolb-system }
spec: { addresses: [172.30.64.0-172.30.95.255] }
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: { name: bench, namespace: ferrolb-system }
spec: { ipAddressPools: [bench] }
"#;
