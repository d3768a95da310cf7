//! A router that speaks BFD (RFC 5880) with whoever speaks to it, at 50 ms x 3, and falls silent again and again: it notes when
//! the other side says that it has noticed. It knows nothing of the crate that it measures.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use ferrolb_lab::net::Namespace;

use super::Times;

/// The interval of both sides.
const INTERVAL: Duration = Duration::from_millis(50);
const MULTIPLIER: u8 = 3;
/// What the other side is to notice a silence after.
pub(super) const DETECTION: Duration = Duration::from_millis(150);
/// A silence begins when the session was up for at least this long, so that a poll sequence is over, and for this much more at
/// most.
const SETTLED: Duration = Duration::from_millis(600);
const SPREAD: Duration = Duration::from_millis(400);
/// A silence that is not noticed for so long is an error.
const NEVER: Duration = Duration::from_secs(5);

const DOWN: u8 = 1;
const INIT: u8 = 2;
const UP: u8 = 3;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;

/// The other side of a session.
struct Other {
    /// What it calls the session, and what this side does.
    names: [u32; 2],
    state: u8,
    next: Instant,
    up_since: Option<Instant>,
    /// For how long the session is to be up before the next silence.
    settled: Duration,
    /// When the last packet before the silence was sent.
    silent_since: Option<Instant>,
    seen: Seen,
}

/// What was seen of the other side.
#[derive(Default)]
pub(super) struct Seen {
    /// How long each silence was before it was noticed.
    pub(super) silences: Times,
    /// How often it took the session down without one.
    pub(super) alarms: u64,
}

/// A running router.
pub(super) struct Silent {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<BTreeMap<IpAddr, Seen>>>,
}

impl Silent {
    pub(super) fn start(namespace: &Namespace) -> Result<Self> {
        let socket = namespace
            .run(|| UdpSocket::bind("0.0.0.0:3784"))?
            .context("listen for BFD")?;
        let sender = namespace
            .run(|| UdpSocket::bind("0.0.0.0:49200"))?
            .context("a socket to send BFD from")?;
        sender.set_ttl(255)?;
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("silent".to_owned());
        let thread = thread.spawn(move || {
            // What it measures is the other side, however busy the machine is.
            let thread = nix::unistd::gettid().to_string();
            let raised = Command::new("chrt").args(["-f", "-p", "20", &thread]).status();
            ensure!(
                raised.context("run chrt")?.success(),
                "chrt cannot make a thread a real-time thread"
            );
            serve(&socket, &sender, &until)
        })?;
        Ok(Silent { stop, thread })
    }

    /// What was seen of each, by its address.
    pub(super) fn end(self) -> Result<BTreeMap<IpAddr, Seen>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the silent router panicked"))?
    }
}

fn serve(socket: &UdpSocket, sender: &UdpSocket, stop: &AtomicBool) -> Result<BTreeMap<IpAddr, Seen>> {
    let mut others = BTreeMap::<IpAddr, Other>::new();
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let due = others
            .values()
            .filter(|o| o.silent_since.is_none())
            .map(|o| o.next)
            .min();
        let wait = due
            .map_or(INTERVAL, |due| due.saturating_duration_since(now))
            .min(INTERVAL);
        if !wait.is_zero() {
            socket.set_read_timeout(Some(wait.max(Duration::from_micros(1))))?;
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let at = Instant::now();
                let known = u32::try_from(others.len())?;
                let other = others.entry(from.ip()).or_insert_with(|| Other::new(at, 1000 + known));
                if let Some(answer) = buffer.get(..length).and_then(|packet| other.hear(at, packet)) {
                    sender.send_to(&answer, SocketAddr::new(from.ip(), 3784))?;
                }
            }
        }
        for (address, other) in &mut others {
            let now = Instant::now();
            if let Some(packet) = other.due(now) {
                sender.send_to(&packet, SocketAddr::new(*address, 3784))?;
            }
            let silent = other.silent_since.is_some_and(|since| now - since > NEVER);
            ensure!(!silent, "{address} has not noticed a silence");
        }
    }
    Ok(others
        .into_iter()
        .map(|(address, other)| (address, other.seen))
        .collect())
}

