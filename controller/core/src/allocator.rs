//! Who holds what: one record per address that is in use, reserved, blocked or cooling down.
//!
//! A record joins three things: the VirtualIP object as it is known, the Services that FerroLB decided hold the
//! address ("holders"), and how far the two are apart (a write under way, a watch event still to come). A holder is
//! *confirmed* once the object is known to carry its claim; only then may a Service's status show the address.
//!
//! A claim in the object without a holder is *residual*: its Service is gone, is not ours any more, or moved. It keeps
//! the address for the same namespace and name, until its cool-down ends, or for good when it is a reservation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_model::{
    AddressUse, Claim, Family, Placement, Pool, Reason, ReclaimPolicy, ServiceId, ServiceView, TrafficPolicy, VirtualIp,
};
use litemap::LiteMap;

use crate::confirm::Expected;
use crate::effect::Write;
use crate::seats::Seats;
use crate::taken::{Taken, next};
use crate::world::World;

/// One Service's hold on one address.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    /// The Service's uid.
    pub(crate) uid: String,
    /// The object is known to carry the claim, or was once.
    pub(crate) confirmed: bool,
    key: Option<String>,
}

/// A write went through, and the watch has not shown it yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Echo {
    /// Nothing is awaited: the object is as the watch said last.
    #[default]
    None,
    /// The object was created; its version is not known.
    Created,
    /// The object of this version was changed; whatever comes with another version is newer.
    Changed(String),
    /// This object was deleted. With finalizers it still exists; it is kept as the watch showed it last.
    Deleted(Box<VirtualIp>),
}

/// Everything known and decided about one address.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// The VirtualIP, with the effect of writes that went through already applied.
    pub(crate) object: Option<VirtualIp>,
    pool: Option<String>,
    /// The API server has taken a write of this process on the object as it was known: from then on nobody but this process
    /// takes a claim off it, or the watch tells.
    pub(crate) proven: bool,
    /// What the watch still owes.
    pub(crate) echo: Echo,
    /// When the watch has owed it for too long.
    pub(crate) echo_due: Duration,
    /// The one write under way for this address.
    pub(crate) flight: Option<Box<Write>>,
    /// The Services that hold the address.
    pub(crate) holders: LiteMap<ServiceId, Holder>,
    /// Ends of the cool-downs of residual claims.
    pub(crate) cooling: BTreeMap<ServiceId, Duration>,
    /// Where it is announced, as decided last.
    pub(crate) placed: Option<Placement>,
    /// Until when a takeover counts although its owner would not be chosen.
    pub(crate) believed_until: Duration,
    /// The highest epoch seen: a new owner gets a higher one, also after a time without any.
    pub(crate) epoch: u64,
    /// Until when its owner has to confirm that it announces it.
    pub(crate) expected: Option<Box<Expected>>,
    /// Why nobody announces it, as reported last.
    pub(crate) silent: Option<&'static str>,
}

impl Record {
    /// Whether the object carries a claim that is good for this Service.
    pub(crate) fn claims(&self, id: &ServiceId, uid: &str) -> bool {
        let mut claims = self.object.iter().flat_map(|o| &o.claims);
        claims.any(|c| is_good(c, id, uid))
    }

    /// Whether a Service that does not show the address yet may be shown it only by a claim that another process wrote.
    pub(crate) fn rests_on_others(&self, address: IpAddr, world: &World) -> bool {
        let gains = |id: &ServiceId, uid: &str| {
            let view = world.service(id);
            self.claims(id, uid) && view.is_some_and(|v| !v.ingress.contains(&address))
        };
        !self.proven && self.holders.iter().any(|(id, holder)| gains(id, &holder.uid))
    }

    /// Whether the write under way takes the Service's claim off the object. One that is based on an older version than
    /// the watch has shown will not go through.
    pub(crate) fn is_losing(&self, id: &ServiceId, uid: &str) -> bool {
        let stands = |version: &String| self.object.as_ref().is_some_and(|o| o.resource_version == *version);
        match self.flight.as_deref() {
            Some(Write::DeleteVirtualIp { resource_version, .. }) => stands(resource_version),
            Some(Write::UpdateVirtualIp {
                claims,
                resource_version,
                ..
            }) => stands(resource_version) && !claims.iter().any(|c| is_good(c, id, uid)),
            _ => false,
        }
    }

