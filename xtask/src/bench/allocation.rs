//! `xtask bench allocation`: how fast many Services get their addresses, beside a bare client that performs the same
//! writes on the same API server; what a restart costs with many Services; memory, and writes per Service.
//!
//! etcd and the API server are real, nodes and endpoints are objects only, and the controller manager is stopped once
//! the cluster stands, so that nobody but the two sides writes. Both sides have the controller's account and its way to
//! the API server. Every burst is measured twice:
//!
//! - *Services first*: all Services exist before anybody writes, so nothing but the writes themselves is measured. This
//!   is the fair comparison of rates.
//! - *live*: addresses are given while a client creates the Services, which is what users see. Here the creations slow
//!   both sides down, and the bare client has the advantage of being told of each Service by its creator.

mod bare;
mod cluster;

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::value_parser;
use ferrolb_api::{IpAddressPool, L2Advertisement, VirtualIp};
use ferrolb_lab::lab::NAMESPACE as FERROLB;
use ferrolb_lab::{Families, Lab, Setup, privilege};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::task::spawn_blocking;

use super::addresses::Addresses;
use super::figures::{Row, Times, Usage, mebibytes, millis, table, verdict};
use super::{footer, pool, progress, publish, runtime};
use bare::Bare;
use cluster::{Cluster, Created, NAMESPACE, Writes, client};

/// What a burst may take at most.
const PATIENCE: Duration = Duration::from_secs(600);
/// Part of the bare client's rate.
const RATE_GOAL: f64 = 0.8;
/// From the start to the first new address, beyond what the lists take a bare client.
const RESTART_GOAL: Duration = Duration::from_secs(2);
/// How often the lists are timed.
const LISTS: usize = 3;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many Services a burst has; several bursts separated by commas.
    #[arg(long, default_value = "1000,10000", value_name = "N", value_delimiter = ',',
          value_parser = value_parser!(u32).range(1..=50_000))]
    services: Vec<u32>,
    /// One burst of 200 Services and a short look at idleness: to see that the bench works.
    #[arg(long)]
    quick: bool,
    /// How long writes are counted while nothing happens.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..))]
    idle: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    privilege::acquire()?;
    let outside = runtime()?;
    let setup = Setup {
        nodes: 0,
        families: Families::V4,
        ..Setup::named("bench-allocation")
    };
    let lab = outside.block_on(async {
        let lab = Lab::start(setup).await?;
        lab.apply(FERROLB, &pool("10.64.0.0/14")).await?;
        anyhow::Ok(lab)
    })?;
    lab.controller_manager().kill();
    // On the controller's host, so that everybody has the same way to the API server.
    let inside = || runtime()?.block_on(async { Bench::new(&lab).await?.measure(args).await });
    let text = lab.control_plane().namespace().run(inside).context("enter the host")?;
    let text = text.map_err(|error| anyhow!("{error:#}\n{}", lab.failure_report()))?;
    publish("allocation", &text)
}

struct Bench<'a> {
    lab: &'a Lab,
    cluster: Cluster,
    /// The controller's own kubeconfig.
    account: PathBuf,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    FerroLb,
    Bare,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    ServicesFirst,
    Live,
}

/// What one burst has shown.
struct Burst {
    /// Addresses per second.
    rate: f64,
    /// From the start of a Service's creation to its address in the watch.
    address: Times,
    writes: Writes,
    services: u32,
}

impl<'a> Bench<'a> {
    async fn new(lab: &'a Lab) -> Result<Self> {
        let cluster = Cluster(client(&lab.run_dir().join("kubernetes/admin.kubeconfig")).await?);
        cluster.prepare().await?;
        Ok(Self {
            lab,
            cluster,
            account: lab.run_dir().join("ferrolb-controller.kubeconfig"),
            rows: Vec::new(),
        })
    }

    async fn measure(mut self, args: &Args) -> Result<String> {
        let (bursts, idle) = match args.quick {
            true => (vec![200], 5),
            false => (args.services.clone(), args.idle),
        };
        self.burst(Side::FerroLb, Order::Live, 1).await?;
        self.memory("with 1 Service", None)?;
        for (index, count) in bursts.iter().copied().enumerate() {
            self.afresh().await?;
            let ours = self.burst(Side::FerroLb, Order::Live, count).await?;
            self.memory(&format!("with {count} Services"), memory_goal(count))?;
            if index + 1 == bursts.len() {
                self.steady(count, idle).await?;
                self.restart(count).await?;
            }
            self.stop().await?;
            let bare = self.burst(Side::Bare, Order::Live, count).await?;
            self.stop().await?;
            let ours_first = self.burst(Side::FerroLb, Order::ServicesFirst, count).await?;
            self.stop().await?;
            let bare_first = self.burst(Side::Bare, Order::ServicesFirst, count).await?;
            compare("Services first", &ours_first, &bare_first, &mut self.rows);
            compare("live", &ours, &bare, &mut self.rows);
            latencies(&ours, &bare, &mut self.rows);
            writes("live", &ours, &bare, &mut self.rows);
            writes("Services first", &ours_first, &bare_first, &mut self.rows);
        }
        let head = ["what", "FerroLB", "bare client", "how it was measured"];
        Ok(format!("{}\n{}", table(head, &self.rows), footer("etcd without fsync")))
    }

