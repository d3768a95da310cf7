//! `Community`: names for BGP communities.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schema, wire};

/// The names.
#[derive(Clone, Debug, Default, CustomResource, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "Community",
    plural = "communities",
    namespaced,
    status = "CommunityStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Names for BGP communities, for BGPAdvertisements to use."
)]
// `remote` keeps the derived code apart, so that `wire::optional_spec` can stand in front of it.
#[serde(remote = "Self", rename_all = "camelCase")]
#[schemars(rename = "CommunitySpec")]
pub struct CommunitySpec {
    /// The names and what they stand for. A name is unique among all Community objects.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::community_aliases")]
    pub communities: Vec<CommunityAlias>,
}

wire::optional_spec!(CommunitySpec);

/// A name for a community.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommunityAlias {
    /// The name.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    pub name: String,

    /// The community.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    pub value: String,
}

/// Nothing is reported here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommunityStatus {}