    /// Whether `view` may have the address beside `other`, who has it. This judges what may be taken and what is lost: were
    /// the two judged differently, a Service could lose and take an address for ever. What is shown already is not taken away
    /// over an older picture of the other.
    pub(crate) fn admits(&self, address: IpAddr, view: &ServiceView, other: &ServiceView) -> Result<(), Reason> {
        if view.ingress.contains(&address) && self.is_ahead_of(other, view) {
            return Ok(());
        }
        may_share(address, view, other)
    }

    /// Whether the object says that both share the address, by the key that `view` has and `other` has not: either the picture
    /// of `other` is older than the object, or it was edited and is the one that has to leave.
    fn is_ahead_of(&self, other: &ServiceView, view: &ServiceView) -> bool {
        let key = self.object.as_ref().and_then(|o| o.sharing_key.as_ref());
        let by_key = key.is_some() && view.sharing_key.as_ref() == key && other.sharing_key.as_ref() != key;
        by_key && [other, view].iter().all(|v| self.claims(&v.id, &v.uid))
    }

    /// Whether this claim stays whatever happens to its Service.
    pub(crate) fn is_reservation(&self, claim: &Claim) -> bool {
        claim.uid.is_none()
            || self
                .object
                .as_ref()
                .is_some_and(|o| o.reclaim_policy == ReclaimPolicy::Retain)
    }

    /// Whether a claim of the Service stays whatever happens to it.
    pub(crate) fn is_reserved_for(&self, id: &ServiceId) -> bool {
        let mut claims = self.object.iter().flat_map(|o| &o.claims);
        claims.any(|c| c.service == *id && self.is_reservation(c))
    }

    /// The pool that the object names, or named before somebody deleted it.
    pub(crate) fn recorded_pool(&self) -> Option<&str> {
        self.pool.as_deref()
    }

    /// The sharing key of the holders.
    pub(crate) fn sharing_key(&self) -> Option<String> {
        self.holders.values().find_map(|h| h.key.clone())
    }

    /// The Services that hold the address, and those whose status still shows it, or the name of its pool, by their claim:
    /// two claims that may not share never stand in one object.
    pub(crate) fn users<'a>(&'a self, world: &'a World) -> impl Iterator<Item = &'a ServiceView> {
        let holders = self.holders.keys().filter_map(|id| world.service(id));
        let shows = |o: &VirtualIp, v: &ServiceView| {
            v.ingress.contains(&o.address) || v.pool_annotation.is_some() && !world.is_ours(v)
        };
        let claims = self.object.iter().flat_map(|o| o.claims.iter().map(move |c| (o, c)));
        let others = claims.filter(|(_, c)| !self.holders.contains_key(&c.service));
        holders.chain(others.filter_map(move |(object, claim)| {
            let view = world.service(&claim.service)?;
            (claim.uid.as_ref() == Some(&view.uid) && shows(object, view)).then_some(view)
        }))
    }

    fn is_void(&self) -> bool {
        self.object.is_none() && self.holders.is_empty() && self.flight.is_none() && self.echo == Echo::None
    }
}

/// What one node says of addresses.
pub(crate) type Uses = BTreeMap<IpAddr, AddressUse>;

/// All records, and what finds them fast.
#[derive(Debug, Default)]
pub(crate) struct Allocator {
    records: BTreeMap<IpAddr, Record>,
    /// A Service has one address, seldom two: a tree for each would be mostly room for more.
    held: BTreeMap<ServiceId, LiteMap<IpAddr, ()>>,
    named: BTreeMap<ServiceId, LiteMap<IpAddr, ()>>,
    by_key: Counts,
    /// Per namespace its addresses, each with the number of its Services there that hold it.
    by_namespace: Counts,
    /// Addresses that the network needs itself, each with what for and the node that says so.
    uses: BTreeMap<IpAddr, BTreeSet<(AddressUse, String)>>,
    /// Addresses that other machines use, each with why it is not handed out for a while.
    occupied: BTreeMap<IpAddr, Reason>,
    /// How many addresses each node announces: counted by [`Self::set_placed`] alone.
    pub(crate) seats: Seats,
    taken: Taken,
}

impl Allocator {
    pub(crate) fn record(&self, address: IpAddr) -> Option<&Record> {
        self.records.get(&address)
    }

