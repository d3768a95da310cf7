//! `SpeakerState`: what the speaker of a node sees and does. One object per node, named after it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schema, wire};

/// The kind has no spec; the speaker writes the status.
#[derive(Clone, Copy, Debug, Default, CustomResource, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ferrolb.io",
    version = "v1alpha1",
    kind = "SpeakerState",
    plural = "speakerstates",
    no_spec,
    status = "SpeakerStateStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "What the speaker of a node sees and does. Written by FerroLB; one per node, named after it.",
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        description = "The version of the speaker."
    ),
    printcolumn(
        name = "Addresses",
        type_ = "integer",
        json_path = ".status.layer2.announcedAddresses",
        description = "How many addresses the node announces at layer 2."
    ),
    printcolumn(
        name = "Established",
        type_ = "integer",
        json_path = ".status.bgp.established",
        description = "How many BGP sessions stand."
    ),
    printcolumn(
        name = "Last Error",
        type_ = "string",
        json_path = ".status.lastError",
        description = "What went wrong last, if anything did."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Since when the speaker reports."
    )
)]
pub struct SpeakerStateSpec {}

/// What the speaker reports. Written on change, at most once a second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpeakerStateStatus {
    /// The version of the speaker.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    pub version: String,

    /// The interfaces that it may announce on, by name.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub interfaces: Vec<InterfaceState>,

    /// What it does at layer 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer2: Option<Layer2State>,

    /// Addresses of Services that another machine on a segment of the node uses, too. Each stays for a minute after that
    /// machine was last heard.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub conflicts: Vec<AddressConflict>,

    /// What it does by BGP. Absent: no peer is configured for the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<BgpState>,

    /// What went wrong last. Absent while everything is in order.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    pub last_error: String,
}

/// An interface of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("required" = ["name"]))]
pub struct InterfaceState {
    /// Its name.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub name: String,

    /// Its MAC address, like `02:00:5e:10:00:01`.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    pub mac_address: String,

    /// Whether it is switched on.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub up: bool,

    /// Whether there is somebody at the other end.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub carrier: bool,

    /// Its addresses with their prefix length, like `192.0.2.5/24`.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub addresses: Vec<String>,

    /// The gateways that routes of the node name behind it.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub gateways: Vec<String>,
}

/// An address that another machine uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("required" = ["address"]))]
pub struct AddressConflict {
    /// The address.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub address: String,

    /// The interface on whose segment the machine is.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    pub interface: String,

    /// Its MAC address, like `02:00:5e:10:00:01`.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
}

/// Layer 2 on the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Layer2State {
    /// How many addresses the node answers for.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::uint32")]
    pub announced_addresses: u32,
}

/// BGP on the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BgpState {
    /// How many of the sessions stand.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::uint32")]
    pub established: u32,

    /// The sessions, by the name of the peer.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub sessions: Vec<BgpSession>,
}

/// A session with one router.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("required" = ["peer", "state"]))]
pub struct BgpSession {
    /// The name of the BGPPeer.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub peer: String,

    /// The address of the router; for an unnumbered session the one that was found.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    pub address: String,

    /// Where the session stands (RFC 4271, section 8.2.2).
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::session_state")]
    pub state: SessionState,

    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub since: Option<Time>,

    /// What the two sides have agreed on. Absent while the session does not stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negotiated: Option<Negotiated>,

    /// How many prefixes the router has from us.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::uint32")]
    pub prefixes_sent: u32,

    /// Why the session ended last, with the text that the other side gave.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    pub last_error: String,

    /// The BFD session beside it. Absent without a BFDProfile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<BfdSession>,
}

/// Where a BGP session stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionState {
    /// Not trying.
    #[default]
    Idle,
    /// Connecting.
    Connect,
    /// Waiting before it connects again.
    Active,
    /// Waiting for the other side's OPEN.
    OpenSent,
    /// Waiting for the other side's first KEEPALIVE.
    OpenConfirm,
    /// It stands.
    Established,
}

/// What two sides have agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Negotiated {
    /// The AS number of the router.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::uint32")]
    pub peer_asn: u32,

    /// The BGP identifier of the router.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    pub router_id: String,

    /// After how many seconds without a word the session is lost; 0 is never.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::uint32")]
    pub hold_seconds: u32,

    /// The seconds between signs of life; 0 is never.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::uint32")]
    pub keepalive_seconds: u32,

    /// The capabilities that both sides have, like `ipv4-unicast` or `graceful-restart`.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub capabilities: Vec<String>,
}

/// A BFD session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("required" = ["state"]))]
pub struct BfdSession {
    /// Where it stands (RFC 5880, section 6.2).
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::bfd_state")]
    pub state: BfdState,

    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub since: Option<Time>,
}

/// Where a BFD session stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BfdState {
    /// Switched off by the administrator.
    AdminDown,
    /// The path is broken, or not yet known.
    #[default]
    Down,
    /// The other side has been heard.
    Init,
    /// The path works both ways.
    Up,
}
