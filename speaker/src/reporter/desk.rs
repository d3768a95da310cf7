//! The objects of one kind: what should stand in them, what does, and whether both are known.

use std::collections::BTreeMap;
use std::time::Instant;

use ferrolb_runtime::apply::Failure;
use ferrolb_runtime::write_health::WriteHealth;

use crate::mirror::{Mirror, Write};

/// What a watch tells about the objects of one kind.
pub(crate) enum Told<S> {
    /// The object of this name has this status, or is gone.
    Object(String, Option<S>),
    /// All of them are told.
    Synced,
}

/// A [`Mirror`] that writes nothing before it is known what stands and what is wanted.
pub(super) struct Desk<S> {
    mirror: Mirror<S>,
    known: bool,
    synced: bool,
    health: WriteHealth,
}

impl<S: Clone + PartialEq> Desk<S> {
    /// How its writes stand goes to `health`.
    pub(super) fn new(health: WriteHealth) -> Self {
        Desk {
            mirror: Mirror::new(),
            known: false,
            synced: false,
            health,
        }
    }

    /// These are wanted and no others; `None`: that is not known, and what was wanted stays.
    pub(super) fn want(&mut self, wanted: Option<BTreeMap<String, S>>) {
        if let Some(wanted) = wanted {
            self.known = true;
            self.mirror.want(wanted);
        }
    }

    pub(super) fn saw(&mut self, told: Told<S>) {
        match told {
            Told::Object(name, status) => self.mirror.seen(name, status),
            Told::Synced => self.synced = true,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.mirror.deadline().filter(|_| self.known && self.synced)
    }

    /// What to write now, at most so many.
    pub(super) fn due(&mut self, now: Instant, room: usize) -> Vec<(String, Write<S>)> {
        let due = match self.known && self.synced {
            true => self.mirror.due(now, room),
            false => Vec::new(),
        };
        if self.mirror.settled() {
            self.health.settled();
        }
        due
    }

    pub(super) fn written(&mut self, name: &str, write: Write<S>, result: &Result<(), Failure>, now: Instant) {
        self.health.outcome(result, name, now);
        self.mirror.written(name, write, result, now);
    }
}
