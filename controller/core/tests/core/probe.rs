//! Addresses that other machines use: asked for before they are handed out, and told while it lasts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_controller_core::{EventKind, Input, Write, WriteError};
use ferrolb_model::{
    AnnouncementPolicy, Announcer, ConditionType, Config, ConflictDetection, FamilyPolicy, Layer2Settings, LinkView,
    NetworkView, Probe, Stranger,
};

use crate::fixtures::{asking, config, dual, endpoints, ip, policy, pool, service};
use crate::lab::{Fault, Lab};

const MAC: [u8; 6] = [2, 0, 0x5e, 0, 0, 7];

fn network(node: &str, subnet: &str, conflicts: &[&str]) -> Input {
    let stranger = Stranger {
        mac: MAC,
        interface: "eth0".to_owned(),
    };
    Input::Network(NetworkView {
        node: node.to_owned(),
        addresses: BTreeMap::new(),
        links: vec![LinkView {
            name: "eth0".to_owned(),
            running: true,
            subnets: [subnet.parse().unwrap()].into(),
        }],
        conflicts: conflicts.iter().map(|a| (ip(a), stranger.clone())).collect(),
    })
}

/// A cluster whose nodes n1 and n2 have speakers on the segment.
fn lab(pools: &[&str]) -> Lab {
    let mut lab = Lab::started([pool("a", pools)]);
    lab.speakers_think = true;
    for node in ["n1", "n2"] {
        lab.watched(network(node, "192.0.2.200/24", &[]));
    }
    lab.settle();
    lab
}

/// Who was asked about the address; nobody when its VirtualIP is not there.
fn asked(lab: &Lab, address: &str) -> Option<String> {
    match lab.virtual_ips.get(&ip(address))?.probe.as_deref()? {
        Probe::Asked { node } => Some(node.clone()),
        Probe::Occupied { .. } => None,
    }
}

fn owner(lab: &Lab, address: &str) -> Option<String> {
    Some(lab.virtual_ips.get(&ip(address))?.placement.clone()?.owner)
}

/// The speaker that was asked answers.
fn answer(lab: &mut Lab, address: &str, occupied: bool) {
    let node = asked(lab, address).expect("nobody was asked");
    let mut object = lab.virtual_ips[&ip(address)].clone();
    let stranger = Stranger {
        mac: MAC,
        interface: "eth0".to_owned(),
    };
    object.probe = occupied.then(|| Box::new(Probe::Occupied { node, stranger }));
    lab.put_virtual_ip(object);
    lab.settle();
}

fn detecting(detection: ConflictDetection) -> Arc<Config> {
    let policy = AnnouncementPolicy {
        layer2: Layer2Settings {
            conflict_detection: Some(detection),
            ..Layer2Settings::default()
        },
        ..policy("p")
    };
    let mut config = Config::clone(&config([pool("a", &["192.0.2.1-192.0.2.9"])]));
    config.announcement_policies = BTreeMap::from([(policy.name.clone(), policy)]);
    Arc::new(config)
}

#[test]
fn a_service_waits_for_the_answer_and_no_longer() {
    let mut lab = lab(&["192.0.2.1-192.0.2.9"]);
    lab.set_endpoints(endpoints("web", &["n2"]));
    lab.settle();
    lab.apply(service("web", 1));
    lab.settle();
    let node = asked(&lab, "192.0.2.1").expect("somebody is asked");
    assert!(lab.shown("web").is_empty(), "the answer is not there");
    assert!(owner(&lab, "192.0.2.1").is_none(), "nor is it announced before");
    answer(&mut lab, "192.0.2.1", false);
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert_eq!(owner(&lab, "192.0.2.1"), Some(node), "who has asked already");

    lab.apply(service("other", 2));
    lab.settle();
    let mute = asked(&lab, "192.0.2.2").unwrap();
    lab.pass(Duration::from_millis(999));
    assert!(lab.shown("other").is_empty());
    lab.pass(Duration::from_millis(2));
    assert_eq!(lab.shown("other"), ["192.0.2.2"], "a second is enough");
    assert_eq!(lab.controller.unanswered_probes(), 1);
    lab.apply(service("third", 3));
    lab.settle();
    assert_ne!(
        asked(&lab, "192.0.2.3"),
        Some(mute),
        "one that does not answer is left alone"
    );
}

#[test]
fn an_address_that_somebody_else_uses_is_passed_over_until_its_rest_ends() {
    let mut lab = lab(&["192.0.2.1-192.0.2.2"]);
    lab.apply(service("web", 1));
    lab.settle();
    answer(&mut lab, "192.0.2.1", true);
    assert!(
        !lab.virtual_ips.contains_key(&ip("192.0.2.1")),
        "given back without a cool-down"
    );
    let event = lab.events.iter().find(|e| e.kind == EventKind::Conflict).unwrap();
    assert!(
        event
            .message
            .contains("02:00:5e:00:00:07 on the segment of interface eth0"),
        "{}",
        event.message
    );
    answer(&mut lab, "192.0.2.2", false);
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);

    lab.apply(service("late", 2));
    lab.settle();
    assert!(lab.shown("late").is_empty());
    lab.pass(Duration::from_secs(29));
    assert_eq!(asked(&lab, "192.0.2.1"), None);
    lab.pass(Duration::from_secs(2));
    answer(&mut lab, "192.0.2.1", false);
    assert_eq!(lab.shown("late"), ["192.0.2.1"]);
}

