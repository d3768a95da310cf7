//! Bidirectional Forwarding Detection (RFC 5880) over one hop (RFC 5881) and several (RFC 5883): tells within some
//! packets whether the way to a router still works.
//!
//! What it is told: the paths to watch ([`Wanted`]). What it says: how each of them fares ([`Report`]). Only
//! [`Status::failures`] speaks about a path that failed; a router that takes its session down by hand has not failed
//! (RFC 5882 section 3.2). When it is stopped it says nothing on the wire.
//!
//! Read [`seam`] for the types, [`driver`] for the thread. The parts that decide are pure:
//!
//! | module | given | yields |
//! | --- | --- | --- |
//! | [`hand_over`] | a session | what another process needs to go on with it |
//! | [`packet`] | bytes | a control packet, and back |
//! | [`session`] | packets, settings, the time | packets that are due, changes of state |
//! | [`demux`] | where a packet came from | the session it belongs to, or why none |
//!
//! Asynchronous mode only. Demand mode of the router is respected, never asked for. Packets with authentication are
//! dropped. Echo packets are neither sent nor asked for: the control packets say that this side takes in none
//! ([ADR 10](../../../docs/adr/0010-bfd-of-our-own.md)); a profile with echo mode runs its control packets as without.
#![cfg(target_os = "linux")]

pub mod counters;
pub mod demux;
pub mod driver;
pub mod hand_over;
pub mod packet;
pub mod seam;
pub mod session;
mod sockets;

pub use counters::{Drops, PathCounters, Reason};
pub use driver::{DriverError, Handle, spawn_thread};
pub use hand_over::{Lent, LentPath, LentSession};
pub use packet::{Diagnostic, State};
pub use seam::{Fault, Path, Report, Status, Wanted, WantedSession};
pub use session::{Cause, Change, Settings};
pub use sockets::Door;
