//! `L2Advertisement`: which nodes announce which pools on the local segment.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schema, wire};

/// What is announced, and from where. Everything is optional: with nothing set, all addresses are announced from all
/// nodes on all interfaces.
#[derive(Clone, Debug, Default, CustomResource, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "L2Advertisement",
    plural = "l2advertisements",
    namespaced,
    status = "L2AdvertisementStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Announces the addresses of pools on the local network by ARP (IPv4) and Neighbor Discovery (IPv6).",
    printcolumn(
        name = "IPAddressPools",
        type_ = "string",
        json_path = ".spec.ipAddressPools",
        description = "The pools that are announced, by name."
    ),
    printcolumn(
        name = "IPAddressPool Selectors",
        type_ = "string",
        json_path = ".spec.ipAddressPoolSelectors",
        description = "The pools that are announced, by label."
    ),
    printcolumn(
        name = "Interfaces",
        type_ = "string",
        json_path = ".spec.interfaces",
        description = "The interfaces on which they are announced."
    ),
    printcolumn(
        name = "Node Selectors",
        type_ = "string",
        json_path = ".spec.nodeSelectors",
        description = "The nodes that may announce them.",
        priority = 10
    )
)]
// `remote` keeps the derived code apart, so that `wire::optional_spec` can stand in front of it.
#[serde(remote = "Self", rename_all = "camelCase")]
#[schemars(rename = "L2AdvertisementSpec")]
pub struct L2AdvertisementSpec {
    /// The pools to announce, by name. A name that no pool has yet is no error. Without names and without selectors,
    /// all pools are announced.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    pub ip_address_pools: Vec<String>,

    /// The pools to announce, by label, in addition to those named. Any one selector is enough.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_selectors")]
    pub ip_address_pool_selectors: Vec<LabelSelector>,

    /// The nodes that may announce. Any one selector is enough; without any, all nodes may.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_selectors")]
    pub node_selectors: Vec<LabelSelector>,

    /// The interfaces to announce on, by their literal names. Without any, all suitable interfaces are used.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,

    /// The Services whose addresses are announced, by label. Any one selector is enough; without any, all are.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_selectors")]
    pub service_selectors: Vec<LabelSelector>,

    /// Which of the nodes that may announce are preferred. A node's weights add up; the highest sum wins.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    pub preferred_node_selectors: Vec<PreferredNodeSelector>,
}

wire::optional_spec!(L2AdvertisementSpec);

/// A preference for some nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("required" = ["weight", "preference"]))]
pub struct PreferredNodeSelector {
    /// What a matching node's score is raised by, 1 to 100.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(range(min = 1, max = 100))]
    pub weight: i32,

    /// The nodes meant. An empty selector matches every node.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::label_selector")]
    pub preference: LabelSelector,
}

/// Nothing is reported here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct L2AdvertisementStatus {}
