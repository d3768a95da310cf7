//! The machine that decides who answers for the addresses of this node.

use std::sync::Arc;
use std::time::Duration;

use crate::counters::Counters;
use crate::seam::{Effect, Input};

/// See the module.
#[derive(Debug)]
pub struct Guard {
    seed: u64,
    counters: Arc<Counters>,
}

impl Guard {
    /// A guard that knows nothing yet. `seed` draws the jitter of its heartbeats.
    pub fn new(seed: u64, counters: Arc<Counters>) -> Guard {
        Guard { seed, counters }
    }

    /// Takes an input in and says what is to be done.
    pub fn handle(&mut self, _input: Input<'_>, _now: Duration) -> Vec<Effect> {
        Vec::new()
    }

    /// When a [`Input::Tick`] is wanted, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Duration> {
        None
    }
}
