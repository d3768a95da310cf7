//! Which nodes may announce: drains, and what speakers tell of interfaces and subnets.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{
    AnnouncementPolicy, Announcer, Condition, ConditionType, Config, DrainSettings, DrainTrigger, Layer2Settings,
    NodeView, Placement, TrafficPolicy,
};

use crate::fixtures::*;
use crate::lab::*;

const ADDRESS: &str = "192.0.2.1";
const INSIDE: &str = "192.0.2.250/24";
const OUTSIDE: &str = "198.51.100.1/24";
const SECOND: Duration = Duration::from_secs(1);

fn triggers(triggers: &[DrainTrigger], delay: u64) -> DrainSettings {
    DrainSettings {
        triggers: Some(triggers.iter().copied().collect()),
        delay: Some(Duration::from_secs(delay)),
    }
}

/// A Service `web` on [`ADDRESS`], on three nodes, with these settings.
fn one(drain: DrainSettings, layer2: Layer2Settings) -> Lab {
    let mut config = Config::clone(&config([pool("a", &["192.0.2.1-192.0.2.99"])]));
    let policy = AnnouncementPolicy {
        layer2,
        drain,
        ..policy("drains")
    };
    config.announcement_policies.insert(policy.name.clone(), policy);
    let mut lab = Lab::new(Arc::new(config));
    lab.restart();
    lab.set_endpoints(endpoints("web", &["n1", "n2", "n3"]));
    lab.apply(service("web", 1));
    lab.settle();
    lab
}

fn owner(lab: &Lab) -> String {
    lab.owner(ADDRESS).expect("an owner").to_owned()
}

fn placed(lab: &Lab) -> BTreeSet<String> {
    let placed = lab.virtual_ips[&ip(ADDRESS)].placement.clone().expect("a placement");
    placed.standbys.into_iter().chain([placed.owner]).collect()
}

/// What the condition says once the owner announces.
fn announced(lab: &mut Lab) -> Condition {
    let mut object = lab.virtual_ips[&ip(ADDRESS)].clone();
    object.announcer = object.placement.as_ref().map(|placed| Announcer {
        node: placed.owner.clone(),
        interfaces: Box::default(),
    });
    lab.put_virtual_ip(object);
    lab.settle();
    lab.virtual_ips[&ip(ADDRESS)].conditions[&ConditionType::Announced].clone()
}

fn change(lab: &mut Lab, name: &str, change: impl FnOnce(&mut NodeView)) {
    let mut view = lab.nodes[name].clone();
    change(&mut view);
    lab.set_node(view);
    lab.settle();
}

fn cordon(lab: &mut Lab, name: &str, cordoned: bool) {
    change(lab, name, |node| node.cordoned = cordoned);
}

#[test]
fn the_triggers_of_the_policy_drain_and_no_others() {
    type Pull = fn(&mut NodeView);
    let pulls: [(DrainTrigger, Pull); 3] = [
        (DrainTrigger::ExcludeLabel, |n| n.excluded = true),
        (DrainTrigger::Cordon, |n| n.cordoned = true),
        (DrainTrigger::Taint, |n| n.evicting = true),
    ];
    let policies = [
        (DrainSettings::default(), vec![DrainTrigger::ExcludeLabel]),
        (triggers(&[], 0), vec![]),
        (triggers(&[DrainTrigger::Cordon], 0), vec![DrainTrigger::Cordon]),
        (triggers(&[DrainTrigger::Taint], 0), vec![DrainTrigger::Taint]),
    ];
    for (settings, drains) in policies {
        for (trigger, pull) in pulls {
            let mut lab = one(settings.clone(), Layer2Settings::default());
            let old = owner(&lab);
            change(&mut lab, &old, pull);
            let moved = drains.contains(&trigger);
            assert_eq!(owner(&lab) != old, moved, "{settings:?} {trigger:?}");
            assert_eq!(!placed(&lab).contains(&old), moved, "nor is it a standby");
            lab.assert_quiet();
            let heir = owner(&lab);
            lab.set_node(node(&old));
            lab.settle();
            assert_eq!(owner(&lab), heir, "nothing moves back");
            assert_eq!(placed(&lab).len(), 3, "it stands by again");
        }
    }
}

#[test]
fn a_drain_waits_for_its_delay_and_forgets_one_that_ended() {
    let mut lab = one(triggers(&[DrainTrigger::Cordon], 30), Layer2Settings::default());
    let old = owner(&lab);
    cordon(&mut lab, &old, true);
    lab.pass(29 * SECOND);
    cordon(&mut lab, &old, false);
    cordon(&mut lab, &old, true);
    lab.pass(29 * SECOND);
    assert_eq!(owner(&lab), old);
    lab.pass(2 * SECOND);
    assert_ne!(owner(&lab), old);
    lab.assert_quiet();
}

