//! Runs layer 2: one thread that owns the sockets, the memberships and the schedule of announcements.
//!
//! What it does follows from two inputs, the addresses wanted and the interfaces there are. Whenever one changes it
//! makes the plan anew and brings, in this order, sockets and filters, multicast groups, announcements and reports in
//! line with it: an address is heard before it is announced. Requests that were only remembered till then are answered
//! before all this, because a client waits. What cannot be opened or joined is left out, told as a
//! fault and tried again every few seconds.
//!
//! | channel | direction | when full or gone |
//! | --- | --- | --- |
//! | `wanted` (watch) | in | holds the latest; a sender that is gone leaves the last value in force |
//! | `questions` (bounded) | in | whoever asks waits, or gives up |
//! | `announce` (bounded) | in | whoever sends waits, or gives up |
//! | `notes` (bounded) | out | the note is dropped and counted; whoever asked asks again |
//! | interfaces (watch) | in, from the thread of `ground` | holds the latest |
//! | used (watch) | out, to the thread of `ground` | holds the latest |
//! | `reports` (bounded) | out | the latest of each kind waits in the outbox; a reader that is gone is not told |
//!
//! What is wanted before a question comes is in force when it is asked, so that its answers pass the filters; and an
//! interface that was lost by the time a question is over does not count among those where it was asked.
//!
//! The thread sleeps in `ppoll` on its sockets, and not in a runtime: between a frame and its answer stand one `ppoll`, one
//! `recv` and one `send`, no lock, no allocation, and little code, since what a processor has not run for milliseconds it
//! has to fetch first. Answers are counted and remembered after they are sent. The channels are futures that are polled by
//! hand, when a bell (`bell`) says that one of them has something.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::announce::{self, Announcer, Due};
use crate::bell::Bell;
use crate::counters::{ByAddress, Counters, Family};
use crate::defence::Defence;
use crate::groups::Membership;
use crate::io::{Batch, PacketSocket, Waits};
use crate::netlink::Interfaces;
use crate::outbox::Outbox;
use crate::seam::{Channels, EngineError, Mac, Question, Report, Settings, Wanted};
use crate::wire::OwnedFrame;

mod answer;
mod ask;
mod ground;
mod port;
mod reconcile;

use answer::Answers;
use ask::Asking;
use ground::Ground;
use port::Port;

pub(crate) use port::listen;

/// Addresses announced before frames are read again.
const ANNOUNCED_IN_A_ROW: usize = 64;

/// Runs until `stop` is cancelled, then ends without a word on the wire. It blocks: give it a thread of its own
/// ([`spawn_thread`]). Works in the network namespace of the thread that calls it.
pub fn run(
    settings: Settings,
    channels: &mut Channels,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> Result<(), EngineError> {
    PacketSocket::permitted().map_err(EngineError::PacketSocket)?;
    let bell = Bell::new().map_err(EngineError::Runtime)?;
    let ground = Ground::start()?;
    let engine = Engine::new(settings, counters, &ground, channels);
    let inbox = Inbox {
        channels,
        interfaces: ground.interfaces.clone(),
        stop,
        listening: true,
        asked: true,
        again: true,
    };
    engine.run(inbox, bell)
}

/// Runs the engine on a thread of its own, named `ferrolb-l2`: nothing else the process does can then delay an answer. The
/// thread ends with [`run`] and gives the channels back, for the next one.
pub fn spawn_thread(
    settings: Settings,
    mut channels: Channels,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> io::Result<JoinHandle<(Channels, Result<(), EngineError>)>> {
    std::thread::Builder::new()
        .name("ferrolb-l2".to_owned())
        .spawn(move || {
            if let Err(error) = ferrolb_urgency::short_turns() {
                warn!(%error, "the thread of layer 2 runs like any other");
            }
            let ended = run(settings, &mut channels, counters, stop);
            (channels, ended)
        })
}

/// What the engine turns to, frames apart.
enum Wake {
    Stop,
    /// Something else is wanted, or the interfaces have changed.
    News,
    WantedGone,
    FollowerGone,
    Asked(Question),
    AskersGone,
    Again(Option<BTreeSet<IpAddr>>),
    Timer,
    /// There is something to report, or room for it again.
    Report,
}

/// What comes from other threads.
struct Inbox<'a> {
    channels: &'a mut Channels,
    interfaces: watch::Receiver<Interfaces>,
    stop: CancellationToken,
    listening: bool,
    asked: bool,
    again: bool,
}

impl Inbox<'_> {
    /// The next thing that comes; `full` waits for room for a report as well. Nothing is lost when it is dropped.
    async fn next(&mut self, full: bool) -> Wake {
        let Channels {
            wanted,
            questions,
            announce,
            reports,
            ..
        } = &mut *self.channels;
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Wake::Stop,
            changed = wanted.changed(), if self.listening => if changed.is_ok() { Wake::News } else { Wake::WantedGone },
            changed = self.interfaces.changed() => if changed.is_ok() { Wake::News } else { Wake::FollowerGone },
            question = questions.recv(), if self.asked => question.map_or(Wake::AskersGone, Wake::Asked),
            addresses = announce.recv(), if self.again => Wake::Again(addresses),
            _ = reports.reserve(), if full => Wake::Report,
        }
    }

    fn has_news(&self) -> bool {
        self.channels.wanted.has_changed().unwrap_or(false) || self.interfaces.has_changed().unwrap_or(false)
    }
}

