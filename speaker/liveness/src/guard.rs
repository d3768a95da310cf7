//! The machine that decides who answers for the addresses of this node. Pure.
//!
//! It is told what happens ([`Guard::handle`]) and returns what is to be done; every input has an answer in every state.
//! [`Guard::next_deadline`] says when it wants a tick.
//!
//! Here is what holds the parts together: addresses ([`crate::claims`]), other nodes ([`crate::peer`]), silent owners
//! ([`crate::suspicion`]). `talk` speaks to the other nodes, `judge` acts on what the wire says, `witness` asks
//! others what they hear.

mod judge;
mod talk;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use litemap::LiteMap;

use crate::claims::{Address, Change, Stage};
use crate::counters::Counters;
use crate::peer::Peer;
use crate::seam::{
    Duties, Effect, Ground, Input, Mac, Note, Outcome, PeerState, Placement, Role, Takeover, Timing, Want, Wanted,
};
use crate::suspicion::Case;

/// Before a question that layer 2 has not taken is asked again.
const NOT_ASKED: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub struct Guard {
    counters: Arc<Counters>,
    random: u64,
    duties: Arc<Duties>,
    ground: Arc<Ground>,
    addresses: LiteMap<IpAddr, Address>,
    /// Every node the core has named.
    peers: BTreeMap<Arc<str>, Peer>,
    /// Silent owners.
    cases: BTreeMap<Arc<str>, Case>,
    /// Addresses that are to have another owner.
    planned: BTreeSet<IpAddr>,
    /// The last datagram's place in this run.
    sequence: u64,
    /// The last question's id.
    question: u64,
    wanted: Arc<Wanted>,
    /// Who owns what has changed: pairs have to be found anew.
    moved: bool,
    /// What layer 2 has to do may have changed.
    dirty: bool,
    leaving: Option<talk::Leaving>,
    out: Vec<Effect>,
}

impl Guard {
    /// A guard that knows nothing yet. `seed` draws the jitter of its heartbeats.
    pub fn new(seed: u64, counters: Arc<Counters>) -> Guard {
        Guard {
            counters,
            // Not zero, which xorshift never leaves.
            random: seed | 1,
            duties: Arc::default(),
            ground: Arc::default(),
            addresses: LiteMap::new(),
            peers: BTreeMap::new(),
            cases: BTreeMap::new(),
            planned: BTreeSet::new(),
            sequence: 0,
            question: 0,
            wanted: Arc::default(),
            moved: false,
            dirty: false,
            leaving: None,
            out: Vec::new(),
        }
    }

    /// Goes on with the numbers of datagrams of a guard before it.
    pub fn go_on_from(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// The number of the last datagram.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Takes an input in and says what is to be done, in this order.
    pub fn handle(&mut self, input: Input<'_>, now: Duration) -> Vec<Effect> {
        match input {
            Input::Duties(duties) => self.take_duties(duties, now),
            Input::Ground(ground) => {
                self.ground = ground;
                self.mind_links(now);
                // What peers are told of this node's places and of its layer 2 is news to them.
                self.peers.values_mut().for_each(|peer| peer.hurry(now));
            }
            Input::Datagram { from, bytes, at } => self.receive(from, bytes, at, now),
            Input::Note(note) => self.hear(&note, now),
            Input::NotAsked { question } => {
                let cases = self.cases.values_mut().filter(|case| case.asked(question));
                cases.for_each(|case| case.ask_at(now + NOT_ASKED));
            }
            Input::Goodbye => self.leave(now),
            Input::Tick => self.tick(now),
        }
        self.finish(now)
    }

    /// When a [`Input::Tick`] is wanted, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Duration> {
        let suspects = self.peers.iter().filter(|(node, _)| !self.cases.contains_key(*node));
        let cases = self.cases.values().filter_map(Case::deadline);
        // Who leaves says nothing more but goodbye.
        let peers = self.peers.values().filter_map(Peer::next);
        let peers = peers.filter(|_| self.leaving.is_none());
        let handed = self.planned.iter().filter_map(|address| self.handed_at(address));
        let leaving = self.leaving.as_ref().map(talk::Leaving::deadline);
        suspects
            .filter_map(|(_, peer)| peer.suspect_at())
            .chain(cases)
            .chain(peers)
            .chain(handed)
            .chain(leaving)
            .min()
    }

    fn tick(&mut self, now: Duration) {
        self.mind_own_stall(now);
        self.speak(now);
        self.end_handovers(now);
        self.suspect(now);
        self.pursue(now);
    }

    /// A tick that comes too late says that this process stood still; what it did not hear meanwhile means nothing.
    fn mind_own_stall(&mut self, now: Duration) {
        let paired = self.peers.values().filter_map(Peer::paired);
        let interval = paired
            .map(|timing| timing.interval)
            .min()
            .unwrap_or(Timing::default().interval);
        if self.next_deadline().is_none_or(|at| now <= at + interval) {
            return;
        }
        self.counters.stalls.add();
        self.peers.values_mut().for_each(|peer| peer.excuse(now));
    }

