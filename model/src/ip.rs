//! Address families, and the one form in which an address is compared.

use std::fmt;
use std::net::IpAddr;

/// An address family of a Service, a pool range or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of `address`.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// The other family.
    pub fn other(self) -> Self {
        match self {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        }
    }

    /// Bits of an address: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// The families something has: none, one or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FamilySet {
    /// IPv4 is in the set.
    pub v4: bool,
    /// IPv6 is in the set.
    pub v6: bool,
}

impl FamilySet {
    /// Whether `family` is in the set.
    pub fn contains(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// How many families are in the set.
    pub fn len(self) -> usize {
        usize::from(self.v4) + usize::from(self.v6)
    }

    /// Whether the set has no family.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The members, IPv4 first: the order in which addresses stand in a Service's status.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        [Family::V4, Family::V6].into_iter().filter(move |f| self.contains(*f))
    }
}

impl FromIterator<Family> for FamilySet {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> Self {
        let mut set = FamilySet::default();
        for family in families {
            match family {
                Family::V4 => set.v4 = true,
                Family::V6 => set.v6 = true,
            }
        }
        set
    }
}

/// `address` as it is compared everywhere: IPv4-mapped IPv6 (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2) is IPv4.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
