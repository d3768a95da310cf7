//! What is said to other nodes, and what is made of what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Guard;
use crate::claims::{Compared, Source, Stage};
use crate::counters::Dropped;
use crate::seam::{Effect, Timing};
use crate::wire::{self, Header, Known, LINKS, Message, Packet, Place};

/// Between two goodbyes, which are said until the first standbys answer: a later one has its turn if an earlier one does not know
/// that it is one.
const GOODBYE_GAP: Duration = Duration::from_millis(10);
/// Standbys that have not said by then that they answer will not.
const GOODBYE_WAIT: Duration = Duration::from_millis(100);

/// This process is about to end.
#[derive(Clone, Debug)]
pub(super) struct Leaving {
    /// Standbys that have not said yet that they answer.
    waiting: BTreeSet<Arc<str>>,
    next: Duration,
    until: Duration,
    done: bool,
}

impl Leaving {
    pub(super) fn deadline(&self) -> Duration {
        if self.done {
            self.until
        } else {
            self.next.min(self.until)
        }
    }
}

impl Guard {
    /// Speaks to everybody whose turn it is.
    pub(super) fn speak(&mut self, now: Duration) {
        if self.leaving.is_some() {
            return self.say_goodbye(now);
        }
        let due = |peer: &crate::peer::Peer| peer.next().is_some_and(|at| at <= now);
        let due: Vec<Arc<str>> = self
            .peers
            .iter()
            .filter(|(_, p)| due(p))
            .map(|(node, _)| Arc::clone(node))
            .collect();
        for node in due {
            self.speak_to(&node, now);
        }
    }

    fn speak_to(&mut self, node: &Arc<str>, now: Duration) {
        let jitter = self.roll();
        let Some(peer) = self.peers.get_mut(node) else { return };
        let (paired, claims) = (peer.paired(), peer.claim_now(now).then(|| peer.claims.clone()));
        peer.spoken(now, jitter);
        if let Some(timing) = paired {
            let hello = self.hello(node, timing);
            self.send(node, &hello, now);
        }
        // Who has no interface to answer on does not say that it answers: whoever did goes on until somebody can.
        let claim = |address: IpAddr| {
            let entry = self.addresses.get(&address).filter(|entry| entry.lost.is_none())?;
            Some((address, entry.belief.epoch))
        };
        let claims = claims.into_iter().flatten().filter_map(claim).collect();
        self.send_claims(node, claims, Message::Claim, now);
        let heirs = self.planned.iter().filter_map(|address| {
            let (heir, epoch) = self.heir(address)?;
            (heir == node).then_some((*address, epoch))
        });
        let heirs: Vec<(IpAddr, u64)> = heirs.collect();
        self.send_claims(node, heirs, Message::Yours, now);
        let unable = self.unable(node, now);
        self.send_claims(node, unable, Message::Unable, now);
    }

    fn hello(&self, node: &Arc<str>, timing: Timing) -> Message {
        Message::Hello {
            interval: timing.interval,
            multiplier: timing.multiplier.max(1),
            answering: self.ground.answering,
            standing_in: !self.stood_in(node).is_empty(),
            places: self.places(),
        }
    }

    fn send_claims(
        &mut self,
        node: &Arc<str>,
        claims: Vec<(IpAddr, u64)>,
        message: fn(Vec<(IpAddr, u64)>) -> Message,
        now: Duration,
    ) {
        let room = wire::room(&self.duties.node) / wire::CLAIM_LENGTH;
        for chunk in claims.chunks(room) {
            self.send(node, &message(chunk.to_vec()), now);
        }
    }

    fn send_known(&mut self, node: &Arc<str>, all: Vec<Known>, now: Duration) {
        let longest = all.iter().map(|known| wire::known_length(&known.owner)).max();
        let Some(longest) = longest else { return };
        for chunk in all.chunks((wire::room(&self.duties.node) / longest).max(1)) {
            self.send(node, &Message::Tell(chunk.to_vec()), now);
        }
    }

    /// Where this node's kernel can be asked: one address of each link first, then more.
    fn places(&self) -> Vec<Place> {
        let links = self.ground.links.iter().map(|link| {
            let mut addresses: Vec<IpAddr> = link.addresses.iter().map(ipnet::IpNet::addr).collect();
            addresses.sort_by_key(|address| match address {
                IpAddr::V4(_) => 0,
                IpAddr::V6(v6) if !v6.is_unicast_link_local() => 1,
                IpAddr::V6(_) => 2,
            });
            (link.mac, addresses)
        });
        let links: Vec<_> = links.collect();
        let most = links.iter().map(|(_, addresses)| addresses.len()).max().unwrap_or(0);
        let nth = |n: usize| {
            let place = move |(mac, addresses): &(_, Vec<IpAddr>)| {
                let address = *addresses.get(n)?;
                Some(Place { address, mac: *mac })
            };
            links.iter().filter_map(place).collect::<Vec<_>>()
        };
        (0..most).flat_map(nth).take(LINKS).collect()
    }

