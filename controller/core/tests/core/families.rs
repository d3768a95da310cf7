//! The families of a living Service and of its pools.

use std::time::Duration;

use ferrolb_controller_core::{EventKind, Write};
use ferrolb_model::{ConditionType, Family, FamilyPolicy, FamilySet, ReclaimPolicy, ServiceView};

use crate::fixtures::*;
use crate::lab::*;

use FamilyPolicy::{PreferDualStack, RequireDualStack, SingleStack};

fn single(six: bool, policy: FamilyPolicy) -> ServiceView {
    let mut view = service("web", 1);
    view.families = FamilySet { v4: !six, v6: six };
    view.primary_family = if six { Family::V6 } else { Family::V4 };
    view.family_policy = policy;
    view
}

#[test]
fn a_service_that_changes_its_families_follows() {
    let both = || dual(service("web", 1), PreferDualStack);
    let strict = || dual(service("web", 1), RequireDualStack);
    const V4: &str = "192.0.2.1";
    const V6: &str = "2001:db8::1";
    // What it is, what it becomes, and what it shows after each.
    type Case = (
        ServiceView,
        &'static [&'static str],
        ServiceView,
        &'static [&'static str],
    );
    let cases: Vec<Case> = vec![
        (single(false, SingleStack), &[V4], both(), &[V4, V6]),
        (single(true, SingleStack), &[V6], both(), &[V4, V6]),
        (single(false, SingleStack), &[V4], strict(), &[V4, V6]),
        (both(), &[V4, V6], single(false, SingleStack), &[V4]),
        (both(), &[V4, V6], single(true, SingleStack), &[V6]),
        (strict(), &[V4, V6], both(), &[V4, V6]),
        (single(false, SingleStack), &[V4], single(true, SingleStack), &[V6]),
        (single(false, PreferDualStack), &[V4], single(false, SingleStack), &[V4]),
        // The API server does not leave it so, but a policy that cannot be met takes nothing away.
        (
            single(false, SingleStack),
            &[V4],
            single(false, RequireDualStack),
            &[V4],
        ),
    ];
    for (n, (before, first, after, second)) in cases.into_iter().enumerate() {
        let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.3", "2001:db8::1-2001:db8::3"])]);
        lab.apply(before);
        lab.settle();
        assert_eq!(lab.shown("web"), first, "case {n}, before");
        lab.apply(after);
        lab.settle();
        assert_eq!(lab.shown("web"), second, "case {n}, after");
        lab.pass(Duration::from_secs(61));
        assert_eq!(
            lab.virtual_ips.len(),
            second.len(),
            "case {n}: what was given up is free"
        );
        lab.assert_quiet();
    }
}

#[test]
fn a_pool_that_loses_a_family_keeps_its_holders() {
    for policy in [PreferDualStack, RequireDualStack] {
        let mut lab = Lab::started([pool("a", &["192.0.2.1/32", "2001:db8::1/128"])]);
        lab.apply(dual(service("web", 1), policy));
        lab.settle();
        lab.set_config(config([pool("a", &["192.0.2.1/32"])]));
        lab.settle();
        assert_eq!(lab.shown("web"), ["192.0.2.1", "2001:db8::1"]);
        let condition = |address: &str| &lab.virtual_ips[&ip(address)].conditions[&ConditionType::Allocated].reason;
        assert_eq!(
            (condition("192.0.2.1").as_str(), condition("2001:db8::1").as_str()),
            ("Allocated", "PoolChanged")
        );
        lab.assert_quiet();
    }
}

