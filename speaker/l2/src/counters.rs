//! What the engine counted, readable from any thread. The engine's thread alone writes.
//!
//! Counters only grow. Those of an address start when it comes to be answered for and go when it no longer is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::responder::Reason;

/// The protocol a figure belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// ARP, for IPv4.
    Arp,
    /// Neighbor Discovery, for IPv6.
    Ndp,
}

impl Family {
    /// The protocol that resolves this address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::Arp } else { Family::Ndp }
    }

    /// `ARP` or `NDP`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Arp => "ARP",
            Family::Ndp => "NDP",
        }
    }
}

/// Counters of one address; handed to the hot path so that it takes no lock.
#[derive(Debug, Default)]
pub(crate) struct AddressCounters {
    requests: AtomicU64,
    replies: AtomicU64,
    gratuitous: AtomicU64,
}

/// The counters of every address answered for.
pub(crate) type ByAddress = BTreeMap<IpAddr, Arc<AddressCounters>>;

#[derive(Debug, Default)]
struct KindCounters {
    requests: AtomicU64,
    replies: AtomicU64,
    gratuitous: AtomicU64,
    conflicts: AtomicU64,
    defences: AtomicU64,
    for_owner: AtomicU64,
    from_memory: AtomicU64,
    questions: AtomicU64,
    answers: AtomicU64,
}

/// All counters of one engine.
#[derive(Debug, Default)]
pub struct Counters {
    arp: KindCounters,
    ndp: KindCounters,
    drops: [AtomicU64; Reason::ALL.len()],
    notes_dropped: AtomicU64,
    addresses: Mutex<ByAddress>,
}

/// Figures of one protocol, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindCounts {
    /// Requests for addresses answered for here.
    pub requests: u64,
    /// Answers sent.
    pub replies: u64,
    /// Announcements sent unasked.
    pub gratuitous: u64,
    /// Frames in which somebody else claimed an address announced here.
    pub conflicts: u64,
    /// Announcements sent to defend such an address.
    pub defences: u64,
    /// Of the answers, those in the name of another node.
    pub for_owner: u64,
    /// Of the answers, those to requests that had come while this node only listened.
    pub from_memory: u64,
    /// Questions sent.
    pub questions: u64,
    /// Answers to them that were told, each kind once.
    pub answers: u64,
}

/// Figures of one address, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressCounts {
    /// Requests for it.
    pub requests: u64,
    /// Answers sent.
    pub replies: u64,
    /// Announcements sent unasked.
    pub gratuitous: u64,
}

/// All figures at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// IPv4.
    pub arp: KindCounts,
    /// IPv6.
    pub ndp: KindCounts,
    /// Frames that got no answer, and answers that could not be sent, by reason; every reason is there.
    pub drops: BTreeMap<Reason, u64>,
    /// Notes that found their channel full.
    pub notes_dropped: u64,
    /// Per address answered for.
    pub addresses: BTreeMap<IpAddr, AddressCounts>,
}

impl Counters {
    /// Reads everything. Figures of one moment may be a frame apart from each other.
    pub fn snapshot(&self) -> Snapshot {
        let drops = Reason::ALL
            .iter()
            .zip(&self.drops)
            .map(|(reason, count)| (*reason, count.load(Relaxed)));
        let addresses = self
            .lock()
            .iter()
            .map(|(address, counters)| (*address, counters.read()))
            .collect();
        Snapshot {
            arp: self.arp.read(),
            ndp: self.ndp.read(),
            drops: drops.collect(),
            notes_dropped: self.notes_dropped.load(Relaxed),
            addresses,
        }
    }

    /// The counters of these addresses, and of no others from now on.
    pub(crate) fn select(&self, answered: impl Iterator<Item = IpAddr>) -> ByAddress {
        let mut addresses = self.lock();
        let selected: ByAddress = answered
            .map(|address| (address, addresses.get(&address).cloned().unwrap_or_default()))
            .collect();
        addresses.clone_from(&selected);
        selected
    }