struct Engine {
    settings: Settings,
    counters: Arc<Counters>,
    address_counters: ByAddress,
    start: Instant,
    wanted: Arc<Wanted>,
    interfaces: Interfaces,
    own_macs: BTreeSet<Mac>,
    ports: BTreeMap<u32, Port>,
    membership: Membership,
    announcer: Announcer,
    defence: Defence,
    outbox: Outbox,
    retry: Option<Duration>,
    /// When to look at what is asked about addresses that are only listened for.
    listen_at: Option<Duration>,
    /// What is waited for: the bell and these sockets.
    waits: Waits,
    taps: Vec<(u32, Family)>,
    batch: Batch,
    answers: Answers,
    asking: Asking,
    reports: mpsc::Sender<Report>,
    reading: bool,
    /// Out: the interfaces that sockets are open on.
    used: watch::Sender<BTreeSet<u32>>,
    /// Runs what may block.
    closer: Handle,
}

impl Engine {
    fn new(settings: Settings, counters: Arc<Counters>, ground: &Ground, channels: &Channels) -> Engine {
        let announcer = Announcer::new(settings.refresh, settings.seed);
        Engine {
            settings,
            counters,
            address_counters: ByAddress::new(),
            start: Instant::now(),
            wanted: Arc::default(),
            interfaces: ground.interfaces.borrow().clone(),
            own_macs: BTreeSet::new(),
            ports: BTreeMap::new(),
            membership: Membership::default(),
            announcer,
            defence: Defence::default(),
            outbox: Outbox::default(),
            retry: None,
            listen_at: None,
            waits: Waits::default(),
            taps: Vec::new(),
            batch: Batch::new(),
            answers: Answers::default(),
            asking: Asking::new(channels.notes.clone()),
            reports: channels.reports.clone(),
            reading: true,
            used: ground.used.clone(),
            closer: ground.closer.clone(),
        }
    }

    fn run(mut self, mut inbox: Inbox<'_>, mut bell: Bell) -> Result<(), EngineError> {
        self.take_in(&mut inbox);
        loop {
            let wake = self.next(&mut inbox, &mut bell).map_err(EngineError::Wait)?;
            if matches!(wake, Wake::Asked(_) | Wake::Again(_) | Wake::Timer) && inbox.has_news() {
                self.take_in(&mut inbox);
            }
            match wake {
                Wake::Stop => return Ok(()),
                Wake::News => self.take_in(&mut inbox),
                Wake::WantedGone => inbox.listening = false,
                Wake::FollowerGone => return Err(EngineError::Follower),
                Wake::Asked(question) => {
                    self.asking.questions.ask(self.now(), question);
                    self.ask(self.now());
                }
                Wake::AskersGone => inbox.asked = false,
                Wake::Again(Some(addresses)) => self.announcer.again(self.now(), &addresses),
                Wake::Again(None) => inbox.again = false,
                Wake::Timer => self.tick(),
                Wake::Report => {}
            }
            self.report();
        }
    }

