//! One session (RFC 5880 section 6.8), without sockets, clocks or random numbers.
//!
//! It is told packets ([`Session::receive`]), settings and the time, and asked for the packets that are due
//! ([`Session::transmit`]) and for the time at which it wants to be asked again ([`Session::next_deadline`]). Every pair
//! of state and event has an answer. `now` is the time since any fixed moment and never goes back.
//!
//! Timers (sections 6.8.2 to 6.8.4, 6.8.7):
//! - Packets leave every max(own desired, router's required) interval, less 0 to 25 % (10 to 25 % with multiplier 1).
//!   The moment of the next packet follows from the last one each time it is asked for, so an interval that becomes
//!   shorter takes effect on the packet already planned.
//! - Until the session is Up the own desired interval is at least a second.
//! - The path has failed when nothing was heard for router's multiplier x max(own required, router's desired).
//! - A change while Up is told by a poll sequence. An interval that gets longer for sending, or shorter for receiving,
//!   takes effect when the router has answered; the opposite is safe at once. Not Up, there is nothing to protect:
//!   every packet carries the values, and they are in force.
//! - What a packet says about the state has changed: it is sent at once, out of turn. So is the answer to a poll.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use ferrolb_model::BfdProfile;
use serde::{Deserialize, Serialize};

use crate::hand_over::micros;
use crate::packet::{Diagnostic, Repr, State};

/// The least interval of packets while the session is not Up (RFC 5880 section 6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// How a session behaves. Every change applies to a running session without a flap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The shortest time between packets that this side takes in.
    #[serde(with = "micros")]
    pub receive: Duration,
    /// The shortest time between packets that this side wants to send.
    #[serde(with = "micros")]
    pub transmit: Duration,
    /// Packets of this side that the router may miss in a row; 0 counts as 1.
    pub multiplier: u8,
    /// Send nothing before the router has been heard.
    pub passive: bool,
}

impl From<&BfdProfile> for Settings {
    fn from(profile: &BfdProfile) -> Settings {
        Settings {
            receive: profile.receive_interval,
            transmit: profile.transmit_interval,
            multiplier: profile.detect_multiplier,
            passive: profile.passive,
        }
    }
}

/// Why a session changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The router is heard, or says that it hears this side.
    Heard,
    /// Nothing was heard for the detection time.
    Expired,
    /// The router says that the session is down.
    NeighborDown,
    /// The router's session was taken down by hand.
    NeighborAdminDown,
    /// This side's session was taken down, or back, by hand.
    Administrative,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Heard => "heard from the router",
            Cause::Expired => "detection time expired",
            Cause::NeighborDown => "the router signaled session down",
            Cause::NeighborAdminDown => "taken down by hand on the router",
            Cause::Administrative => "taken down or back by hand on this node",
        })
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The state before.
    pub from: State,
    /// The state now.
    pub to: State,
    /// Why.
    pub cause: Cause,
}

impl Change {
    /// Has the path failed? A session that was never Up has not, nor one that was taken down by hand (RFC 5882
    /// section 3.2).
    pub fn is_failure(&self) -> bool {
        self.from == State::Up && matches!(self.cause, Cause::Expired | Cause::NeighborDown)
    }
}

/// What the router said last (RFC 5880 section 6.8.1, the variables that begin with "Remote").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// Its name for the session; `None` while it is not heard.
    pub discriminator: Option<NonZeroU32>,
    /// Its state.
    pub state: State,
    /// Its diagnostic.
    pub diagnostic: Diagnostic,
    /// Its packets that this side may miss in a row.
    pub multiplier: u8,
    /// The interval it wants to send in.
    #[serde(with = "micros")]
    pub desired_transmit: Duration,
    /// The interval it can take in; zero asks for silence.
    #[serde(with = "micros")]
    pub required_receive: Duration,
    demand: bool,
}

impl Remote {
    const UNKNOWN: Remote = Remote {
        discriminator: None,
        state: State::Down,
        diagnostic: Diagnostic::NONE,
        multiplier: 1,
        desired_transmit: SLOW,
        required_receive: Duration::from_micros(1),
        demand: false,
    };
}

/// How far a poll sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Poll {
    None,
    /// No packet with P has told the values yet, so nothing that arrives is an answer: an F belongs to a former sequence.
    Due,
    /// Packets have P until one with F arrives.
    Running,
    /// The same, but something has changed since: the answer may not be about that, so another sequence follows.
    Again,
}

