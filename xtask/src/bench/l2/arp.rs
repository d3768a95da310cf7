//! ARP: how soon a question is answered, by one address and by a thousand, beside the kernel and a responder that does
//! nothing else on the same LAN; and what questions for other addresses cost.
//!
//! All hosts of the lab share the processors, so whoever is woken by a question that is not his takes time from whoever is
//! to answer it. The minimal responder therefore has a kernel filter for its one address, as the speakers have.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrolb_lab::Program;
use ferrolb_lab::net::Host;
use pnet::datalink::{self, Config};
use socket2::{Domain, SockFilter, Socket, Type};

use super::super::figures::{Row, Times, Usage, micros, millis};
use super::{Bench, progress, verdict};

/// The 99th percentile of answers.
const GOAL: Duration = Duration::from_millis(1);
/// And beside the minimal responder's.
const GOAL_RATIO: f64 = 1.5;
/// An answer to a single question is waited for so long.
const LIMIT: Duration = Duration::from_millis(20);
/// From an answer to the next question, at least, and what is added at most: everybody has gone to sleep by then, and
/// nothing that comes at even intervals is in step.
const PAUSE: (Duration, u64) = (Duration::from_millis(2), 2_000);

/// Questions for addresses of others, a second.
const STORM: u32 = 20_000;
/// Of a core, in percent.
const STORM_GOAL: f64 = 1.0;

const MINIMAL_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 201, 1);
const BROADCAST: [u8; 6] = [0xff; 6];
/// ARP over Ethernet for IPv4, up to the operation (RFC 826).
const HEAD: [u8; 8] = [8, 6, 0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];
const FRAME: usize = 42;

impl Bench<'_> {
    /// Asks for the addresses, for the minimal responder's and for the kernel's by turns.
    pub(super) fn arp_latency(&mut self, count: u32, addresses: &[IpAddr]) -> Result<()> {
        progress(&format!("ARP replies, {} addresses", addresses.len()));
        let addresses: Vec<Ipv4Addr> = addresses.iter().copied().filter_map(v4).collect();
        let _minimal = Minimal::start(&self.host("minimal", 240)?, true)?;
        let kernel = v4(self.lab.nodes()[3].host().address()).context("an IPv4 address of a node")?;
        let asker = Asker::new(&self.host("asker", 242)?)?;
        let (mut ours, mut others, mut kernels) = (Times::default(), Times::default(), Times::default());
        for run in 0..count as usize {
            // Not the same ones in a row.
            let address = addresses[run * 7919 % addresses.len()];
            for (times, address) in [
                (&mut ours, address),
                (&mut others, MINIMAL_ADDRESS),
                (&mut kernels, kernel),
            ] {
                times.add(asker.ask(address)?.unwrap_or(LIMIT));
                std::thread::sleep(PAUSE.0 + Duration::from_micros(fastrand::u64(..PAUSE.1)));
            }
        }
        let (p99, beside) = (ours.quantile(99), others.quantile(99));
        let (max, limit, goal) = (micros(ours.quantile(100)), millis(LIMIT), millis(GOAL));
        let met = verdict(p99 <= GOAL);
        let how = format!("max {max}; none within {limit} counts as {limit}; goal p99 {goal}: {met}");
        let what = format!("ARP reply, {} addresses owned in all", addresses.len());
        self.rows.push(ours.fine_row(&what, &how));
        let beside_it = |times: &Times| format!("max {}; by turns with it", micros(times.quantile(100)));
        self.rows
            .push(others.fine_row("  a minimal raw-socket responder", &beside_it(&others)));
        self.rows
            .push(kernels.fine_row("  the kernel, for a node's own address", &beside_it(&kernels)));
        let ratio = p99.as_secs_f64() / beside.as_secs_f64().max(1e-9);
        let medians = ours.median().as_secs_f64() / others.median().as_secs_f64().max(1e-9);
        let met = verdict(ratio <= GOAL_RATIO && medians <= GOAL_RATIO);
        let how = format!("ratios; goal of both {GOAL_RATIO}: {met}");
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
        let minimal = Minimal::start(&self.host("minimal", 240)?, false)?;
        let before = (Usage::of(pid)?, minimal.cpu());
        tokio::time::sleep(time).await;
        let begin = (Usage::of(pid)?, minimal.cpu());
        let sent = tokio::task::spawn_blocking(move || storm(&host, time)).await??;
        let end = (Usage::of(pid)?, minimal.cpu());
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

    fn host(&mut self, name: &str, number: u8) -> Result<Host> {
        if let Some(host) = self.hosts.get(name) {
            return Ok(host.clone());
        }
        let host = self.lab.add_host(name, number)?;
        self.hosts.insert(name.to_owned(), host.clone());
        Ok(host)
    }
}

/// A raw socket for ARP, and a loop that reads, compares and answers.
struct Minimal {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    task: Arc<AtomicU64>,
}

