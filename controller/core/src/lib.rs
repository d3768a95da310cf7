//! Every decision of the controller, as a function of what it was told and the time.
//!
//! [`Controller::handle`] takes an [`Input`] and gives back [`Effect`]s; it does no IO, cannot fail and never blocks.
//! The shell in `ferrolb-controller` turns watch events into inputs, runs the effects, and hands their outcomes back
//! as inputs. Read `input.rs` and `effect.rs` first: they are the whole interface.

mod effect;
mod input;

pub use effect::{Effect, EventKind, ServiceEvent, Write, WriteKey};
pub use input::{Input, WriteError};
