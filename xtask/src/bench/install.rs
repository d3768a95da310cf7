//! `xtask bench install`: FerroLB installed, upgraded and hurt on nodes with a real kubelet, from the images of `xtask image`.
//!
//! Each run is a new cluster of three nodes. The pods run on one of them, the other two may announce, so what is lost is
//! the announcer's doing. Clients ask once a millisecond.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::value_parser;
use ferrolb_api::VirtualIp;
use ferrolb_lab::client::{Client as Browser, Probe, Prober, Tally};
use ferrolb_lab::lab::NAMESPACE as FERROLB;
use ferrolb_lab::{Lab, Node, NodeKind, Setup, privilege, realnode, wait_until};
use kube::Api;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::figures::{Row, Times, Usage, mebibytes, millis, table, verdict};
use super::{footer, progress, publish, runtime};
use crate::repository;

const NAMESPACE: &str = "default";
/// What anything may take at most.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two questions of a client.
const PERIOD: Duration = Duration::from_millis(1);
/// How long one page may take: below the second after which a lost SYN is sent again.
const REQUEST: Duration = Duration::from_millis(400);
/// From the end of one step to the next.
const REST: Duration = Duration::from_millis(1500);
const ECHO: u16 = 53;
const PROGRAMS: [&str; 2] = ["ferrolb-speaker", "ferrolb-controller"];
const WORKLOADS: [&str; 2] = ["daemonset/ferrolb-speaker", "deployment/ferrolb-controller"];

const FIRST_PAGE_GOAL: Duration = Duration::from_secs(5);
const ROLLOUT_GOAL: Duration = Duration::from_secs(10);
const KILLED_GOAL: Duration = Duration::from_millis(200);
const POWER_CUT_GOAL: Duration = Duration::from_millis(300);
/// Resident, KiB; of the speaker and of the controller.
const MEMORY_GOAL: [u64; 2] = [10 * 1024, 14 * 1024];

const POOL: &str = r#"apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: { name: bench, namespace: ferrolb-system }
spec: { addresses: [172.30.0.100-172.30.0.149] }
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: { name: bench, namespace: ferrolb-system }
spec:
  ipAddressPools: [bench]
  nodeSelectors:
    - matchExpressions:
        - { key: kubernetes.io/hostname, operator: NotIn, values: [node-3] }
"#;

const PODS: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      nodeSelector: { kubernetes.io/hostname: node-3 }
      containers:
        - name: web
          image: ferrolb.lab/web:1
          args: ["--http", "8080", "--udp", "5353"]
          # For a receive queue of seconds.
          securityContext: { runAsUser: 0, capabilities: { add: [NET_ADMIN] } }
          readinessProbe:
            httpGet: { path: /healthz, port: 8080 }
            periodSeconds: 1
"#;

const SERVICE: &str = r#"apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  type: LoadBalancer
  selector: { app: web }
  ports:
    - { name: http, port: 80, targetPort: 8080 }
    - { name: udp, port: 53, targetPort: 5353, protocol: UDP }
"#;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many clusters.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = value_parser!(u32).range(1..=100))]
    runs: u32,
    /// How long the programs are left alone before their memory is read, in each cluster.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    idle: u64,
    /// One cluster, not left alone for long: to see that the bench works.
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    privilege::acquire()?;
    if let Some(reason) = realnode::why_not() {
        bail!("this machine cannot run real nodes: {reason}");
    }
    let (runs, idle) = if args.quick { (1, 5) } else { (args.runs, args.idle) };
    let text = runtime()?.block_on(measure(runs, Duration::from_secs(idle)))?;
    publish("install", &text)
}

/// What all runs have seen.
#[derive(Default)]
struct Seen {
    /// From the manifest on: taken by kubectl, custom resources served, address, first page, all pods ready.
    phases: [Times; 5],
    memory: [Vec<u64>; 2],
    rollouts: Times,
    rollout_gaps: Times,
    rollout_silences: Times,
    lost: u64,
    asked: u64,
    killed: Times,
    power_cuts: Times,
}

const PHASES: [&str; 5] = [
    "manifest -> kubectl is done",
    "manifest -> a pool is accepted",
    "manifest -> address in the Service's status",
    "manifest -> first page",
    "manifest -> all pods ready",
];

