//! `BFDProfile`: how the path to a BGP peer is watched (RFC 5880).

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire;

/// The settings of a BFD session. Everything is optional.
#[derive(Clone, Copy, Debug, Default, CustomResource, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "BFDProfile",
    root = "BfdProfile",
    plural = "bfdprofiles",
    namespaced,
    status = "BfdProfileStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Settings of BFD sessions, for BGPPeers to refer to.",
    printcolumn(
        name = "Passive Mode",
        type_ = "boolean",
        json_path = ".spec.passiveMode",
        description = "Whether the other side has to begin."
    ),
    printcolumn(
        name = "Transmit Interval",
        type_ = "integer",
        json_path = ".spec.transmitInterval",
        description = "The shortest time between packets that we send, in milliseconds."
    ),
    printcolumn(
        name = "Receive Interval",
        type_ = "integer",
        json_path = ".spec.receiveInterval",
        description = "The shortest time between packets that we can take, in milliseconds."
    ),
    printcolumn(
        name = "Multiplier",
        type_ = "integer",
        json_path = ".spec.detectMultiplier",
        description = "How many packets may be missed."
    )
)]
// `remote` keeps the derived code apart, so that `wire::optional_spec` can stand in front of it.
#[serde(remote = "Self", rename_all = "camelCase")]
#[schemars(rename = "BfdProfileSpec")]
pub struct BfdProfileSpec {
    /// The shortest time between packets that we can take, in milliseconds. Without it, 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60000))]
    pub receive_interval: Option<u32>,

    /// The shortest time between packets that we send, in milliseconds. Without it, 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60000))]
    pub transmit_interval: Option<u32>,

    /// How many packets may be missed before the path counts as broken. Without it, 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 255))]
    pub detect_multiplier: Option<u32>,

    /// The shortest time between echo packets, in milliseconds, both ways. Without it, 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60000))]
    pub echo_interval: Option<u32>,

    /// Watch by echo packets as well, which the other side only sends back. For IPv4 and one hop alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo_mode: Option<bool>,

    /// Send nothing until the other side has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive_mode: Option<bool>,

    /// The lowest TTL with which a packet may arrive, when the router is more than one hop away. Without it, 254.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub minimum_ttl: Option<u32>,
}

wire::optional_spec!(BfdProfileSpec);

/// Nothing is reported here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BfdProfileStatus {}
