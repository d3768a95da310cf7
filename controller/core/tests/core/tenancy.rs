//! What AllocationPolicies allow, and what they leave alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_controller_core::EventKind;
use ferrolb_model::{AllocationPolicy, ConditionType, Config, FamilyPolicy, Pool, ServiceId, ServiceView};

use crate::fixtures::*;
use crate::lab::*;

const COOL_DOWN: Duration = Duration::from_secs(61);

/// A policy for one namespace that allows everything.
fn policy(name: &str, namespace: &str) -> AllocationPolicy {
    AllocationPolicy {
        name: name.to_owned(),
        namespaces: Some(set(&[namespace])),
        pools: None,
        max_addresses: None,
        requestable: None,
        share_with: None,
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn at_most(limit: u32) -> AllocationPolicy {
    AllocationPolicy {
        max_addresses: Some(limit),
        ..policy("few", "t")
    }
}

fn with(pools: &[Pool], policies: &[AllocationPolicy]) -> Arc<Config> {
    let policies = policies.iter().map(|p| (p.name.clone(), p.clone()));
    Arc::new(Config {
        allocation_policies: policies.collect::<BTreeMap<_, _>>(),
        ..Config::clone(&config(pools.iter().cloned()))
    })
}

fn started(pools: &[Pool], policies: &[AllocationPolicy]) -> Lab {
    let mut lab = Lab::new(with(pools, policies));
    lab.restart();
    lab.settle();
    lab
}

/// The Service in another namespace.
fn of(namespace: &str, mut view: ServiceView) -> ServiceView {
    view.id = ServiceId::new(namespace, &view.id.name);
    view.uid = format!("{namespace}-{}", view.uid);
    view
}

fn shown(lab: &Lab, namespace: &str, name: &str) -> Vec<String> {
    let view = &lab.services[&ServiceId::new(namespace, name)];
    view.ingress.iter().map(ToString::to_string).collect()
}

fn message<'a>(lab: &'a Lab, namespace: &str, name: &str) -> &'a str {
    let id = ServiceId::new(namespace, name);
    let last = lab.events.iter().rfind(|e| e.service == id);
    last.map_or("", |e| e.message.as_str())
}

fn remove(lab: &mut Lab, namespace: &str, name: &str) {
    lab.delete_service(&ServiceId::new(namespace, name));
}

#[test]
fn each_limit_refuses_and_says_so() {
    let pools = [
        pool("a", &["192.0.2.1-192.0.2.9"]),
        pool("b", &["198.51.100.1-198.51.100.9"]),
    ];
    let only = |pools: &[&str]| AllocationPolicy {
        pools: Some(set(pools)),
        ..policy("limit", "t")
    };
    let requestable = |ranges: &[&str]| AllocationPolicy {
        requestable: Some(ranges.iter().map(|r| r.parse().unwrap()).collect()),
        ..policy("limit", "t")
    };
    type Case = (
        AllocationPolicy,
        Option<&'static str>,
        &'static [&'static str],
        Result<&'static str, &'static str>,
    );
    let cases: Vec<Case> = vec![
        (only(&["b"]), None, &[], Ok("198.51.100.1")),
        (only(&["b"]), Some("a"), &[], Err("spec.pools does not contain a")),
        (only(&["b"]), None, &["192.0.2.5"], Err("spec.pools does not contain a")),
        (only(&["b"]), None, &["198.51.100.5"], Ok("198.51.100.5")),
        (only(&[]), None, &[], Err("spec.pools does not contain a")),
        (requestable(&["192.0.2.0/29"]), None, &["192.0.2.5"], Ok("192.0.2.5")),
        (
            requestable(&["192.0.2.0/29"]),
            None,
            &["192.0.2.9"],
            Err("spec.requestableAddresses does not contain 192.0.2.9"),
        ),
        (requestable(&[]), None, &[], Ok("192.0.2.1")),
        (requestable(&[]), Some("b"), &[], Ok("198.51.100.1")),
        (
            at_most(0),
            None,
            &[],
            Err("spec.maxAddresses is 0, and the namespace has as many"),
        ),
        (at_most(1), None, &[], Ok("192.0.2.1")),
    ];
    for (policy, pool, addresses, expected) in cases {
        let mut lab = started(&pools, std::slice::from_ref(&policy));
        lab.apply(of("t", asking(service("web", 1), pool, addresses)));
        lab.apply(of("free", asking(service("other", 2), pool, &[])));
        lab.settle();
        assert_eq!(shown(&lab, "free", "other").len(), 1, "other namespaces are free");
        match expected {
            Ok(address) => assert_eq!(shown(&lab, "t", "web"), [address], "{policy:?}"),
            Err(why) => {
                assert_eq!(shown(&lab, "t", "web"), [""; 0], "{policy:?}");
                let text = format!(
                    "PolicyRefuses: AllocationPolicy {:?} does not allow it: {why}",
                    policy.name
                );
                assert_eq!(message(&lab, "t", "web"), text);
            }
        }
        lab.assert_quiet();
    }
}

