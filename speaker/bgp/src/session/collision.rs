//! Two connections with one router.

use std::time::Duration;

use super::{Origin, Session, Slot};
use crate::proto::{Cease, Phase};
use crate::status::Fault;

impl Session {
    /// Of two connections one is kept (RFC 4271 section 6.8).
    pub(super) fn resolve_collision(&mut self, now: Duration, slot: Slot) {
        let other = 1 - slot;
        let (Some(new), Some(old)) = (&self.slots[slot], &self.slots[other]) else {
            return;
        };
        let Some(negotiated) = new.machine.negotiated() else {
            return;
        };
        match old.machine.phase() {
            // A peer that may keep its routes over a restart opens a second session because it lost the first, unseen
            // by us (RFC 4724 section 5).
            Phase::Established if negotiated.graceful_restart => self.end(now, other, Some(Fault::Replaced), true),
            Phase::Established => self.cease(now, slot, Cease::Collision, ""),
            Phase::OpenConfirm if new.origin != old.origin => {
                let ours = (self.peer.router_id, self.peer.local_asn);
                let keep = if ours > (negotiated.router_id, negotiated.asn) {
                    Origin::Dialled
                } else {
                    Origin::Accepted
                };
                let loser = if new.origin == keep { other } else { slot };
                self.cease(now, loser, Cease::Collision, "");
            }
            Phase::OpenConfirm => self.cease(now, other, Cease::Collision, ""),
            Phase::OpenSent | Phase::Closed => {}
        }
    }
}
