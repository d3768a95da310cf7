//! The types that cross between the speaker and layer 2. Everything here is data; [`crate::engine::run`] takes and
//! gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::interfaces::{InterfaceState, NamePattern};

/// An Ethernet (EUI-48) address.
pub type Mac = [u8; 6];

/// All addresses this node has to answer for. A new value replaces the old one as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The addresses, each with the interfaces it may be announced on.
    pub addresses: BTreeMap<IpAddr, InterfaceChoice>,
}

/// Which interfaces an address may be announced on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum InterfaceChoice {
    /// Every suitable interface whose name is not excluded ([`Settings::exclude`]).
    #[default]
    All,
    /// Only these, by name; the exclusion list does not apply to a name that was asked for.
    Named(BTreeSet<String>),
}

/// What stays fixed while the engine runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often an address is announced again after the first burst; zero means never.
    pub refresh: Duration,
    /// Interfaces that are not used unless named ([`InterfaceChoice::Named`]).
    pub exclude: Vec<NamePattern>,
    /// Seed of the jitter of the refresh. Give every node another one, so that nodes do not refresh in step.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            refresh: Duration::from_secs(60),
            exclude: NamePattern::defaults(),
            seed: 0,
        }
    }
}

/// What the engine says. Only the latest value of each kind and key waits for a slow reader.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Where an address is answered for now. Sent when that changes, and once for each address that becomes wanted.
    Announcing {
        /// The address.
        address: IpAddr,
        /// Names of the interfaces; empty means nowhere: no longer wanted, or no suitable interface.
        interfaces: BTreeSet<String>,
    },
    /// All interfaces of the node, ordered by index. Sent when anything about them changes.
    Interfaces(Vec<InterfaceState>),
    /// Somebody else claims an address that is announced here. Repeated for the same claimant at most every 10 s.
    Conflict {
        /// The address.
        address: IpAddr,
        /// The interface the claim was heard on.
        interface: String,
        /// The claimant.
        mac: Mac,
    },
    /// All that does not work as it should now; the engine carries on with the rest and tries again. Sent on change.
    Faults(BTreeSet<Fault>),
}

/// Something that does not work but does not end the engine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Fault {
    /// A packet socket could not be opened: addresses are not announced on that interface.
    #[error("cannot open the {family} packet socket on interface {interface}: {error}")]
    Socket {
        /// The interface's name.
        interface: String,
        /// `ARP` or `NDP`.
        family: &'static str,
        /// What the kernel said.
        error: String,
    },
    /// The set of addresses does not fit into a kernel filter: all ARP, or all Neighbor Discovery, of this interface
    /// wakes the speaker and is sorted out there. Correct, but it costs processor time.
    #[error(
        "too many scattered addresses for the {family} kernel filter on interface {interface}: filtering in user space"
    )]
    Filter {
        /// The interface's name.
        interface: String,
        /// `ARP` or `NDP`.
        family: &'static str,
    },
    /// A solicited-node group could not be joined: neighbours may fail to resolve the addresses of that group.
    #[error("cannot join {group} on interface {interface}: {error}")]
    Group {
        /// The interface's name.
        interface: String,
        /// The group.
        group: Ipv6Addr,
        /// What the kernel said.
        error: String,
    },
    /// The interfaces could not be read; what was known before stays in use.
    #[error("cannot read the interfaces over netlink: {error}")]
    Netlink {
        /// What the kernel said.
        error: String,
    },
}

/// What ends the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Packet sockets cannot be opened at all.
    #[error("cannot open packet sockets (is CAP_NET_RAW there?): {0}")]
    PacketSocket(#[source] std::io::Error),
    /// The interfaces cannot be read at start.
    #[error("cannot read the interfaces over netlink: {0}")]
    Netlink(#[source] std::io::Error),
    /// The task that follows the interfaces died; without it the engine would go on with what it knew last.
    #[error("the task that follows the interfaces died")]
    Follower,
    /// The engine's own runtime could not be built.
    #[error("cannot build the layer 2 runtime: {0}")]
    Runtime(#[source] std::io::Error),
}
