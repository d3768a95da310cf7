//! Owners that do not confirm that they announce their address: what is said, from when on, how often, and until when.

use std::sync::Arc;
use std::time::Duration;

use ferrolb_controller_core::{EventKind, Write};
use ferrolb_model::{
    AnnouncementPolicy, Announcer, Condition, ConditionType, Config, EndpointSettings, NodeView, TrafficPolicy,
};

use crate::fixtures::*;
use crate::lab::*;

const ADDRESS: &str = "192.0.2.1";
const INSIDE: &str = "192.0.2.250/24";
/// How long an owner has to confirm.
const PATIENCE: Duration = Duration::from_secs(30);
const MOMENT: Duration = Duration::from_millis(1);

/// Three nodes and a Service `web`, just placed.
fn one() -> Lab {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.99"])]);
    serve(&mut lab);
    lab
}

fn serve(lab: &mut Lab) {
    lab.set_endpoints(endpoints("web", &["n1", "n2", "n3"]));
    lab.apply(service("web", 1));
    lab.settle();
}

fn owner(lab: &Lab) -> String {
    lab.owner(ADDRESS).expect("an owner").to_owned()
}

fn announced(lab: &Lab) -> Condition {
    lab.virtual_ips[&ip(ADDRESS)].conditions[&ConditionType::Announced].clone()
}

fn failures(lab: &Lab) -> usize {
    let kinds = lab.kinds("web");
    kinds.iter().filter(|kind| **kind == EventKind::AnnounceFailed).count()
}

/// The speaker of this node tells of its network.
fn speak(lab: &mut Lab, node: &str) {
    lab.set_network(network(node, &[("eth0", true, INSIDE)]));
    lab.settle();
}

fn confirm_by(lab: &mut Lab, node: String) {
    let mut object = lab.virtual_ips[&ip(ADDRESS)].clone();
    let interfaces = Box::default();
    object.announcer = Some(Announcer { node, interfaces });
    lab.put_virtual_ip(object);
}

fn confirm(lab: &mut Lab) {
    let owner = owner(lab);
    confirm_by(lab, owner);
    lab.settle();
}

#[test]
fn it_is_said_where_the_watch_is_faster_than_the_answer() {
    let mut lab = one();
    lab.answers_late = true;
    lab.pass(PATIENCE);
    assert_eq!((announced(&lab).reason.as_str(), failures(&lab)), ("NoSpeaker", 1));
    lab.restart();
    lab.pass(2 * PATIENCE);
    assert_eq!(failures(&lab), 1, "what stands there was said");
}

#[test]
fn without_any_speaker_it_is_said_once_and_until_the_owner_confirms() {
    let mut lab = one();
    lab.pass(PATIENCE - MOMENT);
    assert_eq!((announced(&lab).reason.as_str(), failures(&lab)), ("Pending", 0));
    lab.pass(MOMENT);
    let said = announced(&lab);
    assert_eq!((said.status, said.reason.as_str()), (false, "NoSpeaker"));
    assert!(said.message.contains("DaemonSet ferrolb-speaker"), "{}", said.message);
    assert_eq!(failures(&lab), 1);
    let message = lab.last_message("web");
    assert!(
        message.contains(&format!("{ADDRESS}. NoSpeaker: {}", said.message)),
        "{message}"
    );
    let writes = lab.writes.len();
    lab.assert_quiet();
    lab.pass(10 * PATIENCE);
    lab.restart();
    lab.pass(10 * PATIENCE);
    assert_eq!(lab.writes[writes..], [], "it stands, over a restart too");
    assert_eq!(failures(&lab), 1);

    speak(&mut lab, "n1");
    speak(&mut lab, "n2");
    speak(&mut lab, "n3");
    assert_eq!(lab.writes[writes..], [], "the owner may confirm in a moment");
    confirm(&mut lab);
    assert_eq!(
        (announced(&lab).status, announced(&lab).reason.as_str()),
        (true, "Announced")
    );
    assert_eq!((lab.writes.len() - writes, failures(&lab)), (1, 1));
    lab.assert_quiet();
}

#[test]
fn a_speaker_that_only_starts_is_not_missed() {
    let mut lab = one();
    lab.pass(PATIENCE - MOMENT);
    confirm(&mut lab);
    lab.pass(10 * PATIENCE);
    assert_eq!((announced(&lab).status, failures(&lab)), (true, 0));
}

#[test]
fn an_owner_whose_speaker_is_known_is_named() {
    let mut lab = one();
    for name in ["n1", "n2", "n3"] {
        speak(&mut lab, name);
    }
    let owner = owner(&lab);
    lab.pass(PATIENCE);
    let said = announced(&lab);
    assert_eq!((said.status, said.reason.as_str()), (false, "NotConfirmed"));
    assert!(said.message.contains(&format!("node {owner} ")), "{}", said.message);
    assert_eq!(failures(&lab), 1);
    lab.restart();
    lab.pass(10 * PATIENCE);
    assert_eq!(failures(&lab), 1);

    // Another owner has as much time as this one had.
    lab.delete_node(&owner);
    lab.settle();
    lab.pass(PATIENCE - MOMENT);
    assert_eq!((announced(&lab).reason.as_str(), failures(&lab)), ("Pending", 1));
    lab.pass(MOMENT);
    assert_eq!((announced(&lab).reason.as_str(), failures(&lab)), ("NotConfirmed", 2));
    confirm(&mut lab);
    assert!(announced(&lab).status);
    lab.assert_quiet();
}