    /// Ends the controller and leaves an empty cluster.
    async fn stop(&self) -> Result<()> {
        self.lab.controller().kill();
        self.cluster.clear().await
    }

    /// A new controller on an empty cluster.
    async fn afresh(&self) -> Result<()> {
        self.stop().await?;
        self.lab.controller().restart()?;
        // Its first writes are the verdict and the counters.
        self.cluster.rest().await.map(drop)
    }

    async fn burst(&self, side: Side, order: Order, count: u32) -> Result<Burst> {
        let whose = if side == Side::Bare {
            "the bare client"
        } else {
            "FerroLB"
        };
        let when = if order == Order::Live { "live" } else { "Services first" };
        progress(&format!("{count} Services, {when}, by {whose}"));
        let names: Vec<String> = (0..count).map(|n| format!("service-{n:05}")).collect();
        self.cluster.endpoints(&names).await?;
        let mut addresses = Addresses::watch(self.services(), PATIENCE);
        let created = Mutex::new(Vec::new());
        let keep = |service: Created| lock(&created).push(service);

        let mut before = self.cluster.rest().await?;
        let mut begin = Instant::now();
        let mut bare = None;
        if order == Order::ServicesFirst {
            self.cluster.services(&names, keep).await?;
            before = self.cluster.rest().await?;
            let claim = first_claim(Api::all(self.cluster.0.clone()));
            match side {
                Side::FerroLb => self.lab.controller().restart()?,
                Side::Bare => {
                    let bare = bare.insert(Bare::start(self.account.clone()));
                    lock(&created).iter().for_each(|service| bare.give(service.clone()));
                }
            }
            begin = claim.await?;
        } else if side == Side::Bare {
            let bare = bare.insert(Bare::start(self.account.clone()));
            let give = |service: Created| {
                bare.give(service.clone());
                keep(service);
            };
            self.cluster.services(&names, give).await?;
        } else {
            self.cluster.services(&names, keep).await?;
        }
        let seen = addresses.wait(&names).await;
        if let Some(bare) = bare {
            // Its own error says more than that addresses are missing.
            spawn_blocking(|| bare.finish()).await??;
        }
        let seen = seen?;
        let writes = self.cluster.rest().await?.since(&before);

        let mut address = Times::default();
        for service in lock(&created).iter() {
            address.add(seen[&service.name].1.saturating_duration_since(service.at));
        }
        let last = seen.values().map(|(_, at)| *at).max().unwrap_or(begin);
        Ok(Burst {
            rate: f64::from(count) / last.saturating_duration_since(begin).as_secs_f64(),
            address,
            writes,
            services: count,
        })
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.cluster.0.clone(), NAMESPACE)
    }

    /// Reads what the controller has taken, and the most it ever had.
    fn memory(&mut self, when: &str, goal: Option<u64>) -> Result<()> {
        let usage = Usage::of(self.lab.controller().pid())?;
        let goal = goal.map(|mebi| format!("; goal {mebi} MiB: {}", verdict(usage.rss <= mebi * 1024)));
        self.rows.push(Row::new(
            format!("memory {when}"),
            mebibytes(usage.rss),
            String::new(),
            format!(
                "VmRSS; most ever {}; of it no file's {}{}",
                mebibytes(usage.peak),
                mebibytes(usage.anonymous),
                goal.unwrap_or_default()
            ),
        ));
        Ok(())
    }

    async fn steady(&mut self, count: u32, idle: u64) -> Result<()> {
        progress(&format!("{idle} s of idleness"));
        let before = self.cluster.rest().await?;
        tokio::time::sleep(Duration::from_secs(idle)).await;
        let new = self.cluster.writes().await?.since(&before);
        let total = new.of_services().total();
        self.rows.push(Row::new(
            format!("writes with {count} Services at rest"),
            total.to_string(),
            String::new(),
            format!(
                "in {idle} s, by anybody; goal 0: {}; leases aside: {}",
                verdict(total == 0),
                new.total() - total
            ),
        ));
        Ok(())
    }

    /// Kills the controller among many Services, starts it, and creates one more at that moment.
    async fn restart(&mut self, count: u32) -> Result<()> {
        progress("a restart");
        let mut lists = Times::default();
        for _ in 0..LISTS {
            let client = client(&self.account).await?;
            let begin = Instant::now();
            list_everything(client).await?;
            lists.add(begin.elapsed());
        }
        let name = ["one-more".to_owned()];
        self.cluster.endpoints(&name).await?;
        let mut addresses = Addresses::watch(self.services(), PATIENCE);
        addresses.wait(&["service-00000"]).await?;
        self.lab.controller().kill();
        let begin = Instant::now();
        self.lab.controller().restart()?;
        self.cluster.services(&name, |_| ()).await?;
        let time = addresses.wait(&name).await?[&name[0]].1 - begin;
        let beyond = time.saturating_sub(lists.median());
        self.rows.push(Row::new(
            format!("restart with {count} Services -> first new address"),
            millis(time),
            millis(lists.median()),
            format!(
                "from exec to the watch event; beside it the lists alone; beyond them {}; goal {}: {}",
                millis(beyond),
                millis(RESTART_GOAL),
                verdict(beyond <= RESTART_GOAL)
            ),
        ));
        self.cluster.rest().await?;
        self.memory(&format!("with {count} Services, restarted"), memory_goal(count))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// In MiB, for the numbers of Services that have one.
fn memory_goal(services: u32) -> Option<u64> {
    match services {
        0..=1000 => Some(24),
        1001..=10_000 => Some(96),
        _ => None,
    }
}

fn compare(order: &str, ours: &Burst, bare: &Burst, rows: &mut Vec<Row>) {
    let ratio = ours.rate / bare.rate;
    rows.push(Row::new(
        format!("{} Services, {order}: addresses per second", ours.services),
        format!("{:.0}", ours.rate),
        format!("{:.0}", bare.rate),
        format!("ratio {ratio:.2}; goal {RATE_GOAL}: {}", verdict(ratio >= RATE_GOAL)),
    ));
}

fn latencies(ours: &Burst, bare: &Burst, rows: &mut Vec<Row>) {
    for percent in [50, 99] {
        rows.push(Row::new(
            format!("{} Services, live: created -> address, p{percent}", ours.services),
            millis(ours.address.quantile(percent)),
            millis(bare.address.quantile(percent)),
            "from the creating call's start to the watch event",
        ));
    }
}

fn writes(order: &str, ours: &Burst, bare: &Burst, rows: &mut Vec<Row>) {
    let text = |burst: &Burst| {
        let each = |(what, count)| format!("{what} {:.2}", count as f64 / f64::from(burst.services));
        let own = burst.writes.of_services();
        let own = own.iter().filter(|(what, _)| *what != "create services");
        own.map(each).collect::<Vec<_>>()
    };
    rows.push(Row::new(
        format!("{} Services, {order}: writes per Service", ours.services),
        text(ours).join(", "),
        text(bare).join(", "),
        "as the API server counts them; of events what had room in the queue",
    ));
}

/// Everything that the controller lists at its start, at once.
async fn list_everything(client: Client) -> Result<()> {
    let all = ListParams::default();
    let (services, claims, slices) = (
        Api::<Service>::all(client.clone()),
        Api::<VirtualIp>::all(client.clone()),
        Api::<EndpointSlice>::all(client.clone()),
    );
    let (nodes, namespaces) = (Api::<Node>::all(client.clone()), Api::<Namespace>::all(client.clone()));
    let pools = Api::<IpAddressPool>::namespaced(client.clone(), FERROLB);
    let advertisements = Api::<L2Advertisement>::namespaced(client, FERROLB);
    tokio::try_join!(
        services.list(&all),
        claims.list(&all),
        slices.list(&all),
        nodes.list(&all),
        namespaces.list(&all),
        pools.list(&all),
        advertisements.list(&all),
    )?;
    Ok(())
}

/// When a VirtualIP is first seen.
fn first_claim(claims: Api<PartialObjectMeta<VirtualIp>>) -> impl Future<Output = Result<Instant>> {
    let task = tokio::spawn(async move {
        let objects = watcher(claims, watcher::Config::default()).applied_objects();
        let first = std::pin::pin!(objects).try_next().await?;
        first
            .map(|_| Instant::now())
            .context("the watch of VirtualIPs has ended")
    });
    async move { tokio::time::timeout(PATIENCE, task).await.context("no VirtualIP")?? }
}
