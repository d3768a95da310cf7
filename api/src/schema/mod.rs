//! Schemas that the derive cannot give: rules in CEL, selectors, conditions, enums, counters.
//!
//! A rule refuses only what can never be right, whatever other objects say; the limits on lengths bound its cost. What
//! CEL cannot decide exactly, and what depends on other objects, is judged by `ferrolb-config` and reported per object.

mod addresses;
mod bgp;
mod kubernetes;
mod policy;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

pub(crate) use addresses::*;
pub(crate) use bgp::*;
pub(crate) use kubernetes::*;
pub(crate) use policy::*;

/// An IPv6 address with an embedded IPv4 part. CEL's `ip()` refuses the mapped form, which users of the API may write.
const EMBEDDED_IPV4: &str = "(self.contains(':') && self.contains('.'))";

fn rule(rule: impl Into<String>, message: &str) -> Value {
    json!({ "rule": rule.into(), "message": message })
}

/// `ConfigurationState.status.result`.
pub(crate) fn configuration_result(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["Valid", "Invalid", "Unknown"] })
}

/// A number that is never negative.
pub(crate) fn count(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int64" })
}

/// An unsigned number of 32 bits.
pub(crate) fn uint32(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": 0, "maximum": u32::MAX })
}

/// A text that stays as it was first written.
pub(crate) fn constant(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 253,
        "x-kubernetes-validations": [rule("self == oldSelf", "never changes: write another object")],
    })
}