async fn measure(runs: u32, idle: Duration) -> Result<String> {
    let mut seen = Seen::default();
    for run in 1..=runs {
        progress(&format!("cluster {run} of {runs}"));
        let setup = Setup {
            kind: NodeKind::Real,
            ferrolb: false,
            ..Setup::named("bench-install")
        };
        let lab = Lab::start(setup).await?;
        let outcome = async { play(&lab, idle, &mut seen).await }.await;
        outcome.map_err(|error| anyhow!("{error:#}\n{}", lab.failure_report()))?;
    }
    let rows = seen.rows()?;
    let table = table(["what", "median", "most", "how"], &rows);
    let cluster = "three nodes with kubelet, containerd and runc, images of the release build";
    Ok(format!("{table}\n{}\n", footer(cluster)))
}

async fn play(lab: &Lab, idle: Duration, seen: &mut Seen) -> Result<()> {
    let browser = Browser::new(lab.client_host().namespace());
    let address = install(lab, &browser, seen).await?;

    progress("memory");
    tokio::time::sleep(idle).await;
    for (program, memory) in PROGRAMS.into_iter().zip(&mut seen.memory) {
        for node in lab.nodes() {
            for pid in node.processes_called(program)? {
                memory.push(Usage::of(pid)?.rss);
            }
        }
    }

    progress("rolling update");
    let prober = probe(&browser, address).await?;
    let guest = Browser::new(lab.add_host("guest", 200)?.namespace());
    let asker = guest.asker(address)?;
    let begin = Instant::now();
    kubectl(lab, &["rollout", "restart", WORKLOADS[0]]).await?;
    rolled_out(lab, &WORKLOADS[..1]).await?;
    seen.rollouts.add(begin.elapsed());
    seen.rollout_silences.add(blocking(move || asker.stop()).await?);
    let tally = blocking(move || Ok(prober.stop())).await?;
    seen.rollout_gaps.add(tally.longest_gap);
    seen.lost += tally.lost;
    seen.asked += tally.sent;
    tokio::time::sleep(REST).await;

    progress("kill -9");
    let owner = owner(lab, address).await?;
    let asker = guest.asker(address)?;
    for pid in owner.processes_called(PROGRAMS[0])? {
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("kill the speaker")?;
    }
    tokio::time::sleep(REST).await;
    rolled_out(lab, &WORKLOADS).await?;
    seen.killed.add(blocking(move || asker.stop()).await?);
    tokio::time::sleep(REST).await;

    progress("power cut");
    let prober = probe(&browser, address).await?;
    let owner = self::owner(lab, address).await?;
    let before = prober.so_far().answered();
    owner.power_off()?;
    answered(&prober, before + 500).await?;
    let tally: Tally = blocking(move || Ok(prober.stop())).await?;
    seen.power_cuts.add(tally.longest_gap);
    Ok(())
}

/// Installs FerroLB beside pods that are ready, and takes the time of each phase.
async fn install(lab: &Lab, browser: &Browser, seen: &mut Seen) -> Result<IpAddr> {
    progress("installation");
    lab.import_ferrolb().await?;
    lab.apply(NAMESPACE, PODS).await?;
    lab.wait_pods_ready(NAMESPACE, "app=web", 2, PATIENCE).await?;
    let begin = Instant::now();
    let [applied, served, addressed, page, ready] = &mut seen.phases;
    lab.apply_ferrolb().await?;
    applied.add(begin.elapsed());
    wait_until("a pool to be accepted", PATIENCE, async || {
        lab.apply(FERROLB, POOL).await
    })
    .await?;
    served.add(begin.elapsed());
    lab.apply(NAMESPACE, SERVICE).await?;
    let address = lab.wait_external_ips(NAMESPACE, "web", 1, PATIENCE).await?[0];
    addressed.add(begin.elapsed());
    wait_until("the first page", PATIENCE, async || {
        let browser = browser.clone();
        blocking(move || browser.http_get(address, 80, "bench.example", "/", REQUEST)).await
    })
    .await?;
    page.add(begin.elapsed());
    rolled_out(lab, &WORKLOADS).await?;
    ready.add(begin.elapsed());
    Ok(address)
}

