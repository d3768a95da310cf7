//! `BGPPeer`: a router to speak BGP with.
//!
//! Two versions are served, v1beta2 (stored) and v1beta1 (deprecated), without a conversion webhook: the API server
//! changes nothing but `apiVersion`. It prunes what it reads and writes by the schema of the version that was asked for,
//! so both versions have the *same* schema, all fields of v1beta2 included, and one struct reads both. Hence an edit
//! through v1beta1 loses nothing, and whatever was stored through one version is valid in the other. A v1beta1 manifest
//! that leaves the timers out gets the default timers. `peerPort: 0`, which only v1beta1 once allowed, means 179.

use std::fmt;

use k8s_openapi::api::core::v1::SecretReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schema, wire};

/// The session with the router.
#[derive(Clone, Debug, CustomResource, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta2",
    kind = "BGPPeer",
    root = "BgpPeer",
    plural = "bgppeers",
    namespaced,
    status = "BgpPeerStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A router that addresses are advertised to by BGP.",
    printcolumn(
        name = "Address",
        type_ = "string",
        json_path = ".spec.peerAddress",
        description = "The address of the router."
    ),
    printcolumn(
        name = "ASN",
        type_ = "string",
        json_path = ".spec.peerASN",
        description = "The AS number of the router."
    ),
    printcolumn(
        name = "BFD Profile",
        type_ = "string",
        json_path = ".spec.bfdProfile",
        description = "The BFDProfile that watches over the session."
    ),
    printcolumn(
        name = "Multi Hops",
        type_ = "string",
        json_path = ".spec.ebgpMultiHop",
        description = "Whether an external router may be more than one hop away."
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("required" = ["myASN"], "x-kubernetes-validations" = schema::bgp_peer_rules()))]
pub struct BgpPeerSpec {
    /// Our AS number.
    #[serde(default, rename = "myASN", deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::asn")]
    pub my_asn: u32,

    /// The AS number of the router. Either this or dynamicASN; 0 is none.
    #[serde(
        default,
        rename = "peerASN",
        deserialize_with = "wire::or_default",
        skip_serializing_if = "wire::is_zero"
    )]
    #[schemars(schema_with = "schema::uint32")]
    pub peer_asn: u32,

    /// Takes the AS number that the router says: `internal` if it is ours, `external` if it is another.
    #[serde(default, rename = "dynamicASN", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::dynamic_asn")]
    pub dynamic_asn: Option<DynamicAsn>,

    /// An AS number to show to this router instead of myASN.
    #[serde(default, rename = "localASN", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::asn")]
    pub local_asn: Option<u32>,

    /// The address of the router. Either this or interface.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::ip_address")]
    pub peer_address: String,

    /// The interface behind which the router is found by its link-local address (an unnumbered session).
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 15))]
    pub interface: String,

    /// The local address to speak from.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::ip_address")]
    pub source_address: String,

    /// The TCP port of the router; 0 is 179.
    #[serde(default = "bgp_port", deserialize_with = "or_bgp_port")]
    #[schemars(range(min = 0, max = 16384))]
    pub peer_port: u16,

    /// After how long without a word the session is lost, like `90s`: 0, which is never, or 3 s to 65535 s. Fractions
    /// of a second are dropped. The router may ask for less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::hold_time")]
    pub hold_time: Option<String>,

    /// How often to send a sign of life, like `30s`; at most holdTime. Without it, a third of holdTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub keepalive_time: Option<String>,

    /// How long to wait between attempts to connect, like `10s`: 1 s to 65535 s, whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::connect_time")]
    pub connect_time: Option<String>,

    /// Our BGP identifier in the session, in the form of an IPv4 address. Without it, an address of the node is taken.
    #[serde(
        default,
        rename = "routerID",
        deserialize_with = "wire::or_default",
        skip_serializing_if = "String::is_empty"
    )]
    #[schemars(schema_with = "schema::router_id")]
    pub router_id: String,

    /// The nodes that speak with the router. Any one selector is enough; without any, all nodes do.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_selectors")]
    pub node_selectors: Vec<LabelSelector>,

    /// The password of the session (TCP MD5, RFC 2385). Better kept in a Secret, see passwordSecret.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Password::is_empty")]
    #[schemars(schema_with = "schema::password")]
    pub password: Password,

    /// The Secret with the password: of type kubernetes.io/basic-auth, under the key `password`, in FerroLB's own
    /// namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::secret_reference")]
    pub password_secret: Option<SecretReference>,

    /// The BFDProfile by which the path to the router is watched. Without it, there is no BFD.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub bfd_profile: String,

    /// Ask the router to keep our routes while the speaker restarts (RFC 4724).
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "wire::is_zero")]
    pub enable_graceful_restart: bool,

    /// Whether an external router may be more than one hop away.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "wire::is_zero")]
    pub ebgp_multi_hop: bool,

    /// The VRF device to speak through.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 15))]
    pub vrf: String,

    /// Deprecated, without effect.
    #[serde(default, rename = "disableMP", deserialize_with = "wire::or_default")]
    pub disable_mp: bool,

    /// Exchange both address families in the session, whichever of the two carries it.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub dual_stack_address_family: bool,
}

/// Which AS numbers a router may have that has none configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DynamicAsn {
    /// Ours.
    Internal,
    /// Any but ours.
    External,
}

/// A password; never shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// The password itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Password {
    fn from(password: String) -> Self {
        Self(password)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { "hidden" })
    }
}

/// Nothing is reported here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BgpPeerStatus {}

impl Default for BgpPeerSpec {
    fn default() -> Self {
        BgpPeerSpec {
            my_asn: 0,
            peer_asn: 0,
            dynamic_asn: None,
            local_asn: None,
            peer_address: String::new(),
            interface: String::new(),
            source_address: String::new(),
            peer_port: bgp_port(),
            hold_time: None,
            keepalive_time: None,
            connect_time: None,
            router_id: String::new(),
            node_selectors: Vec::new(),
            password: Password::default(),
            password_secret: None,
            bfd_profile: String::new(),
            enable_graceful_restart: false,
            ebgp_multi_hop: false,
            vrf: String::new(),
            disable_mp: false,
            dual_stack_address_family: false,
        }
    }
}

fn bgp_port() -> u16 {
    179
}

fn or_bgp_port<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    Option::deserialize(deserializer).map(|port| port.unwrap_or_else(bgp_port))
}
