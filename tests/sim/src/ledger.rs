//! What must hold at every write: checked when a core asks for it, by what that core was told, and when the store does
//! it, by what is true.
//!
//! The ledger keeps who was given which address, and what excuses taking it away: something a person did not long ago,
//! or what the controller that took it away had been told. That two controllers lead at a time is no excuse.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_controller_core::{Write, WriteKey};
use ferrolb_model::{Claim, Config, Family, OnShrink, ServiceId, ServiceView, VirtualIp};

use crate::law;
use crate::replica::Replica;
use crate::store::{Store, claims};

/// A person's deed excuses what a controller does about it, or without having heard of it, for this long: a pause of 40 s,
/// a stalled stream of 20 s, and a write that waits for a minute after it was refused.
const LATE: Duration = Duration::from_secs(130);

/// What excuses that an address is taken away, and since when.
type Excuse = Option<(Duration, &'static str)>;

/// The books.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Addresses that a controller wrote into the status of a Service, and why they may be taken away again.
    given: BTreeMap<ServiceId, BTreeMap<IpAddr, Excuse>>,
    /// Addresses that have to go: by the rules of their pool, because others were asked for, or by their family.
    leaving: BTreeSet<(ServiceId, IpAddr)>,
    /// Addresses that a controller took away that had never been told of a claim on them.
    unheard: BTreeSet<(ServiceId, IpAddr)>,
    /// When a person last touched the VirtualIP.
    touched: BTreeMap<IpAddr, Duration>,
    /// When a user last edited the Service.
    edited: BTreeMap<ServiceId, Duration>,
    /// Services whose status a person wrote last.
    by_hand: BTreeSet<ServiceId>,
    /// When two controllers led last.
    divided: Option<Duration>,
    /// Claims that a controller took off, each with the life of that controller and the time.
    dropped: BTreeMap<(ServiceId, IpAddr), (u64, Duration)>,
    /// When a write about an address last showed to the controller of a life that it knows the VirtualIP as it is.
    proven: BTreeMap<(u64, IpAddr), Duration>,
}

