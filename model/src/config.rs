//! The configuration in force: immutable, shared by `Arc`, replaced as a whole.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::advertise::L2Advertisement;
use crate::allocation_policy::AllocationPolicy;
use crate::announcement_policy::AnnouncementPolicy;
use crate::bfd::BfdProfile;
use crate::bgp::BgpAdvertisement;
use crate::community::Community;
use crate::peer::Peer;
use crate::pool::Pool;
use crate::selector::Labels;

/// Everything parsed from the objects of the configuration. Built by `ferrolb-config` alone, so whatever stands here is valid and
/// no two pools overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Pools by name.
    pub pools: BTreeMap<String, Pool>,
    /// Layer-2 advertisements by name.
    pub l2_advertisements: BTreeMap<String, L2Advertisement>,
    /// BGP advertisements by name.
    pub bgp_advertisements: BTreeMap<String, BgpAdvertisement>,
    /// BGP peers by name.
    pub peers: BTreeMap<String, Peer>,
    /// BFD profiles by name, whether a peer uses them or not.
    pub bfd_profiles: BTreeMap<String, Arc<BfdProfile>>,
    /// The aliases of each Community object, by its name. No alias is in two objects.
    pub communities: BTreeMap<String, BTreeMap<String, Community>>,
    /// Limits per namespace, by name.
    pub allocation_policies: BTreeMap<String, AllocationPolicy>,
    /// Settings of announcements, by name: of those that select the same thing the first by name decides.
    pub announcement_policies: BTreeMap<String, AnnouncementPolicy>,
    /// Some layer-2 advertisement, or some pool that an advertisement may select by its labels, is left out because of a mistake
    /// and was never read without one. That no advertisement covers an address then proves nothing: what is announced
    /// stays announced.
    pub advertisements_unknown: bool,
    /// The same for BGP advertisements.
    pub bgp_advertisements_unknown: bool,
}

impl Config {
    /// The pool that `address` belongs to.
    pub fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        self.pools.values().find(|p| p.contains(address))
    }

    /// The layer-2 advertisements for a Service with `labels` on an address of `pool`, whatever the node.
    pub fn l2_advertisements_for<'a>(
        &'a self,
        pool: &'a Pool,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a L2Advertisement> {
        self.l2_advertisements
            .values()
            .filter(move |ad| ad.covers_pool(pool) && ad.covers_service(labels))
    }
}
