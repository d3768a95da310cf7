//! `xtask bench install`: FerroLB installed, upgraded and hurt on nodes with a real kubelet, from the images of `xtask image`.
//!
//! Each run is a new cluster of three nodes. The pods run on one of them, the other two may announce, so what is lost is
//! the announcer's doing. Clients ask once a millisecond.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::value_parser;
use ferrolb_api::VirtualIp;
use ferrolb_lab::client::{Client as Browser, Probe, Prober, Tally};
use ferrolb_lab::lab::{ADMIN_PORT, NAMESPACE as FERROLB};
use ferrolb_lab::{Lab, Node, NodeKind, Setup, privilege, realnode, wait_until};
use kube::Api;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::figures::{Row, Times, Usage, mebibytes, millis, table, verdict};
use super::{footer, progress, publish, runtime};
use crate::{image, repository};

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
const STREAM: u16 = 9000;
/// Between two looks at a program that is starting.
const LOOK: Duration = Duration::from_millis(5);
const PROGRAMS: [&str; 2] = ["ferrolb-speaker", "ferrolb-controller"];
const WORKLOADS: [&str; 2] = ["daemonset/ferrolb-speaker", "deployment/ferrolb-controller"];

const FIRST_PAGE_GOAL: Duration = Duration::from_secs(5);
const ROLLOUT_GOAL: Duration = Duration::from_secs(10);
const KILLED_GOAL: Duration = Duration::from_millis(200);
const POWER_CUT_GOAL: Duration = Duration::from_millis(300);
const START_GOAL: Duration = Duration::from_secs(1);
const HANG_GOAL: Duration = Duration::from_secs(15);
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
          args: ["--http", "8080", "--tcp", "9000", "--udp", "5353"]
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
    - { name: tcp, port: 9000 }
    - { name: udp, port: 53, targetPort: 5353, protocol: UDP }
"#;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many clusters.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = value_parser!(u32).range(1..=100))]
    runs: u32,
    /// How many rolling updates of the speakers, in each cluster.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = value_parser!(u32).range(1..=100))]
    rollouts: u32,
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
    let (runs, rollouts, idle) = match args.quick {
        true => (1, 1, 5),
        false => (args.runs, args.rollouts, args.idle),
    };
    let text = runtime()?.block_on(measure(runs, rollouts, Duration::from_secs(idle)))?;
    publish("install", &text)
}

/// What all runs have seen.
#[derive(Default)]
struct Seen {
    /// From the manifest on: taken by kubectl, custom resources served, address, first page, all pods ready.
    phases: [Times; 5],
    memory: [Vec<u64>; 2],
    /// Bytes of the executables, which are all that is in the images.
    sizes: [u64; 2],
    /// From the start of a process to `/readyz`.
    starts: [Times; 2],
    rollouts: Times,
    rollout_gaps: Times,
    rollout_silences: Times,
    lost: u64,
    asked: u64,
    /// Rolling updates, and after how many the owner was another.
    updates: u64,
    moved: u64,
    /// Connections that were open during all rolling updates of a cluster, and how many of them live.
    connections: u64,
    living: u64,
    killed: Times,
    /// Until the containers of programs that hang run again.
    hangs: [Times; 2],
    lost_by_hangs: u64,
    power_cuts: Times,
    /// How often a node was booted again, and how often it got its address back.
    boots: u64,
    returned: u64,
}

const PHASES: [&str; 5] = [
    "manifest -> kubectl is done",
    "manifest -> a pool is accepted",
    "manifest -> address in the Service's status",
    "manifest -> first page",
    "manifest -> all pods ready",
];

async fn measure(runs: u32, rollouts: u32, idle: Duration) -> Result<String> {
    let mut seen = Seen::default();
    for run in 1..=runs {
        progress(&format!("cluster {run} of {runs}"));
        let setup = Setup {
            kind: NodeKind::Real,
            ferrolb: false,
            ..Setup::named("bench-install")
        };
        let lab = Lab::start(setup).await?;
        let outcome = async { play(&lab, rollouts, idle, &mut seen).await }.await;
        outcome.map_err(|error| anyhow!("{error:#}\n{}", lab.failure_report()))?;
    }
    let rows = seen.rows()?;
    let table = table(["what", "median", "most", "how"], &rows);
    let cluster = "three nodes with kubelet, containerd and runc, images of the release build";
    Ok(format!("{table}\n{}\n", footer(cluster)))
}

