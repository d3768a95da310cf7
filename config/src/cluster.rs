//! Nodes and EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ferrolb_api::SpeakerState;
use ferrolb_api::names::labels;
use ferrolb_model::{
    AddressUse, Endpoint, EndpointsView, Family, LinkView, NetworkView, NodeView, ServiceId, Stranger,
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::api::discovery::v1::{self as discovery, EndpointSlice};

use crate::service::parse_address;

/// What decisions need of a Node.
pub fn node_view(object: &Node) -> NodeView {
    let (spec, status) = (object.spec.as_ref(), object.status.as_ref());
    let is = |condition: &str, value: &str| {
        let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == condition && c.status == value)
    };
    let node_labels = object.metadata.labels.clone().unwrap_or_default();
    NodeView {
        name: object.metadata.name.clone().unwrap_or_default(),
        ready: is("Ready", "True"),
        silent: is("Ready", "Unknown"),
        network_unavailable: is("NetworkUnavailable", "True"),
        excluded: node_labels.contains_key(labels::EXCLUDE_NODE),
        cordoned: spec.and_then(|s| s.unschedulable).unwrap_or(false),
        evicting: spec.iter().flat_map(|s| s.taints.iter().flatten()).any(evicts),
        addresses: node_addresses(object),
        labels: node_labels.into(),
    }
}

/// Whether somebody wants the pods off the node. A node that is lost gets such taints from Kubernetes itself.
fn evicts(taint: &Taint) -> bool {
    let lost = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    taint.effect == "NoExecute" && !lost.contains(&taint.key.as_str())
}

/// What the speaker of a node tells about the network around it. What cannot be read is left out.
pub fn network_view(object: &SpeakerState) -> NetworkView {
    let interfaces = object.status.iter().flat_map(|status| &status.interfaces);
    let (mut addresses, mut links) = (BTreeMap::new(), Vec::new());
    for interface in interfaces {
        let subnets = interface.addresses.iter().filter_map(|text| text.parse().ok());
        let subnets = subnets.collect::<BTreeSet<IpNet>>();
        addresses.extend(subnets.iter().flat_map(|net| edges(*net)));
        let gateways = interface.gateways.iter().filter_map(|text| parse_address(text));
        addresses.extend(gateways.map(|gateway| (gateway, AddressUse::Gateway)));
        links.push(LinkView {
            name: interface.name.clone(),
            running: interface.up && interface.carrier,
            subnets,
        });
    }
    NetworkView {
        node: object.metadata.name.clone().unwrap_or_default(),
        addresses,
        links,
        conflicts: status_conflicts(object),
    }
}

/// Addresses that other machines use, each with one of them.
fn status_conflicts(object: &SpeakerState) -> BTreeMap<IpAddr, Stranger> {
    let conflicts = object.status.iter().flat_map(|status| &status.conflicts);
    let conflicts = conflicts.filter_map(|conflict| {
        let stranger = Stranger {
            mac: Stranger::parse_mac(&conflict.mac_address)?,
            interface: conflict.interface.clone(),
        };
        Some((parse_address(&conflict.address)?, stranger))
    });
    conflicts.collect()
}

/// The addresses of a subnet that no host can have; none in one of two addresses (RFC 3021, RFC 6164) or of one.
fn edges(net: IpNet) -> Vec<(IpAddr, AddressUse)> {
    if net.max_prefix_len() - net.prefix_len() < 2 {
        return Vec::new();
    }
    let mut edges = vec![(net.network(), AddressUse::Subnet)];
    if net.network().is_ipv4() {
        edges.push((net.broadcast(), AddressUse::Broadcast));
    }
    edges
}

/// The addresses in a Node's status, of every type.
pub(crate) fn node_addresses(object: &Node) -> BTreeSet<IpAddr> {
    let addresses = object
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten());
    addresses.filter_map(|a| parse_address(&a.address)).collect()
}

/// What decisions need of an EndpointSlice; `None` for one that belongs to no Service.
pub fn endpoints_view(object: &EndpointSlice) -> Option<EndpointsView> {
    let service = object.metadata.labels.as_ref()?.get(labels::SERVICE_NAME)?;
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    Some(EndpointsView {
        slice: (namespace.clone(), object.metadata.name.clone().unwrap_or_default()),
        service: ServiceId::new(namespace, service),
        family: if object.address_type == "IPv6" {
            Family::V6
        } else {
            Family::V4
        },
        endpoints: object.endpoints.iter().map(endpoint).collect(),
    })
}

fn endpoint(object: &discovery::Endpoint) -> Endpoint {
    let conditions = object.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    Endpoint {
        node: object.node_name.clone().filter(|n| !n.is_empty()),
        ready,
        // A slice made by hand often says `ready: false` and nothing else.
        serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
    }
}