impl Ledger {
    /// A user edited or deleted the Service; those that share with it are concerned too.
    pub(crate) fn edited(&mut self, store: &Store, id: &ServiceId, now: Duration) {
        self.edited.insert(id.clone(), now);
        self.excuse(id, now, "the Service was edited");
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
                    *why = Some((now, "a Service that shares was edited"));
                }
            }
        }
    }

    /// The Service is gone, and all that was given to it.
    pub(crate) fn gone(&mut self, id: &ServiceId) {
        self.given.remove(id);
        self.leaving.retain(|(service, _)| service != id);
        self.unheard.retain(|(service, _)| service != id);
        self.by_hand.remove(id);
    }

    /// A person wrote the status.
    pub(crate) fn status_by_hand(&mut self, id: &ServiceId, now: Duration) {
        self.by_hand.insert(id.clone());
        self.excuse(id, now, "its status was written by hand");
    }

    /// A person touched the VirtualIP.
    pub(crate) fn touched(&mut self, address: IpAddr, now: Duration) {
        self.touched.insert(address, now);
        for given in self.given.values_mut() {
            if let Some(why) = given.get_mut(&address) {
                *why = Some((now, "its VirtualIP was changed by hand"));
            }
        }
    }

    /// Two controllers believe to lead: each may take a claim away that the other relies on.
    pub(crate) fn divided(&mut self, now: Duration) {
        self.divided = Some(now);
    }

    fn excuse(&mut self, id: &ServiceId, now: Duration, why: &'static str) {
        for reason in self.given.get_mut(id).into_iter().flat_map(BTreeMap::values_mut) {
            *reason = Some((now, why));
        }
    }

    fn is_recent(at: Option<&Duration>, now: Duration) -> bool {
        at.is_some_and(|at| now < *at + LATE)
    }

    /// A core asks for a write: by what the core was told, every claim in it must be right, and every address.
    pub(crate) fn asked(&mut self, replica: &mut Replica, write: &Write, now: Duration) -> Result<(), String> {
        replica.look_at_probes(now);
        let (address, claims) = match write {
            Write::CreateVirtualIp { address, claims, .. } | Write::UpdateVirtualIp { address, claims, .. } => {
                (address, claims)
            }
            Write::SetServiceStatus {
                service,
                ingress,
                resource_version,
                ..
            } => {
                self.asked_status(replica, service, ingress, now)?;
                replica.shows(service, resource_version, ingress);
                return Ok(());
            }
            Write::DeleteVirtualIp { address, .. } => {
                replica.asked(*address, &[]);
                return Ok(());
            }
            Write::ConfirmVirtualIp { .. } => return Ok(()),
            Write::SetVirtualIpStatus {
                address,
                placement,
                conditions,
                ..
            } => {
                let owner = placement.as_ref().filter(|_| law::overdue(conditions).is_some());
                return match owner {
                    Some(owner) if !replica.may_call_overdue(*address, owner, now) => {
                        Err(format!("{} is called overdue with {address}, and is not", owner.owner))
                    }
                    _ => Ok(()),
                };
            }
        };
        if let Write::CreateVirtualIp { prober: Some(_), .. } = write {
            replica.probes(*address);
        }
        if let Write::CreateVirtualIp { prober: None, .. } = write {
            let mut views = claims.iter().flat_map(|c| replica.told.views(&c.service));
            let found = views.any(|v| v.ingress.contains(address))
                || claims.iter().any(|c| replica.is_showing(&c.service, *address));
            if !found && replica.has_prober(*address, now) {
                return Err(format!("{address} is claimed, and nobody is asked whether it is free"));
            }
        }
        let told = replica.told.virtual_ips.get(address).cloned();
        replica.asked(*address, claims);
        let old = match write {
            Write::UpdateVirtualIp { .. } => told.as_ref(),
            _ => None,
        };
        for claim in claims {
            if !carries(old, &claim.service) {
                self.check_claim(replica, told.as_ref(), *address, claim, claims)?;
            }
            let known = || replica.told.views(&claim.service).next().map(|v| v.uid.clone());
            let uid = claim.uid.clone().or_else(known);
            replica.claimed.extend(uid.map(|uid| (uid, *address)));
        }
        Ok(())
    }

    /// An address comes into a status by a claim that the core knows of, a second one of its family beside one that has
    /// to go; and what goes out of it without a cause was never told to be claimed.
    fn asked_status(
        &mut self,
        replica: &Replica,
        id: &ServiceId,
        ingress: &[IpAddr],
        now: Duration,
    ) -> Result<(), String> {
        let Some(view) = replica.told.views(id).next() else {
            return Err(format!("shows {ingress:?} in {id}, which does not exist"));
        };
        for address in ingress.iter().filter(|a| !view.ingress.contains(a)) {
            if !replica.knows_claim(*address, view) {
                return Err(format!("{id} is to show {address} without a claim"));
            }
            if let Some(why) = replica.why_not_yet(*address, now) {
                return Err(format!("{id} is to show {address}, but {why}"));
            }
        }
        for (n, old) in ingress.iter().enumerate() {
            let same = |a: &IpAddr| Family::of(*a) == Family::of(*old);
            let entry = (id.clone(), *old);
            let mut told = replica.told.views(id);
            // An address of the other family, which comes meanwhile, makes it no other overlap.
            let both = ingress.iter().filter(|a| same(a));
            let stood = told.any(|v| both.clone().all(|a| v.ingress.contains(a))) || self.leaving.contains(&entry);
            if ingress[..n].iter().any(same) {
                if !stood && !is_left(replica, view, *old) {
                    return Err(format!("{id} is to show {ingress:?}, and need not leave {old}"));
                }
                self.leaving.insert(entry);
            }
        }
        for address in view.ingress.iter().filter(|a| !ingress.contains(a)) {
            let entry = (id.clone(), *address);
            let staying = |a: &&IpAddr| !self.leaving.contains(&(id.clone(), **a));
            let staying = ingress.iter().filter(staying).copied().collect::<Vec<_>>();
            let instead = if staying.is_empty() { ingress } else { &staying };
            let mut configs = replica.told.configs.iter();
            if !replica.knows_claim(*address, view) || replica.drops_claim(*address, view) {
                self.unheard.insert(entry);
            } else if !view.families.contains(Family::of(*address))
                || configs.any(|(_, config)| fulfils_wish(replica, config, view, instead, *address))
            {
                self.unheard.remove(&entry);
                self.leaving.insert(entry);
            } else {
                self.unheard.remove(&entry);
            }
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
            // The claim of a Service that was not heard of, or is gone, says nothing of one that has its name.
            let same = |v: &&ServiceView| other.uid.as_ref().is_none_or(|uid| *uid == v.uid);
            let others = replica.told.views(&other.service).filter(same).collect::<Vec<_>>();
            // What two statuses show already is taken over whatever the policies say.
            let found = |v: &ServiceView| v.ingress.contains(&address);
            let shares = |a: &ServiceView, b: &ServiceView| {
                configs().any(|c| law::may_share(a, b, c))
                    || found(a) && found(b) && law::may_share(a, b, &Config::default())
            };
            if !others.is_empty() && !views.iter().any(|a| others.iter().any(|b| shares(a, b))) {
                return Err(format!(
                    "{address} is claimed for {id} and {}, which may not share",
                    other.service
                ));
            }
        }
        let stands = views.iter().any(|v| v.ingress.contains(&address)) || replica.is_showing(id, address);
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
        life: u64,
        write: &Write,
        old_service: Option<&ServiceView>,
        old_object: Option<&VirtualIp>,
        now: Duration,
    ) -> Result<(), String> {
        let divided = Self::is_recent(self.divided.as_ref(), now);
        if let WriteKey::Claim(address) | WriteKey::VirtualIpStatus(address) = write.key() {
            self.proven.insert((life, address), now);
        }
        match write {
            Write::SetServiceStatus { service, ingress, .. } => {
                let Some((old, view)) = old_service.zip(store.services.get(service)) else {
                    return Ok(());
                };
                for address in ingress.iter().filter(|a| !divided && !old.ingress.contains(a)) {
                    self.shown(store, life, view, *address, now)?;
                }
                self.by_hand.remove(service);
                let given = self.given.entry(service.clone()).or_default();
                let lost = |a: &IpAddr| old.ingress.contains(a) && !ingress.contains(a);
                for (address, why) in given.iter().filter(|(a, _)| lost(a)) {
                    let entry = (service.clone(), *address);
                    let excused = Self::is_recent(why.as_ref().map(|(at, _)| at), now)
                        || self.leaving.contains(&entry)
                        || self.unheard.contains(&entry);
                    if !excused {
                        return Err(format!("{service} loses {address} without a cause"));
                    }
                }
                given.retain(|a, _| ingress.contains(a));
                let gone = |(id, a): &(ServiceId, IpAddr)| id == service && !ingress.contains(a);
                self.leaving.retain(|entry| !gone(entry));
                self.unheard.retain(|entry| !gone(entry));
                for address in ingress {
                    let object = store.virtual_ips.get(address);
                    let others = object.iter().flat_map(|o| &o.claims).filter(|c| c.service != *service);
                    let edited = others.filter_map(|c| self.edited.get(&c.service)).max();
                    let why = edited.map(|at| (*at, "a Service that shares was edited"));
                    given.entry(*address).or_insert(why);
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
                    self.dropped.insert((id.clone(), *address), (life, now));
                    let Some(view) = store.services.get(id).filter(|v| claim.uid.as_ref() == Some(&v.uid)) else {
                        continue;
                    };
                    if view.ingress.contains(address) && !divided && !self.by_hand.contains(id) {
                        return Err(format!("the claim on {address} goes while {id} shows it"));
                    }
                }
                Ok(())
            }
            Write::SetVirtualIpStatus { address, placement, .. } => {
                let known = old_object.and_then(|o| o.placement.as_ref());
                match known.zip(placement.as_ref()) {
                    Some((old, new)) if new.order() < old.order() => Err(format!(
                        "{address} goes back from {:?} to {:?}",
                        old.order(),
                        new.order()
                    )),
                    _ => Ok(()),
                }
            }
            Write::CreateVirtualIp { .. } | Write::ConfirmVirtualIp { .. } => Ok(()),
        }
    }

    /// An address comes into a status, written by the controller of this life. What it was told of the claim was judged when
    /// it asked; that the leader before it has taken the claim off since the API server confirmed it, it cannot know. Two
    /// Services show the address in no case.
    fn shown(
        &self,
        store: &Store,
        life: u64,
        view: &ServiceView,
        address: IpAddr,
        now: Duration,
    ) -> Result<(), String> {
        let object = store.virtual_ips.get(&address);
        let touched = Self::is_recent(self.touched.get(&address), now);
        let dropped = self.dropped.get(&(view.id.clone(), address));
        let proven = self.proven.get(&(life, address));
        let unknown = dropped.is_some_and(|(by, at)| *by != life && proven.is_some_and(|proven| proven <= at));
        if !claims(object, view) && !touched && !unknown {
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
            // Policies decide about what is handed out anew; that was judged with the claim.
            let lawful = law::may_share(view, other, &Config::default());
            if other.ingress.contains(&address) && !edited && !touched && !lawful {
                return Err(format!("{} and {id} show {address}, which they may not share", view.id));
            }
        }
        Ok(())
    }
}

