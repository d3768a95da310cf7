//! From decisions to writes: claims into VirtualIPs, addresses into Services, placement and conditions into status.
//!
//! Each function looks at one object, compares what it should say with what it says, and asks for the one write that
//! closes the gap. None is asked for while another is under way, while its outcome has not come through the watch, or
//! while a failure keeps it waiting.
//!
//! A Service's status shows an address only when the VirtualIP is known to carry the claim, and a claim is not taken
//! off a VirtualIP while the status of its Service still shows the address, or the name of its pool.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_model::{Claim, Condition, ConditionType, Family, Reason, ServiceId, ServiceView};

use crate::allocator::{Echo, Record};
use crate::controller::Controller;
use crate::effect::{Effect, Write, WriteKey};
use crate::line::Turn;
use crate::placement::Decision;
use crate::report::Shown;
use crate::timers::Timer;

/// After a status that FerroLB wrote was overwritten twice within this time, it is left alone for as long.
pub(crate) const TRUCE: Duration = Duration::from_secs(60);

/// A watch that owes an event for this long has missed it.
const ECHO: Duration = Duration::from_secs(30);

impl Controller {
    /// Whether a write with this key has to wait after a failure.
    fn must_wait(&self, key: &WriteKey) -> bool {
        self.timers.is_retry_set(key)
    }

    /// Brings the VirtualIP's claims in line with the holders.
    pub(crate) fn settle_claim(&mut self, address: IpAddr, now: Duration, effects: &mut Vec<Effect>) {
        let known = self.allocator.record(address).is_some();
        self.dirty.statuses.append(&mut self.doubted);
        self.give_up_on_echo(address, now);
        self.allocator.tidy(address);
        let Some(record) = self.allocator.record(address) else {
            // While a write was under way the address was not free, so whoever waits for it was passed over.
            if known && self.allocator.is_free(address) {
                self.dirty.freed.insert(address);
            }
            self.forget_failures(&WriteKey::Claim(address));
            self.forget_failures(&WriteKey::VirtualIpStatus(address));
            return;
        };
        if record.flight.is_some() || record.echo != Echo::None || self.must_wait(&WriteKey::Claim(address)) {
            return;
        }
        if self.evict_unfounded(address) {
            return;
        }
        let Some(record) = self.allocator.record(address) else {
            return;
        };
        let write = match &record.object {
            None => {
                if !record.holders.is_empty() {
                    self.create(address, now, effects);
                }
                return;
            }
            Some(object) => {
                let (claims, cooling) = self.wanted_claims(address, record, now);
                let end = cooling.values().copied().filter(|end| *end > now).min();
                let (uid, resource_version) = (object.uid.clone(), object.resource_version.clone());
                let (mut pool, mut sharing_key) = (object.pool.clone(), object.sharing_key.clone());
                if !record.holders.is_empty() {
                    pool = self.pool_name(address, record);
                    sharing_key = record.sharing_key();
                }
                let same = (&claims, &pool, &sharing_key) == (&object.claims, &object.pool, &object.sharing_key);
                if let Some(record) = self.allocator.record_mut(address) {
                    record.cooling = cooling;
                }
                match end {
                    Some(end) => self.timers.set(Timer::Address(address), end),
                    None => self.timers.clear(&Timer::Address(address)),
                }
                if same {
                    self.claim_written(address);
                    let record = self.allocator.record(address);
                    if !record.is_some_and(|r| r.rests_on_others(address, &self.world)) {
                        return;
                    }
                    Write::ConfirmVirtualIp {
                        address,
                        resource_version,
                    }
                } else if claims.is_empty() {
                    Write::DeleteVirtualIp {
                        address,
                        uid,
                        resource_version,
                    }
                } else {
                    Write::UpdateVirtualIp {
                        address,
                        pool,
                        claims,
                        sharing_key,
                        resource_version,
                    }
                }
            }
        };
        self.start(address, write, effects);
    }

    /// Whoever holds the address without a claim in the object, and shows it nowhere, is as good as new: the rules of this
    /// moment hold for it, not those under which it was chosen. Gives whether somebody has to choose again.
    fn evict_unfounded(&mut self, address: IpAddr) -> bool {
        let holders = self.unclaimed(address);
        let holders = holders.iter().filter_map(|id| self.world.service(id));
        let reserved = |id: &ServiceId| self.allocator.record(address).is_some_and(|r| r.is_reserved_for(id));
        let unfounded = |v: &&ServiceView| {
            let refused = self.allocator.may_hold(&self.world, address, v).is_err();
            let outside = || !reserved(&v.id) && self.why_kept(address, v).is_some();
            let unmet = || self.states.get(&v.id).is_some_and(|s| s.unmet.is_some());
            !self.is_shown(&v.id, address) && (refused || outside() || unmet())
        };
        let turns = holders.filter(unfounded).map(Turn::of).collect::<Vec<_>>();
        for turn in &turns {
            self.give_up(address, &turn.id);
        }
        let any = !turns.is_empty();
        self.dirty.services.extend(turns);
        any
    }

