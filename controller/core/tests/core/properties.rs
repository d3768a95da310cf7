//! Random histories with faults and crashes, and random orders of one list: what must hold whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_controller_core::{Input, WriteError};
use ferrolb_model::{
    AllocationPolicy, Claim, Config, Family, FamilyPolicy, FamilySet, OnShrink, Placement, Pool, ReclaimPolicy,
    ServiceAllocation, ServiceId, ServiceType, ServiceView, TrafficPolicy, VirtualIp,
};
use proptest::prelude::*;

use crate::fixtures::*;
use crate::lab::*;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Op {
    Apply(u8, Shape),
    Delete(u8),
    Config(u8),
    NodeReady(u8, u8),
    Endpoints(u8, Vec<u8>),
    DeleteVirtualIp(u8),
    ByHand(u8, Option<u8>, bool),
    Fault(u8),
    Pass(u8),
    Stream(u8),
    Write,
    AnswersLate(bool),
    Settle,
    Crash(u8),
    Zombies,
    Relist,
}

/// What a user makes of a Service.
#[derive(Clone, Debug)]
struct Shape {
    kind: u8,
    families: u8,
    policy: u8,
    request: u8,
    key: u8,
    port: u8,
    local: bool,
}

fn shape() -> impl Strategy<Value = Shape> {
    (0..8u8, 0..4u8, 0..3u8, 0..12u8, 0..4u8, 0..3u8, any::<bool>()).prop_map(
        |(kind, families, policy, request, key, port, local)| Shape {
            kind,
            families,
            policy,
            request,
            key,
            port,
            local,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..6u8, shape()).prop_map(|(n, s)| Op::Apply(n, s)),
        2 => (0..6u8).prop_map(Op::Delete),
        3 => (0..9u8).prop_map(Op::Config),
        2 => (0..3u8, 0..4u8).prop_map(|(n, r)| Op::NodeReady(n, r)),
        2 => (0..6u8, prop::collection::vec(0..3u8, 0..3)).prop_map(|(s, n)| Op::Endpoints(s, n)),
        1 => (0..6u8).prop_map(Op::DeleteVirtualIp),
        1 => (0..4u8, prop::option::of(0..6u8), any::<bool>()).prop_map(|(a, s, r)| Op::ByHand(a, s, r)),
        2 => (0..5u8).prop_map(Op::Fault),
        2 => (0..4u8).prop_map(Op::Pass),
        8 => (0..STREAMS as u8).prop_map(Op::Stream),
        8 => Just(Op::Write),
        1 => any::<bool>().prop_map(Op::AnswersLate),
        2 => Just(Op::Settle),
        1 => (0..4u8).prop_map(Op::Crash),
        1 => Just(Op::Zombies),
        1 => Just(Op::Relist),
    ]
}

/// The Services live in two namespaces.
fn name(n: u8) -> ServiceId {
    ServiceId::new(if n < 4 { "default" } else { "t" }, format!("s{n}"))
}

fn view(n: u8, shape: &Shape) -> ServiceView {
    let mut view = service(&format!("s{n}"), i64::from(n));
    view.id = name(n);
    view.kind = match shape.kind {
        0 => ServiceType::ClusterIp,
        1 => ServiceType::ExternalName,
        _ => ServiceType::LoadBalancer,
    };
    view.families = FamilySet {
        v4: shape.families != 1,
        v6: matches!(shape.families, 1 | 2),
    };
    view.family_policy = match shape.policy {
        0 => FamilyPolicy::SingleStack,
        1 => FamilyPolicy::PreferDualStack,
        _ => FamilyPolicy::RequireDualStack,
    };
    if shape.key > 0 {
        view = sharing(view, &format!("k{}", shape.key), 80 + u16::from(shape.port));
    }
    if shape.local {
        view.traffic_policy = TrafficPolicy::Local;
        view.selector = "app=all".to_owned();
    }
    match shape.request {
        0 => asking(view, None, &["192.0.2.1"]),
        1 => asking(view, None, &["192.0.2.2", "2001:db8::1"]),
        2 => asking(view, None, &["203.0.113.1"]),
        3 => asking(view, Some("b"), &[]),
        4 => asking(view, Some("nowhere"), &[]),
        _ => view,
    }
}

