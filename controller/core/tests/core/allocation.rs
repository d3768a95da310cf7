//! What Services get, seen from the API server's side.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrolb_controller_core::{EventKind, Input, Write};
use ferrolb_model::{
    AddressUse, FamilyPolicy, FamilySet, LabelSelector, Labels, NetworkView, Operator, Pool, Requirement,
    ServiceAllocation, TrafficPolicy,
};

use crate::fixtures::*;
use crate::lab::*;

fn pinned(mut pool: Pool, priority: i32, namespaces: Option<&[&str]>) -> Pool {
    pool.allocation = Some(ServiceAllocation {
        priority,
        namespaces: namespaces.map(|n| n.iter().map(|n| (*n).to_owned()).collect()),
        service_selectors: Vec::new(),
    });
    pool
}

fn manual(mut pool: Pool) -> Pool {
    pool.auto_assign = false;
    pool
}

/// The address that one Service gets from these pools, or why not.
fn outcome(pools: Vec<Pool>, view: ferrolb_model::ServiceView) -> Result<Vec<String>, String> {
    let name = view.id.name.clone();
    let mut lab = Lab::started(pools);
    lab.apply(view);
    lab.settle();
    lab.assert_quiet();
    let shown = lab.shown(&name);
    let pending = lab.controller.pending_by_reason();
    match pending.keys().next() {
        Some(reason) => Err((*reason).to_owned()),
        None => Ok(shown),
    }
}

#[test]
fn a_service_gets_the_lowest_address_in_three_writes() {
    let mut lab = Lab::started([pool("a", &["192.0.2.10-192.0.2.20"])]);
    lab.set_endpoints(endpoints("web", &["n2"]));
    lab.settle();
    lab.apply(service("web", 1));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.10"]);
    assert_eq!(lab.services[&id("web")].pool_annotation.as_deref(), Some("a"));
    assert!(lab.owner("192.0.2.10").is_some());
    assert_eq!(lab.kinds("web"), [EventKind::Allocated]);
    assert_eq!(
        lab.last_message("web"),
        "Assigned IP [\"192.0.2.10\"] from IPAddressPool \"a\""
    );
    assert_eq!(lab.writes.len(), 3, "{:#?}", lab.writes);
    lab.assert_quiet();
}

#[test]
fn the_status_follows_the_claim_without_waiting_for_the_watch() {
    let mut lab = Lab::started([pool("a", &["192.0.2.10/32"])]);
    lab.apply(service("web", 1));
    assert!(lab.step_watch() && lab.step_write());
    assert_eq!(lab.writes.len(), 2, "claim, then status");
    lab.settle();
    lab.assert_quiet();
}

#[test]
fn pools_are_tried_in_a_fixed_order() {
    let small = |name: &str, n: u8| pool(name, &[&format!("192.0.2.{n}/32")]);
    let pools = vec![
        small("z-plain", 1),
        small("a-plain", 2),
        pinned(small("late", 3), 0, None),
        pinned(small("second", 4), 20, None),
        pinned(small("first-b", 5), 10, None),
        pinned(small("first-a", 6), 10, None),
        pinned(small("others", 7), 1, Some(&["elsewhere"])),
        manual(small("asked-only", 8)),
    ];
    let mut lab = Lab::started(pools);
    for n in 0..7 {
        lab.apply(service(&format!("s{n}"), n));
    }
    lab.settle();
    let got = (0..6).flat_map(|n| lab.shown(&format!("s{n}"))).collect::<Vec<_>>();
    assert_eq!(
        got,
        [
            "192.0.2.6",
            "192.0.2.5",
            "192.0.2.4",
            "192.0.2.3",
            "192.0.2.2",
            "192.0.2.1"
        ]
    );
    assert_eq!(lab.kinds("s6"), [EventKind::AllocationFailed]);
    assert!(
        lab.last_message("s6").starts_with("PoolExhausted: "),
        "{}",
        lab.last_message("s6")
    );
    lab.assert_quiet();
}

