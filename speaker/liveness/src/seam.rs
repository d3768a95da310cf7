//! The types that cross between the speaker, the guard and layer 2. Everything here is data.
//!
//! Layer 2 has types of the same names; they are written down here again, because who decides must not depend on who
//! holds the sockets. The program converts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::keyring::Keyring;

/// An Ethernet (EUI-48) address.
pub type Mac = [u8; 6];

/// All that the speaker's core knows about the addresses this node has a part in. A new value replaces the old one as a
/// whole.
#[derive(Clone, Debug, Default)]
pub struct Duties {
    /// This node.
    pub node: Arc<str>,
    /// Names this run of the process: greater than that of every run before it on this node. Nanoseconds of the wall
    /// clock at the start, or one more than the last known value if the clock went back.
    pub boot: u64,
    /// What datagrams are signed and checked with.
    pub keys: Keyring,
    /// Every node named in a placement below, with its addresses. Whoever is missing here cannot be talked to.
    pub peers: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
    /// The addresses this node owns or stands by for, and those it has handed over not long ago. One that is missing
    /// here is let go at once.
    pub addresses: BTreeMap<IpAddr, Arc<Duty>>,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duty {
    /// The uid of the object the placement stands in. Epochs begin anew with another one.
    pub object: Arc<str>,
    /// As it stands in the API. A placement that is older than what the guard knows from the wire changes nothing.
    pub placement: Placement,
    /// Who owned the address before, if that is known: it is told that the new owner is in place.
    pub previous_owner: Option<Arc<str>>,
    /// Where it is announced.
    pub interfaces: InterfaceChoice,
    /// This node could serve the address. If not, it neither begins to own it nor takes it over; an owner that loses
    /// this keeps answering until the address has been placed elsewhere.
    pub may_announce: bool,
    /// How fast, how long.
    pub timing: Timing,
    /// How it is announced.
    pub manner: Manner,
}

impl Duty {
    /// May the address be announced on this interface?
    pub fn announces_on(&self, link: &Link, address: IpAddr) -> bool {
        let subnet = || link.addresses.iter().any(|net| net.contains(&address));
        self.interfaces.has(&link.interface) && (!self.manner.subnet_check || subnet())
    }
}

/// Who owns an address and who stands by, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The owner.
    pub owner: Arc<str>,
    /// Who takes over, first to last.
    pub standbys: Vec<Arc<str>>,
    /// Grows by one with each change of owner.
    pub epoch: u64,
}

impl Placement {
    /// What decides between two claims: the greater one wins, everywhere.
    pub fn order(&self) -> (u64, &str) {
        (self.epoch, &self.owner)
    }

    /// Place of a node among the standbys, 0 for the first.
    pub fn rank(&self, node: &str) -> Option<usize> {
        self.standbys.iter().position(|standby| **standby == *node)
    }

    /// The owner and all standbys.
    pub fn members(&self) -> impl Iterator<Item = &Arc<str>> {
        std::iter::once(&self.owner).chain(&self.standbys)
    }

    /// The placement after another node has taken the address: the standbys that remain, in their order, then the old
    /// owner, which may come back.
    pub fn taken_by(&self, node: &Arc<str>, epoch: u64) -> Placement {
        let others = self.standbys.iter().chain([&self.owner]);
        let standbys = others.filter(|other| *other != node).cloned().collect();
        Placement {
            owner: Arc::clone(node),
            standbys,
            epoch,
        }
    }
}

/// How a failure of an owner is noticed and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats.
    pub interval: Duration,
    /// Heartbeats that may be missed in a row; 0 counts as 1.
    pub multiplier: u8,
    /// How long the address stays with an owner whose node lives while its speaker does not.
    pub grace: Duration,
    /// Answer in the owner's name meanwhile. Not where the network drops ARP replies whose sender is somebody else.
    pub answer_for_owner: bool,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            interval: Duration::from_millis(50),
            multiplier: 2,
            grace: Duration::from_secs(10),
            answer_for_owner: true,
        }
    }
}

