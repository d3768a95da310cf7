//! What was said about each Service, so that it is said once; and the figures for metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_model::{ConditionType, Family, Reason, ServiceId, ServiceView};

use crate::controller::Controller;
use crate::effect::{Effect, EventKind, ServiceEvent, Write, WriteKey};
use crate::renumber::Leaving;

/// What a Service's status says: addresses and pool annotation.
pub(crate) type Shown = (Vec<IpAddr>, Option<String>);

/// The controller's memory about one Service.
#[derive(Debug, Default)]
pub(crate) struct ServiceState {
    /// The status write under way.
    pub(crate) flight: Option<Box<Write>>,
    /// Addresses that the write under way gives to the Service, for the event when it ends well.
    pub(crate) giving: Vec<IpAddr>,
    /// The version on which a status write went through that the watch has not shown yet.
    pub(crate) echo_of: Option<String>,
    /// The status as it was seen to be right last.
    pub(crate) stood: Option<Shown>,
    /// When a status that had been overwritten was written again.
    pub(crate) restored: Option<Duration>,
    /// Why the request is not met, as reported.
    pub(crate) unmet: Option<Box<Reason>>,
    /// What of it cannot be written, and why, as reported.
    pub(crate) unwritable: Option<Box<(WriteKey, Reason)>>,
    /// The address that makes way for another.
    pub(crate) leaving: Option<Leaving>,
    /// Why an address that should make way cannot be replaced.
    pub(crate) stuck: Option<Box<Reason>>,
    changed: Vec<Reason>,
    deprecated: BTreeSet<String>,
    /// Why it does not have the policy that it asks for, as reported.
    denied: Option<Box<Reason>>,
}

impl ServiceState {
    /// Forgets what was reported: the Service is not ours any more.
    pub(crate) fn forget_reports(&mut self) {
        self.unmet = None;
        self.unwritable = None;
        self.changed.clear();
        self.deprecated.clear();
        self.denied = None;
    }
}

/// Addresses of one family in a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many the pool may hand out.
    pub total: u128,
    /// How many are held, reserved, or cooling down; a shared address counts once.
    pub in_use: u128,
}

/// The figures of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// IPv4 addresses.
    pub v4: Usage,
    /// IPv6 addresses.
    pub v6: Usage,
}

impl Controller {
    /// Total and used addresses of every pool in force, by its name. Takes time in proportion to the addresses in use.
    pub fn pool_usage(&self) -> BTreeMap<String, PoolUsage> {
        let total = |family, pool: &ferrolb_model::Pool| Usage {
            total: pool.capacity(family),
            in_use: 0,
        };
        let pools = self.world.config().pools.values();
        let mut usage = pools
            .map(|p| {
                let v4 = total(Family::V4, p);
                let v6 = total(Family::V6, p);
                (p.name.clone(), PoolUsage { v4, v6 })
            })
            .collect::<BTreeMap<_, _>>();
        for (address, record) in self.allocator.records() {
            let claimed = record.object.as_ref().is_some_and(|o| !o.claims.is_empty());
            if !claimed && record.holders.is_empty() {
                continue;
            }
            let pool = self.world.pool_of(address).and_then(|p| usage.get_mut(&p.name));
            if let Some(pool) = pool {
                match Family::of(address) {
                    Family::V4 => pool.v4.in_use += 1,
                    Family::V6 => pool.v6.in_use += 1,
                }
            }
        }
        usage
    }

    /// How many Services hold at least one address.
    pub fn services_allocated(&self) -> usize {
        self.allocator.holders()
    }

