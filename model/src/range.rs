//! One contiguous run of addresses, as an item of `IPAddressPool.spec.addresses` gives it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use thiserror::Error;

use crate::ip::{Family, canonical};

/// First and last address of one family, `first <= last`. Sizes are `u128`; nothing ever iterates a whole range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpRange {
    family: Family,
    first: u128,
    last: u128,
}

/// Why a text is not an address range. The messages say what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RangeError {
    /// Neither `address/length` nor `first-last`.
    #[error("{0:?} is neither a CIDR prefix like 192.0.2.0/24 nor a range like 192.0.2.10-192.0.2.20")]
    Shape(String),
    /// The part before `/`, or an end of the range, is no address.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// The prefix length does not exist in the family.
    #[error("{length:?} is not a prefix length for {address}, which takes 0 to {most}")]
    PrefixLength {
        /// The address before the slash.
        address: IpAddr,
        /// The text after it.
        length: String,
        /// The longest prefix of the family.
        most: u8,
    },
    /// The ends are of different families.
    #[error("{first} and {last} are of different address families")]
    MixedFamilies {
        /// Start of the range.
        first: IpAddr,
        /// End of the range.
        last: IpAddr,
    },
    /// The start lies behind the end.
    #[error("the range runs backwards: {first} is behind {last}; write {last}-{first}")]
    Reversed {
        /// Start of the range.
        first: IpAddr,
        /// End of the range.
        last: IpAddr,
    },
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

