//! `IPAddressPool`: addresses that may be handed out, and to whom.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schema, wire};

/// The addresses of the pool and the rules for handing them out.
#[derive(Clone, Debug, CustomResource, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "IPAddressPool",
    root = "IpAddressPool",
    plural = "ipaddresspools",
    namespaced,
    status = "IpAddressPoolStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A pool of IP addresses that may be handed out to Services of type LoadBalancer.",
    printcolumn(
        name = "Auto Assign",
        type_ = "boolean",
        json_path = ".spec.autoAssign",
        description = "Whether Services get addresses from this pool without asking for it."
    ),
    printcolumn(
        name = "Avoid Buggy IPs",
        type_ = "boolean",
        json_path = ".spec.avoidBuggyIPs",
        description = "Whether IPv4 addresses that end in .0 or .255 are left out."
    ),
    printcolumn(
        name = "Addresses",
        type_ = "string",
        json_path = ".spec.addresses",
        description = "The prefixes and ranges of the pool."
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("required" = ["addresses"]))]
pub struct IpAddressPoolSpec {
    /// The addresses of the pool, each item a CIDR prefix like `192.0.2.0/24` or a range like `192.0.2.10-192.0.2.20`,
    /// IPv4 or IPv6. They are handed out in this order. No address may be in two pools.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::pool_addresses")]
    pub addresses: Vec<String>,

    /// Whether a Service that asks for no pool and no address may get one from this pool.
    #[serde(default = "wire::yes", deserialize_with = "wire::or_true")]
    pub auto_assign: bool,

    /// Leave out IPv4 addresses that end in .0 or .255, which some old routers and firewalls drop.
    #[serde(default, rename = "avoidBuggyIPs", deserialize_with = "wire::or_default")]
    pub avoid_buggy_ips: bool,

    /// Keeps the pool for the Services selected here. A pool without it is for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_allocation: Option<ServiceAllocation>,
}

/// Which Services a pool is kept for, and when it is tried.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAllocation {
    /// Pools with a lower number are tried first; 0, or none, is tried last.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "wire::is_zero")]
    pub priority: i32,

    /// Namespaces whose Services may use the pool, by name.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,

    /// Namespaces whose Services may use the pool, by label. Any one selector is enough.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_selectors")]
    pub namespace_selectors: Vec<LabelSelector>,

    /// Services that may use the pool, by label. Any one selector is enough.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_selectors")]
    pub service_selectors: Vec<LabelSelector>,
}

/// How full the pool is. An address that several Services share counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("required" = ["assignedIPv4", "assignedIPv6", "availableIPv4", "availableIPv6"]))]
pub struct IpAddressPoolStatus {
    /// IPv4 addresses in use.
    #[serde(default, rename = "assignedIPv4", deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::count")]
    pub assigned_ipv4: i64,

    /// IPv6 addresses in use.
    #[serde(default, rename = "assignedIPv6", deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::count")]
    pub assigned_ipv6: i64,

    /// IPv4 addresses that are free.
    #[serde(default, rename = "availableIPv4", deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::count")]
    pub available_ipv4: i64,

    /// IPv6 addresses that are free; at most 9223372036854775807 is shown.
    #[serde(default, rename = "availableIPv6", deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::count")]
    pub available_ipv6: i64,
}

impl Default for IpAddressPoolSpec {
    fn default() -> Self {
        IpAddressPoolSpec {
            addresses: Vec::new(),
            auto_assign: wire::yes(),
            avoid_buggy_ips: false,
            service_allocation: None,
        }
    }
}
