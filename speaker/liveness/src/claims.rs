//! One address: who owns it as far as this node knows, and what this node does about it. Pure.
//!
//! Of two claims the one with the greater (epoch, owner) is right, wherever it comes from: the API, the claimant, or a
//! third node. So whatever order nodes learn of claims in, they end with the same owner. What a node knows never gets
//! smaller while the object it is about exists.
//!
//! What stands in the API is a claim once the owner named there makes it. Until then it is a [`Plan`]: who has a part in
//! the address goes on as before, for the new owner may not have read that it is one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::seam::{Duty, Mac, Placement, Role};

/// A plan counts after so long, although the new owner has not shown itself.
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
}

/// A placement in the API, better than what is known, whose owner has not shown itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// As it stands there.
    pub placement: Placement,
    /// It counts from then on.
    pub until: Duration,
}

/// Where a claim comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
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
    /// It is to have another owner, which has to be told that it is one.
    Planned,
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
    /// Worse than what stands in the API, and no more is known: the owner named there may not have read it yet.
    Unsettled,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Address {
    /// From the core.
    pub duty: Arc<Duty>,
    /// As far as this node knows: from the core or better.
    pub belief: Placement,
    /// What comes next.
    pub plan: Option<Plan>,
    /// What this node does.
    pub stage: Stage,
    /// The belief was read in the API, and its owner has not shown itself since.
    read: bool,
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
            plan: None,
            before: duty.previous_owner.clone(),
            duty,
            stage: Stage::Idle,
            read: true,
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
            self.plan = None;
        }
        self.duty = duty;
        let placement = self.duty.placement.clone();
        if placement.order() > self.belief.order() {
            return self.read(placement, me, now);
        }
        if placement.order() == self.belief.order() {
            self.belief = placement;
        }
        match self.stage {
            Stage::Idle => self.begin(me, None),
            _ => Change::Nothing,
        }
    }

    /// A better placement stands in the API.
    fn read(&mut self, placement: Placement, me: &str, now: Duration) -> Change {
        // A standby that stays one goes on standing by for the owner that answers.
        let stands_by = self.belief.rank(me).is_some() && placement.rank(me).is_some();
        let waits = self.stage != Stage::Idle || stands_by;
        if !waits || *placement.owner == *me || placement.owner == self.belief.owner {
            self.read = true;
            return self.follow(placement, me);
        }
        let same = self
            .plan
            .take()
            .filter(|plan| plan.placement.order() == placement.order());
        let until = same.map_or(now + HANDOVER, |plan| plan.until);
        self.plan = Some(Plan { placement, until });
        Change::Planned
    }

    /// Somebody says that `owner` owns it under this epoch.
    pub fn hear(&mut self, epoch: u64, owner: &Arc<str>, source: Source, me: &str) -> Compared {
        let heard = (epoch, &**owner);
        if heard < self.belief.order() {
            let known = !self.read || *self.belief.owner == *me;
            return if known { Compared::Worse } else { Compared::Unsettled };
        }
        self.read &= source != Source::Owner;
        if heard == self.belief.order() {
            return Compared::Known(Change::Nothing);
        }
        if self.plan.as_ref().is_some_and(|plan| plan.placement.order() == heard) {
            return Compared::Known(match source {
                Source::Owner => self.shown(me),
                // That node may have read the same.
                Source::Hearsay => Change::Nothing,
            });
        }
        self.read = false;
        let placement = self.belief.taken_by(owner, epoch);
        Compared::Known(self.follow(placement, me))
    }

    /// The new owner answers: the plan counts.
    pub fn shown(&mut self, me: &str) -> Change {
        self.go_over(me, false)
    }

    /// The plan counts, although the new owner was not seen to answer.
    pub fn lapse(&mut self, me: &str) -> Change {
        self.go_over(me, true)
    }

    fn go_over(&mut self, me: &str, read: bool) -> Change {
        let Some(plan) = self.plan.take() else {
            return Change::Nothing;
        };
        self.read = read;
        let answers = self.stage != Stage::Idle;
        match self.follow(plan.placement, me) {
            Change::Nothing | Change::Yielded if answers => Change::HandedOver,
            change => change,
        }
    }

    /// The placement with this owner and epoch, if it is what counts or is planned.
    pub fn placed(&self, epoch: u64, owner: &str) -> Option<&Placement> {
        let plan = self.plan.iter().map(|plan| &plan.placement);
        let mut all = std::iter::once(&self.belief).chain(plan);
        all.find(|placement| placement.order() == (epoch, owner))
    }

    /// This node takes it from its owner, or from the one that is planned.
    pub fn take(&mut self, from: &str, me: &Arc<str>) -> Change {
        let before = self.belief.clone();
        let old = match self.plan.take() {
            Some(plan) if *plan.placement.owner == *from => plan.placement,
            Some(plan) => Placement {
                epoch: plan.placement.epoch,
                ..before.clone()
            },
            None => before.clone(),
        };
        self.belief = old.taken_by(me, old.epoch.saturating_add(1));
        self.before = Some(old.owner);
        // Who answers for it until now may be another than the one that it is taken from.
        self.begin(me, Some(&before))
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
            Stage::Idle => self.members().any(|member| **member == *me).then_some(Role::Listen),
        }
    }

    /// Who has a part in it, now or soon.
    fn members(&self) -> impl Iterator<Item = &Arc<str>> {
        let plan = self.plan.iter().flat_map(|plan| plan.placement.members());
        self.belief.members().chain(plan)
    }

    /// Goes over to a better placement.
    fn follow(&mut self, placement: Placement, me: &str) -> Change {
        let old = std::mem::replace(&mut self.belief, placement);
        self.plan.take_if(|plan| plan.placement.order() <= self.belief.order());
        let same_owner = old.owner == self.belief.owner;
        if *self.belief.owner == *me {
            if !same_owner {
                self.before = Some(Arc::clone(&old.owner));
            }
            return self.begin(me, Some(&old));
        }
        if same_owner {
            return Change::Nothing;
        }
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Own => Change::Yielded,
            Stage::Idle | Stage::StandIn(_) => Change::Nothing,
        }
    }

    /// Begins to own it, if this node is the owner and can serve it.
    fn begin(&mut self, me: &str, old: Option<&Placement>) -> Change {
        if *self.belief.owner != *me {
            return Change::Nothing;
        }
        // Who answers already does not stop because it would not begin.
        if self.stage != Stage::Own && !self.duty.may_announce {
            return Change::Nothing;
        }
        self.stage = Stage::Own;
        let members = self
            .belief
            .members()
            .chain(self.duty.placement.members())
            .chain(old.into_iter().flat_map(Placement::members));
        let all = members.chain(&self.duty.previous_owner).chain(&self.before);
        Change::Own(all.filter(|member| ***member != *me).cloned().collect())
    }
}

#[cfg(test)]
mod tests;
