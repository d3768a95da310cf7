//! `ServiceBGPStatus`: to which peers a node is to advertise a Service. One object per Service and node.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schema, wire};

/// Nothing is asked for; FerroLB writes the status.
#[derive(Clone, Copy, Debug, Default, CustomResource, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "ServiceBGPStatus",
    root = "ServiceBgpStatus",
    plural = "servicebgpstatuses",
    namespaced,
    status = "ServiceBgpStatusStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "To which BGP peers a node is to advertise a Service. Written by FerroLB.",
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".status.node",
        description = "The node that advertises the Service."
    ),
    printcolumn(
        name = "Service Name",
        type_ = "string",
        json_path = ".status.serviceName",
        description = "The Service."
    ),
    printcolumn(
        name = "Service Namespace",
        type_ = "string",
        json_path = ".status.serviceNamespace",
        description = "The namespace of the Service."
    )
)]
// `remote` keeps the derived code apart, so that `wire::optional_spec` can stand in front of it.
#[serde(remote = "Self")]
#[schemars(rename = "ServiceBgpStatusSpec")]
pub struct ServiceBgpStatusSpec {}

wire::optional_spec!(ServiceBgpStatusSpec);

/// What is to be advertised; whether the sessions stand is another matter, see SpeakerState.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceBgpStatusStatus {
    /// The node that advertises the Service. Never changes.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::constant")]
    pub node: String,

    /// The name of the Service. Never changes.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::constant")]
    pub service_name: String,

    /// The namespace of the Service. Never changes.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::constant")]
    pub service_namespace: String,

    /// The names of the BGPPeers, in order.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
}
