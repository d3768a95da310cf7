//! Layer 2: answers ARP and Neighbor Discovery for addresses that are on no interface of this node, and tells the
//! segment when they move here.
//!
//! What it is told: this node's part in each address ([`Wanted`], [`Role`]), and what to ask the wire ([`Question`]).
//! What it says: where each one is announced, the node's interfaces, conflicts, faults ([`Report`]); who answers, and who
//! claims an address ([`Note`]). It decides nothing about ownership, and when it is stopped it says nothing on the wire.
//!
//! Read [`seam`] for the types, [`engine`] for how the parts work together. The parts that decide are pure, without
//! sockets, clocks or tasks, and are tested as tables and properties:
//!
//! | module | given | yields |
//! | --- | --- | --- |
//! | [`wire`] | bytes | packets, and back |
//! | [`filter`] | the addresses | the kernel's packet filter |
//! | [`responder`] | a frame | the answer, a conflict, or why neither; who has an address |
//! | [`memory`] | requests that got no answer | those of the last second |
//! | [`question`] | what to ask, the time, who has an address | what to send now, answers |
//! | [`announce`] | what is served, the time | unasked announcements that are due |
//! | [`neighbours`] | who asked, the gateways | whom to tell directly |
//! | [`defence`] | claims of strangers, the time | what to defend |
//! | [`interfaces`] | netlink events | the interfaces, and which of them suit |
//! | [`plan`] | addresses and interfaces | what is served where |
//! | [`groups`] | what is served | multicast groups to be in |
//! | [`outbox`] | reports | the latest of each, for a reader that may be slow |
//!
//! The rest does IO: [`engine`], [`probe`], `netlink`, `io`, `bell`. The only capability needed is `CAP_NET_RAW`.
#![cfg(target_os = "linux")]

pub mod announce;
mod bell;
pub mod counters;
pub mod defence;
pub mod engine;
pub mod filter;
pub mod groups;
pub mod interfaces;
mod io;
pub mod memory;
pub mod neighbours;
mod netlink;
pub mod outbox;
pub mod plan;
pub mod probe;
pub mod question;
pub mod responder;
pub mod seam;
pub mod wire;

pub use counters::{AddressCounts, Counters, Family, KindCounts, Snapshot};
pub use engine::{run, spawn_thread};
pub use interfaces::{InterfaceState, NamePattern};
pub use probe::{Finding, probe};
pub use responder::Reason;
pub use seam::{
    Answer, AnswerKind, Channels, Conflicts, EngineError, Fault, InterfaceChoice, Mac, Manner, Note, Question, Report,
    Role, Settings, Want, Wanted,
};