    pub(super) fn send(&mut self, node: &Arc<str>, message: &Message, now: Duration) {
        let Some(peer) = self.peers.get(node) else { return };
        let Some(key) = self.duties.keys.signing() else { return };
        for to in peer.targets(now) {
            self.sequence += 1;
            let header = Header {
                key,
                boot: self.duties.boot,
                sequence: self.sequence,
                sender: &self.duties.node,
            };
            let mut bytes = header.emit(message);
            if let Some(tag) = self.duties.keys.sign(key, &bytes) {
                bytes.extend(tag);
                self.out.push(Effect::Send { to, bytes });
            }
        }
    }

    /// Takes a datagram in, if it is what it says.
    pub(super) fn receive(&mut self, from: IpAddr, bytes: &[u8], at: Duration, now: Duration) {
        let from = from.to_canonical();
        match self.check(from, bytes, now) {
            Ok((node, message)) => {
                self.counters.received.add();
                self.understand(&node, message, at, now);
            }
            Err(why) => self.counters.dropped(why),
        }
    }

    fn check(&mut self, from: IpAddr, bytes: &[u8], now: Duration) -> Result<(Arc<str>, Message), Dropped> {
        let packet = Packet::new(bytes)?;
        match self.duties.keys.verify(packet.key(), packet.signed(), packet.tag()) {
            None => return Err(Dropped::UnknownKey),
            Some(false) => return Err(Dropped::Signature),
            Some(true) => {}
        }
        let message = packet.message()?;
        let node = self
            .duties
            .peers
            .get_key_value(packet.sender())
            .map(|(node, _)| Arc::clone(node));
        let node = node.ok_or(Dropped::UnknownSender)?;
        let peer = self.peers.get_mut(&node).ok_or(Dropped::UnknownSender)?;
        let unreached = !peer.claims.is_empty() && peer.silent(now);
        let before = peer.boot();
        if !peer.admit(packet.boot(), packet.sequence(), from, now) {
            return Err(Dropped::Replay);
        }
        if before.is_some_and(|boot| boot != packet.boot()) {
            // What another run has confirmed this one may not know: it reads an older placement from its disk.
            let owned = self.addresses.iter().filter(|(_, entry)| entry.stage == Stage::Own);
            let its = owned.filter(|(_, entry)| entry.belief.rank(&node).is_some());
            its.for_each(|(address, _)| peer.claim(*address));
            self.moved = true;
        }
        if unreached {
            // It can be told at last.
            peer.hurry(now);
        }
        Ok((node, message))
    }

    fn understand(&mut self, node: &Arc<str>, message: Message, at: Duration, now: Duration) {
        match message {
            Message::Hello {
                interval,
                multiplier,
                answering,
                standing_in,
                places,
            } => {
                self.settle(node, places);
                if standing_in && let Some(leaving) = &mut self.leaving {
                    leaving.waiting.remove(node);
                    self.say_goodbye(now);
                }
                if answering {
                    self.well(node, Some((interval, multiplier)), at, now);
                }
            }
            Message::Goodbye { places } => {
                self.settle(node, places);
                self.goodbye_of(node, now);
            }
            Message::Claim(claims) => self.claimed(node, &claims, at, now),
            Message::Tell(all) => self.told(node, &all, now),
            Message::Yours(all) => self.inherit(node, &all, now),
            Message::Ask { question, about } => {
                // Nobody asks whose layer 2 does not answer. The question may have overtaken the heartbeat that says so.
                self.well(node, None, at, now);
                self.bear_witness(node, question, about, now);
            }
            Message::Heard { question, about, ago } => {
                // It may have waited here.
                let ago = ago.map(|ago| ago.saturating_add(now.saturating_sub(at)));
                self.vouched(&about, question, ago, now);
            }
            Message::Unable(all) => self.relieve_unable(node, &all, now),
        }
    }

    fn settle(&mut self, node: &Arc<str>, places: Vec<Place>) {
        if let Some(peer) = self.peers.get_mut(node) {
            self.dirty |= peer.at(places, &self.ground.links);
        }
    }

