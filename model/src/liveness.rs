//! The keys that speakers sign their heartbeats with.

use std::collections::BTreeMap;
use std::fmt;

/// A key has this many octets (RFC 2104 section 3: as many as the hash gives).
pub const LIVENESS_KEY: usize = 32;

/// Keys by their number. All of them are believed, one of them signs.
#[derive(Clone, PartialEq, Eq)]
pub struct LivenessKeys {
    /// The number of the one that signs.
    pub signing: u32,
    /// The keys.
    pub keys: BTreeMap<u32, [u8; LIVENESS_KEY]>,
}

impl fmt::Debug for LivenessKeys {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = self.keys.keys().collect::<Vec<_>>();
        f.debug_struct("LivenessKeys")
            .field("signing", &self.signing)
            .field("keys", &numbers)
            .finish()
    }
}
