//! What is done about owners that are silent, that say goodbye, and that are back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Guard;
use crate::claims::{Address, Change, Stage};
use crate::peer::{Peer, on_link};
use crate::seam::{Effect, Link, Mac, Outcome, PeerState};
use crate::suspicion::{Act, Case, Group, RELIEF};

/// Before asking is tried again where nothing can be asked.
const CANNOT_ASK: Duration = Duration::from_millis(240);

impl Guard {
    /// Opens a case for each owner that has been silent for too long.
    pub(super) fn suspect(&mut self, now: Duration) {
        let silent = |node: &Arc<str>, peer: &Peer| {
            peer.suspect_at().is_some_and(|at| at <= now) && !self.cases.contains_key(node)
        };
        let silent = self.peers.iter().filter(|(node, peer)| silent(node, peer));
        let silent: Vec<_> = silent
            .map(|(node, peer)| (Arc::clone(node), peer.silent_since()))
            .collect();
        for (node, since) in silent {
            self.counters.missed.add();
            self.think(&node, PeerState::Suspect);
            self.follow_plans_of(&node, now);
            self.cases.insert(node, Case::new(since, now));
        }
    }

    /// An owner that is silent may have handed over to one that this node does not hear: it is that one's standby now.
    fn follow_plans_of(&mut self, owner: &Arc<str>, now: Duration) {
        let me = Arc::clone(&self.duties.node);
        let theirs = |address: &IpAddr| {
            let entry = self.addresses.get(address);
            entry.is_some_and(|entry| entry.belief.owner == *owner && entry.stage == Stage::Idle)
        };
        let theirs: Vec<IpAddr> = self.planned.iter().filter(|address| theirs(address)).copied().collect();
        for address in theirs {
            let change = self.addresses.get_mut(&address).map(|entry| entry.lapse(&me));
            self.apply(address, change.unwrap_or(Change::Nothing), false, now);
        }
        // Before anything is asked: only where pairs are may be asked.
        self.find_pairs(now);
    }

    /// Asks what is due, ends what is over.
    pub(super) fn pursue(&mut self, now: Duration) {
        let due = |case: &Case| case.deadline().is_some_and(|at| at <= now);
        let due = self
            .cases
            .iter()
            .filter(|(_, case)| due(case))
            .map(|(owner, _)| Arc::clone(owner));
        for owner in due.collect::<Vec<_>>() {
            self.relieve(&owner, now);
            self.conclude(&owner, now);
            self.ask(&owner, now);
            self.ask_witnesses(&owner, now);
        }
    }

    /// The owner has been heard again for long enough, or is silent once more.
    fn relieve(&mut self, owner: &Arc<str>, now: Duration) {
        let Some(case) = self.cases.get_mut(owner) else { return };
        if case.relieved_at.is_none_or(|at| now < at) {
            return;
        }
        case.relieved_at = None;
        match self.peers.get(owner) {
            Some(peer) if !peer.alive(now) => {
                case.since = peer.silent_since();
                case.ask_at(now);
            }
            _ => self.close(owner),
        }
    }

    fn conclude(&mut self, owner: &Arc<str>, now: Duration) {
        let able = self.ground.answering;
        let Some(case) = self.cases.get_mut(owner).filter(|case| case.ends(now)) else {
            return;
        };
        if !able {
            return case.ask_at(now + CANNOT_ASK);
        }
        let (acts, state) = case.conclude(now);
        let since = case.since;
        self.think(owner, state);
        for (group, act) in acts {
            let addresses = self.groups(owner).remove(&group).unwrap_or_default();
            match act {
                Act::Take(reason) => {
                    for address in addresses {
                        self.take_over(address, owner, reason, since, now);
                    }
                }
                Act::StandIn(macs) => self.stand_in(owner, &addresses, &macs, now),
                Act::Rest => self.rest(&addresses),
            }
        }
    }

    fn ask(&mut self, owner: &Arc<str>, now: Duration) {
        if !self.cases.get(owner).is_some_and(|case| case.asks(now)) {
            return;
        }
        let groups = self.groups(owner);
        let (kernel, control) = (self.peers.get(owner).map(Peer::kernel), self.control(owner, now));
        let macs = self
            .peers
            .get(owner)
            .map(|peer| peer.places.iter().map(|place| place.mac).collect());
        let Some(case) = self.cases.get_mut(owner) else { return };
        if groups.is_empty() || !self.ground.answering {
            return case.ask_at(now + CANNOT_ASK);
        }
        self.question += 1;
        let samples = groups
            .into_iter()
            .filter_map(|(group, all)| Some((group, *all.first()?)));
        let question = case.ask(
            self.question,
            (kernel.unwrap_or_default(), macs.unwrap_or_default()),
            control,
            samples.collect(),
            now,
        );
        self.counters.questions.add();
        self.out.push(Effect::Ask(question));
    }

    /// The addresses of an owner that this node can act for, by what is to be done about them.
    fn groups(&self, owner: &Arc<str>) -> BTreeMap<Group, BTreeSet<IpAddr>> {
        let shared = self.peers.get(owner).map(|peer| &peer.shared);
        // An owner that shares a segment with this node is judged there and nowhere else.
        let here = |link: &&Link| shared.is_none_or(|shared| shared.is_empty() || shared.contains(&link.interface));
        let links: Vec<&Link> = self.ground.links.iter().filter(here).collect();
        let mut groups: BTreeMap<Group, BTreeSet<IpAddr>> = BTreeMap::new();
        for (address, entry) in &self.addresses {
            let duty = &entry.duty;
            let usable = duty.may_announce && links.iter().any(|link| duty.announces_on(link, *address));
            if entry.belief.owner != *owner || !usable {
                continue;
            }
            let standing_in = match entry.stage {
                Stage::Idle => false,
                Stage::StandIn(_) => true,
                Stage::Own => continue,
            };
            if let Some(rank) = entry.belief.rank(&self.duties.node) {
                let group = Group {
                    before: entry.belief.standbys.iter().take(rank).cloned().collect(),
                    interfaces: duty.interfaces.clone(),
                    grace: duty.timing.grace,
                    answer_for_owner: duty.timing.answer_for_owner,
                    standing_in,
                };
                groups.entry(group).or_default().insert(*address);
            }
        }
        groups
    }

