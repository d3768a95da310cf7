//! Which addresses cannot be handed out, kept as maximal runs.
//!
//! The lowest free address of a range is found in O(log n) whatever the number of taken addresses: adjacent taken
//! addresses are one run, so the address behind the run that covers the start is free. No range is ever iterated.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// A set of addresses of both families.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// First to last address of each run; runs neither overlap nor touch.
    runs: BTreeMap<IpAddr, IpAddr>,
}

/// The address after `address`, in its family.
pub(crate) fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => u32::from(a).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(a) => u128::from(a).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

fn previous(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => u32::from(a).checked_sub(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(a) => u128::from(a).checked_sub(1).map(|n| IpAddr::V6(n.into())),
    }
}

impl Taken {
    fn run_of(&self, address: IpAddr) -> Option<(IpAddr, IpAddr)> {
        let (first, last) = self.runs.range(..=address).next_back()?;
        (*last >= address).then_some((*first, *last))
    }

    /// Puts `address` in; again is no change.
    pub(crate) fn insert(&mut self, address: IpAddr) {
        if self.run_of(address).is_some() {
            return;
        }
        let first = match previous(address).and_then(|p| self.run_of(p)) {
            Some((first, _)) => first,
            None => address,
        };
        let last = match next(address).and_then(|n| self.runs.remove(&n)) {
            Some(last) => last,
            None => address,
        };
        self.runs.insert(first, last);
    }

    /// Takes `address` out; again is no change.
    pub(crate) fn remove(&mut self, address: IpAddr) {
        let Some((first, last)) = self.run_of(address) else {
            return;
        };
        self.runs.remove(&first);
        if let Some(before) = previous(address).filter(|p| *p >= first && address != first) {
            self.runs.insert(first, before);
        }
        if let Some(after) = next(address).filter(|n| *n <= last && address != last) {
            self.runs.insert(after, last);
        }
    }

    /// The lowest address from `from` to `last` that is not in the set.
    pub(crate) fn first_free(&self, from: IpAddr, last: IpAddr) -> Option<IpAddr> {
        let free = match self.run_of(from) {
            Some((_, end)) => next(end)?,
            None => from,
        };
        (free <= last).then_some(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn at(n: u8) -> IpAddr {
        IpAddr::from([255, 255, 255, n])
    }

    proptest! {
        #[test]
        fn behaves_like_a_plain_set(ops in prop::collection::vec((any::<bool>(), 230u8..), 0..60), from in 230u8.., last in 230u8..) {
            let (mut taken, mut plain) = (Taken::default(), BTreeSet::new());
            for (insert, n) in ops {
                if insert {
                    taken.insert(at(n));
                    plain.insert(n);
                } else {
                    taken.remove(at(n));
                    plain.remove(&n);
                }
                for (first, end) in &taken.runs {
                    prop_assert!(first <= end);
                    prop_assert!(next(*end).is_none_or(|n| taken.run_of(n).is_none()), "runs touch");
                }
            }
            prop_assume!(from <= last);
            let expected = (from..=last).find(|n| !plain.contains(n)).map(at);
            prop_assert_eq!(taken.first_free(at(from), at(last)), expected);
        }
    }

    #[test]
    fn families_do_not_touch() {
        let mut taken = Taken::default();
        taken.insert(at(255));
        taken.insert(IpAddr::from([0u16; 8]));
        assert_eq!(taken.first_free(at(255), at(255)), None);
        assert_eq!(taken.runs.len(), 2);
    }
}
