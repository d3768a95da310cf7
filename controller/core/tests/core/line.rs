//! Who is served first when several want the same.

use std::time::Duration;

use ferrolb_controller_core::{EventKind, Write};
use ferrolb_model::{FamilyPolicy, Pool};

use crate::fixtures::*;
use crate::lab::*;

const COOL_DOWN: Duration = Duration::from_secs(61);

#[test]
fn those_who_wait_for_one_address_are_served_by_age() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.9"])]);
    lab.apply(asking(service("holder", 1), None, &["192.0.2.5"]));
    lab.settle();
    for (name, age) in [("young", 9), ("old", 3), ("middle", 5)] {
        lab.apply(asking(service(name, age), None, &["192.0.2.5"]));
        lab.settle();
        assert!(lab.last_message(name).starts_with("AddressInUse: "), "{name}");
    }
    lab.delete("holder");
    lab.pass(COOL_DOWN);
    assert_eq!(lab.shown("old"), ["192.0.2.5"]);
    assert_eq!(
        lab.last_message("young"),
        "AddressInUse: address 192.0.2.5 is in use by default/old",
        "the reason names the new holder"
    );
    lab.delete("old");
    lab.pass(COOL_DOWN);
    assert_eq!((lab.shown("middle").len(), lab.shown("young").len()), (1, 0));
    lab.assert_quiet();
}

#[test]
fn a_holder_that_wishes_for_another_address_stands_in_the_same_line() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.9"])]);
    lab.apply(asking(service("holder", 1), None, &["192.0.2.5"]));
    lab.apply(service("web", 2));
    lab.settle();
    lab.apply(asking(service("young", 3), None, &["192.0.2.5"]));
    lab.settle();
    lab.apply(asking(service("web", 2), None, &["192.0.2.5"]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    lab.delete("holder");
    lab.pass(COOL_DOWN);
    assert_eq!(
        (lab.shown("web"), lab.shown("young").len()),
        (vec!["192.0.2.5".to_owned()], 0)
    );
}

#[test]
fn an_address_that_comes_free_goes_to_whoever_named_it() {
    // One address, and an older Service that any address will do for.
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(service("holder", 1));
    lab.settle();
    lab.apply(service("any", 2));
    lab.apply(asking(service("named", 3), None, &["192.0.2.1"]));
    lab.settle();
    lab.delete("holder");
    lab.pass(Duration::from_secs(59));
    // One more comes up in the very moment in which the address does.
    while lab.step_write() || lab.step_watch() {}
    lab.apply(service("late", 0));
    lab.pass(Duration::from_secs(2));
    assert_eq!(lab.shown("named"), ["192.0.2.1"]);
    assert_eq!((lab.shown("any").len(), lab.shown("late").len()), (0, 0));
    // Withdrawn wishes do not block.
    lab.apply(asking(service("next", 4), None, &["192.0.2.1"]));
    lab.settle();
    lab.apply(asking(service("next", 4), None, &["203.0.113.1"]));
    lab.delete("named");
    lab.pass(COOL_DOWN);
    assert_eq!(lab.shown("late"), ["192.0.2.1"], "the oldest of those left");
    lab.assert_quiet();
}

#[test]
fn a_wish_that_cannot_be_met_for_another_reason_reserves_nothing() {
    let pools = [pool("a", &["192.0.2.1/32", "2001:db8::1/128"])];
    let mut lab = Lab::started(pools);
    let pair = asking(
        dual(service("pair", 1), FamilyPolicy::RequireDualStack),
        None,
        &["192.0.2.1", "2001:db8::99"],
    );
    lab.apply(pair);
    lab.apply(service("any", 2));
    lab.settle();
    assert_eq!(
        (lab.shown("pair").len(), lab.shown("any")),
        (0, vec!["192.0.2.1".to_owned()])
    );
}

#[test]
fn a_pool_that_grows_serves_names_first_and_then_by_age() {
    let mut lab = Lab::started([pool("a", &["192.0.2.9/32"])]);
    lab.apply(service("holder", 0));
    lab.settle();
    lab.apply(service("third", 3));
    lab.apply(service("second", 2));
    lab.apply(asking(service("named", 7), None, &["192.0.2.1"]));
    lab.settle();
    lab.set_config(config([pool("a", &["192.0.2.1-192.0.2.2", "192.0.2.9/32"])]));
    lab.settle();
    assert_eq!(lab.shown("named"), ["192.0.2.1"]);
    assert_eq!(
        (lab.shown("second"), lab.shown("third").len()),
        (vec!["192.0.2.2".to_owned()], 0)
    );
}

#[test]
fn a_first_pass_serves_names_first_and_then_by_age() {
    let mut lab = Lab::new(config([pool("a", &["192.0.2.1-192.0.2.2"])]));
    lab.put(service("any", 1));
    lab.put(asking(service("named", 2), None, &["192.0.2.1"]));
    lab.restart();
    lab.settle();
    assert_eq!(
        (lab.shown("named"), lab.shown("any")),
        (vec!["192.0.2.1".to_owned()], vec!["192.0.2.2".to_owned()])
    );
}

#[test]
fn a_request_for_an_address_that_cools_down_waits() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.3"])]);
    lab.apply(service("web", 1));
    lab.settle();
    lab.delete("web");
    lab.apply(asking(service("new", 2), None, &["192.0.2.1"]));
    lab.pass(Duration::from_secs(30));
    assert_eq!(lab.kinds("new"), [EventKind::AllocationFailed]);
    assert_eq!(
        lab.last_message("new"),
        "AddressInUse: address 192.0.2.1 is in use by default/web"
    );
    lab.pass(Duration::from_secs(31));
    assert_eq!(lab.shown("new"), ["192.0.2.1"]);
    lab.assert_quiet();
}

