//! ARP: how soon a question is answered, by one address and by a thousand, beside the kernel and a responder that does
//! nothing else on the same LAN; and what questions for other addresses cost.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrolb_lab::Program;
use ferrolb_lab::net::Host;
use pnet::datalink::{self, Channel, Config, DataLinkReceiver, DataLinkSender};

use super::super::figures::{Row, Times, Usage, millis};
use super::{Bench, progress, verdict};

/// The 99th percentile of answers.
const GOAL: Duration = Duration::from_millis(1);
/// And beside the minimal responder's.
const GOAL_RATIO: f64 = 1.5;
/// An answer to a single question is waited for so long.
const LIMIT: Duration = Duration::from_millis(20);

/// Questions for addresses of others, a second.
const STORM: u32 = 20_000;
/// Of a core, in percent.
const STORM_GOAL: f64 = 1.0;

const MINIMAL_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 201, 1);
const BROADCAST: [u8; 6] = [0xff; 6];
/// ARP over Ethernet for IPv4, up to the operation (RFC 826).
const HEAD: [u8; 8] = [8, 6, 0, 1, 8, 0, 6, 4];
const FRAME: usize = 42;

impl Bench<'_> {
    /// Asks for the addresses, for the minimal responder's and for the kernel's by turns.
    pub(super) fn arp_latency(&mut self, count: u32, addresses: &[IpAddr]) -> Result<()> {
        progress(&format!("ARP replies, {} addresses", addresses.len()));
        let minimal = self.minimal()?.address();
        let kernel = self.lab.nodes()[3].host().address();
        let (mut ours, mut others, mut kernels) = (Times::default(), Times::default(), Times::default());
        for run in 0..count as usize {
            // Not the same ones in a row.
            let address = addresses[run * 7919 % addresses.len()];
            for (times, address) in [(&mut ours, address), (&mut others, minimal), (&mut kernels, kernel)] {
                let replies = self.client.resolve(address, LIMIT)?;
                times.add(replies.0.first().map_or(LIMIT, |first| first.after));
            }
        }
        let (p99, beside) = (ours.quantile(99), others.quantile(99));
        let how = format!(
            "max {}; none within {1} counts as {1}; goal p99 {2}: {3}",
            millis(ours.quantile(100)),
            millis(LIMIT),
            millis(GOAL),
            verdict(p99 <= GOAL)
        );
        let what = format!("ARP reply, {} addresses owned in all", addresses.len());
        self.rows.push(ours.row(&what, &how));
        self.rows
            .push(others.row("  a minimal raw-socket responder", "by turns with it"));
        self.rows
            .push(kernels.row("  the kernel, for a node's own address", "by turns with it"));
        let ratio = p99.as_secs_f64() / beside.as_secs_f64().max(1e-9);
        let medians = ours.median().as_secs_f64() / others.median().as_secs_f64().max(1e-9);
        let how = format!("ratios; goal p99 {GOAL_RATIO}: {}", verdict(ratio <= GOAL_RATIO));
        let what = "  FerroLB's part of the minimal responder's";
        self.rows
            .push(Row::new(what, format!("{medians:.2}"), format!("{ratio:.2}"), how));
        Ok(())
    }

    /// What the owner's speaker, and the minimal responder, do for questions that are not theirs.
    pub(super) async fn storm(&mut self, time: Duration, owned: usize) -> Result<()> {
        progress("a storm of ARP requests");
        let pid = self.owner().await?.program(Program::Speaker)?.pid();
        let host = self.host("storm", 241)?;
        let minimal = self.minimal()?;
        let before = (Usage::of(pid)?, minimal.cpu());
        tokio::time::sleep(time).await;
        let begin = (Usage::of(pid)?, minimal.cpu());
        let sent = tokio::task::spawn_blocking(move || storm(&host, time)).await??;
        let end = (Usage::of(pid)?, self.minimal()?.cpu());
        let percent = |of: Duration| 100.0 * of.as_secs_f64() / time.as_secs_f64();
        let idle = (
            begin.0.percent_of_a_core_since(&before.0, time),
            percent(begin.1.saturating_sub(before.1)),
        );
        let busy = (
            end.0.percent_of_a_core_since(&begin.0, time),
            percent(end.1.saturating_sub(begin.1)),
        );
        let rate = f64::from(sent) / time.as_secs_f64();
        let more = busy.0 - idle.0;
        let how = format!(
            "of a core, {rate:.0} broadcasts/s for {} s, {owned} addresses owned in all; {:.2} % before the storm; goal \
             for the difference {STORM_GOAL} %: {}",
            time.as_secs(),
            idle.0,
            verdict(more < STORM_GOAL)
        );
        let value = |percent: f64| format!("{percent:.2} %");
        let what = "ARP requests for other addresses: the speaker";
        self.rows.push(Row::new(what, value(busy.0), String::new(), how));
        let how = format!("the same storm; {:.2} % before it", idle.1);
        let what = "  a minimal responder without a kernel filter";
        self.rows.push(Row::new(what, value(busy.1), String::new(), how));
        Ok(())
    }

    fn minimal(&mut self) -> Result<&Minimal> {
        if self.minimal.is_none() {
            let host = self.host("minimal", 240)?;
            self.minimal = Some(Minimal::start(&host)?);
        }
        self.minimal.as_ref().context("the minimal responder")
    }

    fn host(&mut self, name: &str, number: u8) -> Result<Host> {
        if let Some(host) = self.hosts.get(name) {
            return Ok(host.clone());
        }
        let host = self.lab.add_host(name, number)?;
        self.hosts.insert(name.to_owned(), host.clone());
        Ok(host)
    }
}