/// See the module.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Session {
    discriminator: NonZeroU32,
    settings: Settings,
    state: State,
    diagnostic: Diagnostic,
    remote: Remote,
    poll: Poll,
    /// The desired interval in force for sending; behind the one in packets while a poll sequence runs.
    #[serde(with = "micros")]
    transmit_in_force: Duration,
    /// The required interval in force for detection; the same.
    #[serde(with = "micros")]
    receive_in_force: Duration,
    #[serde(with = "micros")]
    last_received: Duration,
    #[serde(with = "micros::option")]
    last_sent: Option<Duration>,
    /// Drawn for each packet: how early the next one is.
    jitter: u32,
    /// A packet is due out of turn because the state has changed.
    urgent: bool,
    /// An answer to a poll is due.
    final_due: bool,
}

impl Session {
    /// A session that is Down. The discriminator is its name in this node's packets: unique on the node, and hard to
    /// guess.
    pub fn new(discriminator: NonZeroU32, settings: Settings) -> Session {
        let mut session = Session {
            discriminator,
            settings,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            remote: Remote::UNKNOWN,
            poll: Poll::None,
            transmit_in_force: SLOW,
            receive_in_force: settings.receive,
            last_received: Duration::ZERO,
            last_sent: None,
            jitter: 0,
            urgent: false,
            final_due: false,
        };
        session.values_changed();
        session
    }

    /// This side's name for the session.
    pub fn discriminator(&self) -> NonZeroU32 {
        self.discriminator
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why the session last left Up.
    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// What the router said last.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// The interval in which this side sends now, before jitter.
    pub fn transmit_interval(&self) -> Duration {
        self.transmit_in_force.max(self.remote.required_receive)
    }

    /// After so long a silence of the router its path has failed.
    pub fn detection_time(&self) -> Duration {
        let interval = self.receive_in_force.max(self.remote.desired_transmit);
        interval * u32::from(self.remote.multiplier)
    }

    /// Applies other settings. Nothing flaps; see the module for when they take effect.
    pub fn set(&mut self, settings: Settings) {
        let before = (self.desired_transmit(), self.settings.receive);
        self.settings = settings;
        if (self.desired_transmit(), settings.receive) != before {
            self.values_changed();
        }
    }

    /// Takes the session down by hand, which routers are told until it is taken back or thrown away.
    pub fn disable(&mut self) -> Option<Change> {
        self.enter(
            State::AdminDown,
            Cause::Administrative,
            Diagnostic::ADMINISTRATIVELY_DOWN,
        )
    }

    /// Takes a session back that was taken down by hand.
    pub fn enable(&mut self) -> Option<Change> {
        let disabled = self.state == State::AdminDown;
        disabled
            .then(|| self.enter(State::Down, Cause::Administrative, Diagnostic::NONE))
            .flatten()
    }

    /// A packet that belongs to this session and obeys the rules of [`Repr`] (RFC 5880 section 6.8.6).
    pub fn receive(&mut self, now: Duration, packet: &Repr) -> Option<Change> {
        self.remote = Remote {
            discriminator: Some(packet.my_discriminator),
            state: packet.state,
            diagnostic: packet.diagnostic,
            multiplier: packet.multiplier,
            desired_transmit: Duration::from_micros(packet.desired_transmit.into()),
            required_receive: Duration::from_micros(packet.required_receive.into()),
            demand: packet.demand,
        };
        self.last_received = now;
        if packet.r#final {
            self.poll_answered();
        }
        if self.state == State::AdminDown {
            return None;
        }
        self.final_due |= packet.poll;
        match (packet.state, self.state) {
            (State::AdminDown, State::Init | State::Up) => {
                self.enter(State::Down, Cause::NeighborAdminDown, Diagnostic::NEIGHBOR_DOWN)
            }
            (State::Down, State::Down) => self.enter(State::Init, Cause::Heard, self.diagnostic),
            (State::Init, State::Down) | (State::Init | State::Up, State::Init) => {
                self.enter(State::Up, Cause::Heard, Diagnostic::NONE)
            }
            (State::Down, State::Up) => self.enter(State::Down, Cause::NeighborDown, Diagnostic::NEIGHBOR_DOWN),
            _ => None,
        }
    }

