//! Routes as they are wanted: a prefix and what is said about it.
//!
//! Owns the one rule by which several wishes for one prefix become one route ([`Attributes::merge`]), and keeps equal
//! attributes once however many routes have them ([`Routes`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A community (RFC 1997), written `AS:value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Community(pub u32);

/// A large community (RFC 8092), written `AS:value:value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

/// An extended community (RFC 4360): its eight octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExtendedCommunity(pub u64);

impl Community {
    /// Asks the receiver to prefer other paths, because this one is about to go (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Community = Community(0xffff_0000);

    /// From its two halves.
    pub fn new(asn: u16, value: u16) -> Community {
        Community(u32::from(asn) << 16 | u32::from(value))
    }
}

impl ExtendedCommunity {
    /// The bandwidth behind a route (draft-ietf-idr-link-bandwidth), in octets per second. The transitive form is the
    /// one that may cross from one AS to the next.
    pub fn link_bandwidth(asn: u32, octets_per_second: u64, transitive: bool) -> ExtendedCommunity {
        /// Stands for a four-octet AS where only two fit (RFC 6793).
        const AS_TRANS: u16 = 23456;
        let kind: u64 = if transitive { 0x0004 } else { 0x4004 };
        let asn = u16::try_from(asn).unwrap_or(AS_TRANS);
        let bandwidth = (octets_per_second as f32).to_bits();
        ExtendedCommunity(kind << 48 | u64::from(asn) << 32 | u64::from(bandwidth))
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff)
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}

/// Where the receiver shall send the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NextHop {
    /// To this node: the peer's setting, otherwise the address the session runs on.
    #[default]
    Session,
    /// There.
    Address(IpAddr),
}

/// What is said about a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attributes {
    /// The next hop.
    pub next_hop: NextHop,
    /// Local preference, told on internal sessions only; 100 when not set.
    pub local_pref: Option<u32>,
    /// Multi-exit discriminator.
    pub med: Option<u32>,
    /// How often our AS is put in front of the path again, on external sessions only.
    pub prepend: u8,
    /// Communities.
    pub communities: BTreeSet<Community>,
    /// Large communities.
    pub large_communities: BTreeSet<LargeCommunity>,
    /// Extended communities.
    pub extended_communities: BTreeSet<ExtendedCommunity>,
    /// Bandwidth behind the route in octets per second, told as an extended community.
    pub link_bandwidth: Option<u64>,
}

impl Attributes {
    /// The local preference told when none was set.
    pub const DEFAULT_LOCAL_PREF: u32 = 100;

    /// Two wishes for one prefix become one, whatever their order: the highest local preference, the lowest MED (one
    /// that is not set counts as 0, as the receiver reads it), the shortest prepend, the largest bandwidth, the lowest
    /// next hop (this node first), and the communities of both.
    pub fn merge(&mut self, other: &Attributes) {
        let preference = |a: &Attributes| a.local_pref.unwrap_or(Self::DEFAULT_LOCAL_PREF);
        if preference(other) > preference(self) || self.local_pref.is_none() && preference(other) == preference(self) {
            self.local_pref = other.local_pref;
        }
        self.med = match (self.med, other.med) {
            (Some(a), Some(b)) => Some(a.min(b)),
            _ => None,
        };
        self.prepend = self.prepend.min(other.prepend);
        self.link_bandwidth = self.link_bandwidth.max(other.link_bandwidth);
        self.next_hop = self.next_hop.min(other.next_hop);
        self.communities.extend(&other.communities);
        self.large_communities.extend(&other.large_communities);
        self.extended_communities.extend(&other.extended_communities);
    }

    /// The same route, about to go (RFC 8326): the community, and the lowest preference where that is told.
    fn leaving(&self) -> Attributes {
        let mut leaving = self.clone();
        leaving.communities.insert(Community::GRACEFUL_SHUTDOWN);
        leaving.local_pref = Some(0);
        leaving
    }
}

/// The routes wanted for a peer: at most one per prefix. Cheap to keep for many peers: put it in an `Arc`.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    by_prefix: BTreeMap<IpNet, Arc<Attributes>>,
    /// Equal attributes are kept once. May hold some that no route has any more.
    attributes: BTreeSet<Arc<Attributes>>,
    /// There may be more to come.
    partial: bool,
}

impl PartialEq for Routes {
    fn eq(&self, other: &Routes) -> bool {
        self.by_prefix == other.by_prefix && self.partial == other.partial
    }
}

impl Eq for Routes {}

impl Routes {
    /// Wants a route. Bits of the prefix beyond its length are cleared; a second wish for a prefix is merged with the
    /// first ([`Attributes::merge`]).
    pub fn insert(&mut self, prefix: IpNet, attributes: Attributes) {
        let prefix = prefix.trunc();
        let merged = match self.by_prefix.get(&prefix) {
            None => attributes,
            Some(first) => {
                let mut merged = Attributes::clone(first);
                merged.merge(&attributes);
                merged
            }
        };
        let shared = match self.attributes.get(&merged) {
            Some(shared) => Arc::clone(shared),
            None => {
                let shared = Arc::new(merged);
                self.attributes.insert(Arc::clone(&shared));
                shared
            }
        };
        self.by_prefix.insert(prefix, shared);
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.by_prefix.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_prefix.is_empty()
    }

    /// All routes in the order of their prefixes.
    pub fn iter(&self) -> impl Iterator<Item = (&IpNet, &Arc<Attributes>)> {
        self.by_prefix.iter()
    }

    /// What is said about a prefix.
    pub fn get(&self, prefix: &IpNet) -> Option<&Arc<Attributes>> {
        self.by_prefix.get(prefix)
    }

    /// The same routes, to which more may come: a router that waits for the end of what it is told (RFC 4724) is not told
    /// of it.
    pub fn partial(&self) -> Routes {
        Routes {
            partial: true,
            ..self.clone()
        }
    }

    /// Whether more may come.
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    /// The same routes, each marked as about to go (RFC 8326).
    pub fn leaving(&self) -> Routes {
        let mut leaving = Routes::default();
        for (prefix, attributes) in self.iter() {
            leaving.insert(*prefix, attributes.leaving());
        }
        leaving
    }
}

impl FromIterator<(IpNet, Attributes)> for Routes {
    fn from_iter<I: IntoIterator<Item = (IpNet, Attributes)>>(wishes: I) -> Routes {
        let mut routes = Routes::default();
        for (prefix, attributes) in wishes {
            routes.insert(prefix, attributes);
        }
        routes
    }
}

#[cfg(test)]
#[path = "route/tests.rs"]
mod tests;