async fn play(lab: &Lab, rollouts: u32, idle: Duration, seen: &mut Seen) -> Result<()> {
    let browser = Browser::new(lab.client_host().namespace());
    let address = install(lab, &browser, seen).await?;

    progress("memory");
    tokio::time::sleep(idle).await;
    for (index, program) in PROGRAMS.into_iter().enumerate() {
        for (_, pid) in processes(lab, program)? {
            seen.memory[index].push(Usage::of(pid)?.rss);
            let executable = format!("/proc/{pid}/exe");
            let size = fs::metadata(&executable)
                .with_context(|| format!("look at {executable}"))?
                .len();
            seen.sizes[index] = size;
        }
    }

    let guest = Browser::new(lab.add_host("guest", 200)?.namespace());
    let mut connection = browser.tcp_connect(SocketAddr::new(address, STREAM), PATIENCE)?;
    for round in 1..=rollouts {
        progress(&format!("rolling update {round} of {rollouts}"));
        roll(lab, (&browser, &guest), address, seen).await?;
    }
    seen.connections += 1;
    seen.living += u64::from(lives(&mut connection).is_ok());

    progress("kill -9");
    let (owner, asker) = (owner(lab, address).await?, guest.asker(address)?);
    let [speaker] = owner.processes_called(PROGRAMS[0])?[..] else {
        bail!("not one speaker on {}", owner.name());
    };
    kill(Pid::from_raw(speaker), Signal::SIGKILL).context("kill the speaker")?;
    seen.starts[0].add(start(lab, owner.name(), PROGRAMS[0], &[speaker]).await?);
    tokio::time::sleep(REST).await;
    seen.killed.add(blocking(move || asker.stop()).await?);
    rolled_out(lab, &WORKLOADS).await?;
    let before = processes(lab, PROGRAMS[1])?;
    let (node, controller) = before.first().context("no controller runs")?;
    let before: Vec<i32> = before.iter().map(|(_, pid)| *pid).collect();
    kill(Pid::from_raw(*controller), Signal::SIGKILL).context("kill a controller")?;
    seen.starts[1].add(start(lab, node, PROGRAMS[1], &before).await?);
    rolled_out(lab, &WORKLOADS).await?;
    tokio::time::sleep(REST).await;

    progress("hanging programs");
    hang(lab, &browser, address, seen).await?;
    tokio::time::sleep(REST).await;

    progress("power cut");
    let prober = probe(&browser, address).await?;
    let owner = self::owner(lab, address).await?;
    let before = prober.so_far().answered();
    owner.power_off()?;
    answered(&prober, before + 500).await?;
    let tally: Tally = blocking(move || Ok(prober.stop())).await?;
    seen.power_cuts.add(tally.longest_gap);
    let heir = wait_until("an heir", PATIENCE, async || {
        let heir = self::owner(lab, address).await?;
        (heir.name() != owner.name())
            .then_some(heir)
            .context("it is the node without power")
    })
    .await?;
    lab.wait_node_ready(owner.name(), false, PATIENCE).await?;
    owner.power_on()?;
    lab.wait_node_ready(owner.name(), true, PATIENCE).await?;
    rolled_out(lab, &WORKLOADS).await?;
    tokio::time::sleep(REST).await;
    seen.boots += 1;
    seen.returned += u64::from(self::owner(lab, address).await?.name() != heir.name());
    Ok(())
}

/// The processes of a program, each with its node.
fn processes(lab: &Lab, program: &str) -> Result<Vec<(String, i32)>> {
    let mut found = Vec::new();
    for node in lab.nodes() {
        found.extend(
            node.processes_called(program)?
                .into_iter()
                .map(|pid| (node.name().to_owned(), pid)),
        );
    }
    Ok(found)
}

/// One rolling update of the speakers, under a client that knows the address and one that asks for it.
async fn roll(lab: &Lab, (knows, asks): (&Browser, &Browser), address: IpAddr, seen: &mut Seen) -> Result<()> {
    let before = owner(lab, address).await?.name().to_owned();
    let prober = probe(knows, address).await?;
    let asker = asks.asker(address)?;
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
    seen.updates += 1;
    seen.moved += u64::from(owner(lab, address).await?.name() != before);
    Ok(())
}

/// The connection still answers.
fn lives(connection: &mut TcpStream) -> Result<()> {
    connection.write_all(b"alive?").context("write")?;
    let mut answer = Vec::new();
    // The name of the pod comes first.
    while !answer.ends_with(b"alive?") {
        let mut byte = [0];
        connection.read_exact(&mut byte).context("read")?;
        answer.extend(byte);
    }
    Ok(())
}