#[test]
fn the_last_sharer_alone_is_given_time() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(sharing(service("one", 1), "k", 80));
    lab.apply(sharing(service("two", 2), "k", 443));
    lab.apply(asking(service("wants", 3), None, &["192.0.2.1"]));
    lab.settle();
    lab.delete("one");
    lab.pass(COOL_DOWN);
    assert_eq!(lab.shown("wants"), [""; 0]);
    lab.delete("two");
    lab.pass(Duration::from_secs(30));
    lab.apply(sharing(service("one", 4), "k", 80));
    lab.settle();
    assert_eq!(lab.shown("one"), [""; 0], "the time is for the last one");
    lab.pass(Duration::from_secs(31));
    assert_eq!(lab.shown("wants"), ["192.0.2.1"]);
}

#[test]
fn the_same_history_gives_the_same_addresses() {
    let history = || {
        let mut lab = Lab::started([pool("z", &["192.0.2.1-192.0.2.3"]), pool("a", &["192.0.2.7-192.0.2.9"])]);
        for n in 0..5 {
            lab.apply(service(&format!("s{n}"), 10 - n));
        }
        lab.settle();
        lab.delete("s1");
        lab.apply(asking(service("named", 20), None, &["192.0.2.8"]));
        lab.apply(service("last", 21));
        lab.pass(COOL_DOWN);
        let shown = lab.services.values().map(|v| (v.id.name.clone(), v.ingress.clone()));
        shown.collect::<Vec<_>>()
    };
    assert_eq!(history(), history());
}

#[test]
fn whoever_waits_is_told_who_joined_the_address() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(sharing(service("web", 1), "key", 80));
    lab.apply(asking(service("fixed", 2), None, &["192.0.2.1"]));
    lab.settle();
    assert!(lab.last_message("fixed").ends_with("in use by default/web"));
    lab.apply(sharing(service("dns", 3), "key", 53));
    lab.settle();
    assert!(lab.last_message("fixed").ends_with("in use by default/dns"));
    lab.assert_quiet();
}

#[test]
fn who_may_not_share_waits_until_the_other_has_left_the_status() {
    let manual = Pool {
        auto_assign: false,
        ..pool("b", &["198.51.100.1/32"])
    };
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"]), manual]);
    lab.apply(sharing(service("one", 1), "k", 80));
    lab.apply(sharing(service("two", 2), "k", 81));
    lab.apply(sharing(service("three", 3), "k", 80));
    lab.settle();
    assert!(lab.shown("three").is_empty());
    lab.apply(asking(sharing(service("one", 1), "k", 80), Some("b"), &[]));
    lab.settle();
    assert_eq!(lab.shown("one"), ["198.51.100.1"]);
    assert_eq!(lab.shown("three"), ["192.0.2.1"]);
    for write in &lab.writes {
        if let Write::UpdateVirtualIp { claims, .. } = write {
            let names = |name| claims.iter().any(|c| c.service == id(name));
            assert!(!(names("one") && names("three")), "{claims:?}");
        }
    }
    lab.assert_quiet();
}
