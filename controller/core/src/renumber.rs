//! Renumbering: a Service whose pool would not give its address any more gets a new one before it loses the old one.
//!
//! Only where the pool says so (`ferrolb.io/on-shrink: Reassign`), and never for a Service that names its addresses. The
//! new address is claimed, then both stand in the status, the new one first, and both are announced; when they have been
//! for a while, the old one goes and cools down. One address of a Service moves at a time.
//!
//! Nothing of this is remembered but in the objects: a Service whose status shows two addresses of a family is in the
//! middle of it, and the second is the old one; before they are shown, the new one is chosen again because its claim is
//! there. A controller that starts goes on from there, and lets the overlap begin anew.

use std::net::IpAddr;
use std::time::Duration;

use ferrolb_model::{Family, OnShrink, Reason, ServiceId, ServiceView};

use crate::choose::Chooser;
use crate::controller::Controller;
use crate::effect::{Effect, EventKind, Write};
use crate::line::{Turn, asked};
use crate::timers::Timer;

/// An address that its Service is about to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaving {
    /// The old address.
    pub(crate) address: IpAddr,
    /// The status shows both, and the end is set.
    shown: bool,
}

impl Controller {
    /// The address that the Service is about to leave.
    pub(crate) fn leaving(&self, id: &ServiceId) -> Option<IpAddr> {
        Some(self.states.get(id)?.leaving?.address)
    }

    /// What the Service holds and is not about to leave.
    pub(crate) fn staying(&self, id: &ServiceId) -> Vec<IpAddr> {
        let mut held = self.allocator.held(id);
        held.retain(|a| self.leaving(id) != Some(*a));
        held
    }

    /// Whether the address is one that its holder has to leave, by the rules of the pool it was taken from.
    pub(crate) fn must_leave(&self, address: IpAddr, view: &ServiceView) -> bool {
        let pool = self.world.pool_of(address).or_else(|| {
            let recorded = self.allocator.record(address)?.recorded_pool()?;
            self.world.config().pools.get(recorded)
        });
        pool.is_some_and(|p| p.on_shrink == OnShrink::Reassign)
            && asked(view).is_empty()
            && !self
                .allocator
                .record(address)
                .is_some_and(|r| r.is_reserved_for(&view.id))
            && self.why_outside(address, view).is_some()
    }

    /// Whether the status shows the address, or is about to.
    pub(crate) fn is_shown(&self, id: &ServiceId, address: IpAddr) -> bool {
        let flight = self.states.get(id).and_then(|s| s.flight.as_deref());
        let written = matches!(flight, Some(Write::SetServiceStatus { ingress, .. }) if ingress.contains(&address));
        written
            || self
                .world
                .service(id)
                .is_some_and(|view| view.ingress.contains(&address))
    }

    /// Gives the Service a new address beside one that it has to leave, if there is any.
    pub(crate) fn renumber(&mut self, id: &ServiceId) {
        let Some(view) = self.world.service(id) else { return };
        let held = self.allocator.held(id);
        let mut stuck = None;
        for old in held.iter().copied().filter(|a| self.must_leave(*a, view)) {
            let others = held.iter().copied().filter(|a| *a != old).collect::<Vec<_>>();
            let decision = Chooser {
                world: &self.world,
                allocator: &self.allocator,
                view,
                held: &others,
                replacing: true,
            }
            .decide();
            let fits = |a: &&IpAddr| Family::of(**a) == Family::of(old) && **a != old;
            if let Some(new) = decision.addresses.iter().find(fits) {
                self.allocator.hold(*new, view);
                self.mark_address(*new);
                self.mark_address(old);
                self.set_leaving(id, Some(old));
                return;
            }
            stuck = decision.unmet.or(decision.missing);
        }
        if stuck.is_some() {
            self.line.join(view, false);
        }
        self.set_stuck(id, stuck);
    }

