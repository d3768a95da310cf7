//! One connection of a session: its state machine, its timers, what arrived and what is to be sent.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::{Local, Origin};
use crate::adj_rib_out::AdjRibOut;
use crate::hand_over::{Handed, Time};
use crate::proto::{Decoder, HEADER, Machine, Phase, Seen, Timer};
use crate::status::{Messages, State, Status};

/// Routes are put into messages only while less than this waits to be sent, in octets.
const ENOUGH: usize = 32 * 1024;
/// The shortest time after which a peer that takes nothing in is given up (RFC 9687 section 6).
const SEND_HOLD: Duration = Duration::from_secs(480);

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) machine: Machine,
    pub(super) decoder: Decoder,
    pub(super) origin: Origin,
    pub(super) local: Local,
    /// The state before it was closed.
    pub(super) reached: State,
    unsent: BytesMut,
    /// Since when something waits and nothing was taken.
    waiting_since: Option<Duration>,
    hold: Option<Duration>,
    keepalive: Option<Keepalive>,
    send_hold: Duration,
    /// The peer was told everything; what is left is in `unsent`.
    told: bool,
}

#[derive(Clone, Copy, Debug)]
struct Keepalive {
    next: Duration,
    /// A third of the hold time, in seconds.
    third: u32,
}

impl Connection {
    pub(super) fn new(machine: Machine, origin: Origin, local: Local) -> Connection {
        Connection {
            machine,
            decoder: Decoder::default(),
            origin,
            local,
            reached: State::OpenSent,
            unsent: BytesMut::new(),
            waiting_since: None,
            hold: None,
            keepalive: None,
            send_hold: SEND_HOLD,
            told: false,
        }
    }

    /// Goes on with a connection that another process had.
    pub(super) fn resume(machine: Machine, local: Local, handed: &Handed, every: Option<u16>) -> Connection {
        let origin = if handed.dialled {
            Origin::Dialled
        } else {
            Origin::Accepted
        };
        let hold_time = machine.negotiated().map_or(0, |n| n.hold_time);
        let mut connection = Connection::new(machine, origin, local);
        connection.reached = State::Established;
        connection.decoder.push(&handed.input);
        connection.unsent.extend_from_slice(&handed.output);
        connection.waiting_since = handed.waiting_since.map(Duration::from);
        if hold_time > 0 {
            connection.start(Duration::ZERO, Timer::Hold, hold_time.into(), every, 0.0);
            connection.start(Duration::ZERO, Timer::Keepalive, u32::from(hold_time) / 3, every, 0.0);
        }
        connection.hold = handed.hold.map(Duration::from).filter(|_| hold_time > 0);
        if let (Some(keepalive), Some(next)) = (connection.keepalive.as_mut(), handed.keepalive) {
            keepalive.next = next.into();
        }
        connection
    }

    /// Writes down what [`Connection::resume`] reads.
    pub(super) fn hand_over(&self, handed: &mut Handed) {
        handed.dialled = self.origin == Origin::Dialled;
        handed.peer_open = self.machine.peer_open().to_vec();
        handed.hold = self.hold.map(Time::from);
        handed.keepalive = self.keepalive.map(|keepalive| keepalive.next.into());
        handed.waiting_since = self.waiting_since.map(Time::from);
        handed.input = self.decoder.pending().to_vec();
        handed.output = self.unsent.to_vec();
    }

