//! `xtask bench first-service`: how soon a new Service has its address and its first page, and what FerroLB costs the
//! while.
//!
//! Everything that is timed begins on a quiet cluster, one thing after another. Times of the API are taken by one client
//! of the bench's own, the bare round trips as well as the addresses, so that its own slowness is in both.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::value_parser;
use ferrolb_api::VirtualIp;
use ferrolb_lab::client::Client as Browser;
use ferrolb_lab::lab::NAMESPACE as FERROLB;
use ferrolb_lab::{Lab, Program, Setup, privilege};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServicePort, ServiceSpec};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kube::core::ObjectMeta;
use tokio::task::spawn_blocking;

use super::addresses::Addresses;
use super::figures::{Row, Times, Usage, mebibytes, millis, table};
use super::{footer, pool, progress, publish, runtime};

const NAMESPACE: &str = "default";
/// What anything may take at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for what one write has set off to come to rest before the next is timed.
const REST: Duration = Duration::from_millis(100);
/// kube-proxy programs at most once a second; past this it is free to act at once.
const PROXY_REST: Duration = Duration::from_millis(1500);
/// How long one attempt at a page may take, which is also how exactly the first one is timed.
const ATTEMPT: Duration = Duration::from_millis(20);
/// Memory is read this long after the last change.
const SETTLED: Duration = Duration::from_secs(5);
/// The address is to be in the status after at most so many round trips.
const GOAL: f64 = 3.0;

const BACKENDS: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 3
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      containers:
        - name: web
          image: ferrolb.lab/web:1
          args: ["--http", "8080"]
          readinessProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1 }
"#;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many Services are made one after the other.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u32).range(1..=2000))]
    services: u32,
    /// How many first pages are timed.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = value_parser!(u32).range(1..=1000))]
    pages: u32,
    /// How long CPU time is counted while nothing happens.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..))]
    idle: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    privilege::acquire()?;
    let text = runtime()?.block_on(measure(args))?;
    publish("first-service", &text)
}

async fn measure(args: &Args) -> Result<String> {
    let lab = Lab::start(Setup::named("bench")).await?;
    let outcome = match Bench::new(&lab).await {
        Ok(bench) => bench.measure(args).await,
        Err(error) => Err(error),
    };
    outcome.map_err(|error| anyhow!("{error:#}\n{}", lab.failure_report()))
}

struct Bench<'a> {
    lab: &'a Lab,
    services: Api<Service>,
    seen: Addresses,
    /// A host that asks who has an address, so that the client need not know it beforehand.
    onlooker: Browser,
}

/// What the API part has measured.
#[derive(Default)]
struct ApiTimes {
    config_map: Times,
    cluster_ip: Times,
    create: Times,
    address: Times,
    /// The address since the create call returned.
    after_create: Times,
}

/// What the part on the wire has measured, all since the creation began.
#[derive(Default)]
struct WireTimes {
    cluster_ip: Times,
    address: Times,
    wire: Times,
    node: Times,
    page: Times,
}

/// FerroLB's processes: the controller, then the speakers.
struct Usages(Vec<Usage>);

impl Usages {
    fn controller(&self) -> Result<Usage> {
        self.0.first().copied().context("a controller")
    }

    /// Of the speaker that has most.
    fn speaker(&self) -> Result<Usage> {
        self.0.iter().skip(1).max().copied().context("a speaker")
    }
}

impl<'a> Bench<'a> {
    /// Makes the pool and the backends, and sees a first Service through to its page.
    async fn new(lab: &'a Lab) -> Result<Self> {
        lab.apply(FERROLB, &pool("172.30.1.0-172.30.8.255")).await?;
        lab.apply(NAMESPACE, BACKENDS).await?;
        lab.wait_pods_ready(NAMESPACE, "app=web", 3, PATIENCE).await?;
        let services: Api<Service> = Api::namespaced(lab.client(), NAMESPACE);
        let mut bench = Self {
            lab,
            seen: Addresses::watch(services.clone(), PATIENCE),
            services,
            onlooker: Browser::new(lab.add_host("onlooker", 200)?.namespace()),
        };
        bench.create("first", "LoadBalancer").await?;
        let (address, _) = bench.seen.wait(&["first"]).await?["first"];
        first_page(bench.browser(), address).await?;
        Ok(bench)
    }

