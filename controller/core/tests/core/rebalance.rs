//! Rebalancing on request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_controller_core::{Input, RebalanceRequest};
use ferrolb_model::{
    Announcer, AntiAffinity, Config, LabelSelector, Layer2Settings, Operator, PreferredNode, Requirement,
};

use crate::fixtures::*;
use crate::lab::*;
use crate::spread::with_policy;

/// So many addresses on the first three nodes, before the fourth comes.
fn crowd(count: i64) -> Lab {
    let mut lab = Lab::started([pool("a", &["192.0.2.0/24"])]);
    for n in 0..count {
        let name = format!("s{n:02}");
        lab.set_endpoints(endpoints(&name, &["n1"]));
        lab.apply(service(&name, n));
    }
    lab.settle();
    confirm(&mut lab);
    lab.set_node(node("n4"));
    lab.settle();
    lab
}

/// The addresses whose owner has not announced them yet.
fn pending(lab: &Lab) -> Vec<std::net::IpAddr> {
    let owner = |o: &ferrolb_model::VirtualIp| o.placement.as_ref().map(|p| p.owner.clone());
    let pending = lab
        .virtual_ips
        .values()
        .filter(|o| owner(o) != o.announcer.as_ref().map(|a| a.node.clone()));
    pending.map(|o| o.address).collect()
}

/// Lets every owner announce.
fn confirm(lab: &mut Lab) {
    for address in pending(lab) {
        let mut object = lab.virtual_ips[&address].clone();
        object.announcer = object.placement.as_ref().map(|placed| Announcer {
            node: placed.owner.clone(),
            interfaces: Box::default(),
        });
        lab.put_virtual_ip(object);
    }
    lab.settle();
}

fn ask(lab: &mut Lab, text: &str, budget: Option<usize>) {
    let text = text.to_owned();
    lab.feed(Input::Rebalance(Some(RebalanceRequest { text, budget })));
    lab.settle();
}

fn counts(lab: &Lab) -> Vec<usize> {
    lab.controller.addresses_per_node().values().copied().collect()
}

fn epochs(lab: &Lab) -> BTreeMap<std::net::IpAddr, u64> {
    let placed = lab
        .virtual_ips
        .values()
        .map(|o| (o.address, o.placement.as_ref().unwrap().epoch));
    placed.collect()
}

/// Confirms and goes on until it is answered.
fn finish(lab: &mut Lab) -> String {
    for _ in 0..100 {
        if let Some((_, message)) = lab.answers.pop() {
            return message;
        }
        assert!(pending(lab).len() <= 4, "{:?} are under way at once", pending(lab));
        confirm(lab);
    }
    panic!("no answer");
}

#[test]
fn no_more_move_than_need_to() {
    let mut lab = crowd(24);
    assert_eq!(counts(&lab), [8, 8, 8], "nothing is rebalanced unasked");
    let before = epochs(&lab);
    ask(&mut lab, "100", Some(100));
    assert_eq!(pending(&lab).len(), 4, "a few at once");
    assert_eq!(
        finish(&mut lab),
        "moved 6 addresses; no other move makes the spread more even"
    );
    assert_eq!(counts(&lab), [6, 6, 6, 6]);
    let moved = epochs(&lab).iter().filter(|(a, epoch)| before[*a] != **epoch).count();
    assert_eq!(moved, 6, "each once");
    lab.assert_quiet();
    ask(&mut lab, "100", Some(100));
    assert_eq!(lab.answers, [], "answered once");
    ask(&mut lab, "100 again", Some(100));
    assert_eq!(
        finish(&mut lab),
        "moved 0 addresses; no other move makes the spread more even"
    );
}

#[test]
fn no_more_move_than_may() {
    let mut lab = crowd(24);
    ask(&mut lab, "5", Some(5));
    assert_eq!(finish(&mut lab), "moved 5 addresses, as many as it may");
    assert_eq!(counts(&lab)[3], 5);
    ask(&mut lab, "many", None);
    assert!(finish(&mut lab).starts_with("cannot be read"));
    assert_eq!(counts(&lab)[3], 5);
}

#[test]
fn a_new_owner_that_says_nothing_holds_nobody_up_for_ever() {
    let mut lab = crowd(24);
    ask(&mut lab, "6", Some(6));
    lab.pass(Duration::from_secs(16));
    lab.pass(Duration::from_secs(16));
    assert_eq!(lab.answers.len(), 1);
    assert_eq!(counts(&lab), [6, 6, 6, 6]);
}

#[test]
fn weights_hold() {
    let mut lab = crowd(24);
    let mut config = Config::clone(&lab.config);
    let requirement = Requirement {
        key: "kubernetes.io/hostname".to_owned(),
        operator: Operator::In(["n4".to_owned()].into()),
    };
    let disliked = LabelSelector {
        requirements: vec![Requirement {
            operator: Operator::NotIn(["n4".to_owned()].into()),
            ..requirement
        }],
    };
    config.l2_advertisements.get_mut("all").unwrap().preferred_nodes = vec![PreferredNode {
        weight: 10,
        selector: disliked,
    }];
    lab.set_config(Arc::new(config));
    lab.settle();
    ask(&mut lab, "9", Some(9));
    assert_eq!(
        finish(&mut lab),
        "moved 0 addresses; no other move makes the spread more even"
    );
}

#[test]
fn what_is_kept_apart_stays_apart() {
    let mut lab = crowd(24);
    let rules = Layer2Settings {
        anti_affinity: Some(AntiAffinity::Label("app".to_owned())),
        ..Layer2Settings::default()
    };
    lab.set_config(with_policy(&lab.config.clone(), rules));
    // The one with the lowest address of its node would be the first to move.
    for (name, created) in [("s00", 0), ("late", 99)] {
        let mut view = lab.services.get(&id(name)).cloned().unwrap_or(service(name, created));
        view.labels.insert("app".to_owned(), "shop".to_owned());
        lab.set_endpoints(endpoints(name, &["n1"]));
        lab.put(view);
        lab.settle();
    }
    confirm(&mut lab);
    assert_eq!(counts(&lab), [8, 8, 8, 1], "the new one is on the new node");
    let first = |lab: &Lab| lab.virtual_ips[&ip("192.0.2.0")].placement.clone();
    let before = first(&lab);
    ask(&mut lab, "100", Some(100));
    finish(&mut lab);
    assert!(counts(&lab).into_iter().all(|count| count <= 7), "{:?}", counts(&lab));
    assert_eq!(first(&lab), before, "and not beside it");
}

#[test]
fn a_request_that_is_taken_away_ends() {
    let mut lab = crowd(24);
    ask(&mut lab, "9", Some(9));
    lab.feed(Input::Rebalance(None));
    confirm(&mut lab);
    assert_eq!((counts(&lab)[3], lab.answers.len()), (4, 0));
    lab.assert_quiet();
}
