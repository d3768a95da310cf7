//! `BGPAdvertisement`: which addresses are advertised to which BGP peers, from which nodes, and how.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schema, wire};

/// What is advertised, to whom and with what. Everything is optional: with nothing set, all addresses are advertised as
/// they are, from all nodes to all peers.
#[derive(Clone, Debug, Default, CustomResource, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "BGPAdvertisement",
    root = "BgpAdvertisement",
    plural = "bgpadvertisements",
    namespaced,
    status = "BgpAdvertisementStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Advertises the addresses of pools to BGP peers.",
    printcolumn(
        name = "IPAddressPools",
        type_ = "string",
        json_path = ".spec.ipAddressPools",
        description = "The pools that are advertised, by name."
    ),
    printcolumn(
        name = "IPAddressPool Selectors",
        type_ = "string",
        json_path = ".spec.ipAddressPoolSelectors",
        description = "The pools that are advertised, by label."
    ),
    printcolumn(
        name = "Peers",
        type_ = "string",
        json_path = ".spec.peers",
        description = "The peers that they are advertised to."
    ),
    printcolumn(
        name = "Node Selectors",
        type_ = "string",
        json_path = ".spec.nodeSelectors",
        description = "The nodes that may advertise them.",
        priority = 10
    )
)]
// `remote` keeps the derived code apart, so that `wire::optional_spec` can stand in front of it.
#[serde(remote = "Self", rename_all = "camelCase")]
#[schemars(rename = "BgpAdvertisementSpec", extend("x-kubernetes-validations" = schema::bgp_advertisement_rules()))]
pub struct BgpAdvertisementSpec {
    /// The prefix length under which IPv4 addresses are advertised; with less than 32 one prefix stands for several.
    /// Never shorter than the prefixes of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32), extend("default" = 32))]
    pub aggregation_length: Option<i32>,

    /// The prefix length under which IPv6 addresses are advertised; with less than 128 one prefix stands for several.
    /// Never shorter than the prefixes of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128), extend("default" = 128))]
    pub aggregation_length_v6: Option<i32>,

    /// LOCAL_PREF, sent to internal peers alone. 0, or none, is 100.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "wire::is_zero")]
    #[schemars(schema_with = "schema::uint32")]
    pub local_pref: u32,

    /// How often our AS number is put in front of the path once more, to external peers. Without it, 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub as_path_prepend: Option<u32>,

    /// The communities to attach: `65000:100`, `large:65000:1:2`, or a name from a Community object.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,

    /// The pools to advertise, by name. A name that no pool has yet is no error. Without names and without selectors,
    /// all pools are advertised.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    pub ip_address_pools: Vec<String>,

    /// The pools to advertise, by label, in addition to those named. Any one selector is enough.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_selectors")]
    pub ip_address_pool_selectors: Vec<LabelSelector>,

    /// The nodes that may advertise, and so be next hops. Any one selector is enough; without any, all nodes may.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_selectors")]
    pub node_selectors: Vec<LabelSelector>,

    /// The BGPPeers to advertise to, by name. Without any, to all; a name that no peer has gets nothing.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,

    /// The Services whose addresses are advertised, by label. Any one selector is enough; without any, all are.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_selectors")]
    pub service_selectors: Vec<LabelSelector>,
}

wire::optional_spec!(BgpAdvertisementSpec);

/// Nothing is reported here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BgpAdvertisementStatus {}
