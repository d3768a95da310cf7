//! What becomes of addresses when Services, pools and VirtualIPs change.

use std::time::Duration;

use ferrolb_controller_core::{EventKind, PoolUsage, Usage};
use ferrolb_model::{ConditionType, FamilyPolicy, FamilySet, RequestError, ServiceType};

use crate::fixtures::*;
use crate::lab::*;

#[test]
fn a_request_that_cannot_be_met_leaves_the_address_alone_until_it_can() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.3"])]);
    lab.apply(service("web", 1));
    lab.apply(service("other", 2));
    lab.settle();
    lab.apply(asking(service("web", 1), None, &["192.0.2.2"]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert_eq!(
        lab.last_message("web"),
        "AddressInUse: address 192.0.2.2 is in use by default/other"
    );
    let allocated = &lab.virtual_ips[&ip("192.0.2.1")].conditions[&ConditionType::Allocated];
    assert_eq!((allocated.status, allocated.reason.as_str()), (true, "AddressInUse"));
    lab.delete("other");
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"], "other's address cools down first");
    lab.pass(Duration::from_secs(61));
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);
    lab.pass(Duration::from_secs(61));
    assert!(
        !lab.virtual_ips.contains_key(&ip("192.0.2.1")),
        "the old address is free again"
    );
    let mut bad = service("web", 1);
    bad.request = Err(RequestError::NotAnAddress {
        field: "metallb.io/loadBalancerIPs".to_owned(),
        value: "x".to_owned(),
    });
    lab.apply(bad);
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);
    assert_eq!(lab.kinds("web").last(), Some(&EventKind::LoadBalancerFailed));
    lab.assert_quiet();
}

#[test]
fn a_released_address_waits_for_its_name() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.2"])]);
    lab.apply(service("web", 1));
    lab.settle();
    lab.delete("web");
    lab.apply(service("new", 2));
    lab.settle();
    assert_eq!(lab.shown("new"), ["192.0.2.2"]);
    lab.apply(service("third", 3));
    lab.pass(Duration::from_secs(30));
    assert_eq!(lab.shown("third"), [""; 0]);
    lab.apply(service("web", 4));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"], "the same name gets it back");
    lab.delete("web");
    lab.pass(Duration::from_secs(59));
    assert_eq!(lab.shown("third"), [""; 0]);
    lab.restart();
    lab.pass(Duration::from_secs(59));
    assert_eq!(lab.shown("third"), [""; 0], "a restart never shortens the time");
    lab.pass(Duration::from_secs(2));
    assert_eq!(lab.shown("third"), ["192.0.2.1"]);
    lab.assert_quiet();
}

#[test]
fn types_take_and_free_the_address() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    let of = |kind| {
        let mut view = service("web", 1);
        view.kind = kind;
        if kind == ServiceType::ExternalName {
            view.families = FamilySet::default();
        }
        view
    };
    lab.apply(of(ServiceType::ClusterIp));
    lab.apply(of(ServiceType::NodePort));
    lab.settle();
    assert_eq!((lab.writes.len(), lab.events.len()), (0, 0), "nothing is ours yet");
    for _ in 0..2 {
        lab.apply(of(ServiceType::LoadBalancer));
        lab.settle();
        assert_eq!(lab.shown("web"), ["192.0.2.1"]);
        lab.apply(of(ServiceType::ExternalName));
        lab.settle();
        assert_eq!(lab.shown("web"), [""; 0]);
        assert_eq!(lab.services[&id("web")].pool_annotation, None);
    }
    lab.pass(Duration::from_secs(61));
    assert!(lab.virtual_ips.is_empty());
    lab.assert_quiet();
}

