//! What each Service holds: the first pass over an existing cluster, and every later decision.

use std::cmp::Reverse;
use std::net::IpAddr;

use ferrolb_model::{Claim, Family, Reason, ServiceId, ServiceView};

use crate::allocator::Record;
use crate::choose::{Chooser, Decision};
use crate::controller::Controller;
use crate::effect::{Effect, EventKind, WriteKey};
use crate::limits::{Limits, is_full};
use crate::line::asked;
use crate::renumber::replacement;

impl Controller {
    /// Takes over what stands in the cluster: claims first, then addresses in the status of Services, oldest first.
    /// New addresses are given by the settling that follows, when all Services are marked.
    pub(crate) fn first_pass(&mut self, effects: &mut Vec<Effect>) {
        let claims = self
            .allocator
            .records()
            .flat_map(|(address, r)| {
                r.object
                    .iter()
                    .flat_map(move |o| o.claims.iter().map(move |c| (address, c.clone())))
            })
            .collect::<Vec<_>>();
        // Of those that may not share any more, who shows the address has it, before who has left it already; of several
        // the first claim.
        for shown in [true, false] {
            for (address, claim) in &claims {
                let Some(view) = self.world.service(&claim.service) else {
                    continue;
                };
                let fits = || match shown {
                    true => self.why_lost(view, *address).is_none(),
                    false => self.allocator.may_keep(&self.world, *address, view).is_ok(),
                };
                if view.ingress.contains(address) == shown && self.is_first_claim(view, *address, claim) && fits() {
                    self.allocator.hold(*address, view);
                }
            }
        }
        for id in self.world.services().map(|v| v.id.clone()).collect::<Vec<_>>() {
            self.resume_overlap(&id);
        }
        self.adopt_shown(effects);
        self.look_at_everything();
        let everybody = self.world.services().map(|v| v.id.clone());
        self.dirty.statuses.extend(everybody);
    }

    /// Takes over the addresses in the status of Services, oldest first; one that another has already is refused.
    fn adopt_shown(&mut self, effects: &mut Vec<Effect>) {
        let mut order = self
            .world
            .services()
            .filter(|v| self.world.is_ours(v) && !v.families.is_empty())
            .collect::<Vec<_>>();
        order.sort_by_key(|v| (v.created, &v.id));
        let mut refused = Vec::new();
        for view in order {
            for address in view.ingress.iter().copied() {
                let held = self.allocator.held(&view.id);
                if held.iter().any(|a| Family::of(*a) == Family::of(address)) {
                    continue;
                }
                let fits = match wrong_family(view, address) {
                    Some(reason) => Err(reason),
                    None => self.allocator.may_hold(&self.world, address, view),
                };
                match fits {
                    Ok(()) => self.allocator.hold(address, view),
                    Err(reason) => refused.push((view.id.clone(), address, reason)),
                }
            }
        }
        for (id, address, reason) in refused {
            self.report_cleared(&id, address, &reason, effects);
        }
    }

    /// Whether this claim is the one to go by, should a Service have several of one family: what its status shows
    /// counts most, then what it asks for, then the lowest address.
    fn is_first_claim(&self, view: &ServiceView, address: IpAddr, claim: &Claim) -> bool {
        let family = Family::of(address);
        let good = |c: &Claim, a: IpAddr| {
            c.service == view.id && c.uid.as_ref().map_or(view.ingress.contains(&a), |uid| *uid == view.uid)
        };
        if !self.world.is_ours(view) || !view.families.contains(family) || !good(claim, address) {
            return false;
        }
        let asked = asked(view);
        // Of two that may both be had, the one to leave counts, in a status the second: the other comes beside it again.
        let rank = |a: &IpAddr| {
            let leaving = self.must_leave(*a, view);
            let place = view.ingress.iter().rposition(|shown| shown == a);
            (Reverse(place), !asked.contains(a), !leaving, *a)
        };
        let claims = |a: &IpAddr| {
            self.allocator
                .record(*a)
                .and_then(|r| r.object.as_ref())
                .map(|o| &o.claims)
        };
        let named = self.allocator.named(&view.id).into_iter();
        let mut rivals = named.filter(|a| Family::of(*a) == family);
        rivals.all(|a| rank(&a) >= rank(&address) || !claims(&a).into_iter().flatten().any(|c| good(c, a)))
    }