#[test]
fn who_drains_as_the_last_keeps_the_address_until_another_can_have_it() {
    let mut lab = one(
        triggers(&[DrainTrigger::Cordon, DrainTrigger::Taint], 0),
        Layer2Settings::default(),
    );
    let last = owner(&lab);
    let others = ["n1", "n2", "n3"]
        .into_iter()
        .filter(|n| *n != last)
        .collect::<Vec<_>>();
    cordon(&mut lab, others[0], true);
    change(&mut lab, others[1], |n| n.evicting = true);
    assert_eq!(placed(&lab), BTreeSet::from([last.clone()]));
    cordon(&mut lab, &last, true);
    assert_eq!(owner(&lab), last);
    let condition = announced(&mut lab);
    assert_eq!((condition.status, &*condition.reason), (true, "LastCandidate"));
    assert!(condition.message.contains("Cordoned"), "{}", condition.message);
    assert_eq!(placed(&lab).len(), 3, "those that drain stand by for each other");
    lab.assert_quiet();

    // The guard holds over a time without endpoints, and over a restart.
    lab.set_endpoints(endpoints("web", &[]));
    lab.settle();
    assert_eq!(lab.owner(ADDRESS), None);
    lab.set_endpoints(endpoints("web", &["n1"]));
    lab.settle();
    let keeper = owner(&lab);
    lab.restart();
    lab.settle();
    assert_eq!(owner(&lab), keeper);

    let free = ["n1", "n2", "n3"].into_iter().find(|n| *n != keeper).unwrap();
    change(&mut lab, free, |n| (n.cordoned, n.evicting) = (false, false));
    assert_eq!(
        placed(&lab),
        BTreeSet::from([free.to_owned()]),
        "as soon as another can"
    );
    assert_eq!(announced(&mut lab).reason, "Announced");
    lab.assert_quiet();
}

#[test]
fn the_guard_looks_at_local_endpoints_too() {
    let mut lab = one(triggers(&[DrainTrigger::Cordon], 0), Layer2Settings::default());
    let mut local = service("web", 1);
    local.traffic_policy = TrafficPolicy::Local;
    lab.apply(local);
    lab.set_endpoints(endpoints("web", &["n2"]));
    lab.settle();
    cordon(&mut lab, "n2", true);
    assert_eq!(owner(&lab), "n2", "nobody else has an endpoint");
    lab.set_endpoints(endpoints("web", &["n2", "n3"]));
    lab.settle();
    assert_eq!(owner(&lab), "n3");
    lab.assert_quiet();
}

#[test]
fn the_label_takes_even_the_last_node_out() {
    let mut lab = one(DrainSettings::default(), Layer2Settings::default());
    for name in ["n1", "n2", "n3"] {
        change(&mut lab, name, |n| n.excluded = true);
    }
    assert_eq!(lab.owner(ADDRESS), None);
    assert!(
        lab.last_message("web").contains("n1: Excluded"),
        "{}",
        lab.last_message("web")
    );
}

#[test]
fn an_address_is_where_an_interface_of_its_subnet_runs() {
    let mut lab = one(DrainSettings::default(), Layer2Settings::default());
    for name in ["n1", "n2", "n3"] {
        lab.set_network(network(name, &[("eth0", true, INSIDE)]));
    }
    lab.settle();
    let old = owner(&lab);
    assert_eq!(placed(&lab).len(), 3);
    lab.set_network(network(&old, &[("eth0", false, INSIDE), ("eth1", true, OUTSIDE)]));
    lab.settle();
    let heir = owner(&lab);
    assert!(!placed(&lab).contains(&old), "the interface of the subnet is down");
    lab.set_network(network(&old, &[("eth0", true, INSIDE)]));
    lab.settle();
    assert_eq!(owner(&lab), heir, "nothing moves back");
    assert_eq!(placed(&lab).len(), 3);

    // All lose it: the last one keeps the address, and says why.
    for name in ["n1", "n2", "n3"].into_iter().filter(|n| *n != heir).chain([&*heir]) {
        lab.set_network(network(name, &[("eth0", false, INSIDE)]));
        lab.settle();
    }
    assert_eq!(owner(&lab), heir);
    let condition = announced(&mut lab);
    assert_eq!(condition.reason, "LastCandidate");
    assert!(condition.message.contains("NoInterface"), "{}", condition.message);
    lab.assert_quiet();
}