#[test]
fn a_late_word_that_the_object_before_is_gone_ends_no_question() {
    let mut lab = lab(&["192.0.2.1/32"]);
    lab.apply(service("web", 1));
    while lab.step_watch() {}
    lab.feed(Input::VirtualIpGone(ip("192.0.2.1")));
    lab.settle();
    assert!(lab.shown("web").is_empty(), "nobody has answered");
    answer(&mut lab, "192.0.2.1", false);
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
}

#[test]
fn one_address_on_its_way_into_a_status_is_no_excuse_for_the_other() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32", "2001:db8::1/128"])]);
    lab.speakers_think = true;
    let mut both = network("n1", "192.0.2.200/24", &[]);
    if let Input::Network(view) = &mut both {
        view.links[0].subnets.insert("2001:db8::200/64".parse().unwrap());
    }
    lab.watched(both);
    lab.settle();
    lab.apply(dual(service("web", 1), FamilyPolicy::PreferDualStack));
    lab.settle();
    // The first answer lets the status be written; the second one comes before that has ended.
    let mut object = lab.virtual_ips[&ip("192.0.2.1")].clone();
    object.probe = None;
    lab.put_virtual_ip(object);
    while lab.step_watch() {}
    answer(&mut lab, "2001:db8::1", true);
    lab.pass(Duration::from_secs(5));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
}

#[test]
fn what_could_not_be_given_back_is_not_taken_again_unasked() {
    let mut lab = lab(&["192.0.2.1/32"]);
    lab.apply(service("web", 1));
    lab.settle();
    // The deletion of its VirtualIP.
    lab.faults = [Fault::Error(WriteError::Refused("not now".to_owned()))].into();
    answer(&mut lab, "192.0.2.1", true);
    assert!(lab.virtual_ips.contains_key(&ip("192.0.2.1")));
    lab.pass(Duration::from_secs(40));
    assert!(lab.shown("web").is_empty(), "nobody has asked since");
    lab.pass(Duration::from_secs(70));
    answer(&mut lab, "192.0.2.1", false);
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
}

#[test]
fn a_request_for_an_occupied_address_waits_with_the_reason() {
    let mut lab = lab(&["192.0.2.1-192.0.2.9"]);
    lab.apply(asking(service("web", 1), None, &["192.0.2.5"]));
    lab.settle();
    answer(&mut lab, "192.0.2.5", true);
    assert!(lab.shown("web").is_empty());
    assert!(
        lab.last_message("web").starts_with("AddressOccupied: "),
        "{}",
        lab.last_message("web")
    );
    assert_eq!(lab.controller.pending_by_reason().get("AddressOccupied"), Some(&1));
    lab.pass(Duration::from_secs(31));
    answer(&mut lab, "192.0.2.5", false);
    assert_eq!(lab.shown("web"), ["192.0.2.5"]);
}

