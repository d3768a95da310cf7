//! One session with one router: when to connect, what to send, when to give up. Pure: whoever owns it makes the
//! connections, moves the bytes and tells the time; times are durations since any fixed start.
//!
//! The owner tells what happened ([`Session::connected`], [`Session::received`], ...), then does what
//! [`Session::poll`] asks for until it asks for nothing, sends what [`Session::outgoing`] holds, and calls
//! [`Session::tick`] at [`Session::deadline`]. Nothing is retried without a growing pause:
//!
//! | what ended it | pause before the next attempt |
//! | --- | --- |
//! | no connection, or one lost | 1 s, doubled each time up to the peer's connect time |
//! | a Cease of the peer, BFD | 5 s, doubled up to the peer's connect time |
//! | any other NOTIFICATION, ours or the peer's | 5 s, doubled up to 60 s |
//! | changed settings | 1 s |
//!
//! each shortened at random by up to a quarter (RFC 4271 section 10).

mod change;
mod collision;
mod connection;
mod hand_over;
mod leave;
mod pace;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::adj_rib_out::{AdjRibOut, Context, OwnHops};
use crate::proto::update::Encoding;
use crate::proto::{Action, Cease, Machine, Negotiated, Open, Phase, Seen};
use crate::route::Routes;
use crate::settings::{Opening, Peer};
use crate::status::{Fault, State, Status};

use change::own_hops;
use connection::Connection;
pub use leave::Leave;
use leave::Leaving;
use pace::{RETRY, doubled};

/// A session that lived this long was a good one: the next failure counts as the first.
const GOOD: Duration = Duration::from_secs(60);
/// An attempt to connect that was not answered by now will not be.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// We.
    Dialled,
    /// The peer.
    Accepted,
}

/// One of the two places a session has for connections.
pub type Slot = usize;
/// How many there are.
pub const SLOTS: usize = 2;

/// Our end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The address of the socket.
    pub address: IpAddr,
    /// An IPv4 address of the same interface.
    pub v4: Option<Ipv4Addr>,
    /// A global IPv6 address of the same interface.
    pub v6: Option<Ipv6Addr>,
}

/// What the owner has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to the peer; answer with [`Session::connected`] or [`Session::connect_failed`].
    Dial,
    /// Forget the attempt to connect.
    AbortDial,
    /// Close this connection.
    Close {
        /// Which.
        slot: Slot,
        /// To be sent before, if that is possible without waiting long.
        last: Bytes,
        /// Drop what is unsent, reset the connection.
        abort: bool,
    },
    /// The session has left; it will not ask for anything again.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dial {
    /// Dial then. Idle after an error of the protocol, otherwise Active.
    Wait { until: Duration, idle: bool },
    /// Until then the attempt is given its chance.
    Dialling { until: Duration },
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    peer: Arc<Peer>,
    routes: Arc<Routes>,
    /// Until then the first OPEN tells that we restarted (RFC 4724).
    restarting_until: Duration,
    random: u64,
    dial: Dial,
    /// Failed attempts to connect in a row.
    failed: u32,
    /// Sessions in a row that ended by an error of the protocol.
    erred: u32,
    slots: [Option<Connection>; SLOTS],
    rib: AdjRibOut,
    leaving: Option<Leaving>,
    status: Status,
    outputs: VecDeque<Output>,
}

impl Session {
    /// A session that connects at once. Settings must have passed [`Peer::check`]. Until `restarting_until` it tells
    /// the peer that this node restarted, if that is offered at all. The seed decides the jitter.
    pub fn new(now: Duration, peer: Arc<Peer>, routes: Arc<Routes>, restarting_until: Duration, seed: u64) -> Session {
        let mut session = Session::idle(now, peer, restarting_until, seed);
        session.want(now, routes);
        session.tick(now);
        session
    }

    fn idle(now: Duration, peer: Arc<Peer>, restarting_until: Duration, seed: u64) -> Session {
        Session {
            peer,
            routes: Arc::default(),
            restarting_until,
            random: seed,
            dial: Dial::Wait {
                until: now,
                idle: false,
            },
            failed: 0,
            erred: 0,
            slots: [None, None],
            rib: AdjRibOut::default(),
            leaving: None,
            status: Status {
                since: now,
                ..Status::default()
            },
            outputs: VecDeque::new(),
        }
    }

    /// The settings in force.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// How it fares.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// What the owner has to do next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Notes something that went wrong outside of it.
    pub fn note(&mut self, now: Duration, fault: Fault) {
        self.status.last_error = Some((now, fault));
    }

    /// When to call [`Session::tick`] at the latest.
    pub fn deadline(&self) -> Option<Duration> {
        let dial = match self.dial {
            _ if !self.may_dial() => None,
            Dial::Wait { until, .. } | Dial::Dialling { until } => Some(until),
        };
        let connections = self.slots.iter().flatten().filter_map(Connection::deadline);
        let leaving = self.leaving.as_ref().and_then(Leaving::deadline);
        connections.chain(dial).chain(leaving).min()
    }

