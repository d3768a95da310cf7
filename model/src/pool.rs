//! A pool of addresses, parsed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::ip::{Family, FamilySet};
use crate::range::IpRange;
use crate::selector::{LabelSelector, Labels};

/// An `IPAddressPool` in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The object's name.
    pub name: String,
    /// The object's labels, for `ipAddressPoolSelectors`.
    pub labels: Labels,
    /// In the order of `spec.addresses`: addresses are tried in this order, each range from its lowest.
    pub ranges: Vec<IpRange>,
    /// Whether the pool may be chosen for a Service that does not ask for it.
    pub auto_assign: bool,
    /// IPv4 addresses that end in .0 or .255 are neither handed out nor accepted as requested.
    pub avoid_buggy_ips: bool,
    /// Present: the pool is kept for the Services it selects ("pinned").
    pub allocation: Option<ServiceAllocation>,
    /// What becomes of addresses that the pool would not give to their holders any more.
    pub on_shrink: OnShrink,
}

/// The annotation `ferrolb.io/on-shrink` of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnShrink {
    /// They stay with their holders until somebody moves them.
    #[default]
    Keep,
    /// Each holder gets a new address, and the old one goes when both have been announced for a while.
    Reassign,
}

/// `spec.serviceAllocation`, with namespace selectors resolved to names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceAllocation {
    /// Lower is tried earlier; 0 is tried last.
    pub priority: i32,
    /// `None`: every namespace. Otherwise the names listed and those that the selectors match now.
    pub namespaces: Option<BTreeSet<String>>,
    /// Any of them must match the Service's labels; empty matches all.
    pub service_selectors: Vec<LabelSelector>,
}

impl Pool {
    /// Whether `address` is in one of the ranges.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|r| r.contains(address))
    }

    /// Whether `address` is one that `avoidBuggyIPs` keeps out of this pool.
    pub fn is_buggy(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.avoid_buggy_ips && matches!(a.octets()[3], 0 | 255),
            IpAddr::V6(_) => false,
        }
    }

    /// The families that the pool has addresses of.
    pub fn families(&self) -> FamilySet {
        self.ranges.iter().map(IpRange::family).collect()
    }

    /// The ranges of one family, in order.
    pub fn ranges_of(&self, family: Family) -> impl Iterator<Item = &IpRange> {
        self.ranges.iter().filter(move |r| r.family() == family)
    }

    /// How many addresses of `family` the pool may hand out, without those that `avoidBuggyIPs` keeps; saturates at
    /// `u128::MAX`.
    pub fn capacity(&self, family: Family) -> u128 {
        self.ranges_of(family)
            .map(|r| r.size() - self.buggy_in(r))
            .fold(0, u128::saturating_add)
    }

    fn buggy_in(&self, range: &IpRange) -> u128 {
        let (IpAddr::V4(first), IpAddr::V4(last)) = (range.first(), range.last()) else {
            return 0;
        };
        if !self.avoid_buggy_ips {
            return 0;
        }
        // Addresses below `end` that end in `octet`.
        let below = |end: u64, octet: u64| (end + 255 - octet) / 256;
        let (first, end) = (u64::from(u32::from(first)), u64::from(u32::from(last)) + 1);
        [0, 255]
            .into_iter()
            .map(|octet| u128::from(below(end, octet) - below(first, octet)))
            .sum()
    }

    /// Whether the pool's selectors admit a Service with these labels in this namespace.
    pub fn admits(&self, namespace: &str, labels: &Labels) -> bool {
        self.allocation.as_ref().is_none_or(|a| {
            a.namespaces.as_ref().is_none_or(|names| names.contains(namespace))
                && LabelSelector::any_or_all(&a.service_selectors, labels)
        })
    }

    /// The order in which pinned pools are tried: by priority, 0 last, then by name.
    pub fn rank(&self) -> (i64, &str) {
        let priority = match self.allocation.as_ref().map_or(0, |a| a.priority) {
            0 => i64::MAX,
            other => i64::from(other),
        };
        (priority, &self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn capacity_counts_what_is_not_avoided(start in 0u32..2000, length in 1u32..2000, avoid: bool) {
            let at = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            let pool = Pool {
                name: "p".into(),
                labels: Labels::new(),
                ranges: vec![IpRange::new(at(start), at(start + length - 1)).unwrap()],
                auto_assign: true,
                avoid_buggy_ips: avoid,
                allocation: None,
                on_shrink: OnShrink::Keep,
            };
            let counted = (start..start + length).filter(|n| !pool.is_buggy(at(*n))).count();
            prop_assert_eq!(pool.capacity(Family::V4), counted as u128);
            prop_assert_eq!(pool.capacity(Family::V6), 0);
        }
    }
}