    /// How many Services do not have what they ask for, by [`Reason::as_str`].
    pub fn pending_by_reason(&self) -> BTreeMap<&'static str, usize> {
        let mut pending = BTreeMap::new();
        for state in self.states.values() {
            let unwritable = state.unwritable.as_ref().map(|of| &of.1);
            if let Some(reason) = state.unmet.as_deref().or(unwritable) {
                *pending.entry(reason.as_str()).or_insert(0) += 1;
            }
        }
        pending
    }

    /// How many addresses each node is to announce.
    pub fn addresses_per_node(&self) -> &BTreeMap<String, usize> {
        self.allocator.seats.owned()
    }

    /// Whether every stream has been seen complete, so that decisions are made.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// An event on a Service that still exists.
    pub(crate) fn event(&self, id: &ServiceId, kind: EventKind, message: String, effects: &mut Vec<Effect>) {
        if let Some(view) = self.world.service(id) {
            effects.push(Effect::Event(ServiceEvent {
                service: id.clone(),
                uid: view.uid.clone(),
                kind,
                message,
            }));
        }
    }

    /// Reports a decision: a refusal when it is news, an address that is kept against today's rules, old annotations.
    pub(crate) fn report_decision(&mut self, id: &ServiceId, unmet: Option<Reason>, effects: &mut Vec<Effect>) {
        let Some(view) = self.world.service(id) else { return };
        let held = self.allocator.held(id);
        let staying = self.staying(id);
        let changed = staying.iter().filter_map(|a| self.why_kept(*a, view));
        let changed = changed.collect::<Vec<_>>();
        // What stands in a VirtualIP was said before a restart.
        let objects = held.iter().filter_map(|a| self.allocator.record(*a)?.object.as_ref());
        let said = objects.filter_map(|o| Some(o.conditions.get(&ConditionType::Allocated)?.message.clone()));
        let said = said.collect::<Vec<_>>();
        let deprecated = view.deprecated_annotations.clone();
        let denied = self.policy_denied(&held, view).map(Box::new);
        let state = self.states.entry(id.clone()).or_default();
        let mut events = Vec::new();
        if state.unmet.as_deref() != unmet.as_ref() {
            if let Some(reason) = unmet.as_ref().filter(|r| **r != Reason::NoClusterIp) {
                let kind = refusal_kind(reason, held.is_empty());
                events.push((kind, format!("{}: {reason}", reason.as_str())));
            }
            state.unmet = unmet.map(Box::new);
            // The VirtualIP of an address that stays tells the same.
            self.dirty.placements.extend(&held);
        }
        if state.changed != changed {
            let news = changed
                .iter()
                .filter(|r| !state.changed.contains(r) && !said.contains(&r.to_string()));
            events.extend(news.map(|r| (EventKind::PoolChanged, format!("{}: {r}", r.as_str()))));
            state.changed = changed;
        }
        if state.deprecated != deprecated {
            let keys = deprecated.difference(&state.deprecated).cloned().collect::<Vec<_>>();
            if !keys.is_empty() {
                let message = format!(
                    "annotation {} is deprecated; use the prefix metallb.io/ instead",
                    keys.join(", ")
                );
                events.push((EventKind::DeprecatedAnnotation, message));
            }
            state.deprecated = deprecated;
        }
        if state.denied != denied {
            let reason = denied.iter().map(|r| format!("{}: {r}", r.as_str()));
            events.extend(reason.map(|message| (EventKind::PolicyNotGranted, message)));
            state.denied = denied;
        }
        for (kind, message) in events {
            self.event(id, kind, message, effects);
        }
    }

    /// Why the Service, which holds these addresses, does not have the policy that it asks for.
    fn policy_denied(&self, held: &[IpAddr], view: &ServiceView) -> Option<Reason> {
        let policy = view.announcement_policy.clone()?;
        let config = self.world.config();
        let mut pools = held.iter().map(|address| self.world.pool_of(*address));
        let why = match held.is_empty() {
            true => config.policy_denied(None, view.applicant()),
            false => pools.find_map(|pool| config.policy_denied(pool, view.applicant())),
        };
        why.map(|why| Reason::PolicyNotGranted { policy, why })
    }

    /// Reports that the claim or the status of a Service cannot be written, when it is news.
    pub(crate) fn report_unwritable(
        &mut self,
        id: &ServiceId,
        key: &WriteKey,
        reason: Reason,
        effects: &mut Vec<Effect>,
    ) {
        if let WriteKey::Claim(address) = key {
            self.refused.insert(*address);
        }
        let news = Some(Box::new((key.clone(), reason.clone())));
        let state = self.states.entry(id.clone()).or_default();
        if state.unwritable != news {
            state.unwritable = news;
            let message = format!("{}: {reason}", reason.as_str());
            self.event(id, EventKind::LoadBalancerFailed, message, effects);
        }
    }

    /// What could not be written is as it should be, or is not wanted any more.
    pub(crate) fn report_written(&mut self, id: &ServiceId, key: &WriteKey) {
        if let Some(state) = self.states.get_mut(id) {
            state.unwritable.take_if(|of| of.0 == *key);
        }
    }
}

/// A request that cannot be read or met as written, or no address at all.
fn refusal_kind(reason: &Reason, without_address: bool) -> EventKind {
    match reason {
        Reason::BadRequest(_) | Reason::RequestFamilies { .. } | Reason::NotDualStack => EventKind::LoadBalancerFailed,
        _ if without_address => EventKind::AllocationFailed,
        _ => EventKind::LoadBalancerFailed,
    }
}
