//! How many addresses each node announces, by decision, and which node has fewest.
//!
//! The nodes there are have numbers ("seats"), so that a choice among a thousand of them compares no names. Counts are by name
//! as well: a node may be gone, and its addresses not yet placed elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::spread::seed;

/// A node, as a choice among many sees it.
#[derive(Clone, Copy, Debug)]
struct Seat {
    owned: usize,
    seed: u64,
}

/// The count for every node.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    owned: BTreeMap<String, usize>,
    numbers: BTreeMap<String, usize>,
    seats: Vec<Seat>,
    free: Vec<usize>,
    /// The seats that are taken: how many addresses, the place on the ring, and the number.
    by_load: BTreeSet<(usize, u64, usize)>,
}

impl Seats {
    /// How many addresses each node announces, for those that announce any.
    pub(crate) fn owned(&self) -> &BTreeMap<String, usize> {
        &self.owned
    }

    /// Gives the node a number, unless it has one.
    pub(crate) fn add(&mut self, node: &str) {
        if self.numbers.contains_key(node) {
            return;
        }
        let owned = self.owned.get(node).copied().unwrap_or(0);
        let number = self.free.pop().unwrap_or(self.seats.len());
        let seed = seed(node);
        let seat = Seat { owned, seed };
        match self.seats.get_mut(number) {
            Some(old) => *old = seat,
            None => self.seats.push(seat),
        }
        self.by_load.insert((owned, seed, number));
        self.numbers.insert(node.to_owned(), number);
    }

    /// Takes the number back from a node that is gone.
    pub(crate) fn remove(&mut self, node: &str) {
        if let Some(number) = self.numbers.remove(node) {
            let Seat { owned, seed } = self.seats[number];
            self.by_load.remove(&(owned, seed, number));
            self.free.push(number);
        }
    }

    /// The node is to announce one address more.
    pub(crate) fn gain(&mut self, node: &str) {
        let owned = self.owned.entry(node.to_owned()).or_insert(0);
        *owned += 1;
        let owned = *owned;
        self.seat(node, owned);
    }

    /// The node is to announce one address less.
    pub(crate) fn lose(&mut self, node: &str) {
        let Some(owned) = self.owned.get_mut(node) else { return };
        *owned -= 1;
        let owned = *owned;
        if owned == 0 {
            self.owned.remove(node);
        }
        self.seat(node, owned);
    }

    fn seat(&mut self, node: &str, owned: usize) {
        if let Some(number) = self.numbers.get(node) {
            let seat = &mut self.seats[*number];
            self.by_load.remove(&(seat.owned, seat.seed, *number));
            seat.owned = owned;
            self.by_load.insert((owned, seat.seed, *number));
        }
    }

    /// The number of the node.
    pub(crate) fn number(&self, node: &str) -> Option<usize> {
        self.numbers.get(node).copied()
    }

    /// How many addresses the node with this number announces.
    pub(crate) fn load(&self, number: usize) -> usize {
        self.seats.get(number).map_or(0, |seat| seat.owned)
    }

    /// The fewest addresses that any node announces.
    pub(crate) fn fewest(&self) -> usize {
        self.by_load.first().map_or(0, |(owned, ..)| *owned)
    }

    /// The number of the node with the fewest addresses among those that `may`; of several the first one on the ring from
    /// `turn` on.
    pub(crate) fn emptiest(&self, turn: u64, may: impl Fn(usize) -> bool) -> Option<usize> {
        let may = |(_, _, number): &&(usize, u64, usize)| may(*number);
        let (fewest, ..) = *self.by_load.iter().find(may)?;
        let mut before = self.by_load.range((fewest, 0, 0)..(fewest, turn, 0));
        let mut after = self.by_load.range((fewest, turn, 0)..(fewest + 1, 0, 0));
        let found = after.find(may).or_else(|| before.find(may));
        found.map(|(_, _, number)| *number)
    }
}
