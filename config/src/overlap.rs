//! Ranges that do not overlap, so that what overlaps a range is found without looking at all of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ferrolb_model::IpRange;

/// Ranges of which no two have an address in common, each with what it belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Ranges<T> {
    by_first: BTreeMap<IpAddr, (IpRange, T)>,
}

impl<T> Ranges<T> {
    pub(crate) fn new() -> Self {
        Ranges {
            by_first: BTreeMap::new(),
        }
    }

    /// Puts a range in, unless it overlaps another one.
    pub(crate) fn insert(&mut self, range: IpRange, owner: T) {
        if self.overlapping(&range).next().is_none() {
            self.by_first.insert(range.first(), (range, owner));
        }
    }

    /// The ranges that overlap `range`, from the highest down. IPv4 sorts before IPv6, so the walk ends at the family.
    pub(crate) fn overlapping(&self, range: &IpRange) -> impl Iterator<Item = (&IpRange, &T)> {
        let below = self.by_first.range(..=range.last()).rev();
        let range = *range;
        below
            .map(|(_, (other, owner))| (other, owner))
            .take_while(move |(other, _)| other.overlaps(&range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_a_walk_over_all_finds(
            made in prop::collection::vec((any::<bool>(), 0..60u8, 0..6u8), 0..20),
            (v6, first, length) in (any::<bool>(), 0..60u8, 0..20u8),
        ) {
            let range = |v6: bool, first: u8, length: u8| {
                let at = |n: u8| if v6 { IpAddr::from([0, 0, 0, 0, 0, 0, 0, n.into()]) } else { IpAddr::from([0, 0, 0, n]) };
                IpRange::new(at(first), at(first + length)).unwrap()
            };
            let (mut ranges, mut all) = (Ranges::new(), Vec::<IpRange>::new());
            for (v6, first, length) in made {
                let next = range(v6, first, length);
                if all.iter().all(|r| !r.overlaps(&next)) {
                    all.push(next);
                }
                ranges.insert(next, ());
            }
            let wanted = range(v6, first, length);
            let mut expected = all.into_iter().filter(|r| r.overlaps(&wanted)).collect::<Vec<_>>();
            expected.sort_unstable_by(|a, b| b.cmp(a));
            prop_assert_eq!(ranges.overlapping(&wanted).map(|(r, ())| *r).collect::<Vec<_>>(), expected);
        }
    }
}
