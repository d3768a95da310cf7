//! A controller that knows less than what stands in the objects: it took over with a late watch, or right after a crash.

use std::time::Duration;

use ferrolb_controller_core::{Input, Write};
use ferrolb_model::{FamilyPolicy, ServiceType, ServiceView};

use crate::fixtures::*;
use crate::lab::*;

#[test]
fn what_a_status_shows_by_its_claim_counts_more_than_a_choice_that_is_not_shown() {
    for service_first in [false, true] {
        let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.9"])]);
        let mut lists = lab.lists();
        lab.apply(service("web", 1));
        lab.settle();
        // The new leader has not heard that `web` has an address, takes that for somebody else's, and claims another.
        let mut view = lab.services[&id("web")].clone();
        view.ingress.clear();
        view.resource_version = "an older one".to_owned();
        lists.push(Input::Service(view));
        lists.push(Input::VirtualIp(virtual_ip("192.0.2.1", &[])));
        lab.restart_with(lists);
        lab.step_write();
        assert!(lab.virtual_ips.contains_key(&ip("192.0.2.2")));
        let mut news = lab.lists();
        news.retain(|i| matches!(i, Input::Service(_) | Input::VirtualIp(_)));
        if !service_first {
            news.reverse();
        }
        // Each kind has a stream of its own, and this is about their order.
        for input in news {
            lab.feed(input);
        }
        lab.pass(Duration::from_secs(5));
        assert_eq!(lab.shown("web"), ["192.0.2.1"], "the Service first: {service_first}");
        lab.pass(Duration::from_secs(100));
        assert_eq!(lab.shown("web"), ["192.0.2.1"]);
        assert_eq!(lab.virtual_ips.len(), 1);
        lab.assert_quiet();
    }
}

#[test]
fn a_claim_of_another_leader_is_confirmed_before_it_is_relied_on() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.2"])]);
    lab.apply(service("web", 1));
    lab.settle();
    let old = lab.virtual_ips[&ip("192.0.2.1")].clone();
    // The address cools down, and goes to another.
    lab.apply(ServiceView {
        kind: ServiceType::ClusterIp,
        ..service("web", 1)
    });
    lab.settle();
    lab.pass(Duration::from_secs(61));
    lab.apply(service("other", 2));
    lab.settle();
    assert_eq!(lab.shown("other"), ["192.0.2.1"]);
    // The new leader has heard nothing of VirtualIPs since.
    lab.apply(service("web", 1));
    let mut lists = lab.lists();
    lists.retain(|i| !matches!(i, Input::VirtualIp(_)));
    lists.push(Input::VirtualIp(old));
    lab.restart_with(lists);
    lab.pass(Duration::from_secs(30));
    let asked = |write: &Write| matches!(write, Write::ConfirmVirtualIp { .. });
    assert!(lab.writes.iter().any(asked));
    assert!(lab.shown("web").is_empty(), "{:?}", lab.shown("web"));
    assert_eq!(lab.shown("other"), ["192.0.2.1"], "nor is it taken away");
    lab.relist();
    lab.pass(Duration::from_secs(100));
    assert_eq!(lab.shown("other"), ["192.0.2.1"]);
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);
    lab.assert_quiet();
}

#[test]
fn a_claim_that_a_leader_left_behind_costs_one_question() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.9"])]);
    lab.apply(service("web", 1));
    while lab.step_watch() {}
    assert!(lab.step_write(), "the claim");
    lab.restart();
    let before = lab.writes.len();
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    let asked = |write: &&Write| matches!(write, Write::ConfirmVirtualIp { .. });
    assert_eq!(lab.writes[before - 1..].iter().filter(asked).count(), 1);
    // What is shown already is not asked about.
    lab.restart();
    lab.assert_quiet();
    assert_eq!(lab.writes.iter().filter(asked).count(), 1);
}

#[test]
fn a_family_whose_claim_comes_late_stays_beside_the_other() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9"])]);
    lab.apply(dual(service("web", 1), FamilyPolicy::PreferDualStack));
    lab.settle();
    let mut lists = lab.lists();
    lists.retain(|i| !matches!(i, Input::VirtualIp(object) if object.address == ip("2001:db8::1")));
    lab.restart_with(lists);
    lab.pass(Duration::from_secs(30));
    assert_eq!(lab.shown("web"), ["192.0.2.1", "2001:db8::1"]);
    lab.relist();
    lab.pass(Duration::from_secs(30));
    assert_eq!(lab.shown("web"), ["192.0.2.1", "2001:db8::1"]);
    lab.assert_quiet();
}

#[test]
fn who_has_left_a_shared_address_does_not_take_it_back_after_a_crash() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(sharing(service("one", 1), "k", 80));
    lab.apply(sharing(service("two", 2), "k", 81));
    lab.settle();
    assert_eq!(lab.shown("two"), ["192.0.2.1"]);
    // The key is taken off, the status is empty again, and the controller dies before its claim is taken off.
    lab.apply(service("one", 1));
    while lab.step_watch() {}
    while !lab.shown("one").is_empty() {
        lab.step_write();
    }
    let claims = &lab.virtual_ips[&ip("192.0.2.1")].claims;
    assert_eq!(claims.len(), 2);
    lab.restart();
    lab.pass(Duration::from_secs(30));
    assert_eq!(lab.shown("two"), ["192.0.2.1"]);
    assert!(lab.shown("one").is_empty());
    lab.assert_quiet();
}

