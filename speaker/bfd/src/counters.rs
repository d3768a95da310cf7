//! What was counted, readable from any thread without a lock: a reader that is not scheduled must not hold up the thread
//! that watches paths. Counters only grow.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::packet::Malformed;

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Reason {
    /// It breaks a rule of control packets.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// It came from further away than the session allows (RFC 5881 section 5, RFC 5883 section 5).
    #[error("TTL is too low")]
    Ttl,
    /// It names a session that this node does not have.
    #[error("your discriminator is unknown")]
    UnknownDiscriminator,
    /// It names none, and none is wanted with its sender.
    #[error("sender is unknown")]
    UnknownPeer,
    /// It names a session of another port, interface or VRF.
    #[error("session is of another port, interface or VRF")]
    OtherPath,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 12] = [
        Reason::Malformed(Malformed::Truncated),
        Reason::Malformed(Malformed::Version),
        Reason::Malformed(Malformed::Length),
        Reason::Malformed(Malformed::Authentication),
        Reason::Malformed(Malformed::Multiplier),
        Reason::Malformed(Malformed::Multipoint),
        Reason::Malformed(Malformed::MyDiscriminator),
        Reason::Malformed(Malformed::YourDiscriminator),
        Reason::Ttl,
        Reason::UnknownDiscriminator,
        Reason::UnknownPeer,
        Reason::OtherPath,
    ];
}

/// Packets dropped.
#[derive(Debug, Default)]
pub struct Drops([AtomicU64; Reason::ALL.len()]);

impl Drops {
    pub(crate) fn count(&self, reason: Reason) {
        for (counter, _) in self.0.iter().zip(Reason::ALL).filter(|(_, of)| *of == reason) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// How many for each reason; every reason is there.
    pub fn read(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL
            .into_iter()
            .zip(self.0.iter().map(|counter| counter.load(Relaxed)))
    }

    /// How many for this reason.
    pub fn of(&self, reason: Reason) -> u64 {
        self.read()
            .filter(|(of, _)| *of == reason)
            .map(|(_, count)| count)
            .sum()
    }
}

/// Packets of one session.
#[derive(Debug, Default)]
pub struct PathCounters {
    sent: AtomicU64,
    received: AtomicU64,
    unsent: AtomicU64,
}

impl PathCounters {
    pub(crate) fn count_sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_received(&self) {
        self.received.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_unsent(&self) {
        self.unsent.fetch_add(1, Relaxed);
    }

    /// Packets sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Packets received that belong to the session.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Packets that could not be sent.
    pub fn unsent(&self) -> u64 {
        self.unsent.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let drops = Drops::default();
        for (number, reason) in (1..).zip(Reason::ALL) {
            (0..number).for_each(|_| drops.count(reason));
        }
        let expected: Vec<(Reason, u64)> = Reason::ALL.into_iter().zip(1..).collect();
        assert_eq!(drops.read().collect::<Vec<_>>(), expected);
        assert_eq!(drops.of(Reason::Ttl), 9);
    }
}
