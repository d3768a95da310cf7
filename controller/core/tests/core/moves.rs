//! Moves that somebody asks for.

use ferrolb_controller_core::EventKind;
use ferrolb_model::{Condition, ConditionType, Placement};

use crate::fixtures::*;
use crate::lab::*;

const ADDRESS: &str = "192.0.2.1";

fn one() -> Lab {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.99"])]);
    lab.set_endpoints(endpoints("web", &["n1"]));
    lab.apply(service("web", 1));
    lab.settle();
    lab
}

/// Annotates the VirtualIP, as an administrator does.
fn ask(lab: &mut Lab, request: Option<&str>) {
    let mut object = lab.virtual_ips[&ip(ADDRESS)].clone();
    object.move_to = request.map(str::to_owned);
    lab.put_virtual_ip(object);
    lab.settle();
}

fn placement(lab: &Lab) -> Placement {
    lab.virtual_ips[&ip(ADDRESS)].placement.clone().expect("a placement")
}

fn moved(lab: &Lab) -> Option<Condition> {
    lab.virtual_ips[&ip(ADDRESS)]
        .conditions
        .get(&ConditionType::Moved)
        .cloned()
}

fn other(lab: &Lab) -> String {
    placement(lab).standbys[0].clone()
}

#[test]
fn an_address_moves_as_asked_once() {
    let mut lab = one();
    let (old, to) = (placement(&lab), other(&lab));
    ask(&mut lab, Some(&to));
    let new = placement(&lab);
    assert_eq!((&new.owner, new.epoch), (&to, old.epoch + 1));
    assert!(new.standbys.contains(&old.owner));
    assert!(moved(&lab).is_some_and(|c| c.status));
    assert_eq!(lab.kinds("web").last(), Some(&EventKind::Moved));
    lab.assert_quiet();

    // The annotation stays, and the address goes on like any other.
    let gone = to.clone();
    lab.set_node(ferrolb_model::NodeView {
        excluded: true,
        ..node(&gone)
    });
    lab.settle();
    assert_ne!(placement(&lab).owner, to);
    lab.set_node(node(&gone));
    lab.settle();
    let before = placement(&lab);
    assert_ne!(before.owner, to, "a request is no wish for ever");
    lab.restart();
    lab.settle();
    assert_eq!(placement(&lab), before);
    lab.assert_quiet();

    // Asked anew, by taking it away first or by another word.
    ask(&mut lab, None);
    assert_eq!(moved(&lab), None);
    assert_eq!(lab.virtual_ips[&ip(ADDRESS)].answered_move, None);
    ask(&mut lab, Some(&to));
    assert_eq!(placement(&lab).owner, to);
    let back = other(&lab);
    ask(&mut lab, Some(&format!("{back} 1")));
    ask(&mut lab, Some(&format!("{to} 2")));
    assert_eq!(placement(&lab).owner, to);
    lab.assert_quiet();
}

#[test]
fn a_request_that_cannot_be_met_is_refused_once_with_the_reason() {
    let mut lab = one();
    let (old, to) = (placement(&lab), other(&lab));
    let mut view = node(&to);
    view.excluded = true;
    lab.set_node(view);
    lab.settle();
    for (request, why) in [(&*to, "Excluded"), ("n9", "there is no node \"n9\"")] {
        ask(&mut lab, Some(request));
        assert_eq!(placement(&lab).owner, old.owner);
        let condition = moved(&lab).expect("an answer");
        assert_eq!((condition.status, &*condition.reason), (false, "CannotMove"));
        assert!(condition.message.contains(why), "{}", condition.message);
        assert_eq!(lab.kinds("web").last(), Some(&EventKind::MoveFailed));
        lab.assert_quiet();
    }
    ask(&mut lab, Some(&to));
    lab.set_node(node(&to));
    lab.settle();
    assert_eq!(placement(&lab).owner, old.owner, "answered is answered");
    lab.assert_quiet();
}

#[test]
fn a_request_waits_for_the_address_to_be_placed() {
    let mut lab = one();
    lab.set_endpoints(endpoints("web", &[]));
    lab.settle();
    ask(&mut lab, Some("n3"));
    assert_eq!(moved(&lab), None);
    lab.set_endpoints(endpoints("web", &["n1"]));
    lab.settle();
    assert_eq!(placement(&lab).owner, "n3");
    lab.assert_quiet();
}

#[test]
fn a_write_that_fails_moves_nothing_twice() {
    let mut lab = one();
    let (old, to) = (placement(&lab), other(&lab));
    let failed = ferrolb_controller_core::WriteError::Unavailable("busy".to_owned());
    lab.faults.extend([Fault::Error(failed), Fault::AnswerLost]);
    ask(&mut lab, Some(&to));
    lab.pass(std::time::Duration::from_secs(10));
    let new = placement(&lab);
    assert_eq!((new.owner, new.epoch), (to, old.epoch + 1));
    assert!(moved(&lab).is_some_and(|c| c.status));
}
