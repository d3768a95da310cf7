//! Pools that say what becomes of addresses they would not give any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_controller_core::{EventKind, Write, WriteError};
use ferrolb_model::{
    AllocationPolicy, ConditionType, Config, FamilyPolicy, OnShrink, Pool, ServiceAllocation, ServiceView, VirtualIp,
};

use crate::fixtures::*;
use crate::lab::*;

const OVERLAP: Duration = Duration::from_secs(30);
const COOL_DOWN: Duration = Duration::from_secs(61);

fn reassigning(ranges: &[&str]) -> Pool {
    Pool {
        on_shrink: OnShrink::Reassign,
        ..pool("a", ranges)
    }
}

/// One Service on 192.0.2.1, of a pool that then is 192.0.2.2 to .9.
fn moving(view: ServiceView) -> Lab {
    let mut lab = Lab::started([reassigning(&["192.0.2.1-192.0.2.9"])]);
    lab.owners_confirm = true;
    lab.set_endpoints(endpoints("web", &["n1"]));
    lab.apply(view);
    lab.settle();
    lab.set_config(config([reassigning(&["192.0.2.2-192.0.2.9"])]));
    lab
}

fn reason(lab: &Lab, address: &str) -> String {
    let object = &lab.virtual_ips[&ip(address)];
    object.conditions[&ConditionType::Allocated].reason.clone()
}

#[test]
fn the_new_address_comes_before_the_old_one_goes() {
    let mut lab = moving(service("web", 1));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.2", "192.0.2.1"], "the new one first");
    assert_eq!(lab.services[&id("web")].pool_annotation.as_deref(), Some("a"));
    assert!(
        lab.owner("192.0.2.1").is_some() && lab.owner("192.0.2.2").is_some(),
        "both are announced"
    );
    assert_eq!(
        (reason(&lab, "192.0.2.1").as_str(), reason(&lab, "192.0.2.2").as_str()),
        ("Renumbering", "Allocated")
    );
    assert_eq!(lab.kinds("web"), [EventKind::Allocated, EventKind::Renumbering]);
    assert_eq!(
        lab.last_message("web"),
        "192.0.2.2 takes the place of 192.0.2.1, which its IPAddressPool would not give any more; both stay for 30 s"
    );
    lab.assert_quiet();
    lab.pass(OVERLAP - Duration::from_secs(1));
    assert_eq!(lab.shown("web").len(), 2);
    lab.pass(Duration::from_secs(2));
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);
    assert_eq!(lab.owner("192.0.2.1"), None);
    assert_eq!(reason(&lab, "192.0.2.1"), "CoolingDown");
    assert_eq!(lab.kinds("web").last(), Some(&EventKind::Renumbered));
    lab.assert_quiet();
    lab.pass(COOL_DOWN);
    assert_eq!(lab.virtual_ips.len(), 1);
    assert!(!lab.kinds("web").contains(&EventKind::PoolChanged));
}

#[test]
fn every_rule_of_the_pool_counts() {
    let pinned = || Pool {
        allocation: Some(ServiceAllocation {
            namespaces: Some(["elsewhere".to_owned()].into()),
            ..ServiceAllocation::default()
        }),
        ..reassigning(&["192.0.2.0-192.0.2.9"])
    };
    let avoiding = || Pool {
        avoid_buggy_ips: true,
        ..reassigning(&["192.0.2.0-192.0.2.9"])
    };
    let other = || pool("b", &["198.51.100.1/32"]);
    for (pools, expected) in [
        (vec![pinned(), other()], "198.51.100.1"),
        (vec![avoiding(), other()], "192.0.2.1"),
    ] {
        let mut lab = Lab::started([reassigning(&["192.0.2.0-192.0.2.9"])]);
        lab.apply(service("web", 1));
        lab.settle();
        assert_eq!(lab.shown("web"), ["192.0.2.0"]);
        lab.set_config(config(pools));
        lab.pass(OVERLAP + COOL_DOWN);
        assert_eq!(lab.shown("web"), [expected]);
        lab.assert_quiet();
    }
}

