//! BGP: sessions with routers and what they are told, without Kubernetes and without a routing daemon beside us.
//!
//! What it is told: the peers this node has and the routes each of them shall hold ([`engine::Wanted`]). What it
//! says: how each session fares ([`status::Status`]). It is level-triggered: whatever was wanted, refused or lost
//! before, once it is quiet every peer holds exactly the routes that are wanted for it. It learns nothing: routes
//! that peers send are checked, counted and dropped.
//!
//! Read [`settings`] and [`route`] for the words, [`session`] for what happens on one session, [`engine`] for how the
//! parts run together. The parts that decide are pure, with the time as an argument:
//!
//! | module | given | yields |
//! | --- | --- | --- |
//! | [`settings`] | two settings of a peer | what changed, and whether that resets the session |
//! | [`route`] | routes wanted by several | one route per prefix |
//! | [`adj_rib_out`] | the routes wanted, what the peer was told | the fewest UPDATE messages between the two |
//! | [`hand_over`] | a session | what another process needs to go on with it |
//! | [`session`] | connections, bytes, the time, wishes | bytes, connections to make and to close, a status |
//! | [`discovery::link`] | Router Advertisements, the time | who the router on a link is, what to send |
//! | [`proto`] | bytes and events | messages and the RFC 4271 state machine; the only module that names the pinned crates |
//!
//! The rest does IO: [`engine`], [`mod@discovery`] and `transport`. Nothing needs a capability but discovery and binding to a
//! device on kernels before 5.7 (`CAP_NET_RAW`), and listening on a port below 1024 (`CAP_NET_BIND_SERVICE`).
//!
//! One session is one task with one [`session::Session`]. The task owns at most two connections: the one it dialled
//! and, where listening is allowed, the one it accepted (RFC 4271 section 6.8). Messages are made when there is room
//! to send them, so a peer that does not read costs one buffer and, after a while, its session (RFC 9687).
#![cfg(target_os = "linux")]

pub mod adj_rib_out;
pub mod discovery;
pub mod engine;
pub mod hand_over;
pub mod proto;
pub mod route;
pub mod session;
pub mod settings;
pub mod status;
mod transport;

pub use engine::{Phase, Wanted, WantedPeer, run, spawn_thread};
pub use hand_over::{Handed, Lent, Sessions};
pub use route::{Attributes, Community, ExtendedCommunity, LargeCommunity, NextHop, Routes};
pub use settings::{Password, Peer, RemoteAsn};
pub use status::{State, Status};
