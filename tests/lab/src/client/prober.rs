//! Numbered questions at a steady pace, and what became of them.
//!
//! UDP questions do not wait for each other, and every 64 of them come from a socket of their own: an old one's
//! conntrack entries would go on using a path that new clients no longer get. One that is not answered within
//! [`GRACE`] is lost. HTTP questions each have a connection; one that is not answered within its timeout is lost.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};

use super::{http, udp_socket};
use crate::net::Namespace;

/// So many questions leave one UDP socket.
const PER_SOCKET: u64 = 64;
/// Answers are waited for so long: on a busy machine a pod may stand still for a while.
const GRACE: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A datagram to a UDP echo of the lab's pods.
    Udp,
    /// `GET path` with this Host header; an answer below 400 counts.
    Http {
        /// The Host header.
        host: String,
        /// The path.
        path: String,
        /// When a question is lost. Well below the second after which a lost SYN is sent again.
        timeout: Duration,
    },
}

/// What became of the questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// How many were asked.
    pub sent: u64,
    /// How many were not answered.
    pub lost: u64,
    /// The longest time without an answer, from the start to the end; not shorter than the period.
    pub longest_gap: Duration,
    /// When the longest time without an answer began, since the start.
    pub gap_began: Duration,
    /// The questions that were not answered, in the order of asking.
    pub losses: Vec<Loss>,
    /// Answers per pod.
    pub answered_by: BTreeMap<String, u64>,
}

/// Questions asked one after the other, none of which was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// When the first one was asked, by the clock of the machine: what logs say can be looked up.
    pub first: SystemTime,
    /// When the last one was asked.
    pub last: SystemTime,
    /// How many.
    pub questions: u64,
}

impl Tally {
    /// How many were answered.
    pub fn answered(&self) -> u64 {
        self.sent - self.lost
    }
}

/// The running count.
#[derive(Debug)]
struct Count {
    start: Instant,
    last: Instant,
    sent: u64,
    /// Questions that are open, and when each was asked.
    open: BTreeMap<u64, SystemTime>,
    gap: (Duration, Instant),
    answered_by: BTreeMap<String, u64>,
}

impl Count {
    fn new(now: Instant) -> Self {
        Self {
            start: now,
            last: now,
            sent: 0,
            open: BTreeMap::new(),
            gap: (Duration::ZERO, now),
            answered_by: BTreeMap::new(),
        }
    }

    fn ask(&mut self) -> u64 {
        let number = self.sent;
        self.sent += 1;
        self.open.insert(number, SystemTime::now());
        number
    }

    /// Takes an answer in; the second one to a question changes nothing.
    fn answer(&mut self, number: u64, pod: &str, now: Instant) {
        if self.open.remove(&number).is_some() {
            self.gap = self.gap_until(now);
            self.last = now;
            *self.answered_by.entry(pod.to_owned()).or_default() += 1;
        }
    }

    /// The longest gap if nothing more came until `now`.
    fn gap_until(&self, now: Instant) -> (Duration, Instant) {
        let silence = now.saturating_duration_since(self.last);
        if silence > self.gap.0 {
            (silence, self.last)
        } else {
            self.gap
        }
    }

    fn losses(&self) -> Vec<Loss> {
        let open: Vec<_> = self.open.iter().collect();
        let runs = open.chunk_by(|(before, _), (next, _)| **next == **before + 1);
        let losses = runs.filter_map(|run| {
            let ((_, first), (_, last)) = (run.first()?, run.last()?);
            Some(Loss {
                first: **first,
                last: **last,
                questions: run.len() as u64,
            })
        });
        losses.collect()
    }

    fn tally(&self, now: Instant) -> Tally {
        let (longest_gap, began) = self.gap_until(now);
        Tally {
            sent: self.sent,
            lost: self.open.len() as u64,
            longest_gap,
            gap_began: began - self.start,
            losses: self.losses(),
            answered_by: self.answered_by.clone(),
        }
    }
}

/// A prober at work. Dropping it stops it.
#[derive(Debug)]
pub struct Prober {
    count: Arc<Mutex<Count>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    pub(super) fn start(namespace: &Namespace, target: SocketAddr, probe: Probe, period: Duration) -> Result<Self> {
        let count = Arc::new(Mutex::new(Count::new(Instant::now())));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped, namespace) = (count.clone(), stop.clone(), namespace.clone());
        let thread = std::thread::Builder::new()
            .name("prober".into())
            .spawn(move || {
                let inside = namespace.run(|| match &probe {
                    Probe::Udp => ask_by_udp(target, period, &shared, &stopped),
                    Probe::Http { host, path, timeout } => {
                        let ask = || http::get(target, host, path, *timeout);
                        ask_by_http(ask, period, &shared, &stopped);
                    }
                });
                if let Err(error) = inside {
                    tracing::error!(%target, %error, "prober");
                }
            })
            .context("start a prober")?;
        Ok(Self {
            count,
            stop,
            thread: Some(thread),
        })
    }

    /// What became of the questions until now; the newest ones are still open and count as lost.
    pub fn so_far(&self) -> Tally {
        lock(&self.count).tally(Instant::now())
    }

    /// Stops asking, waits a moment for late answers, and says what became of the questions.
    pub fn stop(mut self) -> Tally {
        // The wait for late answers is no silence of the target's.
        let end = Instant::now();
        self.join();
        let count = lock(&self.count);
        count.tally(end.max(count.last))
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a prober has panicked");
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.join();
    }
}

