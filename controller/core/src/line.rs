//! The line: Services that would take an address if they could, in the order in which they are served.
//!
//! Whoever asks for an address by name goes before those that any address will do for; then the older goes before the
//! younger, then by name. So an address that comes free and that somebody waits for by name is not lost to a Service
//! that could have had another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound::{Excluded, Unbounded};

use ferrolb_model::{ServiceId, ServiceView};

/// A Service's place in the order of serving.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    /// Any address will do.
    automatic: bool,
    created: i64,
    /// Whose turn it is.
    pub(crate) id: ServiceId,
}

impl Turn {
    /// The place of the Service as it is now.
    pub(crate) fn of(view: &ServiceView) -> Self {
        Turn {
            automatic: asked(view).is_empty(),
            created: view.created,
            id: view.id.clone(),
        }
    }
}

/// The addresses that the Service names.
pub(crate) fn asked(view: &ServiceView) -> &[IpAddr] {
    view.request.as_ref().map_or(&[], |r| &r.addresses)
}

/// Who waits; each Service stands in it once.
#[derive(Debug, Default)]
pub(crate) struct Line {
    places: BTreeMap<ServiceId, (Turn, Vec<IpAddr>)>,
    turns: BTreeSet<Turn>,
    by_address: BTreeMap<IpAddr, BTreeSet<Turn>>,
}

impl Line {
    /// Puts the Service in its place, or moves it there.
    pub(crate) fn join(&mut self, view: &ServiceView) {
        let (turn, asked) = (Turn::of(view), asked(view));
        if self.places.get(&view.id).is_some_and(|p| p.0 == turn && p.1 == asked) {
            return;
        }
        self.leave(&view.id);
        for address in asked {
            self.by_address.entry(*address).or_default().insert(turn.clone());
        }
        self.turns.insert(turn.clone());
        self.places.insert(view.id.clone(), (turn, asked.to_vec()));
    }

    /// Takes the Service out.
    pub(crate) fn leave(&mut self, id: &ServiceId) {
        let Some((turn, asked)) = self.places.remove(id) else {
            return;
        };
        self.turns.remove(&turn);
        for address in asked {
            if let Some(turns) = self.by_address.get_mut(&address) {
                turns.remove(&turn);
                if turns.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Everybody, in order.
    pub(crate) fn turns(&self) -> impl Iterator<Item = &Turn> {
        self.turns.iter()
    }

    /// Those that ask for the address by name, in order.
    pub(crate) fn asking_for(&self, address: IpAddr) -> impl Iterator<Item = &Turn> {
        self.by_address.get(&address).into_iter().flatten()
    }

    /// Those behind `last` that any address will do for, in order.
    pub(crate) fn automatic_after(&self, last: Option<&Turn>) -> impl Iterator<Item = &Turn> + use<'_> {
        let first = Turn {
            automatic: true,
            created: i64::MIN,
            id: ServiceId::new("", ""),
        };
        let from = last.unwrap_or(&first).clone();
        self.turns.range((Excluded(from), Unbounded))
    }
}
