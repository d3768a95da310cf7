//! Who answers for an address: heartbeats between the speakers that share it, and what is done when they stop.
//!
//! What it is told: the addresses this node owns or stands by for, and by whom else ([`Duties`]), its own interfaces
//! ([`Ground`]), what layer 2 hears ([`Note`]). What it says: what layer 2 has to do ([`Wanted`]) and to ask
//! ([`Question`]), and what has become of it ([`Outcome`]). It needs no API server to decide. The protocol and why it is
//! safe: [ARCHITECTURE.md](../../../ARCHITECTURE.md#the-ownership-protocol); why it is as it is:
//! [ADR 11](../../../docs/adr/0011-ownership-protocol.md).
//!
//! Read [`seam`] for the types, [`guard`] for the machine. All that decides is pure; `now` is the time since any fixed
//! moment and never goes back.
//!
//! | module | given | yields |
//! | --- | --- | --- |
//! | [`wire`] | bytes | datagrams, and back |
//! | [`keyring`] | secrets | signatures |
//! | [`replay`] | boot and sequence of a datagram | whether it is new |
//! | [`peer`] | heartbeats, the time | when the next one is due, who is silent |
//! | [`claims`] | placements, claims | who owns an address, who has to be told |
//! | [`suspicion`] | answers from the wire | what has become of a silent owner |
//! | [`guard`] | all of it | all of it |
//!
//! [`shell`] is the thread with the sockets.
#![cfg(target_os = "linux")]

pub mod claims;
pub mod counters;
pub mod guard;
pub mod keyring;
pub mod peer;
pub mod replay;
pub mod seam;
pub mod shell;
pub mod suspicion;
pub mod wire;

pub use counters::{Counters, Dropped};
pub use guard::Guard;
pub use keyring::Keyring;
pub use seam::{
    Conflicts, Duties, Duty, Effect, Ground, Input, InterfaceChoice, Link, Mac, Manner, Note, Outcome, PeerState,
    Placement, Question, Role, Takeover, Timing, Want, Wanted,
};
pub use shell::{Channels, Lent, PORT, Settings, ShellError, run, spawn_thread};
