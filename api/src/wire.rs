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

/// Whether a number is 0, and so need not be written.
pub(crate) fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// Reads a missing or null `spec` as one with nothing set, for a kind of which an object may be only a name. For a spec
/// with `#[serde(remote = "Self")]`.
macro_rules! optional_spec {
    ($spec:ident) => {
        impl<'de> serde::Deserialize<'de> for $spec {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // In both implementations `$spec::` finds the inherent function, which is the derived one.
                struct Present($spec);

                impl<'de> serde::Deserialize<'de> for Present {
                    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                        $spec::deserialize(deserializer).map(Present)
                    }
                }

                let spec = Option::<Present>::deserialize(deserializer)?;
                Ok(spec.map_or_else($spec::default, |present| present.0))
            }
        }

        impl serde::Serialize for $spec {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $spec::serialize(self, serializer)
            }
        }
    };
}
pub(crate) use optional_spec;
