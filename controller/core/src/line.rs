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

#[derive(Debug, PartialEq, Eq)]
struct Place {
    turn: Turn,
    asked: Vec<IpAddr>,
    /// Its namespace has as many addresses as it may have.
    full: bool,
}

/// Who waits; each Service stands in it once.
#[derive(Debug, Default)]
pub(crate) struct Line {
    places: BTreeMap<ServiceId, Place>,
    turns: BTreeSet<Turn>,
    by_address: BTreeMap<IpAddr, BTreeSet<Turn>>,
    full: BTreeMap<String, BTreeSet<Turn>>,
}

impl Line {
    /// Puts the Service in its place, or moves it there. `full` says that it waits for its namespace to give an address
    /// back.
    pub(crate) fn join(&mut self, view: &ServiceView, full: bool) {
        let (turn, asked) = (Turn::of(view), asked(view).to_vec());
        let place = Place { turn, asked, full };
        if self.places.get(&view.id) == Some(&place) {
            return;
        }
        self.leave(&view.id);
        for address in &place.asked {
            self.by_address.entry(*address).or_default().insert(place.turn.clone());
        }
        if full {
            let namespace = view.id.namespace.clone();
            self.full.entry(namespace).or_default().insert(place.turn.clone());
        }
        self.turns.insert(place.turn.clone());
        self.places.insert(view.id.clone(), place);
    }

    /// Takes the Service out.
    pub(crate) fn leave(&mut self, id: &ServiceId) {
        let Some(Place { turn, asked, full }) = self.places.remove(id) else {
            return;
        };
        self.turns.remove(&turn);
        for address in asked {
            take_out(&mut self.by_address, &address, &turn);
        }
        if full {
            take_out(&mut self.full, &id.namespace, &turn);
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

    /// Whether the Service waits for its namespace to give an address back.
    pub(crate) fn is_full(&self, id: &ServiceId) -> bool {
        self.places.get(id).is_some_and(|p| p.full)
    }

    /// The first behind `last` that waits for the namespace to give an address back.
    pub(crate) fn next_full(&self, namespace: &str, last: Option<&Turn>) -> Option<&Turn> {
        let turns = self.full.get(namespace)?;
        match last {
            Some(last) => turns.range((Excluded(last), Unbounded)).next(),
            None => turns.first(),
        }
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

fn take_out<K: Ord>(turns: &mut BTreeMap<K, BTreeSet<Turn>>, key: &K, turn: &Turn) {
    if let Some(at) = turns.get_mut(key) {
        at.remove(turn);
        if at.is_empty() {
            turns.remove(key);
        }
    }
}