impl Minimal {
    /// With a kernel filter for its address, or without any.
    fn start(host: &Host, filtered: bool) -> Result<Self> {
        let filter = filtered.then(|| filter(REQUEST, Some(MINIMAL_ADDRESS)));
        let (socket, own) = (open(host, filter.as_deref(), Duration::from_millis(100))?, mac(host)?);
        let (stop, task) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, number) = (Arc::clone(&stop), Arc::clone(&task));
        let thread = std::thread::Builder::new().name("minimal".into()).spawn(move || {
            number.store(nix::unistd::gettid().as_raw().unsigned_abs().into(), Ordering::Relaxed);
            let mut frame = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(length) = (&socket).read(&mut frame) else {
                    continue;
                };
                if let Some(answer) = answer(&frame[..length], own) {
                    // Nobody is told; whoever asked counts the silence.
                    let _ = socket.send(&answer);
                }
            }
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
            task,
        })
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

/// Asks one question at a time.
struct Asker {
    socket: Socket,
    mac: [u8; 6],
    address: Ipv4Addr,
}

impl Asker {
    fn new(host: &Host) -> Result<Self> {
        Ok(Self {
            socket: open(host, Some(&filter(REPLY, None)), LIMIT)?,
            mac: mac(host)?,
            address: host.v4().context("an IPv4 address")?,
        })
    }

    /// How soon somebody says that he has it; `None` when nobody does.
    fn ask(&self, target: Ipv4Addr) -> Result<Option<Duration>> {
        let mut frame = [0; 2048];
        self.socket.set_nonblocking(true)?;
        while (&self.socket).read(&mut frame).is_ok() {}
        self.socket.set_nonblocking(false)?;
        let question = request(self.mac, self.address, target);
        let asked = Instant::now();
        self.socket.send(&question).context("ask")?;
        while asked.elapsed() < LIMIT {
            match (&self.socket).read(&mut frame) {
                Ok(FRAME..) if frame[28..32] == target.octets() => return Ok(Some(asked.elapsed())),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("hear answers"),
            }
        }
        Ok(None)
    }
}

/// A socket for the frames of a host, without a runtime or anything else around it; a read ends after `patience`.
fn open(host: &Host, filter: Option<&[SockFilter]>, patience: Duration) -> Result<Socket> {
    host.namespace().run(|| {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("open a raw socket")?;
        if let Some(filter) = filter {
            socket.attach_filter(filter).context("attach a filter")?;
        }
        let all = datalink::interfaces().into_iter();
        let interface = all.into_iter().find(|interface| interface.name == "eth0");
        let config = Config {
            promiscuous: false,
            socket_fd: Some(socket.try_clone()?.into_raw_fd()),
            ..Config::default()
        };
        // It binds its copy, which is all it is wanted for.
        datalink::channel(&interface.context("no eth0")?, config).context("bind a raw socket")?;
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(patience))?;
        Ok(socket)
    })?
}

/// ARP of this operation about this address, or about any.
fn filter(operation: [u8; 2], target: Option<Ipv4Addr>) -> Vec<SockFilter> {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let mut checks = vec![
        (LOAD_HALF, 12, 0x0806),
        (LOAD_HALF, 20, u16::from_be_bytes(operation).into()),
    ];
    checks.extend(target.map(|target| (LOAD_WORD, 38, target.to_bits())));
    let mut program = Vec::new();
    for (number, (load, offset, value)) in checks.iter().enumerate() {
        // The drop stands at the end, behind the pairs that follow and the return that keeps the frame.
        let to_drop = (2 * (checks.len() - number - 1) + 1) as u8;
        program.push(SockFilter::new(*load, 0, 0, *offset));
        program.push(SockFilter::new(JUMP_EQUAL, 0, to_drop, *value));
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0xffff));
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
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
    let wanted = request[12..20] == HEAD && request[20..22] == REQUEST && request[38..42] == MINIMAL_ADDRESS.octets();
    wanted.then(|| {
        let asker = &request[22..32];
        let mut reply = [0; FRAME];
        reply[..6].copy_from_slice(&asker[..6]);
        reply[6..12].copy_from_slice(&own);
        reply[12..20].copy_from_slice(&HEAD);
        reply[20..22].copy_from_slice(&REPLY);
        reply[22..28].copy_from_slice(&own);
        reply[28..32].copy_from_slice(&MINIMAL_ADDRESS.octets());
        reply[32..42].copy_from_slice(asker);
        reply
    })
}

/// Who has `target`?
fn request(mac: [u8; 6], address: Ipv4Addr, target: Ipv4Addr) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&BROADCAST);
    frame[6..12].copy_from_slice(&mac);
    frame[12..20].copy_from_slice(&HEAD);
    frame[20..22].copy_from_slice(&REQUEST);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address.octets());
    frame[38..42].copy_from_slice(&target.octets());
    frame
}

/// Broadcasts requests for addresses that nobody has; how many.
fn storm(host: &Host, time: Duration) -> Result<u32> {
    let socket = open(host, Some(&filter(REPLY, None)), LIMIT)?;
    let (own, address) = (mac(host)?, host.v4().context("an IPv4 address")?);
    let begin = Instant::now();
    let mut sent = 0;
    while begin.elapsed() < time {
        let due = (begin.elapsed().as_secs_f64() * f64::from(STORM)) as u32;
        while sent < due {
            let target = Ipv4Addr::from_bits(Ipv4Addr::new(172, 30, 100, 0).to_bits() + sent % 8192);
            socket.send(&request(own, address, target)).context("send")?;
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
        let mut request = request([2, 0, 0, 0, 0, 9], Ipv4Addr::new(172, 30, 0, 3), MINIMAL_ADDRESS);
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