    /// Answers frames until there is something else to do.
    fn next(&mut self, inbox: &mut Inbox<'_>, bell: &mut Bell) -> io::Result<Wake> {
        let waker = bell.waker();
        let mut context = Context::from_waker(&waker);
        let full = self.has_reports();
        let mut next = pin!(inbox.next(full));
        let mut rung = true;
        loop {
            if rung && let Poll::Ready(wake) = next.as_mut().poll(&mut context) {
                return Ok(wake);
            }
            if !full && self.has_reports() {
                return Ok(Wake::Report);
            }
            let deadline = self.next_deadline();
            let time = deadline.map(|deadline| deadline.saturating_sub(self.now()));
            rung = self.wait(bell, time)?;
            if rung {
                bell.hush()?;
            }
            if deadline.is_some_and(|deadline| deadline <= self.now()) {
                return Ok(Wake::Timer);
            }
        }
    }

    /// Waits for frames, the bell, or the end of the time, and answers the frames; whether the bell has rung.
    fn wait(&mut self, bell: &Bell, time: Option<Duration>) -> io::Result<bool> {
        self.waits.clear();
        self.waits.push(bell);
        let mut taps = std::mem::take(&mut self.taps);
        taps.clear();
        for (index, port) in &self.ports {
            for (family, tap) in &port.taps {
                self.waits.push(&tap.socket);
                taps.push((*index, *family));
            }
        }
        self.waits.wait(time)?;
        for (place, (index, family)) in taps.iter().enumerate() {
            if self.waits.is_ready(place + 1) {
                self.answer(*index, *family);
            }
        }
        self.taps = taps;
        Ok(self.waits.is_ready(0))
    }

    /// Puts what is wanted now, and the interfaces as they are now, into force.
    fn take_in(&mut self, inbox: &mut Inbox<'_>) {
        self.wanted = inbox.channels.wanted.borrow_and_update().clone();
        self.interfaces = inbox.interfaces.borrow_and_update().clone();
        self.reconcile();
    }

    fn has_reports(&self) -> bool {
        self.reading && !self.outbox.is_empty()
    }

    /// Says what there is room for.
    fn report(&mut self) {
        while self.has_reports() {
            match self.reports.try_reserve() {
                Ok(room) => {
                    if let Some(report) = self.outbox.pop() {
                        room.send(report);
                    }
                }
                Err(TrySendError::Full(())) => return,
                Err(TrySendError::Closed(())) => self.reading = false,
            }
        }
    }

    /// When [`Engine::tick`] has something to do next.
    fn next_deadline(&self) -> Option<Duration> {
        let deadlines = [
            self.announcer.next_deadline(),
            self.defence.next_deadline(),
            self.asking.questions.next_deadline(),
            self.retry,
            self.listen_at,
        ];
        deadlines.into_iter().flatten().min()
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Sends what is due, and tries again what failed.
    fn tick(&mut self) {
        let now = self.now();
        if self.retry.is_some_and(|at| at <= now) {
            self.reconcile();
        }
        if self.listen_at.is_some_and(|at| at <= now) {
            self.hear_quiet();
        }
        self.ask(now);
        self.defend(now);
        let due = self.announcer.due(now, ANNOUNCED_IN_A_ROW);
        for due in due.chunk_by(|a, b| a.index == b.index && Family::of(a.address) == Family::of(b.address)) {
            self.announce(due);
        }
    }

    /// Announces what strangers have claimed.
    fn defend(&mut self, now: Duration) {
        for (index, address) in self.defence.due(now) {
            let served = self.ports.get(&index).map(|port| &port.served);
            let served = served.filter(|served| served.owns(address));
            if let Some(frame) = served.and_then(|served| announce::announcement(address, served.mac))
                && self.announce(&[Due { index, address, frame }]) == 1
            {
                self.counters.defended(Family::of(address));
            }
        }
    }

    /// Sends announcements of one family on one interface; how many.
    fn announce(&self, due: &[Due]) -> usize {
        let Some(Due { index, address, .. }) = due.first() else {
            return 0;
        };
        let family = Family::of(*address);
        let Some(port) = self.ports.get(index) else { return 0 };
        let frames: Vec<OwnedFrame> = due.iter().map(|due| due.frame).collect();
        let sent = port.send(family, &frames, &self.counters);
        for due in &due[..sent] {
            self.counters
                .announced(family, self.address_counters.get(&due.address).map(|c| &**c));
        }
        sent
    }
}
