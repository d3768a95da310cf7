//! Schemas of address ranges and of VirtualIPs.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{EMBEDDED_IPV4, rule};

/// Items in `spec.addresses`: far more than the widest pool seen, few enough for the API server's CEL budget.
const MAX_POOL_ADDRESSES: u32 = 1024;

/// Longest item: two IPv6 addresses in full with an embedded IPv4 part are 91 characters; the rest is room for blanks.
const MAX_POOL_ADDRESS_LENGTH: u32 = 128;

/// Both ends of the item are addresses. The limit on `split` makes no difference to what is found; without it the API
/// server reckons with one part for each character, and refuses the rule as too costly.
const IS_RANGE: &str = "self.split('-', 2).size() == 2 && self.split('-', 2).all(end, isIP(end.trim()))";

/// `IPAddressPool.spec.addresses`.
pub(crate) fn pool_addresses(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = requestable_addresses(generator);
    schema.insert(
        "x-kubernetes-validations".into(),
        json!([rule(
            "self.size() > 0",
            "a pool needs at least one CIDR prefix like 192.0.2.0/24 or range like 192.0.2.10-192.0.2.20",
        )]),
    );
    schema
}

/// `AllocationPolicy.spec.requestableAddresses`: the same, and possibly none.
pub(crate) fn requestable_addresses(_: &mut SchemaGenerator) -> Schema {
    let family = |family: u8| format!("self.split('-', 2).all(end, ip(end.trim()).family() == {family})");
    let numbers = "self.split('-', 2).map(end, end.trim().split('.', 4)).map(octets, int(octets[0]) * 16777216 + \
                   int(octets[1]) * 65536 + int(octets[2]) * 256 + int(octets[3]))";
    json_schema!({
        "type": "array",
        "maxItems": MAX_POOL_ADDRESSES,
        "items": {
            "type": "string",
            "maxLength": MAX_POOL_ADDRESS_LENGTH,
            "x-kubernetes-validations": [
                rule(
                    format!("!self.contains('/') || isCIDR(self.trim()) || {EMBEDDED_IPV4}"),
                    "not a CIDR prefix: write an address, a slash and a length of 0 to 32 for IPv4 or 0 to 128 for \
                     IPv6, like 192.0.2.0/24",
                ),
                rule(
                    format!("self.contains('/') || ({IS_RANGE}) || {EMBEDDED_IPV4}"),
                    "neither a CIDR prefix like 192.0.2.0/24 nor a range like 192.0.2.10-192.0.2.20; for one address \
                     write 192.0.2.10/32",
                ),
                rule(
                    format!("!({IS_RANGE}) || {} || {}", family(4), family(6)),
                    "the two ends of the range are of different address families",
                ),
                {
                    "rule": format!("!({IS_RANGE} && {}) || [{numbers}].all(n, n[0] <= n[1])", family(4)),
                    "messageExpression": "'the range runs backwards: write ' + self.split('-', 2)[1].trim() + '-' + \
                                          self.split('-', 2)[0].trim()",
                },
            ],
        },
    })
}

/// `VirtualIP.spec.address`.
pub(crate) fn virtual_address(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 45,
        "x-kubernetes-validations": [
            rule("isIP(self)", "not an IP address: write one like 192.0.2.10 or 2001:db8::10"),
            rule("self == oldSelf", "the address of a VirtualIP never changes: create another VirtualIP"),
        ],
    })
}

/// Rules of a whole VirtualIP: the name follows from the address.
pub(crate) fn virtual_ip_rules() -> Value {
    json!([
        {
            "rule": "!isIP(self.spec.address) || ip(self.spec.address).family() != 4 \
                     || self.metadata.name == string(ip(self.spec.address))",
            "messageExpression": "'metadata.name must be the address: ' + self.spec.address",
        },
        {
            "rule": "!isIP(self.spec.address) || ip(self.spec.address).family() != 6 \
                     || (self.metadata.name.matches('^[0-9a-f]{4}(-[0-9a-f]{4}){7}$') \
                     && ip(self.metadata.name.replace('-', ':')) == ip(self.spec.address))",
            "messageExpression": "'metadata.name must be the address as eight zero-padded groups joined by \\'-\\', \
                                  like 2001-0db8-0000-0000-0000-0000-0000-0010, and is for ' + self.spec.address",
        },
    ])
}

/// `VirtualIP.spec.reclaimPolicy`.
pub(crate) fn reclaim_policy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["Delete", "Retain"], "default": "Delete" })
}

/// `VirtualIP.status.probe.result`.
pub(crate) fn probe_result(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["Clear", "Occupied", "NotAsked"] })
}
