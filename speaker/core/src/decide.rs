//! Whether this node announces one address, and on which interfaces.
//!
//! The placement in the VirtualIP says who announces; the advertisements say on which interfaces. A node that the
//! placement does not name never announces, whatever else it knows. One that it names goes on as it does while an
//! advertisement is missing that could not be read.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ferrolb_model::{
    AnnouncementPolicy, Applicant, Claim, Config, L2Advertisement, Labels, NodeRefusal, OnShrink, Pool, ServiceId,
    VirtualIp,
};
use litemap::LiteMap;

use crate::effect::{Announcement, Manner};

/// What is kept of a VirtualIP that concerns this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldIp {
    /// As the API server has it.
    pub(crate) ip: Arc<VirtualIp>,
    /// The epoch of the placement that counts, when it names this node as the owner.
    pub(crate) epoch: Option<u64>,
}

/// What is kept of a Service that may hold an address: a LoadBalancer of a class that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// For events.
    pub(crate) uid: Arc<str>,
    /// For `serviceSelectors`.
    pub(crate) labels: Labels,
    /// The policy it asks for.
    pub(crate) policy: Option<Box<str>>,
}

/// The Services that may hold an address.
pub(crate) type Holders = LiteMap<ServiceId, Holder>;

/// What is decided from, besides the VirtualIP itself.
pub(crate) struct Facts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) holders: &'a Holders,
    pub(crate) node_labels: &'a Labels,
}

impl<'a> Facts<'a> {
    /// Whether `address` is announced here, and how; `current` is how it is announced now.
    pub(crate) fn decide(
        &self,
        address: IpAddr,
        ip: Option<&HeldIp>,
        current: Option<&Announcement>,
    ) -> Result<Announcement, NodeRefusal> {
        let ip = ip.ok_or(NodeRefusal::NotOwner)?;
        let epoch = ip.epoch.ok_or(NodeRefusal::NotOwner)?;
        if claimants(self.holders, ip).next().is_none() {
            return Err(NodeRefusal::NoClaim);
        }
        let ads = self.advertisements(address, ip);
        if ads.is_empty() {
            // The advertisement behind it may be the one that cannot be read.
            if let Some(current) = current.filter(|_| self.config.advertisements_unknown) {
                return Ok(Announcement {
                    epoch,
                    ..current.clone()
                });
            }
            return Err(NodeRefusal::NotSelected);
        }
        // One advertisement that names no interfaces opens all of them.
        let interfaces = ads
            .iter()
            .map(|ad| ad.interfaces.as_ref())
            .collect::<Option<Vec<_>>>()
            .map(|sets| sets.into_iter().flatten().cloned().collect::<BTreeSet<_>>());
        let manner = self.manner(address, ip);
        Ok(Announcement {
            interfaces,
            epoch,
            manner,
        })
    }

    /// How the address is announced and kept. Each setting is from the first policy, by name, that has it.
    fn manner(&self, address: IpAddr, ip: &HeldIp) -> Manner {
        let mut manner = Manner::default();
        for of in self
            .policies(address, ip.ip.pool.as_deref(), &ip.ip.claims)
            .map(|p| &p.layer2)
        {
            manner.refresh = manner.refresh.or(of.refresh);
            manner.conflicts = manner.conflicts.or(of.conflict_detection);
            manner.subnet_check = manner.subnet_check.or(of.subnet_check);
        }
        manner
    }

    /// The policies for the address on this node, in the order in which settings are taken from them.
    pub(crate) fn policies(
        &self,
        address: IpAddr,
        pool: Option<&str>,
        claims: &[Claim],
    ) -> impl Iterator<Item = &'a AnnouncementPolicy> {
        let pool = pool_of(self.config, pool, address);
        let held = claims.iter().filter_map(|claim| {
            let holder = self.holders.get(&claim.service)?;
            Some(Applicant {
                id: &claim.service,
                labels: &holder.labels,
                policy: holder.policy.as_deref(),
            })
        });
        let policies = self.config.policies_of(Some(&pool), &held.collect::<Vec<_>>());
        policies.filter(|policy| policy.covers_node(self.node_labels))
    }

    /// The advertisements that speak for the address on this node.
    pub(crate) fn advertisements(&self, address: IpAddr, ip: &HeldIp) -> Vec<&'a L2Advertisement> {
        let pool = pool_of(self.config, ip.ip.pool.as_deref(), address);
        self.config
            .l2_advertisements
            .values()
            .filter(|ad| {
                ad.covers_pool(&pool)
                    && ad.covers_node(self.node_labels)
                    && claimants(self.holders, ip).any(|(_, holder)| ad.covers_service(&holder.labels))
            })
            .collect()
    }
}

/// The pool of an address: the one it was taken from, or the one it lies in now. A holder outlives its pool, so an
/// address without either still has the name of its pool, which advertisements may select, and no labels.
pub(crate) fn pool_of<'a>(config: &'a Config, named: Option<&str>, address: IpAddr) -> Cow<'a, Pool> {
    let pool = named.and_then(|name| config.pools.get(name));
    match pool.or_else(|| config.pool_of(address)) {
        Some(pool) => Cow::Borrowed(pool),
        None => Cow::Owned(Pool {
            name: named.unwrap_or_default().to_owned(),
            labels: Labels::new(),
            ranges: Vec::new(),
            auto_assign: false,
            avoid_buggy_ips: false,
            allocation: None,
            on_shrink: OnShrink::Keep,
        }),
    }
}

/// The Services that hold the address and are there.
pub(crate) fn claimants<'a>(
    holders: &'a Holders,
    ip: &'a HeldIp,
) -> impl Iterator<Item = (&'a ServiceId, &'a Holder)> + use<'a> {
    ip.ip
        .claims
        .iter()
        .filter_map(|claim| holders.get(&claim.service).map(|holder| (&claim.service, holder)))
}