    /// Claims an address that has no object yet.
    fn create(&mut self, address: IpAddr, now: Duration, effects: &mut Vec<Effect>) {
        let prober = self.prober(address, now);
        let Some(record) = self.allocator.record(address) else {
            return;
        };
        let write = Write::CreateVirtualIp {
            address,
            pool: self.pool_name(address, record),
            claims: new_claims(record),
            sharing_key: record.sharing_key(),
            prober: prober.clone(),
        };
        if let Some(node) = prober {
            self.probe_begins(address, &node);
        }
        self.start(address, write, effects);
    }

    /// The pool that the address counts to: the one it lies in, else the one it was taken from.
    pub(crate) fn pool_name(&self, address: IpAddr, record: &Record) -> Option<String> {
        let lies_in = self.world.pool_of(address).map(|p| p.name.as_str());
        lies_in.or(record.recorded_pool()).map(str::to_owned)
    }

    fn start(&mut self, address: IpAddr, write: Write, effects: &mut Vec<Effect>) {
        if let Some(record) = self.allocator.record_mut(address) {
            record.flight = Some(Box::new(write.clone()));
            effects.push(Effect::Write(write));
        }
    }

    /// Expects the watch to show a write that went through; when it does not, the address is looked at again.
    pub(crate) fn expect_echo(&mut self, address: IpAddr, echo: Echo, now: Duration) {
        if let Some(record) = self.allocator.record_mut(address) {
            record.echo = echo;
            record.echo_due = now + ECHO;
            self.timers.set(Timer::Address(address), now + ECHO);
        }
    }

    /// The watch missed a write: what was created or deleted is tried again, and the API server has the last word. An
    /// object that waits for somebody's finalizer keeps its address meanwhile.
    fn give_up_on_echo(&mut self, address: IpAddr, now: Duration) {
        let Some(record) = self.allocator.record_mut(address) else {
            return;
        };
        if record.echo == Echo::None || now < record.echo_due {
            return;
        }
        match std::mem::take(&mut record.echo) {
            Echo::Created => self.set_object(address, None),
            Echo::Deleted(object) => self.set_object(address, Some(*object)),
            Echo::None | Echo::Changed(_) => {}
        }
    }

    /// The claims the object should carry, in its order, and when the residual ones end.
    fn wanted_claims(
        &self,
        address: IpAddr,
        record: &Record,
        now: Duration,
    ) -> (Vec<Claim>, BTreeMap<ServiceId, Duration>) {
        let (mut claims, mut cooling) = (Vec::new(), BTreeMap::new());
        for claim in record.object.iter().flat_map(|o| &o.claims) {
            let id = &claim.service;
            // By its claim a status is known to be ours to clean; what others wrote there is never cleaned.
            let needed = |v: &ServiceView| {
                let shows = v.ingress.contains(&address);
                claim.uid.as_ref() == Some(&v.uid)
                    && match self.world.is_ours(v) {
                        true => shows,
                        false => (shows || v.pool_annotation.is_some()) && self.is_leftover(v),
                    }
            };
            let view = self.world.service(id);
            let needed = view.is_some_and(needed);
            if let Some(holder) = record.holders.get(id) {
                claims.push(Claim {
                    service: id.clone(),
                    uid: claim.uid.as_ref().map(|_| holder.uid.clone()),
                });
            } else if record.is_reservation(claim) {
                claims.push(claim.clone());
            } else {
                // Beside holders, what was given up here goes at once. What was never held here another controller wrote, who
                // may know more of the Service: it stays for a while, if it does not contradict what is known.
                let known = view.filter(|v| claim.uid.as_ref() == Some(&v.uid));
                let fits =
                    known.is_none_or(|v| self.views(record).iter().all(|h| record.admits(address, v, h).is_ok()));
                let end = record.cooling.get(id).copied().unwrap_or(now + self.settings.cool_down);
                cooling.insert(id.clone(), end);
                if end > now && fits || needed {
                    claims.push(claim.clone());
                }
            }
        }
        let missing = new_claims(record)
            .into_iter()
            .filter(|c| claims.iter().all(|o| o.service != c.service));
        claims.extend(missing.collect::<Vec<_>>());
        (claims, cooling)
    }

