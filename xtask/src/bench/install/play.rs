//! One cluster's life: an installation, rolling updates, programs that are killed or hang, a node that loses its power.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ferrolb_lab::client::{Client, Probe, Prober, Tally};
use ferrolb_lab::{Lab, Node, wait_until};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::seen::Seen;
use super::side::Side;
use super::{NAMESPACE, PATIENCE, PODS, POOL, SERVICE};
use crate::bench::figures::Usage;
use crate::bench::progress;

/// Between two questions of a client.
const PERIOD: Duration = Duration::from_millis(1);
/// How long one page may take: below the second after which a lost SYN is sent again.
const REQUEST: Duration = Duration::from_millis(400);
/// How long an answer by ARP may take.
const ANSWER: Duration = Duration::from_millis(100);
/// From the end of one step to the next.
const REST: Duration = Duration::from_millis(1500);
const ECHO: u16 = 53;
const STREAM: u16 = 9000;
/// Between two looks at a program that is starting.
const LOOK: Duration = Duration::from_millis(5);

/// A Service that is announced, and its clients.
pub(super) struct Play<'a> {
    lab: &'a Lab,
    side: &'a Side,
    address: IpAddr,
    /// Knows the address.
    knows: Client,
    /// Asks for it.
    asks: Client,
}

impl<'a> Play<'a> {
    /// Installs beside pods that are ready, and takes the time of each phase.
    pub(super) async fn begin(lab: &'a Lab, side: &'a Side, seen: &mut Seen) -> Result<Self> {
        progress("installation");
        let knows = Client::new(lab.client_host().namespace());
        side.import(lab).await?;
        lab.apply(NAMESPACE, PODS).await?;
        lab.wait_pods_ready(NAMESPACE, "app=web", 2, PATIENCE).await?;
        let begin = Instant::now();
        let [applied, served, addressed, page, ready] = &mut seen.phases;
        side.apply(lab).await?;
        applied.add(begin.elapsed());
        let pool = POOL.replace("NAMESPACE", side.namespace());
        wait_until("a pool to be accepted", PATIENCE, async || {
            lab.apply(side.namespace(), &pool).await
        })
        .await?;
        served.add(begin.elapsed());
        lab.apply(NAMESPACE, SERVICE).await?;
        let address = lab.wait_external_ips(NAMESPACE, "web", 1, PATIENCE).await?[0];
        addressed.add(begin.elapsed());
        wait_until("the first page", PATIENCE, async || {
            let client = knows.clone();
            blocking(move || client.http_get(address, 80, "bench.example", "/", REQUEST)).await
        })
        .await?;
        page.add(begin.elapsed());
        side.rolled_out(lab, &side.workloads()).await?;
        ready.add(begin.elapsed());
        Ok(Self {
            lab,
            side,
            address,
            knows,
            asks: Client::new(lab.add_host("guest", 200)?.namespace()),
        })
    }

    /// Everything that is measured of an installation.
    pub(super) async fn go_on(&self, rollouts: u32, idle: Duration, seen: &mut Seen) -> Result<()> {
        progress("memory");
        tokio::time::sleep(idle).await;
        for (part, memory) in seen.memory.iter_mut().enumerate() {
            for (_, pid) in self.side.processes(self.lab, part)? {
                memory.push(Usage::of(pid)?.rss);
                let executable = format!("/proc/{pid}/exe");
                let size = fs::metadata(&executable).with_context(|| format!("look at {executable}"))?;
                seen.sizes[part] = size.len();
            }
        }
        let mut connection = self
            .knows
            .tcp_connect(SocketAddr::new(self.address, STREAM), PATIENCE)?;
        for round in 1..=rollouts {
            progress(&format!("rolling update {round} of {rollouts}"));
            self.roll(seen).await?;
        }
        seen.connections += 1;
        seen.living += u64::from(lives(&mut connection).is_ok());
        progress("kill -9");
        self.kill(seen).await?;
        progress("hanging programs");
        self.hang(seen).await?;
        progress("power cut");
        self.power_cut(seen).await
    }

    /// One rolling update of the speakers, under a client that knows the address and one that asks for it.
    async fn roll(&self, seen: &mut Seen) -> Result<()> {
        let before = self.owner().await?.name();
        let prober = self.probe().await?;
        let asker = self.asks.asker(self.address)?;
        let begin = Instant::now();
        let [speakers, _] = self.side.workloads();
        self.side.kubectl(self.lab, &["rollout", "restart", speakers]).await?;
        self.side.rolled_out(self.lab, &[speakers]).await?;
        seen.rollouts.add(begin.elapsed());
        seen.rollout_silences.add(blocking(move || asker.stop()).await?);
        let tally = blocking(move || Ok(prober.stop())).await?;
        seen.rollout_gaps.add(tally.longest_gap);
        seen.lost += tally.lost;
        seen.asked += tally.sent;
        tokio::time::sleep(REST).await;
        seen.updates += 1;
        seen.moved += u64::from(self.owner().await?.name() != before);
        Ok(())
    }