    /// Wants the peer to hold exactly these routes.
    pub fn want(&mut self, now: Duration, routes: Arc<Routes>) {
        self.routes = routes;
        if self.leaving.is_none() {
            self.rib.want(Arc::clone(&self.routes));
        }
        self.settle(now);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        for slot in 0..SLOTS {
            while let Some(connection) = self.slots[slot].as_mut() {
                if let Some(waited) = connection.stalled(now) {
                    self.end(now, slot, Some(Fault::SendHold(waited)), true);
                    break;
                }
                let Some(timer) = connection.expired(now) else { break };
                let actions = connection.machine.expired(timer);
                self.act(now, slot, actions);
            }
        }
        if let Dial::Dialling { until } = self.dial
            && until <= now
        {
            self.outputs.push_back(Output::AbortDial);
            self.failed_to_connect(now, Fault::ConnectTimeout);
        }
        self.advance_leaving(now);
        self.settle(now);
    }

    /// The attempt to connect failed.
    pub fn connect_failed(&mut self, now: Duration, error: String) {
        if matches!(self.dial, Dial::Dialling { .. }) {
            self.failed_to_connect(now, Fault::Connect(error));
            self.settle(now);
        }
    }

    fn failed_to_connect(&mut self, now: Duration, fault: Fault) {
        self.failed += 1;
        self.status.last_error = Some((now, fault));
        let pause = doubled(RETRY, self.failed, self.peer.connect_retry);
        self.pause(now, pause, false);
    }

    /// A connection is up. `None` means that it is not wanted and is to be dropped.
    pub fn connected(&mut self, now: Duration, origin: Origin, local: Local) -> Option<Slot> {
        match origin {
            Origin::Dialled if !matches!(self.dial, Dial::Dialling { .. }) => return None,
            Origin::Dialled => {
                self.dial = Dial::Wait {
                    until: now,
                    idle: false,
                }
            }
            Origin::Accepted if self.peer.opening == Opening::Dial || self.leaving.is_some() => return None,
            // Whoever connects without saying anything does not keep others out.
            Origin::Accepted => {
                let silent = |c: &Connection| c.origin == origin && c.machine.phase() == Phase::OpenSent;
                if let Some(slot) = self.slots.iter().position(|c| c.as_ref().is_some_and(silent)) {
                    self.end(now, slot, Some(Fault::Replaced), true);
                }
            }
        }
        let slot = self.slots.iter().position(Option::is_none)?;
        let restarting = now < self.restarting_until && self.status.established == 0;
        let (machine, actions) = Machine::start(open(&self.peer, restarting));
        self.slots[slot] = Some(Connection::new(machine, origin, local));
        self.act(now, slot, actions);
        self.settle(now);
        Some(slot)
    }

    /// Bytes arrived.
    pub fn received(&mut self, now: Duration, slot: Slot, bytes: &[u8]) {
        if let Some(connection) = self.slots[slot].as_mut() {
            connection.decoder.push(bytes);
        }
        while let Some(connection) = self.slots[slot].as_mut() {
            let Some(incoming) = connection.decoder.next_message() else {
                break;
            };
            let actions = connection.machine.receive(incoming);
            self.act(now, slot, actions);
            self.resolve_collision(now, slot);
        }
        self.settle(now);
    }

    /// The connection ended, for this reason.
    pub fn closed(&mut self, now: Duration, slot: Slot, reason: &str) {
        if let Some(connection) = &self.slots[slot] {
            let fault = Fault::Lost(connection.reached, reason.to_owned());
            self.end(now, slot, Some(fault), true);
            self.settle(now);
        }
    }

    /// What is to be sent on a connection.
    pub fn outgoing(&self, slot: Slot) -> &[u8] {
        self.slots[slot].as_ref().map_or(&[], |c| c.outgoing())
    }

    /// So many octets of it were sent.
    pub fn sent(&mut self, now: Duration, slot: Slot, octets: usize) {
        if let Some(connection) = self.slots[slot].as_mut() {
            connection.sent(now, octets);
        }
        self.settle(now);
    }

    /// BFD saw the path fail (RFC 5882).
    pub fn bfd_down(&mut self, now: Duration) {
        for slot in 0..SLOTS {
            if let Some(connection) = self.slots[slot].as_mut() {
                let actions = connection.machine.bfd_down();
                self.act(now, slot, actions);
            }
        }
        self.settle(now);
    }

    fn established(&self) -> Option<Slot> {
        let up = |c: &Option<Connection>| c.as_ref().is_some_and(|c| c.machine.phase() == Phase::Established);
        self.slots.iter().position(up)
    }

