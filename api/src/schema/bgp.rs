//! Schemas of BGP: peers, advertisements, communities, states of sessions.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{EMBEDDED_IPV4, rule};

/// A duration that is not negative, as Go reads it: numbers with units, or 0.
const IS_DURATION: &str =
    r"self.matches('^[+]?(0|(([0-9]+([.][0-9]*)?|[.][0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h))+)$')";

/// An AS number.
pub(crate) fn asn(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": u32::MAX })
}

/// `BGPPeer.spec.dynamicASN`.
pub(crate) fn dynamic_asn(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["internal", "external"] })
}

/// An IP address, or nothing.
pub(crate) fn ip_address(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 45,
        "x-kubernetes-validations": [rule(
            format!("self == '' || isIP(self) || {EMBEDDED_IPV4}"),
            "not an IP address: write one like 192.0.2.1 or 2001:db8::1; names are not looked up",
        )],
    })
}

/// `BGPPeer.spec.routerID`.
pub(crate) fn router_id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 45,
        "x-kubernetes-validations": [rule(
            format!("self == '' || (isIP(self) && ip(self).family() == 4) || {EMBEDDED_IPV4}"),
            "not a BGP identifier: write one in the form of an IPv4 address, like 192.0.2.1",
        )],
    })
}

/// `BGPPeer.spec.password`: what TCP MD5 can take.
pub(crate) fn password(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": 80 })
}

/// `BGPPeer.spec.keepaliveTime`.
pub(crate) fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": 64, "x-kubernetes-validations": [is_duration()] })
}

/// `BGPPeer.spec.holdTime`.
pub(crate) fn hold_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 64,
        "x-kubernetes-validations": [
            is_duration(),
            rule(
                format!(
                    "!{IS_DURATION} || duration(self).getSeconds() == 0 \
                     || (duration(self).getSeconds() >= 3 && duration(self).getSeconds() <= 65535)"
                ),
                "a hold time is 0s, which is never, or 3s to 65535s",
            ),
        ],
    })
}

/// `BGPPeer.spec.connectTime`.
pub(crate) fn connect_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 64,
        "x-kubernetes-validations": [
            is_duration(),
            rule(
                format!(
                    "!{IS_DURATION} || (duration(self) >= duration('1s') && duration(self) <= duration('65535s') \
                     && duration(self).getMilliseconds() % 1000 == 0)"
                ),
                "a connect time is 1s to 65535s, in whole seconds",
            ),
        ],
    })
}

fn is_duration() -> Value {
    rule(IS_DURATION, "not a duration: write one like 90s or 1m30s")
}

/// Rules of `BGPPeer.spec` that look at several fields.
pub(crate) fn bgp_peer_rules() -> Value {
    let set = |field: &str| format!("(has(self.{field}) && self.{field} != '')");
    json!([
        {
            "rule": "(has(self.peerASN) && self.peerASN != 0) != has(self.dynamicASN)",
            "message": "set either peerASN or dynamicASN",
            "fieldPath": ".peerASN",
        },
        {
            "rule": format!("{} != {}", set("peerAddress"), set("interface")),
            "message": "set either peerAddress or interface",
            "fieldPath": ".peerAddress",
        },
        {
            "rule": format!(
                "!{} || !has(self.passwordSecret) || !has(self.passwordSecret.name) || self.passwordSecret.name == ''",
                set("password")
            ),
            "message": "set either password or passwordSecret",
            "fieldPath": ".passwordSecret",
        },
        {
            "rule": "!has(self.ebgpMultiHop) || !self.ebgpMultiHop || !has(self.peerASN) || self.peerASN != self.myASN",
            "message": "is for external peers, and peerASN equals myASN: leave it out",
            "fieldPath": ".ebgpMultiHop",
        },
        {
            "rule": format!(
                "!has(self.holdTime) || !has(self.keepaliveTime) || ![self.holdTime, self.keepaliveTime].all(time, {}) \
                 || duration(self.keepaliveTime) <= duration(self.holdTime)",
                IS_DURATION.replacen("self", "time", 1)
            ),
            "message": "must not be longer than holdTime",
            "fieldPath": ".keepaliveTime",
        },
    ])
}

/// Rules of `BGPAdvertisement.spec` that look at several fields.
pub(crate) fn bgp_advertisement_rules() -> Value {
    let selects = "!has(self.serviceSelectors) || self.serviceSelectors.size() == 0";
    let message = |length: u8| {
        format!(
            "must be {length}, or left out, together with serviceSelectors: an aggregate stands for several Services"
        )
    };
    json!([
        {
            "rule": format!("{selects} || !has(self.aggregationLength) || self.aggregationLength == 32"),
            "message": message(32),
            "fieldPath": ".aggregationLength",
        },
        {
            "rule": format!("{selects} || !has(self.aggregationLengthV6) || self.aggregationLengthV6 == 128"),
            "message": message(128),
            "fieldPath": ".aggregationLengthV6",
        },
    ])
}

/// `Community.spec.communities`.
pub(crate) fn community_aliases(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 1024,
        "items": {
            "description": "A name for a community.",
            "type": "object",
            "required": ["value"],
            "properties": {
                "name": { "description": "The name.", "type": "string" },
                "value": {
                    "description": "The community: two numbers up to 65535 like `65000:100`, or `large:` and three \
                                    numbers up to 4294967295 like `large:65000:1:2`.",
                    "type": "string",
                    "maxLength": 64,
                    "x-kubernetes-validations": [rule(
                        "(self.matches('^[0-9]{1,10}:[0-9]{1,10}$') \
                         && self.split(':', 2).all(n, int(n) <= 65535)) \
                         || (self.matches('^large(:[0-9]{1,10}){3}$') \
                         && self.substring(6).split(':', 3).all(n, int(n) <= 4294967295))",
                        "not a community: write two numbers up to 65535 like 65000:100, or large: and three numbers up \
                         to 4294967295 like large:65000:1:2",
                    )],
                },
            },
        },
    })
}

/// `SpeakerState.status.bgp.sessions[].state`.
pub(crate) fn session_state(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "enum": ["Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established"],
    })
}

/// `SpeakerState.status.bgp.sessions[].bfd.state`.
pub(crate) fn bfd_state(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["AdminDown", "Down", "Init", "Up"] })
}
