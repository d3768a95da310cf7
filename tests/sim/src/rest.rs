//! What must hold when the dust has settled: an oracle that looks at the final objects alone, and a fresh controller
//! that finds nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ferrolb_controller_core::{Controller, Effect, Input, PoolUsage, Settings};
use ferrolb_model::{
    ConditionType, Config, Family, FamilyPolicy, FamilySet, Placement, Pool, ReclaimPolicy, ServiceView, TrafficPolicy,
    VirtualIp,
};

use crate::law;
use crate::store::{Store, claims};

/// Checks everything about the final objects and the core that leads.
pub(crate) fn check(store: &Store, core: &Controller) -> Result<(), String> {
    agree(store)?;
    apart(store)?;
    for view in store.services.values().filter(|v| law::is_ours(v)) {
        served(store, view).map_err(|why| format!("{} {why}", view.id))?;
    }
    counted(store, &core.pool_usage())?;
    explained(store, core)?;
    if let Some(request) = &store.rebalance {
        return Err(format!("{request:?} has no answer"));
    }
    for object in store.virtual_ips.values() {
        placed(store, object).map_err(|why| format!("{} {why}", object.address))?;
    }
    Ok(())
}

/// Statuses and claims say the same.
fn agree(store: &Store) -> Result<(), String> {
    for view in store.services.values().filter(|v| law::is_ours(v)) {
        for address in &view.ingress {
            if !claims(store.virtual_ips.get(address), view) {
                return Err(format!("{} shows {address} without a claim", view.id));
            }
        }
        let families = view.ingress.iter().map(|a| Family::of(*a)).collect::<FamilySet>();
        if families.len() != view.ingress.len() || families.iter().any(|f| !view.families.contains(f)) {
            return Err(format!("{} shows {:?}", view.id, view.ingress));
        }
    }
    for object in store
        .virtual_ips
        .values()
        .filter(|o| o.reclaim_policy == ReclaimPolicy::Delete)
    {
        for claim in object.claims.iter().filter(|c| c.uid.is_some()) {
            let view = store.services.get(&claim.service).filter(|v| law::is_ours(v));
            if !view.is_some_and(|v| claim.uid.as_ref() == Some(&v.uid) && v.ingress.contains(&object.address)) {
                return Err(format!(
                    "{} is claimed for {}, which does not show it",
                    object.address, claim.service
                ));
            }
        }
    }
    Ok(())
}

/// No two Services show an address that they may not share. Policies decide about what is handed out anew only.
fn apart(store: &Store) -> Result<(), String> {
    let ours = store.services.values().filter(|v| law::is_ours(v)).collect::<Vec<_>>();
    for (n, a) in ours.iter().enumerate() {
        for b in &ours[n + 1..] {
            let both = a.ingress.iter().find(|x| b.ingress.contains(x));
            if let Some(address) = both.filter(|_| !law::may_share(a, b, &Config::default())) {
                return Err(format!(
                    "{} and {} show {address}, which they may not share",
                    a.id, b.id
                ));
            }
        }
    }
    Ok(())
}

/// How many addresses the Services of a namespace show.
fn held_in(store: &Store, namespace: &str) -> usize {
    let ours = store.services.values().filter(|v| law::is_ours(v));
    let theirs = ours.filter(|v| v.id.namespace == namespace);
    theirs.flat_map(|v| &v.ingress).collect::<BTreeSet<_>>().len()
}