#[test]
fn without_the_check_any_subnet_will_do() {
    let unchecked = Layer2Settings {
        subnet_check: Some(false),
        ..Layer2Settings::default()
    };
    for (layer2, placed) in [(unchecked, true), (Layer2Settings::default(), false)] {
        let mut lab = one(DrainSettings::default(), layer2);
        for name in ["n1", "n2", "n3"] {
            lab.set_network(network(name, &[("eth0", true, OUTSIDE)]));
        }
        lab.settle();
        assert!(lab.owner(ADDRESS).is_some(), "what is announced stays");
        lab.set_endpoints(endpoints("new", &["n1"]));
        lab.apply(service("new", 2));
        lab.settle();
        assert_eq!(lab.owner("192.0.2.2").is_some(), placed);
        assert_eq!(lab.last_message("new").contains("n1: NoSubnet"), !placed);
        lab.assert_quiet();
    }
}

#[test]
fn interfaces_that_advertisements_name_count_alone() {
    let mut lab = one(DrainSettings::default(), Layer2Settings::default());
    for name in ["n1", "n2"] {
        lab.set_network(network(name, &[("eth0", true, INSIDE)]));
    }
    lab.set_network(network("n3", &[("eth0", true, OUTSIDE), ("lan", true, INSIDE)]));
    let mut config = Config::clone(&lab.config);
    let named = Some(BTreeSet::from(["lan".to_owned()]));
    config.l2_advertisements.get_mut("all").unwrap().interfaces = named;
    lab.set_config(Arc::new(config));
    lab.settle();
    assert_eq!(placed(&lab), BTreeSet::from(["n3".to_owned()]));
    lab.assert_quiet();
}

#[test]
fn a_node_without_a_speaker_is_left_out_once_others_have_had_time() {
    let mut lab = one(DrainSettings::default(), Layer2Settings::default());
    lab.pass(100 * SECOND);
    assert_eq!(placed(&lab).len(), 3, "nothing is heard of any");
    let old = owner(&lab);
    let others = ["n1", "n2", "n3"].into_iter().filter(|n| *n != old).collect::<Vec<_>>();
    lab.set_network(network(others[0], &[("eth0", true, INSIDE)]));
    lab.settle();
    lab.pass(29 * SECOND);
    assert_eq!(owner(&lab), old, "it may still come");
    lab.set_network(network(others[1], &[("eth0", true, INSIDE)]));
    lab.pass(2 * SECOND);
    assert_ne!(owner(&lab), old);
    assert!(!placed(&lab).contains(&old));
    lab.set_network(network(&old, &[("eth0", true, INSIDE)]));
    lab.settle();
    assert!(placed(&lab).contains(&old), "it has come");
    lab.assert_quiet();
}

/// Of two nodes the one that is not Ready has taken over, because the other has lost its power; gives that one first.
fn taken_over_by_a_spare() -> (Lab, String, &'static str) {
    let mut lab = one(DrainSettings::default(), Layer2Settings::default());
    lab.delete_node("n3");
    for name in ["n1", "n2"] {
        lab.set_network(network(name, &[("eth0", true, INSIDE)]));
    }
    lab.settle();
    let old = owner(&lab);
    let other = if old == "n1" { "n2" } else { "n1" };
    change(&mut lab, other, |n| n.ready = false);
    assert_eq!((owner(&lab), placed(&lab).len()), (old.clone(), 2), "it stands by");
    let mut object = lab.virtual_ips[&ip(ADDRESS)].clone();
    object.placement = Some(Placement {
        owner: other.to_owned(),
        standbys: Vec::new(),
        epoch: object.placement.expect("a placement").epoch + 1,
    });
    lab.put_virtual_ip(object);
    lab.settle();
    (lab, old, other)
}

#[test]
fn where_one_node_alone_may_announce_another_that_is_not_ready_stands_by() {
    let (mut lab, old, other) = taken_over_by_a_spare();
    lab.pass(60 * SECOND);
    assert_eq!(owner(&lab), other, "Kubernetes has not noticed yet");
    change(&mut lab, &old, |n| n.ready = false);
    lab.pass(60 * SECOND);
    assert_eq!(owner(&lab), other);
    lab.assert_quiet();
    lab.set_node(node(&old));
    lab.settle();
    assert_eq!(owner(&lab), old, "nothing speaks against it");
}

#[test]
fn a_takeover_by_a_node_that_is_not_ready_counts_for_a_while() {
    let (mut lab, old, other) = taken_over_by_a_spare();
    lab.pass(89 * SECOND);
    assert_eq!(owner(&lab), other);
    lab.pass(2 * SECOND);
    assert_eq!(owner(&lab), old, "Kubernetes has heard of it all the time");
    lab.assert_quiet();
}