#[test]
fn who_speaks_and_does_not_confirm_is_named_after_a_while() {
    let mut lab = one();
    lab.pass(PATIENCE);
    let owner = owner(&lab);
    speak(&mut lab, &owner);
    lab.pass(PATIENCE - MOMENT);
    assert_eq!(announced(&lab).reason, "NoSpeaker");
    lab.pass(MOMENT);
    assert_eq!(announced(&lab).reason, "NotConfirmed");
    assert_eq!(failures(&lab), 2);
    lab.assert_quiet();
}

#[test]
fn another_owner_among_nodes_without_speakers_is_no_news() {
    let mut lab = one();
    lab.pass(PATIENCE);
    for _ in 0..2 {
        let before = owner(&lab);
        lab.delete_node(&before);
        lab.settle();
        assert_ne!(owner(&lab), before);
        assert_eq!(announced(&lab).reason, "NoSpeaker");
        lab.pass(2 * PATIENCE);
    }
    assert_eq!((announced(&lab).reason.as_str(), failures(&lab)), ("NoSpeaker", 1));
    lab.assert_quiet();
}

#[test]
fn speakers_count_where_they_could_announce() {
    // No endpoint there.
    let mut lab = one();
    let mut local = service("web", 1);
    local.traffic_policy = TrafficPolicy::Local;
    lab.apply(local);
    lab.set_endpoints(endpoints("web", &["n1"]));
    speak(&mut lab, "n2");
    lab.pass(2 * PATIENCE);
    assert_eq!(announced(&lab).reason, "NoSpeaker");
    // Kept out.
    let mut lab = one();
    lab.set_node(NodeView {
        excluded: true,
        ..node("n2")
    });
    speak(&mut lab, "n2");
    lab.pass(2 * PATIENCE);
    assert_eq!(announced(&lab).reason, "NoSpeaker");
    // One that tells of no interface is there nevertheless.
    let mut lab = one();
    let owner = owner(&lab);
    lab.set_network(network(&owner, &[]));
    lab.settle();
    lab.pass(2 * PATIENCE);
    assert_eq!(announced(&lab).reason, "NotConfirmed");
}

#[test]
fn a_policy_that_lets_owners_wait_gives_them_more_time() {
    let wait = Duration::from_secs(300);
    let mut config = Config::clone(&config([pool("a", &["192.0.2.1-192.0.2.99"])]));
    let policy = AnnouncementPolicy {
        endpoints: EndpointSettings {
            serving: None,
            wait: Some(wait),
        },
        ..policy("patient")
    };
    config.announcement_policies.insert(policy.name.clone(), policy);
    let mut lab = Lab::new(Arc::new(config));
    lab.restart();
    serve(&mut lab);
    lab.pass(PATIENCE + wait - MOMENT);
    assert_eq!(announced(&lab).reason, "Pending");
    lab.pass(MOMENT);
    assert_eq!(announced(&lab).reason, "NoSpeaker");
}

#[test]
fn who_slept_meanwhile_tells_nobody_what_is_not_so() {
    let mut lab = one();
    let owner = owner(&lab);
    confirm_by(&mut lab, owner);
    // The owner has confirmed, and the controller wakes up before its watch does.
    lab.now += 2 * PATIENCE;
    lab.feed(ferrolb_controller_core::Input::Tick);
    assert!(lab.step_write(), "it is taken to be overdue");
    lab.settle();
    lab.pass(PATIENCE);
    assert_eq!((announced(&lab).status, failures(&lab)), (true, 0));
}

#[test]
fn many_addresses_are_written_once_each() {
    const ADDRESSES: usize = 200;
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.250"])]);
    for n in 1..=ADDRESSES {
        lab.set_endpoints(endpoints(&format!("s{n}"), &["n1"]));
        lab.apply(service(&format!("s{n}"), n as i64));
    }
    lab.settle();
    let before = lab.writes.len();
    lab.pass(PATIENCE);
    let said = lab.writes.split_off(before);
    assert_eq!(said.len(), ADDRESSES);
    assert!(
        said.iter()
            .all(|write| matches!(write, Write::SetVirtualIpStatus { .. }))
    );
    let before = lab.writes.len();
    for name in ["n1", "n2", "n3"] {
        speak(&mut lab, name);
    }
    lab.restart();
    lab.pass(PATIENCE - MOMENT);
    assert_eq!(lab.writes[before..], []);
}