/// Who plainly can be served is served. Sharing and reservations are left out: a Service that needs them may wait.
fn served(store: &Store, view: &ServiceView) -> Result<(), String> {
    let (config, wanted) = (&*store.config, law::wanted(view));
    let Ok(request) = &view.request else {
        return Ok(());
    };
    if wanted.is_empty() {
        return Ok(());
    }
    let limits = law::policies(config, &view.id.namespace).filter_map(|p| p.max_addresses);
    let room = limits.min().map(|limit| limit as usize);
    let full = |more: usize| room.is_some_and(|room| held_in(store, &view.id.namespace) + more > room);
    let has = |f: Family| view.ingress.iter().any(|a| Family::of(*a) == f);
    if !request.addresses.is_empty() {
        let asked = request.addresses.iter().map(|a| Family::of(*a)).collect::<FamilySet>();
        let given = |a: &IpAddr| {
            let pool = config.pool_of(*a).is_some_and(|p| law::may_use(config, p, view, &[]));
            pool && law::may_give(config, &store.nodes, view, &[], *a).is_ok()
                && (view.ingress.contains(a) || !store.virtual_ips.contains_key(a))
        };
        let mut shown = view.ingress.clone();
        let mut right = request.addresses.clone();
        shown.sort_unstable();
        right.sort_unstable();
        if asked == wanted && request.addresses.iter().all(given) && shown != right && !full(wanted.len()) {
            return Err(format!("could have {right:?} and has {shown:?}"));
        }
        return Ok(());
    }
    let could = |f: Family| {
        let pools = config.pools.values().filter(|p| law::may_use(config, p, view, &[]));
        pools.into_iter().find_map(|p| free(store, p, f))
    };
    let missing = wanted.iter().filter(|f| !has(*f)).collect::<Vec<_>>();
    let possible = missing.iter().filter_map(|f| could(*f)).collect::<Vec<_>>();
    // What is held elsewhere is given up only for all that is wanted.
    let elsewhere = request.pool.is_some() && !view.ingress.is_empty();
    let unserved = match view.family_policy {
        FamilyPolicy::RequireDualStack => possible.len() == missing.len(),
        _ => !possible.is_empty(),
    };
    if unserved && !missing.is_empty() && !elsewhere && !full(missing.len()) {
        return Err(format!("could have {possible:?} and has {:?}", view.ingress));
    }
    Ok(())
}

/// An address of the pool that nobody has, keeps or blocks.
fn free(store: &Store, pool: &Pool, family: Family) -> Option<IpAddr> {
    let of_node = |a: &IpAddr| store.nodes.values().any(|n| n.addresses.contains(a));
    pool.ranges_of(family).find_map(|range| {
        let mut all = std::iter::successors(Some(range.first()), |a| range.after(*a));
        all.find(|a| !store.virtual_ips.contains_key(a) && !pool.is_buggy(*a) && !of_node(a))
    })
}

/// The counters are those of a recount.
fn counted(store: &Store, usage: &BTreeMap<String, PoolUsage>) -> Result<(), String> {
    if usage.keys().ne(store.config.pools.keys()) {
        return Err(format!("counters of {:?}", usage.keys()));
    }
    for (name, usage) in usage {
        let pool = &store.config.pools[name];
        for (family, usage) in [(Family::V4, usage.v4), (Family::V6, usage.v6)] {
            let claimed = |o: &&VirtualIp| Family::of(o.address) == family && !o.claims.is_empty();
            let in_pool = store
                .virtual_ips
                .values()
                .filter(claimed)
                .filter(|o| pool.contains(o.address));
            let count = in_pool.count() as u128;
            if usage.in_use != count || usage.total != pool.capacity(family) {
                return Err(format!(
                    "pool {name} has {count} {family} addresses in use, counted {usage:?}"
                ));
            }
        }
    }
    Ok(())
}

/// Whoever has no address, and only who lacks something, has a reason.
fn explained(store: &Store, core: &Controller) -> Result<(), String> {
    let ours = || store.services.values().filter(|v| law::is_ours(v));
    let without = ours().filter(|v| v.ingress.is_empty()).count();
    let pending = core.pending_by_reason();
    let told = pending.values().sum::<usize>();
    if told < without || told > ours().count() {
        return Err(format!(
            "{without} Services have no address, and the reasons are {pending:?}"
        ));
    }
    let allocated = ours().filter(|v| !v.ingress.is_empty()).count();
    if core.services_allocated() != allocated {
        return Err(format!(
            "{allocated} Services have an address, counted {}",
            core.services_allocated()
        ));
    }
    Ok(())
}

