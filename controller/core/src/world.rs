//! The observed world: what the watches said last, and nothing decided here.
//!
//! VirtualIPs are the exception: they stand with the decisions about their address, in `allocator.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{
    AllocationPolicy, Config, EndpointsView, Family, IpRange, NetworkView, NodeView, Pool, ServiceId, ServiceType,
    ServiceView,
};
use litemap::LiteMap;

use crate::groups::Groups;
use crate::since::Since;
use crate::subnets::Subnets;
use crate::taken::next;

/// Services, nodes, endpoints and the configuration.
#[derive(Debug, Default)]
pub(crate) struct World {
    class: Option<String>,
    config: Arc<Config>,
    /// First address of every range to its last and the pool's name; ranges never overlap.
    ranges: BTreeMap<IpAddr, (IpAddr, String)>,
    /// The ranges of every pool in their order; those that go on where the one before ends are one.
    runs: BTreeMap<String, Vec<IpRange>>,
    /// The names of the policies that speak for every namespace, and for each of the others.
    policies_for_all: Vec<String>,
    policies: BTreeMap<String, Vec<String>>,
    services: BTreeMap<ServiceId, ServiceView>,
    groups: Groups,
    nodes: BTreeMap<String, NodeView>,
    networks: BTreeMap<String, NetworkView>,
    subnets: Subnets,
    since: Since,
    /// Most Services have one.
    slices: BTreeMap<ServiceId, LiteMap<(String, String), EndpointsView>>,
    slice_service: BTreeMap<(String, String), ServiceId>,
}

impl World {
    /// An empty world, in which Services of `class` are served.
    pub(crate) fn new(class: Option<String>) -> Self {
        World {
            class,
            ..World::default()
        }
    }

    /// Whether the Service is this installation's to serve: type LoadBalancer, and exactly its class.
    pub(crate) fn is_ours(&self, view: &ServiceView) -> bool {
        view.kind == ServiceType::LoadBalancer && view.class == self.class
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn set_config(&mut self, config: Arc<Config>) {
        self.ranges = config
            .pools
            .values()
            .flat_map(|p| p.ranges.iter().map(|r| (r.first(), (r.last(), p.name.clone()))))
            .collect();
        self.runs = config
            .pools
            .values()
            .map(|p| (p.name.clone(), runs(&p.ranges)))
            .collect();
        self.policies_for_all.clear();
        self.policies.clear();
        for policy in config.allocation_policies.values() {
            match &policy.namespaces {
                None => self.policies_for_all.push(policy.name.clone()),
                Some(names) => {
                    for name in names {
                        self.policies.entry(name.clone()).or_default().push(policy.name.clone());
                    }
                }
            }
        }
        self.groups.set_config(&config, self.services.values());
        self.config = config;
    }

    /// The policies that speak for the namespace.
    pub(crate) fn policies(&self, namespace: &str) -> impl Iterator<Item = &AllocationPolicy> + use<'_> {
        let own = self.policies.get(namespace).into_iter().flatten();
        let names = self.policies_for_all.iter().chain(own);
        names.filter_map(|name| self.config.allocation_policies.get(name))
    }