#[test]
fn of_several_policies_each_must_allow() {
    let pools = [
        pool("a", &["192.0.2.1/32"]),
        pool("b", &["198.51.100.1/32"]),
        pool("c", &["203.0.113.1/32"]),
    ];
    let first = AllocationPolicy {
        pools: Some(set(&["a", "b"])),
        namespaces: None,
        ..policy("everybody", "")
    };
    let second = AllocationPolicy {
        pools: Some(set(&["b", "c"])),
        ..policy("tenant", "t")
    };
    let mut lab = started(&pools, &[first, second]);
    lab.apply(of("t", service("one", 1)));
    lab.apply(of("t", service("two", 2)));
    lab.settle();
    assert_eq!(
        (shown(&lab, "t", "one"), shown(&lab, "t", "two").len()),
        (vec!["198.51.100.1".to_owned()], 0)
    );
    let mut lower = at_most(1);
    lower.name = "lower".to_owned();
    let mut lab = started(&pools, &[at_most(2), lower]);
    lab.apply(of("t", service("one", 1)));
    lab.apply(of("t", service("two", 2)));
    lab.settle();
    assert_eq!(
        message(&lab, "t", "two"),
        "PolicyRefuses: AllocationPolicy \"lower\" does not allow it: spec.maxAddresses is 1, and the namespace has as many"
    );
}

#[test]
fn addresses_are_counted_once_and_in_both_families() {
    let pools = [pool("a", &["192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9"])];
    let mut lab = started(&pools, &[at_most(2)]);
    lab.apply(of("t", sharing(service("one", 1), "k", 80)));
    lab.apply(of("t", sharing(service("two", 2), "k", 81)));
    lab.apply(of("t", dual(service("strict", 3), FamilyPolicy::RequireDualStack)));
    lab.settle();
    assert_eq!(shown(&lab, "t", "one"), shown(&lab, "t", "two"), "one address for both");
    assert_eq!(shown(&lab, "t", "strict"), [""; 0], "both or nothing");
    let mut prefers = dual(service("prefers", 4), FamilyPolicy::PreferDualStack);
    prefers.primary_family = ferrolb_model::Family::V6;
    lab.apply(of("t", prefers));
    lab.settle();
    assert_eq!(
        shown(&lab, "t", "prefers"),
        ["2001:db8::1"],
        "the family that it prefers"
    );
    lab.apply(of("t", sharing(service("three", 5), "k", 82)));
    lab.settle();
    assert_eq!(
        shown(&lab, "t", "three"),
        ["192.0.2.1"],
        "sharing what the namespace has costs nothing"
    );
    lab.set_config(with(&pools, &[at_most(3)]));
    lab.settle();
    assert_eq!(shown(&lab, "t", "prefers"), ["192.0.2.2", "2001:db8::1"]);
    lab.assert_quiet();
}

#[test]
fn a_namespace_at_its_limit_may_replace() {
    let pools = [pool("a", &["192.0.2.1-192.0.2.9"])];
    let mut lab = started(&pools, &[at_most(1)]);
    lab.apply(of("t", service("web", 1)));
    lab.settle();
    lab.apply(of("t", asking(service("web", 1), None, &["192.0.2.7"])));
    lab.settle();
    assert_eq!(shown(&lab, "t", "web"), ["192.0.2.7"]);
    // Also when a later policy allows less than there is.
    lab.set_config(with(&pools, &[at_most(0)]));
    lab.apply(of("t", asking(service("web", 1), None, &["192.0.2.8"])));
    lab.settle();
    assert_eq!(shown(&lab, "t", "web"), ["192.0.2.8"]);
}

#[test]
fn whoever_waits_for_room_is_served_when_there_is_some() {
    let pools = [pool("a", &["192.0.2.1-192.0.2.9"])];
    let mut lab = started(&pools, &[at_most(1)]);
    for (name, age) in [("one", 1), ("three", 3), ("two", 2)] {
        lab.apply(of("t", service(name, age)));
        lab.settle();
    }
    lab.apply(of("t", asking(service("named", 9), None, &["192.0.2.1"])));
    lab.settle();
    remove(&mut lab, "t", "one");
    lab.settle();
    assert_eq!(
        shown(&lab, "t", "two"),
        ["192.0.2.2"],
        "the oldest, at once: an address that cools down does not count"
    );
    assert_eq!(shown(&lab, "t", "three"), [""; 0]);
    // A namespace that a policy no longer speaks for.
    lab.set_config(with(
        &pools,
        &[AllocationPolicy {
            namespaces: Some(set(&[])),
            ..at_most(1)
        }],
    ));
    lab.settle();
    assert_eq!(shown(&lab, "t", "three"), ["192.0.2.3"]);
    lab.pass(COOL_DOWN);
    assert_eq!(shown(&lab, "t", "named"), ["192.0.2.1"]);
    lab.assert_quiet();
}

#[test]
fn a_wish_beyond_the_limit_keeps_nobody_else_waiting() {
    let pools = [pool("a", &["192.0.2.1/32", "192.0.2.5/32"])];
    let mut lab = started(&pools, &[at_most(0)]);
    lab.apply(of("free", service("holder", 0)));
    lab.apply(of("free", service("second", 1)));
    lab.apply(of("t", asking(service("named", 2), None, &["192.0.2.1"])));
    lab.apply(of("free", service("any", 3)));
    lab.settle();
    remove(&mut lab, "free", "holder");
    lab.pass(COOL_DOWN);
    assert_eq!(shown(&lab, "free", "any"), ["192.0.2.1"]);
}