    pub(super) fn state(&self) -> State {
        match self.machine.phase() {
            Phase::Closed => State::Idle,
            Phase::OpenSent => State::OpenSent,
            Phase::OpenConfirm => State::OpenConfirm,
            Phase::Established => State::Established,
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        let give_up = self.waiting_since.map(|since| since + self.send_hold);
        [self.hold, self.keepalive.map(|k| k.next), give_up]
            .into_iter()
            .flatten()
            .min()
    }

    /// A timer that is due; it is stopped.
    pub(super) fn expired(&mut self, now: Duration) -> Option<Timer> {
        if self.hold.take_if(|at| *at <= now).is_some() {
            return Some(Timer::Hold);
        }
        // The machine starts it again.
        let due = self.keepalive.as_mut().filter(|k| k.next <= now)?;
        due.next = Duration::MAX;
        Some(Timer::Keepalive)
    }

    /// How long nothing could be sent, if that is too long.
    pub(super) fn stalled(&self, now: Duration) -> Option<Duration> {
        let waited = now.saturating_sub(self.waiting_since?);
        (waited >= self.send_hold).then_some(waited)
    }

    pub(super) fn start(&mut self, now: Duration, timer: Timer, seconds: u32, every: Option<u16>, random: f64) {
        match timer {
            Timer::Hold => {
                let hold = Duration::from_secs(seconds.into());
                self.hold = Some(now + hold);
                self.send_hold = SEND_HOLD.max(2 * hold);
            }
            Timer::Keepalive => {
                let interval = interval(seconds, every, random);
                self.keepalive = Some(Keepalive {
                    next: now + interval,
                    third: seconds,
                });
            }
        }
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        match timer {
            Timer::Hold => self.hold = None,
            Timer::Keepalive => self.keepalive = None,
        }
    }

    /// The setting changed; the next one comes by the new interval, or when it was due anyway.
    pub(super) fn keep_alive_every(&mut self, now: Duration, every: Option<u16>, random: f64) {
        if let Some(keepalive) = self.keepalive.as_mut() {
            keepalive.next = keepalive.next.min(now + interval(keepalive.third, every, random));
        }
    }

    pub(super) fn push(&mut self, now: Duration, message: &Bytes, sent: &mut Messages) {
        if let Some(kind) = message.get(HEADER - 1) {
            tally(sent, *kind);
            self.unsent.extend_from_slice(message);
            self.waiting_since.get_or_insert(now);
        }
    }

    /// Puts routes into messages as long as there is room.
    pub(super) fn fill(&mut self, now: Duration, rib: &mut AdjRibOut, sent: &mut Messages) {
        self.told = false;
        while self.unsent.len() < ENOUGH {
            let Some(message) = rib.next_message() else {
                self.told = true;
                return;
            };
            self.push(now, &message, sent);
        }
    }

    /// Whether the peer was told everything and all of it was handed over.
    pub(super) fn is_flushed(&self) -> bool {
        self.told && self.unsent.is_empty()
    }

    pub(super) fn outgoing(&self) -> &[u8] {
        &self.unsent
    }

    pub(super) fn sent(&mut self, now: Duration, octets: usize) {
        self.unsent.advance(octets.min(self.unsent.len()));
        if self.unsent.is_empty() {
            // Most of the time nothing waits: sessions do not keep room for it.
            self.unsent = BytesMut::new();
        }
        self.waiting_since = (!self.unsent.is_empty()).then_some(now);
    }

    pub(super) fn into_unsent(self) -> Bytes {
        self.unsent.freeze()
    }
}

/// Never longer than a third of the hold time; shortened at random by up to a quarter (RFC 4271 section 10).
fn interval(third: u32, every: Option<u16>, random: f64) -> Duration {
    let seconds = every.map_or(third, |every| third.min(every.into())).max(1);
    Duration::from_secs(seconds.into()).mul_f64(1.0 - 0.25 * random)
}

fn tally(messages: &mut Messages, kind: u8) {
    match kind {
        1 => messages.open += 1,
        2 => messages.update += 1,
        3 => messages.notification += 1,
        4 => messages.keepalive += 1,
        _ => messages.refresh += 1,
    }
}

/// Counts a message that was received.
pub(super) fn count(status: &mut Status, seen: &Seen) {
    let received = &mut status.received;
    match seen {
        Seen::Open => received.open += 1,
        Seen::Keepalive => received.keepalive += 1,
        Seen::Refresh(_) => received.refresh += 1,
        Seen::Notification(_) => received.notification += 1,
        Seen::Update(judgement) => {
            received.update += 1;
            let inbound = &mut status.inbound;
            inbound.announced += judgement.announced as u64;
            inbound.withdrawn += judgement.withdrawn as u64;
            inbound.discarded += judgement.discarded as u64;
            inbound.as_withdrawn += u64::from(judgement.as_withdrawn);
        }
    }
}
