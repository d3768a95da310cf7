//! Writes that fail, answers that are lost, other people's hands in the same objects.

use std::collections::BTreeSet;
use std::time::Duration;

use ferrolb_controller_core::{EventKind, Input, Write, WriteError};
use ferrolb_model::{Claim, NodeView, ServiceType, ServiceView};

use crate::fixtures::*;
use crate::lab::*;

fn creates(lab: &Lab) -> usize {
    lab.writes
        .iter()
        .filter(|w| matches!(w, Write::CreateVirtualIp { .. }))
        .count()
}

#[test]
fn an_unreachable_server_is_asked_ever_less_often() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.faults = (0..20)
        .map(|_| Fault::Error(WriteError::Unavailable("connection refused".to_owned())))
        .collect();
    lab.apply(service("web", 1));
    lab.pass(Duration::from_secs(30));
    let tries = creates(&lab);
    assert!(
        (17..=19).contains(&tries),
        "100 ms doubling up to 2 s gives about 18 tries in 30 s, not {tries}"
    );
    assert_eq!(lab.events, [], "nobody can do anything about it");
    lab.pass(Duration::from_secs(60));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    lab.assert_quiet();
}

#[test]
fn an_answer_that_is_lost_is_found_in_the_watch() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.9"])]);
    lab.faults = [Fault::AnswerLost, Fault::AnswerLost, Fault::AnswerLost].into();
    lab.apply(service("web", 1));
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert_eq!(creates(&lab), 1);
    lab.assert_quiet();
}

#[test]
fn somebody_faster_makes_it_choose_again() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.2"])]);
    lab.apply(service("web", 1));
    assert!(lab.step_watch());
    lab.put_virtual_ip(virtual_ip("192.0.2.1", &[("other", None)]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);
    lab.apply(asking(service("fixed", 2), None, &["192.0.2.1"]));
    lab.settle();
    assert_eq!(
        lab.last_message("fixed"),
        "AddressInUse: address 192.0.2.1 is in use by default/other"
    );
    lab.assert_quiet();
}

#[test]
fn a_conflict_without_news_is_tried_again() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.faults = [Fault::Error(WriteError::Conflict)].into();
    lab.apply(service("web", 1));
    lab.settle();
    assert_eq!(lab.shown("web"), [""; 0]);
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
}

#[test]
fn a_refusal_is_said_once_and_looked_at_each_minute() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    let refused = || Fault::Error(WriteError::Refused("denied by policy".to_owned()));
    lab.faults = [refused(), refused()].into();
    lab.apply(service("web", 1));
    lab.pass(Duration::from_secs(90));
    assert_eq!(creates(&lab), 2);
    assert_eq!(lab.kinds("web"), [EventKind::LoadBalancerFailed]);
    assert!(lab.last_message("web").contains("denied by policy"));
    lab.pass(Duration::from_secs(60));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert!(lab.controller.pending_by_reason().is_empty());
}

#[test]
fn a_starting_server_that_forbids_is_asked_again_without_a_word() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    let down = || Fault::Error(WriteError::Unavailable("connection refused".to_owned()));
    let forbidden = || Fault::Error(WriteError::Forbidden("RBAC: not loaded".to_owned()));
    lab.faults = [down(), down(), down(), down(), forbidden(), forbidden()].into();
    lab.apply(service("web", 1));
    lab.pass(Duration::from_secs(5));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert_eq!(lab.kinds("web"), [EventKind::Allocated]);
}

#[test]
fn missing_permission_is_said_once_and_passes_soon_after_it_is_given() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    let forbidden = || Fault::Error(WriteError::Forbidden("no rule".to_owned()));
    lab.faults = (0..10).map(|_| forbidden()).collect();
    lab.apply(service("web", 1));
    lab.pass(Duration::from_secs(8));
    assert_eq!(lab.kinds("web"), [EventKind::LoadBalancerFailed]);
    assert!(lab.last_message("web").contains("no rule"));
    lab.faults.clear();
    lab.pass(Duration::from_secs(2));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert!(lab.controller.pending_by_reason().is_empty());
}