    /// Looks at the detection time. Call it only with a `now` before which everything that arrived has been given to
    /// [`Session::receive`].
    pub fn tick(&mut self, now: Duration) -> Option<Change> {
        if self.expires_at().is_none_or(|at| now < at) {
            return None;
        }
        self.remote = Remote::UNKNOWN;
        match self.state {
            State::Init | State::Up => self.enter(State::Down, Cause::Expired, Diagnostic::EXPIRED),
            State::AdminDown | State::Down => None,
        }
    }

    /// The next packet that is due, if any; ask until there is none. `jitter` is random, over its whole range.
    pub fn transmit(&mut self, now: Duration, jitter: u32) -> Option<Repr> {
        let answer = self.final_due;
        if !answer && self.sends_at().is_none_or(|at| now < at) {
            return None;
        }
        self.final_due = false;
        self.urgent = false;
        self.last_sent = Some(now);
        self.jitter = jitter;
        // A packet has never both.
        let poll = !answer && self.poll != Poll::None;
        if poll && self.poll == Poll::Due {
            self.poll = Poll::Running;
        }
        Some(Repr {
            diagnostic: self.diagnostic,
            state: self.state,
            poll,
            r#final: answer,
            independent: false,
            demand: false,
            multiplier: self.settings.multiplier.max(1),
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator.map_or(0, NonZeroU32::get),
            desired_transmit: microseconds(self.desired_transmit()),
            required_receive: microseconds(self.settings.receive),
            required_echo: 0,
        })
    }

    /// When [`Session::transmit`] or [`Session::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Duration> {
        let at_once = self.final_due.then_some(Duration::ZERO);
        at_once
            .into_iter()
            .chain(self.sends_at())
            .chain(self.expires_at())
            .min()
    }

    /// When silence since the last packet means that the router is gone. `None` once that is known.
    pub fn expires_at(&self) -> Option<Duration> {
        let heard = self.remote.discriminator.is_some();
        heard.then(|| self.last_received + self.detection_time())
    }

    /// When the next packet is due (RFC 5880 section 6.8.7); `None` if this side is to be silent.
    fn sends_at(&self) -> Option<Duration> {
        let remote = &self.remote;
        let waits = self.settings.passive && remote.discriminator.is_none();
        let demanded = remote.demand && self.state == State::Up && remote.state == State::Up;
        if waits || remote.required_receive.is_zero() || demanded && self.poll == Poll::None && !self.urgent {
            return None;
        }
        let Some(last) = self.last_sent.filter(|_| !self.urgent) else {
            return Some(Duration::ZERO);
        };
        let most = if self.settings.multiplier <= 1 { 0.90 } else { 1.0 };
        let share = most - (most - 0.75) * f64::from(self.jitter) / f64::from(u32::MAX);
        Some(last + self.transmit_interval().mul_f64(share))
    }

    /// The desired interval that packets tell.
    fn desired_transmit(&self) -> Duration {
        match self.state {
            State::Up => self.settings.transmit,
            _ => self.settings.transmit.max(SLOW),
        }
    }

    /// What packets tell about intervals is not what they told before.
    fn values_changed(&mut self) {
        let (transmit, receive) = (self.desired_transmit(), self.settings.receive);
        if self.state == State::Up {
            self.transmit_in_force = self.transmit_in_force.min(transmit);
            self.receive_in_force = self.receive_in_force.max(receive);
            self.poll = match self.poll {
                Poll::None | Poll::Due => Poll::Due,
                Poll::Running | Poll::Again => Poll::Again,
            };
        } else {
            self.transmit_in_force = transmit;
            self.receive_in_force = receive;
            self.poll = Poll::None;
        }
    }

    fn poll_answered(&mut self) {
        match self.poll {
            Poll::None | Poll::Due => {}
            Poll::Again => self.poll = Poll::Due,
            Poll::Running => {
                self.poll = Poll::None;
                self.transmit_in_force = self.desired_transmit();
                self.receive_in_force = self.settings.receive;
            }
        }
    }

    fn enter(&mut self, to: State, cause: Cause, diagnostic: Diagnostic) -> Option<Change> {
        let from = std::mem::replace(&mut self.state, to);
        self.diagnostic = diagnostic;
        if from == to {
            return None;
        }
        self.urgent = true;
        if from == State::Up || to == State::Up && self.settings.transmit < SLOW {
            self.values_changed();
        }
        Some(Change { from, to, cause })
    }
}

/// Intervals come from a profile and are far smaller than what a packet can tell.
fn microseconds(interval: Duration) -> u32 {
    u32::try_from(interval.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod pair;
#[cfg(test)]
mod tests;