#[test]
fn a_pool_that_says_nothing_keeps_and_so_does_one_that_is_gone() {
    for pools in [
        vec![pool("a", &["192.0.2.2-192.0.2.9"])],
        vec![pool("b", &["192.0.2.2-192.0.2.9"])],
    ] {
        let mut lab = moving(service("web", 1));
        lab.set_config(config(pools));
        lab.pass(OVERLAP);
        assert_eq!(lab.shown("web"), ["192.0.2.2"], "moved by the configuration in between");
        let mut lab = Lab::started([reassigning(&["192.0.2.1-192.0.2.9"])]);
        lab.apply(service("web", 1));
        lab.settle();
        lab.set_config(config([pool("a", &["192.0.2.2-192.0.2.9"])]));
        lab.pass(OVERLAP);
        assert_eq!(lab.shown("web"), ["192.0.2.1"]);
        assert_eq!(reason(&lab, "192.0.2.1"), "PoolChanged");
    }
}

#[test]
fn an_address_that_was_asked_for_stays() {
    let mut lab = moving(asking(service("web", 1), None, &["192.0.2.1"]));
    lab.pass(OVERLAP);
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert_eq!(lab.kinds("web").last(), Some(&EventKind::PoolChanged));
    // Without the request it moves, within the pool it asks for.
    lab.set_config(config([
        reassigning(&["192.0.2.2-192.0.2.9"]),
        pool("0", &["198.51.100.1/32"]),
    ]));
    lab.apply(asking(service("web", 1), Some("a"), &[]));
    lab.pass(OVERLAP + COOL_DOWN);
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);
}

