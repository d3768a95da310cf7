//! `AnnouncementPolicy`: how addresses are announced, as far as the `metallb.io` kinds have no field for it.
//!
//! Every setting is optional, and what a missing one means stands with it. There are no defaults in the schema, because
//! a setting that is there decides: where several policies select the same thing, each setting is taken from the first
//! of them, in the order of their names, that has it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schema, wire};

/// What the policy is for, and its settings.
#[derive(Clone, Debug, Default, CustomResource, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ferrolb.io",
    version = "v1alpha1",
    kind = "AnnouncementPolicy",
    plural = "announcementpolicies",
    derive = "PartialEq",
    derive = "Default",
    doc = "Settings of announcements, for the pools, Services and nodes selected. Where several policies select the same \
           thing, each setting is taken from the first of them, by name, that has it.",
    printcolumn(
        name = "IPAddressPools",
        type_ = "string",
        json_path = ".spec.ipAddressPools",
        description = "The pools that the policy is for, by name."
    ),
    printcolumn(
        name = "Service Selectors",
        type_ = "string",
        json_path = ".spec.serviceSelectors",
        description = "The Services that it is for, by label."
    ),
    printcolumn(
        name = "Node Selectors",
        type_ = "string",
        json_path = ".spec.nodeSelectors",
        description = "The nodes that it is for, by label.",
        priority = 10
    ),
    printcolumn(
        name = "On Request",
        type_ = "string",
        json_path = ".spec.onRequest",
        description = "Whether Services have to ask for it, and those of which namespaces may.",
        priority = 10
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Since when the policy is there."
    )
)]
#[serde(rename_all = "camelCase")]
pub struct AnnouncementPolicySpec {
    /// The pools that the policy is for, by name. Without names and without selectors, it is for all pools.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    pub ip_address_pools: Vec<String>,

    /// The pools that the policy is for, by label, in addition to those named. Any one selector is enough.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_selectors")]
    pub ip_address_pool_selectors: Vec<LabelSelector>,

    /// The Services that the policy is for, by label. Any one selector is enough; without any, it is for all.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_selectors")]
    pub service_selectors: Vec<LabelSelector>,

    /// The nodes that the policy is for, by label. Any one selector is enough; without any, it is for all.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_selectors")]
    pub node_selectors: Vec<LabelSelector>,

    /// With it, the policy is only for those of the Services selected that ask for it by the annotation
    /// `ferrolb.io/announcement-policy`, and its settings go before those of policies that are not asked for. Without
    /// it, it is for all that is selected, and cannot be asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_request: Option<OnRequest>,

    /// Announcing by ARP and Neighbor Discovery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer2: Option<Layer2Policy>,

    /// When a node gives up what it announces. The last node that can serve an address keeps it, but for ExcludeLabel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainPolicy>,

    /// Which endpoints let a node announce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<EndpointPolicy>,

    /// Announcing by BGP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<BgpPolicy>,
}

/// Which Services may ask for the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnRequest {
    /// Those of these namespaces. Without any, those of every namespace.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::namespaces")]
    pub namespaces: Vec<String>,
}

/// Settings of layer 2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Layer2Policy {
    /// Which node announces an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementPolicy>,

    /// How the speakers watch each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<LivenessPolicy>,

    /// How long an address stays with a node whose speaker is silent while the node lives, in seconds. Without it, 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub grace_seconds: Option<u32>,

    /// Whether a standby answers in the owner's name, with the owner's MAC address, while the owner's speaker is silent
    /// and its node lives. Switch it off where the network drops such answers (ARP inspection). Without it, true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_for_owner: Option<bool>,

    /// How an address is kept from being announced while another machine uses it. Without it, Probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::conflict_detection")]
    pub conflict_detection: Option<ConflictDetection>,

    /// How often an announcement is repeated unasked, in seconds; 0 is never. Without it, what the flag of the speaker
    /// says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub refresh_seconds: Option<u32>,

    /// Whether an address is announced only on interfaces with a subnet that contains it. Without it, true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet_check: Option<bool>,
}

/// Which node announces an address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlacementPolicy {
    /// Nodes that are preferred. The weights of all that match a node add up, those of L2Advertisements included; the
    /// highest sum wins, and among equals the node with the fewest addresses.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub weights: Vec<NodeWeight>,

    /// Which addresses shall be announced by different nodes, as far as there are enough. Without it,
    /// those of one Service prefer the same node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anti_affinity: Option<AntiAffinity>,

    /// Whether an address moves when a node with a higher weight comes back. Without it, false: what works stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemption: Option<bool>,
}

/// A preference for some nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("required" = ["weight", "nodeSelector"]))]
pub struct NodeWeight {
    /// What a matching node's score is raised by, 1 to 100.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(range(min = 1, max = 100))]
    pub weight: i32,

    /// The nodes meant. An empty selector matches every node.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::label_selector")]
    pub node_selector: LabelSelector,
}

/// Which addresses shall be announced by different nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("required" = ["among"], "x-kubernetes-validations" = schema::anti_affinity_rules()))]
pub struct AntiAffinity {
    /// None: no matter which. Service: those of one Service. Label: those of all Services with the same value of
    /// labelKey.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::anti_affinity_group")]
    pub among: AntiAffinityGroup,

    /// The label of Services whose value makes a group.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 317))]
    pub label_key: String,
}

/// What makes a group of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AntiAffinityGroup {
    /// Nothing.
    None,
    /// The Service.
    #[default]
    Service,
    /// A label of the Services.
    Label,
}

