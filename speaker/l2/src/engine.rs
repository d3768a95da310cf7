//! Runs layer 2: one task that owns the sockets, the memberships and the schedule of announcements.
//!
//! What it does follows from two inputs, the addresses wanted and the interfaces there are. Whenever one changes it
//! makes the plan anew and brings, in this order, sockets and filters, multicast groups, announcements and reports in
//! line with it: an address is heard before it is announced. What cannot be opened or joined is left out, told as a
//! fault and tried again every few seconds.
//!
//! | channel | direction | when full or gone |
//! | --- | --- | --- |
//! | `wanted` (watch) | in | holds the latest; a sender that is gone leaves the last value in force |
//! | interfaces (watch) | in, from `netlink` | holds the latest |
//! | `reports` (bounded) | out | the latest of each kind waits in the outbox; a reader that is gone is not told |
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

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::announce::{self, Announcer, Due};
use crate::counters::{AddressCounters, Counters, Family};
use crate::defence::Defence;
use crate::filter::{self, Instruction};
use crate::groups::{self, Membership};
use crate::io::{Batch, PacketSocket, Received};
use crate::netlink::{Follower, Interfaces};
use crate::outbox::Outbox;
use crate::plan::{self, Plan, Served};
use crate::responder::{self, Action, Reason};
use crate::seam::{Channels, EngineError, Fault, Mac, Settings, Wanted};
use crate::wire::OwnedFrame;

/// Before what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Batches read from one socket before the others have their turn.
const BATCHES_IN_A_ROW: usize = 16;
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
    let engine = Engine::new(settings, counters, interfaces.borrow().clone());
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

/// A socket, and the addresses its filter is made of.
struct Tap {
    socket: PacketSocket,
    addresses: BTreeSet<IpAddr>,
    /// The filter lets the whole protocol through, because there are too many addresses.
    unfiltered: bool,
}

/// An interface on which addresses are announced.
struct Port {
    served: Served,
    taps: BTreeMap<Family, Tap>,
}

/// What woke the engine.
enum Wake {
    Stop,
    Frames(u32, Family),
    Wanted,
    WantedGone,
    Interfaces,
    Timer,
    Reported,
    ReaderGone,
}

struct Engine {
    settings: Settings,
    counters: Arc<Counters>,
    address_counters: BTreeMap<IpAddr, Arc<AddressCounters>>,
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
    answers: Vec<OwnedFrame>,
    /// The address each of them answers for.
    asked: Vec<IpAddr>,
    /// The socket polled first next time, so that a busy one does not starve the others.
    turn: usize,
}

impl Engine {
    fn new(settings: Settings, counters: Arc<Counters>, interfaces: Interfaces) -> Engine {
        let announcer = Announcer::new(settings.refresh, settings.seed);
        Engine {
            settings,
            counters,
            address_counters: BTreeMap::new(),
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
            answers: Vec::new(),
            asked: Vec::new(),
            turn: 0,
        }
    }

