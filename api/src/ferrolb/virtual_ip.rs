//! `VirtualIP`: one object per address in use, reserved or blocked. Creating it is the claim: the name follows from the
//! address, so the API server itself refuses to have one address twice.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{schema, wire};

/// Who holds the address.
#[derive(Clone, Debug, Default, CustomResource, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ferrolb.io",
    version = "v1alpha1",
    kind = "VirtualIP",
    root = "VirtualIp",
    plural = "virtualips",
    shortname = "vip",
    status = "VirtualIpStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "An address in use, reserved or blocked. Without claims it blocks the address; made beforehand with a claim, it \
           reserves the address for that Service. Named after the address: IPv4 as it is written, IPv6 as eight \
           zero-padded groups joined by '-'.",
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address", description = "The address."),
    printcolumn(
        name = "Pool",
        type_ = "string",
        json_path = ".spec.pool",
        description = "The IPAddressPool it was taken from."
    ),
    printcolumn(
        name = "Services",
        type_ = "string",
        json_path = ".spec.claims[*].name",
        description = "The Service that holds it; the first of them when it is shared."
    ),
    printcolumn(
        name = "Claims",
        type_ = "string",
        json_path = ".spec.claims",
        description = "All Services that hold it.",
        priority = 1
    ),
    printcolumn(
        name = "Owner",
        type_ = "string",
        json_path = ".status.placement.owner",
        description = "The node that announces it."
    ),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Announced\")].reason",
        description = "Whether it is announced, or why not."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Since when the address is held."
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("required" = ["address"]))]
pub struct VirtualIpSpec {
    /// The address. It never changes; another address is another object.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::virtual_address")]
    pub address: String,

    /// The IPAddressPool that the address was taken from. None for an address outside every pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,

    /// The Services that hold the address, several when they share it. None blocks the address.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "atomic"))]
    pub claims: Vec<Claim>,

    /// The sharing key that the holders agree on. None: the address is not shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing_key: Option<String>,

    /// What happens when the last claim goes. Delete frees the address; Retain keeps it for the Services named.
    #[serde(default)]
    #[schemars(schema_with = "schema::reclaim_policy")]
    pub reclaim_policy: ReclaimPolicy,

    /// The node whose speaker is asked whether another machine uses the address, before it is handed out for the first
    /// time. Written with the object and never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub prober: Option<String>,
}

/// One Service that holds an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("required" = ["namespace", "name"]))]
pub struct Claim {
    /// The namespace of the Service.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,

    /// The name of the Service.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// The uid of the Service. Leave it out in a reservation made by hand: it then holds for whatever Service comes by
    /// that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub uid: Option<String>,
}

/// What becomes of a VirtualIP that nothing claims any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum ReclaimPolicy {
    /// It is deleted, and the address is free.
    #[default]
    Delete,
    /// It stays, and keeps the address.
    Retain,
}

/// Null is the default; a word that this version does not know is read as `Retain`, because keeping an address too long
/// can be put right and freeing it too early cannot.
impl<'de> Deserialize<'de> for ReclaimPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(match text.as_deref() {
            None | Some("" | "Delete") => ReclaimPolicy::Delete,
            Some(_) => ReclaimPolicy::Retain,
        })
    }
}

/// Where the address is announced and how it goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualIpStatus {
    /// The node that shall announce the address at layer 2, and who takes over from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,

    /// The node that does announce it, as its speaker says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announcer: Option<Announcer>,

    /// The request in the annotation `ferrolb.io/move-to` that was answered last. The condition Moved is the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_move: Option<String>,

    /// What the node that `spec.prober` names has found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,

    /// Allocated: the address is handed out. Announced: a node announces it. Conflict: another machine uses it, too. Moved:
    /// it was moved as asked. Each with a stable reason and a message.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Who announces an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("required" = ["owner", "epoch"]))]
pub struct Placement {
    /// The node that announces the address.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub owner: String,

    /// The nodes that take over, in this order.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub standbys: Vec<String>,

    /// Grows by one with every change of owner. Where two nodes believe to own the address, the higher epoch is right.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::count")]
    pub epoch: u64,
}

/// Whether another machine uses the address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("required" = ["node", "result"]))]
pub struct Probe {
    /// The node that has asked the wire.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub node: String,

    /// Clear: nobody has answered. Occupied: somebody has. NotAsked: the question could not be asked.
    #[serde(default, deserialize_with = "wire::or_default")]
    #[schemars(schema_with = "schema::probe_result")]
    pub result: ProbeResult,

    /// The interface on which somebody has answered.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    pub interface: String,

    /// The MAC address of who has answered, like `02:00:5e:10:00:01`.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
}

/// What became of a question to the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeResult {
    /// Nobody has answered.
    Clear,
    /// Somebody has.
    Occupied,
    /// It could not be asked.
    #[default]
    NotAsked,
}

/// What the owner's speaker has really programmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("required" = ["node"]))]
pub struct Announcer {
    /// The node that answers for the address.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub node: String,

    /// The interfaces that it answers on.
    #[serde(default, deserialize_with = "wire::or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub interfaces: Vec<String>,
}