    /// Goes on with what another controller began: where a status shows two addresses of a family that both carry the
    /// Service's claim, the second one is being left, whatever its pool says by now.
    pub(crate) fn resume_overlap(&mut self, id: &ServiceId) {
        let Some(view) = self.world.service(id).filter(|v| self.world.is_ours(v)) else {
            return;
        };
        let holds = |address: IpAddr| self.allocator.holders_of(address).any(|other| other == id);
        let stands = |address: IpAddr| {
            let record = self.allocator.record(address);
            record.is_some_and(|r| r.claims(id, &view.uid) && !r.is_losing(id, &view.uid))
                && view.families.contains(Family::of(address))
                && self.allocator.may_keep(&self.world, address, view).is_ok()
        };
        let pairs = view.ingress.iter().enumerate();
        let mut pairs = pairs.filter_map(|(n, new)| Some((*new, replacement(*new, &view.ingress[n..])?)));
        let Some((new, old)) = pairs.find(|(new, old)| holds(*old) && !holds(*new) && stands(*new)) else {
            return;
        };
        self.allocator.hold(new, view);
        self.mark_address(new);
        self.set_leaving(id, Some(old));
    }

    /// Ends an overlap that another controller has ended, or found needless: the status shows the new address alone.
    pub(crate) fn follow_overlap(&mut self, id: &ServiceId) {
        let Some((old, view)) = self.leaving(id).zip(self.world.service(id)) else {
            return;
        };
        let new = replacement(old, &self.staying(id)).filter(|new| view.ingress.contains(new));
        if new.is_some() && !view.ingress.contains(&old) {
            self.set_leaving(id, None);
            self.give_up(old, id);
        }
    }

    /// Notes which address is being left; its time begins when the status shows it and the new one.
    pub(crate) fn set_leaving(&mut self, id: &ServiceId, address: Option<IpAddr>) {
        self.timers.clear(&Timer::Overlap(id.clone()));
        let state = self.states.entry(id.clone()).or_default();
        state.leaving = address.map(|address| Leaving { address, shown: false });
        self.set_stuck(id, None);
    }

    fn set_stuck(&mut self, id: &ServiceId, stuck: Option<Reason>) {
        let state = self.states.entry(id.clone()).or_default();
        if state.stuck.as_deref() != stuck.as_ref() {
            state.stuck = stuck.map(Box::new);
            self.dirty.placements.extend(self.allocator.held(id));
        }
    }

    /// The status is as it should be: the overlap begins if it shows both addresses.
    pub(crate) fn begin_overlap(&mut self, id: &ServiceId, shown: &[IpAddr], now: Duration) {
        let overlap = self.settings.overlap;
        let Some(leaving) = self.states.get_mut(id).and_then(|s| s.leaving.as_mut()) else {
            return;
        };
        let old = leaving.address;
        let both = shown.contains(&old) && replacement(old, shown).is_some();
        if both && !leaving.shown {
            leaving.shown = true;
            self.timers.set(Timer::Overlap(id.clone()), now + overlap);
        }
    }

    /// Both addresses were announced for long enough: the old one goes.
    pub(crate) fn end_overlap(&mut self, id: &ServiceId, effects: &mut Vec<Effect>) {
        let Some(old) = self.leaving(id) else { return };
        let Some(new) = replacement(old, &self.allocator.held(id)) else {
            return;
        };
        self.set_leaving(id, None);
        self.give_up(old, id);
        self.dirty.statuses.insert(id.clone());
        self.dirty.services.extend(self.world.service(id).map(Turn::of));
        let message = format!("{new} has taken the place of {old}, which is not announced any more");
        self.event(id, EventKind::Renumbered, message, effects);
    }

    /// What the event about newly shown addresses says when they take the place of another.
    pub(crate) fn renumbering_message(&self, id: &ServiceId, given: &[IpAddr]) -> Option<String> {
        let old = self.leaving(id)?;
        let new = replacement(old, given)?;
        let seconds = self.settings.overlap.as_secs();
        Some(format!(
            "{new} takes the place of {old}, which its IPAddressPool would not give any more; both stay for {seconds} s"
        ))
    }
}

/// The address of the same family that takes the place of `old`.
pub(crate) fn replacement(old: IpAddr, addresses: &[IpAddr]) -> Option<IpAddr> {
    let same = |a: &&IpAddr| **a != old && Family::of(**a) == Family::of(old);
    addresses.iter().find(same).copied()
}
