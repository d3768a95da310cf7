//! `ConfigurationState`: what a component makes of the configuration, per object that it could not use.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schema, wire};

/// The kind has no spec; FerroLB writes the status.
#[derive(Clone, Copy, Debug, Default, CustomResource, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "ConfigurationState",
    plural = "configurationstates",
    namespaced,
    no_spec,
    status = "ConfigurationStateStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "What the controller, or the speaker of a node, makes of the configuration. Written by FerroLB; one per component.",
    printcolumn(
        name = "Result",
        type_ = "string",
        json_path = ".status.result",
        description = "Whether the whole configuration is in force."
    ),
    printcolumn(
        name = "ErrorSummary",
        type_ = "string",
        json_path = ".status.errorSummary",
        description = "What is wrong, object by object."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Since when the component reports."
    )
)]
pub struct ConfigurationStateSpec {}

/// The verdict of one component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStateStatus {
    /// Valid: every object is in force. Invalid: at least one is left out. Unknown: not looked at yet.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::configuration_result")]
    pub result: ConfigurationResult,

    /// One line per object that is left out: kind, name, field, value and what would be right.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    pub error_summary: String,

    /// The verdicts that the result is made of, one per part of the component.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Whether the configuration is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfigurationResult {
    /// Every object is.
    Valid,
    /// At least one object is left out.
    Invalid,
    /// Not looked at yet, or a word that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}