    /// The pool in force that `address` lies in.
    pub(crate) fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        let (first, (last, pool)) = self.ranges.range(..=address).next_back()?;
        (Family::of(*first) == Family::of(address) && *last >= address)
            .then(|| self.config.pools.get(pool))
            .flatten()
    }

    /// The pool's ranges of a family, in the order in which addresses are taken from them.
    pub(crate) fn runs(&self, pool: &Pool, family: Family) -> impl Iterator<Item = &IpRange> {
        let runs = self.runs.get(&pool.name).into_iter().flatten();
        runs.filter(move |run| run.family() == family)
    }

    pub(crate) fn service(&self, id: &ServiceId) -> Option<&ServiceView> {
        self.services.get(id)
    }

    pub(crate) fn service_mut(&mut self, id: &ServiceId) -> Option<&mut ServiceView> {
        self.services.get_mut(id)
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceView> {
        self.services.values()
    }

    pub(crate) fn set_service(&mut self, view: ServiceView) -> Option<ServiceView> {
        if let Some(old) = self.services.get(&view.id) {
            self.groups.remove(old);
        }
        self.groups.insert(&view);
        self.services.insert(view.id.clone(), view)
    }

    pub(crate) fn remove_service(&mut self, id: &ServiceId) -> Option<ServiceView> {
        let old = self.services.remove(id)?;
        self.groups.remove(&old);
        Some(old)
    }

    /// The Services whose label `key`, which a policy names, has this value.
    pub(crate) fn group(&self, key: &str, value: &str) -> impl Iterator<Item = &ServiceId> {
        self.groups.of(key, value)
    }

    pub(crate) fn nodes(&self) -> &BTreeMap<String, NodeView> {
        &self.nodes
    }

    pub(crate) fn set_node(&mut self, view: NodeView, now: Duration) -> Option<NodeView> {
        self.since.node(&view, now);
        self.nodes.insert(view.name.clone(), view)
    }

    pub(crate) fn remove_node(&mut self, name: &str) -> Option<NodeView> {
        self.since.node_gone(name);
        self.nodes.remove(name)
    }

    pub(crate) fn networks(&self) -> &BTreeMap<String, NetworkView> {
        &self.networks
    }

    pub(crate) fn set_network(&mut self, view: NetworkView, now: Duration) -> Option<NetworkView> {
        self.since.speaker(&view.node, !view.links.is_empty(), now);
        self.subnets.replace(self.networks.get(&view.node), Some(&view));
        self.networks.insert(view.node.clone(), view)
    }

    pub(crate) fn remove_network(&mut self, node: &str, now: Duration) -> Option<NetworkView> {
        self.since.speaker(node, false, now);
        let old = self.networks.remove(node);
        self.subnets.replace(old.as_ref(), None);
        old
    }

    /// What the speaker of the node tells of the network; nothing before it tells of an interface.
    pub(crate) fn network(&self, node: &str) -> Option<&NetworkView> {
        self.networks.get(node).filter(|view| !view.links.is_empty())
    }

    /// The subnets that nodes are in.
    pub(crate) fn subnets(&self) -> &Subnets {
        &self.subnets
    }

    /// Since when nodes are what they are.
    pub(crate) fn since(&self) -> &Since {
        &self.since
    }

    /// Takes a slice in; gives the Services whose endpoints may have changed.
    pub(crate) fn set_slice(&mut self, view: EndpointsView) -> BTreeSet<ServiceId> {
        let mut touched = self.remove_slice(&view.slice);
        touched.insert(view.service.clone());
        self.slice_service.insert(view.slice.clone(), view.service.clone());
        self.slices
            .entry(view.service.clone())
            .or_default()
            .insert(view.slice.clone(), view);
        touched
    }

    /// Takes a slice out; gives the Service whose endpoints may have changed.
    pub(crate) fn remove_slice(&mut self, slice: &(String, String)) -> BTreeSet<ServiceId> {
        let Some(service) = self.slice_service.remove(slice) else {
            return BTreeSet::new();
        };
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        BTreeSet::from([service])
    }

    /// Where the Service can be served: by endpoints that are ready; where there are none, by those that terminate and still
    /// serve, if `terminating` ones count. Kubernetes calls the endpoints of a node not ready when it hears nothing of the
    /// node; as long as that is awaited, they count as before.
    pub(crate) fn serving(&self, service: &ServiceId, terminating: bool, now: Duration) -> Serving<'_> {
        let mut serving = Serving::default();
        let slices = self.slices.get(service).into_iter().flat_map(LiteMap::values);
        let endpoints = slices.flat_map(|slice| &slice.endpoints);
        let ready = endpoints.clone().any(|endpoint| endpoint.ready);
        for endpoint in endpoints {
            let node = endpoint.node.as_deref();
            let ending = terminating && !endpoint.ready && endpoint.serving;
            if endpoint.ready || ending && !ready {
                serving.anywhere = true;
                serving.nodes.extend(node);
            } else if ending {
                serving.to_the_last.extend(node);
            } else if let Some(node) = node.filter(|n| !endpoint.serving && self.since.is_awaited(n, now)) {
                serving.nodes.insert(node);
            }
            // A node that is not Ready drags its endpoints down with it, whether they work or not.
            if let Some(node) = node.filter(|n| self.nodes.get(*n).is_some_and(|v| !v.ready)) {
                serving.to_the_last.insert(node);
            }
        }
        serving
    }
}

/// Joins ranges that follow each other without a gap.
fn runs(ranges: &[IpRange]) -> Vec<IpRange> {
    let mut runs = Vec::<IpRange>::new();
    for range in ranges {
        let joined = runs.last().filter(|run| next(run.last()) == Some(range.first()));
        match joined.and_then(|run| IpRange::new(run.first(), range.last()).ok()) {
            Some(joined) => {
                runs.pop();
                runs.push(joined);
            }
            None => runs.push(*range),
        }
    }
    runs
}

/// Where a Service's endpoints are.
#[derive(Debug, Default)]
pub(crate) struct Serving<'a> {
    /// Some endpoint can serve, on a named node or not.
    pub(crate) anywhere: bool,
    /// The nodes with an endpoint that can serve.
    pub(crate) nodes: BTreeSet<&'a str>,
    /// Nodes that are better than none: not Ready, with an endpoint of which nobody can say whether it serves, or with one
    /// that terminates while others are ready.
    pub(crate) to_the_last: BTreeSet<&'a str>,
}