    /// Brings a Service's status in line with what it holds.
    pub(crate) fn settle_service_status(&mut self, id: &ServiceId, now: Duration, effects: &mut Vec<Effect>) {
        let key = WriteKey::ServiceStatus(id.clone());
        let Some(view) = self.world.service(id) else { return };
        let state = self.states.get(id);
        if state.is_some_and(|s| s.flight.is_some() || s.echo_of.is_some()) || self.must_wait(&key) {
            return;
        }
        if self.is_doubted(view) {
            self.doubted.insert(id.clone());
            return;
        }
        let Some(wanted) = self.wanted_status(view) else { return };
        let shown = (view.ingress.clone(), view.pool_annotation.clone());
        // An entry that is no address is nobody's business until there is an address to put in its place.
        if shown == wanted && (!view.ingress_foreign || wanted.0.is_empty()) {
            self.begin_overlap(id, &wanted.0, now);
            if let Some(state) = self.states.get_mut(id) {
                state.stood = Some(wanted);
            }
            self.report_written(id, &key);
            return;
        }
        let write = Write::SetServiceStatus {
            service: id.clone(),
            uid: view.uid.clone(),
            resource_version: view.resource_version.clone(),
            ingress: wanted.0.clone(),
            pool: wanted.1.clone(),
        };
        let giving = wanted.0.iter().copied().filter(|a| !view.ingress.contains(a)).collect();
        let state = self.states.entry(id.clone()).or_default();
        state.giving = giving;
        if state.stood.as_ref() == Some(&wanted) {
            state.giving.clear();
            if state.restored.is_some_and(|at| now < at + TRUCE) {
                let manager = "another writer".to_owned();
                self.report_unwritable(id, &key, Reason::ForeignWriter { manager }, effects);
                self.timers.set(Timer::Retry(key), now + TRUCE);
                return;
            }
            state.restored = Some(now);
        }
        state.flight = Some(Box::new(write.clone()));
        effects.push(Effect::Write(write));
    }

    /// Whether the Service shows an address that another one is to have by a claim that is not confirmed yet.
    fn is_doubted(&self, view: &ServiceView) -> bool {
        let mut shown = view.ingress.iter();
        shown.any(|address| {
            let record = self.allocator.record(*address);
            let others = record.filter(|r| !r.holders.contains_key(&view.id));
            others.is_some_and(|r| r.rests_on_others(*address, &self.world))
        })
    }

    /// What the status should say; `None` to leave it as it is for now.
    fn wanted_status(&self, view: &ServiceView) -> Option<Shown> {
        let mut held = self.allocator.held(&view.id);
        // The new one of two goes first.
        let leaving = self.leaving(&view.id);
        held.sort_by_key(|a| (Family::of(*a), leaving == Some(*a), *a));
        if !self.world.is_ours(view) {
            return self.is_leftover(view).then(|| (Vec::new(), None));
        }
        // A speaker is asking whether another machine has it.
        if held.iter().any(|a| self.probes.is_open(*a)) {
            return None;
        }
        let claimed = |a: &IpAddr| {
            let known = |r: &Record| r.proven || view.ingress.contains(a);
            let record = self.allocator.record(*a);
            record.is_some_and(|r| r.claims(&view.id, &view.uid) && !r.is_losing(&view.id, &view.uid) && known(r))
        };
        // A claim that is on its way, or that somebody removed and that comes back, is worth waiting for; one that
        // cannot be written does not keep the other family from being shown.
        let worth_waiting = |a: &IpAddr| {
            let record = self.allocator.record(*a);
            let holder = record.filter(|r| r.proven).and_then(|r| r.holders.get(&view.id));
            holder.is_some_and(|h| h.confirmed) || !self.must_wait(&WriteKey::Claim(*a))
        };
        if held.iter().any(|a| !claimed(a) && worth_waiting(a)) {
            return None;
        }
        // What is shown already stays until somebody knows whose it is.
        let ingress = held.iter().copied().filter(|a| claimed(a) || view.ingress.contains(a));
        let ingress = ingress.collect::<Vec<_>>();
        if ingress.is_empty() && !held.is_empty() {
            return None;
        }
        let first = ingress.first().copied();
        let pool = first.and_then(|a| self.pool_name(a, self.allocator.record(a)?));
        Some((ingress, pool))
    }

    /// Whether the status of a Service that is not ours still shows what we wrote: nothing but addresses that carry
    /// its claim. Anything else is somebody else's and stays.
    fn is_leftover(&self, view: &ServiceView) -> bool {
        let claimed = |a: &IpAddr| self.allocator.record(*a).is_some_and(|r| r.claims(&view.id, &view.uid));
        let has_claim = self.allocator.named(&view.id).iter().any(claimed);
        has_claim && !view.ingress_foreign && view.ingress.iter().all(claimed)
    }