    fn handed_at(&self, address: &IpAddr) -> Option<Duration> {
        Some(self.addresses.get(address)?.plan.as_ref()?.until)
    }

    fn end_handovers(&mut self, now: Duration) {
        let over = |address: &&IpAddr| self.handed_at(address).is_none_or(|at| at <= now);
        let over: Vec<IpAddr> = self.planned.iter().filter(over).copied().collect();
        let me = Arc::clone(&self.duties.node);
        for address in over {
            let ended = self.addresses.get_mut(&address).map(|entry| entry.lapse(&me));
            self.apply(address, ended.unwrap_or(Change::Nothing), true, now);
            self.planned.remove(&address);
        }
    }

    fn hear(&mut self, note: &Note, now: Duration) {
        match note {
            Note::Answer { question, .. } | Note::Over { question, .. } => {
                let cases = self.cases.values_mut().filter(|case| case.asked(*question));
                cases.for_each(|case| case.hear(note, now));
            }
            Note::Claimed { address, mac, .. } => self.seen(*address, *mac, now),
        }
    }

    /// A station claims an address on the segment.
    fn seen(&mut self, address: IpAddr, mac: Mac, now: Duration) {
        let Some(entry) = self.addresses.get_mut(&address) else {
            return;
        };
        let mut peers = self.peers.iter();
        let station = peers.find(|(_, peer)| peer.places.iter().any(|place| place.mac == mac));
        let station = station.map(|(node, _)| Arc::clone(node));
        let planned = entry.plan.as_ref().map(|plan| &plan.placement.owner);
        // An owner that has not said where it is has any MAC that is no other node's, as far as can be told; but one that comes
        // back to who stands in for it has not said so either.
        let owns = entry.stage == Stage::Own;
        let unplaced = |owner| owns && self.peers.get(owner).is_none_or(|peer| peer.places.is_empty());
        let shown = planned.is_some_and(|owner| match &station {
            Some(station) => station == owner,
            None => unplaced(owner),
        });
        if shown {
            let me = Arc::clone(&self.duties.node);
            let change = entry.shown(&me);
            self.apply(address, change, false, now);
        } else if owns && let Some(peer) = station.and_then(|station| self.peers.get_mut(&station)) {
            // They may not know of each other as members.
            peer.claim(address);
            self.moved = true;
        }
    }

    fn take_duties(&mut self, duties: Arc<Duties>, now: Duration) {
        self.duties = Arc::clone(&duties);
        let me = &duties.node;
        self.peers.retain(|node, _| duties.peers.contains_key(node));
        for (node, addresses) in duties.peers.iter().filter(|(node, _)| *node != me) {
            let peer = self.peers.entry(Arc::clone(node)).or_default();
            peer.addresses.clone_from(addresses);
        }
        self.addresses
            .retain(|address, _| duties.addresses.contains_key(address));
        for (address, duty) in &duties.addresses {
            let change = match self.addresses.get_mut(address) {
                Some(entry) => entry.update(Arc::clone(duty), me, now),
                None => {
                    let (entry, change) = Address::new(Arc::clone(duty), me);
                    self.addresses.insert(*address, entry);
                    change
                }
            };
            self.apply(*address, change, false, now);
        }
        self.moved = true;
    }

    /// What follows from a change of who owns an address.
    fn apply(&mut self, address: IpAddr, change: Change, unconfirmed: bool, now: Duration) {
        let Some(entry) = self.addresses.get(&address) else {
            return;
        };
        let placement = &entry.belief;
        match change {
            Change::Nothing => {}
            Change::Own(tell) => {
                for node in tell {
                    if let Some(peer) = self.peers.get_mut(&node) {
                        peer.claim(address);
                        peer.hurry(now);
                    }
                }
            }
            Change::Planned => {
                self.planned.insert(address);
            }
            Change::HandedOver => {
                let to = Arc::clone(&placement.owner);
                self.tell(Outcome::HandedOver {
                    address,
                    to,
                    unconfirmed,
                });
            }
            Change::Yielded => {
                let placement = placement.clone();
                self.tell(Outcome::Yielded { address, placement });
            }
        }
        self.moved = true;
    }

    fn take_over(&mut self, address: IpAddr, from: &Arc<str>, reason: Takeover, since: Duration, now: Duration) {
        let me = Arc::clone(&self.duties.node);
        let Some(entry) = self.addresses.get_mut(&address) else {
            return;
        };
        let change = entry.take(from, &me);
        let placement = entry.belief.clone();
        self.apply(address, change, false, now);
        let after = now.saturating_sub(since);
        self.tell(Outcome::TookOver {
            address,
            placement,
            from: Arc::clone(from),
            reason,
            after,
        });
    }

    fn tell(&mut self, outcome: Outcome) {
        self.out.push(Effect::Outcome(outcome));
    }

