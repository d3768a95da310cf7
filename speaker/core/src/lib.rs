//! Every decision of a speaker, as a function of what it was told.
//!
//! [`Speaker::handle`] takes an [`Input`] and gives back [`Effect`]s; it does no IO and cannot fail. Read `input.rs` and
//! `effect.rs` first: they are the whole interface. `decide.rs` says whether one address is announced and where,
//! `announcer.rs` keeps `status.announcer` true, `speaker.rs` holds the state and what changes it. [`Bgp`] hears the same
//! inputs and decides what routers are told; it shares nothing else with layer 2.

mod announcer;
mod bgp;
mod decide;
mod effect;
mod input;
mod ownership;
mod speaker;

pub use bgp::{Bgp, BgpPlan, PeerRefusal, PlannedPeer, PlannedRoutes, RouteAttributes};
pub use effect::{Announcement, Duty, Effect, Liveness, Manner};
pub use input::Input;
pub use ownership::Ownership;
pub use speaker::{Settings, Speaker};