#[test]
fn both_sides_must_allow_sharing() {
    let pools = [pool("a", &["192.0.2.1-192.0.2.9"])];
    let alone = |name: &str, namespace: &str, with: &[&str]| AllocationPolicy {
        share_with: Some(set(with)),
        ..policy(name, namespace)
    };
    for (policies, joins) in [
        (vec![], true),
        (vec![alone("p", "t", &["u"])], true),
        (vec![alone("p", "t", &[])], false),
        (vec![alone("p", "u", &[])], false),
        (vec![alone("p", "t", &["u"]), alone("q", "u", &["t"])], true),
        (vec![alone("p", "t", &["u"]), alone("q", "u", &["v"])], false),
    ] {
        let mut lab = started(&pools, &policies);
        lab.apply(of("t", sharing(service("one", 1), "k", 80)));
        lab.apply(of("t", sharing(service("same", 2), "k", 81)));
        lab.apply(of("u", sharing(service("two", 3), "k", 82)));
        lab.apply(of(
            "u",
            asking(sharing(service("named", 4), "k", 83), None, &["192.0.2.1"]),
        ));
        lab.settle();
        assert_eq!(
            shown(&lab, "t", "same"),
            ["192.0.2.1"],
            "inside a namespace sharing is free"
        );
        let (two, named) = (shown(&lab, "u", "two"), shown(&lab, "u", "named"));
        assert_eq!(
            (two == ["192.0.2.1"], named == ["192.0.2.1"]),
            (joins, joins),
            "{policies:?}"
        );
        if !joins {
            assert!(message(&lab, "u", "named").contains("spec.sharing does not allow to share 192.0.2.1"));
            // Once the other namespace is gone from the address, nothing is in the way.
            lab.apply(of(
                "u",
                asking(sharing(service("named", 4), "k", 83), None, &["192.0.2.1"]),
            ));
            remove(&mut lab, "t", "one");
            remove(&mut lab, "t", "same");
            lab.pass(COOL_DOWN);
            assert_eq!(shown(&lab, "u", "named"), ["192.0.2.1"]);
        }
        lab.assert_quiet();
    }
}

#[test]
fn holders_keep_what_a_later_policy_would_not_give() {
    let pools = [pool("a", &["192.0.2.1-192.0.2.9"])];
    let none = AllocationPolicy {
        pools: Some(set(&[])),
        requestable: Some(Vec::new()),
        share_with: Some(set(&[])),
        max_addresses: Some(0),
        ..policy("strict", "t")
    };
    let mut lab = started(&pools, &[]);
    lab.apply(of("t", service("web", 1)));
    lab.settle();
    lab.set_config(with(&pools, std::slice::from_ref(&none)));
    lab.settle();
    assert_eq!(shown(&lab, "t", "web"), ["192.0.2.1"]);
    assert_eq!(
        message(&lab, "t", "web"),
        "PoolChanged: 192.0.2.1 is kept although it would not be chosen today: \
         AllocationPolicy \"strict\" does not allow it: spec.pools does not contain a"
    );
    assert_eq!(
        lab.virtual_ips[&ip("192.0.2.1")].conditions[&ConditionType::Allocated].reason,
        "PoolChanged"
    );
    lab.restart();
    lab.settle();
    assert_eq!(shown(&lab, "t", "web"), ["192.0.2.1"]);
    lab.assert_quiet();
    // Deleted and made again it is another Service, to which nothing is given any more.
    remove(&mut lab, "t", "web");
    lab.apply(of("t", service("web", 2)));
    lab.settle();
    assert_eq!(shown(&lab, "t", "web"), [""; 0]);
}

#[test]
fn adoption_and_reservations_stand_above_policies() {
    let pools = [pool("a", &["192.0.2.1-192.0.2.9"])];
    let none = AllocationPolicy {
        pools: Some(set(&[])),
        requestable: Some(Vec::new()),
        max_addresses: Some(0),
        ..policy("strict", "t")
    };
    let mut lab = Lab::new(with(&pools, &[none]));
    let mut shows = of("t", service("shows", 1));
    shows.ingress = vec![ip("192.0.2.3")];
    lab.put(shows);
    lab.put(of("t", service("reserved", 2)));
    let mut object = virtual_ip("192.0.2.5", &[("reserved", None)]);
    object.claims[0].service = ServiceId::new("t", "reserved");
    lab.put_virtual_ip(object);
    lab.restart();
    lab.settle();
    assert_eq!(shown(&lab, "t", "shows"), ["192.0.2.3"]);
    assert_eq!(shown(&lab, "t", "reserved"), ["192.0.2.5"]);
    let kinds = lab.events.iter().map(|e| e.kind).collect::<Vec<_>>();
    assert_eq!(kinds, [EventKind::PoolChanged, EventKind::Allocated]);
    lab.assert_quiet();
}