fn pools(n: u8) -> Arc<Config> {
    let a = || pool("a", &["192.0.2.1-192.0.2.3"]);
    let mut b = pool("b", &["198.51.100.1-198.51.100.2", "2001:db8::1-2001:db8::2"]);
    match n {
        0 => config([a(), b]),
        1 => config([a()]),
        2 => {
            b.allocation = Some(ServiceAllocation {
                priority: 1,
                ..ServiceAllocation::default()
            });
            config([a(), b])
        }
        3 => {
            b.auto_assign = false;
            config([pool("a", &["192.0.2.2-192.0.2.3"]), b])
        }
        4 => config([]),
        5 => config([reassigning(pool("a", &["192.0.2.2-192.0.2.3"])), b]),
        6 => config([
            reassigning(a()),
            reassigning(pool("b", &["198.51.100.1-198.51.100.2", "2001:db8::2/128"])),
        ]),
        7 => limited(config([a(), b]), |p| p.max_addresses = Some(2)),
        _ => limited(config([a(), b]), |p| {
            p.share_with = Some(BTreeSet::new());
            p.pools = Some(BTreeSet::from(["b".to_owned()]));
            p.namespaces = Some(BTreeSet::from(["t".to_owned()]));
        }),
    }
}

fn reassigning(mut pool: Pool) -> Pool {
    pool.on_shrink = OnShrink::Reassign;
    pool
}

fn limited(config: Arc<Config>, limit: impl Fn(&mut AllocationPolicy)) -> Arc<Config> {
    let mut policy = AllocationPolicy {
        name: "p".to_owned(),
        namespaces: None,
        pools: None,
        max_addresses: None,
        requestable: None,
        share_with: None,
    };
    limit(&mut policy);
    let allocation_policies = BTreeMap::from([(policy.name.clone(), policy)]);
    Arc::new(Config {
        allocation_policies,
        ..Config::clone(&config)
    })
}

fn run(lab: &mut Lab, op: &Op) {
    match op {
        Op::Apply(n, shape) => lab.apply(view(*n, shape)),
        Op::Delete(n) => lab.delete_service(&name(*n)),
        Op::Config(n) => lab.set_config(pools(*n)),
        Op::NodeReady(n, ready) => {
            let mut view = node(&format!("n{}", n + 1));
            (view.ready, view.silent) = (*ready < 2, *ready == 2);
            lab.set_node(view);
        }
        Op::Endpoints(n, nodes) => {
            let nodes = nodes.iter().map(|n| format!("n{}", n + 1)).collect::<Vec<_>>();
            let nodes = nodes.iter().map(String::as_str).collect::<Vec<_>>();
            let mut view = endpoints(&format!("s{n}"), &nodes);
            view.service = name(*n);
            lab.set_endpoints(view);
        }
        Op::DeleteVirtualIp(n) => {
            let address = lab.virtual_ips.keys().nth(usize::from(*n)).map(ToString::to_string);
            address.iter().for_each(|a| lab.delete_virtual_ip(a));
        }
        Op::ByHand(address, service, retain) => {
            let address = ["192.0.2.1", "192.0.2.2", "198.51.100.1", "203.0.113.5"][usize::from(*address)];
            let name = service.map(|n| format!("s{n}"));
            let claims = name.iter().map(|n| (n.as_str(), None)).collect::<Vec<_>>();
            let mut object = virtual_ip(address, &claims);
            if *retain && !claims.is_empty() {
                object.reclaim_policy = ReclaimPolicy::Retain;
            }
            if !lab.virtual_ips.contains_key(&object.address) {
                lab.put_virtual_ip(object);
            }
        }
        Op::Fault(n) => lab.faults.push_back(match n {
            0 => Fault::AnswerLost,
            1 => Fault::Error(WriteError::Conflict),
            2 => Fault::Error(WriteError::Refused("no".to_owned())),
            3 => Fault::Error(WriteError::Forbidden("no rule".to_owned())),
            _ => Fault::Error(WriteError::Unavailable("down".to_owned())),
        }),
        Op::Pass(n) => lab.pass(Duration::from_secs([1, 10, 61, 130][usize::from(*n)])),
        Op::Stream(n) => {
            lab.step_stream(usize::from(*n));
        }
        Op::Write => {
            lab.step_write();
        }
        Op::AnswersLate(late) => lab.answers_late = *late,
        Op::Settle => lab.settle(),
        Op::Crash(served) => {
            lab.restart();
            lab.zombie_writes(usize::from(*served));
        }
        Op::Zombies => lab.zombie_writes(9),
        Op::Relist => lab.relist(),
    }
}

