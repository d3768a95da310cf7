//! One address: who owns it as far as this node knows, and what this node does about it. Pure.
//!
//! Of two claims the one with the greater (epoch, owner) is right, wherever it comes from: the API, the claimant, or a
//! third node. So whatever order nodes learn of claims in, they end with the same owner. What a node knows never gets
//! smaller while the object it is about exists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::seam::{Duty, Mac, Placement, Role};

/// A former owner answers for this long at most if the new one does not show itself.
pub const HANDOVER: Duration = Duration::from_secs(10);
/// Between two announcements made because of others.
const ANNOUNCE: Duration = Duration::from_secs(1);

/// What this node does about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Answers nothing.
    Idle,
    /// Owns it.
    Own,
    /// Answers in the owner's name, with these MACs.
    StandIn(BTreeMap<String, Mac>),
    /// Answers, although another node is the owner now, until that one has shown itself, or until then.
    HandingOver {
        /// As before.
        role: Role,
        /// Until when.
        until: Duration,
    },
}

/// Where a claim comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A placement in the API: the owner it names may not know of it yet.
    Api,
    /// The owner itself: it answers already.
    Owner,
    /// Another node, which knows of an owner.
    Hearsay,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing that anybody has to be told.
    Nothing,
    /// This node begins to own it, or under another epoch; these have to be told.
    Own(BTreeSet<Arc<str>>),
    /// The new owner has to be told that it is one.
    HandingOver,
    /// The new owner is in place.
    HandedOver,
    /// Another node has a better claim to what this node owned.
    Yielded,
}

/// How a claim compares with what is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Better or the same.
    Known(Change),
    /// Worse: the claimant has to be told.
    Worse,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Address {
    /// From the core.
    pub duty: Arc<Duty>,
    /// As far as this node knows: from the core or better.
    pub belief: Placement,
    /// What this node does.
    pub stage: Stage,
    /// Owned, but with no interface left to answer on, since then.
    pub lost: Option<Duration>,
    /// Who owned it before.
    before: Option<Arc<str>>,
    announced: Option<Duration>,
}

impl Address {
    /// An address that the core speaks of for the first time.
    pub fn new(duty: Arc<Duty>, me: &str) -> (Address, Change) {
        let mut address = Address {
            belief: duty.placement.clone(),
            before: duty.previous_owner.clone(),
            duty,
            stage: Stage::Idle,
            lost: None,
            announced: None,
        };
        let change = address.begin(me, None);
        (address, change)
    }

    /// The core speaks of it again.
    pub fn update(&mut self, duty: Arc<Duty>, me: &str, now: Duration) -> Change {
        if duty.object != self.duty.object {
            // Another object: what is known was about the old one.
            self.belief.epoch = 0;
        }
        self.duty = duty;
        let placement = self.duty.placement.clone();
        if placement.order() > self.belief.order() {
            return self.follow(placement, Source::Api, me, now);
        }
        if placement.order() == self.belief.order() {
            self.belief = placement;
        }
        match self.stage {
            Stage::Idle => self.begin(me, None),
            _ => Change::Nothing,
        }
    }

    /// Somebody says that `owner` owns it under this epoch.
    pub fn hear(&mut self, epoch: u64, owner: &Arc<str>, source: Source, me: &str, now: Duration) -> Compared {
        let heard = (epoch, &**owner);
        if heard < self.belief.order() {
            return Compared::Worse;
        }
        if heard > self.belief.order() {
            let placement = self.belief.taken_by(owner, epoch);
            return Compared::Known(self.follow(placement, source, me, now));
        }
        Compared::Known(match source {
            Source::Owner => self.shown(),
            Source::Api | Source::Hearsay => Change::Nothing,
        })
    }

    /// The new owner answers: what was kept up for it can end.
    pub fn shown(&mut self) -> Change {
        match self.stage {
            Stage::HandingOver { .. } => {
                self.stage = Stage::Idle;
                Change::HandedOver
            }
            _ => Change::Nothing,
        }
    }

    /// This node takes it from its owner.
    pub fn take(&mut self, me: &Arc<str>) -> Change {
        let epoch = self.belief.epoch.saturating_add(1);
        let old = self.belief.clone();
        self.belief = old.taken_by(me, epoch);
        self.before = Some(Arc::clone(&old.owner));
        self.begin(me, Some(&old))
    }

    /// A node knows that this one is the owner. Has that node answered for it until now, so that it should be announced
    /// once more?
    pub fn acknowledged(&mut self, by: &str, now: Duration) -> bool {
        let before = self.before.take_if(|before| **before == *by).is_some();
        before && self.announce(now)
    }

    /// May it be announced once more? Once a second.
    pub fn announce(&mut self, now: Duration) -> bool {
        let due = self.stage == Stage::Own && self.announced.is_none_or(|at| now >= at + ANNOUNCE);
        if due {
            self.announced = Some(now);
        }
        due
    }

    /// What layer 2 has to do; `None` if this node has no part in it.
    pub fn role(&self, me: &str) -> Option<Role> {
        match &self.stage {
            Stage::Own => Some(Role::Own),
            Stage::StandIn(macs) => Some(Role::StandIn(macs.clone())),
            Stage::HandingOver { role, .. } => Some(role.clone()),
            Stage::Idle if self.belief.members().any(|member| **member == *me) => Some(Role::Listen),
            Stage::Idle => None,
        }
    }

    /// Goes over to a better placement.
    fn follow(&mut self, placement: Placement, source: Source, me: &str, now: Duration) -> Change {
        let old = std::mem::replace(&mut self.belief, placement);
        let same_owner = old.owner == self.belief.owner;
        if *self.belief.owner == *me {
            if !same_owner {
                self.before = Some(Arc::clone(&old.owner));
            }
            return self.begin(me, Some(&old));
        }
        if same_owner {
            return if source == Source::Owner {
                self.shown()
            } else {
                Change::Nothing
            };
        }
        let until = now + HANDOVER;
        let stage = std::mem::replace(&mut self.stage, Stage::Idle);
        let role = match stage {
            Stage::Idle => return Change::Nothing,
            Stage::Own => Role::Own,
            Stage::StandIn(macs) => Role::StandIn(macs),
            Stage::HandingOver { role, .. } => role,
        };
        match source {
            Source::Api => {
                self.stage = Stage::HandingOver { role, until };
                Change::HandingOver
            }
            _ if role == Role::Own => Change::Yielded,
            _ => Change::Nothing,
        }
    }

    /// Begins to own it, if this node is the owner and can serve it.
    fn begin(&mut self, me: &str, old: Option<&Placement>) -> Change {
        if *self.belief.owner != *me {
            return Change::Nothing;
        }
        // Who answers already does not stop because it would not begin.
        let answers = self.stage == Stage::Own || matches!(&self.stage, Stage::HandingOver { role: Role::Own, .. });
        if !answers && !self.duty.may_announce {
            return Change::Nothing;
        }
        self.stage = Stage::Own;
        let members = self
            .belief
            .members()
            .chain(old.into_iter().flat_map(Placement::members));
        let all = members.chain(&self.duty.previous_owner).chain(&self.before);
        Change::Own(all.filter(|member| ***member != *me).cloned().collect())
    }
}

#[cfg(test)]
mod tests;
