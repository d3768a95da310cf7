//! Lenient reading: a field that is null is read as one that is missing.

use serde::{Deserialize, Deserializer};

/// Reads null as the type's default. For use with `#[serde(default, deserialize_with = ...)]`.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Reads null as `true`, the default of a switch that is on unless switched off.
pub(crate) fn or_true<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Option::deserialize(deserializer).map(|on| on.unwrap_or(true))
}

/// The default of a switch that is on unless switched off.
pub(crate) fn yes() -> bool {
    true
}