#[test]
fn requests_are_met_or_refused_with_the_reason() {
    let mut avoiding = pool("careful", &["198.51.100.0/24"]);
    avoiding.avoid_buggy_ips = true;
    let mut labelled = pool("labelled", &["203.0.113.0/28"]);
    labelled.allocation = Some(ServiceAllocation {
        priority: 0,
        namespaces: None,
        service_selectors: vec![LabelSelector {
            requirements: vec![Requirement {
                key: "tier".to_owned(),
                operator: Operator::Exists,
            }],
        }],
    });
    let pools = vec![
        pool("plain", &["192.0.2.0/30"]),
        manual(pool("asked", &["192.0.2.128/30"])),
        avoiding,
        pinned(pool("foreign", &["192.0.2.64/30"]), 0, Some(&["elsewhere"])),
        labelled,
        pool("six", &["2001:db8::/120"]),
    ];
    type Case = (
        Option<&'static str>,
        &'static [&'static str],
        Result<&'static str, &'static str>,
    );
    let cases: Vec<Case> = vec![
        (None, &[], Ok("198.51.100.1")),
        (None, &["192.0.2.2"], Ok("192.0.2.2")),
        (Some("plain"), &["192.0.2.2"], Ok("192.0.2.2")),
        (Some("asked"), &[], Ok("192.0.2.128")),
        (None, &["192.0.2.130"], Ok("192.0.2.130")),
        (Some("careful"), &[], Ok("198.51.100.1")),
        (None, &["198.51.100.255"], Err("AddressAvoided")),
        (None, &["192.0.2.200"], Err("AddressOutsidePools")),
        (Some("asked"), &["192.0.2.2"], Err("AddressOutsidePool")),
        (Some("nowhere"), &[], Err("PoolNotFound")),
        (Some("nowhere"), &["192.0.2.2"], Err("PoolNotFound")),
        (Some("foreign"), &[], Err("PoolExcludesService")),
        (None, &["192.0.2.65"], Err("PoolExcludesService")),
        (Some("labelled"), &[], Err("PoolExcludesService")),
        (Some("six"), &[], Err("NoAddressOfFamily")),
        (None, &["2001:db8::1"], Err("RequestFamilies")),
        (None, &["192.0.2.1", "2001:db8::1"], Err("RequestFamilies")),
    ];
    for (pool, addresses, expected) in cases {
        let got = outcome(pools.clone(), asking(service("web", 1), pool, addresses));
        let expected = expected.map(|a| vec![a.to_owned()]).map_err(str::to_owned);
        assert_eq!(got, expected, "pool {pool:?}, addresses {addresses:?}");
    }
    let mut with_label = asking(service("web", 1), Some("labelled"), &[]);
    with_label.labels = Labels::from([("tier".to_owned(), "front".to_owned())]);
    assert_eq!(outcome(pools, with_label), Ok(vec!["203.0.113.0".to_owned()]));
}