    fn claimed(&mut self, node: &Arc<str>, claims: &[(IpAddr, u64)], at: Duration, now: Duration) {
        let me = Arc::clone(&self.duties.node);
        let (mut answer, mut again) = (BTreeMap::new(), BTreeSet::new());
        for (address, epoch) in claims {
            // Nothing is said about an address that is not known: it may become known, and be claimed again then.
            let Some(entry) = self.addresses.get_mut(address) else {
                continue;
            };
            let compared = entry.hear(*epoch, node, Source::Owner, &me);
            if compared == Compared::Unsettled {
                continue;
            }
            if compared == Compared::Worse && entry.stage == Stage::Own {
                if entry.announce(now) {
                    again.insert(*address);
                }
                // Until the claimant says that it knows better.
                if let Some(peer) = self.peers.get_mut(node) {
                    peer.claim(*address);
                    self.moved = true;
                }
            }
            answer.insert(*address, (entry.belief.epoch, Arc::clone(&entry.belief.owner)));
            if let Compared::Known(change) = compared {
                self.apply(*address, change, false, now);
            }
        }
        // Whoever claims answers.
        self.well(node, None, at, now);
        let answer = answer
            .iter()
            .map(|(address, (epoch, owner))| known(*address, *epoch, owner));
        self.send_known(node, answer.collect(), now);
        self.announce(again);
    }

    fn told(&mut self, node: &Arc<str>, all: &[Known], now: Duration) {
        let me = Arc::clone(&self.duties.node);
        let mut again = BTreeSet::new();
        for Known { address, epoch, owner } in all {
            let Some(entry) = self.addresses.get_mut(address) else {
                continue;
            };
            if (*epoch, owner.as_str()) == entry.belief.order() && *me == **owner {
                if let Some(peer) = self.peers.get_mut(node) {
                    peer.claims.remove(address);
                    self.moved |= peer.claims.is_empty();
                }
                if entry.acknowledged(node, now) {
                    again.insert(*address);
                }
                continue;
            }
            let names = self.duties.peers.get_key_value(owner.as_str());
            let owner = names.map_or_else(|| Arc::from(owner.as_str()), |(name, _)| Arc::clone(name));
            if let Compared::Known(change) = entry.hear(*epoch, &owner, Source::Hearsay, &me) {
                self.apply(*address, change, false, now);
            }
        }
        self.announce(again);
    }

    /// A former owner says that these are this node's, and wants to see it.
    fn inherit(&mut self, node: &Arc<str>, all: &[(IpAddr, u64)], now: Duration) {
        let me = Arc::clone(&self.duties.node);
        for (address, epoch) in all {
            let Some(entry) = self.addresses.get_mut(address) else {
                continue;
            };
            let compared = entry.hear(*epoch, &me, Source::Hearsay, &me);
            let own = entry.stage == Stage::Own;
            if let Compared::Known(change) = compared {
                self.apply(*address, change, false, now);
            }
            if own && let Some(peer) = self.peers.get_mut(node) {
                peer.claim(*address);
                self.moved = true;
            }
        }
    }

    fn announce(&mut self, again: BTreeSet<IpAddr>) {
        if !again.is_empty() {
            self.out.push(Effect::Announce(again));
        }
    }

    /// The process shall end.
    pub(super) fn leave(&mut self, now: Duration) {
        if self.leaving.is_some() {
            return;
        }
        let owned = self.addresses.values().filter(|entry| entry.stage == Stage::Own);
        let first = owned.filter_map(|entry| entry.belief.standbys.first());
        let alive = |node: &&Arc<str>| self.peers.get(*node).is_some_and(|peer| peer.alive(now));
        self.leaving = Some(Leaving {
            waiting: first.filter(alive).cloned().collect(),
            next: now,
            until: now + GOODBYE_WAIT,
            done: false,
        });
        self.say_goodbye(now);
    }

    fn say_goodbye(&mut self, now: Duration) {
        let Some(leaving) = &mut self.leaving else { return };
        let speak = !leaving.done && leaving.next <= now;
        if speak {
            leaving.next = now + GOODBYE_GAP;
        }
        let waiting = !leaving.waiting.is_empty() && now < leaving.until;
        let over = !leaving.done && !waiting;
        leaving.done |= over;
        if leaving.done {
            // Nothing is left to wait for; the process may take its time.
            leaving.until = now + GOODBYE_WAIT;
        }
        if speak {
            let message = Message::Goodbye { places: self.places() };
            let paired = self.peers.iter().filter(|(_, peer)| peer.paired().is_some());
            let paired: Vec<Arc<str>> = paired.map(|(node, _)| Arc::clone(node)).collect();
            for node in paired {
                self.send(&node, &message, now);
            }
        }
        if over {
            self.out.push(Effect::Leave);
        }
    }

    /// The next random octet (xorshift64).
    fn roll(&mut self) -> u8 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 24) as u8
    }
}

fn known(address: IpAddr, epoch: u64, owner: &str) -> Known {
    Known {
        address,
        epoch,
        owner: owner.to_owned(),
    }
}
