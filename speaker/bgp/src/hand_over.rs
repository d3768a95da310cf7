//! Established sessions between two processes: what the next speaker of a node needs to go on with a connection that
//! this one has, so that the router sees nothing.
//!
//! A session goes on with the settings it was made with and with no others ([`MadeWith`]). What was agreed upon is not
//! handed over: it follows from both OPEN messages, ours from the settings. Times are on the clock of the engine, which
//! goes on in the next process ([`Sessions::clock`]). What is handed over can be read from any bytes: at worst it is no
//! session.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use ferrolb_model::FamilySet;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::adj_rib_out::OwnHops;
use crate::route::Attributes;
use crate::settings::Peer;

/// The longest time that is taken for one: 100 years. What is longer cannot be added up.
const LONGEST: u64 = 100 * 365 * 86_400 * 1_000_000;

/// All sessions of an engine that were established when it ended.
#[derive(Debug, Default)]
pub struct Sessions {
    /// How long the engine had run.
    pub clock: Duration,
    /// By the name of the peer.
    pub by_name: BTreeMap<String, Lent>,
}

/// A session with its connection.
#[derive(Debug)]
pub struct Lent {
    /// The session.
    pub session: Handed,
    /// The connection: a TCP socket, with the options it has.
    pub connection: OwnedFd,
}

/// An established session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handed {
    pub(crate) made_with: MadeWith,
    /// This side opened the connection.
    pub(crate) dialled: bool,
    /// The peer's OPEN message.
    pub(crate) peer_open: Vec<u8>,
    pub(crate) since: Time,
    /// How often the session was established.
    pub(crate) established: u64,
    /// When the hold timer expires.
    pub(crate) hold: Option<Time>,
    /// When the next KEEPALIVE is due.
    pub(crate) keepalive: Option<Time>,
    /// Since when the peer takes nothing in.
    pub(crate) waiting_since: Option<Time>,
    /// The part of a message that has arrived.
    pub(crate) input: Vec<u8>,
    /// What was not sent yet.
    pub(crate) output: Vec<u8>,
    pub(crate) own: OwnHops,
    pub(crate) told: Vec<Told>,
    /// The families whose end of routes was not told, IPv4 and IPv6.
    pub(crate) end_of_rib: (bool, bool),
}

/// What the peer was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// About these prefixes; `None` where it has to be told again.
    pub said: Option<Attributes>,
    /// The prefixes.
    pub prefixes: Vec<Prefix>,
}

/// A prefix, written as a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "&str", into = "String")]
pub struct Prefix(pub IpNet);

impl TryFrom<&str> for Prefix {
    type Error = ipnet::AddrParseError;

    fn try_from(text: &str) -> Result<Prefix, Self::Error> {
        text.parse().map(Prefix)
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> String {
        prefix.0.to_string()
    }
}

/// A time in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time(u64);

impl From<Duration> for Time {
    fn from(time: Duration) -> Time {
        Time(u64::try_from(time.as_micros()).unwrap_or(LONGEST))
    }
}

impl From<Time> for Duration {
    fn from(time: Time) -> Duration {
        Duration::from_micros(time.0.min(LONGEST))
    }
}

/// What of a peer's settings stands in our OPEN message or was fixed with the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MadeWith {
    address: IpAddr,
    interface: Option<String>,
    port: u16,
    local_asn: u32,
    router_id: Ipv4Addr,
    source: Option<IpAddr>,
    vrf: Option<String>,
    /// IPv4 and IPv6.
    families: (bool, bool),
    hold_time: u16,
    /// Whether there is a TCP-MD5 key. The key itself is the socket's.
    signed: bool,
    restart_time: Option<u16>,
}

impl MadeWith {
    pub(crate) fn of(peer: &Peer) -> MadeWith {
        let FamilySet { v4, v6 } = peer.families;
        MadeWith {
            address: peer.address,
            interface: peer.interface.clone(),
            port: peer.port,
            local_asn: peer.local_asn,
            router_id: peer.router_id,
            source: peer.source,
            vrf: peer.vrf.clone(),
            families: (v4, v6),
            hold_time: peer.hold_time,
            signed: peer.password.is_some(),
            restart_time: peer.graceful_restart.map(|offer| offer.restart_time),
        }
    }
}