impl Seen {
    fn rows(&self) -> Result<Vec<Row>> {
        let row = |what: &str, times: &Times, how: String| {
            let most = times.quantile(100);
            Row::new(what, millis(times.median()), millis(most), how)
        };
        let goal = |times: &Times, goal: Duration| {
            let met = verdict(times.quantile(100) <= goal);
            format!("goal {}: {met}", millis(goal))
        };
        let mut rows = Vec::new();
        for (index, (what, times)) in PHASES.into_iter().zip(&self.phases).enumerate() {
            let how = if index == 3 {
                goal(times, FIRST_PAGE_GOAL)
            } else {
                String::new()
            };
            rows.push(row(what, times, how));
        }
        for ((program, memory), most) in PROGRAMS.into_iter().zip(&self.memory).zip(MEMORY_GOAL) {
            let mut memory = memory.clone();
            memory.sort_unstable();
            let (middle, last) = (memory.get(memory.len() / 2), memory.last());
            let (middle, last) = middle.zip(last).with_context(|| format!("no process of {program}"))?;
            let how = format!("resident; goal {}: {}", mebibytes(most), verdict(*last <= most));
            let what = format!("{program} with one Service");
            rows.push(Row::new(what, mebibytes(*middle), mebibytes(*last), how));
        }
        let how = goal(&self.rollouts, ROLLOUT_GOAL);
        rows.push(row("rolling update of three speakers", &self.rollouts, how));
        let how = format!(
            "{} of {} questions lost; goal 0: {}",
            self.lost,
            self.asked,
            verdict(self.lost == 0)
        );
        rows.push(row(
            "  longest silence for a client that knows the address",
            &self.rollout_gaps,
            how,
        ));
        let how = "asked by ARP every 20 ms".to_owned();
        rows.push(row(
            "  longest silence for clients that ask for it",
            &self.rollout_silences,
            how,
        ));
        let how = goal(&self.killed, KILLED_GOAL);
        rows.push(row(
            "speaker killed: silence for clients that ask for it",
            &self.killed,
            how,
        ));
        let how = goal(&self.power_cuts, POWER_CUT_GOAL);
        rows.push(row("owner's node loses its power: silence", &self.power_cuts, how));
        for program in PROGRAMS {
            let path = repository().join(format!("target/images/{program}.oci.tar"));
            let size = fs::metadata(&path)
                .with_context(|| format!("look at {}", path.display()))?
                .len();
            let how = "the image's archive, compressed".to_owned();
            rows.push(Row::new(program, mebibytes(size / 1024), String::new(), how));
        }
        Ok(rows)
    }
}

async fn kubectl(lab: &Lab, args: &[&str]) -> Result<String> {
    lab.kubectl(&[&["-n", FERROLB], args].concat()).await
}

async fn rolled_out(lab: &Lab, workloads: &[&str]) -> Result<()> {
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    for workload in workloads {
        kubectl(lab, &["rollout", "status", workload, &timeout]).await?;
    }
    Ok(())
}

/// The node that announces the address.
async fn owner(lab: &Lab, address: IpAddr) -> Result<&Node> {
    let api: Api<VirtualIp> = Api::all(lab.client());
    let name = wait_until(&format!("the announcer of {address}"), PATIENCE, async || {
        let status = api.get(&address.to_string()).await?.status.unwrap_or_default();
        let announcer = status.announcer.map(|announcer| announcer.node);
        announcer.context("nobody announces it")
    })
    .await?;
    lab.node(&name)
}

/// A client that asks without a pause, from the first answers on.
async fn probe(browser: &Browser, address: IpAddr) -> Result<Prober> {
    let target = SocketAddr::new(address, ECHO);
    wait_until("the client to be answered", PATIENCE, async || {
        let browser = browser.clone();
        blocking(move || browser.udp(target, b"0", Duration::from_secs(1))).await
    })
    .await?;
    let prober = browser.probe(target, Probe::Udp, PERIOD)?;
    answered(&prober, 500).await?;
    Ok(prober)
}

async fn answered(prober: &Prober, count: u64) -> Result<()> {
    wait_until("the clients to be served", PATIENCE, async || {
        let tally = prober.so_far();
        (tally.answered() >= count)
            .then_some(())
            .with_context(|| format!("{tally:?}"))
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("a thread has panicked")?
}
