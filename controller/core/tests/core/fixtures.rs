//! Objects to build scenarios from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ferrolb_model::{
    AddressRequest, AnnouncementPolicy, Claim, Config, Endpoint, EndpointsView, Family, FamilyPolicy, FamilySet,
    L2Advertisement, Labels, LinkView, NetworkView, NodeView, OnShrink, Pool, PoolSelection, Port, Protocol, ServiceId,
    ServiceView, VirtualIp,
};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn id(name: &str) -> ServiceId {
    ServiceId::new("default", name)
}

/// An IPv4 Service of type LoadBalancer with one port; older with a lower `created`.
pub(crate) fn service(name: &str, created: i64) -> ServiceView {
    ServiceView {
        uid: format!("uid-{name}-{created}"),
        created,
        selector: format!("app={name}"),
        ports: BTreeSet::from([Port {
            protocol: Protocol::Tcp,
            port: 80,
        }]),
        ..ServiceView::load_balancer(id(name))
    }
}

pub(crate) fn dual(mut view: ServiceView, policy: FamilyPolicy) -> ServiceView {
    view.families = FamilySet { v4: true, v6: true };
    view.family_policy = policy;
    view
}

pub(crate) fn asking(mut view: ServiceView, pool: Option<&str>, addresses: &[&str]) -> ServiceView {
    view.request = Ok(AddressRequest {
        pool: pool.map(str::to_owned),
        addresses: addresses.iter().map(|a| ip(a)).collect(),
    });
    view
}

pub(crate) fn sharing(mut view: ServiceView, key: &str, port: u16) -> ServiceView {
    view.sharing_key = Some(key.to_owned());
    view.ports = BTreeSet::from([Port {
        protocol: Protocol::Tcp,
        port,
    }]);
    view
}

pub(crate) fn pool(name: &str, ranges: &[&str]) -> Pool {
    Pool {
        name: name.to_owned(),
        labels: Labels::new(),
        ranges: ranges.iter().map(|r| r.parse().unwrap()).collect(),
        auto_assign: true,
        avoid_buggy_ips: false,
        allocation: None,
        on_shrink: OnShrink::Keep,
    }
}

/// A configuration with these pools, all announced everywhere.
pub(crate) fn config(pools: impl IntoIterator<Item = Pool>) -> Arc<Config> {
    let ad = L2Advertisement {
        name: "all".to_owned(),
        pools: PoolSelection::All,
        node_selectors: Vec::new(),
        service_selectors: Vec::new(),
        interfaces: None,
        preferred_nodes: Vec::new(),
    };
    Arc::new(Config {
        pools: pools.into_iter().map(|p| (p.name.clone(), p)).collect(),
        l2_advertisements: BTreeMap::from([(ad.name.clone(), ad)]),
        ..Config::default()
    })
}

/// An AnnouncementPolicy for all that leaves everything at its default.
pub(crate) fn policy(name: &str) -> AnnouncementPolicy {
    AnnouncementPolicy {
        name: name.to_owned(),
        ..AnnouncementPolicy::default()
    }
}

pub(crate) fn node(name: &str) -> NodeView {
    NodeView {
        name: name.to_owned(),
        labels: Labels::from([("kubernetes.io/hostname".to_owned(), name.to_owned())]),
        ready: true,
        silent: false,
        network_unavailable: false,
        excluded: false,
        cordoned: false,
        evicting: false,
        addresses: BTreeSet::new(),
    }
}

pub(crate) fn endpoints(service: &str, nodes: &[&str]) -> EndpointsView {
    EndpointsView {
        slice: ("default".to_owned(), format!("{service}-slice")),
        service: id(service),
        family: Family::V4,
        endpoints: nodes
            .iter()
            .map(|n| Endpoint {
                node: Some((*n).to_owned()),
                ready: true,
                serving: true,
            })
            .collect(),
    }
}

/// An object made by hand or by an earlier controller.
pub(crate) fn virtual_ip(address: &str, claims: &[(&str, Option<&str>)]) -> VirtualIp {
    VirtualIp {
        claims: claims
            .iter()
            .map(|(name, uid)| Claim {
                service: id(name),
                uid: uid.map(str::to_owned),
            })
            .collect(),
        ..VirtualIp::of(ip(address))
    }
}

/// What the speaker of a node with these interfaces tells: name, whether it runs, and its address with prefix length.
pub(crate) fn network(node: &str, links: &[(&str, bool, &str)]) -> NetworkView {
    NetworkView {
        node: node.to_owned(),
        addresses: BTreeMap::new(),
        links: links
            .iter()
            .map(|(name, running, subnet)| LinkView {
                name: (*name).to_owned(),
                running: *running,
                subnets: BTreeSet::from([subnet.parse().unwrap()]),
            })
            .collect(),
        conflicts: BTreeMap::new(),
    }
}
