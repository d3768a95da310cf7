//! The thread around the guard: sockets, clock, channels. Decides nothing.
//!
//! | channel | direction | when full or gone |
//! | --- | --- | --- |
//! | `duties`, `ground` (watch) | in | hold the latest; a sender that is gone leaves the last value in force |
//! | `notes` (bounded) | in | layer 2 drops and counts; the guard asks again |
//! | `roles`, `announce` (functions) | out | must not wait; the newest roles win, an announcement may be lost |
//! | `ask` (a function) | out | says whether the question was taken; if not, the guard asks again |
//! | `outcomes` (bounded) | out | wait here, in order; a reader that is gone is not told |
//!
//! A round: look at the clock; read all datagrams and notes that have arrived; only then let the guard judge, by the
//! clock as it was **before** the reading. However late the thread runs, nobody is suspected over a heartbeat that was
//! there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::counters::Counters;
use crate::guard::Guard;
use crate::seam::{Duties, Effect, Ground, Input, Note, Outcome, Placement, Question, Wanted};

mod sockets;

use sockets::Sockets;

/// The UDP port of the heartbeats.
pub const PORT: u16 = 7947;

/// Room for a datagram; a longer one is cut off, and malformed.
const ROOM: usize = 2048;
/// Datagrams read from a socket in one round. More than a queue of small ones holds is a flood.
const ROUND: usize = 4096;

/// What stays fixed while the thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The UDP port, the same on every node.
    pub port: u16,
    /// Seed of the jitter of heartbeats. Give every node another one.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { port: PORT, seed: 0 }
    }
}

/// The ends of the channels that the thread holds. `N` is layer 2's own word for a note. The functions are called on the
/// thread: they must neither wait nor take a lock that somebody may hold for long.
pub struct Channels<N> {
    /// In: what the core knows.
    pub duties: watch::Receiver<Arc<Duties>>,
    /// In: this node's interfaces.
    pub ground: watch::Receiver<Arc<Ground>>,
    /// In: what layer 2 hears.
    pub notes: mpsc::Receiver<N>,
    /// What a note means here; `None` for one that means nothing.
    pub note: fn(N) -> Option<Note>,
    /// Out: what layer 2 has to do.
    pub roles: Box<dyn FnMut(&Wanted) + Send>,
    /// Out: what layer 2 has to ask; says whether it was taken.
    pub ask: Box<dyn FnMut(Question) -> bool + Send>,
    /// Out: what layer 2 has to announce once more.
    pub announce: Box<dyn FnMut(BTreeSet<IpAddr>) + Send>,
    /// Out: what has become of it.
    pub outcomes: mpsc::Sender<Outcome>,
    /// In: the process shall end. [`run`] returns once the standbys answer, or will not.
    pub goodbye: CancellationToken,
    /// In: end at once, without a word.
    pub stop: CancellationToken,
}

/// What the guard leaves behind when it is stopped, for the one that goes on in its place.
#[derive(Debug)]
pub struct Lent {
    /// The sockets, in which datagrams wait meanwhile: IPv4, and IPv6 if there is one.
    pub sockets: (OwnedFd, Option<OwnedFd>),
    /// The number of the last datagram of this run.
    pub sequence: u64,
    /// Who owns what, as far as this node knows.
    pub beliefs: BTreeMap<IpAddr, Placement>,
}