/// A raw socket for ARP without a filter, and a loop that reads, compares and answers.
pub(super) struct Minimal {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    task: Arc<AtomicU64>,
}

impl Minimal {
    fn start(host: &Host) -> Result<Self> {
        let (mut sender, mut receiver) = channel(host)?;
        let (stop, task) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, number, own) = (Arc::clone(&stop), Arc::clone(&task), mac(host)?);
        let thread = std::thread::Builder::new().name("minimal".into()).spawn(move || {
            number.store(nix::unistd::gettid().as_raw().unsigned_abs().into(), Ordering::Relaxed);
            while !stopped.load(Ordering::Relaxed) {
                let Ok(frame) = receiver.next() else { continue };
                if let Some(answer) = answer(frame, own) {
                    // Nobody is told; whoever asked counts the silence.
                    let _ = sender.send_to(&answer, None);
                }
            }
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
            task,
        })
    }

    fn address(&self) -> IpAddr {
        MINIMAL_ADDRESS.into()
    }

    /// The processor time of its thread.
    fn cpu(&self) -> Duration {
        let path = format!("/proc/self/task/{}/schedstat", self.task.load(Ordering::Relaxed));
        on_cpu(&fs::read_to_string(path).unwrap_or_default())
    }
}

impl Drop for Minimal {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

fn channel(host: &Host) -> Result<(Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>)> {
    host.namespace().run(|| {
        let all = datalink::interfaces().into_iter();
        let interface = all.into_iter().find(|interface| interface.name == "eth0");
        let config = Config {
            read_timeout: Some(Duration::from_millis(100)),
            channel_type: datalink::ChannelType::Layer2,
            ..Config::default()
        };
        match datalink::channel(&interface.context("no eth0")?, config).context("open a raw socket")? {
            Channel::Ethernet(sender, receiver) => Ok((sender, receiver)),
            _ => anyhow::bail!("eth0 is no Ethernet interface"),
        }
    })?
}

fn mac(host: &Host) -> Result<[u8; 6]> {
    let mac = host.mac();
    let bytes: Result<Vec<u8>, _> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes?
        .try_into()
        .ok()
        .with_context(|| format!("{mac} is no MAC address"))
}

/// The reply to a request for the minimal responder's address.
fn answer(frame: &[u8], own: [u8; 6]) -> Option<[u8; FRAME]> {
    let request = frame.get(..FRAME)?;
    let wanted = request[12..20] == HEAD && request[20..22] == [0, 1] && request[38..42] == MINIMAL_ADDRESS.octets();
    wanted.then(|| {
        let asker = &request[22..32];
        let mut reply = [0; FRAME];
        reply[..6].copy_from_slice(&asker[..6]);
        reply[6..12].copy_from_slice(&own);
        reply[12..20].copy_from_slice(&HEAD);
        reply[20..22].copy_from_slice(&[0, 2]);
        reply[22..28].copy_from_slice(&own);
        reply[28..32].copy_from_slice(&MINIMAL_ADDRESS.octets());
        reply[32..42].copy_from_slice(asker);
        reply
    })
}

/// Broadcasts requests for addresses that nobody has; how many.
fn storm(host: &Host, time: Duration) -> Result<u32> {
    let (mut sender, _receiver) = channel(host)?;
    let (own, address) = (mac(host)?, host.v4().context("an IPv4 address")?);
    let begin = Instant::now();
    let mut sent = 0;
    while begin.elapsed() < time {
        let due = (begin.elapsed().as_secs_f64() * f64::from(STORM)) as u32;
        while sent < due {
            let target = Ipv4Addr::from_bits(Ipv4Addr::new(172, 30, 100, 0).to_bits() + sent % 8192);
            let mut frame = [0; FRAME];
            frame[..6].copy_from_slice(&BROADCAST);
            frame[6..12].copy_from_slice(&own);
            frame[12..20].copy_from_slice(&HEAD);
            frame[20..22].copy_from_slice(&[0, 1]);
            frame[22..28].copy_from_slice(&own);
            frame[28..32].copy_from_slice(&address.octets());
            frame[38..42].copy_from_slice(&target.octets());
            sender
                .send_to(&frame, None)
                .context("no room to send")?
                .context("send")?;
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(sent)
}

/// The first field of `schedstat`: nanoseconds on a processor.
fn on_cpu(text: &str) -> Duration {
    let first = text.split_whitespace().next();
    Duration::from_nanos(first.and_then(|nanos| nanos.parse().ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minimal_responder_answers_for_its_address_alone() {
        let mut request = [0; FRAME];
        request[12..20].copy_from_slice(&HEAD);
        request[20..22].copy_from_slice(&[0, 1]);
        request[22..32].copy_from_slice(&[2, 0, 0, 0, 0, 9, 172, 30, 0, 3]);
        request[38..42].copy_from_slice(&MINIMAL_ADDRESS.octets());
        let own = [2, 0, 0, 0, 0, 1];
        let reply = answer(&request, own).unwrap();
        assert_eq!((&reply[..6], &reply[6..12]), (&[2, 0, 0, 0, 0, 9][..], &own[..]));
        assert_eq!(reply[28..32], MINIMAL_ADDRESS.octets());
        assert_eq!(reply[32..42], request[22..32]);
        request[41] ^= 1;
        assert_eq!(answer(&request, own), None);
        assert_eq!(answer(&request[..20], own), None);
    }

    #[test]
    fn time_on_a_processor_is_read() {
        assert_eq!(on_cpu("1500000000 12 3\n"), Duration::from_millis(1500));
        assert_eq!(on_cpu(""), Duration::ZERO);
    }
}
