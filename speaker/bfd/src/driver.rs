//! The thread that runs all sessions: nothing else the process does can delay a packet.
//!
//! | channel | direction | when full or gone |
//! | --- | --- | --- |
//! | `wanted` ([`Handle::set`]) | in | the newest value wins; the thread ends when the [`Handle`] is gone |
//! | `reports` (a function) | out | a report that is not taken is made anew and offered again; see [`spawn_thread`] |
//!
//! A round: wait for a packet, a deadline or news; look at the clock; read everything that has arrived; only then judge
//! who has been silent, by the clock as it was **before** the reading. So however late the thread runs, no session goes
//! down over a packet that was there. If the thread slept longer than it had asked for, the machine was busy or stood
//! still, and packets may still be on their way up through the kernel: it waits a few milliseconds more, once, before it
//! judges. Nobody else takes locks that this thread needs.

mod live;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver as Queue, Sender as Inlet, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Socket, Type};
use tracing::{debug, info, warn};

use crate::counters::Drops;
use crate::demux::{self, Demux};
use crate::hand_over::{Lent, LentPath};
use crate::packet::{Packet, Repr, State};
use crate::seam::{Fault, Path, Report, Wanted};
use crate::session::Change;
use crate::sockets::{Door, Drained, QUEUE_PACKETS, Receiver, drain};

use live::Live;

/// Before what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Before a report that was not taken is offered again.
const OFFER: Duration = Duration::from_millis(20);
/// To wake up so much later than asked for is to have stood still.
const LATE: Duration = Duration::from_millis(10);
/// So long packets have, after a standstill, to come up through the kernel.
const GRACE: Duration = Duration::from_millis(5);

/// What ends the thread.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The kernel does not let it wait.
    #[error("cannot wait for BFD packets: {0}")]
    Wait(#[source] io::Error),
}

/// To tell the thread what is wanted. The thread ends, without a word on the wire, when this is dropped, and returns what it
/// had.
pub struct Handle {
    wanted: Inlet<Arc<Wanted>>,
    wake: Socket,
    drops: Arc<Drops>,
}

impl Handle {
    /// Watch these paths from now on.
    pub fn set(&self, wanted: Arc<Wanted>) {
        // Both fail only once the thread has ended, which whoever joins it is told. A wake-up that does not fit is one
        // that waits already.
        let _ = self.wanted.send(wanted);
        let _ = self.wake.send(&[0]);
    }

    /// Packets dropped.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }
}