/// How the speakers watch each other. The shorter, the faster a dead node is noticed; a missed heartbeat alone moves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LivenessPolicy {
    /// The time between heartbeats, in milliseconds. Without it, 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 10000))]
    pub interval_milliseconds: Option<u32>,

    /// How many heartbeats are missed before the wire is asked. Without it, 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub multiplier: Option<u32>,
}

/// How an address is kept from being announced while another machine uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConflictDetection {
    /// The network is asked before an address is handed out and before it is announced; then as `Passive`.
    #[default]
    Probe,
    /// Frames of others that claim an announced address are noticed, told and answered.
    Passive,
    /// Nothing is done.
    Disabled,
}

/// When a node gives up what it announces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainPolicy {
    /// What makes a node give up. Absent: ExcludeLabel; empty: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::drain_triggers")]
    pub triggers: Option<Vec<DrainTrigger>>,

    /// How long the trigger has to last, in seconds. Without it, 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub delay_seconds: Option<u32>,
}

/// What makes a node give up what it announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DrainTrigger {
    /// The label `node.kubernetes.io/exclude-from-external-load-balancers`, with any value.
    ExcludeLabel,
    /// The node is cordoned (`spec.unschedulable`).
    Cordon,
    /// A taint with the effect NoExecute.
    Taint,
}

/// Which endpoints let a node announce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPolicy {
    /// Ready: ready ones alone. Serving: where none is ready, those that still serve while they terminate. Without it,
    /// Serving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::endpoint_condition")]
    pub policy: Option<EndpointCondition>,

    /// How long a node waits at most for its kube-proxy before it announces an address, in seconds. Without it, 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 300))]
    pub wait_seconds: Option<u32>,
}

/// Which endpoints count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndpointCondition {
    /// Those that are ready.
    Ready,
    /// Those that are ready; where there are none, those that serve and terminate.
    #[default]
    Serving,
}

/// What routes carry, and how they are taken back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BgpPolicy {
    /// The MULTI_EXIT_DISC attribute. Without it, none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::uint32")]
    pub med: Option<u32>,

    /// How often our AS number is put in front of the path once more, to external peers. Without it, 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 32))]
    pub as_path_prepend: Option<u32>,

    /// Large communities to attach in addition, like `65000:1:2` (RFC 8092).
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::large_communities")]
    pub large_communities: Vec<String>,

    /// Extended communities to attach, like `rt:65000:100` (route target) or `soo:192.0.2.1:7` (site of origin, RFC
    /// 4360).
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::extended_communities")]
    pub extended_communities: Vec<String>,

    /// Attach a link bandwidth that grows with the endpoints on the node, for routers that weigh their next hops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_bandwidth: Option<LinkBandwidth>,

    /// How routes are taken back on purpose. Without it, with a wait of 5 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graceful_shutdown: Option<GracefulShutdown>,

    /// Settings of BGPPeers, for the nodes that the policy selects; pools and Services do not matter for them. Not with
    /// onRequest.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub peers: Vec<PeerPolicy>,
}

/// What is different about a BGPPeer on the nodes selected. The BGPPeer says everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("required" = ["name"]))]
pub struct PeerPolicy {
    /// The name of the BGPPeer. It may come later.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Where the router's address is found, in place of the BGPPeer's peerAddress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<PeerAddressSource>,

    /// Where the router's AS number is found, in place of the BGPPeer's peerASN and dynamicASN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asn: Option<PeerAsnSource>,

    /// Who opens the connection: Speaker, Router, or Both, of whose two connections one is closed. For Router and Both the
    /// speaker listens on the port of its flag --bgp-port. Without it, Speaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opened_by")]
    pub opened_by: Option<OpenedBy>,

    /// TTL security (RFC 5082): what comes from further away than so many hops is dropped, where 1 is a router on a link of the
    /// node. The router has to check the same of the speaker. Without it, any TTL will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub ttl_security_hops: Option<u32>,
}

/// Where the address of a router is found. Exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::one_source(&["nodeLabel", "nodeAnnotation", "defaultGateway"])))]
pub struct PeerAddressSource {
    /// A label of the node, by its key. A label cannot hold an IPv6 address.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 317))]
    pub node_label: String,

    /// An annotation of the node, by its key. A link-local address needs its interface, like `fe80::1%eth0`.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 317))]
    pub node_annotation: String,

    /// The node's default gateway of this family: IPv4 or IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::gateway_family")]
    pub default_gateway: Option<GatewayFamily>,
}

/// Where the AS number of a router is found. Exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::one_source(&["nodeLabel", "nodeAnnotation"])))]
pub struct PeerAsnSource {
    /// A label of the node, by its key.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 317))]
    pub node_label: String,

    /// An annotation of the node, by its key.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 317))]
    pub node_annotation: String,
}

/// Who opens the connection to a router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpenedBy {
    /// The speaker.
    #[default]
    Speaker,
    /// The router.
    Router,
    /// Either, or both.
    Both,
}

/// A family of default gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewayFamily {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

/// The link bandwidth community.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkBandwidth {
    /// What each ready endpoint on the node counts for, in megabits per second. Without it, 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub megabits_per_endpoint: Option<u32>,
}

/// How routes are taken back on purpose (RFC 8326).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GracefulShutdown {
    /// How long routes carry GRACEFUL_SHUTDOWN before they are withdrawn, in seconds; 0 withdraws them at once. Without
    /// it, 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 600))]
    pub wait_seconds: Option<u32>,
}