/// What the guard has to know about its own node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ground {
    /// Layer 2 works: what is owned is answered. Without it nobody is suspected, and peers are told.
    pub answering: bool,
    /// The interfaces that may be announced on and have a carrier.
    pub links: Vec<Link>,
}

/// An interface of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub interface: String,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses with their prefix lengths.
    pub addresses: BTreeSet<IpNet>,
}

/// Which interfaces an address may be announced on.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum InterfaceChoice {
    /// Every suitable one.
    #[default]
    All,
    /// Only these, by name.
    Named(BTreeSet<String>),
}

impl InterfaceChoice {
    /// Is it one of them?
    pub fn has(&self, interface: &str) -> bool {
        match self {
            InterfaceChoice::All => true,
            InterfaceChoice::Named(names) => names.contains(interface),
        }
    }

    /// The interfaces of either.
    pub fn or(self, other: &InterfaceChoice) -> InterfaceChoice {
        match (self, other) {
            (InterfaceChoice::Named(mut names), InterfaceChoice::Named(more)) => {
                names.extend(more.iter().cloned());
                InterfaceChoice::Named(names)
            }
            _ => InterfaceChoice::All,
        }
    }
}

/// What layer 2 has to do. A new value replaces the old one as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The addresses, each with this node's part in it.
    pub addresses: BTreeMap<IpAddr, Want>,
    /// Addresses of other nodes that may be asked for: never answered for, but answers about them are heard.
    pub peers: BTreeSet<IpAddr>,
    /// MACs of the other members: a claim of theirs is not a stranger's.
    pub members: BTreeSet<Mac>,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Where.
    pub interfaces: InterfaceChoice,
    /// What to do there.
    pub role: Role,
    /// How.
    pub manner: Manner,
}

/// How an address is announced and kept. The guard hands it on to layer 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Between two unasked announcements; zero is never, `None` what layer 2 was told at its start.
    pub refresh: Option<Duration>,
    /// What is done about other machines that use it.
    pub conflicts: Conflicts,
    /// It is announced only where a subnet contains it.
    pub subnet_check: bool,
}

/// What is done about other machines that use an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflicts {
    /// The segment is asked before the address is announced; then as `Passive`.
    #[default]
    Probe,
    /// A claim that is heard is told and answered.
    Passive,
    /// Nothing.
    Ignore,
}

/// This node's part in an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Announce it, and answer with the own MAC.
    Own,
    /// Answer in the owner's name, with its MAC: by name of this node's interface.
    StandIn(BTreeMap<String, Mac>),
    /// Answer nothing, be ready.
    Listen,
}

/// Asks the wire who has these addresses. [`Note::Over`] ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Comes back in the answers.
    pub id: u64,
    /// All of them stand in [`Wanted::addresses`] or [`Wanted::peers`].
    pub addresses: BTreeSet<IpAddr>,
    /// Where.
    pub interfaces: InterfaceChoice,
    /// How often each is asked.
    pub tries: u32,
    /// Between two tries.
    pub gap: Duration,
}

/// What layer 2 has heard. Notes may be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Somebody has an address that was asked for.
    Answer {
        /// [`Question::id`].
        question: u64,
        /// The address.
        address: IpAddr,
        /// The interface it was heard on.
        interface: String,
        /// The MAC it is said to have.
        mac: Mac,
        /// Another station said so: nothing is known about the one that has the MAC.
        in_its_name: bool,
    },
    /// The question is over: all has been asked as often as it was to be, and every frame that had come in by then was
    /// looked at.
    Over {
        /// [`Question::id`].
        question: u64,
        /// What could not be asked for on any interface.
        unasked: BTreeSet<IpAddr>,
    },
    /// Another station says that it has an address this node has a part in.
    Claimed {
        /// The address.
        address: IpAddr,
        /// The interface it was heard on.
        interface: String,
        /// The MAC it is said to have.
        mac: Mac,
    },
}