#[test]
fn a_request_for_an_occupied_address_leaves_the_old_one_in_place() {
    let mut lab = lab(&["192.0.2.1-192.0.2.9"]);
    lab.apply(service("web", 1));
    lab.settle();
    answer(&mut lab, "192.0.2.1", false);
    lab.apply(asking(service("web", 1), None, &["192.0.2.5"]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    answer(&mut lab, "192.0.2.5", true);
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    lab.pass(Duration::from_secs(29));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    let back = &lab.virtual_ips[&ip("192.0.2.1")];
    assert_eq!(back.claims.len(), 1, "its claim outlives the attempt");
}

#[test]
fn nobody_is_asked_where_nobody_can_be_or_nobody_wants_it() {
    let mut alone = Lab::started([pool("a", &["192.0.2.1-192.0.2.9"])]);
    alone.watched(network("n1", "198.51.100.1/24", &[]));
    alone.settle();
    alone.apply(service("web", 1));
    alone.settle();
    assert_eq!(alone.shown("web"), ["192.0.2.1"], "no speaker is on the segment");

    for detection in [ConflictDetection::Passive, ConflictDetection::Disabled] {
        let mut lab = lab(&["192.0.2.1-192.0.2.9"]);
        lab.set_config(detecting(detection));
        lab.settle();
        lab.apply(service("web", 1));
        lab.settle();
        assert_eq!(lab.shown("web"), ["192.0.2.1"], "{detection:?}");
    }

    let mut bgp = lab(&["192.0.2.1-192.0.2.9"]);
    let mut config = Config::clone(&config([pool("a", &["192.0.2.1-192.0.2.9"])]));
    config.l2_advertisements.clear();
    bgp.set_config(Arc::new(config));
    bgp.settle();
    bgp.apply(service("web", 1));
    bgp.settle();
    assert_eq!(bgp.shown("web"), ["192.0.2.1"], "nothing is announced on the segment");
}

#[test]
fn what_stands_in_a_status_is_adopted_unasked_and_nothing_is_taken_from_it() {
    let mut lab = lab(&["192.0.2.1-192.0.2.9"]);
    let mut old = service("web", 1);
    old.ingress = vec![ip("192.0.2.4")];
    lab.put(old);
    lab.settle();
    let creates = |w: &&Write| matches!(w, Write::CreateVirtualIp { prober: Some(_), .. });
    assert_eq!(lab.writes.iter().find(creates), None);

    // An answer that comes after the Service was served takes nothing away.
    lab.apply(service("slow", 2));
    lab.settle();
    lab.pass(Duration::from_secs(2));
    assert_eq!(lab.shown("slow"), ["192.0.2.1"]);
    answer(&mut lab, "192.0.2.1", true);
    assert_eq!(lab.shown("slow"), ["192.0.2.1"]);
}

#[test]
fn a_controller_that_starts_finds_what_the_one_before_was_told() {
    let mut lab = lab(&["192.0.2.1-192.0.2.9"]);
    lab.apply(service("web", 1));
    lab.settle();
    answer(&mut lab, "192.0.2.1", true);
    lab.apply(asking(service("named", 2), None, &["192.0.2.7"]));
    lab.settle();
    let node = asked(&lab, "192.0.2.7").unwrap();
    let mut object = lab.virtual_ips[&ip("192.0.2.7")].clone();
    let stranger = Stranger {
        mac: MAC,
        interface: "eth0".to_owned(),
    };
    object.probe = Some(Box::new(Probe::Occupied { node, stranger }));
    lab.put_virtual_ip(object);
    lab.restart();
    lab.settle();
    assert!(lab.shown("named").is_empty());
    let exists = |lab: &Lab| lab.virtual_ips.contains_key(&ip("192.0.2.7"));
    assert!(exists(&lab), "the one before may have handed it out");
    lab.pass(Duration::from_secs(60));
    assert!(!exists(&lab));
}

#[test]
fn a_conflict_is_a_condition_while_it_lasts() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.9"])]);
    lab.apply(service("web", 1));
    lab.settle();
    let conflict = |lab: &Lab| {
        let conditions = &lab.virtual_ips[&ip("192.0.2.1")].conditions;
        conditions
            .get(&ConditionType::Conflict)
            .map(|c| (c.status, c.reason.clone(), c.message.clone()))
    };
    assert_eq!(conflict(&lab), None);
    lab.watched(network("n3", "198.51.100.1/24", &["192.0.2.1"]));
    lab.settle();
    let (status, reason, message) = conflict(&lab).unwrap();
    assert_eq!((status, reason.as_str()), (true, "AddressOccupied"));
    assert!(
        message.contains("02:00:5e:00:00:07 on the segment of interface eth0 of node n3"),
        "{message}"
    );
    assert_eq!(lab.controller.conflicts(), 1);
    lab.watched(network("n3", "198.51.100.1/24", &[]));
    lab.settle();
    assert_eq!(conflict(&lab), None);
    lab.watched(network("n3", "198.51.100.1/24", &["192.0.2.1"]));
    lab.watched(Input::NetworkGone("n3".to_owned()));
    lab.settle();
    assert_eq!((conflict(&lab), lab.controller.conflicts()), (None, 0));
}

#[test]
fn many_are_asked_about_side_by_side_and_by_all() {
    let mut lab = lab(&["192.0.2.1-192.0.2.99"]);
    for n in 0..40 {
        lab.apply(service(&format!("s{n}"), n));
    }
    lab.settle();
    let open = lab
        .virtual_ips
        .keys()
        .filter_map(|a| asked(&lab, &a.to_string()))
        .collect::<Vec<_>>();
    assert_eq!(open.len(), 40);
    assert!(open.iter().filter(|n| *n == "n1").count() >= 15, "{open:?}");
    assert!(open.iter().filter(|n| *n == "n2").count() >= 15, "{open:?}");
    for address in lab.virtual_ips.keys().map(ToString::to_string).collect::<Vec<_>>() {
        answer(&mut lab, &address, false);
    }
    assert_eq!(lab.services.values().filter(|s| !s.ingress.is_empty()).count(), 40);
}

#[test]
fn an_announcer_says_enough() {
    let mut lab = lab(&["192.0.2.1-192.0.2.9"]);
    lab.apply(service("web", 1));
    lab.settle();
    let mut object = lab.virtual_ips[&ip("192.0.2.1")].clone();
    object.announcer = Some(Announcer {
        node: "n2".to_owned(),
        interfaces: ["eth0".to_owned()].into(),
    });
    lab.put_virtual_ip(object);
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
}
