//! Every decision of the controller, as a function of what it was told and the time.
//!
//! [`Controller::handle`] takes an [`Input`] and gives back [`Effect`]s; it does no IO, cannot fail and never blocks.
//! The shell in `ferrolb-controller` turns watch events into inputs, runs the effects, and hands their outcomes back
//! as inputs. Read `input.rs` and `effect.rs` first: they are the whole interface.

mod allocator;
mod choose;
mod confirm;
mod controller;
mod converge;
mod effect;
mod groups;
mod input;
mod inspect;
mod limits;
mod line;
mod moves;
mod placement;
mod probe;
mod rebalance;
mod renumber;
mod report;
mod rest;
mod seats;
mod serve;
mod since;
mod spread;
mod standing;
mod subnets;
mod taken;
mod timers;
mod world;
mod written;

pub use controller::{Controller, Settings};
pub use effect::{Effect, EventKind, ServiceEvent, Write, WriteKey};
pub use input::{Input, WriteError};
pub use rebalance::RebalanceRequest;
pub use report::{PoolUsage, Usage};