/// Whether the address goes because others come that the Service had asked for all along.
fn fulfils_wish(replica: &Replica, config: &Config, view: &ServiceView, instead: &[IpAddr], lost: IpAddr) -> bool {
    let Ok(request) = &view.request else { return false };
    let fits = |a: &IpAddr| match request.addresses.is_empty() {
        true => request.pool.is_some() && pool_name(replica, config, *a) == request.pool.as_ref(),
        false => request.addresses.contains(a),
    };
    !fits(&lost) && !instead.is_empty() && instead.iter().all(fits)
}

/// Whether the address is one that its pool moves its holder away from, by what was told not long ago.
fn is_left(replica: &Replica, view: &ServiceView, lost: IpAddr) -> bool {
    replica.told.configs.iter().any(|(_, config)| {
        let pool = pool_name(replica, config, lost).and_then(|name| config.pools.get(name));
        pool.is_some_and(|p| p.on_shrink == OnShrink::Reassign)
            && law::may_give(config, &replica.told.nodes, view, &[], lost).is_err()
    })
}

/// The pool that the address lies in, else the one that its object names as far as the controller can know.
fn pool_name<'a>(replica: &'a Replica, config: &'a Config, address: IpAddr) -> Option<&'a String> {
    let told = || replica.told.virtual_ips.get(&address)?.pool.as_ref();
    let lies_in = config.pool_of(address).map(|p| &p.name);
    lies_in.or_else(|| replica.written_pool(address)).or_else(told)
}

fn carries(object: Option<&VirtualIp>, id: &ServiceId) -> bool {
    object.is_some_and(|o| o.claims.iter().any(|c| c.service == *id))
}