    /// Lets a Service hold what its claims stand for where it holds nothing, as a controller that starts would. So a claim
    /// of the leader before, which comes late, is not given up because the request cannot be met today.
    fn take_back(&mut self, id: &ServiceId) -> bool {
        let Some(view) = self.world.service(id) else {
            return false;
        };
        let held = self.allocator.held(id);
        let stands = |address: &IpAddr| {
            let record = self.allocator.record(*address);
            let object = record
                .filter(|r| !r.is_losing(id, &view.uid))
                .and_then(|r| r.object.as_ref());
            let mut claims = object.into_iter().flat_map(|o| &o.claims);
            held.iter().all(|a| Family::of(*a) != Family::of(*address))
                && claims.any(|c| self.is_first_claim(view, *address, c))
                && self.allocator.may_keep(&self.world, *address, view).is_ok()
        };
        let mut back = self.allocator.named(id);
        back.retain(stands);
        for address in &back {
            self.allocator.hold(*address, view);
        }
        !back.is_empty()
    }

    /// Lets a Service stay with what its status shows by a claim of its own where another address was decided on that is
    /// not shown yet: whoever wrote the status knew more, and a controller that starts would go by it, too.
    fn stay_with_shown(&mut self, id: &ServiceId) {
        let Some(view) = self.world.service(id) else { return };
        let (held, leaving) = (self.staying(id), self.leaving(id));
        let stands = |a: &IpAddr| {
            let record = self.allocator.record(*a);
            record.is_some_and(|r| r.claims(id, &view.uid) && !r.is_losing(id, &view.uid))
                && self.allocator.may_keep(&self.world, *a, view).is_ok()
        };
        let others = view
            .ingress
            .iter()
            .filter(|a| !held.contains(a) && leaving != Some(**a));
        // A wish for a pool comes true one family after the other, and is not given up on the way.
        let wished = |a: IpAddr| {
            let pool = view.request.as_ref().ok().and_then(|r| r.pool.as_ref());
            let record = self.allocator.record(a);
            pool.is_some() && record.and_then(|r| self.pool_name(a, r)).as_ref() == pool
        };
        for shown in others.filter(|a| stands(a)) {
            let Some(other) = replacement(*shown, &held).filter(|a| !view.ingress.contains(a)) else {
                continue;
            };
            if wished(other) && !wished(*shown) {
                continue;
            }
            let instead = held.iter().map(|a| if *a == other { *shown } else { *a });
            let decision = Chooser {
                world: &self.world,
                allocator: &self.allocator,
                view,
                held: &instead.collect::<Vec<_>>(),
                replacing: false,
            }
            .decide();
            if decision.addresses.contains(shown) {
                self.allocator.hold(*shown, view);
                let shown = *shown;
                self.give_up(other, id);
                self.mark_address(shown);
                return;
            }
        }
    }

    /// Lets a Service hold what its status shows where it holds nothing, no claim names it and nobody knows the address.
    /// The VirtualIP may be late: creating it collides then, and the status stays until the watch tells whose it is.
    fn adopt_unknown(&mut self, id: &ServiceId) {
        let Some(view) = self.world.service(id).filter(|v| !v.ingress.is_empty()) else {
            return;
        };
        for address in &view.ingress {
            let (held, named) = (self.allocator.held(id), self.allocator.named(id));
            let same = |a: &IpAddr| Family::of(*a) == Family::of(*address);
            let served = held.iter().chain(&named).any(same);
            if !served && wrong_family(view, *address).is_none() && self.allocator.is_free(*address) {
                self.allocator.hold(*address, view);
            }
        }
    }

    /// Decides what a Service holds, and reports what changed.
    pub(crate) fn evaluate(&mut self, id: &ServiceId, effects: &mut Vec<Effect>) {
        let Some(view) = self.world.service(id).filter(|_| !self.rest.is_put_off(id)) else {
            return;
        };
        let ours = self.world.is_ours(view);
        let before = self.allocator.held(id);
        if !ours {
            for address in before {
                self.give_up(address, id);
            }
            self.line.leave(id);
            if let Some(state) = self.states.get_mut(id) {
                state.forget_reports();
                self.set_leaving(id, None);
            }
            self.dirty.statuses.insert(id.clone());
            return;
        }
        let lost = before
            .iter()
            .filter_map(|a| Some((*a, self.why_lost(view, *a)?)))
            .collect::<Vec<_>>();
        for (address, reason) in &lost {
            self.give_up(*address, id);
            if let Some(reason) = reason {
                self.report_cleared(id, *address, reason, effects);
            }
        }
        self.adopt_unknown(id);
        self.follow_overlap(id);
        self.stay_with_shown(id);
        if self.leaving(id).is_none() {
            self.resume_overlap(id);
        }
        let Some((mut held, mut decision)) = self.decide(id) else {
            return;
        };
        if (decision.unmet.is_some() || decision.missing.is_some())
            && self.take_back(id)
            && let Some(again) = self.decide(id)
        {
            (held, decision) = again;
        }
        let Some(view) = self.world.service(id) else { return };
        match decision.unmet.as_ref().or(decision.missing.as_ref()) {
            Some(reason) => self.line.join(view, is_full(reason)),
            None => self.line.leave(id),
        }
        self.apply(id, &held, &decision);
        if self.leaving(id).is_none() {
            self.renumber(id);
        }
        let unwritable = self.states.get(id).and_then(|s| s.unwritable.as_ref());
        if let Some(&WriteKey::Claim(address)) = unwritable.map(|of| &of.0)
            && !self.allocator.held(id).contains(&address)
        {
            self.report_written(id, &WriteKey::Claim(address));
        }
        self.dirty.statuses.insert(id.clone());
        self.report_decision(id, decision.unmet, effects);
    }