    /// Decides who announces an address, and brings placement and conditions into the object.
    pub(crate) fn settle_placement(&mut self, address: IpAddr, now: Duration, effects: &mut Vec<Effect>) {
        let Some(record) = self.allocator.record(address) else {
            return;
        };
        if record.object.is_none() || self.probes.is_open(address) {
            return;
        }
        let decision = if record.holders.is_empty() {
            Decision::default()
        } else {
            let mut coverage = std::mem::take(&mut self.coverage);
            let decision = self.place(address, &mut coverage, now);
            self.coverage = coverage;
            decision
        };
        if self
            .allocator
            .record(address)
            .is_some_and(|r| r.placed != decision.placed)
        {
            self.allocator.set_placed(address, decision.placed.clone());
        }
        self.report_silence(address, decision.silent.as_ref(), effects);
        self.expect_owner(address, &decision, now);
        let Some(record) = self.allocator.record(address) else {
            return;
        };
        let waits = self.must_wait(&WriteKey::VirtualIpStatus(address));
        let Some(object) = record.object.as_ref() else { return };
        if record.flight.is_some() || record.echo != Echo::None || waits {
            return;
        }
        let mut conditions = self.conditions(address, record, &decision, now);
        let answered_move = self.answered(object, &decision, &mut conditions);
        let same = object.placement == record.placed && object.answered_move == answered_move;
        if same && object.conditions == conditions {
            return;
        }
        let write = Write::SetVirtualIpStatus {
            address,
            placement: record.placed.clone(),
            answered_move,
            conditions,
            resource_version: object.resource_version.clone(),
        };
        if let Some(answer) = &decision.answer {
            self.report_move(address, answer, effects);
        }
        self.start(address, write, effects);
    }

    fn conditions(
        &self,
        address: IpAddr,
        record: &Record,
        decision: &Decision,
        now: Duration,
    ) -> BTreeMap<ConditionType, Condition> {
        let mut conditions = BTreeMap::from([(ConditionType::Allocated, self.allocated(address, record))]);
        if record.holders.is_empty() {
            return conditions;
        }
        conditions.extend(self.conflict(address).map(|c| (ConditionType::Conflict, c)));
        let announced = match (&record.placed, &decision.silent) {
            (Some(placed), _) => self.announced(record, placed, decision, now),
            (None, Some(reason)) => Condition::told(false, reason),
            (None, None) => return conditions,
        };
        conditions.insert(ConditionType::Announced, announced);
        conditions
    }

    fn allocated(&self, address: IpAddr, record: &Record) -> Condition {
        let holders = self.views(record);
        let leaving = |view: &&&ServiceView| self.leaving(&view.id) == Some(address);
        if let Some(view) = holders.iter().find(leaving) {
            let message = format!("{} moves to another address and has both for a while", view.id);
            return Condition::new(true, "Renumbering", message);
        }
        if let Some(reason) = holders.iter().find_map(|view| self.why_kept(address, view)) {
            return Condition::told(true, &reason);
        }
        let unmet = |v: &&&ServiceView| self.states.get(&v.id).is_some_and(|s| s.unmet.is_some());
        if let Some(view) = holders.iter().find(unmet)
            && let Some(reason) = self.states.get(&view.id).and_then(|s| s.unmet.as_ref())
        {
            let message = format!("{} keeps it because its request cannot be met: {reason}", view.id);
            return Condition::new(true, reason.as_str(), message);
        }
        let claims = record.object.as_ref().map_or(&[][..], |o| &o.claims);
        if !holders.is_empty() {
            let message = match self.world.pool_of(address) {
                Some(pool) => format!("assigned from IPAddressPool {:?}", pool.name),
                None => "assigned by reservation".to_owned(),
            };
            Condition::new(true, "Allocated", message)
        } else if claims.is_empty() {
            Condition::new(
                false,
                "Blocked",
                "a VirtualIP without a claim blocks the address".to_owned(),
            )
        } else if let Some(claim) = claims.iter().find(|c| record.is_reservation(c)) {
            Condition::new(false, "Reserved", format!("reserved for {}", claim.service))
        } else {
            let message = format!("released; kept for {} until its cool-down ends", claims[0].service);
            Condition::new(false, "CoolingDown", message)
        }
    }
}

/// One claim per holder.
fn new_claims(record: &Record) -> Vec<Claim> {
    let claim = |(id, holder): (&ServiceId, &crate::allocator::Holder)| Claim {
        service: id.clone(),
        uid: Some(holder.uid.clone()),
    };
    record.holders.iter().map(claim).collect()
}