/// Starts the thread, named `ferrolb-bfd`, in the network namespace of the caller. It goes on with what is `lent` to it.
///
/// `reports` is called on the thread and must not wait, nor take a lock that somebody may hold for long. It returns
/// whether it has taken the report; if not, the session's latest status is offered again, so a bounded channel that is
/// full loses nothing but what is out of date. If nobody is left to read, say that it was taken.
pub fn spawn_thread(
    lent: Lent,
    reports: impl FnMut(Report) -> bool + Send + 'static,
) -> io::Result<(Handle, JoinHandle<Result<Lent, DriverError>>)> {
    let (wake, woken) = Socket::pair(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    let (wanted, news) = channel();
    let drops = Arc::new(Drops::default());
    let handle = Handle {
        wanted,
        wake,
        drops: Arc::clone(&drops),
    };
    let thread = std::thread::Builder::new()
        .name("ferrolb-bfd".to_owned())
        .spawn(move || {
            if let Err(error) = ferrolb_urgency::real_time() {
                warn!(%error, "the BFD thread runs like any other");
            }
            Driver::new(lent, (news, woken), drops, reports).run()
        })?;
    Ok((handle, thread))
}

/// Random numbers: discriminators hard to guess, jitter, source ports. The keyed hash of the standard library, whose key
/// comes from the kernel, over a counter.
#[derive(Default)]
struct Dice {
    key: RandomState,
    rolls: u64,
}

impl Dice {
    fn roll(&mut self) -> u32 {
        self.rolls += 1;
        self.key.hash_one(self.rolls) as u32
    }
}

struct Driver<R> {
    start: Instant,
    dice: Dice,
    news: Queue<Arc<Wanted>>,
    woken: Socket,
    drops: Arc<Drops>,
    reports: R,
    wanted: Arc<Wanted>,
    receivers: BTreeMap<Door, Receiver>,
    sessions: BTreeMap<Arc<Path>, Live>,
    /// Sessions of another process that are not wanted yet.
    lent: BTreeMap<Arc<Path>, LentPath>,
    demux: Demux,
    /// Sessions whose status may have changed since it was last taken.
    unreported: BTreeSet<Arc<Path>>,
    /// When sockets that failed are tried again.
    retry: Option<Duration>,
    /// After a standstill: judge nobody before then.
    grace: Option<Duration>,
}

impl<R: FnMut(Report) -> bool> Driver<R> {
    fn new(lent: Lent, (news, woken): (Queue<Arc<Wanted>>, Socket), drops: Arc<Drops>, reports: R) -> Driver<R> {
        let now = Instant::now();
        let receiver = |(door, socket): (Door, _)| (door.clone(), Receiver::resume(door, socket));
        Driver {
            start: now.checked_sub(lent.clock).unwrap_or(now),
            dice: Dice::default(),
            news,
            woken,
            drops,
            reports,
            wanted: Arc::default(),
            receivers: lent.doors.into_iter().map(receiver).collect(),
            sessions: BTreeMap::new(),
            lent: lent.paths,
            demux: Demux::default(),
            unreported: BTreeSet::new(),
            retry: None,
            grace: None,
        }
    }

    fn run(mut self) -> Result<Lent, DriverError> {
        loop {
            let deadline = self.next_deadline();
            self.wait(deadline).map_err(DriverError::Wait)?;
            if drain(&self.woken).map_err(DriverError::Wait)? == Drained::Closed {
                return Ok(self.lend());
            }
            let now = self.start.elapsed();
            if let Some(wanted) = self.news.try_iter().last() {
                self.wanted = wanted;
                self.reconcile(now);
            } else if self.retry.is_some_and(|at| at <= now) {
                self.reconcile(now);
            }
            self.read(now);
            let stood_still = self.grace.is_none() && deadline.is_some_and(|at| now > at + LATE);
            if stood_still {
                self.grace = Some(now + GRACE);
            } else if self.grace.is_none_or(|until| until <= now) {
                self.grace = None;
                self.judge(now);
            }
            self.send(now);
            self.report();
        }
    }

    /// Gives away what there is.
    fn lend(self) -> Lent {
        let lent = |(path, live): (Arc<Path>, Live)| Some((path, live.lend()?));
        let doors = self.receivers.into_iter();
        Lent {
            clock: self.start.elapsed(),
            doors: doors.map(|(door, receiver)| (door, receiver.into_fd())).collect(),
            paths: self.sessions.into_iter().filter_map(lent).chain(self.lent).collect(),
        }
    }

    /// When there is something to do, if nothing comes in before.
    fn next_deadline(&self) -> Option<Duration> {
        let sessions = self.sessions.values().filter_map(Live::next_deadline);
        let offer = (!self.unreported.is_empty()).then(|| self.start.elapsed() + OFFER);
        let next = sessions.chain(offer).chain(self.retry).min()?;
        Some(self.grace.map_or(next, |until| next.max(until)))
    }

    fn wait(&self, deadline: Option<Duration>) -> io::Result<()> {
        let sockets = self.receivers.values().map(Receiver::as_fd);
        let sockets = std::iter::once(self.woken.as_fd()).chain(sockets);
        let mut sockets: Vec<PollFd<'_>> = sockets.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = deadline.map(|at| TimeSpec::from_duration(at.saturating_sub(self.start.elapsed())));
        match ppoll(&mut sockets, timeout, None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads everything that had arrived by `now`.
    fn read(&mut self, now: Duration) {
        for (door, receiver) in &mut self.receivers {
            let (drops, demux, sessions) = (&self.drops, &self.demux, &mut self.sessions);
            let unreported = &mut self.unreported;
            for _ in 0..QUEUE_PACKETS {
                let read = receiver.receive(|arrival, data| {
                    let packet = match Packet::new(data).and_then(|packet| Repr::parse(&packet)) {
                        Ok(packet) => packet,
                        Err(error) => return drops.count(error.into()),
                    };
                    match demux.find(&arrival, &packet) {
                        Ok(path) => {
                            if let Some(live) = sessions.get_mut(path) {
                                live.receive(now, &packet, path);
                                unreported.insert(Arc::clone(path));
                            }
                        }
                        Err(reason) => drops.count(reason),
                    }
                });
                match read {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        debug!(port = door.port(), %error, "cannot read a BFD packet");
                        break;
                    }
                }
            }
        }
    }

    fn judge(&mut self, now: Duration) {
        for (path, live) in &mut self.sessions {
            if live.tick(now, path) {
                self.unreported.insert(Arc::clone(path));
            }
        }
        let before = self.sessions.len();
        self.sessions
            .retain(|_, live| live.leaves_at().is_none_or(|at| now < at));
        if self.sessions.len() != before {
            self.reconcile(now);
        }
    }

    fn send(&mut self, now: Duration) {
        for (path, live) in &mut self.sessions {
            match live.send(now, path, || self.dice.roll()) {
                live::Sent::Nothing => {}
                live::Sent::Some => {
                    self.unreported.insert(Arc::clone(path));
                }
                live::Sent::Broken => {
                    self.unreported.insert(Arc::clone(path));
                    self.retry.get_or_insert(now + RETRY);
                }
            }
        }
    }

    /// Offers what has changed.
    fn report(&mut self) {
        let (sessions, reports) = (&mut self.sessions, &mut self.reports);
        self.unreported.retain(|path| {
            let Some(live) = sessions.get_mut(path) else {
                return false;
            };
            let Some(status) = live.news() else { return false };
            let taken = reports(Report {
                path: Arc::clone(path),
                status: status.clone(),
                counters: live.counters(),
            });
            if taken {
                live.reported(status);
            }
            !taken
        });
    }

    /// Brings sessions and sockets in line with what is wanted.
    fn reconcile(&mut self, now: Duration) {
        let wanted = Arc::clone(&self.wanted);
        for (path, live) in &mut self.sessions {
            if !wanted.sessions.contains_key(path) {
                live.leave(now, path);
            }
        }
        self.sessions.retain(|_, live| live.leaves_at() != Some(now));
        self.start_sessions(&wanted);
        let doors: BTreeSet<Door> = self.sessions.keys().map(|path| Door::of(path)).collect();
        self.receivers.retain(|door, _| doors.contains(door));
        let mut closed = BTreeMap::new();
        for door in doors {
            let Entry::Vacant(vacant) = self.receivers.entry(door) else {
                continue;
            };
            match Receiver::open(vacant.key().clone()) {
                Ok(receiver) => {
                    vacant.insert(receiver);
                }
                Err(error) => {
                    let (door, error) = (vacant.into_key(), error.to_string());
                    let port = door.port();
                    closed.insert(door, Fault::Receive { port, error });
                }
            }
        }
        let mut broken = !closed.is_empty();
        for (path, live) in &mut self.sessions {
            let cannot_receive = closed.get(&Door::of(path)).cloned();
            broken |= live.open(path, cannot_receive, || self.dice.roll());
            self.unreported.insert(Arc::clone(path));
        }
        self.retry = broken.then_some(now + RETRY);
        let entries = self.sessions.iter().map(|(path, live)| {
            let entry = demux::Entry {
                path: Arc::clone(path),
                interface: live.interface(),
                minimum_ttl: live.minimum_ttl(),
            };
            (live.discriminator(), entry)
        });
        self.demux.entries = entries.collect();
    }

    /// Starts the sessions that are missing, those with a given discriminator first, and updates the others.
    fn start_sessions(&mut self, wanted: &Wanted) {
        let mut used: BTreeSet<NonZeroU32> = self.sessions.values().map(Live::discriminator).collect();
        let (given, drawn): (Vec<_>, Vec<_>) = wanted.sessions.iter().partition(|(_, s)| s.discriminator.is_some());
        for (path, session) in given.into_iter().chain(drawn) {
            if let Some(live) = self.sessions.get_mut(path) {
                live.set(session, path);
                continue;
            }
            if let Some(lent) = self.lent.remove(path)
                && used.insert(lent.session.discriminator())
            {
                info!(%path, discriminator = lent.session.discriminator(), "watching on");
                self.sessions.insert(Arc::clone(path), Live::adopt(lent, session, path));
                continue;
            }
            let mut fault = path.check().err();
            let discriminator = match session.discriminator {
                Some(value) if used.insert(value) => value,
                taken => {
                    if let Some(value) = taken {
                        fault = Some(Fault::Discriminator { value });
                    }
                    loop {
                        match NonZeroU32::new(self.dice.roll()) {
                            Some(value) if used.insert(value) => break value,
                            _ => {}
                        }
                    }
                }
            };
            info!(%path, discriminator, "watching");
            if let Some(error) = &fault {
                warn!(%path, %error, "a BFD session is not as it was asked for");
            }
            let live = Live::new(discriminator, session, fault);
            self.sessions.insert(Arc::clone(path), live);
        }
    }
}

/// How a change of state is logged.
fn log(path: &Path, change: Change) {
    let (from, to, cause) = (change.from, change.to, change.cause);
    if change.is_failure() {
        warn!(%path, %from, %to, %cause, "the path has failed");
    } else if to == State::Up || from == State::Up {
        info!(%path, %from, %to, %cause, "BFD session");
    } else {
        debug!(%path, %from, %to, %cause, "BFD session");
    }
}