#[test]
fn asking_for_the_old_address_in_the_middle_keeps_it() {
    let mut lab = moving(service("web", 1));
    lab.settle();
    lab.apply(asking(service("web", 1), None, &["192.0.2.1"]));
    lab.pass(OVERLAP);
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    lab.apply(asking(service("web", 1), None, &["192.0.2.7"]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.7"]);
    lab.pass(COOL_DOWN);
    assert_eq!(lab.virtual_ips.len(), 1);
    lab.assert_quiet();
}

#[test]
fn without_another_address_the_old_one_stays_until_there_is_one() {
    let mut lab = Lab::started([reassigning(&["192.0.2.1-192.0.2.2"])]);
    lab.apply(service("web", 1));
    lab.apply(service("other", 2));
    lab.settle();
    lab.set_config(config([reassigning(&["192.0.2.2/32"])]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert_eq!(
        lab.last_message("web"),
        "PoolChanged: 192.0.2.1 is kept although it would not be chosen today: IPAddressPool \"a\" does not contain it \
         any more, and there is no other for it (PoolExhausted: every IPv4 address is in use in IPAddressPool a; add \
         addresses or free some)"
    );
    assert!(lab.controller.pending_by_reason().is_empty(), "it has an address");
    lab.assert_quiet();
    lab.restart();
    lab.settle();
    lab.assert_quiet();
    lab.delete("other");
    lab.pass(COOL_DOWN);
    assert_eq!(lab.shown("web"), ["192.0.2.2", "192.0.2.1"]);
    lab.pass(OVERLAP + COOL_DOWN);
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);
    lab.assert_quiet();
}

#[test]
fn families_move_one_after_the_other() {
    let mut lab = Lab::started([reassigning(&["192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9"])]);
    lab.apply(dual(service("web", 1), FamilyPolicy::RequireDualStack));
    lab.settle();
    lab.set_config(config([reassigning(&[
        "192.0.2.2-192.0.2.9",
        "2001:db8::2-2001:db8::9",
    ])]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.2", "192.0.2.1", "2001:db8::1"]);
    lab.pass(OVERLAP + Duration::from_secs(1));
    assert_eq!(lab.shown("web"), ["192.0.2.2", "2001:db8::2", "2001:db8::1"]);
    lab.pass(OVERLAP + COOL_DOWN);
    assert_eq!(lab.shown("web"), ["192.0.2.2", "2001:db8::2"]);
    lab.assert_quiet();
}

#[test]
fn sharers_move_together() {
    let mut lab = Lab::started([reassigning(&["192.0.2.1-192.0.2.9"])]);
    for (n, name) in ["one", "two", "three"].into_iter().enumerate() {
        lab.apply(sharing(service(name, n as i64), "k", 80 + n as u16));
    }
    lab.settle();
    lab.set_config(config([reassigning(&["192.0.2.2-192.0.2.9"])]));
    lab.pass(OVERLAP + COOL_DOWN);
    for name in ["one", "two", "three"] {
        assert_eq!(lab.shown(name), ["192.0.2.2"], "{name}");
    }
    assert_eq!(lab.virtual_ips.len(), 1);
    lab.assert_quiet();
}

#[test]
fn a_limit_of_the_namespace_does_not_stand_in_the_way() {
    let with_limit = |pool: Pool| {
        let few = AllocationPolicy {
            name: "few".to_owned(),
            namespaces: None,
            pools: None,
            max_addresses: Some(1),
            requestable: None,
            share_with: None,
        };
        Arc::new(Config {
            allocation_policies: BTreeMap::from([(few.name.clone(), few)]),
            ..Config::clone(&config([pool]))
        })
    };
    let mut lab = Lab::new(with_limit(reassigning(&["192.0.2.1-192.0.2.9"])));
    lab.restart();
    lab.apply(service("web", 1));
    lab.settle();
    lab.set_config(with_limit(reassigning(&["192.0.2.2-192.0.2.9"])));
    lab.settle();
    lab.apply(service("late", 2));
    lab.pass(OVERLAP + COOL_DOWN);
    assert_eq!(
        (lab.shown("web"), lab.shown("late").len()),
        (vec!["192.0.2.2".to_owned()], 0)
    );
    lab.assert_quiet();
}

#[test]
fn a_restart_at_any_moment_ends_well() {
    // So many writes and watch events are delivered before the restart.
    for steps in 0..14 {
        for elapsed in [0, 15, 31] {
            // Upwards and downwards: the lower of the two is not always the new one.
            for (before, after, expected) in [
                ("192.0.2.1-192.0.2.9", "192.0.2.2-192.0.2.9", "192.0.2.2"),
                ("192.0.2.5-192.0.2.9", "192.0.2.1-192.0.2.4", "192.0.2.1"),
            ] {
                let mut lab = Lab::started([reassigning(&[before])]);
                lab.apply(service("web", 1));
                lab.settle();
                lab.set_config(config([reassigning(&[after])]));
                for _ in 0..steps {
                    let _ = lab.step_write() || lab.step_watch();
                }
                let both = lab.shown("web").len() == 2;
                if elapsed > 0 {
                    lab.pass(Duration::from_secs(elapsed));
                }
                let was = lab.shown("web");
                lab.restart();
                lab.zombie_writes(1);
                lab.settle();
                assert!(
                    lab.shown("web").contains(&expected.to_owned()),
                    "{steps} {elapsed}: new address"
                );
                if both && elapsed < 30 {
                    assert_eq!(
                        lab.shown("web"),
                        was,
                        "{steps} {elapsed}: nothing is lost in the middle"
                    );
                }
                lab.pass(OVERLAP + COOL_DOWN);
                assert_eq!(lab.shown("web"), [expected], "{steps} {elapsed}");
                assert_eq!(lab.virtual_ips.len(), 1, "{steps} {elapsed}");
                lab.assert_quiet();
            }
        }
    }
}

#[test]
fn a_claim_that_fails_changes_nothing_until_another_is_had() {
    let mut lab = moving(service("web", 1));
    lab.faults.push_back(Fault::Error(WriteError::Conflict));
    while lab.step_write() || lab.step_watch() {}
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    // Somebody else was faster with 192.0.2.2.
    lab.put_virtual_ip(virtual_ip("192.0.2.2", &[("stranger", None)]));
    lab.pass(Duration::from_secs(5));
    assert_eq!(lab.shown("web"), ["192.0.2.3", "192.0.2.1"]);
    lab.pass(OVERLAP + COOL_DOWN);
    assert_eq!(lab.shown("web"), ["192.0.2.3"]);
    lab.assert_quiet();
}

#[test]
fn a_service_that_goes_in_the_middle_frees_both() {
    for again in [false, true] {
        let mut lab = moving(service("web", 1));
        lab.settle();
        lab.delete("web");
        if again {
            lab.apply(service("web", 2));
        }
        lab.pass(OVERLAP + COOL_DOWN);
        let left = lab.virtual_ips.keys().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(left, if again { vec!["192.0.2.2"] } else { vec![] });
        lab.assert_quiet();
    }
}

#[test]
fn a_pool_that_takes_the_old_address_back_in_the_middle_lets_it_go_on() {
    let mut lab = moving(service("web", 1));
    lab.settle();
    lab.set_config(config([reassigning(&["192.0.2.1-192.0.2.9"])]));
    lab.pass(OVERLAP + COOL_DOWN);
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);
    lab.assert_quiet();
}

#[test]
fn a_move_ends_when_the_old_address_is_asked_for_although_the_request_cannot_be_met() {
    for both in [false, true] {
        let mut lab = moving(service("web", 1));
        if both {
            lab.settle();
        } else {
            lab.step_watch();
        }
        lab.apply(asking(service("web", 1), None, &["192.0.2.1", "2001:db8::1"]));
        lab.pass(OVERLAP);
        assert_eq!(lab.shown("web"), ["192.0.2.1"], "shown both: {both}");
        lab.pass(COOL_DOWN);
        assert_eq!(lab.virtual_ips.len(), 1);
        lab.assert_quiet();
    }
}

#[test]
fn an_overlap_outlives_a_restart_although_its_cause_is_gone() {
    let mut lab = moving(service("web", 1));
    lab.settle();
    lab.set_config(config([pool("a", &["192.0.2.1-192.0.2.9"])]));
    lab.restart();
    lab.pass(OVERLAP - Duration::from_secs(1));
    assert_eq!(lab.shown("web"), ["192.0.2.2", "192.0.2.1"]);
    lab.pass(OVERLAP);
    assert_eq!(lab.shown("web"), ["192.0.2.2"], "the new one stays");
    lab.assert_quiet();
}

#[test]
fn a_move_that_is_not_shown_yet_ends_with_its_cause() {
    let mut lab = moving(service("web", 1));
    lab.step_watch();
    assert!(
        matches!(lab.writes.last(), Some(Write::SetVirtualIpStatus { .. })),
        "it has begun"
    );
    lab.set_config(config([pool("a", &["192.0.2.1-192.0.2.9"])]));
    lab.step_watch();
    lab.pass(OVERLAP + COOL_DOWN);
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert_eq!(lab.virtual_ips.len(), 1);
    lab.assert_quiet();
}

#[test]
fn a_renumbering_that_another_controller_began_goes_on_with_its_address() {
    let mut lab = moving(service("web", 1));
    // Another one led meanwhile, and has claimed and shown 192.0.2.5; this one hears of the pool first.
    let view = lab.services[&id("web")].clone();
    lab.put_virtual_ip(VirtualIp {
        pool: Some("a".to_owned()),
        ..virtual_ip("192.0.2.5", &[("web", Some(&view.uid))])
    });
    lab.put(ServiceView {
        ingress: vec![ip("192.0.2.5"), ip("192.0.2.1")],
        ..view
    });
    lab.step_stream(4);
    let own = |w: &Write| matches!(w, Write::CreateVirtualIp { address, .. } if *address == ip("192.0.2.2"));
    assert!(lab.writes.iter().any(own));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.5", "192.0.2.1"]);
    lab.pass(OVERLAP);
    assert_eq!(lab.shown("web"), ["192.0.2.5"]);
    lab.pass(COOL_DOWN);
    assert_eq!(lab.virtual_ips.len(), 1);
    lab.assert_quiet();
}
