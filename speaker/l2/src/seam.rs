//! The types that cross between the speaker and layer 2. Everything here is data; [`crate::engine::run`] takes and
//! gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::interfaces::{InterfaceState, NamePattern};

/// An Ethernet (EUI-48) address.
pub type Mac = [u8; 6];

/// What this node has to do about every address. A new value replaces the old one as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The addresses, each with its interfaces and this node's part in it.
    pub addresses: BTreeMap<IpAddr, Want>,
    /// Addresses of other nodes that are asked for ([`Question`]): their answers are heard, nothing is answered for them.
    pub peers: BTreeSet<IpAddr>,
    /// The MACs of living members. A member that claims an address is no stranger: no conflict, no defence.
    pub members: BTreeSet<Mac>,
}

/// What is wanted of one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Where.
    pub interfaces: InterfaceChoice,
    /// What.
    pub role: Role,
    /// How.
    pub manner: Manner,
}

/// How an address is announced and kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Between two unasked announcements; zero is never, `None` as [`Settings::refresh`] says.
    pub refresh: Option<Duration>,
    /// What is done about other machines that use it.
    pub conflicts: Conflicts,
    /// Only on interfaces with a subnet that contains it.
    pub subnet_check: bool,
}

/// What is done about other machines that use an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflicts {
    /// The segment is asked before the address is announced; then as `Passive`.
    #[default]
    Probe,
    /// A claim that is heard is told, and answered by one announcement.
    Passive,
    /// Nothing.
    Ignore,
}

/// This node's part in an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// The address is here: it is announced, answered with the MAC of the interface, and defended.
    #[default]
    Own,
    /// The owner's kernel lives, the one who answers there does not: questions are answered in its name. By interface of
    /// this node, the owner's MAC on that segment; on an interface that is missing here, this node listens. The answer
    /// carries the owner's MAC inside and the own one as Ethernet source, so that switches learn nothing wrong. Nothing
    /// is announced.
    StandIn(BTreeMap<String, Mac>),
    /// Nothing is answered. Requests are heard and remembered for a second (up to a quarter of a second longer, as nobody is
    /// woken for them); when the role becomes another, the remembered ones are answered before anything else.
    Listen,
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

/// Asks the segments who has these addresses: by ARP request or Neighbor Solicitation on each interface that suits and
/// on which this node has a part in some address. An address must be in [`Wanted::addresses`] or [`Wanted::peers`], or
/// its answer is not heard. Whatever was wanted before the question was sent is in force when it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Stands in every note about it. A question with the id of another one takes its place.
    pub id: u64,
    /// The addresses asked for.
    pub addresses: BTreeSet<IpAddr>,
    /// Where.
    pub interfaces: InterfaceChoice,
    /// How often each is asked, whether it has answered or not.
    pub tries: u32,
    /// Between two tries, and between the last and [`Note::Over`].
    pub gap: Duration,
    /// Asks without an address of its own, as who is about to take the address must (RFC 5227 2.1.1: sender 0.0.0.0;
    /// RFC 4862 5.4.2: source `::`). Otherwise the sender is the interface's own address in the subnet (IPv4) or on the
    /// link (IPv6), and a probe only where it has none.
    pub probe: bool,
}

/// Somebody has an address that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Answer {
    /// [`Question::id`].
    pub question: u64,
    /// The address.
    pub address: IpAddr,
    /// The interface the answer was heard on.
    pub interface: String,
    /// The MAC the address is said to have.
    pub mac: Mac,
    /// Who says so.
    pub is: AnswerKind,
}

/// Who sent an [`Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnswerKind {
    /// The station that has the MAC.
    Itself,
    /// Another one in its name, as a stand-in does ([`Role::StandIn`]): the station that has the MAC did not answer
    /// itself.
    InItsName {
        /// The Ethernet source of the frame.
        by: Mac,
    },
}

/// What the engine hears on the wire for whoever decides about ownership. A note that finds the channel full is dropped
/// and counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The first answer of its kind to a question: any frame whose sender is the address counts.
    Answer(Answer),
    /// The question is over: all tries are sent, a gap has passed since the last, and every frame that had come in by
    /// then was looked at. Answers that come later are told all the same, for [`crate::question::LATE`].
    Over {
        /// [`Question::id`].
        question: u64,
        /// What could not be asked for in any try on any interface that is still there: silence says nothing about these.
        unasked: BTreeSet<IpAddr>,
    },
    /// Another station says that it has one of [`Wanted::addresses`], whatever this node's role in it is.
    Claimed {
        /// The address.
        address: IpAddr,
        /// The interface the claim was heard on.
        interface: String,
        /// The MAC the address is said to have.
        mac: Mac,
    },
}

/// The ends of the channels that the engine holds.
#[derive(Debug)]
pub struct Channels {
    /// In: what is wanted. When the sender is gone, the last value stays in force.
    pub wanted: watch::Receiver<Arc<Wanted>>,
    /// In: what to ask the wire. When all senders are gone, nothing more is asked.
    pub questions: mpsc::Receiver<Question>,
    /// In: what is owned and is to be announced as if it were new. When all senders are gone, nothing more is.
    pub announce: mpsc::Receiver<BTreeSet<IpAddr>>,
    /// Out: what is heard, for whoever decides about ownership.
    pub notes: mpsc::Sender<Note>,
    /// Out: what is done.
    pub reports: mpsc::Sender<Report>,
}

/// What the engine says. Only the latest value of each kind and key waits for a slow reader.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Where an address is announced now. Sent when that changes, and once for each address that comes to be owned.
    Announcing {
        /// The address.
        address: IpAddr,
        /// Names of the interfaces; empty means nowhere: no longer owned, or no suitable interface.
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
    /// The thread that follows the interfaces died; without it the engine would go on with what it knew last.
    #[error("the thread that follows the interfaces died")]
    Follower,
    /// What the engine runs on could not be made.
    #[error("cannot build the layer 2 runtime: {0}")]
    Runtime(#[source] std::io::Error),
    /// The engine cannot wait for its sockets.
    #[error("cannot wait for packet sockets: {0}")]
    Wait(#[source] std::io::Error),
}
