//! Nodes of which Kubernetes hears nothing: right after an outage of the API server that says little about them.

use std::time::Duration;

use ferrolb_model::{Condition, ConditionType, NodeView, Placement, TrafficPolicy};

use crate::fixtures::*;
use crate::lab::*;

const ADDRESS: &str = "192.0.2.1";
/// How long a node is awaited.
const PATIENCE: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(1);

/// Five nodes, and a Service with endpoints on three of them.
fn one(policy: TrafficPolicy) -> Lab {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.99"])]);
    lab.owners_confirm = true;
    for name in ["n4", "n5"] {
        lab.set_node(node(name));
    }
    lab.set_endpoints(endpoints("web", &["n1", "n2", "n3"]));
    let mut view = service("web", 1);
    view.traffic_policy = policy;
    lab.apply(view);
    lab.settle();
    lab
}

fn silent(name: &str) -> NodeView {
    NodeView {
        ready: false,
        silent: true,
        ..node(name)
    }
}

fn placement(lab: &Lab) -> Placement {
    lab.virtual_ips[&ip(ADDRESS)].placement.clone().expect("a placement")
}

#[test]
fn a_node_that_reports_in_time_keeps_everything() {
    let mut lab = one(TrafficPolicy::Cluster);
    let (before, writes) = (placement(&lab), lab.writes.len());
    for node in lab.nodes.clone().into_keys() {
        lab.set_node(silent(&node));
    }
    lab.settle();
    lab.pass(PATIENCE - MOMENT);
    for name in lab.nodes.clone().into_keys() {
        lab.set_node(node(&name));
        lab.settle();
    }
    lab.pass(2 * PATIENCE);
    assert_eq!(placement(&lab), before);
    assert_eq!(lab.writes[writes..], [], "nothing has changed");
}

#[test]
fn a_node_that_stays_silent_loses_everything_once_its_time_is_over() {
    let mut lab = one(TrafficPolicy::Cluster);
    let before = placement(&lab);
    for lost in [&before.owner, &before.standbys[2]] {
        lab.set_node(silent(lost));
    }
    lab.settle();
    lab.pass(PATIENCE - MOMENT);
    assert_eq!(placement(&lab), before);
    lab.pass(MOMENT);
    let after = placement(&lab);
    assert_eq!(after.epoch, before.epoch + 1);
    for lost in [&before.owner, &before.standbys[2]] {
        assert!(after.owner != *lost && !after.standbys.contains(lost), "{after:?}");
    }
    lab.assert_quiet();
}

#[test]
fn a_node_that_says_itself_that_it_is_not_ready_is_not_awaited() {
    let mut lab = one(TrafficPolicy::Cluster);
    let before = placement(&lab);
    lab.set_node(NodeView {
        ready: false,
        ..node(&before.owner)
    });
    lab.settle();
    assert_ne!(placement(&lab).owner, before.owner);
}

#[test]
fn a_silent_node_gets_nothing_new() {
    let mut lab = one(TrafficPolicy::Cluster);
    for name in ["n1", "n2", "n3", "n4"] {
        lab.set_node(silent(name));
    }
    lab.settle();
    for n in 2..9 {
        lab.set_endpoints(endpoints(&format!("s{n}"), &["n1"]));
        lab.apply(service(&format!("s{n}"), n));
    }
    lab.settle();
    let new = lab.virtual_ips.values().filter(|o| o.address != ip(ADDRESS));
    let new = new
        .map(|o| o.placement.clone().expect("a placement"))
        .collect::<Vec<_>>();
    assert_eq!(new.len(), 7);
    for placement in new {
        assert_eq!((&*placement.owner, placement.standbys.len()), ("n5", 0));
    }
    // Nor by request.
    let before = placement(&lab);
    let to = if before.owner == "n1" { "n2" } else { "n1" };
    let mut object = lab.virtual_ips[&ip(ADDRESS)].clone();
    object.move_to = Some(to.to_owned());
    lab.put_virtual_ip(object);
    lab.settle();
    assert_eq!(placement(&lab).owner, before.owner);
    let Condition { status, message, .. } = &lab.virtual_ips[&ip(ADDRESS)].conditions[&ConditionType::Moved];
    assert!(!status && message.contains("NotReady"), "{message}");
}

#[test]
fn a_first_owner_is_not_chosen_among_silent_nodes() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.99"])]);
    for name in ["n1", "n2", "n3"] {
        lab.set_node(silent(name));
    }
    lab.set_endpoints(endpoints("web", &["n1"]));
    lab.apply(service("web", 1));
    lab.settle();
    let object = &lab.virtual_ips[&ip(ADDRESS)];
    assert_eq!(object.placement, None);
    let announced = &object.conditions[&ConditionType::Announced];
    assert!(
        announced.message.contains("n1: NotReady, n2: NotReady"),
        "{announced:?}"
    );
    lab.set_node(node("n2"));
    lab.settle();
    assert_eq!(placement(&lab).owner, "n2");
}

#[test]
fn endpoints_of_silent_nodes_count_as_before() {
    let mut lab = one(TrafficPolicy::Local);
    let before = placement(&lab);
    lab.set_node(silent(&before.owner));
    // Kubernetes calls them not ready, as it cannot ask.
    let mut unheard = endpoints("web", &["n1", "n2", "n3"]);
    for endpoint in &mut unheard.endpoints {
        if endpoint.node.as_ref() == Some(&before.owner) {
            (endpoint.ready, endpoint.serving) = (false, false);
        }
    }
    lab.set_endpoints(unheard);
    lab.settle();
    lab.pass(PATIENCE - MOMENT);
    assert_eq!(placement(&lab), before);
    lab.pass(MOMENT);
    assert_ne!(placement(&lab).owner, before.owner);
}
