//! What is told to which BGP peers, parsed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::advertise::PoolSelection;
use crate::community::Community;
use crate::ip::Family;
use crate::pool::Pool;
use crate::selector::{LabelSelector, Labels};

/// A `BGPAdvertisement` in force. Selectors stay selectors: nodes and Services come and go without a new `Config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpAdvertisement {
    /// The object's name.
    pub name: String,
    /// The pools it speaks for.
    pub pools: PoolSelection,
    /// Any must match the node; empty matches all.
    pub node_selectors: Vec<LabelSelector>,
    /// Any must match the Service; empty matches all.
    pub service_selectors: Vec<LabelSelector>,
    /// Peers by name; unknown names are no error, the peer may come later. `None` is every peer.
    pub peers: Option<BTreeSet<String>>,
    /// Length of the IPv4 prefix that is announced for an address, at most 32.
    pub aggregation_v4: u8,
    /// Length of the IPv6 prefix that is announced for an address, at most 128.
    pub aggregation_v6: u8,
    /// LOCAL_PREF (RFC 4271 section 5.1.5); `None`: not set.
    pub local_pref: Option<u32>,
    /// How often our AS number is put in front once more, to external peers; 1 to 10. `None`: not set.
    pub as_path_prepend: Option<u8>,
    /// Aliases resolved.
    pub communities: BTreeSet<Community>,
}

impl BgpAdvertisement {
    /// Whether it speaks for `pool`: selected, and no prefix that it announces reaches beyond the widest block of the
    /// item of the pool that the address is from.
    pub fn covers_pool(&self, pool: &Pool) -> bool {
        self.pools.selects(pool) && self.too_wide_for(pool).is_none()
    }

    /// The first range of `pool` for which the announced prefix is too wide, by its index.
    pub fn too_wide_for(&self, pool: &Pool) -> Option<usize> {
        let too_wide = |family| move |shortest: u8| self.aggregation(family) < shortest;
        pool.ranges
            .iter()
            .position(|range| too_wide(range.family())(range.widest_block()))
    }

    /// Whether it speaks for a Service with these labels.
    pub fn covers_service(&self, labels: &Labels) -> bool {
        LabelSelector::any_or_all(&self.service_selectors, labels)
    }

    /// Whether a node with these labels may announce.
    pub fn covers_node(&self, labels: &Labels) -> bool {
        LabelSelector::any_or_all(&self.node_selectors, labels)
    }

    /// Whether the peer of this name is told.
    pub fn covers_peer(&self, name: &str) -> bool {
        self.peers.as_ref().is_none_or(|peers| peers.contains(name))
    }

    /// The length of the prefix that is announced for an address of `family`.
    pub fn aggregation(&self, family: Family) -> u8 {
        match family {
            Family::V4 => self.aggregation_v4,
            Family::V6 => self.aggregation_v6,
        }
    }

    /// The prefix that is announced for `address`.
    pub fn prefix(&self, address: IpAddr) -> IpNet {
        let length = self.aggregation(Family::of(address));
        // The lengths are within their family, so the fallback is never taken.
        IpNet::new(address, length).map_or_else(|_| address.into(), |net| net.trunc())
    }
}
