//! How a session fares, for people and metrics. Plain data; times are durations since the engine's start.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::adj_rib_out::Refusal;
use crate::proto::{Negotiated, Notification};
use crate::settings::{Field, SettingsError};

/// The states of RFC 4271 section 8.2.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Waits after an error before it does anything.
    #[default]
    Idle,
    /// Connects.
    Connect,
    /// Waits to connect again, or to be connected to.
    Active,
    /// Our OPEN is sent.
    OpenSent,
    /// Both OPEN messages are exchanged.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl State {
    /// The name as in RFC 4271.
    pub fn name(self) -> &'static str {
        match self {
            State::Idle => "Idle",
            State::Connect => "Connect",
            State::Active => "Active",
            State::OpenSent => "OpenSent",
            State::OpenConfirm => "OpenConfirm",
            State::Established => "Established",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Messages by type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each names the message it counts")]
pub struct Messages {
    pub open: u64,
    pub update: u64,
    pub notification: u64,
    pub keepalive: u64,
    pub refresh: u64,
}

impl Messages {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.open + self.update + self.notification + self.keepalive + self.refresh
    }
}

/// What became of routes that the peer sent. None is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inbound {
    /// Prefixes announced.
    pub announced: u64,
    /// Prefixes withdrawn.
    pub withdrawn: u64,
    /// UPDATE messages whose routes count as withdrawn, for an attribute was wrong (RFC 7606).
    pub as_withdrawn: u64,
    /// Attributes discarded (RFC 7606).
    pub discarded: u64,
}

/// One session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The state.
    pub state: State,
    /// Since when it is in this state.
    pub since: Duration,
    /// How often it was established.
    pub established: u64,
    /// What was agreed upon; only while established.
    pub negotiated: Option<Negotiated>,
    /// Our address; only while established.
    pub local: Option<IpAddr>,
    /// How many routes the peer shall hold.
    pub wanted: usize,
    /// How many it was told.
    pub told: usize,
    /// How many are not sent, by reason.
    pub refused: BTreeMap<Refusal, usize>,
    /// Messages sent.
    pub sent: Messages,
    /// Messages received.
    pub received: Messages,
    /// Routes received.
    pub inbound: Inbound,
    /// What went wrong last, and when.
    pub last_error: Option<(Duration, Fault)>,
}

impl Status {
    /// Whether the session is one that was established by another process.
    pub fn is_adopted(&self) -> bool {
        self.state == State::Established && self.sent.open == 0
    }
}

/// Why a session is not up, or went down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The connection could not be made.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// Nobody answered.
    #[error("cannot connect: no answer")]
    ConnectTimeout,
    /// The connection ended without a NOTIFICATION.
    #[error("connection lost in state {0}: {1}")]
    Lost(State, String),
    /// The peer was told why.
    #[error("sent NOTIFICATION: {0}")]
    Sent(Notification),
    /// The peer told why.
    #[error("received NOTIFICATION: {0}")]
    Received(Notification),
    /// The peer took nothing in for too long (RFC 9687).
    #[error("peer does not read: nothing could be sent for {} s", .0.as_secs())]
    SendHold(Duration),
    /// Settings changed that take a new session.
    #[error("settings changed: {0:?}")]
    Reconfigured(Vec<Field>),
    /// The settings cannot be used; those before stay in force, if there were any.
    #[error("settings: {0}")]
    Settings(SettingsError),
    /// Connections of the peer cannot be accepted.
    #[error("{0}")]
    Listen(String),
    /// The peer opened another connection while it had one: it restarted (RFC 4724 section 5).
    #[error("replaced by another connection of the peer")]
    Replaced,
}
