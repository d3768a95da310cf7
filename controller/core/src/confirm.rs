//! Whether the owner of an address confirms that it announces it, and what is said when it does not.
//!
//! A speaker that announces writes itself down in the VirtualIP. Until then the condition says `Pending`; from when it should
//! have done so it has a [`Reason`], and the Services are told. What was said stays until the owner confirms or another
//! one is chosen. It stands in the object, so that a controller that starts neither takes it back nor says it again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_model::{Condition, ConditionType, NodeRefusal, Placement, Reason};

use crate::allocator::Record;
use crate::controller::Controller;
use crate::effect::{Effect, EventKind};
use crate::placement::Decision;
use crate::timers::Timer;

/// So long an owner has to confirm, beside what a policy lets it wait for its kube-proxy: a speaker's pod may just be
/// starting, as where speakers are awaited ([`crate::since::PATIENCE`]).
const PATIENCE: Duration = Duration::from_secs(30);

/// An owner that is to confirm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Which owner, by [`Placement::order`].
    owner: (u64, String),
    /// Some speaker is known that could announce the address.
    speaks: bool,
    /// By then it should have.
    until: Duration,
}

impl Record {
    /// Whether the owner says that it announces the address.
    pub(crate) fn is_confirmed(&self) -> bool {
        let announcer = self.object.as_ref().and_then(|o| o.announcer.as_ref());
        let owner = self.placed.as_ref().map(|placed| &placed.owner);
        owner.is_some() && announcer.map(|a| &a.node) == owner
    }

    /// Why its owner has not confirmed, as the object says of an address that has one.
    pub(crate) fn overdue(&self) -> Option<&'static str> {
        self.placed.as_ref()?;
        overdue(&self.object.as_ref()?.conditions)
    }

    /// What the object says of an owner that has not confirmed, if it holds for `placed` as well.
    fn still_said(&self, placed: &Placement, speaks: bool) -> Option<&Condition> {
        let object = self.object.as_ref()?;
        let name = overdue(&object.conditions)?;
        let same = object.placement.as_ref().is_some_and(|old| old.owner == placed.owner);
        let holds = same || name == Reason::NoSpeaker.as_str() && !speaks;
        object.conditions.get(&ConditionType::Announced).filter(|_| holds)
    }
}

/// The reason in these conditions, if it says that an owner has not confirmed in time.
fn overdue(conditions: &BTreeMap<ConditionType, Condition>) -> Option<&'static str> {
    let node = String::new();
    let names = [Reason::NoSpeaker, Reason::NotConfirmed { node }].map(|reason| reason.as_str());
    let said = conditions.get(&ConditionType::Announced)?;
    names.into_iter().find(|name| *name == said.reason)
}

impl Controller {
    /// Notes by when the owner has to confirm: some time after its placement was written, and after that a first speaker was
    /// heard, or the last one lost.
    pub(crate) fn expect_owner(&mut self, address: IpAddr, decision: &Decision, now: Duration) {
        let Some(record) = self.allocator.record(address) else {
            return;
        };
        let written = record.object.as_ref().and_then(|o| o.placement.as_ref());
        let awaited = record.placed.as_ref().filter(|placed| {
            let stands = written.is_some_and(|written| written.order() == placed.order());
            stands && !record.is_confirmed()
        });
        let Some(placed) = awaited else {
            if record.expected.is_some() {
                self.timers.clear(&Timer::Owner(address));
                if let Some(record) = self.allocator.record_mut(address) {
                    record.expected = None;
                }
            }
            return;
        };
        let speaks = self.speaks(placed, decision);
        let (epoch, owner) = placed.order();
        let same = |e: &Expected| e.speaks == speaks && e.owner.0 == epoch && e.owner.1 == owner;
        if record.expected.as_deref().is_some_and(same) {
            return;
        }
        let expected = Expected {
            owner: (epoch, owner.to_owned()),
            speaks,
            until: now + PATIENCE + decision.wait,
        };
        self.timers.set(Timer::Owner(address), expected.until);
        if let Some(record) = self.allocator.record_mut(address) {
            record.expected = Some(Box::new(expected));
        }
    }

    /// Whether a speaker is known that could announce the address.
    fn speaks(&self, placed: &Placement, decision: &Decision) -> bool {
        decision.speaks || self.world.networks().contains_key(&placed.owner)
    }

    /// The condition `Announced` of an address that has an owner.
    pub(crate) fn announced(
        &self,
        record: &Record,
        placed: &Placement,
        decision: &Decision,
        now: Duration,
    ) -> Condition {
        let last = |why: NodeRefusal| format!("; it is {}, but no other node can have it", why.as_str());
        let (node, last) = (&placed.owner, decision.last.map(last));
        if record.is_confirmed() {
            let reason = if last.is_some() { "LastCandidate" } else { "Announced" };
            let message = format!("node {node} announces it{}", last.unwrap_or_default());
            return Condition::new(true, reason, message);
        }
        if let Some(expected) = record.expected.as_ref().filter(|expected| expected.until <= now) {
            let node = node.clone();
            return Condition::told(
                false,
                &match expected.speaks {
                    true => Reason::NotConfirmed { node },
                    false => Reason::NoSpeaker,
                },
            );
        }
        let said = record.still_said(placed, self.speaks(placed, decision));
        said.cloned().unwrap_or_else(|| {
            let message = format!("node {node} has not confirmed yet{}", last.unwrap_or_default());
            Condition::new(false, "Pending", message)
        })
    }

    /// Tells the holders that the owner of their address has not confirmed, once these conditions have been written: whoever
    /// slept, or was cut off, does not know whether it has.
    pub(crate) fn report_overdue(
        &mut self,
        address: IpAddr,
        conditions: &BTreeMap<ConditionType, Condition>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(name) = overdue(conditions) else { return };
        let Some(record) = self.allocator.record_mut(address).filter(|r| r.silent != Some(name)) else {
            return;
        };
        record.silent = Some(name);
        let said = &conditions[&ConditionType::Announced].message;
        let message = format!("Nobody announces {address}. {name}: {said}");
        for id in record.holders.keys().cloned().collect::<Vec<_>>() {
            self.event(&id, EventKind::AnnounceFailed, message.clone(), effects);
        }
    }
}