    /// What the Service may keep, and what it should hold. An address that it is leaving is not counted, unless there
    /// is no other any more, or it is asked for, or it need not be left after all: then it stays.
    fn decide(&mut self, id: &ServiceId) -> Option<(Vec<IpAddr>, Decision)> {
        loop {
            let (view, held) = (self.world.service(id)?, self.staying(id));
            let decision = Chooser {
                world: &self.world,
                allocator: &self.allocator,
                view,
                held: &held,
                replacing: false,
            }
            .decide();
            let Some(old) = self.leaving(id) else {
                return Some((held, decision));
            };
            let holds = self.allocator.holders_of(old).any(|other| other == id);
            let fellow = |addresses: &[IpAddr]| replacement(old, addresses);
            let replaced = fellow(&decision.addresses);
            let begun = fellow(&held).is_some_and(|new| self.is_shown(id, new));
            let stays = asked(view).contains(&old) || !begun && !self.must_leave(old, view);
            if holds && replaced.is_some() && !stays {
                if replaced != fellow(&held) {
                    self.set_leaving(id, Some(old));
                }
                return Some((held, decision));
            }
            self.set_leaving(id, None);
            if let Some(new) = fellow(&held).filter(|_| holds && stays) {
                self.give_up(new, id);
            }
        }
    }

    /// Why a held address cannot stay, whatever else there is; the inner `None` needs no event.
    fn why_lost(&self, view: &ServiceView, address: IpAddr) -> Option<Option<Reason>> {
        if view.families.is_empty() {
            return Some(None);
        }
        if let Some(reason) = wrong_family(view, address) {
            return Some(Some(reason));
        }
        let record = self.allocator.record(address)?;
        // Without its claim in the object it is a stranger there, before whom those come that show the address by theirs.
        let claimed = record.object.is_none() || record.claims(&view.id, &view.uid);
        let others = record
            .users(&self.world)
            .filter(|other| other.id != view.id && (!claimed || record.holders.contains_key(&other.id)));
        others
            .filter_map(|other| record.admits(address, view, other).err())
            .map(Some)
            .next()
    }

    fn apply(&mut self, id: &ServiceId, held: &[IpAddr], decision: &Decision) {
        for address in held.iter().filter(|a| !decision.addresses.contains(a)) {
            self.give_up(*address, id);
        }
        for address in &decision.addresses {
            let Some(view) = self.world.service(id) else { return };
            self.allocator.hold(*address, view);
            if !held.contains(address) {
                // Who waits for it by name is told by whom it is held.
                self.dirty.services.extend(self.line.asking_for(*address).cloned());
            }
            self.mark_address(*address);
        }
    }

    /// Ends a hold and marks what follows from it.
    pub(crate) fn give_up(&mut self, address: IpAddr, id: &ServiceId) {
        self.rest.lose(id, address);
        if let Some(uid) = self
            .allocator
            .record(address)
            .and_then(|r| r.holders.get(id))
            .map(|h| h.uid.clone())
        {
            self.allocator.forget_sharer(address, id, &uid);
        }
        self.allocator.release(address, id);
        if self.line.next_full(&id.namespace, None).is_some() {
            self.dirty.rooms.insert(id.namespace.clone());
        }
        self.allocator.tidy(address);
        self.dirty.freed.insert(address);
        self.mark_address(address);
    }

    /// Calls those who wait for an address by name; what they leave is then offered to the others.
    pub(crate) fn call(&mut self, address: IpAddr) {
        let kept = |r: &Record| r.holders.is_empty() && r.object.as_ref().is_some_and(|o| !o.claims.is_empty());
        if !self.allocator.record(address).is_some_and(kept) {
            self.dirty.services.extend(self.line.asking_for(address).cloned());
            self.dirty.offered.insert(address);
        }
        // Otherwise only those it is kept for can have it, and they look for themselves.
    }

    /// Lets those who wait for any address try for this one, oldest first, until somebody has it for himself.
    pub(crate) fn offer(&mut self, address: IpAddr, effects: &mut Vec<Effect>) {
        let mut last = None;
        loop {
            let closed = |r: &Record| r.sharing_key().is_none() && !r.holders.is_empty();
            if self.allocator.record(address).is_some_and(closed) {
                return;
            }
            let next = {
                let mut behind = self.line.automatic_after(last.as_ref());
                behind.find(|t| self.could_use(&t.id, address)).cloned()
            };
            let Some(turn) = next else { return };
            self.evaluate(&turn.id, effects);
            last = Some(turn);
        }
    }