    /// The record, for what no index depends on: echo, flight, cooling, confirmed.
    pub(crate) fn record_mut(&mut self, address: IpAddr) -> Option<&mut Record> {
        self.records.get_mut(&address)
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (IpAddr, &Record)> {
        self.records.iter().map(|(a, r)| (*a, r))
    }

    /// The addresses that the Service holds, IPv4 first.
    pub(crate) fn held(&self, id: &ServiceId) -> Vec<IpAddr> {
        self.held.get(id).into_iter().flat_map(LiteMap::keys).copied().collect()
    }

    /// The Services that hold the address.
    pub(crate) fn holders_of(&self, address: IpAddr) -> impl Iterator<Item = &ServiceId> {
        self.record(address).into_iter().flat_map(|r| r.holders.keys())
    }

    /// How many Services hold an address.
    pub(crate) fn holders(&self) -> usize {
        self.held.len()
    }

    /// How many addresses the Services of a namespace hold; a shared one counts once.
    pub(crate) fn held_in(&self, namespace: &str) -> usize {
        self.by_namespace.get(namespace).map_or(0, BTreeMap::len)
    }

    /// How many Services of the namespace hold the address.
    pub(crate) fn holders_in(&self, namespace: &str, address: IpAddr) -> usize {
        let addresses = self.by_namespace.get(namespace);
        addresses.and_then(|a| a.get(&address)).copied().unwrap_or(0)
    }

    /// The addresses whose objects name the Service in a claim.
    pub(crate) fn named(&self, id: &ServiceId) -> Vec<IpAddr> {
        self.named
            .get(id)
            .into_iter()
            .flat_map(LiteMap::keys)
            .copied()
            .collect()
    }

    /// The addresses whose holders carry the sharing key.
    pub(crate) fn with_key(&self, key: &str) -> impl Iterator<Item = IpAddr> {
        self.by_key.get(key).into_iter().flatten().map(|(a, _)| *a)
    }

    fn entry(&mut self, address: IpAddr) -> &mut Record {
        self.taken.insert(address);
        self.records.entry(address).or_default()
    }

    /// Drops the record when nothing is left of it.
    pub(crate) fn tidy(&mut self, address: IpAddr) {
        if self.records.get(&address).is_some_and(Record::is_void) {
            self.set_placed(address, None);
            self.records.remove(&address);
            self.open(address);
        }
    }

    /// Lets the address be chosen again, unless something else speaks against it.
    fn open(&mut self, address: IpAddr) {
        if self.is_free(address) {
            self.taken.remove(address);
        }
    }

    /// Another machine uses the address: it is not handed out, for this reason.
    pub(crate) fn occupy(&mut self, address: IpAddr, reason: Reason) {
        self.occupied.insert(address, reason);
        self.taken.insert(address);
    }

    /// The other machine may be gone.
    pub(crate) fn vacate(&mut self, address: IpAddr) {
        self.occupied.remove(&address);
        self.open(address);
    }

    /// Notes what the object is now, and which Services it names; gives whether it names another pool than before.
    pub(crate) fn set_object(&mut self, address: IpAddr, object: Option<VirtualIp>) -> bool {
        let record = self.entry(address);
        let moved = object.as_ref().is_some_and(|o| o.pool != record.pool);
        if let Some(object) = object.as_ref().filter(|_| moved) {
            record.pool.clone_from(&object.pool);
        }
        record.proven &= object.is_some();
        let old = std::mem::replace(&mut record.object, object);
        for claim in old.iter().flat_map(|o| &o.claims) {
            if let Some(named) = self.named.get_mut(&claim.service) {
                named.remove(&address);
                if named.is_empty() {
                    self.named.remove(&claim.service);
                }
            }
        }
        let record = &self.records[&address];
        for claim in record.object.iter().flat_map(|o| &o.claims) {
            self.named.entry(claim.service.clone()).or_default().insert(address, ());
        }
        self.confirm(address);
        moved
    }

    /// Marks the holders whose claim the object carries.
    fn confirm(&mut self, address: IpAddr) {
        let Some(record) = self.records.get_mut(&address) else {
            return;
        };
        let carried = record.holders.iter().filter(|(id, h)| record.claims(id, &h.uid));
        for id in carried.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            record.holders.entry(id).and_modify(|h| h.confirmed = true);
        }
    }

