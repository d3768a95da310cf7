//! What must hold at every write: checked when a core asks for it, by what that core was told, and when the store does
//! it, by what is true.
//!
//! The ledger keeps who was given which address, and what happened since that excuses taking it away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_controller_core::Write;
use ferrolb_model::{Claim, ServiceId, ServiceView, VirtualIp};

use crate::law;
use crate::replica::Replica;
use crate::store::{Store, claims};

/// A hand's deed excuses what a controller that has not heard of it does for this long.
const LATE: Duration = Duration::from_secs(180);

/// The books.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Addresses that a controller wrote into the status of a Service, and why they may be taken away again.
    given: BTreeMap<ServiceId, BTreeMap<IpAddr, Option<&'static str>>>,
    /// When a person last touched the VirtualIP.
    touched: BTreeMap<IpAddr, Duration>,
    /// When a user last edited the Service.
    edited: BTreeMap<ServiceId, Duration>,
    /// Services whose status a person wrote last.
    by_hand: BTreeSet<ServiceId>,
    /// When two controllers led last.
    divided: Option<Duration>,
}

impl Ledger {
    /// A user edited or deleted the Service; those that share with it are concerned too.
    pub(crate) fn edited(&mut self, store: &Store, id: &ServiceId, now: Duration) {
        self.edited.insert(id.clone(), now);
        self.excuse(id, "the Service was edited");
        for object in store
            .virtual_ips
            .values()
            .filter(|o| o.claims.iter().any(|c| c.service == *id))
        {
            for claim in object.claims.iter().filter(|c| c.service != *id) {
                if let Some(why) = self
                    .given
                    .get_mut(&claim.service)
                    .and_then(|g| g.get_mut(&object.address))
                {
                    *why = Some("a Service that shares was edited");
                }
            }
        }
    }

    /// The Service is gone, and all that was given to it.
    pub(crate) fn gone(&mut self, id: &ServiceId) {
        self.given.remove(id);
        self.by_hand.remove(id);
    }

    /// A person wrote the status.
    pub(crate) fn status_by_hand(&mut self, id: &ServiceId) {
        self.by_hand.insert(id.clone());
        self.excuse(id, "its status was written by hand");
    }

    /// A person touched the VirtualIP.
    pub(crate) fn touched(&mut self, address: IpAddr, now: Duration) {
        self.touched.insert(address, now);
        for given in self.given.values_mut() {
            if let Some(why) = given.get_mut(&address) {
                *why = Some("its VirtualIP was changed by hand");
            }
        }
    }

    /// The configuration changed: who asked for a pool by name may move, and who sits in a pool that is to be left.
    pub(crate) fn configured(&mut self, store: &Store) {
        let reassigns = store
            .config
            .pools
            .values()
            .any(|p| p.on_shrink == ferrolb_model::OnShrink::Reassign);
        for (id, given) in &mut self.given {
            let view = store.services.get(id);
            let wish = view.is_some_and(|v| v.request.as_ref().is_ok_and(|r| r.pool.is_some()));
            for why in given.values_mut().filter(|_| wish || reassigns) {
                *why = Some("the pools changed");
            }
        }
    }

    /// Two controllers believe to lead: each may undo the other's work, and show what the other has just freed. Claims
    /// stay unique all the same.
    pub(crate) fn divided(&mut self, now: Duration) {
        self.divided = Some(now);
        for given in self.given.values_mut() {
            given.values_mut().for_each(|why| *why = Some("two controllers led"));
        }
    }

    fn excuse(&mut self, id: &ServiceId, why: &'static str) {
        for reason in self.given.get_mut(id).into_iter().flat_map(BTreeMap::values_mut) {
            *reason = Some(why);
        }
    }

    fn is_recent(at: Option<&Duration>, now: Duration) -> bool {
        at.is_some_and(|at| now < *at + LATE)
    }

    /// A core asks for a write: every claim in it must be right by what the core was told.
    pub(crate) fn asked(&self, replica: &mut Replica, write: &Write) -> Result<(), String> {
        let (Write::CreateVirtualIp { address, claims, .. } | Write::UpdateVirtualIp { address, claims, .. }) = write
        else {
            return Ok(());
        };
        let told = replica.told.virtual_ips.get(address).cloned();
        let old = match write {
            Write::UpdateVirtualIp { .. } => told.as_ref(),
            _ => None,
        };
        for claim in claims {
            if !carries(old, &claim.service) {
                self.check_claim(replica, told.as_ref(), *address, claim, claims)?;
            }
            let uid = claim.uid.iter().map(|uid| (uid.clone(), *address));
            replica.claimed.extend(uid);
        }
        Ok(())
    }