fn lock(count: &Mutex<Count>) -> MutexGuard<'_, Count> {
    count.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ask_by_udp(target: SocketAddr, period: Duration, count: &Mutex<Count>, stop: &AtomicBool) {
    // The newest one, and those whose answers may still come, each with the time of its last question.
    let mut sockets: VecDeque<(UdpSocket, Instant)> = VecDeque::new();
    let mut next = Instant::now();
    let mut end = None;
    while end.is_none_or(|end| Instant::now() < end && !lock(count).open.is_empty()) {
        if end.is_none() {
            if stop.load(Ordering::Relaxed) {
                end = Some(Instant::now() + GRACE);
                continue;
            }
            let number = lock(count).ask();
            if number.is_multiple_of(PER_SOCKET) {
                let fresh = udp_socket(target, period).and_then(|socket| {
                    socket.set_nonblocking(true)?;
                    Ok(socket)
                });
                match fresh {
                    Ok(socket) => sockets.push_back((socket, Instant::now())),
                    Err(error) => tracing::warn!(%target, %error, "no socket for the prober"),
                }
                while sockets.front().is_some_and(|(_, asked)| asked.elapsed() > GRACE) {
                    sockets.pop_front();
                }
            }
            if let Some((socket, asked)) = sockets.back_mut() {
                *asked = Instant::now();
                // An error is an ICMP message about an earlier question, or no route: the question is lost.
                let _ = socket.send(number.to_string().as_bytes());
            }
        }
        next = (next + period).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        sockets.iter().for_each(|(socket, _)| collect(socket, count));
    }
}

/// Takes in everything that has come to `socket`.
fn collect(socket: &UdpSocket, count: &Mutex<Count>) {
    let mut buffer = [0; 512];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                if let Some((pod, number)) = parse(&buffer[..length]) {
                    lock(count).answer(number, pod, Instant::now());
                }
            }
            // ICMP errors come up here one by one, then the queue goes on.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}

/// Pod and number in an answer of the lab's UDP echo: `pod number`.
fn parse(answer: &[u8]) -> Option<(&str, u64)> {
    let (pod, number) = std::str::from_utf8(answer).ok()?.rsplit_once(' ')?;
    Some((pod, number.parse().ok()?))
}

fn ask_by_http(ask: impl Fn() -> Result<http::Response>, period: Duration, count: &Mutex<Count>, stop: &AtomicBool) {
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let number = lock(count).ask();
        if let Ok(response) = ask()
            && response.status < 400
        {
            lock(count).answer(number, response.line("pod").unwrap_or_default(), Instant::now());
        }
        next = (next + period).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_the_longest_silence_are_counted() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut count = Count::new(start);
        for _ in 0..6 {
            count.ask();
        }
        count.answer(0, "a", at(1));
        count.answer(1, "a", at(2));
        count.answer(5, "b", at(40));
        count.answer(5, "b", at(41));
        let tally = count.tally(at(50));
        assert_eq!((tally.sent, tally.lost, tally.answered()), (6, 3, 3));
        assert_eq!(
            (tally.longest_gap, tally.gap_began),
            (Duration::from_millis(38), Duration::from_millis(2))
        );
        assert_eq!(tally.answered_by, [("a".to_owned(), 2), ("b".to_owned(), 1)].into());
        assert_eq!(count.tally(at(100)).longest_gap, Duration::from_millis(60));
    }

    #[test]
    fn losses_in_a_row_are_one() {
        let (start, begin) = (Instant::now(), SystemTime::now());
        let mut count = Count::new(start);
        for _ in 0..6 {
            count.ask();
        }
        count.answer(0, "a", start);
        count.answer(3, "a", start);
        let losses = count.tally(start).losses;
        let runs: Vec<_> = losses.iter().map(|loss| loss.questions).collect();
        assert_eq!(runs, [2, 2]);
        let times: Vec<_> = losses.iter().flat_map(|loss| [loss.first, loss.last]).collect();
        assert!(begin <= times[0] && times.is_sorted(), "{times:?}");
    }

    #[test]
    fn silence_from_the_beginning_is_silence() {
        let start = Instant::now();
        let mut count = Count::new(start);
        count.ask();
        let tally = count.tally(start + Duration::from_secs(3));
        assert_eq!(
            (tally.lost, tally.longest_gap, tally.gap_began),
            (1, Duration::from_secs(3), Duration::ZERO)
        );
    }

    #[test]
    fn answers_name_their_pod() {
        assert_eq!(parse(b"web-1 17"), Some(("web-1", 17)));
        assert_eq!(parse(b"17"), None);
        assert_eq!(parse(b"web-1 x"), None);
    }
}