    /// Makes the Service a holder; for one that is, the sharing key is brought up to date.
    pub(crate) fn hold(&mut self, address: IpAddr, view: &ServiceView) {
        let same = |h: &Holder| h.uid == view.uid && h.key == view.sharing_key;
        let known = self.record(address).and_then(|r| r.holders.get(&view.id));
        if known.is_some_and(same) {
            return;
        }
        let key = view.sharing_key.clone();
        let holder = Holder {
            uid: view.uid.clone(),
            confirmed: self.record(address).is_some_and(|r| {
                r.claims(&view.id, &view.uid)
                    || r.holders
                        .get(&view.id)
                        .is_some_and(|h| h.confirmed && h.uid == view.uid)
            }),
            key: key.clone(),
        };
        let record = self.entry(address);
        record.cooling.remove(&view.id);
        match record.holders.insert(view.id.clone(), holder) {
            Some(old) => count_out(&mut self.by_key, old.key.as_deref(), address),
            None => count_in(&mut self.by_namespace, view.id.namespace.clone(), address),
        }
        if let Some(key) = key {
            count_in(&mut self.by_key, key, address);
        }
        self.held.entry(view.id.clone()).or_default().insert(address, ());
    }

    /// Ends the Service's hold. Its claim in the object becomes residual.
    pub(crate) fn release(&mut self, address: IpAddr, id: &ServiceId) {
        let Some(record) = self.records.get_mut(&address) else {
            return;
        };
        if let Some(old) = record.holders.remove(id) {
            count_out(&mut self.by_key, old.key.as_deref(), address);
            count_out(&mut self.by_namespace, Some(&id.namespace), address);
        }
        if let Some(held) = self.held.get_mut(id) {
            held.remove(&address);
            if held.is_empty() {
                self.held.remove(id);
            }
        }
    }

    /// The Service of this uid is gone, or gave the address up: beside others that hold it its claim is not kept.
    pub(crate) fn forget_sharer(&mut self, address: IpAddr, id: &ServiceId, uid: &str) {
        let record = self.records.get_mut(&address);
        let record = record.filter(|r| r.holders.keys().any(|other| other != id));
        if let Some(record) = record.filter(|r| r.claims(id, uid)) {
            record.cooling.insert(id.clone(), Duration::ZERO);
        }
    }

    /// Decides where the address is announced, and keeps the count per node.
    pub(crate) fn set_placed(&mut self, address: IpAddr, placed: Option<Placement>) {
        let Some(record) = self.records.get_mut(&address) else {
            return;
        };
        if let Some(new) = &placed {
            record.epoch = record.epoch.max(new.epoch);
        }
        let old = std::mem::replace(&mut record.placed, placed).map(|p| p.owner);
        let new = record.placed.as_ref().map(|p| &p.owner);
        if old.as_ref() == new {
            return;
        }
        if let Some(node) = new {
            self.seats.gain(node);
        }
        if let Some(node) = old {
            self.seats.lose(&node);
        }
    }

    /// Replaces what `node` says of addresses; gives those that nobody says anything of any more.
    pub(crate) fn set_uses(&mut self, node: &str, old: &Uses, new: &Uses) -> Vec<IpAddr> {
        for (address, role) in new {
            let uses = self.uses.entry(*address).or_default();
            uses.insert((*role, node.to_owned()));
            self.taken.insert(*address);
        }
        let mut freed = Vec::new();
        for (address, role) in old.iter().filter(|(a, role)| new.get(a) != Some(role)) {
            let Some(uses) = self.uses.get_mut(address) else {
                continue;
            };
            uses.remove(&(*role, node.to_owned()));
            if uses.is_empty() {
                self.uses.remove(address);
                self.open(*address);
                freed.push(*address);
            }
        }
        freed
    }

    /// Whether nobody holds, keeps or blocks the address.
    pub(crate) fn is_free(&self, address: IpAddr) -> bool {
        let spoken_for = self.records.contains_key(&address) || self.occupied.contains_key(&address);
        !spoken_for && !self.uses.contains_key(&address)
    }

    /// The lowest free address of one family in the pool, ranges in the order they were written.
    pub(crate) fn first_free(&self, world: &World, pool: &Pool, family: Family) -> Option<IpAddr> {
        world.runs(pool, family).find_map(|range| {
            let mut from = range.first();
            loop {
                let free = self.taken.first_free(from, range.last())?;
                if !pool.is_buggy(free) {
                    return Some(free);
                }
                from = next(free)?;
                if from > range.last() {
                    return None;
                }
            }
        })
    }