    async fn run(
        mut self,
        channels: &mut Channels,
        mut interfaces: watch::Receiver<Interfaces>,
        stop: CancellationToken,
    ) {
        let Channels { wanted, reports, .. } = channels;
        self.wanted = wanted.borrow_and_update().clone();
        self.reconcile();
        let (mut listening, mut reporting) = (true, true);
        loop {
            let announce = self.announcer.next_deadline().into_iter();
            let deadline = announce.chain(self.defence.next_deadline()).chain(self.retry).min();
            let timer = self.start + deadline.unwrap_or_default();
            let wake = tokio::select! {
                () = stop.cancelled() => Wake::Stop,
                (index, family) = poll_fn(|cx| self.poll_ports(cx)) => Wake::Frames(index, family),
                changed = wanted.changed(), if listening => if changed.is_ok() { Wake::Wanted } else { Wake::WantedGone },
                Ok(()) = interfaces.changed() => Wake::Interfaces,
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
            match wake {
                Wake::Stop => return,
                Wake::Frames(index, family) => self.answer(index, family),
                Wake::Wanted => {
                    self.wanted = wanted.borrow_and_update().clone();
                    self.reconcile();
                }
                Wake::WantedGone => listening = false,
                Wake::Interfaces => {
                    self.interfaces = interfaces.borrow_and_update().clone();
                    self.reconcile();
                }
                Wake::Timer => self.tick(),
                Wake::Reported => {}
                Wake::ReaderGone => reporting = false,
            }
        }
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

    /// Reads from a socket and answers.
    fn answer(&mut self, index: u32, family: Family) {
        self.turn = self.turn.wrapping_add(1);
        for _ in 0..BATCHES_IN_A_ROW {
            let Some(tap) = self.ports.get(&index).and_then(|port| port.taps.get(&family)) else {
                return;
            };
            if let Err(error) = tap.socket.receive(&mut self.batch) {
                // Told once when the interface goes down; the socket works again when it comes back.
                debug!(interface = index, family = family.name(), %error, "cannot read frames");
                return;
            }
            self.answer_batch(index, family);
            if !self.batch.is_full() {
                return;
            }
            if let Some(tap) = self.ports.get(&index).and_then(|port| port.taps.get(&family)) {
                self.counters
                    .dropped(Reason::QueueFull, tap.socket.dropped().unwrap_or(0));
            }
        }
    }

    fn answer_batch(&mut self, index: u32, family: Family) {
        let now = self.now();
        let Some(port) = self.ports.get(&index) else { return };
        let view = responder::Port {
            mac: port.served.mac,
            own_macs: &self.own_macs,
            addresses: &port.served.addresses,
        };
        self.answers.clear();
        self.asked.clear();
        for received in self.batch.frames() {
            let action = match received {
                Received::Frame(frame) => responder::respond(frame, view),
                Received::TooLong => Action::Ignore(Reason::TooLong),
            };
            match action {
                Action::Reply { address, asker, frame } => {
                    if let Some(asker) = asker {
                        self.announcer.neighbours.asked(index, address, asker);
                    }
                    self.counters
                        .requested(family, self.address_counters.get(&address).map(|c| &**c));
                    self.answers.push(frame);
                    self.asked.push(address);
                }
                Action::Conflict { address, mac } => {
                    self.counters.conflict(family);
                    self.defence.claimed(now, index, address);
                    self.outbox.conflict(now, address, &port.served.name, mac);
                }
                Action::Ignore(reason) => self.counters.dropped(reason, 1),
            }
        }
        let Some(tap) = port.taps.get(&family) else { return };
        let (sent, error) = tap.socket.send(&self.answers);
        for address in &self.asked[..sent] {
            self.counters
                .replied(family, self.address_counters.get(address).map(|c| &**c));
        }
        if let Some(error) = error {
            self.counters
                .dropped(Reason::SendFailed, (self.asked.len() - sent) as u64);
            debug!(interface = port.served.name, %error, "cannot send answers");
        }
    }

    /// Sends what is due, and tries again what failed.
    fn tick(&mut self) {
        let now = self.now();
        if self.retry.is_some_and(|at| at <= now) {
            self.reconcile();
        }
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
            let served = served.filter(|served| served.addresses.contains(&address));
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
        let Some(tap) = port.taps.get(&family) else { return 0 };
        let frames: Vec<OwnedFrame> = due.iter().map(|due| due.frame).collect();
        let (sent, error) = tap.socket.send(&frames);
        for due in &due[..sent] {
            self.counters
                .announced(family, self.address_counters.get(&due.address).map(|c| &**c));
        }
        if let Some(error) = error {
            self.counters.dropped(Reason::SendFailed, (frames.len() - sent) as u64);
            debug!(interface = port.served.name, %error, "cannot announce");
        }
        sent
    }

    /// Brings everything in line with what is wanted and what there is.
    fn reconcile(&mut self) {
        let now = self.now();
        let links = Arc::clone(&self.interfaces.links);
        self.own_macs = links.iter().filter_map(|link| link.state.mac).collect();
        let mut plan = plan::plan(&self.wanted, links.iter(), &self.settings.exclude);
        let mut faults = BTreeSet::new();
        self.close_ports(&plan);
        for (index, served) in &mut plan {
            faults.extend(self.open_port(*index, served));
        }
        plan.retain(|_, served| !served.addresses.is_empty());
        self.ports.retain(|index, _| plan.contains_key(index));
        faults.extend(self.membership.set(&groups::groups(&plan), &plan));
        let may_pass = |fault: &Fault| !matches!(fault, Fault::Filter { .. });
        self.retry = faults.iter().any(may_pass).then_some(now + RETRY);

        self.address_counters = self.counters.select(self.wanted.addresses.keys().copied());
        self.announcer.serve(now, &plan);
        self.outbox
            .interfaces(links.iter().map(|link| link.state.clone()).collect());
        self.outbox.announcing(plan::announcing(&self.wanted, &plan));
        faults.extend(self.interfaces.fault.clone().map(|error| Fault::Netlink { error }));
        self.outbox.faults(faults);
    }

    /// Closes what the plan does not have, and what belonged to an interface that was deleted.
    fn close_ports(&mut self, plan: &Plan) {
        let gone: Vec<u32> = self
            .ports
            .iter()
            .filter(|(index, port)| {
                plan.get(index)
                    .is_none_or(|to| to.incarnation != port.served.incarnation)
            })
            .map(|(index, _)| *index)
            .collect();
        for index in gone {
            self.membership.forget(index);
            if let Some(port) = self.ports.remove(&index) {
                info!(interface = port.served.name, "no longer announcing here");
                port.taps.into_values().for_each(close);
            }
        }
    }

    /// Opens or adjusts the sockets of an interface. Addresses that cannot be heard there are taken out of the plan.
    fn open_port(&mut self, index: u32, served: &mut Served) -> Vec<Fault> {
        let port = self.ports.entry(index).or_insert_with(|| {
            info!(interface = served.name, "announcing here");
            Port {
                served: served.clone(),
                taps: BTreeMap::new(),
            }
        });
        let mut faults = Vec::new();
        for family in [Family::Arp, Family::Ndp] {
            let (interface, name) = (served.name.clone(), family.name());
            match port.tune(index, family, &served.addresses) {
                Ok(()) => {}
                Err(error) => {
                    warn!(interface, family = name, %error, "cannot open a packet socket");
                    port.taps.remove(&family).into_iter().for_each(close);
                    served.addresses.retain(|address| Family::of(*address) != family);
                    faults.push(Fault::Socket {
                        interface,
                        family: name,
                        error: error.to_string(),
                    });
                    continue;
                }
            }
            if port.taps.get(&family).is_some_and(|tap| tap.unfiltered) {
                faults.push(Fault::Filter {
                    interface,
                    family: name,
                });
            }
        }
        port.served = served.clone();
        faults
    }
}

impl Port {
    /// Makes the socket of this family hear its addresses among these, or closes it if there are none.
    fn tune(&mut self, index: u32, family: Family, addresses: &BTreeSet<IpAddr>) -> io::Result<()> {
        let addresses: BTreeSet<IpAddr> = addresses
            .iter()
            .filter(|address| Family::of(**address) == family)
            .copied()
            .collect();
        if addresses.is_empty() {
            self.taps.remove(&family).into_iter().for_each(close);
            return Ok(());
        }
        let Some(tap) = self.taps.get_mut(&family) else {
            let tap = open(index, family, addresses)?;
            self.taps.insert(family, tap);
            return Ok(());
        };
        if tap.addresses != addresses {
            tap.unfiltered = with_filter(family, &addresses, |filter| tap.socket.set_filter(filter))?.1;
            tap.addresses = addresses;
        }
        Ok(())
    }
}

fn open(index: u32, family: Family, addresses: BTreeSet<IpAddr>) -> io::Result<Tap> {
    let (socket, unfiltered) = with_filter(family, &addresses, |filter| PacketSocket::open(family, index, filter))?;
    Ok(Tap {
        socket,
        addresses,
        unfiltered,
    })
}

/// Does something with the filter for these addresses; if they are too many for one, or the kernel has no memory for
/// it, with the filter that lets the whole protocol through. Tells which.
fn with_filter<T>(
    family: Family,
    addresses: &BTreeSet<IpAddr>,
    mut attach: impl FnMut(&[Instruction]) -> io::Result<T>,
) -> io::Result<(T, bool)> {
    let v4 = |address: &IpAddr| {
        if let IpAddr::V4(address) = address {
            Some(*address)
        } else {
            None
        }
    };
    let v6 = |address: &IpAddr| {
        if let IpAddr::V6(address) = address {
            Some(*address)
        } else {
            None
        }
    };
    let program = match family {
        Family::Arp => filter::arp(addresses.iter().filter_map(v4)),
        Family::Ndp => filter::ndp(addresses.iter().filter_map(v6)),
    };
    if let Ok(program) = program {
        match attach(&program) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
            result => return result.map(|attached| (attached, false)),
        }
    }
    attach(&filter::everything(family)).map(|attached| (attached, true))
}

/// Closes a socket off the thread that answers: the kernel waits for all processors to let go of it, which takes
/// milliseconds.
fn close(tap: Tap) {
    tokio::task::spawn_blocking(move || drop(tap));
}
