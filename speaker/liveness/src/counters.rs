//! What was counted, readable from any thread without a lock. Counters only grow; how other nodes stand does not.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::seam::PeerState;
use crate::wire::Malformed;

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Dropped {
    /// It is no datagram of this protocol.
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
    /// Its key is not known.
    #[error("unknown key")]
    UnknownKey,
    /// Its signature is wrong.
    #[error("wrong signature")]
    Signature,
    /// Its sender is none of the peers.
    #[error("unknown sender")]
    UnknownSender,
    /// It is not newer than the last one of its sender.
    #[error("replayed or overtaken")]
    Replay,
}

impl Dropped {
    /// All of them, the malformed ones as one.
    pub const NAMES: [&'static str; 5] = ["malformed", "unknown_key", "signature", "unknown_sender", "replay"];

    /// Place in [`Dropped::NAMES`].
    fn index(self) -> usize {
        match self {
            Dropped::Malformed(_) => 0,
            Dropped::UnknownKey => 1,
            Dropped::Signature => 2,
            Dropped::UnknownSender => 3,
            Dropped::Replay => 4,
        }
    }
}

/// Everything the guard and its shell count.
#[derive(Debug, Default)]
pub struct Counters {
    /// Datagrams sent.
    pub sent: Count,
    /// Datagrams that could not be sent.
    pub unsent: Count,
    /// Datagrams received and believed.
    pub received: Count,
    /// Detection times of an owner that ended in silence.
    pub missed: Count,
    /// Times at which this process had not run for so long that it judged nobody.
    pub stalls: Count,
    /// Questions asked.
    pub questions: Count,
    /// Answers of other nodes that heard an owner that this one did not.
    pub vouched: Count,
    drops: [Count; Dropped::NAMES.len()],
    peers: [Count; PeerState::ALL.len()],
}

impl Counters {
    pub(crate) fn dropped(&self, why: Dropped) {
        self.drops[why.index()].add();
    }

    /// Replaces how many owners are thought of in each way.
    pub(crate) fn set_peers(&self, states: impl Iterator<Item = PeerState> + Clone) {
        for (count, state) in self.peers.iter().zip(PeerState::ALL) {
            let there = states.clone().filter(|one| *one == state).count();
            count.0.store(there as u64, Relaxed);
        }
    }

    /// Owners that this node stands by for, by what is thought of them; every state is there.
    pub fn peers(&self) -> impl Iterator<Item = (PeerState, u64)> {
        PeerState::ALL.into_iter().zip(self.peers.iter().map(Count::get))
    }

    /// Datagrams dropped, by reason; every reason is there.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Dropped::NAMES.into_iter().zip(self.drops.iter().map(Count::get))
    }
}

/// A number.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let counters = Counters::default();
        let all = [
            Dropped::Malformed(Malformed::Magic),
            Dropped::UnknownKey,
            Dropped::Signature,
            Dropped::UnknownSender,
            Dropped::Replay,
        ];
        for (number, why) in (1..).zip(all) {
            (0..number).for_each(|_| counters.dropped(why));
        }
        let counted: Vec<u64> = counters.drops().map(|(_, count)| count).collect();
        assert_eq!(counted, [1, 2, 3, 4, 5]);
    }
}