    async fn measure(mut self, args: &Args) -> Result<String> {
        progress("memory with 1 Service");
        tokio::time::sleep(SETTLED).await;
        let one = self.usages()?;
        let wire = self.pages(args.pages).await?;
        let api = self.addresses(args.services).await?;
        tokio::time::sleep(SETTLED).await;
        progress(&format!("{} s of idleness", args.idle));
        let (many, begin) = (self.usages()?, Instant::now());
        tokio::time::sleep(Duration::from_secs(args.idle)).await;
        let (after, window) = (self.usages()?, begin.elapsed());

        let mut rows = api.rows();
        rows.extend(wire.rows());
        rows.extend(self.cost_rows(args.services + 1, &one, &many)?);
        rows.extend(cpu_rows(&many, &after, window)?);
        rows.extend(self.size_rows()?);
        Ok(format!(
            "{}\n{}",
            table(["what", "median or value", "p99", "how it was measured"], &rows),
            footer("3 nodes, kube-proxy in nftables mode")
        ))
    }

    fn browser(&self) -> Browser {
        Browser::new(self.lab.client_host().namespace())
    }

    async fn create(&self, name: &str, kind: &str) -> Result<Service> {
        let created = self.services.create(&PostParams::default(), &service(name, kind)).await;
        created.with_context(|| format!("create Service {name}"))
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let deleted = self.services.delete(name, &DeleteParams::default()).await;
        deleted.map(drop).with_context(|| format!("delete Service {name}"))
    }

    /// Makes Services that stay, each after two bare round trips.
    async fn addresses(&mut self, count: u32) -> Result<ApiTimes> {
        let config_maps: Api<ConfigMap> = Api::namespaced(self.lab.client(), NAMESPACE);
        let mut times = ApiTimes::default();
        for number in 1..=count {
            if number % 50 == 1 {
                progress(&format!("Service {number} of {count}"));
            }
            tokio::time::sleep(REST).await;
            let object = config_map(&format!("bare-{number}"));
            let begin = Instant::now();
            config_maps.create(&PostParams::default(), &object).await?;
            times.config_map.add(begin.elapsed());

            tokio::time::sleep(REST).await;
            let plain = format!("plain-{number}");
            let begin = Instant::now();
            self.create(&plain, "ClusterIP").await?;
            times.cluster_ip.add(begin.elapsed());
            self.delete(&plain).await?;

            tokio::time::sleep(REST).await;
            let name = format!("balanced-{number}");
            let begin = Instant::now();
            self.create(&name, "LoadBalancer").await?;
            let returned = Instant::now();
            times.create.add(returned - begin);
            let (_, at) = self.seen.wait(&[&name]).await?[&name];
            times.address.add(at - begin);
            times.after_create.add(at.saturating_duration_since(returned));
        }
        Ok(times)
    }