/// What ends the thread.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// The heartbeats cannot be received.
    #[error("cannot open UDP port {port} for heartbeats (has another program taken it?): {error}")]
    Open {
        /// The port.
        port: u16,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// A socket can no longer be waited for.
    #[error("cannot wait for heartbeats: {0}")]
    Wait(#[source] io::Error),
    /// The thread's own runtime could not be built.
    #[error("cannot build the runtime of the heartbeats: {0}")]
    Runtime(#[source] io::Error),
}

/// Runs until `goodbye` is through or `stop` is cancelled. Give it a thread of its own: [`spawn_thread`]. Works in the
/// network namespace of the thread that polls it first. What is `lent` to it are the sockets and the sequence of a guard
/// before it: of this run, or with another [`Duties::boot`].
pub async fn run<N>(
    settings: Settings,
    lent: Option<Lent>,
    channels: &mut Channels<N>,
    counters: Arc<Counters>,
) -> Result<Lent, ShellError> {
    let mut guard = Guard::new(settings.seed, Arc::clone(&counters));
    let sockets = match lent {
        Some(Lent { sockets, sequence, .. }) => {
            guard.go_on_from(sequence);
            Sockets::resume(sockets).map_err(ShellError::Wait)?
        }
        None => Sockets::open(settings.port)?,
    };
    Shell {
        start: Instant::now(),
        port: settings.port,
        guard,
        sockets,
        channels,
        counters,
        pending: VecDeque::new(),
        left: false,
        read_at: Duration::ZERO,
    }
    .run()
    .await
}

/// What the thread leaves behind: the channels, and how [`run`] ended.
pub type Ended<N> = (Channels<N>, Result<Lent, ShellError>);

/// Runs the guard on a thread of its own, named `ferrolb-liveness`, with a runtime of its own: nothing else the process
/// does can then delay a heartbeat. The thread ends with [`run`] and gives the channels back, for another try.
pub fn spawn_thread<N: Send + 'static>(
    settings: Settings,
    lent: Option<Lent>,
    mut channels: Channels<N>,
    counters: Arc<Counters>,
) -> io::Result<JoinHandle<Ended<N>>> {
    std::thread::Builder::new()
        .name("ferrolb-liveness".to_owned())
        .spawn(move || {
            if let Err(error) = ferrolb_urgency::short_turns() {
                warn!(%error, "the thread of heartbeats runs like any other");
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let ended = match runtime {
                Ok(runtime) => runtime.block_on(run(settings, lent, &mut channels, counters)),
                Err(error) => Err(ShellError::Runtime(error)),
            };
            (channels, ended)
        })
}

/// What woke the thread.
enum Wake<N> {
    Stop,
    Goodbye,
    Sockets(io::Result<()>),
    Note(Option<N>),
    Duties(bool),
    Ground(bool),
    Timer,
    Told(Option<mpsc::OwnedPermit<Outcome>>),
}

struct Shell<'a, N> {
    start: Instant,
    port: u16,
    guard: Guard,
    sockets: Sockets,
    channels: &'a mut Channels<N>,
    counters: Arc<Counters>,
    /// Outcomes the reader has not taken yet.
    pending: VecDeque<Outcome>,
    /// The guard has said that the process may end.
    left: bool,
    /// When the sockets were read last; a flood apart, to the end.
    read_at: Duration,
}

impl<N> Shell<'_, N> {
    /// What there is to go on with.
    fn lend(self) -> Lent {
        Lent {
            sockets: self.sockets.into_fds(),
            sequence: self.guard.sequence(),
            beliefs: self.guard.beliefs(),
        }
    }

    async fn run(mut self) -> Result<Lent, ShellError> {
        // Which of the inputs are still there.
        let (mut duties, mut ground, mut notes, mut reader, mut leaving) = (true, true, true, true, false);
        let now = self.now();
        self.take_ground(now);
        self.take_duties(now);
        loop {
            let deadline = self.guard.next_deadline();
            let timer = self.start + deadline.unwrap_or_default();
            let channels = &mut self.channels;
            let outcomes = channels.outcomes.clone();
            let wake = tokio::select! {
                () = channels.stop.cancelled() => Wake::Stop,
                () = channels.goodbye.cancelled(), if !leaving => Wake::Goodbye,
                ready = self.sockets.readable() => Wake::Sockets(ready),
                note = channels.notes.recv(), if notes => Wake::Note(note),
                changed = channels.duties.changed(), if duties => Wake::Duties(changed.is_ok()),
                changed = channels.ground.changed(), if ground => Wake::Ground(changed.is_ok()),
                permit = outcomes.reserve_owned(), if reader && !self.pending.is_empty() => Wake::Told(permit.ok()),
                () = sleep_until(timer), if deadline.is_some() => Wake::Timer,
            };
            let (now, wall) = (self.now(), sockets::wall());
            match wake {
                Wake::Stop => return Ok(self.lend()),
                Wake::Goodbye => {
                    leaving = true;
                    self.handle(Input::Goodbye, now);
                }
                Wake::Sockets(ready) => ready.map_err(ShellError::Wait)?,
                Wake::Note(Some(note)) => self.take_note(note, now),
                Wake::Note(None) => notes = false,
                // The look at them below has to see that they are new.
                Wake::Duties(there) => {
                    duties = there;
                    self.channels.duties.mark_changed();
                }
                Wake::Ground(there) => {
                    ground = there;
                    self.channels.ground.mark_changed();
                }
                Wake::Told(Some(permit)) => {
                    if let Some(outcome) = self.pending.pop_front() {
                        permit.send(outcome);
                    }
                }
                Wake::Told(None) => {
                    reader = false;
                    self.pending.clear();
                }
                Wake::Timer => {}
            }
            self.read(now, wall);
            while let Ok(note) = self.channels.notes.try_recv() {
                self.take_note(note, now);
            }
            if self.channels.ground.has_changed().unwrap_or(false) {
                self.take_ground(now);
            }
            if self.channels.duties.has_changed().unwrap_or(false) {
                self.take_duties(now);
            }
            if self.guard.next_deadline().is_some_and(|at| at <= now) {
                self.handle(Input::Tick, now);
            }
            if self.left {
                return Ok(self.lend());
            }
            if !reader {
                self.pending.clear();
            }
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn take_duties(&mut self, now: Duration) {
        let duties = Arc::clone(&self.channels.duties.borrow_and_update());
        self.handle(Input::Duties(duties), now);
    }

    fn take_ground(&mut self, now: Duration) {
        let ground = Arc::clone(&self.channels.ground.borrow_and_update());
        self.handle(Input::Ground(ground), now);
    }

    fn take_note(&mut self, note: N, now: Duration) {
        if let Some(note) = (self.channels.note)(note) {
            self.handle(Input::Note(note), now);
        }
    }

    /// Reads all datagrams that are there. Asks the kernel, not the runtime, which may not have looked yet.
    fn read(&mut self, now: Duration, wall: Duration) {
        let mut room = [0; ROOM];
        for v6 in [false, true] {
            for _ in 0..ROUND {
                let Some(socket) = self.sockets.of(v6) else { break };
                match sockets::receive(socket, &mut room) {
                    Ok(datagram) => {
                        let age = datagram.came.map(|came| wall.saturating_sub(came));
                        let at = arrived(age, self.read_at, now);
                        let (from, bytes) = (datagram.from, datagram.bytes);
                        self.handle(Input::Datagram { from, bytes, at }, now);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // What the network said about an earlier datagram: told once, and reading goes on.
                    Err(error) => debug!(%error, "cannot read a heartbeat"),
                }
            }
        }
        self.read_at = now;
    }

    fn handle(&mut self, input: Input<'_>, now: Duration) {
        let mut effects: VecDeque<Effect> = self.guard.handle(input, now).into();
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send { to, bytes } => self.send(to, &bytes),
                Effect::Wanted(wanted) => (self.channels.roles)(&wanted),
                Effect::Ask(question) => {
                    let id = question.id;
                    if !(self.channels.ask)(question) {
                        effects.extend(self.guard.handle(Input::NotAsked { question: id }, now));
                    }
                }
                Effect::Announce(addresses) => (self.channels.announce)(addresses),
                Effect::Outcome(outcome) => self.pending.push_back(outcome),
                Effect::Leave => self.left = true,
            }
        }
    }

    fn send(&self, to: IpAddr, bytes: &[u8]) {
        let sent = match self.sockets.of(to.is_ipv6()) {
            Some(socket) => socket.send_to(bytes, (to, self.port)),
            None => Err(io::ErrorKind::Unsupported.into()),
        };
        match sent {
            Ok(_) => self.counters.sent.add(),
            Err(error) => {
                self.counters.unsent.add();
                debug!(%to, %error, "cannot send a heartbeat");
            }
        }
    }
}

/// When a datagram of this age arrived, as it is read now: after the last time that all was read. So it is wrong for no longer
/// than this thread has stood still, whatever is done to the clock of the wall meanwhile.
fn arrived(age: Option<Duration>, last_read: Duration, now: Duration) -> Duration {
    now.saturating_sub(age.unwrap_or_default()).max(last_read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_arrived_since_the_last_look() {
        const fn ms(ms: u64) -> Duration {
            Duration::from_millis(ms)
        }
        let (last, now) = (ms(1_000), ms(4_000));
        assert_eq!(arrived(Some(ms(2_500)), last, now), ms(1_500));
        assert_eq!(arrived(None, last, now), now, "a kernel that does not say");
        assert_eq!(
            arrived(Some(ms(3_600_000)), last, now),
            last,
            "the clock was put forward"
        );
        assert_eq!(arrived(Some(ms(0)), last, now), now, "or back");
    }
}
