//! The types that cross between the speaker and BFD. Everything here is data.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::counters::PathCounters;
use crate::packet::{Diagnostic, State};
use crate::session::{Change, Settings};

/// What is watched, and the name of its session: routers that are reached over the same path share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Path {
    /// The router's address.
    pub peer: IpAddr,
    /// This node's address; `None` leaves it to the kernel's routes.
    pub local: Option<IpAddr>,
    /// The interface packets leave by and have to come in on; needed if the router's address is link-local.
    pub interface: Option<String>,
    /// The VRF device; bound to even if there is an interface, for receiving.
    pub vrf: Option<String>,
    /// Over several hops (RFC 5883) instead of one (RFC 5881).
    pub multi_hop: bool,
}

impl Path {
    /// A path over one hop with nothing else said.
    pub fn new(peer: IpAddr) -> Path {
        Path {
            peer,
            local: None,
            interface: None,
            vrf: None,
            multi_hop: false,
        }
    }

    /// What no socket could do.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        if let Some(local) = self.local
            && local.is_ipv4() != self.peer.is_ipv4()
        {
            let peer = self.peer;
            return Err(Fault::LocalFamily { local, peer });
        }
        match self.peer {
            IpAddr::V6(peer) if peer.is_unicast_link_local() && self.interface.is_none() => {
                Err(Fault::NeedsInterface { peer: self.peer })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.peer)?;
        if let Some(interface) = self.interface.as_ref().or(self.vrf.as_ref()) {
            write!(f, "%{interface}")?;
        }
        if let Some(local) = self.local {
            write!(f, " from {local}")?;
        }
        f.write_str(if self.multi_hop { " over several hops" } else { "" })
    }
}

/// All paths to watch. A new value replaces the old one as a whole. The router of a path that is no longer there is told
/// AdminDown for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Each with how it is watched.
    pub sessions: BTreeMap<Arc<Path>, WantedSession>,
}

/// How a path is watched. Changes apply to the running session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedSession {
    /// Its timers.
    pub settings: Settings,
    /// Over several hops: packets that arrive with a lower TTL or hop limit are dropped. Over one hop it is 255.
    pub minimum_ttl: u8,
    /// The name of the session in packets, for one that is taken over from another process. `None`, which is usual: one
    /// is drawn. Looked at when the session starts.
    pub discriminator: Option<NonZeroU32>,
}

/// How a path fares. Told when a part of it changes; only the latest waits for a slow reader.
#[derive(Clone, Debug)]
pub struct Report {
    /// The path.
    pub path: Arc<Path>,
    /// How it fares.
    pub status: Status,
    /// Its packets, which go on counting.
    pub counters: Arc<PathCounters>,
}

/// The state of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The state.
    pub state: State,
    /// When it was entered.
    pub since: Instant,
    /// The last change of state.
    pub last_change: Option<Change>,
    /// How often the session has come Up.
    pub ups: u64,
    /// How often it has left Up, for whatever reason.
    pub downs: u64,
    /// How often the path has failed ([`Change::is_failure`]). What depends on the path has to be taken down each time
    /// that this has grown, and for nothing else.
    pub failures: u64,
    /// Why this side last left Up.
    pub diagnostic: Diagnostic,
    /// The router's state.
    pub remote_state: State,
    /// Why the router last left Up.
    pub remote_diagnostic: Diagnostic,
    /// This side's name for the session.
    pub discriminator: NonZeroU32,
    /// The router's name for the session, while it is heard.
    pub remote_discriminator: Option<NonZeroU32>,
    /// The interval of packets sent, before jitter.
    pub transmit_interval: Duration,
    /// The silence after which the path has failed.
    pub detection_time: Duration,
    /// What keeps the session from working.
    pub fault: Option<Fault>,
}

/// Something that keeps a session from working; all but the first three are tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The path is impossible.
    #[error("source address {local}: must be of the same family as the peer address {peer}")]
    LocalFamily {
        /// This node's address.
        local: IpAddr,
        /// The router's.
        peer: IpAddr,
    },
    /// A link-local address says nothing without its interface.
    #[error("peer address {peer} is link-local: needs an interface")]
    NeedsInterface {
        /// The router's address.
        peer: IpAddr,
    },
    /// Another session has the discriminator that this one was given.
    #[error("discriminator {value} belongs to another session: another was drawn")]
    Discriminator {
        /// It.
        value: NonZeroU32,
    },
    /// Packets cannot be received.
    #[error("cannot receive on UDP port {port}: {error}")]
    Receive {
        /// The port: 3784, or 4784 over several hops.
        port: u16,
        /// What the kernel said.
        error: String,
    },
    /// The socket to send from cannot be opened.
    #[error("cannot open a socket to {path}: {error}")]
    Open {
        /// The path.
        path: String,
        /// What the kernel said.
        error: String,
    },
    /// The last packet could not be sent.
    #[error("cannot send to {path}: {error}")]
    Send {
        /// The path.
        path: String,
        /// What the kernel said.
        error: String,
    },
}