fn shown(lab: &Lab) -> BTreeMap<String, Vec<IpAddr>> {
    let ours = lab.services.values().filter(|v| v.kind == ServiceType::LoadBalancer);
    ours.map(|v| (v.id.name.clone(), v.ingress.clone())).collect()
}

/// What must hold when everything has come to rest: claims and statuses agree.
fn check_claims(lab: &Lab) {
    lab.check_sharing();
    // With Retain an object keeps whatever claim it once had.
    let kept = |o: &&VirtualIp| o.reclaim_policy == ReclaimPolicy::Retain;
    for object in lab.virtual_ips.values().filter(|o| !kept(o)) {
        for claim in object.claims.iter().filter(|c| c.uid.is_some()) {
            let view = lab.services.get(&claim.service);
            let view = view.expect("a claim without a Service, long after the cool-down");
            let shown = view.ingress.contains(&object.address);
            assert!(shown, "{} is claimed, but not shown by {}", object.address, view.id);
        }
    }
    for view in lab.services.values() {
        let families = view.ingress.iter().map(|a| Family::of(*a)).collect::<FamilySet>();
        assert_eq!(
            families.len(),
            view.ingress.len(),
            "{} shows two of one family",
            view.id
        );
        let ours = view.kind == ServiceType::LoadBalancer;
        assert!(
            ours || view.ingress.is_empty(),
            "{} shows an address and is not ours",
            view.id
        );
        for address in &view.ingress {
            let claims = lab.virtual_ips.get(address).map(|v| &v.claims);
            let claimed = claims.is_some_and(|c| c.iter().any(|c| c.service == view.id));
            assert!(claimed, "{} shows {address} without a claim", view.id);
            assert!(view.families.contains(Family::of(*address)));
        }
    }
}