impl Other {
    fn new(now: Instant, name: u32) -> Self {
        Other {
            names: [0, name],
            state: DOWN,
            next: now,
            up_since: None,
            settled: SETTLED,
            silent_since: None,
            seen: Seen::default(),
        }
    }

    /// Takes a packet in; gives what is to be answered at once.
    fn hear(&mut self, now: Instant, packet: &[u8]) -> Option<[u8; 24]> {
        let (theirs, flags) = (packet.get(1)? >> 6, *packet.get(1)?);
        let name = packet.get(4..8)?;
        self.names[0] = u32::from_be_bytes([name[0], name[1], name[2], name[3]]);
        if let Some(since) = self.silent_since {
            if theirs == DOWN {
                self.seen.silences.add(now - since);
                self.silent_since = None;
                self.enter(now, DOWN);
            }
            return None;
        }
        match (theirs, self.state) {
            (DOWN, DOWN) => self.enter(now, INIT),
            (DOWN, UP) => {
                self.seen.alarms += 1;
                self.enter(now, DOWN);
            }
            (INIT, DOWN | INIT) | (UP, INIT) => self.enter(now, UP),
            _ => {}
        }
        (flags & POLL != 0).then(|| self.packet(FINAL))
    }

    fn enter(&mut self, now: Instant, state: u8) {
        self.state = state;
        self.next = now;
        self.up_since = (state == UP).then_some(now);
        self.settled = SETTLED + SPREAD.mul_f64(fastrand::f64());
    }

    /// The packet that is due; perhaps the last one before a silence.
    fn due(&mut self, now: Instant) -> Option<[u8; 24]> {
        if self.silent_since.is_some() || now < self.next {
            return None;
        }
        self.next = now + INTERVAL.mul_f64(1.0 - fastrand::f64() / 4.0);
        if self.up_since.is_some_and(|since| now - since > self.settled) {
            self.silent_since = Some(now);
        }
        Some(self.packet(0))
    }

    fn packet(&self, flags: u8) -> [u8; 24] {
        let mut packet = [0; 24];
        packet[..4].copy_from_slice(&[1 << 5, self.state << 6 | flags, MULTIPLIER, 24]);
        let interval = u32::try_from(INTERVAL.as_micros()).unwrap_or(u32::MAX);
        let words = [self.names[1], self.names[0], interval, interval, 0];
        for (place, word) in packet[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of the other side in this state.
    fn says(state: u8, flags: u8) -> [u8; 24] {
        let mut other = Other::new(Instant::now(), 7);
        other.state = state;
        other.packet(flags)
    }

    #[test]
    fn it_comes_up_falls_silent_and_notes_when_that_is_noticed() {
        let start = Instant::now();
        let mut other = Other::new(start, 1);
        let states = [DOWN, INIT].map(|theirs| {
            assert_eq!(other.hear(start, &says(theirs, 0)), None);
            other.state
        });
        assert_eq!(states, [INIT, UP]);
        let answer = other.hear(start, &says(UP, POLL)).unwrap();
        assert_eq!((answer[1] & FINAL, &answer[8..12]), (FINAL, &7_u32.to_be_bytes()[..]));
        let mut now = start;
        while other.silent_since.is_none() {
            now += Duration::from_millis(1);
            other.due(now);
        }
        assert!(now - start > SETTLED && other.due(now + INTERVAL).is_none());
        assert_eq!(other.hear(now + INTERVAL, &says(UP, 0)), None);
        other.hear(now + DETECTION, &says(DOWN, 0));
        assert_eq!((other.seen.silences.median(), other.state), (DETECTION, DOWN));
        other.state = UP;
        other.hear(now + DETECTION, &says(DOWN, 0));
        assert_eq!(other.seen.alarms, 1);
    }
}