#[test]
fn only_the_class_of_the_installation_is_served() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    let mut foreign = service("web", 1);
    foreign.class = Some("example.com/other".to_owned());
    foreign.ingress = vec![ip("192.0.2.77")];
    lab.put(foreign);
    lab.settle();
    lab.restart();
    lab.settle();
    assert_eq!((lab.writes.len(), lab.events.len()), (0, 0));
    assert_eq!(lab.shown("web"), ["192.0.2.77"]);
}

#[test]
fn a_pool_that_changes_keeps_its_holders() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.2"])]);
    lab.set_endpoints(endpoints("web", &["n1"]));
    lab.apply(service("web", 1));
    lab.settle();
    let owner = lab.owner("192.0.2.1").map(str::to_owned);
    lab.set_config(config([pool("a", &["192.0.2.2/32"])]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    let reason = |lab: &Lab| {
        lab.virtual_ips[&ip("192.0.2.1")].conditions[&ConditionType::Allocated]
            .reason
            .clone()
    };
    assert_eq!(reason(&lab), "PoolChanged");
    assert_eq!(lab.kinds("web"), [EventKind::Allocated, EventKind::PoolChanged]);
    lab.set_config(config([]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert_eq!(lab.owner("192.0.2.1").map(str::to_owned), owner, "still announced");
    lab.restart();
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    lab.set_config(config([pool("renamed", &["192.0.2.0/24"])]));
    lab.settle();
    assert_eq!(reason(&lab), "Allocated");
    assert_eq!(lab.services[&id("web")].pool_annotation.as_deref(), Some("renamed"));
    assert_eq!(lab.virtual_ips[&ip("192.0.2.1")].pool.as_deref(), Some("renamed"));
    lab.assert_quiet();
}

#[test]
fn virtual_ips_made_by_hand_block_and_reserve() {
    let mut lab = Lab::new(config([pool("a", &["192.0.2.1-192.0.2.4"])]));
    lab.put_virtual_ip(virtual_ip("192.0.2.1", &[]));
    lab.put_virtual_ip(virtual_ip("192.0.2.2", &[("later", None)]));
    lab.put_virtual_ip(virtual_ip("198.51.100.9", &[("outside", None)]));
    lab.restart();
    lab.settle();
    lab.apply(service("web", 1));
    lab.apply(asking(service("blocked", 2), None, &["192.0.2.1"]));
    lab.apply(asking(service("reserved", 3), None, &["192.0.2.2"]));
    lab.apply(service("outside", 4));
    lab.apply(service("later", 5));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.3"]);
    assert!(lab.last_message("blocked").starts_with("AddressBlocked: "));
    assert!(lab.last_message("reserved").starts_with("AddressInUse: "));
    assert_eq!(lab.shown("later"), ["192.0.2.2"]);
    assert_eq!(lab.shown("outside"), ["198.51.100.9"]);
    lab.delete("later");
    lab.pass(Duration::from_secs(300));
    assert_eq!(
        lab.virtual_ips[&ip("192.0.2.2")].claims,
        virtual_ip("192.0.2.2", &[("later", None)]).claims
    );
    lab.delete_virtual_ip("192.0.2.1");
    lab.settle();
    assert_eq!(lab.shown("blocked"), ["192.0.2.1"]);
    // Whoever deletes the VirtualIP of a Service in use gets it back.
    lab.delete_virtual_ip("192.0.2.3");
    lab.settle();
    assert_eq!(lab.virtual_ips[&ip("192.0.2.3")].claims[0].service, id("web"));
    lab.assert_quiet();
}

#[test]
fn the_first_pass_keeps_what_works() {
    let mut lab = Lab::new(config([pool("a", &["192.0.2.1-192.0.2.9"])]));
    let shows = |name: &str, created, address: &str| {
        let mut view = service(name, created);
        view.ingress = vec![ip(address)];
        view
    };
    lab.put(service("new", 0));
    lab.put(shows("claimed", 9, "192.0.2.4"));
    let uid = lab.services[&id("claimed")].uid.clone();
    lab.put_virtual_ip(virtual_ip("192.0.2.4", &[("claimed", Some(&uid))]));
    lab.put(shows("duplicate", 1, "192.0.2.4"));
    lab.put(shows("old", 2, "192.0.2.1"));
    lab.put(shows("younger", 3, "192.0.2.1"));
    lab.put(shows("outside", 4, "203.0.113.7"));
    lab.put(shows("wrong-family", 5, "2001:db8::7"));
    lab.restart();
    lab.settle();
    assert_eq!(lab.shown("claimed"), ["192.0.2.4"]);
    assert_eq!(lab.shown("old"), ["192.0.2.1"]);
    assert_eq!(lab.shown("outside"), ["203.0.113.7"]);
    assert_eq!(lab.virtual_ips[&ip("203.0.113.7")].pool, None);
    assert_eq!(lab.kinds("outside"), [EventKind::PoolChanged]);
    assert_eq!(lab.shown("new"), ["192.0.2.2"]);
    assert_eq!(lab.shown("duplicate"), ["192.0.2.3"]);
    assert_eq!(lab.shown("younger"), ["192.0.2.5"]);
    assert_eq!(lab.shown("wrong-family"), ["192.0.2.6"]);
    assert_eq!(lab.kinds("younger")[0], EventKind::Cleared);
    lab.assert_quiet();
    lab.restart();
    let before = lab.writes.len();
    lab.settle();
    assert_eq!(lab.writes.len(), before, "a second start finds nothing to do");
}

#[test]
fn old_annotations_are_answered_once() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    let mut view = service("web", 1);
    view.deprecated_annotations
        .insert("metallb.universe.tf/address-pool".to_owned());
    lab.apply(view);
    lab.settle();
    assert_eq!(
        lab.kinds("web"),
        [EventKind::DeprecatedAnnotation, EventKind::Allocated]
    );
    lab.assert_quiet();
}

#[test]
fn the_figures_add_up() {
    let mut lab = Lab::started([
        pool("a", &["192.0.2.0/30", "2001:db8::/64"]),
        pool("b", &["198.51.100.0/31"]),
    ]);
    lab.apply(dual(service("web", 1), FamilyPolicy::RequireDualStack));
    lab.apply(service("gone", 2));
    lab.apply(asking(service("bad", 3), Some("c"), &[]));
    lab.settle();
    lab.delete("gone");
    lab.settle();
    let usage = lab.controller.pool_usage();
    let expected = PoolUsage {
        v4: Usage { total: 4, in_use: 2 },
        v6: Usage {
            total: 1 << 64,
            in_use: 1,
        },
    };
    assert_eq!(usage["a"], expected);
    assert_eq!(lab.controller.services_allocated(), 1);
    assert_eq!(
        lab.controller.pending_by_reason().into_iter().collect::<Vec<_>>(),
        [("PoolNotFound", 1)]
    );
}

#[test]
fn of_several_claims_the_one_in_the_status_counts() {
    for (shown, asked, expected) in [
        (Some("192.0.2.3"), None, "192.0.2.3"),
        (None, Some("192.0.2.2"), "192.0.2.2"),
        (None, None, "192.0.2.1"),
    ] {
        let mut lab = Lab::new(config([pool("a", &["192.0.2.1-192.0.2.9"])]));
        let mut view = service("web", 1);
        if let Some(asked) = asked {
            view = asking(view, None, &[asked]);
        }
        view.ingress = shown.iter().map(|a| ip(a)).collect();
        let uid = view.uid.clone();
        lab.put(view);
        for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            lab.put_virtual_ip(virtual_ip(address, &[("web", Some(&uid))]));
        }
        lab.restart();
        lab.settle();
        assert_eq!(lab.shown("web"), [expected]);
        lab.pass(Duration::from_secs(61));
        assert_eq!(lab.virtual_ips.keys().collect::<Vec<_>>(), [&ip(expected)]);
        lab.assert_quiet();
    }
}
