//! What the configuration is read against: the cluster around it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ferrolb_model::{IpRange, Labels};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;

use crate::cluster::node_addresses;

/// The cluster, as far as it changes what the objects of the configuration mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The labels of every namespace, by its name.
    pub namespaces: BTreeMap<String, Labels>,
    /// The nodes that may announce, by name. Without any, every two selectors of nodes are taken to meet on one.
    pub nodes: BTreeMap<String, NodeFacts>,
    /// The addresses of ClusterIP Services, by the name of their ServiceCIDR.
    pub service_cidrs: BTreeMap<String, Vec<IpRange>>,
}

/// What the configuration depends on of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, of every type.
    pub addresses: BTreeSet<IpAddr>,
    /// The addresses of its pods.
    pub pod_cidrs: Vec<IpRange>,
}

impl NodeFacts {
    /// Those of `node`. What cannot be read is left out.
    pub fn of(node: &Node) -> Self {
        let cidrs = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
        NodeFacts {
            labels: node.metadata.labels.clone().unwrap_or_default().into(),
            addresses: node_addresses(node),
            pod_cidrs: ranges(cidrs),
        }
    }
}

/// The ranges of a ServiceCIDR. What cannot be read is left out.
pub fn service_cidr(object: &ServiceCIDR) -> Vec<IpRange> {
    ranges(object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()))
}

fn ranges<'a>(cidrs: impl Iterator<Item = &'a String>) -> Vec<IpRange> {
    cidrs.filter_map(|text| text.parse().ok()).collect()
}