    /// Does what the machine of a connection wants.
    fn act(&mut self, now: Duration, slot: Slot, actions: Vec<Action>) {
        let mut fault = None;
        for action in actions {
            let Some(connection) = self.slots[slot].as_mut() else {
                return;
            };
            match action {
                Action::Send(bytes) => connection.push(now, &bytes, &mut self.status.sent),
                Action::Notify(notification, bytes) => {
                    connection.push(now, &bytes, &mut self.status.sent);
                    fault = Some(Fault::Sent(notification));
                }
                Action::Start(timer, seconds) => {
                    let random = self.draw();
                    let keepalive = self.peer.keepalive;
                    if let Some(connection) = self.slots[slot].as_mut() {
                        connection.start(now, timer, seconds, keepalive, random);
                    }
                }
                Action::Stop(timer) => connection.stop(timer),
                Action::Established(negotiated) => self.up(now, slot, *negotiated),
                Action::Seen(seen) => {
                    connection::count(&mut self.status, &seen);
                    match seen {
                        Seen::Refresh(Some(family)) if self.established() == Some(slot) => self.rib.refresh(family),
                        Seen::Notification(notification) => fault = Some(Fault::Received(notification)),
                        _ => {}
                    }
                }
                Action::Close => self.end(now, slot, fault.take(), false),
            }
        }
        if let Some(connection) = self.slots[slot].as_mut() {
            connection.reached = connection.state();
        }
    }

    fn up(&mut self, now: Duration, slot: Slot, negotiated: Negotiated) {
        let Some(connection) = &self.slots[slot] else { return };
        let local = connection.local;
        self.rib.open(context(
            &self.peer,
            &negotiated,
            own_hops(&self.peer, &local, &negotiated),
        ));
        self.status.established += 1;
        self.status.local = Some(local.address);
        self.status.negotiated = Some(negotiated);
        let other = 1 - slot;
        self.cease(now, other, Cease::Collision, "");
    }

    fn cease(&mut self, now: Duration, slot: Slot, cease: Cease, text: &str) {
        if let Some(connection) = self.slots[slot].as_mut() {
            let actions = connection.machine.cease(cease, text);
            self.act(now, slot, actions);
        }
    }

    /// Forgets a connection and decides what follows.
    fn end(&mut self, now: Duration, slot: Slot, fault: Option<Fault>, abort: bool) {
        let Some(connection) = self.slots[slot].take() else {
            return;
        };
        let state = connection.reached;
        self.outputs.push_back(Output::Close {
            slot,
            last: connection.into_unsent(),
            abort,
        });
        if state == State::Established {
            self.rib.close();
            if now.saturating_sub(self.status.since) >= GOOD {
                (self.failed, self.erred) = (0, 0);
            }
            self.status.negotiated = None;
            self.status.local = None;
        }
        // A connection that lost a collision is no event: the other one goes on. Nor is it a fault to leave.
        if self.slots.iter().any(Option::is_some) || self.leaving.is_some() {
            return;
        }
        let fault = fault.unwrap_or_else(|| Fault::Lost(state, "a message could not be read".to_owned()));
        let (pause, idle) = self.pause_after(&fault);
        self.pause(now, pause, idle);
        self.status.last_error = Some((now, fault));
    }

    fn may_dial(&self) -> bool {
        let busy = |c: &Connection| c.origin == Origin::Dialled || c.machine.phase() >= Phase::OpenConfirm;
        self.peer.opening != Opening::Listen && self.leaving.is_none() && !self.slots.iter().flatten().any(busy)
    }

    /// After every event: dials if that is due, sees to it that there is something to send, and notes the state.
    fn settle(&mut self, now: Duration) {
        if let Dial::Wait { until, .. } = self.dial
            && until <= now
            && self.may_dial()
        {
            self.dial = Dial::Dialling {
                until: now + CONNECT_TIMEOUT,
            };
            self.outputs.push_back(Output::Dial);
        }
        if let Some(slot) = self.established()
            && let Some(connection) = self.slots[slot].as_mut()
        {
            connection.fill(now, &mut self.rib, &mut self.status.sent);
        }
        self.finish_leaving(now);
        let state = self.state();
        if state != self.status.state {
            self.status.state = state;
            self.status.since = now;
        }
        self.status.wanted = self.routes.len();
        self.status.told = self.rib.told();
        if self.status.refused != *self.rib.refused() {
            self.status.refused = self.rib.refused().clone();
        }
    }

    fn state(&self) -> State {
        let furthest = self.slots.iter().flatten().map(Connection::state).max();
        furthest.unwrap_or(match self.dial {
            _ if self.leaving.is_some() => State::Idle,
            Dial::Dialling { .. } => State::Connect,
            Dial::Wait { idle: true, .. } => State::Idle,
            Dial::Wait { idle: false, .. } => State::Active,
        })
    }
}

/// What we say to this peer.
fn open(peer: &Peer, restarting: bool) -> Open {
    Open {
        local_asn: peer.local_asn,
        remote_asn: peer.remote_asn,
        router_id: peer.router_id,
        hold_time: peer.hold_time,
        families: peer.families,
        graceful_restart: peer.graceful_restart,
        restarting,
    }
}

fn context(peer: &Peer, negotiated: &Negotiated, own: OwnHops) -> Context {
    Context {
        encoding: Encoding {
            local_asn: peer.local_asn,
            external: negotiated.asn != peer.local_asn,
            four_octet_asn: negotiated.four_octet_asn,
        },
        families: negotiated.families,
        extended_next_hop: negotiated.extended_next_hop,
        own,
    }
}