#[test]
fn a_status_changed_by_hand_is_restored_once_and_then_left() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(service("web", 1));
    lab.settle();
    let overwrite = |lab: &mut Lab| {
        let mut view = lab.services[&id("web")].clone();
        view.ingress = vec![ip("198.51.100.1")];
        lab.put(view);
        lab.settle();
    };
    overwrite(&mut lab);
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    overwrite(&mut lab);
    assert_eq!(lab.shown("web"), ["198.51.100.1"], "no war");
    assert_eq!(lab.kinds("web"), [EventKind::Allocated, EventKind::LoadBalancerFailed]);
    assert!(lab.last_message("web").starts_with("ForeignWriter: "));
    lab.pass(Duration::from_secs(59));
    assert_eq!(lab.shown("web"), ["198.51.100.1"]);
    lab.pass(Duration::from_secs(2));
    assert_eq!(lab.shown("web"), ["192.0.2.1"], "looked at again");
    lab.pass(Duration::from_secs(120));
    overwrite(&mut lab);
    assert_eq!(
        lab.shown("web"),
        ["192.0.2.1"],
        "a single change later is restored again"
    );
    lab.assert_quiet();
}

#[test]
fn a_manager_that_owns_the_field_is_named() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(service("web", 1));
    lab.step_watch();
    lab.step_write();
    lab.faults = [Fault::Error(WriteError::ForeignManager("other-lb".to_owned()))].into();
    lab.settle();
    assert!(
        lab.last_message("web").contains("\"other-lb\""),
        "{}",
        lab.last_message("web")
    );
    lab.pass(Duration::from_secs(61));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
}

#[test]
fn an_address_that_comes_free_reaches_who_waits_though_the_watch_is_faster_than_the_answer() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(service("web", 1));
    lab.apply(service("next", 2));
    lab.settle();
    lab.answers_late = true;
    lab.delete("web");
    lab.pass(Duration::from_secs(61));
    assert_eq!(lab.shown("next"), ["192.0.2.1"]);
}

#[test]
fn an_address_that_was_never_created_reaches_who_waits() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.faults = [Fault::Error(WriteError::Unavailable("down".to_owned()))].into();
    lab.apply(service("web", 1));
    lab.step_watch();
    lab.apply(service("next", 2));
    lab.delete("web");
    while lab.step_watch() {}
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.shown("next"), ["192.0.2.1"]);
}

#[test]
fn an_object_that_waits_for_a_finalizer_keeps_its_address() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(service("web", 1));
    lab.apply(service("next", 2));
    lab.settle();
    lab.finalizers.insert(ip("192.0.2.1"));
    lab.delete("web");
    lab.pass(Duration::from_secs(300));
    assert_eq!(lab.shown("next"), [""; 0]);
    assert_eq!(creates(&lab), 1, "it exists");
    let deletes = lab.writes.iter().filter(|w| matches!(w, Write::DeleteVirtualIp { .. }));
    assert!((2..=10).contains(&deletes.count()), "asked again now and then");
    lab.finalizers.clear();
    lab.delete_virtual_ip("192.0.2.1");
    lab.settle();
    assert_eq!(lab.shown("next"), ["192.0.2.1"]);
}

#[test]
fn a_deletion_that_the_watch_missed_frees_the_address() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(service("web", 1));
    lab.apply(service("next", 2));
    lab.settle();
    lab.delete("web");
    lab.settle();
    // It goes without an event.
    lab.virtual_ips.remove(&ip("192.0.2.1"));
    lab.pass(Duration::from_secs(61));
    assert_eq!(lab.shown("next"), ["192.0.2.1"]);
}

#[test]
fn an_object_that_exists_and_is_never_seen_is_named() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    let object = virtual_ip("192.0.2.1", &[]);
    lab.virtual_ips.insert(object.address, object);
    lab.apply(service("web", 1));
    lab.pass(Duration::from_secs(5));
    assert_eq!(lab.events, [], "the watch may be slow");
    lab.pass(Duration::from_secs(60));
    assert_eq!(lab.kinds("web"), [EventKind::LoadBalancerFailed]);
    assert!(
        lab.last_message("web")
            .starts_with("AddressInUse: VirtualIP \"192.0.2.1\" ")
    );
    lab.virtual_ips.clear();
    lab.pass(Duration::from_secs(3));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert!(lab.controller.pending_by_reason().is_empty());
}

#[test]
fn a_status_is_cleaned_before_the_claim_on_a_shared_address_goes() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(sharing(service("web", 1), "key", 80));
    lab.apply(sharing(service("dns", 2), "key", 53));
    lab.settle();
    assert_eq!(lab.shown("dns"), ["192.0.2.1"]);
    let mut view = sharing(service("dns", 2), "key", 53);
    view.kind = ServiceType::ClusterIp;
    lab.apply(view);
    lab.step_watch();
    // The first write, whichever it is, goes through; then the server is away for a while.
    lab.step_write();
    let down = || Fault::Error(WriteError::Unavailable("down".to_owned()));
    lab.faults = [down(), down()].into();
    lab.pass(Duration::from_secs(5));
    assert_eq!(lab.services[&id("dns")].pool_annotation, None);
    let claims = &lab.virtual_ips[&ip("192.0.2.1")].claims;
    assert_eq!(claims.iter().map(|c| &c.service).collect::<Vec<_>>(), [&id("web")]);
    lab.assert_quiet();
}