    fn check_claim(
        &self,
        replica: &Replica,
        told: Option<&VirtualIp>,
        address: IpAddr,
        claim: &Claim,
        all: &[Claim],
    ) -> Result<(), String> {
        let id = &claim.service;
        let views = replica.told.views(id).collect::<Vec<_>>();
        let Some(view) = views.first() else {
            return Err(format!("{address} is claimed for {id}, which does not exist"));
        };
        if claim.uid.as_ref() != Some(&view.uid) {
            return Err(format!(
                "{address} is claimed for {id} under a wrong uid {:?}",
                claim.uid
            ));
        }
        let configs = || replica.told.configs.iter().rev().map(|(_, c)| &**c);
        for other in all.iter().filter(|c| c.service != *id) {
            let others = replica.told.views(&other.service).collect::<Vec<_>>();
            let shares = |a: &ServiceView, b: &ServiceView| configs().any(|c| law::may_share(a, b, c));
            if !others.is_empty() && !views.iter().any(|a| others.iter().any(|b| shares(a, b))) {
                return Err(format!(
                    "{address} is claimed for {id} and {}, which may not share",
                    other.service
                ));
            }
        }
        let stands = views.iter().any(|v| v.ingress.contains(&address));
        let again = replica.claimed.contains(&(view.uid.clone(), address));
        let reserved = law::is_reserved(told, id);
        let named = carries(told, id);
        if stands || again || reserved || named {
            return Ok(());
        }
        let nodes = &replica.told.nodes;
        let mut held = view.ingress.clone();
        let named = replica.told.virtual_ips.values().filter(|o| carries(Some(o), id));
        held.extend(named.map(|o| o.address));
        held.extend(
            replica
                .claimed
                .iter()
                .filter(|(uid, _)| *uid == view.uid)
                .map(|(_, a)| *a),
        );
        let pairs = configs().flat_map(|config| views.iter().map(move |view| (config, view)));
        let mut answers = pairs.map(|(config, view)| law::may_give(config, nodes, view, &held, address));
        match answers.next() {
            Some(Err(why)) if answers.all(|answer| answer.is_err()) => {
                Err(format!("{address} is given to {id}, but {why}"))
            }
            _ => Ok(()),
        }
    }

    /// The store did a write: addresses are shown only with their claim, alone or lawfully shared, and go for a reason.
    pub(crate) fn written(
        &mut self,
        store: &Store,
        write: &Write,
        old_service: Option<&ServiceView>,
        old_object: Option<&VirtualIp>,
        now: Duration,
    ) -> Result<(), String> {
        let divided = Self::is_recent(self.divided.as_ref(), now);
        match write {
            Write::SetServiceStatus { service, ingress, .. } => {
                let Some((old, view)) = old_service.zip(store.services.get(service)) else {
                    return Ok(());
                };
                for address in ingress.iter().filter(|a| !divided && !old.ingress.contains(a)) {
                    self.shown(store, view, *address, now)?;
                }
                self.by_hand.remove(service);
                let given = self.given.entry(service.clone()).or_default();
                for (address, why) in given.iter().filter(|(a, _)| !ingress.contains(a)) {
                    if why.is_none() && !fulfils_wish(store, view, *address) && !is_left(store, view, *address) {
                        return Err(format!("{service} loses {address} without a cause"));
                    }
                }
                given.retain(|a, _| ingress.contains(a));
                for address in ingress {
                    given.entry(*address).or_insert(None);
                }
                Ok(())
            }
            Write::UpdateVirtualIp { address, .. } | Write::DeleteVirtualIp { address, .. } => {
                let new = store.virtual_ips.get(address);
                for claim in old_object
                    .iter()
                    .flat_map(|o| &o.claims)
                    .filter(|c| !carries(new, &c.service))
                {
                    let id = &claim.service;
                    let Some(view) = store.services.get(id).filter(|v| claim.uid.as_ref() == Some(&v.uid)) else {
                        continue;
                    };
                    if view.ingress.contains(address) && !divided && !self.by_hand.contains(id) {
                        return Err(format!("the claim on {address} goes while {id} shows it"));
                    }
                }
                Ok(())
            }
            Write::CreateVirtualIp { .. } | Write::SetVirtualIpStatus { .. } => Ok(()),
        }
    }

    fn shown(&self, store: &Store, view: &ServiceView, address: IpAddr, now: Duration) -> Result<(), String> {
        let object = store.virtual_ips.get(&address);
        let touched = Self::is_recent(self.touched.get(&address), now);
        if !claims(object, view) && !touched {
            return Err(format!("{} shows {address} without a claim", view.id));
        }
        for (id, given) in &self.given {
            let Some(other) = store
                .services
                .get(id)
                .filter(|_| *id != view.id && given.contains_key(&address))
            else {
                continue;
            };
            let edited = [&view.id, id]
                .iter()
                .any(|id| Self::is_recent(self.edited.get(*id), now));
            let lawful = law::may_share(view, other, &store.config) || !store.config.allocation_policies.is_empty();
            if other.ingress.contains(&address) && !edited && !touched && !lawful {
                return Err(format!("{} and {id} show {address}, which they may not share", view.id));
            }
        }
        Ok(())
    }
}

/// Whether the address goes because another one is there now that the Service had asked for all along.
fn fulfils_wish(store: &Store, view: &ServiceView, lost: IpAddr) -> bool {
    let Ok(request) = &view.request else { return false };
    let in_pool = |a: &IpAddr| store.config.pool_of(*a).map(|p| &p.name) == request.pool.as_ref();
    let fits = |a: &IpAddr| match request.addresses.is_empty() {
        true => request.pool.is_some() && in_pool(a),
        false => request.addresses.contains(a),
    };
    !fits(&lost) && !view.ingress.is_empty() && view.ingress.iter().all(fits)
}

/// Whether the address is one that its pool moves its holder away from.
fn is_left(store: &Store, view: &ServiceView, lost: IpAddr) -> bool {
    let recorded = store
        .virtual_ips
        .get(&lost)
        .and_then(|o| store.config.pools.get(o.pool.as_ref()?));
    let reassigns = |p: &ferrolb_model::Pool| p.on_shrink == ferrolb_model::OnShrink::Reassign;
    store.config.pool_of(lost).or(recorded).is_some_and(reassigns)
        && law::may_give(&store.config, &store.nodes, view, &[], lost).is_err()
}

fn carries(object: Option<&VirtualIp>, id: &ServiceId) -> bool {
    object.is_some_and(|o| o.claims.iter().any(|c| c.service == *id))
}