    /// A third node's kernel, which shows whether questions of this node are answered at all: of one that is heard, if
    /// there is one.
    fn control(&self, owner: &Arc<str>, now: Duration) -> BTreeSet<IpAddr> {
        let others = self
            .peers
            .iter()
            .filter(|(node, peer)| *node != owner && peer.paired().is_some());
        let others = others.map(|(_, peer)| peer).filter(|peer| !peer.places.is_empty());
        let best = others.max_by_key(|peer| peer.alive(now));
        best.into_iter().flat_map(Peer::kernel).collect()
    }

    fn stand_in(
        &mut self,
        owner: &Arc<str>,
        addresses: &BTreeSet<IpAddr>,
        macs: &BTreeMap<String, Mac>,
        now: Duration,
    ) {
        for address in addresses {
            if let Some(entry) = self.addresses.get_mut(address) {
                let here = macs
                    .iter()
                    .filter(|(interface, _)| entry.duty.interfaces.has(interface));
                entry.stage = Stage::StandIn(here.map(|(interface, mac)| (interface.clone(), *mac)).collect());
            }
        }
        if addresses.is_empty() {
            return;
        }
        if let Some(case) = self.cases.get_mut(owner) {
            case.stood_in = true;
        }
        self.moved = true;
        self.tell(Outcome::StandingIn {
            owner: Arc::clone(owner),
            addresses: addresses.clone(),
        });
        // The owner may be waiting for it.
        if let Some(peer) = self.peers.get_mut(owner) {
            peer.hurry(now);
        }
    }

    /// An owner is about to end.
    pub(super) fn goodbye_of(&mut self, owner: &Arc<str>, now: Duration) {
        let Some(peer) = self.peers.get(owner).filter(|peer| peer.suspect_at().is_some()) else {
            return;
        };
        let macs = self.macs(peer);
        let groups = self.groups(owner);
        if self.cases.get(owner).is_some_and(Case::has_left) {
            // The answer to an earlier goodbye may have been lost.
            if let Some(peer) = self.peers.get_mut(owner) {
                peer.hurry(now);
            }
        } else {
            let stood_in = self.cases.get(owner).is_some_and(|case| case.stood_in);
            let silent = groups.keys().filter(|group| !group.standing_in);
            let mut case = Case::goodbye(silent, now);
            case.stood_in = stood_in;
            self.cases.insert(Arc::clone(owner), case);
            self.think(owner, PeerState::SpeakerSilent);
        }
        let case = self.cases.get(owner).filter(|_| self.ground.answering);
        let follows = |group: &Group| case.is_some_and(|case| case.follows(group, now));
        let due: Vec<_> = groups.into_iter().filter(|(group, _)| follows(group)).collect();
        for (group, addresses) in due {
            let macs = macs.iter().filter(|(i, _)| group.interfaces.has(i));
            let macs: BTreeMap<String, Mac> = macs.map(|(i, mac)| (i.clone(), *mac)).collect();
            // Without a MAC of the owner on this node's segments, the kernel has to be asked for one first.
            if !macs.is_empty() {
                self.stand_in(owner, &addresses, &macs, now);
            }
        }
    }

    /// A peer's MAC on each interface of this node that is in the subnet of one of its places.
    fn macs(&self, peer: &Peer) -> BTreeMap<String, Mac> {
        let mac = |link: &Link| {
            let place = peer.places.iter().find(|place| on_link(link, place.address))?;
            Some((link.interface.clone(), place.mac))
        };
        self.ground.links.iter().filter_map(mac).collect()
    }

    /// A peer has said, then, that it answers for what it owns, which is read now.
    pub(super) fn well(&mut self, node: &Arc<str>, pace: Option<(Duration, u8)>, at: Duration, now: Duration) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.is_well(pace, at, now);
        }
        self.think(node, PeerState::Alive);
        if !self.cases.contains_key(node) {
            return;
        }
        if self.stood_in(node).is_empty() {
            self.close(node);
        } else if let Some(case) = self.cases.get_mut(node) {
            case.relieved_at.get_or_insert(now + RELIEF);
        }
    }

    /// Cases in which nothing is left to decide.
    pub(super) fn close_cases(&mut self) {
        let watched = |owner: &Arc<str>| self.peers.get(owner).is_some_and(|peer| peer.suspect_at().is_some());
        let idle = self.cases.keys().filter(|owner| !watched(owner)).cloned();
        for owner in idle.collect::<Vec<_>>() {
            self.close(&owner);
        }
    }

    /// Answers for these no more.
    fn rest(&mut self, addresses: &BTreeSet<IpAddr>) {
        for address in addresses {
            if let Some(Address { stage, .. }) = self.addresses.get_mut(address) {
                *stage = Stage::Idle;
            }
        }
        self.moved = true;
    }

    fn close(&mut self, owner: &Arc<str>) {
        let case = self.cases.remove(owner);
        self.rest(&self.stood_in(owner));
        if case.is_some_and(|case| case.stood_in) {
            self.tell(Outcome::StoodDown {
                owner: Arc::clone(owner),
            });
        }
    }
}
