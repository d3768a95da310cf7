//! The Secret with the keys of the speakers' heartbeats.

use std::collections::BTreeMap;

use ferrolb_api::names::liveness_secret;
use ferrolb_model::{LIVENESS_KEY, LivenessKeys};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use thiserror::Error;

/// Why the Secret cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LivenessKeysError {
    /// It does not say which key signs, or not in a number.
    #[error("data[{:?}] has to be the number of the key that signs", liveness_secret::SIGNING)]
    Signing,
    /// The key that is to sign is not there.
    #[error("data[\"{}{number}\"] is missing, which is to sign", liveness_secret::KEY)]
    Missing {
        /// Its number.
        number: u32,
    },
    /// A key of another length.
    #[error("data[\"{}{number}\"] has {length} octets instead of {LIVENESS_KEY}", liveness_secret::KEY)]
    Length {
        /// Its number.
        number: u32,
        /// What it has.
        length: usize,
    },
}

/// The keys in the Secret. What else stands in it is left alone.
pub fn liveness_keys(secret: &Secret) -> Result<LivenessKeys, LivenessKeysError> {
    let data = secret.data.iter().flatten();
    let mut keys = BTreeMap::new();
    let mut signing = None;
    for (name, ByteString(value)) in data {
        if name == liveness_secret::SIGNING {
            signing = str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
        } else if let Some(number) = name.strip_prefix(liveness_secret::KEY).and_then(|n| n.parse().ok()) {
            let length = value.len();
            let key = value.as_slice().try_into();
            keys.insert(number, key.map_err(|_| LivenessKeysError::Length { number, length })?);
        }
    }
    let signing = signing.ok_or(LivenessKeysError::Signing)?;
    if !keys.contains_key(&signing) {
        return Err(LivenessKeysError::Missing { number: signing });
    }
    Ok(LivenessKeys { signing, keys })
}

/// The data of the Secret with these keys.
pub fn liveness_data(keys: &LivenessKeys) -> BTreeMap<String, ByteString> {
    let named = |(number, key): (&u32, &[u8; LIVENESS_KEY])| {
        let name = format!("{}{number}", liveness_secret::KEY);
        (name, ByteString(key.to_vec()))
    };
    let signing = ByteString(keys.signing.to_string().into_bytes());
    let mut data: BTreeMap<String, ByteString> = keys.keys.iter().map(named).collect();
    data.insert(liveness_secret::SIGNING.to_owned(), signing);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(data: BTreeMap<String, ByteString>) -> Secret {
        Secret {
            data: Some(data),
            ..Secret::default()
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let keys = LivenessKeys {
            signing: 7,
            keys: BTreeMap::from([(7, [1; LIVENESS_KEY]), (8, [2; LIVENESS_KEY])]),
        };
        let mut data = liveness_data(&keys);
        data.insert("note".to_owned(), ByteString(b"of a person".to_vec()));
        assert_eq!(liveness_keys(&secret(data)), Ok(keys.clone()));
        assert_eq!(format!("{keys:?}"), "LivenessKeys { signing: 7, keys: [7, 8] }");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |entries: &[(&str, &[u8])]| {
            let entry = |(name, value): &(&str, &[u8])| ((*name).to_owned(), ByteString(value.to_vec()));
            liveness_keys(&secret(entries.iter().map(entry).collect()))
                .unwrap_err()
                .to_string()
        };
        let key: &[u8] = &[0; LIVENESS_KEY];
        assert_eq!(
            with(&[]),
            "data[\"signing\"] has to be the number of the key that signs"
        );
        assert_eq!(with(&[("signing", b"one"), ("key-1", key)]), with(&[]));
        assert_eq!(with(&[("signing", b"\xff")]), with(&[]));
        assert_eq!(
            with(&[("signing", b"2"), ("key-1", key)]),
            "data[\"key-2\"] is missing, which is to sign"
        );
        assert_eq!(
            with(&[("signing", b"1"), ("key-1", b"short")]),
            "data[\"key-1\"] has 5 octets instead of 32"
        );
    }
}