/// An address that some node can announce is announced, by such a node.
fn placed(store: &Store, object: &VirtualIp) -> Result<(), String> {
    let shows = |v: &&ServiceView| law::is_ours(v) && v.ingress.contains(&object.address) && claims(Some(object), v);
    let holders = store.services.values().filter(shows).collect::<Vec<_>>();
    let Some(placed) = &object.placement else {
        // Local holders narrow the choice down; the plain case is enough here.
        let plain = !holders.is_empty() && holders.iter().all(|v| v.traffic_policy == TrafficPolicy::Cluster);
        let serves = holders.iter().any(|v| nodes_of(store, v).next().is_some());
        return if plain && serves && store.nodes.values().any(fit) {
            Err("could be announced and is not".to_owned())
        } else {
            Ok(())
        };
    };
    if holders.is_empty() {
        return Err(format!("is placed at {} for nobody", placed.owner));
    }
    if object.move_to != object.answered_move {
        return Err(format!("is to move to {:?}, and has no answer", object.move_to));
    }
    let all = [&placed.owner].into_iter().chain(&placed.standbys).collect::<Vec<_>>();
    if all.iter().collect::<BTreeSet<_>>().len() != all.len() {
        return Err(format!("is placed at {all:?}"));
    }
    confirmed(store, object, placed)?;
    let is_fit = |name: &String| store.nodes.get(name).is_some_and(fit);
    let local = holders.iter().any(|v| v.traffic_policy == TrafficPolicy::Local);
    if !local && store.nodes.values().any(fit) && !is_fit(&placed.owner) {
        let serves = holders.iter().any(|v| nodes_of(store, v).next().is_some());
        if serves {
            return Err(format!("is placed at {}, which may not announce", placed.owner));
        }
    }
    Ok(())
}

/// The condition says whether the owner has confirmed, and if not, whether anybody is there who could.
fn confirmed(store: &Store, object: &VirtualIp, placed: &Placement) -> Result<(), String> {
    let said = object
        .conditions
        .get(&ConditionType::Announced)
        .ok_or("says nothing of its owner")?;
    let right = if object.announcer.as_ref().is_some_and(|a| a.node == placed.owner) {
        said.status && law::overdue(&object.conditions).is_none()
    } else {
        let speaks = store.networks.contains_key(&placed.owner);
        let reason = law::overdue(&object.conditions);
        // Whether another node than the owner could announce it is the placement's rule.
        !said.status
            && match store.networks.is_empty() {
                true => reason == Some("NoSpeaker"),
                false => reason == Some("NotConfirmed") || !speaks && reason == Some("NoSpeaker"),
            }
    };
    match right {
        true => Ok(()),
        false => Err(format!(
            "says {said:?} of {placed:?}, announced by {:?}",
            object.announcer
        )),
    }
}

fn fit(node: &ferrolb_model::NodeView) -> bool {
    node.ready && !node.excluded && !node.network_unavailable
}

fn nodes_of<'a>(store: &'a Store, view: &'a ServiceView) -> impl Iterator<Item = Option<&'a str>> {
    let slices = store.slices.values().filter(|s| s.service == view.id);
    let endpoints = slices.flat_map(|s| &s.endpoints).filter(|e| e.can_serve());
    endpoints.map(|e| e.node.as_deref())
}

/// A controller that starts on the final objects writes nothing, counts the same and gives as many reasons.
pub(crate) fn check_fresh(lists: Vec<Input>, old: &Controller) -> Result<(), String> {
    let mut core = Controller::new(Settings::default());
    let now = std::time::Duration::ZERO;
    for input in lists.into_iter().chain([Input::Synced]) {
        for effect in core.handle(input, now) {
            if let Effect::Write(write) = effect {
                return Err(format!("a fresh controller {}", crate::words::write(&write)));
            }
        }
    }
    if core.pool_usage() != old.pool_usage() {
        return Err(format!(
            "a fresh controller counts {:?}, not {:?}",
            core.pool_usage(),
            old.pool_usage()
        ));
    }
    if core.pending_by_reason() != old.pending_by_reason() {
        let (new, old) = (core.pending_by_reason(), old.pending_by_reason());
        return Err(format!("a fresh controller gives the reasons {new:?}, not {old:?}"));
    }
    Ok(())
}