    /// Whether the Service may get the address beside whoever holds or keeps it; says nothing about pools.
    pub(crate) fn may_hold(&self, world: &World, address: IpAddr, view: &ServiceView) -> Result<(), Reason> {
        if let Some((role, node)) = self.uses.get(&address).and_then(BTreeSet::first) {
            let (role, node) = (*role, node.clone());
            return Err(match role {
                AddressUse::Node => Reason::AddressOfNode { address, node },
                _ => Reason::AddressOfNetwork { address, node, role },
            });
        }
        self.may_keep(world, address, view)
    }

    /// The same for an address that was the Service's before: a node that reports it too does not take it away.
    pub(crate) fn may_keep(&self, world: &World, address: IpAddr, view: &ServiceView) -> Result<(), Reason> {
        if let Some(reason) = self.occupied.get(&address)
            && !view.ingress.contains(&address)
        {
            return Err(reason.clone());
        }
        let Some(record) = self.records.get(&address) else {
            return Ok(());
        };
        for other in record.users(world).filter(|other| other.id != view.id) {
            record.admits(address, view, other)?;
        }
        let Some(object) = &record.object else {
            return Ok(());
        };
        if object.claims.is_empty() && !record.holders.values().any(|h| h.confirmed) {
            return Err(Reason::AddressBlocked { address });
        }
        if object.claims.iter().any(|c| c.service == view.id) {
            return Ok(());
        }
        // Whom the object does not name, and never did, lets nobody else in.
        let named = |id: &ServiceId, h: &Holder| h.confirmed || object.claims.iter().any(|c| c.service == *id);
        let shared = record.holders.iter().any(|(id, h)| *id != view.id && named(id, h));
        let keepers = object
            .claims
            .iter()
            .filter(|c| !record.holders.contains_key(&c.service));
        let by = keepers
            .filter(|c| !shared || record.is_reservation(c))
            .map(|c| c.service.clone())
            .collect::<Vec<_>>();
        if by.is_empty() {
            Ok(())
        } else {
            Err(Reason::AddressInUse { address, by })
        }
    }
}

/// Whether the claim is good for this Service.
fn is_good(claim: &Claim, id: &ServiceId, uid: &str) -> bool {
    claim.service == *id && claim.uid.as_deref().is_none_or(|u| u == uid)
}

type Counts = BTreeMap<String, BTreeMap<IpAddr, usize>>;

fn count_in(counts: &mut Counts, name: String, address: IpAddr) {
    *counts.entry(name).or_default().entry(address).or_insert(0) += 1;
}

fn count_out(counts: &mut Counts, name: Option<&str>, address: IpAddr) {
    let Some((name, addresses)) = name.and_then(|n| Some((n, counts.get_mut(n)?))) else {
        return;
    };
    if let Some(count) = addresses.get_mut(&address) {
        *count -= 1;
        if *count == 0 {
            addresses.remove(&address);
        }
    }
    if addresses.is_empty() {
        counts.remove(name);
    }
}

/// Whether two Services may hold one address: same non-empty key, same way to their endpoints, no port in common.
fn may_share(address: IpAddr, view: &ServiceView, other: &ServiceView) -> Result<(), Reason> {
    let refuse = |why| {
        Err(Reason::CannotShare {
            address,
            with: other.id.clone(),
            why,
        })
    };
    let backend = |v: &'_ ServiceView| match v.traffic_policy {
        TrafficPolicy::Cluster => String::new(),
        TrafficPolicy::Local => v.selector.clone(),
    };
    match (&view.sharing_key, &other.sharing_key) {
        (Some(a), Some(b)) if a == b => {}
        (Some(_), Some(_)) => return refuse("its sharing key is another one"),
        _ => {
            return Err(Reason::AddressInUse {
                address,
                by: vec![other.id.clone()],
            });
        }
    }
    if backend(view) != backend(other) {
        return refuse(
            "externalTrafficPolicy Local needs the same selector on both, and Cluster goes with Cluster only",
        );
    }
    if !view.ports.is_disjoint(&other.ports) {
        return refuse("both use the same port and protocol");
    }
    Ok(())
}