/// How long a process that is none of `before` takes on the node from its start until it says that it is ready.
async fn start(lab: &Lab, node: &str, program: &str, before: &[i32]) -> Result<Duration> {
    let begin = Instant::now();
    let node = lab.node(node)?;
    loop {
        let now = node.processes_called(program)?;
        if let Some(pid) = now.into_iter().find(|pid| !before.contains(pid)) {
            let namespace = File::open(format!("/proc/{pid}/ns/net")).context("open the program's network")?;
            let address = SocketAddr::from((Ipv6Addr::LOCALHOST, ADMIN_PORT));
            let ask = move || ready(&namespace, address);
            if blocking(ask).await.unwrap_or(false) {
                return age(pid);
            }
        }
        ensure!(
            begin.elapsed() < PATIENCE,
            "{program} on {} was not started again",
            node.name()
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// The owner's speaker and then all controllers are stopped: how long until their containers run anew.
async fn hang(lab: &Lab, browser: &Browser, address: IpAddr, seen: &mut Seen) -> Result<()> {
    let prober = probe(browser, address).await?;
    let owner = owner(lab, address).await?.name().to_owned();
    for (index, program) in PROGRAMS.into_iter().enumerate() {
        let mut stopped = processes(lab, program)?;
        stopped.retain(|(node, _)| index == 1 || *node == owner);
        let begin = Instant::now();
        for (_, pid) in &stopped {
            kill(Pid::from_raw(*pid), Signal::SIGSTOP).context("stop a program")?;
        }
        let before: Vec<i32> = stopped.iter().map(|(_, pid)| *pid).collect();
        for (node, _) in &stopped {
            start(lab, node, program, &before).await?;
        }
        seen.hangs[index].add(begin.elapsed());
        rolled_out(lab, &WORKLOADS).await?;
    }
    let tally = blocking(move || Ok(prober.stop())).await?;
    seen.lost_by_hangs += tally.lost;
    Ok(())
}

/// Whether a program in this network says that it is ready.
fn ready(namespace: &File, address: SocketAddr) -> Result<bool> {
    let ask = || -> Result<bool> {
        setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the program's network")?;
        let mut stream = TcpStream::connect_timeout(&address, REQUEST)?;
        stream.set_read_timeout(Some(REQUEST))?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split_whitespace().nth(1) == Some("200"))
    };
    // A thread of its own: it does not come back from there.
    std::thread::scope(|scope| scope.spawn(ask).join()).map_err(|_| anyhow!("the thread has panicked"))?
}

/// How long ago the process was started, to a hundredth of a second.
fn age(pid: i32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read when a program was started")?;
    // What is in brackets may have spaces in it; the start is the 22nd field.
    let after = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks: u64 = after.split_whitespace().nth(19).context("no start in it")?.parse()?;
    let uptime = fs::read_to_string("/proc/uptime").context("read the uptime")?;
    let up: f64 = uptime.split_whitespace().next().context("no uptime")?.parse()?;
    Ok(Duration::from_secs_f64(up).saturating_sub(Duration::from_millis(ticks * 10)))
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
        for (index, program) in PROGRAMS.into_iter().enumerate() {
            let how = format!("process start -> /readyz; {}", goal(&self.starts[index], START_GOAL));
            rows.push(row(&format!("{program} starts"), &self.starts[index], how));
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
        let how = format!("of {} updates; goal 0: {}", self.updates, verdict(self.moved == 0));
        rows.push(Row::new(
            "  with another owner afterwards",
            self.moved.to_string(),
            String::new(),
            how,
        ));
        let (living, all) = (self.living, self.connections);
        let how = format!(
            "of {all}, open during all of a cluster's; goal all: {}",
            verdict(living == all)
        );
        rows.push(Row::new(
            "  TCP connections that live on",
            living.to_string(),
            String::new(),
            how,
        ));
        let how = goal(&self.killed, KILLED_GOAL);
        rows.push(row(
            "speaker killed: silence for clients that ask for it",
            &self.killed,
            how,
        ));
        for (index, program) in PROGRAMS.into_iter().enumerate() {
            let how = format!("until it is ready again; {}", goal(&self.hangs[index], HANG_GOAL));
            rows.push(row(&format!("{program} hangs"), &self.hangs[index], how));
        }
        let lost = self.lost_by_hangs;
        let how = format!("goal 0: {}", verdict(lost == 0));
        rows.push(Row::new(
            "  questions lost meanwhile",
            lost.to_string(),
            String::new(),
            how,
        ));
        let how = goal(&self.power_cuts, POWER_CUT_GOAL);
        rows.push(row("owner's node loses its power: silence", &self.power_cuts, how));
        let how = format!("of {} boots; goal 0: {}", self.boots, verdict(self.returned == 0));
        rows.push(Row::new(
            "  booted, it gets its address back",
            self.returned.to_string(),
            String::new(),
            how,
        ));
        for (program, unpacked) in PROGRAMS.into_iter().zip(self.sizes) {
            let path = repository().join(format!("target/images/{program}.oci.tar"));
            let packed = fs::metadata(&path)
                .with_context(|| format!("look at {}", path.display()))?
                .len();
            let met = verdict(unpacked <= image::LIMIT);
            let how = format!("unpacked, of the image; goal {}: {met}", mebibytes(image::LIMIT / 1024));
            rows.push(Row::new(
                format!("{program}, size"),
                mebibytes(unpacked / 1024),
                String::new(),
                how,
            ));
            let how = "its archive, compressed".to_owned();
            rows.push(Row::new("", mebibytes(packed / 1024), String::new(), how));
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