#[test]
fn a_sharer_that_is_seen_under_its_old_key_takes_nothing_from_the_other() {
    // Who asks by name looks again whenever the address is left.
    for asked in [&[][..], &["192.0.2.1"]] {
        let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
        lab.apply(sharing(service("one", 1), "new", 80));
        lab.apply(asking(sharing(service("two", 2), "new", 81), None, asked));
        lab.settle();
        assert_eq!(lab.shown("two"), ["192.0.2.1"]);
        // The watch of VirtualIPs is ahead: it says that both have it, under a key that `one` did not have once.
        let mut lists = lab.lists();
        let mut old = sharing(lab.services[&id("one")].clone(), "old", 80);
        old.resource_version = "an older one".to_owned();
        lists.push(Input::Service(old));
        let writes = lab.writes.len();
        lab.restart_with(lists);
        while lab.step_write() {}
        lab.relist();
        lab.pass(Duration::from_secs(30));
        assert_eq!(lab.shown("one"), ["192.0.2.1"]);
        let two = |write: &&Write| matches!(write, Write::SetServiceStatus { service, .. } if *service == id("two"));
        assert_eq!(
            lab.writes[writes..].iter().find(two),
            None,
            "it lost the address for a while"
        );
        lab.assert_quiet();
    }
}

#[test]
fn a_claim_that_somebody_took_off_is_not_put_back_beside_one_that_does_not_fit() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(sharing(service("one", 1), "new", 80));
    lab.apply(sharing(service("two", 2), "new", 81));
    lab.settle();
    let mut lists = lab.lists();
    let mut old = sharing(lab.services[&id("one")].clone(), "old", 80);
    old.resource_version = "an older one".to_owned();
    lists.push(Input::Service(old));
    lab.restart_with(lists);
    let writes = lab.writes.len();
    // Another controller, whose picture is newer, has seen `two` go.
    let mut object = lab.virtual_ips[&ip("192.0.2.1")].clone();
    object.claims.retain(|claim| claim.service == id("one"));
    lab.put_virtual_ip(object);
    lab.step_stream(0);
    let put_back = |write: &&Write| matches!(write, Write::UpdateVirtualIp { claims, .. } if claims.len() > 1);
    assert_eq!(lab.writes[writes..].iter().find(put_back), None);
}

#[test]
fn two_that_share_a_choice_yield_both_to_a_claim_that_was_faster() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(sharing(service("one", 1), "k", 80));
    lab.apply(sharing(service("two", 2), "k", 81));
    while lab.step_watch() {}
    // Another controller has given the address away; its Service comes after its claim.
    let other = service("other", 3);
    lab.put_virtual_ip(virtual_ip("192.0.2.1", &[("other", Some(&other.uid))]));
    lab.put(ServiceView {
        ingress: vec![ip("192.0.2.1")],
        pool_annotation: Some("a".to_owned()),
        ..other
    });
    let writes = lab.writes.len();
    lab.step_stream(0);
    lab.settle();
    let takes = |write: &&Write| matches!(write, Write::SetServiceStatus { .. });
    assert_eq!(lab.writes[writes..].iter().find(takes), None);
    assert_eq!(lab.shown("other"), ["192.0.2.1"]);
    lab.assert_quiet();
}

#[test]
fn a_claim_beside_another_waits_for_its_service_to_be_heard_of() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(sharing(service("one", 1), "k", 80));
    lab.settle();
    // Another controller has let `two` in.
    let two = sharing(service("two", 2), "k", 81);
    let mut object = lab.virtual_ips[&ip("192.0.2.1")].clone();
    object
        .claims
        .extend(virtual_ip("192.0.2.1", &[("two", Some(&two.uid))]).claims);
    lab.put_virtual_ip(object);
    lab.put(ServiceView {
        ingress: vec![ip("192.0.2.1")],
        pool_annotation: Some("a".to_owned()),
        ..two
    });
    let writes = lab.writes.len();
    lab.step_stream(0);
    lab.settle();
    let claims = |write: &&Write| matches!(write, Write::UpdateVirtualIp { .. });
    assert_eq!(lab.writes[writes..].iter().find(claims), None);
    assert_eq!(lab.shown("two"), ["192.0.2.1"]);
    // That of a Service that is gone does not stay beside another.
    lab.delete("two");
    lab.settle();
    assert_eq!(lab.virtual_ips[&ip("192.0.2.1")].claims.len(), 1);
}

#[test]
fn of_two_that_may_not_share_any_more_the_first_keeps_the_address_over_a_restart() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(sharing(service("one", 1), "k", 80));
    lab.apply(sharing(service("two", 2), "k", 81));
    lab.settle();
    assert_eq!(lab.shown("two"), ["192.0.2.1"]);
    lab.apply(sharing(service("two", 2), "k", 80));
    let writes = lab.writes.len();
    lab.restart();
    lab.pass(Duration::from_secs(30));
    assert_eq!(lab.shown("one"), ["192.0.2.1"]);
    assert!(lab.shown("two").is_empty());
    let one = |write: &&Write| matches!(write, Write::SetServiceStatus { service, .. } if *service == id("one"));
    assert_eq!(
        lab.writes[writes..].iter().find(one),
        None,
        "it lost the address for a while"
    );
    lab.assert_quiet();
}
