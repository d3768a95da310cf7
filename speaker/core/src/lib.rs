//! Every decision of a speaker, as a function of what it was told.
//!
//! [`Speaker::handle`] takes an [`Input`] and gives back [`Effect`]s; it does no IO and cannot fail.

mod effect;
mod input;

pub use effect::{Announcement, Effect};
pub use input::Input;
