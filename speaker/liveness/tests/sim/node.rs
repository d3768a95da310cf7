//! A node: its kernel, its speaker's process with guard and layer 2, and what it keeps on disk.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_liveness::{Duties, Effect, Guard, Input, Mac, Note, Outcome, PeerState, Placement, Role, Wanted};

/// What waits for a process that stands still.
pub(crate) enum Waiting {
    /// From whom, what, and when it arrived.
    Datagram(IpAddr, Vec<u8>, Duration),
    Note(Note),
    Apply(Arc<Wanted>),
    Duties(Arc<Duties>),
    Ground,
}

pub(crate) struct Process {
    pub(crate) guard: Guard,
    /// When it started: its own clock begins then.
    start: Duration,
    /// The number of the run in its datagrams.
    pub(crate) boot: u64,
    /// What the guard has said last of other nodes.
    pub(crate) thinks: BTreeMap<Arc<str>, PeerState>,
    /// What layer 2 was told last.
    pub(crate) told: Arc<Wanted>,
    /// What layer 2 does now.
    pub(crate) applied: Arc<Wanted>,
    pub(crate) stalled_until: Option<Duration>,
    pub(crate) inbox: Vec<Waiting>,
    /// Its number on this node.
    pub(crate) run: u64,
    pub(crate) tick_at: Option<Duration>,
    pub(crate) leaving: bool,
}

impl Process {
    pub(crate) fn new(seed: u64, run: u64, boot: u64, now: Duration) -> Process {
        Process {
            guard: Guard::new(seed, Arc::default()),
            start: now,
            boot,
            thinks: BTreeMap::new(),
            told: Arc::default(),
            applied: Arc::default(),
            stalled_until: None,
            inbox: Vec::new(),
            run,
            tick_at: None,
            leaving: false,
        }
    }

    /// Times are the world's.
    pub(crate) fn handle(&mut self, mut input: Input<'_>, now: Duration) -> Vec<Effect> {
        if let Input::Datagram { at, .. } = &mut input {
            *at = at.saturating_sub(self.start);
        }
        let effects = self.guard.handle(input, now - self.start);
        for effect in &effects {
            if let Effect::Outcome(Outcome::Peer { node, state }) = effect {
                self.thinks.insert(Arc::clone(node), *state);
            }
        }
        effects
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.guard.next_deadline().map(|at| self.start + at)
    }
}

pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    pub(crate) ip: IpAddr,
    pub(crate) mac: Mac,
    /// The node has power.
    pub(crate) kernel: bool,
    pub(crate) process: Option<Process>,
    pub(crate) runs: u64,
    /// On disk, which a boot empties: what the core knew last, and the number of the last run.
    pub(crate) snapshot: Arc<Duties>,
    pub(crate) last_run: Option<u64>,
    /// The greatest number a run has had.
    pub(crate) greatest_run: u64,
    /// What its clock says at the beginning of the world.
    pub(crate) clock: Duration,
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
    /// The number of a run that begins now, as the speaker draws it.
    pub(crate) fn number(&mut self, now: Duration) -> u64 {
        let clock = u64::try_from((self.clock + now).as_nanos()).unwrap();
        let number = self.last_run.map_or(clock, |last| clock.max(last + 1));
        self.last_run = Some(number);
        number
    }

    /// The state directory is empty.
    pub(crate) fn forget(&mut self) {
        self.snapshot = Arc::default();
        self.last_run = None;
    }

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

    /// Who owns an address as far as it knows.
    pub(crate) fn belief(&self, address: IpAddr) -> Option<&Placement> {
        self.process.as_ref()?.guard.belief(address)
    }

    /// Has read that an address has another owner, and goes by the one before.
    pub(crate) fn waits(&self, address: IpAddr) -> bool {
        let read = self.snapshot.addresses.get(&address).map(|duty| &duty.placement);
        let belief = self.belief(address);
        belief.is_some_and(|belief| read.is_some_and(|read| read.order() > belief.order()))
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

    /// Answers for the address, or goes by owning it.
    pub(crate) fn has_part(&self, address: IpAddr) -> bool {
        let belief = self.belief(address);
        self.answers(address).is_some() || belief.is_some_and(|belief| belief.owner == self.name)
    }
}