    /// Serves those who wait for their namespace to give an address back, oldest first, until it is full again.
    pub(crate) fn refill(&mut self, namespace: &str, effects: &mut Vec<Effect>) {
        let mut last = None;
        while Limits::of(&self.world, &self.allocator, namespace).room(0) > 0
            && let Some(turn) = self.line.next_full(namespace, last.as_ref()).cloned()
        {
            self.evaluate(&turn.id, effects);
            last = Some(turn);
        }
    }

    fn limits<'a>(&'a self, view: &'a ServiceView) -> Limits<'a> {
        Limits::of(&self.world, &self.allocator, &view.id.namespace)
    }

    /// A quick look whether an address can be of interest to a Service that waits.
    fn could_use(&self, id: &ServiceId, address: IpAddr) -> bool {
        let Some(view) = self.world.service(id) else {
            return false;
        };
        let Ok(request) = &view.request else { return false };
        let named = self.allocator.named(id).contains(&address);
        if self.line.is_full(id) && !named && self.limits(view).is_more(address) {
            return false;
        }
        if !view.families.contains(Family::of(address)) {
            return false;
        }
        let shares = || {
            let key = self.allocator.record(address).and_then(Record::sharing_key);
            key.is_some() && key == view.sharing_key
        };
        if !self.allocator.is_free(address) && !shares() && !named {
            return false;
        }
        let Some(pool) = self.world.pool_of(address) else {
            return true;
        };
        match &request.pool {
            Some(name) => *name == pool.name,
            None => pool.admits(&view.id.namespace, &view.labels),
        }
    }

    /// Why an address would not be chosen for its holder today.
    pub(crate) fn why_kept(&self, address: IpAddr, view: &ServiceView) -> Option<Reason> {
        let why = match self.why_outside(address, view) {
            Some(why) => match self.states.get(&view.id).and_then(|s| s.stuck.as_ref()) {
                Some(stuck) if self.must_leave(address, view) => {
                    format!("{why}, and there is no other for it ({}: {stuck})", stuck.as_str())
                }
                _ => why,
            },
            None => self.why_refused(address, view)?.to_string(),
        };
        Some(Reason::PoolChanged { address, why })
    }

    /// Why the pool of the address would not give it to its holder today.
    pub(crate) fn why_outside(&self, address: IpAddr, view: &ServiceView) -> Option<String> {
        let record = self.allocator.record(address)?;
        let pool = self.world.pool_of(address);
        if let Some(pool) = pool.filter(|p| !p.admits(&view.id.namespace, &view.labels)) {
            return Some(format!("IPAddressPool {:?} is kept for other Services", pool.name));
        }
        if let Some(pool) = pool.filter(|p| p.is_buggy(address)) {
            let name = &pool.name;
            return Some(format!(
                "IPAddressPool {name:?} avoids addresses that end in .0 or .255"
            ));
        }
        if pool.is_some() || record.is_reserved_for(&view.id) {
            return None;
        }
        Some(match record.recorded_pool() {
            Some(pool) if self.world.config().pools.contains_key(pool) => {
                format!("IPAddressPool {pool:?} does not contain it any more")
            }
            Some(pool) => format!("IPAddressPool {pool:?} is not in force any more"),
            None => "it is in no IPAddressPool".to_owned(),
        })
    }

    /// The policy that would not give the address to its holder today.
    fn why_refused(&self, address: IpAddr, view: &ServiceView) -> Option<Reason> {
        let pool = self.world.pool_of(address)?;
        if self.allocator.record(address)?.is_reserved_for(&view.id) {
            return None;
        }
        let limits = self.limits(view);
        let named = asked(view).contains(&address).then(|| limits.request(address));
        let refused = limits.pool(&pool.name).and(named.unwrap_or(Ok(())));
        refused.and_then(|()| limits.sharing(address, &view.id)).err()
    }

    /// Records a lost address on the Service.
    fn report_cleared(&mut self, id: &ServiceId, address: IpAddr, reason: &Reason, effects: &mut Vec<Effect>) {
        let message = format!("Address {address} was taken away. {}: {reason}", reason.as_str());
        self.event(id, EventKind::Cleared, message, effects);
    }
}

/// The refusal of an address whose family the Service does not have.
fn wrong_family(view: &ServiceView, address: IpAddr) -> Option<Reason> {
    (!view.families.contains(Family::of(address))).then(|| Reason::RequestFamilies {
        addresses: vec![address],
        service: if view.families.v4 { "IPv4" } else { "IPv6" },
    })
}
