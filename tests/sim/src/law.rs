//! The rules of allocation, written once more and plainly: who may share, and which address may be given to whom.
//! Nothing here is taken from the core; where the two disagree, one of them is wrong.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_model::{
    AllocationPolicy, Condition, ConditionType, Config, Family, FamilyPolicy, FamilySet, NodeView, Pool, ServiceId,
    ServiceType, ServiceView, TrafficPolicy, VirtualIp,
};

/// So long an owner has to confirm that it announces.
pub(crate) const CONFIRMS_WITHIN: Duration = Duration::from_secs(30);

/// Whether the object says that the owner has not confirmed in time, and by which reason.
pub(crate) fn overdue(conditions: &BTreeMap<ConditionType, Condition>) -> Option<&str> {
    let reason = conditions.get(&ConditionType::Announced)?.reason.as_str();
    ["NoSpeaker", "NotConfirmed"].contains(&reason).then_some(reason)
}

/// Whether FerroLB serves the Service here, where no class is configured.
pub(crate) fn is_ours(view: &ServiceView) -> bool {
    view.kind == ServiceType::LoadBalancer && view.class.is_none()
}

/// Whether two Services may have one address.
pub(crate) fn may_share(a: &ServiceView, b: &ServiceView, config: &Config) -> bool {
    let same_key = a.sharing_key.is_some() && a.sharing_key == b.sharing_key;
    let same_way = match (a.traffic_policy, b.traffic_policy) {
        (TrafficPolicy::Cluster, TrafficPolicy::Cluster) => true,
        (TrafficPolicy::Local, TrafficPolicy::Local) => a.selector == b.selector,
        _ => false,
    };
    same_key && same_way && a.ports.is_disjoint(&b.ports) && policies_let_share(a, b, config)
}

fn policies_let_share(a: &ServiceView, b: &ServiceView, config: &Config) -> bool {
    let (a, b) = (&a.id.namespace, &b.id.namespace);
    policies(config, a).all(|p| p.allows_sharing(a, b)) && policies(config, b).all(|p| p.allows_sharing(b, a))
}

/// The policies that speak for a namespace.
pub(crate) fn policies<'a>(config: &'a Config, namespace: &'a str) -> impl Iterator<Item = &'a AllocationPolicy> {
    config.allocation_policies.values().filter(move |p| p.covers(namespace))
}

/// The families that a Service has to get addresses of; empty when it cannot be served as it is.
pub(crate) fn wanted(view: &ServiceView) -> FamilySet {
    match (view.families.len(), view.family_policy) {
        (1, FamilyPolicy::RequireDualStack) => FamilySet::default(),
        (2, FamilyPolicy::SingleStack) => [view.primary_family].into_iter().collect(),
        _ => view.families,
    }
}

/// Whether a pool may be used by a Service. The second address may come from where the first lies, unasked.
pub(crate) fn may_use(config: &Config, pool: &Pool, view: &ServiceView, held: &[IpAddr]) -> bool {
    let home = || held.iter().any(|a| pool.contains(*a));
    let asked = view.request.as_ref().is_ok_and(|r| match &r.pool {
        Some(name) => *name == pool.name,
        None => pool.auto_assign || !r.addresses.is_empty() || home(),
    });
    let allowed = policies(config, &view.id.namespace).all(|p| p.allows_pool(&pool.name));
    asked && allowed && pool.admits(&view.id.namespace, &view.labels)
}

/// Whether an address is reserved by hand for a Service.
pub(crate) fn is_reserved(object: Option<&VirtualIp>, id: &ServiceId) -> bool {
    let retained = |o: &VirtualIp| o.reclaim_policy == ferrolb_model::ReclaimPolicy::Retain;
    object.is_some_and(|o| {
        o.claims
            .iter()
            .any(|c| c.service == *id && (c.uid.is_none() || retained(o)))
    })
}

/// Whether the address may be given to the Service that holds `held`, as far as pools, request and nodes go; else why
/// not.
pub(crate) fn may_give(
    config: &Config,
    nodes: &BTreeMap<String, NodeView>,
    view: &ServiceView,
    held: &[IpAddr],
    address: IpAddr,
) -> Result<(), &'static str> {
    if !is_ours(view) {
        return Err("the Service is not served here");
    }
    if !view.families.contains(Family::of(address)) {
        return Err("the Service does not have the family");
    }
    let request = view.request.as_ref().map_err(|_| "its request cannot be read")?;
    let pool = config.pool_of(address).ok_or("it is in no pool")?;
    if !may_use(config, pool, view, held) {
        return Err("its pool may not be used");
    }
    if pool.is_buggy(address) {
        return Err("its pool avoids it");
    }
    if nodes.values().any(|n| n.addresses.contains(&address)) {
        return Err("it is a node's");
    }
    if request.addresses.is_empty() {
        return Ok(());
    }
    if !request.addresses.contains(&address) {
        return Err("another one is asked for");
    }
    if !policies(config, &view.id.namespace).all(|p| p.allows_request(address)) {
        return Err("it may not be asked for");
    }
    Ok(())
}
