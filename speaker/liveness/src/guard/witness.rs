//! What other nodes hear of a silent owner, and what an owner says that cannot answer any more.
//!
//! Two nodes may be deaf to each other while everybody else hears both: a broken path, not a broken owner. So a standby
//! that misses an owner asks the other standbys when they heard of it; they are paired with it as well, so this costs
//! nothing while all is well. A witness that has heard the owner since, and hears it still, refutes the silence. One that has not,
//! that does not answer, or that is not there delays nothing.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Guard;
use crate::claims::{Address, Stage};
use crate::seam::Takeover;
use crate::suspicion::Case;
use crate::wire::Message;

/// Other standbys that are asked about an owner.
const WITNESSES: usize = 3;
/// How long an owner that cannot answer waits for one standby before it asks the next.
const TURN: Duration = Duration::from_millis(100);

impl Guard {
    /// Asks the other standbys about a silent owner, if it is time for that.
    pub(super) fn ask_witnesses(&mut self, owner: &Arc<str>, now: Duration) {
        let case = self.cases.get_mut(owner);
        let Some(question) = case.and_then(|case| case.asks_witnesses(now)) else {
            return;
        };
        if self.leaving.is_some() {
            // Whoever asks says that it answers.
            return;
        }
        let about = owner.to_string();
        let message = Message::Ask { question, about };
        for witness in self.witnesses(owner) {
            self.send(&witness, &message, now);
        }
    }

    /// Those who stand by for an address of the owner as this node does.
    fn witnesses(&self, owner: &Arc<str>) -> Vec<Arc<str>> {
        let me = &self.duties.node;
        let mut all: Vec<Arc<str>> = Vec::new();
        let theirs = self.addresses.values().map(|entry| &entry.belief);
        for belief in theirs.filter(|belief| belief.owner == *owner && belief.rank(me).is_some()) {
            for standby in belief.standbys.iter().filter(|standby| *standby != me) {
                if all.len() == WITNESSES {
                    return all;
                }
                if !all.contains(standby) {
                    all.push(Arc::clone(standby));
                }
            }
        }
        all
    }

    /// Another standby wants to know when a node was heard.
    pub(super) fn bear_witness(&mut self, node: &Arc<str>, question: u64, about: String, now: Duration) {
        let ago = self.peers.get(about.as_str()).and_then(|peer| peer.well_ago(now));
        self.send(node, &Message::Heard { question, about, ago }, now);
    }

    /// A witness has answered.
    pub(super) fn vouched(&mut self, about: &str, question: u64, ago: Option<Duration>, now: Duration) {
        let (Some(ago), Some(peer)) = (ago, self.peers.get(about)) else {
            return;
        };
        let refuted = peer.refuted_by(ago, now);
        let case = self.cases.get_mut(about).filter(|case| case.asked(question));
        if let Some(case) = case.filter(|_| refuted) {
            self.counters.vouched.add();
            Case::vouch(case);
        }
    }

    /// Notes which addresses this node owns and has no interface left to answer on.
    pub(super) fn mind_links(&mut self, now: Duration) {
        let ground = &self.ground;
        for (address, entry) in &mut self.addresses {
            let usable = || ground.links.iter().any(|link| entry.duty.announces_on(link, *address));
            let lost = entry.stage == Stage::Own && ground.answering && !usable();
            entry.lost = lost.then(|| entry.lost.unwrap_or(now));
        }
    }

    /// What a node is asked to take, because this one cannot answer: one standby after the other, of those that are heard.
    pub(super) fn unable(&self, node: &Arc<str>, now: Duration) -> Vec<(IpAddr, u64)> {
        let asked = |entry: &Address| {
            let turn = now.saturating_sub(entry.lost?).as_nanos() / TURN.as_nanos();
            let alive = |standby: &&Arc<str>| self.peers.get(*standby).is_some_and(|peer| peer.alive(now));
            let alive: Vec<&Arc<str>> = entry.belief.standbys.iter().filter(alive).collect();
            let turn = usize::try_from(turn).unwrap_or(usize::MAX);
            (**alive.get(turn.checked_rem(alive.len())?)? == *node).then_some(entry.belief.epoch)
        };
        let all = self.addresses.iter();
        all.filter_map(|(address, entry)| Some((*address, asked(entry)?)))
            .collect()
    }

    /// An owner says that it cannot answer for these any more.
    pub(super) fn relieve_unable(&mut self, node: &Arc<str>, all: &[(IpAddr, u64)], now: Duration) {
        for (address, epoch) in all {
            let able = self.addresses.get(address).is_some_and(|entry| {
                let duty = &entry.duty;
                let here = || self.ground.links.iter().any(|link| duty.announces_on(link, *address));
                let theirs = entry.placed(*epoch, node);
                // Its former owner, too, may take what it was to hand over.
                let standby = theirs.is_some_and(|placement| placement.rank(&self.duties.node).is_some());
                standby && duty.may_announce && self.ground.answering && here()
            });
            if able {
                self.take_over(*address, node, Takeover::OwnerUnable, now, now);
            }
        }
    }
}