    /// The owner's speaker is killed, and then a controller.
    async fn kill(&self, seen: &mut Seen) -> Result<()> {
        let (owner, asker) = (self.owner().await?, self.asks.asker(self.address)?);
        let [speaker] = owner.processes_called(self.side.programs()[0])?[..] else {
            bail!("not one speaker on {}", owner.name());
        };
        kill(Pid::from_raw(speaker), Signal::SIGKILL).context("kill the speaker")?;
        seen.starts[0].add(self.start(owner.name(), 0, &[speaker]).await?);
        tokio::time::sleep(REST).await;
        seen.killed.add(blocking(move || asker.stop()).await?);
        self.rolled_out().await?;
        let before = self.side.processes(self.lab, 1)?;
        let (node, controller) = before.first().context("no controller runs")?;
        let before: Vec<i32> = before.iter().map(|(_, pid)| *pid).collect();
        kill(Pid::from_raw(*controller), Signal::SIGKILL).context("kill a controller")?;
        seen.starts[1].add(self.start(node, 1, &before).await?);
        self.rolled_out().await?;
        tokio::time::sleep(REST).await;
        Ok(())
    }

    /// The owner's speaker and then all controllers are stopped: how long until their containers run anew.
    async fn hang(&self, seen: &mut Seen) -> Result<()> {
        let prober = self.probe().await?;
        let owner = self.owner().await?.name();
        for (part, hangs) in seen.hangs.iter_mut().enumerate() {
            let mut stopped = self.side.processes(self.lab, part)?;
            stopped.retain(|(node, _)| part == 1 || *node == owner);
            let begin = Instant::now();
            for (_, pid) in &stopped {
                kill(Pid::from_raw(*pid), Signal::SIGSTOP).context("stop a program")?;
            }
            let before: Vec<i32> = stopped.iter().map(|(_, pid)| *pid).collect();
            for (node, _) in &stopped {
                self.start(node, part, &before).await?;
            }
            hangs.add(begin.elapsed());
            self.rolled_out().await?;
        }
        let tally = blocking(move || Ok(prober.stop())).await?;
        seen.lost_by_hangs += tally.lost;
        tokio::time::sleep(REST).await;
        Ok(())
    }

    /// The owner's node loses its power, and boots again.
    async fn power_cut(&self, seen: &mut Seen) -> Result<()> {
        let prober = self.probe().await?;
        let owner = self.owner().await?;
        let before = prober.so_far().answered();
        owner.power_off()?;
        answered(&prober, before + 500).await?;
        let tally: Tally = blocking(move || Ok(prober.stop())).await?;
        seen.power_cuts.add(tally.longest_gap);
        let heir = self.owner().await?.name();
        ensure!(heir != owner.name(), "{heir} has no power and answers");
        self.lab.wait_node_ready(owner.name(), false, PATIENCE).await?;
        owner.power_on()?;
        self.lab.wait_node_ready(owner.name(), true, PATIENCE).await?;
        self.rolled_out().await?;
        tokio::time::sleep(REST).await;
        seen.boots += 1;
        seen.returned += u64::from(self.owner().await?.name() != heir);
        Ok(())
    }

    /// How long a process of a part that is none of `before` takes on the node from its start until it says that it is ready.
    async fn start(&self, node: &str, part: usize, before: &[i32]) -> Result<Duration> {
        let (program, readyz) = (self.side.programs()[part], self.side.readyz());
        let begin = Instant::now();
        let node = self.lab.node(node)?;
        loop {
            let now = node.processes_called(program)?;
            if let Some(pid) = now.into_iter().find(|pid| !before.contains(pid)) {
                let namespace = File::open(format!("/proc/{pid}/ns/net")).context("open the program's network")?;
                let ask = move || ready(&namespace, readyz);
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

    async fn rolled_out(&self) -> Result<()> {
        self.side.rolled_out(self.lab, &self.side.workloads()).await
    }

    /// The node in whose name the address is answered.
    async fn owner(&self) -> Result<&'a Node> {
        let what = format!("one node to answer for {}", self.address);
        let mac = wait_until(&what, PATIENCE, async || {
            let (client, address) = (self.asks.clone(), self.address);
            let replies = blocking(move || client.resolve(address, ANSWER)).await?;
            replies.only().with_context(|| format!("{:?} do", replies.macs()))
        })
        .await?;
        let owner = self.lab.nodes().iter().find(|node| node.host().mac() == mac);
        owner.with_context(|| format!("{mac} answers for {} and is no node's", self.address))
    }

    /// A client that asks without a pause, from the first answers on.
    async fn probe(&self) -> Result<Prober> {
        let target = SocketAddr::new(self.address, ECHO);
        wait_until("the client to be answered", PATIENCE, async || {
            let client = self.knows.clone();
            blocking(move || client.udp(target, b"0", Duration::from_secs(1))).await
        })
        .await?;
        let prober = self.knows.probe(target, Probe::Udp, PERIOD)?;
        answered(&prober, 500).await?;
        Ok(prober)
    }
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