/// What happens to the guard.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// The core has news.
    Duties(Arc<Duties>),
    /// The own interfaces, or layer 2, have changed.
    Ground(Arc<Ground>),
    /// Bytes from the network.
    Datagram {
        /// Where they came from.
        from: IpAddr,
        /// All of them.
        bytes: &'a [u8],
        /// When they arrived: earlier than now where this process has stood still.
        at: Duration,
    },
    /// From layer 2.
    Note(Note),
    /// A question could not be handed to layer 2.
    NotAsked {
        /// [`Question::id`].
        question: u64,
    },
    /// The process shall end (SIGTERM): ask the standbys to answer in this node's name. [`Effect::Leave`] follows.
    Goodbye,
    /// Time has passed. All that had arrived by then has to be given first.
    Tick,
}

/// What the guard wants done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send a datagram to the liveness port of this address.
    Send {
        /// Where to.
        to: IpAddr,
        /// All of it.
        bytes: Vec<u8>,
    },
    /// Tell layer 2 what to do.
    Wanted(Arc<Wanted>),
    /// Let layer 2 ask the wire.
    Ask(Question),
    /// Let layer 2 announce addresses that are owned once more: another node has answered for them until now.
    Announce(BTreeSet<IpAddr>),
    /// Tell the core.
    Outcome(Outcome),
    /// The standbys answer, or will not: the process may end.
    Leave,
}

/// What has become of it all, for the API, events and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This node has taken an address. To be written into the API.
    TookOver {
        /// The address.
        address: IpAddr,
        /// What this node goes by from now on.
        placement: Placement,
        /// The owner until now.
        from: Arc<str>,
        /// Why.
        reason: Takeover,
        /// Since the owner was last heard.
        after: Duration,
    },
    /// This node answers in an owner's name.
    StandingIn {
        /// The owner.
        owner: Arc<str>,
        /// For these addresses.
        addresses: BTreeSet<IpAddr>,
    },
    /// It no longer does.
    StoodDown {
        /// The owner.
        owner: Arc<str>,
    },
    /// Another node has a better claim to an address that this node owned; the placement is the one to write.
    Yielded {
        /// The address.
        address: IpAddr,
        /// What this node goes by from now on.
        placement: Placement,
    },
    /// A planned move away from this node is complete: the new owner answers.
    HandedOver {
        /// The address.
        address: IpAddr,
        /// The new owner.
        to: Arc<str>,
        /// Nobody has confirmed it: the time allowed is over.
        unconfirmed: bool,
    },
    /// What is thought of another node has changed.
    Peer {
        /// The node.
        node: Arc<str>,
        /// What is thought of it.
        state: PeerState,
    },
}

/// Why an address was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Takeover {
    /// The owner's kernel answers no more.
    NodeGone,
    /// The owner's node lives, but its speaker has been silent for the grace time.
    GraceOver,
    /// The owner has lost the interfaces that it answered on, and says so itself.
    OwnerUnable,
}

impl Takeover {
    /// Stable, for events and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Takeover::NodeGone => "NodeGone",
            Takeover::GraceOver => "GraceOver",
            Takeover::OwnerUnable => "OwnerUnable",
        }
    }
}

/// What is thought of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerState {
    /// Not heard since it became of interest.
    Unheard,
    /// Its heartbeats come.
    Alive,
    /// Silent; the wire is being asked.
    Suspect,
    /// Silent, but it, or somebody, answers for its addresses: heartbeats are lost.
    StillAnswers,
    /// Silent here, while another node hears it: the path between the two is broken.
    HeardByOthers,
    /// Silent, or about to restart: its kernel answers and its speaker does not.
    SpeakerSilent,
    /// Silent, and its kernel with it.
    Gone,
}

impl PeerState {
    /// All of them.
    pub const ALL: [PeerState; 7] = [
        PeerState::Unheard,
        PeerState::Alive,
        PeerState::Suspect,
        PeerState::StillAnswers,
        PeerState::HeardByOthers,
        PeerState::SpeakerSilent,
        PeerState::Gone,
    ];

    /// Stable, for events and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            PeerState::Unheard => "Unheard",
            PeerState::Alive => "Alive",
            PeerState::Suspect => "Suspect",
            PeerState::StillAnswers => "OwnerStillAnswers",
            PeerState::HeardByOthers => "OwnerHeardByOthers",
            PeerState::SpeakerSilent => "SpeakerSilent",
            PeerState::Gone => "NodeGone",
        }
    }
}