#[test]
fn a_dual_pool_that_appears_moves_nobody() {
    let four = || pool("four", &["192.0.2.1/32"]);
    let both = || pool("both", &["198.51.100.1/32", "2001:db8::1/128"]);
    let mut lab = Lab::started([four()]);
    lab.apply(dual(service("web", 1), PreferDualStack));
    lab.settle();
    lab.set_config(config([four(), both()]));
    lab.settle();
    assert_eq!(
        lab.shown("web"),
        ["192.0.2.1", "2001:db8::1"],
        "the second family, beside the first"
    );
    let mut lab = Lab::started([four()]);
    lab.apply(single(false, SingleStack));
    lab.settle();
    lab.set_config(config([four(), both()]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
}

#[test]
fn a_policy_that_becomes_strict_waits_for_the_second_family() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(dual(service("web", 1), PreferDualStack));
    lab.settle();
    lab.apply(dual(service("web", 1), RequireDualStack));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"], "what works is not taken away");
    assert!(lab.last_message("web").starts_with("NoAddressOfFamily: "));
    lab.set_config(config([pool("a", &["192.0.2.1/32"]), pool("b", &["2001:db8::1/128"])]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1", "2001:db8::1"]);
    assert!(lab.controller.pending_by_reason().is_empty());
    lab.assert_quiet();
}

#[test]
fn preferring_both_families_in_a_cluster_of_one_ends_with_one() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32", "2001:db8::1/128"])]);
    lab.apply(single(false, PreferDualStack));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    lab.pass(Duration::from_secs(300));
    assert_eq!(lab.writes.len(), 3, "nothing goes round in circles");
}

#[test]
fn two_families_and_a_policy_of_one_give_the_primary() {
    let mut view = dual(service("web", 1), SingleStack);
    view.primary_family = Family::V6;
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32", "2001:db8::1/128"])]);
    lab.apply(view);
    lab.settle();
    assert_eq!(lab.shown("web"), ["2001:db8::1"]);
}

#[test]
fn a_dual_service_may_share_one_family() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32", "2001:db8::1-2001:db8::2"])]);
    lab.apply(sharing(service("four", 1), "k", 80));
    lab.apply(sharing(dual(service("both", 2), RequireDualStack), "k", 443));
    lab.settle();
    assert_eq!(lab.shown("both"), ["192.0.2.1", "2001:db8::1"]);
    // The shared one is taken from it when its port clashes; the other family stays.
    lab.apply(sharing(dual(service("both", 2), RequireDualStack), "k", 80));
    lab.settle();
    assert_eq!(lab.shown("both"), ["2001:db8::1"]);
    assert_eq!(lab.shown("four"), ["192.0.2.1"]);
    assert!(lab.kinds("both").contains(&EventKind::Cleared));
    lab.assert_quiet();
}

#[test]
fn the_only_user_of_an_address_may_change_its_key() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.2"])]);
    lab.apply(sharing(service("one", 1), "k", 80));
    lab.settle();
    lab.apply(sharing(service("one", 1), "other", 81));
    lab.settle();
    assert_eq!(lab.shown("one"), ["192.0.2.1"]);
    assert_eq!(lab.virtual_ips[&ip("192.0.2.1")].sharing_key.as_deref(), Some("other"));
    lab.apply(sharing(service("two", 2), "k", 443));
    lab.settle();
    assert_eq!(lab.shown("two"), ["192.0.2.2"]);
    lab.apply(sharing(service("two", 2), "other", 443));
    lab.settle();
    assert_eq!(lab.shown("two"), ["192.0.2.2"], "what it has, it keeps");
    lab.assert_quiet();
}

#[test]
fn an_adopted_address_of_the_wrong_family_is_replaced_and_told() {
    let mut lab = Lab::new(config([pool("a", &["192.0.2.1/32"])]));
    let mut view = service("web", 1);
    view.ingress = vec![ip("2001:db8::7")];
    lab.put(view);
    lab.restart();
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert_eq!(lab.kinds("web"), [EventKind::Cleared, EventKind::Allocated]);
}

#[test]
fn a_pool_that_gives_back_one_family_gives_the_other_at_once() {
    let mut manual = pool("a", &["192.0.2.1/32", "2001:db8::1/128"]);
    manual.auto_assign = false;
    let mut lab = Lab::started([manual]);
    lab.apply(asking(service("web", 1), Some("a"), &[]));
    lab.settle();
    lab.delete("web");
    lab.settle();
    lab.apply(dual(service("web", 2), PreferDualStack));
    lab.step_watch();
    let second = |w: &Write| matches!(w, Write::CreateVirtualIp { address, .. } if *address == ip("2001:db8::1"));
    assert!(lab.writes.iter().any(second), "not only when the first one is there");
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1", "2001:db8::1"]);
    lab.assert_quiet();
}

#[test]
fn a_kept_address_is_taken_back_by_a_service_that_cannot_have_both_families() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(service("web", 1));
    lab.settle();
    let mut object = lab.virtual_ips[&ip("192.0.2.1")].clone();
    object.reclaim_policy = ReclaimPolicy::Retain;
    lab.put_virtual_ip(object);
    let mut headless = service("web", 1);
    headless.families = FamilySet::default();
    lab.apply(headless);
    lab.settle();
    assert_eq!(lab.shown("web"), [""; 0]);
    lab.apply(dual(service("web", 1), RequireDualStack));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"], "as after a restart");
    let before = lab.writes.len();
    lab.restart();
    lab.settle();
    assert_eq!(lab.writes.len(), before);
}

#[test]
fn a_wish_for_the_last_addresses_of_a_pool_comes_true_in_both_families() {
    let mut lab = Lab::started([
        pool("a", &["192.0.2.1/32", "2001:db8::1/128"]),
        pool("b", &["198.51.100.1/32", "2001:db8:b::1/128"]),
    ]);
    lab.apply(dual(service("web", 1), PreferDualStack));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1", "2001:db8::1"]);
    lab.apply(asking(dual(service("web", 1), PreferDualStack), Some("b"), &[]));
    while lab.step_watch() {}
    // One is claimed, and told by the watch, before the other.
    lab.step_write();
    while lab.step_watch() {}
    lab.pass(Duration::from_secs(100));
    assert_eq!(lab.shown("web"), ["198.51.100.1", "2001:db8:b::1"]);
    lab.assert_quiet();
}