    pub(crate) fn requested(&self, family: Family, address: Option<&AddressCounters>) {
        self.kind(family).requests.fetch_add(1, Relaxed);
        if let Some(address) = address {
            address.requests.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn replied(&self, family: Family, address: Option<&AddressCounters>, for_owner: bool) {
        self.kind(family).replies.fetch_add(1, Relaxed);
        self.kind(family).for_owner.fetch_add(u64::from(for_owner), Relaxed);
        if let Some(address) = address {
            address.replies.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn announced(&self, family: Family, address: Option<&AddressCounters>) {
        self.kind(family).gratuitous.fetch_add(1, Relaxed);
        if let Some(address) = address {
            address.gratuitous.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn conflict(&self, family: Family) {
        self.kind(family).conflicts.fetch_add(1, Relaxed);
    }

    pub(crate) fn defended(&self, family: Family) {
        self.kind(family).defences.fetch_add(1, Relaxed);
    }

    pub(crate) fn replied_from_memory(&self, family: Family, frames: usize) {
        self.kind(family).from_memory.fetch_add(frames as u64, Relaxed);
    }

    pub(crate) fn asked(&self, family: Family, frames: usize) {
        self.kind(family).questions.fetch_add(frames as u64, Relaxed);
    }

    pub(crate) fn answered(&self, family: Family) {
        self.kind(family).answers.fetch_add(1, Relaxed);
    }

    pub(crate) fn note_dropped(&self) {
        self.notes_dropped.fetch_add(1, Relaxed);
    }

    pub(crate) fn dropped(&self, reason: Reason, frames: u64) {
        self.drops[reason.index()].fetch_add(frames, Relaxed);
    }

    fn kind(&self, family: Family) -> &KindCounters {
        match family {
            Family::Arp => &self.arp,
            Family::Ndp => &self.ndp,
        }
    }

    /// Nobody panics while holding the lock, and a map of counters has no broken state.
    fn lock(&self) -> MutexGuard<'_, ByAddress> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KindCounters {
    fn read(&self) -> KindCounts {
        KindCounts {
            requests: self.requests.load(Relaxed),
            replies: self.replies.load(Relaxed),
            gratuitous: self.gratuitous.load(Relaxed),
            conflicts: self.conflicts.load(Relaxed),
            defences: self.defences.load(Relaxed),
            for_owner: self.for_owner.load(Relaxed),
            from_memory: self.from_memory.load(Relaxed),
            questions: self.questions.load(Relaxed),
            answers: self.answers.load(Relaxed),
        }
    }
}

impl AddressCounters {
    fn read(&self) -> AddressCounts {
        AddressCounts {
            requests: self.requests.load(Relaxed),
            replies: self.replies.load(Relaxed),
            gratuitous: self.gratuitous.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_an_address_last_as_long_as_it_is_answered_for() {
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let counters = Counters::default();
        let selected = counters.select([a, b].into_iter());
        counters.requested(Family::Arp, selected.get(&a).map(|c| &**c));
        counters.replied(Family::Arp, selected.get(&a).map(|c| &**c), true);
        counters.announced(Family::Ndp, selected.get(&b).map(|c| &**c));
        counters.conflict(Family::Ndp);
        counters.defended(Family::Ndp);
        let reason = Reason::NotOurs;
        counters.dropped(reason, 3);
        counters.replied_from_memory(Family::Arp, 1);
        counters.asked(Family::Ndp, 3);
        counters.answered(Family::Ndp);
        counters.note_dropped();

        counters.select([a].into_iter());
        let snapshot = counters.snapshot();
        assert_eq!(
            snapshot.arp,
            KindCounts {
                requests: 1,
                replies: 1,
                for_owner: 1,
                from_memory: 1,
                ..KindCounts::default()
            }
        );
        assert_eq!(
            snapshot.ndp,
            KindCounts {
                gratuitous: 1,
                conflicts: 1,
                defences: 1,
                questions: 3,
                answers: 1,
                ..KindCounts::default()
            }
        );
        assert_eq!(
            snapshot.addresses.into_iter().collect::<Vec<_>>(),
            [(
                a,
                AddressCounts {
                    requests: 1,
                    replies: 1,
                    gratuitous: 0
                }
            )]
        );
        assert_eq!(snapshot.notes_dropped, 1);
        assert_eq!(snapshot.drops[&reason], 3);
        assert_eq!(snapshot.drops.len(), Reason::ALL.len());
    }
}
