//! How writes ended. A success is applied to the picture at once, so that the next step need not wait for the watch;
//! a failure says when to try again.
//!
//! Every write carries the version it was based on. When the picture has moved on by the time the outcome arrives, the
//! watch was faster and its word counts.

use std::net::IpAddr;
use std::time::Duration;

use ferrolb_model::{Probe, Reason, ServiceId, VirtualIp};

use crate::allocator::Echo;
use crate::controller::Controller;
use crate::converge::TRUCE;
use crate::effect::{Effect, EventKind, Write, WriteKey};
use crate::input::WriteError;
use crate::line::Turn;
use crate::timers::{Failure, Timer};

/// From this many refusals in a row on, missing permission is no matter of a starting API server any more.
const FORBIDDEN_IN_A_ROW: u32 = 3;

/// After this many conflicts in a row, some seven seconds, an object that exists already is not just late in the watch.
const CONFLICTS_IN_A_ROW: u32 = 8;

impl Controller {
    pub(crate) fn on_written(
        &mut self,
        key: WriteKey,
        result: Result<(), WriteError>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        if result.is_ok() {
            self.backoff.succeed(&key);
        }
        match &key {
            WriteKey::Claim(address) | WriteKey::VirtualIpStatus(address) => {
                self.address_written(*address, &key, result, now, effects);
            }
            WriteKey::ServiceStatus(id) => self.status_written(id, &key, result, now, effects),
        }
    }

    fn address_written(
        &mut self,
        address: IpAddr,
        key: &WriteKey,
        result: Result<(), WriteError>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        self.mark_address(address);
        let flight = self
            .allocator
            .record_mut(address)
            .and_then(|r| r.flight.take_if(|w| w.key() == *key));
        let Some(write) = flight.map(|flight| *flight) else {
            return;
        };
        let holders = self
            .allocator
            .record(address)
            .map(|r| r.holders.keys().cloned().collect::<Vec<_>>());
        self.dirty.statuses.extend(holders.iter().flatten().cloned());
        if result.is_ok() && matches!(key, WriteKey::Claim(_)) {
            self.claim_written(address);
        }
        if let Some(record) = self.allocator.record_mut(address).filter(|_| result.is_ok()) {
            record.proven = true;
        }
        match &write {
            Write::CreateVirtualIp { .. } => self.probe_asked(address, result.is_ok(), now),
            Write::SetVirtualIpStatus { conditions, .. } if result.is_ok() => {
                self.report_overdue(address, conditions, effects);
            }
            _ => {}
        }
        let seen = self.allocator.record(address).and_then(|r| r.object.as_ref());
        let unchanged = match base(&write) {
            None => seen.is_none(),
            Some(version) => seen.is_some_and(|o| o.resource_version == version),
        };
        match result {
            Ok(()) if unchanged => self.apply_written(address, write, now),
            Ok(()) => {}
            // The API server knows best; its event may have been missed.
            Err(WriteError::Gone) if unchanged && matches!(write, Write::DeleteVirtualIp { .. }) => {
                self.set_object(address, None);
            }
            Err(error) => {
                // Whose claim was to go may stay with it.
                let claims = seen.into_iter().flat_map(|o| &o.claims);
                let named = claims.filter_map(|c| self.world.service(&c.service));
                self.dirty.services.extend(named.map(Turn::of));
                let reason = self.failed(key, error, unchanged, now);
                // Without its claim the Service has no address; a placement that cannot be written takes nothing away.
                if let Some(reason) = reason.filter(|_| matches!(key, WriteKey::Claim(_))) {
                    for id in self.unclaimed(address) {
                        self.report_unwritable(&id, key, reason.clone(), effects);
                    }
                }
            }
        }
    }

    /// The holders of the address that the object does not name.
    pub(crate) fn unclaimed(&self, address: IpAddr) -> Vec<ServiceId> {
        let Some(record) = self.allocator.record(address) else {
            return Vec::new();
        };
        let holders = record.holders.iter().filter(|(id, h)| !record.claims(id, &h.uid));
        holders.map(|(id, _)| id.clone()).collect()
    }

    /// The claims on the address are as they should be: whoever was told otherwise is in order again.
    pub(crate) fn claim_written(&mut self, address: IpAddr) {
        let key = WriteKey::Claim(address);
        if self.refused.remove(&address) {
            for id in self.allocator.holders_of(address).cloned().collect::<Vec<_>>() {
                self.report_written(&id, &key);
            }
        }
    }

    /// Puts what was written into the picture.
    fn apply_written(&mut self, address: IpAddr, write: Write, now: Duration) {
        let old = self.allocator.record(address).and_then(|r| r.object.clone());
        let (object, echo) = match (write, old) {
            (
                Write::CreateVirtualIp {
                    pool,
                    claims,
                    sharing_key,
                    prober,
                    ..
                },
                _,
            ) => {
                let object = VirtualIp {
                    pool,
                    claims,
                    sharing_key,
                    probe: prober.map(|node| Box::new(Probe::Asked { node })),
                    ..VirtualIp::of(address)
                };
                (Some(object), Echo::Created)
            }
            (
                Write::UpdateVirtualIp {
                    pool,
                    claims,
                    sharing_key,
                    resource_version,
                    ..
                },
                Some(old),
            ) => {
                let object = VirtualIp {
                    pool,
                    claims,
                    sharing_key,
                    ..old
                };
                (Some(object), Echo::Changed(resource_version))
            }
            (
                Write::SetVirtualIpStatus {
                    placement,
                    answered_move,
                    conditions,
                    resource_version,
                    ..
                },
                Some(old),
            ) => {
                let object = VirtualIp {
                    placement,
                    answered_move,
                    conditions,
                    ..old
                };
                (Some(object), Echo::Changed(resource_version))
            }
            (Write::ConfirmVirtualIp { .. }, _) => return,
            (Write::DeleteVirtualIp { .. }, Some(old)) => (None, Echo::Deleted(Box::new(old))),
            _ => return,
        };
        self.set_object(address, object);
        self.expect_echo(address, echo, now);
    }

