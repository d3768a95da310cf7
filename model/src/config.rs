//! The configuration in force: immutable, shared by `Arc`, replaced as a whole.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::advertise::{L2Advertisement, PoolSelection};
use crate::allocation_policy::AllocationPolicy;
use crate::announcement_policy::{AnnouncementPolicy, Applicant, PolicyDenial};
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
    /// Settings of announcements, by name; [`Config::policies_of`] gives those of a Service.
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

    /// The policies of `services` on an address of `pool`, whatever the node, in the order in which settings are taken from
    /// them: those that had to be asked for come first, both by name. Without a pool, those that are for every one.
    pub fn policies_of<'a>(
        &'a self,
        pool: Option<&Pool>,
        services: &[Applicant<'_>],
    ) -> impl Iterator<Item = &'a AnnouncementPolicy> + Clone + use<'a> {
        let has = |policy: &&AnnouncementPolicy| {
            pool.map_or(policy.pools == PoolSelection::All, |pool| policy.covers_pool(pool))
                && services.iter().any(|service| policy.is_for(*service))
        };
        let all = self.announcement_policies.values().filter(has);
        let (asked, others): (Vec<_>, Vec<_>) = all.partition(|policy| policy.on_request.is_some());
        asked.into_iter().chain(others)
    }

    /// Why a Service does not have the policy that it asks for on an address of `pool`; without a pool it has no address yet.
    pub fn policy_denied(&self, pool: Option<&Pool>, service: Applicant<'_>) -> Option<PolicyDenial> {
        let Some(policy) = self.announcement_policies.get(service.policy?) else {
            return Some(PolicyDenial::NotInForce);
        };
        let Some(on_request) = &policy.on_request else {
            return Some(PolicyDenial::NotOnRequest);
        };
        if !on_request.admits(&service.id.namespace) {
            return Some(PolicyDenial::Namespace);
        }
        if !policy.covers_service(service.labels) {
            return Some(PolicyDenial::Labels);
        }
        pool.is_some_and(|pool| !policy.covers_pool(pool))
            .then_some(PolicyDenial::Pool)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announcement_policy::OnRequest;
    use crate::selector::{LabelSelector, Operator, Requirement};
    use crate::service::ServiceId;

    fn policy(name: &str, on_request: Option<&[&str]>) -> AnnouncementPolicy {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        AnnouncementPolicy {
            name: name.to_owned(),
            on_request: on_request.map(|of| OnRequest {
                namespaces: Some(names(of)).filter(|names: &std::collections::BTreeSet<_>| !names.is_empty()),
            }),
            ..AnnouncementPolicy::default()
        }
    }

    fn config(policies: Vec<AnnouncementPolicy>) -> Config {
        Config {
            announcement_policies: policies.into_iter().map(|p| (p.name.clone(), p)).collect(),
            ..Config::default()
        }
    }

    fn pool(name: &str) -> Pool {
        Pool {
            name: name.to_owned(),
            labels: Labels::new(),
            ranges: Vec::new(),
            auto_assign: true,
            avoid_buggy_ips: false,
            allocation: None,
            on_shrink: crate::pool::OnShrink::Keep,
        }
    }

    #[test]
    fn a_policy_that_is_asked_for_goes_before_those_that_select() {
        let config = config(vec![
            policy("a", None),
            policy("fast", Some(&["shop"])),
            policy("z", Some(&[])),
        ]);
        let (lan, labels) = (pool("lan"), Labels::new());
        for (namespace, asks, has, denied) in [
            ("shop", None, vec!["a"], None),
            ("shop", Some("fast"), vec!["fast", "a"], None),
            ("other", Some("fast"), vec!["a"], Some(PolicyDenial::Namespace)),
            ("other", Some("z"), vec!["z", "a"], None),
            ("shop", Some("a"), vec!["a"], Some(PolicyDenial::NotOnRequest)),
            ("shop", Some("none"), vec!["a"], Some(PolicyDenial::NotInForce)),
        ] {
            let id = ServiceId::new(namespace, "web");
            let service = Applicant {
                id: &id,
                labels: &labels,
                policy: asks,
            };
            let found: Vec<_> = config.policies_of(Some(&lan), &[service]).map(|p| &*p.name).collect();
            assert_eq!(found, has, "{namespace} asks for {asks:?}");
            assert_eq!(
                config.policy_denied(Some(&lan), service),
                denied,
                "{namespace} asks for {asks:?}"
            );
        }
    }

    #[test]
    fn a_policy_is_denied_where_its_selectors_say_so() {
        let requirement = Requirement {
            key: "app".to_owned(),
            operator: Operator::Exists,
        };
        let narrow = AnnouncementPolicy {
            pools: PoolSelection::Some {
                names: ["wan".to_owned()].into(),
                selectors: Vec::new(),
            },
            service_selectors: vec![LabelSelector {
                requirements: vec![requirement],
            }],
            ..policy("narrow", Some(&[]))
        };
        let config = config(vec![narrow]);
        let (id, with) = (
            ServiceId::new("shop", "web"),
            Labels::from([("app".to_owned(), String::new())]),
        );
        for (labels, pool, denied) in [
            (&with, Some(pool("wan")), None),
            (&with, Some(pool("lan")), Some(PolicyDenial::Pool)),
            (&with, None, None),
            (&Labels::new(), Some(pool("wan")), Some(PolicyDenial::Labels)),
        ] {
            let service = Applicant {
                id: &id,
                labels,
                policy: Some("narrow"),
            };
            assert_eq!(config.policy_denied(pool.as_ref(), service), denied);
            let has = config.policies_of(pool.as_ref(), &[service]).count();
            assert_eq!(has, usize::from(denied.is_none() && pool.is_some()));
        }
    }
}