#[test]
fn without_a_pool_the_reason_says_so_and_a_pool_heals_it() {
    let mut lab = Lab::started([]);
    lab.apply(service("web", 1));
    lab.settle();
    assert!(lab.last_message("web").starts_with("NoPools: "));
    lab.set_config(config([manual(pool("a", &["192.0.2.1/32"]))]));
    lab.settle();
    assert!(
        lab.last_message("web").starts_with("NoPoolForService: "),
        "{}",
        lab.last_message("web")
    );
    lab.set_config(config([pool("a", &["192.0.2.1/32"])]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert_eq!(
        lab.kinds("web"),
        [
            EventKind::AllocationFailed,
            EventKind::AllocationFailed,
            EventKind::Allocated
        ]
    );
}

#[test]
fn both_families_follow_the_policy() {
    use FamilyPolicy::{PreferDualStack, RequireDualStack, SingleStack};
    let four = || pool("four", &["192.0.2.1-192.0.2.9"]);
    let six = || pool("six", &["2001:db8::1-2001:db8::9"]);
    let both = || pool("zboth", &["198.51.100.1-198.51.100.9", "2001:db8:1::1-2001:db8:1::9"]);
    let (v4, v6, w4, w6) = ("192.0.2.1", "2001:db8::1", "198.51.100.1", "2001:db8:1::1");
    type Case = (Vec<Pool>, FamilyPolicy, Result<Vec<&'static str>, &'static str>);
    let cases: Vec<Case> = vec![
        (vec![both()], RequireDualStack, Ok(vec![w4, w6])),
        (vec![both()], PreferDualStack, Ok(vec![w4, w6])),
        (vec![four(), six()], RequireDualStack, Ok(vec![v4, v6])),
        (vec![four(), six()], PreferDualStack, Ok(vec![v4, v6])),
        (vec![four(), six(), both()], PreferDualStack, Ok(vec![w4, w6])),
        (vec![pinned(four(), 5, None), both()], PreferDualStack, Ok(vec![v4, w6])),
        (vec![four()], PreferDualStack, Ok(vec![v4])),
        (vec![six()], PreferDualStack, Ok(vec![v6])),
        (vec![four()], RequireDualStack, Err("NoAddressOfFamily")),
        (vec![both()], SingleStack, Ok(vec![w4])),
    ];
    for (pools, policy, expected) in cases {
        let names = pools.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        let got = outcome(pools, dual(service("web", 1), policy));
        let expected = expected
            .map(|a| a.into_iter().map(str::to_owned).collect::<Vec<_>>())
            .map_err(str::to_owned);
        assert_eq!(got, expected, "{names:?} {policy:?}");
    }
    let mut single = service("web", 1);
    single.family_policy = RequireDualStack;
    assert_eq!(outcome(vec![both()], single), Err("NotDualStack".to_owned()));
    let pair = asking(
        dual(service("web", 1), RequireDualStack),
        None,
        &["2001:db8::5", "192.0.2.5"],
    );
    let expected = ["192.0.2.5", "2001:db8::5"].map(str::to_owned).to_vec();
    assert_eq!(outcome(vec![four(), six()], pair), Ok(expected));
}

#[test]
fn two_addresses_are_shown_together() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32", "2001:db8::/127"])]);
    lab.apply(dual(service("web", 1), FamilyPolicy::PreferDualStack));
    lab.settle();
    let shown = |w: &&Write| matches!(w, Write::SetServiceStatus { .. });
    assert_eq!(lab.writes.iter().filter(shown).count(), 1);
    lab.delete_virtual_ip("192.0.2.1");
    lab.settle();
    assert_eq!(
        lab.writes.iter().filter(shown).count(),
        1,
        "a claim that comes back leaves the status alone"
    );
    assert!(lab.virtual_ips.contains_key(&ip("192.0.2.1")));
    lab.assert_quiet();
}

#[test]
fn a_second_family_is_taken_when_it_comes_and_left_when_it_goes() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(dual(service("web", 1), FamilyPolicy::PreferDualStack));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert_eq!(lab.kinds("web"), [EventKind::Allocated], "one family is no failure");
    lab.set_config(config([pool("a", &["192.0.2.1/32"]), pool("b", &["2001:db8::/127"])]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1", "2001:db8::"]);
    let mut six = service("web", 1);
    six.families = FamilySet { v4: false, v6: true };
    lab.apply(six);
    lab.settle();
    assert_eq!(lab.shown("web"), ["2001:db8::"]);
    assert!(lab.kinds("web").contains(&EventKind::Cleared));
    // A policy that cannot be met takes nothing away.
    lab.set_config(config([pool("a", &["198.51.100.0/32"])]));
    lab.settle();
    lab.apply(dual(service("other", 2), FamilyPolicy::PreferDualStack));
    lab.settle();
    lab.apply(dual(service("other", 2), FamilyPolicy::RequireDualStack));
    lab.settle();
    assert_eq!(lab.shown("other"), ["198.51.100.0"]);
    assert!(lab.last_message("other").starts_with("NoAddressOfFamily: "));
}

#[test]
fn sharing_joins_the_address_that_carries_the_key() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.9"])]);
    lab.apply(service("plain", 1));
    lab.apply(service("gap", 2));
    lab.apply(sharing(service("one", 3), "k", 80));
    lab.settle();
    lab.delete("gap");
    lab.pass(Duration::from_secs(61));
    lab.apply(sharing(service("two", 4), "k", 443));
    lab.apply(sharing(service("clash", 5), "k", 443));
    lab.apply(sharing(service("stranger", 6), "other", 8080));
    let mut local = sharing(service("local", 7), "k", 9000);
    local.traffic_policy = TrafficPolicy::Local;
    lab.apply(asking(local, None, &["192.0.2.3"]));
    lab.settle();
    assert_eq!(lab.shown("one"), ["192.0.2.3"]);
    assert_eq!(lab.shown("two"), ["192.0.2.3"], "not the lower free 192.0.2.2");
    assert_eq!(lab.shown("clash"), ["192.0.2.2"]);
    assert_eq!(lab.shown("stranger"), ["192.0.2.4"]);
    assert!(
        lab.last_message("local").starts_with("CannotShare: "),
        "{}",
        lab.last_message("local")
    );
    let object = &lab.virtual_ips[&ip("192.0.2.3")];
    assert_eq!((object.claims.len(), object.sharing_key.as_deref()), (2, Some("k")));
    lab.delete("one");
    lab.settle();
    assert_eq!(lab.virtual_ips[&ip("192.0.2.3")].claims.len(), 1);
    assert_eq!(lab.shown("two"), ["192.0.2.3"]);
    lab.assert_quiet();
}

#[test]
fn sharing_that_becomes_illegal_costs_the_edited_service() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(sharing(service("one", 1), "k", 80));
    lab.apply(sharing(service("two", 2), "k", 443));
    lab.settle();
    lab.apply(sharing(service("one", 1), "k", 443));
    lab.settle();
    assert_eq!(
        (lab.shown("one").len(), lab.shown("two")),
        (0, vec!["192.0.2.1".to_owned()])
    );
    let kinds = lab.kinds("one");
    assert!(
        kinds.contains(&EventKind::Cleared) && kinds.contains(&EventKind::AllocationFailed),
        "{kinds:?}"
    );
    lab.apply(sharing(service("two", 2), "k", 444));
    lab.settle();
    assert_eq!(
        lab.shown("one"),
        ["192.0.2.1"],
        "a port that comes free wakes who waits for it"
    );
    lab.assert_quiet();
}