#[test]
fn a_claim_edited_away_by_hand_comes_back() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.2"])]);
    lab.apply(service("web", 1));
    lab.settle();
    let mut object = lab.virtual_ips[&ip("192.0.2.1")].clone();
    object.claims = vec![Claim {
        service: id("nobody"),
        uid: Some("x".to_owned()),
    }];
    lab.put_virtual_ip(object);
    lab.settle();
    let claims = |lab: &Lab| {
        let claims = &lab.virtual_ips[&ip("192.0.2.1")].claims;
        claims.iter().map(|c| c.service.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        claims(&lab),
        [id("nobody"), id("web")],
        "it may be another controller's"
    );
    lab.pass(Duration::from_secs(61));
    assert_eq!(claims(&lab), [id("web")]);
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    lab.assert_quiet();
}

#[test]
fn a_kill_in_the_middle_of_many_creations_costs_no_address() {
    for cut in [1, 7, 50, 123, 300] {
        let mut lab = Lab::started([pool("a", &["10.0.0.0/24"])]);
        for n in 0..200 {
            lab.apply(service(&format!("s{n:03}"), n));
        }
        for step in 0..cut {
            if step % 3 == 0 {
                lab.step_watch()
            } else {
                lab.step_write()
            };
        }
        let before = (0..200).map(|n| lab.shown(&format!("s{n:03}"))).collect::<Vec<_>>();
        lab.restart();
        lab.zombie_writes(cut / 2);
        lab.pass(Duration::from_secs(1));
        for (n, before) in before.iter().enumerate() {
            let after = lab.shown(&format!("s{n:03}"));
            assert_eq!(after.len(), 1, "s{n:03}");
            assert!(
                before.is_empty() || *before == after,
                "s{n:03}: {before:?} became {after:?}"
            );
        }
        lab.pass(Duration::from_secs(120));
        assert_eq!(lab.virtual_ips.len(), 200);
        lab.assert_quiet();
    }
}

#[test]
fn a_claim_stays_until_the_status_lets_go() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.2"])]);
    lab.apply(service("web", 1));
    lab.settle();
    lab.apply(asking(service("web", 1), None, &["192.0.2.2"]));
    // The claim goes through, the status does not for a long time.
    lab.step_watch();
    lab.step_write();
    let down = || Fault::Error(WriteError::Unavailable("down".to_owned()));
    lab.faults = (0..400).map(|_| down()).collect();
    lab.pass(Duration::from_secs(100));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert!(
        lab.virtual_ips.contains_key(&ip("192.0.2.1")),
        "what a status shows is not freed"
    );
    lab.faults.clear();
    lab.pass(Duration::from_secs(100));
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);
    assert!(!lab.virtual_ips.contains_key(&ip("192.0.2.1")));
}

#[test]
fn a_repeated_event_does_not_undo_a_write() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.2"])]);
    lab.set_endpoints(endpoints("web", &["n1"]));
    lab.apply(service("web", 1));
    lab.settle();
    lab.set_endpoints(endpoints("web", &[]));
    lab.step_watch();
    lab.relist();
    lab.step_write();
    let before = lab.writes.len();
    lab.settle();
    assert_eq!(
        lab.writes.len(),
        before,
        "the old object is told again, and is known to be old"
    );
}

#[test]
fn a_refused_claim_is_forgotten_with_the_wish_for_it() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.9"])]);
    lab.apply(asking(service("web", 1), None, &["192.0.2.5"]));
    lab.faults.push_back(Fault::Error(WriteError::Refused("no".to_owned())));
    lab.settle();
    assert_eq!(lab.controller.pending_by_reason()["ApiRefused"], 1);
    lab.apply(asking(service("web", 1), None, &["192.0.2.6"]));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.6"]);
    assert!(lab.controller.pending_by_reason().is_empty());
}

#[test]
fn a_claim_that_comes_late_to_a_new_leader_is_kept() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.9"])]);
    lab.apply(service("web", 1));
    lab.settle();
    // The request cannot be met any more, and the new leader hears of the VirtualIP after its first lists.
    lab.apply(asking(service("web", 1), None, &["203.0.113.1"]));
    lab.settle();
    let mut lists = lab.lists();
    lists.retain(|input| !matches!(input, Input::VirtualIp(_)));
    lab.restart_with(lists);
    lab.relist();
    lab.pass(Duration::from_secs(200));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    lab.assert_quiet();
}

