//! A node: its kernel, its speaker's process with guard and layer 2, and what it keeps on disk.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_liveness::{Duties, Guard, Mac, Note, Role, Wanted};

/// What waits for a process that stands still.
pub(crate) enum Waiting {
    Datagram(IpAddr, Vec<u8>),
    Note(Note),
    Apply(Arc<Wanted>),
    Duties(Arc<Duties>),
    Ground,
}

pub(crate) struct Process {
    pub(crate) guard: Guard,
    /// What layer 2 was told last.
    pub(crate) told: Arc<Wanted>,
    /// What layer 2 does now.
    pub(crate) applied: Arc<Wanted>,
    pub(crate) stalled_until: Option<Duration>,
    pub(crate) inbox: Vec<Waiting>,
    /// Its number on this node, and the boot of its datagrams.
    pub(crate) run: u64,
    pub(crate) tick_at: Option<Duration>,
    pub(crate) leaving: bool,
}

pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    pub(crate) ip: IpAddr,
    pub(crate) mac: Mac,
    /// The node has power.
    pub(crate) kernel: bool,
    pub(crate) process: Option<Process>,
    pub(crate) runs: u64,
    /// On disk: what the core knew last.
    pub(crate) snapshot: Arc<Duties>,
    /// Nodes with the same number hear each other.
    pub(crate) segment: u8,
    /// The interface that it announces on has a carrier.
    pub(crate) link: bool,
    /// It reaches the API server.
    pub(crate) api: bool,
    /// Wakes up late by up to this.
    pub(crate) load: Duration,
}

impl Node {
    pub(crate) fn running(&self) -> Option<&Process> {
        self.process.as_ref().filter(|process| process.stalled_until.is_none())
    }

    /// The MAC that the node's answer about an address has, and whether it is in another's name.
    pub(crate) fn answers(&self, address: IpAddr) -> Option<(Mac, bool)> {
        match &self
            .running()
            .filter(|_| self.link)?
            .applied
            .addresses
            .get(&address)?
            .role
        {
            Role::Own => Some((self.mac, false)),
            Role::StandIn(macs) => macs.get("eth0").map(|mac| (*mac, true)),
            Role::Listen => None,
        }
    }

    pub(crate) fn believes_to_own(&self, address: IpAddr) -> bool {
        let belief = self.process.as_ref().and_then(|process| process.guard.belief(address));
        belief.is_some_and(|belief| belief.owner == self.name)
    }

    /// Could do something about an address.
    pub(crate) fn capable(&self, address: IpAddr) -> bool {
        let duty = || self.snapshot.addresses.get(&address);
        self.link
            && self
                .running()
                .is_some_and(|process| process.applied.addresses.contains_key(&address))
            && duty().is_some_and(|duty| duty.may_announce)
    }
}
