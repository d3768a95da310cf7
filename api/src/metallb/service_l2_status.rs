//! `ServiceL2Status`: which node announces a Service on the local network. One object per Service.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schema, wire};

/// Nothing is asked for; FerroLB writes the status.
#[derive(Clone, Copy, Debug, Default, CustomResource, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "ServiceL2Status",
    root = "ServiceL2Status",
    plural = "servicel2statuses",
    namespaced,
    status = "ServiceL2StatusStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Which node announces a Service on the local network. Written by FerroLB.",
    printcolumn(
        name = "Allocated Node",
        type_ = "string",
        json_path = ".status.node",
        description = "The node that announces the Service."
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
#[schemars(rename = "ServiceL2StatusSpec")]
pub struct ServiceL2StatusSpec {}

wire::optional_spec!(ServiceL2StatusSpec);

/// Who announces the Service, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceL2StatusStatus {
    /// The node that announces the Service. Never changes.
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

    /// The interfaces that it is announced on. None stands for all.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<InterfaceInfo>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceInfo {
    /// Its name.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
}