    /// Makes Services that go again, and follows each to its first page.
    async fn pages(&mut self, count: u32) -> Result<WireTimes> {
        let mut times = WireTimes::default();
        let inside = Browser::new(self.lab.nodes()[0].host().namespace());
        for number in 1..=count {
            progress(&format!("page {number} of {count}"));
            tokio::time::sleep(PROXY_REST).await;
            self.browser().flush_neighbours()?;
            let name = format!("page-{number}");
            let begin = Instant::now();
            let created = self.create(&name, "LoadBalancer").await?;
            let cluster_ip = created.spec.and_then(|spec| spec.cluster_ip).context("a cluster IP")?;
            let proxy = tokio::spawn(first_page(inside.clone(), cluster_ip.parse()?));
            let (address, at) = self.seen.wait(&[&name]).await?[&name];
            times.address.add(at - begin);
            let page = tokio::spawn(first_page(self.browser(), address));
            let wire = tokio::spawn(first_reply(self.onlooker.clone(), address));
            let announcer = self.announcer(address).await?;
            let node = tokio::spawn(first_page(announcer, address));
            for (sum, task) in [
                (&mut times.cluster_ip, proxy),
                (&mut times.page, page),
                (&mut times.wire, wire),
                (&mut times.node, node),
            ] {
                sum.add(task.await.context("a measurement has panicked")?? - begin);
            }
            self.delete(&name).await?;
        }
        Ok(times)
    }

    /// Waits until the address is placed; returns a client in the node that it is placed on.
    async fn announcer(&self, address: IpAddr) -> Result<Browser> {
        let api: Api<VirtualIp> = Api::all(self.lab.client());
        let limit = Instant::now() + PATIENCE;
        loop {
            let held = api.get_opt(&address.to_string()).await?;
            let placement = held.and_then(|vip| vip.status).and_then(|status| status.placement);
            if let Some(placement) = placement {
                return Ok(Browser::new(self.lab.node(&placement.owner)?.host().namespace()));
            }
            ensure!(Instant::now() < limit, "{address} is placed on no node");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn usages(&self) -> Result<Usages> {
        let mut pids = vec![self.lab.controller().pid()];
        for node in self.lab.nodes() {
            pids.push(node.program(Program::Speaker)?.pid());
        }
        pids.into_iter().map(Usage::of).collect::<Result<_>>().map(Usages)
    }

    fn cost_rows(&self, services: u32, one: &Usages, many: &Usages) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (with, usages) in [("1 Service".to_owned(), one), (format!("{services} Services"), many)] {
            for (program, usage) in [("controller", usages.controller()?), ("speaker", usages.speaker()?)] {
                rows.push(Row::new(
                    format!("memory of the {program} with {with}"),
                    mebibytes(usage.rss),
                    String::new(),
                    format!(
                        "VmRSS; of it RssAnon {}{}",
                        mebibytes(usage.anonymous),
                        of_three(program)
                    ),
                ));
            }
        }
        Ok(rows)
    }

    /// Of the files that run, even if others have been built in their place since.
    fn size_rows(&self) -> Result<Vec<Row>> {
        let speaker = self.lab.nodes()[0].program(Program::Speaker)?;
        let row = |(program, pid)| {
            let size = std::fs::metadata(format!("/proc/{pid}/exe"))?.len();
            let what = format!("size of the {program}'s executable");
            Ok(Row::new(
                what,
                mebibytes(size / 1024),
                String::new(),
                "of the program that runs",
            ))
        };
        [("controller", self.lab.controller().pid()), ("speaker", speaker.pid())]
            .map(row)
            .into_iter()
            .collect()
    }
}

impl ApiTimes {
    fn rows(&self) -> Vec<Row> {
        let ratio = |times: &Times, base: &Times, how: &str| {
            let ratio = times.median().as_secs_f64() / base.median().as_secs_f64().max(1e-9);
            let verdict = if ratio <= GOAL { "met" } else { "missed" };
            let how = format!(
                "ratio of medians{}",
                how.replace("{goal}", &format!("; goal {GOAL:.0}: {verdict}"))
            );
            (format!("{ratio:.2}"), how)
        };
        let row = |what: &str, (ratio, how): (String, String)| Row::new(what, ratio, String::new(), how);
        vec![
            self.config_map.row("bare API round trip", "create of a ConfigMap"),
            self.cluster_ip.row("create of a ClusterIP Service", "the same client"),
            self.create.row(
                "create of a LoadBalancer Service",
                "the call alone; it is part of the next line",
            ),
            self.address.row(
                "Service created -> address in status",
                "from the call's start to the watch event",
            ),
            row(
                "  in creates of a ClusterIP Service",
                ratio(&self.address, &self.cluster_ip, "{goal}"),
            ),
            row(
                "  in creates of a ConfigMap",
                ratio(&self.address, &self.config_map, "{goal}"),
            ),
            self.after_create.row(
                "  of it after the create call returned",
                "FerroLB's two writes: the claim, then the status",
            ),
            row(
                "  in creates of a ConfigMap",
                ratio(&self.after_create, &self.config_map, ""),
            ),
        ]
    }
}

impl WireTimes {
    fn rows(&self) -> Vec<Row> {
        let lag = self.page.median().saturating_sub(self.node.median());
        vec![
            self.address.row(
                "created -> address in status (these Services)",
                "kube-proxy idle before, backends ready",
            ),
            self.wire
                .row("created -> ARP is answered", "asked by another host in raw frames"),
            self.cluster_ip.row(
                "created -> ClusterIP answers on a node",
                "kube-proxy alone: its first programming",
            ),
            self.node.row(
                "created -> address answers on its own node",
                "kube-proxy alone: its programming of the address",
            ),
            self.page.row(
                "created -> first page at the client",
                "HTTP through the address, from the LAN",
            ),
            Row::new(
                "  of it after kube-proxy was ready",
                millis(lag),
                String::new(),
                format!("difference of medians; times are exact to {}", millis(ATTEMPT)),
            ),
        ]
    }
}

fn cpu_rows(before: &Usages, after: &Usages, window: Duration) -> Result<Vec<Row>> {
    let percents: Vec<f64> = after
        .0
        .iter()
        .zip(&before.0)
        .map(|(after, before)| after.percent_of_a_core_since(before, window))
        .collect();
    let (controller, speakers) = percents.split_first().context("a controller")?;
    let speaker = speakers.iter().copied().fold(0.0, f64::max);
    let row = |program: &str, percent: f64| {
        Row::new(
            format!("CPU of the {program}, idle"),
            format!("{percent:.2} %"),
            String::new(),
            format!("of one core over {:.0} s{}", window.as_secs_f32(), of_three(program)),
        )
    };
    Ok(vec![row("controller", *controller), row("speaker", speaker)])
}

fn of_three(program: &str) -> &'static str {
    if program == "speaker" {
        "; the highest of three"
    } else {
        ""
    }
}