    fn status_written(
        &mut self,
        id: &ServiceId,
        key: &WriteKey,
        result: Result<(), WriteError>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.states.get_mut(id) else { return };
        let Some(write) = state.flight.take().map(|flight| *flight) else {
            return;
        };
        let giving = std::mem::take(&mut state.giving);
        self.dirty.statuses.insert(id.clone());
        let Write::SetServiceStatus {
            uid,
            resource_version,
            ingress,
            pool,
            ..
        } = write
        else {
            return;
        };
        let Some(view) = self.world.service_mut(id).filter(|v| v.uid == uid) else {
            if self.world.service(id).is_none() {
                self.states.remove(id);
            }
            return;
        };
        let unchanged = view.resource_version == resource_version;
        match result {
            Ok(()) => {
                state.stood = Some((ingress.clone(), pool.clone()));
                if unchanged {
                    view.ingress = ingress;
                    view.ingress_foreign = false;
                    view.pool_annotation.clone_from(&pool);
                    state.echo_of = Some(resource_version);
                }
                // A released claim waits for the status to let go of the address.
                self.dirty.claims.extend(self.allocator.named(id));
                self.report_written(id, key);
                if !giving.is_empty() {
                    let (kind, message) = match self.renumbering_message(id, &giving) {
                        Some(message) => (EventKind::Renumbering, message),
                        None => (EventKind::Allocated, assigned(&giving, pool)),
                    };
                    self.event(id, kind, message, effects);
                }
            }
            Err(error) => {
                state.giving = giving;
                let undone = !unchanged || !matches!(error, WriteError::Unavailable(_));
                if let Some(reason) = self.failed(key, error, unchanged, now) {
                    self.report_unwritable(id, key, reason, effects);
                }
                if undone {
                    self.look_at_answers(&ingress, now, effects);
                }
            }
        }
    }

    /// Sets the time of the next try; gives the reason when a person has to do something about it.
    fn failed(&mut self, key: &WriteKey, error: WriteError, unchanged: bool, now: Duration) -> Option<Reason> {
        let retry = Timer::Retry(key.clone());
        match error {
            // The watch has told already: the next look is based on the news.
            WriteError::Conflict | WriteError::Gone if !unchanged => None,
            WriteError::Conflict | WriteError::Gone => {
                self.until_news.insert(key.clone());
                let (wait, in_a_row) = self.backoff.fail(key, Failure::Conflict);
                self.timers.set(retry, now + wait);
                match key {
                    WriteKey::Claim(address) if in_a_row >= CONFLICTS_IN_A_ROW && self.is_unseen(*address) => {
                        let (address, by) = (*address, Vec::new());
                        Some(Reason::AddressInUse { address, by })
                    }
                    _ => None,
                }
            }
            WriteError::Unavailable(_) => {
                let (wait, _) = self.backoff.fail(key, Failure::Unavailable);
                self.timers.set(retry, now + wait);
                None
            }
            WriteError::Forbidden(message) => {
                let (wait, in_a_row) = self.backoff.fail(key, Failure::Forbidden);
                self.timers.set(retry, now + wait);
                (in_a_row >= FORBIDDEN_IN_A_ROW).then_some(Reason::ApiRefused { message })
            }
            WriteError::Refused(message) => {
                self.timers.set(retry, now + TRUCE);
                Some(Reason::ApiRefused { message })
            }
            WriteError::ForeignManager(manager) => {
                self.timers.set(retry, now + TRUCE);
                Some(Reason::ForeignWriter { manager })
            }
        }
    }

    /// Whether the watch shows no object for the address.
    fn is_unseen(&self, address: IpAddr) -> bool {
        self.allocator.record(address).is_none_or(|r| r.object.is_none())
    }
}

/// The event about addresses that were given.
fn assigned(addresses: &[IpAddr], pool: Option<String>) -> String {
    let list = addresses.iter().map(|a| format!("\"{a}\"")).collect::<Vec<_>>();
    let from = pool.map(|p| format!(" from IPAddressPool {p:?}")).unwrap_or_default();
    format!("Assigned IP [{}]{from}", list.join(", "))
}

/// The version that a write is based on; `None` when it creates.
fn base(write: &Write) -> Option<&str> {
    match write {
        Write::CreateVirtualIp { .. } => None,
        Write::UpdateVirtualIp { resource_version, .. }
        | Write::ConfirmVirtualIp { resource_version, .. }
        | Write::DeleteVirtualIp { resource_version, .. }
        | Write::SetVirtualIpStatus { resource_version, .. }
        | Write::SetServiceStatus { resource_version, .. } => Some(resource_version),
    }
}