#[test]
fn node_addresses_are_never_handed_out() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.2"])]);
    let mut view = node("n1");
    view.addresses.insert(ip("192.0.2.1"));
    lab.set_node(view);
    lab.settle();
    lab.apply(service("web", 1));
    lab.apply(asking(service("thief", 2), None, &["192.0.2.1"]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);
    assert!(lab.last_message("thief").starts_with("AddressOfNode: "));
    lab.delete_node("n1");
    lab.settle();
    assert_eq!(lab.shown("thief"), ["192.0.2.1"]);
}

#[test]
fn addresses_that_the_network_needs_are_never_handed_out() {
    let mut lab = Lab::started([pool("a", &["192.0.2.0-192.0.2.2"])]);
    let network = |node: &str, addresses: &[(&str, AddressUse)]| {
        Input::Network(NetworkView {
            node: node.to_owned(),
            addresses: addresses.iter().map(|(address, role)| (ip(address), *role)).collect(),
            links: Vec::new(),
            conflicts: BTreeMap::new(),
        })
    };
    let uses = [
        ("192.0.2.0", AddressUse::Subnet),
        ("192.0.2.1", AddressUse::Gateway),
        ("192.0.2.255", AddressUse::Broadcast),
    ];
    lab.watched(network("n1", &uses));
    lab.watched(network("n2", &uses[..2]));
    lab.settle();
    lab.apply(service("web", 1));
    lab.apply(asking(service("thief", 2), None, &["192.0.2.1"]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);
    assert!(lab.last_message("thief").starts_with("AddressOfNetwork: "));
    lab.watched(network("n1", &uses[..1]));
    lab.settle();
    assert!(lab.shown("thief").is_empty(), "n2 still says so");
    lab.watched(Input::NetworkGone("n2".to_owned()));
    lab.settle();
    assert_eq!(lab.shown("thief"), ["192.0.2.1"]);
    lab.watched(network("n1", &uses[..2]));
    lab.settle();
    assert_eq!(lab.shown("thief"), ["192.0.2.1"], "who has it keeps it");
}

#[test]
fn a_node_that_reports_an_address_in_use_takes_it_from_nobody() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.9"])]);
    lab.apply(service("web", 1));
    lab.settle();
    let mut n1 = node("n1");
    n1.addresses.insert(ip("192.0.2.1"));
    lab.set_node(n1);
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    lab.restart();
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert_eq!(lab.kinds("web"), [EventKind::Allocated]);
    lab.assert_quiet();
}

#[test]
fn a_status_that_shows_a_node_address_without_a_claim_gives_no_right_to_it() {
    let mut lab = Lab::new(config([pool("a", &["192.0.2.1-192.0.2.9"])]));
    let mut n1 = node("n1");
    n1.addresses.insert(ip("192.0.2.1"));
    lab.set_node(n1);
    let mut view = service("web", 1);
    view.ingress = vec![ip("192.0.2.1")];
    lab.put(view);
    lab.restart();
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);
}

#[test]
fn a_large_pool_gives_its_lowest_free_address() {
    let mut lab = Lab::new(config([pool("a", &["10.0.0.0/16", "2001:db8::/32"])]));
    let mut inputs = lab.lists();
    for n in 0..60_000u32 {
        let address = format!("10.0.{}.{}", n >> 8, n & 255);
        let mut object = virtual_ip(&address, &[("elsewhere", None)]);
        object.resource_version = n.to_string();
        inputs.push(Input::VirtualIp(object));
    }
    lab.restart_with(inputs);
    for n in 0..500 {
        lab.apply(dual(service(&format!("s{n}"), n), FamilyPolicy::RequireDualStack));
    }
    while lab.step_watch() || lab.step_write() {}
    assert_eq!(lab.shown("s0"), ["10.0.234.96", "2001:db8::"]);
}
