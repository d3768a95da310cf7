//! Schemas of `AnnouncementPolicy`.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::rule;

/// `layer2.conflictDetection`.
pub(crate) fn conflict_detection(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["Probe", "Passive", "Disabled"] })
}

/// `layer2.placement.antiAffinity.among`.
pub(crate) fn anti_affinity_group(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["None", "Service", "Label"] })
}

/// Rules of `layer2.placement.antiAffinity`.
pub(crate) fn anti_affinity_rules() -> Value {
    json!([{
        "rule": "(self.among == 'Label') == (has(self.labelKey) && self.labelKey != '')",
        "message": "goes with among: Label, and with nothing else",
        "fieldPath": ".labelKey",
    }])
}

/// `onRequest.namespaces`.
pub(crate) fn namespaces(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 256,
        "x-kubernetes-list-type": "set",
        "items": {
            "type": "string",
            "maxLength": 63,
            "x-kubernetes-validations": [rule(
                "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
                "not the name of a namespace: write small letters, digits and '-' inside",
            )],
        },
    })
}

/// `drain.triggers`.
pub(crate) fn drain_triggers(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 3,
        "x-kubernetes-list-type": "set",
        "items": { "type": "string", "enum": ["ExcludeLabel", "Cordon", "Taint"] },
    })
}

/// `endpoints.policy`.
pub(crate) fn endpoint_condition(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["Ready", "Serving"] })
}

/// `bgp.peers[].openedBy`.
pub(crate) fn opened_by(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["Speaker", "Router", "Both"] })
}

/// `bgp.peers[].address.defaultGateway`.
pub(crate) fn gateway_family(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["IPv4", "IPv6"] })
}

/// Rules of `bgp.peers[].address` and `bgp.peers[].asn`.
pub(crate) fn one_source(fields: &[&str]) -> Value {
    let set = |field: &&str| format!("(has(self.{field}) && self.{field} != '' ? 1 : 0)");
    let sum = fields.iter().map(set).collect::<Vec<_>>().join(" + ");
    json!([rule(
        format!("{sum} == 1"),
        &format!("set one of {}", fields.join(", "))
    )])
}

/// `bgp.largeCommunities`.
pub(crate) fn large_communities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": {
            "type": "string",
            "maxLength": 32,
            "x-kubernetes-validations": [rule(
                "self.matches('^[0-9]{1,10}(:[0-9]{1,10}){2}$') && self.split(':', 3).all(n, int(n) <= 4294967295)",
                "not a large community: write three numbers up to 4294967295 like 65000:1:2",
            )],
        },
    })
}

/// `bgp.extendedCommunities`: the administrator is an AS number of two or four octets or an IPv4 address, and what room
/// it leaves is the number's.
pub(crate) fn extended_communities(_: &mut SchemaGenerator) -> Schema {
    let part = |n: u8| format!("self.split(':', 3)[{n}]");
    let number = |n: u8, most: u32| format!("int({}) <= {most}", part(n));
    let short = u32::from(u16::MAX);
    let room = format!(
        "({0}.contains('.') ? isIP({0}) && {1} : {2} ? {3} : {4} && {1})",
        part(1),
        number(2, short),
        number(1, short),
        number(2, u32::MAX),
        number(1, u32::MAX),
    );
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": {
            "type": "string",
            "maxLength": 32,
            "x-kubernetes-validations": [rule(
                format!("self.matches('^(rt|soo):([0-9]{{1,10}}|[0-9]{{1,3}}([.][0-9]{{1,3}}){{3}}):[0-9]{{1,10}}$') && {room}"),
                "not an extended community: write rt: or soo:, an AS number or an IPv4 address, and a number, like \
                 rt:65000:100 or soo:192.0.2.1:7",
            )],
        },
    })
}