    fn think(&mut self, node: &Arc<str>, state: PeerState) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        if peer.state != state {
            peer.state = state;
            self.count_peers();
            let node = Arc::clone(node);
            self.tell(Outcome::Peer { node, state });
        }
    }

    fn count_peers(&self) {
        let watched = self.peers.values().filter(|peer| peer.is_watched());
        self.counters.set_peers(watched.map(|peer| peer.state));
    }

    /// Brings pairs and layer 2 in line with who owns what, and hands out what is to be done: layer 2 first.
    fn finish(&mut self, now: Duration) -> Vec<Effect> {
        if self.moved {
            self.moved = false;
            self.dirty = true;
            self.find_pairs(now);
            self.close_cases();
            self.mind_links(now);
            // New pairs, and claims, are spoken to at once.
            self.speak(now);
        }
        let mut effects = Vec::with_capacity(self.out.len() + 1);
        if self.dirty {
            self.dirty = false;
            let wanted = self.derive_wanted();
            if wanted != *self.wanted {
                self.wanted = Arc::new(wanted);
                effects.push(Effect::Wanted(Arc::clone(&self.wanted)));
            }
        }
        effects.append(&mut self.out);
        effects
    }

    /// Who is spoken to, how often, and who is watched.
    fn find_pairs(&mut self, now: Duration) {
        let me = &self.duties.node;
        let mut pairs: BTreeMap<&Arc<str>, (Timing, bool)> = BTreeMap::new();
        let mut pair = |node, timing: Timing, watched| {
            let known = pairs.entry(node).or_insert((timing, watched));
            known.1 |= watched;
            if timing.interval * u32::from(timing.multiplier) < known.0.interval * u32::from(known.0.multiplier) {
                known.0 = timing;
            }
        };
        for entry in self.addresses.values() {
            let timing = entry.duty.timing;
            let plan = entry.plan.iter().map(|plan| &plan.placement);
            for placement in std::iter::once(&entry.belief).chain(plan) {
                if placement.owner == *me {
                    placement.standbys.iter().for_each(|node| pair(node, timing, false));
                } else if placement.rank(me).is_some() {
                    pair(&placement.owner, timing, true);
                }
            }
        }
        let heir = |address: &IpAddr| Some(Arc::clone(self.heir(address)?.0));
        let heirs: BTreeSet<Arc<str>> = self.planned.iter().filter_map(heir).collect();
        for (node, peer) in &mut self.peers {
            let own = |address: &IpAddr| {
                self.addresses
                    .get(address)
                    .is_some_and(|entry| entry.stage == Stage::Own)
            };
            peer.claims.retain(own);
            let (timing, watched) = pairs.get(node).map_or((None, false), |(timing, w)| (Some(*timing), *w));
            peer.engage(timing, watched, heirs.contains(node), now);
        }
        self.count_peers();
    }

    /// The planned owner of an address that this node answers for, and the epoch that it has it under.
    fn heir(&self, address: &IpAddr) -> Option<(&Arc<str>, u64)> {
        let entry = self.addresses.get(address).filter(|entry| entry.stage != Stage::Idle)?;
        let placement = &entry.plan.as_ref()?.placement;
        Some((&placement.owner, placement.epoch))
    }

    fn derive_wanted(&self) -> Wanted {
        let me = &self.duties.node;
        let want = |entry: &Address| {
            Some(Want {
                interfaces: entry.duty.interfaces.clone(),
                role: entry.role(me)?,
                manner: entry.duty.manner,
            })
        };
        let addresses = self
            .addresses
            .iter()
            .filter_map(|(address, entry)| Some((*address, want(entry)?)));
        let paired = self.peers.values().filter(|peer| peer.paired().is_some());
        Wanted {
            addresses: addresses.collect(),
            peers: paired.flat_map(Peer::kernel).collect(),
            members: self
                .peers
                .values()
                .flat_map(|peer| &peer.places)
                .map(|place| place.mac)
                .collect(),
        }
    }

    /// Addresses of an owner that are answered in its name.
    fn stood_in(&self, owner: &str) -> BTreeSet<IpAddr> {
        let theirs = |entry: &Address| *entry.belief.owner == *owner && matches!(entry.stage, Stage::StandIn(_));
        let addresses = self.addresses.iter().filter(|(_, entry)| theirs(entry));
        addresses.map(|(address, _)| *address).collect()
    }

    /// What this node answers for, and how: for tests and for people.
    pub fn roles(&self) -> impl Iterator<Item = (IpAddr, Role)> {
        let me = &self.duties.node;
        self.addresses
            .iter()
            .filter_map(move |(address, entry)| Some((*address, entry.role(me)?)))
    }

    /// Who owns what as far as this node knows.
    pub fn beliefs(&self) -> BTreeMap<IpAddr, Placement> {
        let belief = |(address, entry): (&IpAddr, &Address)| (*address, entry.belief.clone());
        self.addresses.iter().map(belief).collect()
    }

    /// Who owns an address as far as this node knows.
    pub fn belief(&self, address: IpAddr) -> Option<&Placement> {
        self.addresses.get(&address).map(|entry| &entry.belief)
    }
}

#[cfg(test)]
mod tests;