impl IpRange {
    /// The range from `first` to `last`, both included.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, RangeError> {
        let (first, last) = (canonical(first), canonical(last));
        if Family::of(first) != Family::of(last) {
            return Err(RangeError::MixedFamilies { first, last });
        }
        if first > last {
            return Err(RangeError::Reversed { first, last });
        }
        Ok(IpRange {
            family: Family::of(first),
            first: number(first),
            last: number(last),
        })
    }

    /// The one address `address`.
    pub fn single(address: IpAddr) -> Self {
        let address = canonical(address);
        IpRange {
            family: Family::of(address),
            first: number(address),
            last: number(address),
        }
    }

    /// The family of every address in the range.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.at(self.first)
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.at(self.last)
    }

    /// How many addresses; the whole of IPv6, 2^128, saturates at `u128::MAX`.
    pub fn size(&self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    /// Whether `address` lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        Family::of(address) == self.family && (self.first..=self.last).contains(&number(address))
    }

    /// Whether the two ranges have an address in common.
    pub fn overlaps(&self, other: &IpRange) -> bool {
        self.family == other.family && self.first <= other.last && other.first <= self.last
    }

    /// The address that follows `address` inside the range; `None` at its end or outside.
    pub fn after(&self, address: IpAddr) -> Option<IpAddr> {
        let address = canonical(address);
        let here = number(address);
        (self.contains(address) && here < self.last).then(|| self.at(here + 1))
    }

    /// The length of the widest CIDR block inside the range.
    pub fn widest_block(&self) -> u8 {
        let bits = self.family.bits();
        let fits = |length: &u8| {
            // The bits of an address below the prefix, all set.
            let below = 1u128
                .checked_shl(u32::from(bits - length))
                .map_or(u128::MAX, |size| size - 1);
            // The first block that begins in the range, if there is one.
            let start = self.first.checked_add(below).map(|end| end & !below);
            start
                .and_then(|start| start.checked_add(below))
                .is_some_and(|end| end <= self.last)
        };
        // One address is a block, too.
        (0..bits).find(fits).unwrap_or(bits)
    }

    fn at(&self, number: u128) -> IpAddr {
        match self.family {
            // An IPv4 range was built from 32-bit numbers, so the cast loses nothing.
            Family::V4 => IpAddr::V4(Ipv4Addr::from(number as u32)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }
}

/// Parses `address/length` (host bits are dropped, as users of the API expect) or `first-last` (blanks are trimmed).
impl FromStr for IpRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let address = |part: &str| {
            let part = part.trim();
            part.parse::<IpAddr>().map_err(|_| RangeError::Address(part.to_owned()))
        };
        if let Some((base, length)) = text.split_once('/') {
            let base = address(base)?;
            let most = Family::of(base).bits();
            let bad_length = || RangeError::PrefixLength {
                address: base,
                length: length.trim().to_owned(),
                most,
            };
            let digits = length.trim();
            if digits.is_empty() || digits.bytes().any(|b| !b.is_ascii_digit()) {
                return Err(bad_length());
            }
            let net = IpNet::new(base, digits.parse().map_err(|_| bad_length())?).map_err(|_| bad_length())?;
            return IpRange::new(net.network(), net.broadcast());
        }
        let (first, last) = text.split_once('-').ok_or_else(|| RangeError::Shape(text.to_owned()))?;
        IpRange::new(address(first)?, address(last)?)
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first(), self.last())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> IpRange {
        text.parse().unwrap()
    }

    #[test]
    fn reads_prefixes_and_ranges() {
        assert_eq!(range("192.0.2.77/24"), range("192.0.2.0-192.0.2.255"));
        assert_eq!(
            range(" 192.0.2.9 - 192.0.2.9 "),
            IpRange::single("192.0.2.9".parse().unwrap())
        );
        assert_eq!(range("::ffff:192.0.2.1-192.0.2.4").size(), 4);
        assert_eq!(range("::/0").size(), u128::MAX);
        assert_eq!(range("2001:db8::/64").size(), 1 << 64);
    }

    #[test]
    fn says_what_would_be_right() {
        for (text, part) in [
            ("10.0.0.0/33", "takes 0 to 32"),
            ("10.0.0.0/", "takes 0 to 32"),
            ("10.0.0.0/+8", "takes 0 to 32"),
            ("2001:db8::/129", "takes 0 to 128"),
            ("10.0.0.9-10.0.0.1", "write 10.0.0.1-10.0.0.9"),
            ("10.0.0.1-2001:db8::1", "different address families"),
            ("10.0.0.1", "neither a CIDR prefix"),
            ("10.0.0.x-10.0.0.9", "\"10.0.0.x\" is not an IP address"),
            ("", "neither a CIDR prefix"),
        ] {
            let error = text.parse::<IpRange>().unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn widest_blocks() {
        for (text, length) in [
            ("0.0.0.0/0", 0),
            ("::/0", 0),
            ("192.0.2.0/24", 24),
            ("192.0.2.10-192.0.2.20", 30),
            ("192.0.2.1-192.0.2.254", 26),
            ("192.0.2.255/32", 32),
            ("255.255.255.254-255.255.255.255", 31),
            ("0.0.0.1-255.255.255.255", 1),
            ("::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1),
            ("2001:db8::ffff-2001:db8::1:ffff", 112),
        ] {
            assert_eq!(range(text).widest_block(), length, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            let _ = text.parse::<IpRange>();
        }

        #[test]
        fn display_reads_back(a: u128, b: u128) {
            let (low, high) = (a.min(b), a.max(b));
            let r = IpRange { family: Family::V6, first: low, last: high };
            prop_assume!(Family::of(canonical(r.first())) == Family::V6 && Family::of(canonical(r.last())) == Family::V6);
            prop_assert_eq!(r.to_string().parse::<IpRange>().unwrap(), r);
        }

        #[test]
        fn overlap_is_a_common_address(a: (u8, u8), b: (u8, u8)) {
            let make = |(x, y): (u8, u8)| {
                let at = |n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n));
                IpRange::new(at(x.min(y)), at(x.max(y))).unwrap()
            };
            let (a, b) = (make(a), make(b));
            let common = (0..=255).map(|n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))).any(|x| a.contains(x) && b.contains(x));
            prop_assert_eq!(a.overlaps(&b), common);
        }
    }
}