fn service(name: &str, kind: &str) -> Service {
    Service {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            selector: Some(BTreeMap::from([("app".to_owned(), "web".to_owned())])),
            ports: Some(vec![ServicePort {
                port: 80,
                target_port: Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(8080)),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("key".to_owned(), "value".to_owned())])),
        ..ConfigMap::default()
    }
}

/// When the first page came.
async fn first_page(browser: Browser, address: IpAddr) -> Result<Instant> {
    until(move || {
        let response = browser.http_get(address, 80, "bench.example", "/", ATTEMPT)?;
        ensure!(response.status == 200, "status {}", response.status);
        Ok(Instant::now())
    })
    .await
    .with_context(|| format!("a page from {address}"))
}

/// When somebody first answered for the address on the LAN.
async fn first_reply(onlooker: Browser, address: IpAddr) -> Result<Instant> {
    until(move || {
        let asked = Instant::now();
        let replies = onlooker.resolve(address, ATTEMPT)?;
        let first = replies.0.first().context("nobody answers")?;
        Ok(asked + first.after)
    })
    .await
    .with_context(|| format!("an answer for {address}"))
}

async fn until(attempt: impl Fn() -> Result<Instant> + Send + 'static) -> Result<Instant> {
    let limit = Instant::now() + PATIENCE;
    let retry = move || {
        loop {
            match attempt() {
                Ok(at) => return Ok(at),
                Err(error) if Instant::now() >= limit => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    };
    spawn_blocking(retry).await.context("a measurement has panicked")?
}
