//! Runs layer 2: one task that owns the sockets, the memberships and the schedule of announcements.
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
//! | interfaces (watch) | in, from `netlink` | holds the latest |
//! | `reports` (bounded) | out | the latest of each kind waits in the outbox; a reader that is gone is not told |
//!
//! What is wanted before a question comes is in force when it is asked, so that its answers pass the filters; and an
//! interface that was lost by the time a question is over does not count among those where it was asked.
//!
//! Nothing but the reading of frames and the writing of answers happens per frame: no lock, no allocation per answer.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::announce::{self, Announcer, Due};
use crate::counters::{ByAddress, Counters, Family};
use crate::defence::Defence;
use crate::groups::Membership;
use crate::io::{Batch, PacketSocket};
use crate::netlink::{Follower, Interfaces};
use crate::outbox::Outbox;
use crate::seam::{Channels, EngineError, Mac, Note, Question, Settings, Wanted};
use crate::wire::OwnedFrame;

mod answer;
mod ask;
mod port;
mod reconcile;

use answer::Answers;
use ask::Asking;
use port::Port;

pub(crate) use port::listen;

/// Addresses announced before frames are read again.
const ANNOUNCED_IN_A_ROW: usize = 64;

/// Runs until `stop` is cancelled, then ends without a word on the wire. Give it a thread of its own:
/// [`spawn_thread`]. Works in the network namespace of the thread that polls it first.
pub async fn run(
    settings: Settings,
    channels: &mut Channels,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> Result<(), EngineError> {
    PacketSocket::permitted().map_err(EngineError::PacketSocket)?;
    let follower = Follower::start().await.map_err(EngineError::Netlink)?;
    let (publish, interfaces) = watch::channel(follower.interfaces());
    let mut follow = JoinSet::new();
    follow.spawn(follower.follow(publish));
    let engine = Engine::new(settings, counters, interfaces.borrow().clone(), channels.notes.clone());
    tokio::select! {
        () = engine.run(channels, interfaces, stop) => Ok(()),
        _ = follow.join_next() => Err(EngineError::Follower),
    }
}

/// Runs the engine on a thread of its own, named `ferrolb-l2`, with a runtime of its own: nothing else the process
/// does can then delay an answer. The thread ends with [`run`] and gives the channels back, for the next one.
pub fn spawn_thread(
    settings: Settings,
    mut channels: Channels,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> io::Result<JoinHandle<(Channels, Result<(), EngineError>)>> {
    std::thread::Builder::new()
        .name("ferrolb-l2".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let ended = match runtime {
                Ok(runtime) => runtime.block_on(run(settings, &mut channels, counters, stop)),
                Err(error) => Err(EngineError::Runtime(error)),
            };
            (channels, ended)
        })
}

/// What woke the engine.
enum Wake {
    Stop,
    Frames(u32, Family),
    /// Something else is wanted, or the interfaces have changed.
    News,
    WantedGone,
    Asked(Question),
    AskersGone,
    Again(Option<BTreeSet<IpAddr>>),
    Timer,
    Reported,
    ReaderGone,
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
    batch: Batch,
    answers: Answers,
    asking: Asking,
    /// The socket polled first next time, so that a busy one does not starve the others.
    turn: usize,
}

impl Engine {
    fn new(settings: Settings, counters: Arc<Counters>, interfaces: Interfaces, notes: mpsc::Sender<Note>) -> Engine {
        let announcer = Announcer::new(settings.refresh, settings.seed);
        Engine {
            settings,
            counters,
            address_counters: ByAddress::new(),
            start: Instant::now(),
            wanted: Arc::default(),
            interfaces,
            own_macs: BTreeSet::new(),
            ports: BTreeMap::new(),
            membership: Membership::default(),
            announcer,
            defence: Defence::default(),
            outbox: Outbox::default(),
            retry: None,
            batch: Batch::new(),
            answers: Answers::default(),
            asking: Asking::new(notes),
            turn: 0,
        }
    }

    async fn run(
        mut self,
        channels: &mut Channels,
        mut interfaces: watch::Receiver<Interfaces>,
        stop: CancellationToken,
    ) {
        let Channels {
            wanted,
            questions,
            announce,
            reports,
            ..
        } = channels;
        self.take_in(wanted, &mut interfaces);
        let (mut listening, mut asked, mut again, mut reporting) = (true, true, true, true);
        loop {
            let deadline = self.next_deadline();
            let timer = self.start + deadline.unwrap_or_default();
            let wake = tokio::select! {
                () = stop.cancelled() => Wake::Stop,
                (index, family) = poll_fn(|cx| self.poll_ports(cx)) => Wake::Frames(index, family),
                changed = wanted.changed(), if listening => if changed.is_ok() { Wake::News } else { Wake::WantedGone },
                question = questions.recv(), if asked => question.map_or(Wake::AskersGone, Wake::Asked),
                addresses = announce.recv(), if again => Wake::Again(addresses),
                Ok(()) = interfaces.changed() => Wake::News,
                () = sleep_until(timer), if deadline.is_some() => Wake::Timer,
                permit = reports.reserve(), if reporting && !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(report) = self.outbox.pop() {
                            permit.send(report);
                        }
                        Wake::Reported
                    }
                    Err(_) => Wake::ReaderGone,
                },
            };
            let news = wanted.has_changed().unwrap_or(false) || interfaces.has_changed().unwrap_or(false);
            if news && matches!(wake, Wake::Asked(_) | Wake::Again(_) | Wake::Timer) {
                self.take_in(wanted, &mut interfaces);
            }
            match wake {
                Wake::Stop => return,
                Wake::Frames(index, family) => self.answer(index, family),
                Wake::News => self.take_in(wanted, &mut interfaces),
                Wake::WantedGone => listening = false,
                Wake::Asked(question) => {
                    self.asking.questions.ask(self.now(), question);
                    self.ask(self.now());
                }
                Wake::AskersGone => asked = false,
                Wake::Again(Some(addresses)) => self.announcer.again(self.now(), &addresses),
                Wake::Again(None) => again = false,
                Wake::Timer => self.tick(),
                Wake::Reported => {}
                Wake::ReaderGone => reporting = false,
            }
        }
    }

    /// Puts what is wanted now, and the interfaces as they are now, into force.
    fn take_in(&mut self, wanted: &mut watch::Receiver<Arc<Wanted>>, interfaces: &mut watch::Receiver<Interfaces>) {
        self.wanted = wanted.borrow_and_update().clone();
        self.interfaces = interfaces.borrow_and_update().clone();
        self.reconcile();
    }

    /// When [`Engine::tick`] has something to do next.
    fn next_deadline(&self) -> Option<Duration> {
        let deadlines = [
            self.announcer.next_deadline(),
            self.defence.next_deadline(),
            self.asking.questions.next_deadline(),
            self.retry,
        ];
        deadlines.into_iter().flatten().min()
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The first socket, from this turn's on, that has something to read.
    fn poll_ports(&self, cx: &mut Context<'_>) -> Poll<(u32, Family)> {
        let taps = || {
            self.ports
                .iter()
                .flat_map(|(index, port)| port.taps.iter().map(|(f, tap)| (*index, *f, tap)))
        };
        let count = taps().count();
        let from_turn = taps()
            .cycle()
            .skip(self.turn.checked_rem(count).unwrap_or(0))
            .take(count);
        for (index, family, tap) in from_turn {
            match tap.socket.poll_readable(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready((index, family)),
                // Only while the runtime shuts down.
                Poll::Ready(Err(_)) | Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    /// Sends what is due, and tries again what failed.
    fn tick(&mut self) {
        let now = self.now();
        if self.retry.is_some_and(|at| at <= now) {
            self.reconcile();
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
