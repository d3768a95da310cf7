//! Every decision of a speaker, as a function of what it was told.
//!
//! [`Speaker::handle`] takes an [`Input`] and gives back [`Effect`]s; it does no IO and cannot fail. Read `input.rs` and
//! `effect.rs` first: they are the whole interface. `decide.rs` says whether one address is announced and where,
//! `interfaces.rs` why no interface suits it, `announcer.rs` keeps `status.announcer` true, `speaker.rs` holds the state and
//! what changes it. [`Bgp`] hears the same inputs and decides what routers are told; it shares nothing else with layer 2.
//! [`DataPath`] hears them, too, keeps the endpoints of Services, and knows whether kube-proxy is ready for what either is
//! about to begin; [`Probes`] hears them as well, and knows whether other machines use addresses.

mod announcer;
mod bgp;
mod claims;
mod data_path;
mod decide;
mod effect;
mod endpoints;
mod ids;
mod input;
mod interfaces;
mod ownership;
mod probes;
mod speaker;

pub use bgp::{Bgp, BgpPlan, Late, NotOnNode, PeerRefusal, PlannedPeer, PlannedRoutes, RouteAttributes, Sought};
pub use data_path::{Beginning, DataPath, NotReady, Progress, ProxyAnswer, Reading, Scrape, WAIT, WAIT_TO_TAKE};
pub use effect::{Announcement, Duties, Duty, Effect, Liveness, Manner};
pub use ids::Ids;
pub use input::Input;
pub use interfaces::Subnets;
pub use ownership::Ownership;
pub use probes::{Finding, Probes, Where};
pub use speaker::{Settings, Speaker};