/// What must hold when everything has come to rest: whoever can be served is served.
fn check_served(lab: &Lab) {
    let free = |pool: &Pool, family| {
        let mut ranges = pool.ranges_of(family);
        ranges.any(|r| {
            let addresses = std::iter::successors(Some(r.first()), |a| r.after(*a));
            addresses.into_iter().any(|a| !lab.virtual_ips.contains_key(&a))
        })
    };
    let limited = !lab.config.allocation_policies.is_empty();
    let ours = |v: &&ServiceView| v.kind == ServiceType::LoadBalancer && !limited;
    for view in lab.services.values().filter(ours) {
        let Ok(request) = &view.request else { continue };
        let both = view.families.len() == 2;
        let possible = match view.family_policy {
            FamilyPolicy::RequireDualStack => false,
            FamilyPolicy::SingleStack => !both,
            FamilyPolicy::PreferDualStack => true,
        };
        if !possible {
            continue;
        }
        if let [address] = request.addresses[..]
            && !both
            && view.families.contains(Family::of(address))
            && lab.config.pool_of(address).is_some()
        {
            let taken = lab.virtual_ips.contains_key(&address);
            assert!(taken || view.ingress == [address], "{} could have {address}", view.id);
        }
        for family in view.families.iter().filter(|_| request.addresses.is_empty()) {
            let may = |p: &&Pool| request.pool.as_ref().map_or(p.auto_assign, |name| *name == p.name);
            let could = lab.config.pools.values().filter(may).any(|p| free(p, family));
            let has = view.ingress.iter().any(|a| Family::of(*a) == family);
            // A single address elsewhere is not given up for another family in the pool asked for.
            let settled_elsewhere = request.pool.is_some() && both && !view.ingress.is_empty();
            assert!(
                has || !could || settled_elsewhere,
                "{} could have an {family} address",
                view.id
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_ends_well(ops in prop::collection::vec(op(), 1..80)) {
        let mut lab = Lab::started(pools(0).pools.values().cloned());
        for op in &ops {
            run(&mut lab, op);
        }
        lab.faults.clear();
        // A controller that starts gives silent nodes time anew.
        for mut view in lab.nodes.clone().into_values().filter(|view| view.silent) {
            view.silent = false;
            lab.set_node(view);
        }
        lab.pass(Duration::from_secs(400));
        check_claims(&lab);
        check_served(&lab);
        lab.assert_quiet();
        let before = (shown(&lab), lab.virtual_ips.clone(), lab.writes.len());
        let pending = lab.controller.pending_by_reason();
        lab.restart();
        lab.settle();
        prop_assert_eq!(pending, lab.controller.pending_by_reason(), "who waits for what, after a restart");
        lab.pass(Duration::from_secs(400));
        prop_assert_eq!(before.0, shown(&lab), "addresses after a restart");
        let conditionless = |all: &BTreeMap<IpAddr, VirtualIp>| {
            all.values().map(|v| (v.address, v.claims.clone(), v.placement.clone())).collect::<Vec<_>>()
        };
        prop_assert_eq!(conditionless(&before.1), conditionless(&lab.virtual_ips), "claims and owners after a restart");
        prop_assert_eq!(before.2, lab.writes.len(), "writes after a restart");
    }

    #[test]
    fn the_order_of_the_lists_does_not_matter(
        shapes in prop::collection::vec((shape(), 0..10u8, 0..10u8), 1..7),
        seed in any::<u64>(),
    ) {
        let mut lab = Lab::new(pools(0));
        for (n, (shape, ingress, claim)) in shapes.iter().enumerate() {
            let n = n as u8;
            let mut view = view(n, shape);
            let uid = view.uid.clone();
            view.ingress = match ingress {
                0..=2 => vec![ip(&format!("192.0.2.{}", ingress + 1))],
                3 => vec![ip("2001:db8::2")],
                4 => vec![ip("203.0.113.9")],
                _ => Vec::new(),
            };
            lab.put(view);
            lab.set_endpoints(endpoints(&format!("s{n}"), &["n1", "n2"]));
            if *claim < 3 {
                let address = format!("192.0.2.{}", claim + 1);
                let mut object = virtual_ip(&address, &[]);
                if let Some(old) = lab.virtual_ips.get(&ip(&address)) {
                    object = old.clone();
                }
                object.claims.push(Claim { service: id(&format!("s{n}")), uid: (claim % 2 == 0).then_some(uid) });
                lab.put_virtual_ip(object);
            }
        }
        let outcome = |mut lists: Vec<Input>, shuffle: bool| {
            if shuffle {
                let mut state = seed | 1;
                for n in (1..lists.len()).rev() {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    lists.swap(n, (state % (n as u64 + 1)) as usize);
                }
            }
            let mut copy = Lab::new(Arc::clone(&lab.config));
            copy.services.clone_from(&lab.services);
            copy.virtual_ips.clone_from(&lab.virtual_ips);
            copy.restart_with(lists);
            copy.settle();
            let objects = copy.virtual_ips.values();
            let objects = objects.map(|v| (v.address, v.claims.clone(), v.placement.clone()));
            (objects.collect::<Vec<(IpAddr, Vec<Claim>, Option<Placement>)>>(), shown(&copy))
        };
        prop_assert_eq!(outcome(lab.lists(), false), outcome(lab.lists(), true));
    }
}
