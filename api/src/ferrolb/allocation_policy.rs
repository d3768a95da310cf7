//! `AllocationPolicy`: what the Services of some namespaces may have.
//!
//! A list that is absent sets no limit; one that is empty allows nothing. Hence `Option<Vec<_>>` where the two differ.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schema, wire};

/// The namespaces and their limits. Policies only take away: where several speak for a namespace, each must allow.
#[derive(Clone, Debug, Default, CustomResource, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ferrolb.io",
    version = "v1alpha1",
    kind = "AllocationPolicy",
    plural = "allocationpolicies",
    derive = "PartialEq",
    derive = "Default",
    doc = "Limits what the Services of some namespaces may have. It decides about what is handed out anew: nobody loses \
           an address to it.",
    printcolumn(
        name = "Namespaces",
        type_ = "string",
        json_path = ".spec.namespaces",
        description = "The namespaces that are limited, by name."
    ),
    printcolumn(
        name = "Namespace Selectors",
        type_ = "string",
        json_path = ".spec.namespaceSelectors",
        description = "The namespaces that are limited, by label."
    ),
    printcolumn(
        name = "Pools",
        type_ = "string",
        json_path = ".spec.pools",
        description = "The pools that they may use."
    ),
    printcolumn(
        name = "Max Addresses",
        type_ = "integer",
        json_path = ".spec.maxAddresses",
        description = "How many addresses each of them may hold."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Since when the policy is there."
    )
)]
#[serde(rename_all = "camelCase")]
pub struct AllocationPolicySpec {
    /// The namespaces that are limited, by name. Without names and without selectors, every namespace is.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,

    /// The namespaces that are limited, by label, in addition to those named. Any one selector is enough.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_selectors")]
    pub namespace_selectors: Vec<LabelSelector>,

    /// The pools that may be used, by name. Absent: any; empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pools: Option<Vec<String>>,

    /// How many addresses the Services of one namespace may hold together; a shared address counts once. Absent: any
    /// number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::uint32")]
    pub max_addresses: Option<u32>,

    /// The addresses that a Service may ask for by name, written as in a pool. Absent: any; empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::requestable_addresses")]
    pub requestable_addresses: Option<Vec<String>>,

    /// With which other namespaces an address may be shared. Absent: with any. Inside its own namespace a Service may
    /// always share; between two, both sides must allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<SharingLimit>,
}

/// The other namespaces that an address may be shared with. With nothing set, there are none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharingLimit {
    /// By name.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,

    /// By label, in addition to those named. Any one selector is enough.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_selectors")]
    pub namespace_selectors: Vec<LabelSelector>,
}
