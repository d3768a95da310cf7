//! Nodes and endpoints, as far as a decision depends on them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::ip::Family;
use crate::selector::Labels;
use crate::service::ServiceId;
use crate::virtual_ip::Stranger;

/// What a decision needs of a Node. Views are compared with `==`; an equal view is no news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// The Node's name.
    pub name: String,
    /// The Node's labels.
    pub labels: Labels,
    /// Condition `Ready` is `True`.
    pub ready: bool,
    /// Condition `Ready` is `Unknown`: Kubernetes has not heard of the node's kubelet for a while.
    pub silent: bool,
    /// Condition `NetworkUnavailable` is `True`.
    pub network_unavailable: bool,
    /// Label `node.kubernetes.io/exclude-from-external-load-balancers` is present.
    pub excluded: bool,
    /// It takes no new pods (`spec.unschedulable`).
    pub cordoned: bool,
    /// A taint with the effect NoExecute that somebody set on purpose: those by which Kubernetes says that a node is not Ready
    /// or not reachable do not count.
    pub evicting: bool,
    /// Every parsable address in the Node's status, whatever its type.
    pub addresses: BTreeSet<IpAddr>,
}

/// What an address means to the network around a node, so that no Service can have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressUse {
    /// An address of the node.
    Node,
    /// A gateway of the node.
    Gateway,
    /// The first address of a subnet of the node: its name in IPv4, all its routers in IPv6 (RFC 4291 section 2.6.1).
    Subnet,
    /// The broadcast address of a subnet of the node.
    Broadcast,
}

impl fmt::Display for AddressUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AddressUse::Node => "an address",
            AddressUse::Gateway => "a gateway",
            AddressUse::Subnet => "the first address of a subnet",
            AddressUse::Broadcast => "the broadcast address of a subnet",
        })
    }
}

/// What the speaker of a node tells about the network around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkView {
    /// The node.
    pub node: String,
    /// Addresses that no Service can have.
    pub addresses: BTreeMap<IpAddr, AddressUse>,
    /// The interfaces that addresses could be announced on if they were up.
    pub links: Vec<LinkView>,
    /// Addresses of Services that another machine uses as well.
    pub conflicts: BTreeMap<IpAddr, Stranger>,
}

/// An interface of a node, as its speaker tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkView {
    /// Its name.
    pub name: String,
    /// It is up, with carrier.
    pub running: bool,
    /// Its addresses with their prefix lengths.
    pub subnets: BTreeSet<IpNet>,
}

/// One EndpointSlice of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointsView {
    /// Namespace and name of the slice itself.
    pub slice: (String, String),
    /// The Service that label `kubernetes.io/service-name` names; slices without it are never views.
    pub service: ServiceId,
    /// The family of their addresses. A Service with two has a slice of each, with the same pods.
    pub family: Family,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint, reduced to whether it can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The node it runs on, when the slice says so.
    pub node: Option<String>,
    /// `ready` is true or absent.
    pub ready: bool,
    /// `serving` is true; where it is absent, it is as `ready`.
    pub serving: bool,
}

impl Endpoint {
    /// Ready, or terminating but still serving.
    pub fn can_serve(&self) -> bool {
        self.ready || self.serving
    }
}
