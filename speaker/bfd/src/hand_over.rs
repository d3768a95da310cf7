//! Sessions between two processes: what the next speaker of a node needs to go on with them, so that routers see nothing.
//!
//! All state of a session is handed over, with its clock and its sockets: packets that arrive meanwhile wait in them, and
//! none comes from another source port (RFC 5881 section 4). What is handed over can be read from any bytes: at worst it
//! is a session that fails.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::seam::Path;
use crate::session::Session;
use crate::sockets::Door;

/// All that a thread had when it ended.
#[derive(Debug, Default)]
pub struct Lent {
    /// How long the thread had run.
    pub clock: Duration,
    /// The sockets that packets come in by.
    pub doors: BTreeMap<Door, OwnedFd>,
    /// The sessions.
    pub paths: BTreeMap<Arc<Path>, LentPath>,
}

/// A session with the socket it sends from, if that is open.
#[derive(Debug)]
pub struct LentPath {
    /// The session.
    pub session: LentSession,
    /// The socket.
    pub sender: Option<OwnedFd>,
}

/// A session.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LentSession {
    pub(crate) session: Session,
    /// Index of the interface.
    pub(crate) interface: Option<u32>,
    /// How long it has been in its state.
    #[serde(with = "micros")]
    pub(crate) age: Duration,
    /// How often the path has failed. Whoever goes on with the session tells of these once more.
    pub failures: u64,
}

impl LentSession {
    /// This side's name for the session.
    pub fn discriminator(&self) -> NonZeroU32 {
        self.session.discriminator()
    }
}

/// Times as microseconds, none longer than 100 years, so that they can be added up.
pub(crate) mod micros {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    const LONGEST: u64 = 100 * 365 * 86_400 * 1_000_000;

    pub(crate) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        u64::try_from(time.as_micros()).unwrap_or(LONGEST).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Ok(Duration::from_micros(u64::deserialize(from)?.min(LONGEST)))
    }

    pub(crate) mod option {
        use super::{Deserialize, Deserializer, Duration, LONGEST, Serialize, Serializer};

        pub(crate) fn serialize<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
            let micros = time.map(|time| u64::try_from(time.as_micros()).unwrap_or(LONGEST));
            micros.serialize(to)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
            let micros = Option::<u64>::deserialize(from)?;
            Ok(micros.map(|micros| Duration::from_micros(micros.min(LONGEST))))
        }
    }
}
