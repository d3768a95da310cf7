//! The keys of the heartbeats: which one signs, which ones are believed.
//!
//! HMAC-SHA256 (RFC 2104), cut to 16 octets. The secret is not used as it is: the key is derived from it (the "expand"
//! step of RFC 5869), so that one secret may serve several purposes. Rotation without a gap: first every node believes
//! the new key, then every node signs with it, then the old one is forgotten.

use std::collections::BTreeMap;
use std::fmt;

use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;

/// Octets of a signature.
pub const TAG: usize = 16;

/// Names the purpose and the version.
const INFO: &[u8] = b"ferrolb liveness 1\x01";

type Signer = Hmac<Sha256>;

/// See the module. Empty, it signs nothing and believes nothing.
#[derive(Clone, Default)]
pub struct Keyring {
    signing: u32,
    keys: BTreeMap<u32, Signer>,
}

impl Keyring {
    /// Keys by their number. `signing` is the number of the one to sign with.
    pub fn new<'a>(signing: u32, secrets: impl IntoIterator<Item = (u32, &'a [u8])>) -> Keyring {
        let keys = secrets.into_iter().map(|(id, secret)| (id, derive(secret)));
        Keyring {
            signing,
            keys: keys.collect(),
        }
    }

    /// The number of the key to sign with, if there is one.
    pub fn signing(&self) -> Option<u32> {
        self.keys.contains_key(&self.signing).then_some(self.signing)
    }

    /// The signature of `data`; `None` for a key that is not there.
    pub fn sign(&self, key: u32, data: &[u8]) -> Option<[u8; TAG]> {
        let signer = self.keys.get(&key)?;
        let full = signer.clone().chain_update(data).finalize().into_bytes();
        full.first_chunk().copied()
    }

    /// Is this the signature of `data`? In constant time. `None` for a key that is not there.
    pub fn verify(&self, key: u32, data: &[u8], tag: &[u8; TAG]) -> Option<bool> {
        let signer = self.keys.get(&key)?;
        Some(signer.clone().chain_update(data).verify_truncated_left(tag).is_ok())
    }
}

fn derive(secret: &[u8]) -> Signer {
    let key = hmac(secret).chain_update(INFO).finalize().into_bytes();
    hmac(&key)
}

fn hmac(key: &[u8]) -> Signer {
    // Cannot fail: HMAC takes keys of any length.
    Signer::new_from_slice(key).unwrap_or_else(|_| Signer::new(&Default::default()))
}

impl fmt::Debug for Keyring {
    /// Numbers only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.keys.keys().collect::<Vec<_>>();
        f.debug_struct("Keyring")
            .field("signing", &self.signing)
            .field("known", &known)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_with_one_and_believes_all() {
        let old = Keyring::new(1, [(1, b"one".as_slice())]);
        let both = Keyring::new(2, [(1, b"one".as_slice()), (2, b"two".as_slice())]);
        let tag = old.sign(1, b"data").unwrap();
        assert_eq!(both.verify(1, b"data", &tag), Some(true));
        assert_eq!(both.verify(1, b"date", &tag), Some(false));
        assert_eq!(both.verify(2, b"data", &tag), Some(false));
        assert_eq!(both.signing(), Some(2));
        let new = both.sign(2, b"data").unwrap();
        assert_eq!(old.verify(2, b"data", &new), None);
        let mut wrong = tag;
        wrong[TAG - 1] ^= 1;
        assert_eq!(both.verify(1, b"data", &wrong), Some(false));
    }

    #[test]
    fn shows_no_secret() {
        let keys = Keyring::new(3, [(7, b"hunter2".as_slice())]);
        assert_eq!(format!("{keys:?}"), "Keyring { signing: 3, known: [7] }");
        assert_eq!(keys.signing(), None);
        assert_eq!(Keyring::default().sign(0, b""), None);
    }

    /// Computed with another implementation: HMAC-SHA256(HMAC-SHA256("secret", "ferrolb liveness 1" || 0x01), "data").
    #[test]
    fn as_others_compute_it() {
        let keys = Keyring::new(0, [(0, b"secret".as_slice())]);
        assert_eq!(keys.sign(0, b"data").unwrap(), VECTOR);
    }

    const VECTOR: [u8; TAG] = [
        0xc0, 0xeb, 0x56, 0xa1, 0xb6, 0x3e, 0x42, 0x1a, 0x58, 0x06, 0x26, 0xf4, 0xff, 0x76, 0xa5, 0x14,
    ];
}