#[test]
fn a_service_that_comes_back_while_its_claim_is_deleted_waits_for_another() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(service("web", 1));
    lab.settle();
    let mut internal = service("web", 1);
    internal.kind = ServiceType::ClusterIp;
    lab.apply(internal);
    lab.settle();
    // The cool-down ends and the deletion is under way; the server asserts that no status is ahead of its claim.
    lab.now += Duration::from_secs(61);
    lab.set_node(node("n4"));
    lab.step_watch();
    assert!(matches!(lab.writes.last(), Some(Write::DeleteVirtualIp { .. })));
    lab.apply(service("web", 1));
    lab.step_watch();
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert!(lab.virtual_ips.contains_key(&ip("192.0.2.1")));
    lab.assert_quiet();
}

#[test]
fn an_address_whose_claim_comes_late_stays_in_the_status() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.9"])]);
    lab.apply(service("web", 1));
    lab.settle();
    // A new leader knows neither the VirtualIP nor the Service; the Service comes first.
    lab.apply(asking(service("web", 1), None, &["203.0.113.1"]));
    lab.settle();
    let mut lists = lab.lists();
    lists.retain(|input| !matches!(input, Input::VirtualIp(_) | Input::Service(_)));
    lab.restart_with(lists);
    lab.put(lab.services[&id("web")].clone());
    lab.pass(Duration::from_secs(5));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    lab.relist();
    lab.pass(Duration::from_secs(200));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    lab.assert_quiet();
}

#[test]
fn a_choice_that_was_never_claimed_is_made_again_by_todays_rules() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.2"])]);
    lab.faults
        .push_back(Fault::Error(WriteError::Unavailable("down".to_owned())));
    lab.apply(service("web", 1));
    lab.step_watch();
    lab.set_node(NodeView {
        addresses: BTreeSet::from([ip("192.0.2.1")]),
        ..node("n4")
    });
    lab.pass(Duration::from_secs(30));
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);
    lab.assert_quiet();
}

#[test]
fn a_reservation_that_goes_before_its_address_is_shown_is_forgotten() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.put_virtual_ip(virtual_ip("203.0.113.1", &[("web", None)]));
    lab.apply(service("web", 1));
    while lab.step_watch() {}
    // The status is being written when the reservation goes, and is not written because somebody edits the Service.
    lab.delete_virtual_ip("203.0.113.1");
    lab.apply(sharing(service("web", 1), "k", 80));
    lab.pass(Duration::from_secs(30));
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    assert!(!lab.virtual_ips.contains_key(&ip("203.0.113.1")));
    lab.assert_quiet();
}

#[test]
fn an_address_that_a_hand_gives_to_another_is_left() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.2"])]);
    lab.apply(service("web", 1));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.1"]);
    lab.delete_virtual_ip("192.0.2.1");
    lab.put_virtual_ip(virtual_ip("192.0.2.1", &[("other", None)]));
    while lab.step_watch() {}
    lab.pass(Duration::from_secs(30));
    assert_eq!(lab.shown("web"), ["192.0.2.2"]);
    let claims = &lab.virtual_ips[&ip("192.0.2.1")].claims;
    assert_eq!(claims.len(), 1, "{claims:?}");
    lab.assert_quiet();
}

#[test]
fn a_claim_that_comes_back_for_a_service_that_is_not_served_any_more_goes() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(service("web", 1));
    lab.settle();
    lab.delete_virtual_ip("192.0.2.1");
    lab.step_watch();
    assert!(matches!(lab.writes.last(), Some(Write::CreateVirtualIp { .. })));
    let mut internal = service("web", 1);
    internal.kind = ServiceType::ClusterIp;
    lab.apply(internal);
    lab.step_watch();
    lab.pass(Duration::from_secs(61));
    assert_eq!(lab.services[&id("web")].pool_annotation, None);
    assert!(lab.virtual_ips.is_empty());
    lab.assert_quiet();
}

#[test]
fn an_address_that_a_hand_writes_to_a_service_of_another_class_is_not_kept_for_it() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    lab.apply(service("web", 1));
    lab.settle();
    let mut other = service("web", 1);
    other.class = Some("other".to_owned());
    lab.apply(other);
    lab.settle();
    assert!(lab.shown("web").is_empty());
    let view = lab.services[&id("web")].clone();
    lab.put(ServiceView {
        ingress: vec![ip("192.0.2.1"), ip("198.51.100.7")],
        ..view
    });
    lab.pass(Duration::from_secs(61));
    assert!(lab.virtual_ips.is_empty());
    assert_eq!(lab.shown("web"), ["192.0.2.1", "198.51.100.7"]);
    lab.assert_quiet();
}
