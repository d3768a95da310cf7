//! Who announces, and who does not and why.

use std::collections::BTreeSet;
use std::sync::Arc;

use ferrolb_controller_core::EventKind;
use ferrolb_model::{
    AnnouncementPolicy, Announcer, BgpAdvertisement, Condition, ConditionType, Config, EndpointSettings, EndpointsView,
    FamilyPolicy, LabelSelector, NodeView, Operator, Placement, PoolSelection, PreferredNode, Requirement,
    TrafficPolicy,
};

use crate::fixtures::*;
use crate::lab::*;

const ADDRESS: &str = "192.0.2.1";

/// One Service `web` with endpoints on the nodes given.
fn one(nodes: &[&str]) -> Lab {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.99"])]);
    lab.set_endpoints(endpoints("web", nodes));
    lab.apply(service("web", 1));
    lab.settle();
    lab
}

fn placement(lab: &Lab) -> Option<Placement> {
    lab.virtual_ips[&ip(ADDRESS)].placement.clone()
}

fn announced(lab: &Lab) -> Condition {
    lab.virtual_ips[&ip(ADDRESS)].conditions[&ConditionType::Announced].clone()
}

fn on(hostname: &str) -> LabelSelector {
    LabelSelector {
        requirements: vec![Requirement {
            key: "kubernetes.io/hostname".to_owned(),
            operator: Operator::In(BTreeSet::from([hostname.to_owned()])),
        }],
    }
}

fn edit(lab: &mut Lab, change: impl FnOnce(&mut Config)) {
    let mut config = (*lab.config).clone();
    change(&mut config);
    lab.set_config(Arc::new(config));
    lab.settle();
}

#[test]
fn addresses_spread_and_stay() {
    let mut lab = one(&["n1"]);
    for n in 2..=6 {
        lab.set_endpoints(endpoints(&format!("s{n}"), &["n1"]));
        lab.apply(service(&format!("s{n}"), n));
    }
    lab.settle();
    let counts = lab
        .controller
        .addresses_per_node()
        .values()
        .copied()
        .collect::<Vec<_>>();
    assert_eq!(counts, [2, 2, 2]);
    let before = lab.virtual_ips.clone();
    lab.set_node(node("n4"));
    lab.settle();
    for (address, object) in &lab.virtual_ips {
        let (old, new) = (
            before[address].placement.as_ref().unwrap(),
            object.placement.as_ref().unwrap(),
        );
        assert_eq!(
            (&old.owner, old.epoch),
            (&new.owner, new.epoch),
            "a new node takes nothing"
        );
        assert_eq!(new.standbys.len(), 3);
    }
    lab.assert_quiet();
}

#[test]
fn every_fault_of_the_owner_moves_the_address_once() {
    type Fault = fn(&mut NodeView);
    let faults: [Fault; 3] = [
        |n| n.ready = false,
        |n| n.excluded = true,
        |n| n.network_unavailable = true,
    ];
    for fault in faults {
        let mut lab = one(&["n1", "n2", "n3"]);
        let first = placement(&lab).unwrap();
        assert_eq!((first.epoch, first.standbys.len()), (1, 2));
        let mut view = node(&first.owner);
        fault(&mut view);
        lab.set_node(view);
        lab.settle();
        let second = placement(&lab).unwrap();
        assert_ne!(second.owner, first.owner);
        assert_eq!((second.epoch, second.standbys.len()), (2, 1));
        lab.set_node(node(&first.owner));
        lab.settle();
        let third = placement(&lab).unwrap();
        assert_eq!(
            (third.owner, third.epoch),
            (second.owner.clone(), 2),
            "nothing goes back by itself"
        );
        assert_eq!(third.standbys.last(), Some(&first.owner));
        lab.delete_node(&second.owner);
        lab.settle();
        assert_ne!(placement(&lab).unwrap().owner, second.owner);
        lab.assert_quiet();
    }
}

#[test]
fn local_needs_an_endpoint_on_the_node() {
    let mut lab = one(&["n2"]);
    let mut local = service("web", 1);
    local.traffic_policy = TrafficPolicy::Local;
    lab.apply(local);
    lab.settle();
    assert_eq!(lab.owner(ADDRESS), Some("n2"));
    assert_eq!(placement(&lab).unwrap().standbys, [""; 0]);
    lab.set_endpoints(endpoints("web", &["n3"]));
    lab.settle();
    assert_eq!(lab.owner(ADDRESS), Some("n3"));
    lab.set_endpoints(endpoints("web", &[]));
    lab.settle();
    assert_eq!(placement(&lab), None);
    assert_eq!(announced(&lab).reason, "NoEndpoint");
    assert_eq!(lab.kinds("web").last(), Some(&EventKind::AnnounceFailed));
    let epoch = 3.max(lab.virtual_ips.len() as u64);
    lab.set_endpoints(endpoints("web", &["n1"]));
    lab.settle();
    let again = placement(&lab).unwrap();
    assert_eq!(again.owner, "n1");
    assert!(again.epoch >= epoch, "the epoch grows over a time without an owner");
    lab.assert_quiet();
}

/// The endpoints of `web`, each with its node, and whether it is ready; those that are not terminate and still serve.
fn ending(each: &[(&str, bool)]) -> EndpointsView {
    let mut view = endpoints("web", &each.iter().map(|(node, _)| *node).collect::<Vec<_>>());
    for (endpoint, (_, ready)) in view.endpoints.iter_mut().zip(each) {
        endpoint.ready = *ready;
    }
    view
}

#[test]
fn a_local_address_leaves_before_its_last_endpoint_ends() {
    let mut lab = one(&["n1"]);
    let mut local = service("web", 1);
    local.traffic_policy = TrafficPolicy::Local;
    lab.apply(local);
    lab.set_endpoints(ending(&[("n1", true), ("n2", true)]));
    lab.settle();
    assert_eq!(lab.owner(ADDRESS), Some("n1"));
    lab.set_endpoints(ending(&[("n1", false), ("n2", true)]));
    lab.settle();
    assert_eq!(lab.owner(ADDRESS), Some("n2"), "while the one on n1 still serves");
    lab.set_endpoints(ending(&[("n1", true), ("n2", false)]));
    let mut excluded = node("n1");
    excluded.excluded = true;
    lab.set_node(excluded);
    lab.settle();
    assert_eq!(
        lab.owner(ADDRESS),
        Some("n2"),
        "the ready one is where nobody may announce"
    );
    lab.set_endpoints(ending(&[("n2", false), ("n3", false)]));
    lab.settle();
    assert_eq!(lab.owner(ADDRESS), Some("n2"), "none is ready");
    edit(&mut lab, |config| {
        let policy = AnnouncementPolicy {
            endpoints: EndpointSettings {
                serving: Some(false),
                wait: None,
            },
            ..policy("ready")
        };
        config.announcement_policies.insert(policy.name.clone(), policy);
    });
    assert_eq!(
        (placement(&lab), announced(&lab).reason),
        (None, "NoEndpoint".to_owned())
    );
}

#[test]
fn a_local_service_without_endpoints_takes_nothing_from_its_sharer() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1/32"])]);
    let local = |name: &str, port| {
        let mut view = sharing(service(name, 1), "k", port);
        view.traffic_policy = TrafficPolicy::Local;
        view.selector = "app=same".to_owned();
        view
    };
    lab.apply(local("one", 80));
    lab.apply(local("two", 81));
    lab.set_endpoints(endpoints("one", &["n2"]));
    lab.settle();
    assert_eq!(lab.owner(ADDRESS), Some("n2"));
    lab.set_endpoints(endpoints("two", &["n1", "n3"]));
    lab.settle();
    assert_eq!(placement(&lab), None, "no node serves both");
    assert_eq!(announced(&lab).reason, "NoEligibleNode");
    lab.set_endpoints(endpoints("one", &["n1", "n2"]));
    lab.settle();
    assert_eq!(lab.owner(ADDRESS), Some("n1"));
}

#[test]
fn losing_sight_of_every_node_moves_nothing() {
    let mut lab = one(&["n1"]);
    let before = placement(&lab);
    for name in ["n1", "n2", "n3"] {
        let mut view = node(name);
        view.ready = false;
        lab.set_node(view);
    }
    let mut lost = endpoints("web", &["n1"]);
    lost.endpoints[0].ready = false;
    lost.endpoints[0].serving = false;
    lab.set_endpoints(lost);
    // All at once, as after a partition: one by one the address would follow the nodes that are left.
    let lists = lab.lists();
    lab.restart_with(lists);
    lab.settle();
    assert_eq!(placement(&lab), before);
    let owner = before.unwrap().owner;
    let mut view = node(&owner);
    view.ready = false;
    view.excluded = true;
    lab.set_node(view);
    lab.settle();
    assert_eq!(placement(&lab), None, "an excluded node is no last candidate");
}

#[test]
fn advertisements_say_which_nodes_and_prefer_some() {
    let mut lab = one(&["n1"]);
    edit(&mut lab, |c| {
        c.l2_advertisements.get_mut("all").unwrap().node_selectors = vec![on("n3")]
    });
    assert_eq!(lab.owner(ADDRESS), Some("n3"));
    edit(&mut lab, |c| {
        c.l2_advertisements.get_mut("all").unwrap().node_selectors = vec![on("n9")]
    });
    assert_eq!(placement(&lab), None);
    assert_eq!(announced(&lab).reason, "NoEligibleNode");
    assert!(
        lab.last_message("web").contains("n1: NotSelected"),
        "{}",
        lab.last_message("web")
    );
    edit(&mut lab, |c| c.l2_advertisements.clear());
    assert_eq!(announced(&lab).reason, "NoAdvertisement");
    let mut ad = config([]).l2_advertisements["all"].clone();
    ad.preferred_nodes = vec![PreferredNode {
        weight: 10,
        selector: on("n2"),
    }];
    edit(&mut lab, |c| {
        c.l2_advertisements.insert(ad.name.clone(), ad.clone());
    });
    assert_eq!(lab.owner(ADDRESS), Some("n2"));
    ad.pools = PoolSelection::Some {
        names: BTreeSet::from(["other".to_owned()]),
        selectors: Vec::new(),
    };
    edit(&mut lab, |c| {
        c.l2_advertisements.insert(ad.name.clone(), ad);
    });
    assert_eq!(announced(&lab).reason, "NoAdvertisement");
    lab.assert_quiet();
}

#[test]
fn an_address_that_only_routers_are_told_of_is_placed_nowhere_and_lacks_nothing() {
    let mut lab = one(&["n1"]);
    edit(&mut lab, |c| {
        let ad = BgpAdvertisement {
            name: "wan".to_owned(),
            pools: PoolSelection::All,
            node_selectors: Vec::new(),
            service_selectors: Vec::new(),
            peers: None,
            aggregation_v4: 32,
            aggregation_v6: 128,
            local_pref: None,
            as_path_prepend: None,
            communities: BTreeSet::new(),
        };
        c.bgp_advertisements.insert(ad.name.clone(), ad);
    });
    assert!(placement(&lab).is_some(), "layer 2 does not mind");
    edit(&mut lab, |c| c.l2_advertisements.clear());
    assert_eq!(placement(&lab), None);
    let conditions = &lab.virtual_ips[&ip(ADDRESS)].conditions;
    assert!(!conditions.contains_key(&ConditionType::Announced), "{conditions:?}");
    assert!(!lab.kinds("web").contains(&EventKind::AnnounceFailed));
    edit(&mut lab, |c| c.bgp_advertisements.clear());
    assert_eq!(announced(&lab).reason, "NoAdvertisement");
}

#[test]
fn while_an_advertisement_cannot_be_read_nothing_is_withdrawn() {
    let mut lab = one(&["n1", "n2", "n3"]);
    let before = placement(&lab);
    assert!(before.is_some());
    edit(&mut lab, |c| {
        c.l2_advertisements.clear();
        c.advertisements_unknown = true;
    });
    assert_eq!(placement(&lab), before);
    lab.restart();
    lab.settle();
    assert_eq!(placement(&lab), before);
    assert!(!lab.kinds("web").contains(&EventKind::AnnounceFailed));
    edit(&mut lab, |c| c.advertisements_unknown = false);
    assert_eq!(placement(&lab), None);
    assert_eq!(announced(&lab).reason, "NoAdvertisement");
    edit(&mut lab, |c| c.advertisements_unknown = true);
    assert_eq!(placement(&lab), None, "nothing comes back unasked");
}

#[test]
fn both_families_share_a_node_and_services_spread() {
    let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.99", "2001:db8::1-2001:db8::99"])]);
    for n in 1..=6 {
        lab.set_endpoints(endpoints(&format!("s{n}"), &["n1"]));
        lab.apply(dual(service(&format!("s{n}"), n), FamilyPolicy::RequireDualStack));
        lab.settle();
        let (v4, v6) = (format!("192.0.2.{n}"), format!("2001:db8::{n}"));
        assert_eq!(lab.owner(&v4), lab.owner(&v6), "s{n}");
    }
    let counts = lab.controller.addresses_per_node();
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [4, 4, 4]);
}

#[test]
fn a_takeover_recorded_by_a_standby_stands() {
    let mut lab = one(&["n1"]);
    let mut object = lab.virtual_ips[&ip(ADDRESS)].clone();
    let old = object.placement.clone().unwrap();
    object.placement = Some(Placement {
        owner: old.standbys[0].clone(),
        standbys: vec![old.standbys[1].clone()],
        epoch: old.epoch + 1,
    });
    let taken = object.placement.clone();
    lab.put_virtual_ip(object);
    lab.settle();
    let now = placement(&lab).unwrap();
    assert_eq!(
        (Some(&now.owner), now.epoch),
        (taken.as_ref().map(|p| &p.owner), old.epoch + 1)
    );
    assert_eq!(now.standbys.len(), 2, "the old owner lives, so it is a standby again");
    lab.assert_quiet();
}

/// The address of [`one`] is on the first of four nodes, and `change` is what a speaker makes of that.
fn taken_over(lab: &mut Lab, change: impl FnOnce(&Placement) -> Placement) {
    let mut object = lab.virtual_ips[&ip("192.0.2.1")].clone();
    object.placement = object.placement.as_ref().map(change);
    lab.put_virtual_ip(object);
}

#[test]
fn the_owner_of_before_stands_by_last_and_the_epoch_stays() {
    let mut lab = one(&["n1"]);
    lab.set_node(node("n4"));
    lab.settle();
    let old = placement(&lab).unwrap();
    let new = old.standbys[1].clone();
    taken_over(&mut lab, |p| Placement {
        owner: new.clone(),
        standbys: Vec::new(),
        epoch: p.epoch + 1,
    });
    lab.settle();
    let expected = [&old.standbys[0], &old.standbys[2], &old.owner];
    let now = placement(&lab).unwrap();
    assert_eq!(now.standbys.iter().collect::<Vec<_>>(), expected);
    assert_eq!((now.owner, now.epoch), (new.clone(), old.epoch + 1));
    lab.assert_quiet();
    // The next owner of the controller's choice counts more than the takeover.
    let mut gone = node(&new);
    gone.excluded = true;
    lab.set_node(gone);
    lab.settle();
    let next = placement(&lab).unwrap();
    assert_eq!((next.owner == new, next.epoch), (false, old.epoch + 2));
}

#[test]
fn of_two_placements_of_one_epoch_the_greater_name_counts() {
    for (owner, stays) in [("n1", false), ("n3", true)] {
        let mut lab = one(&["n1"]);
        // The controller is about to place it on n2, and a speaker is faster.
        let mut old = placement(&lab).unwrap();
        old.owner = "n2".to_owned();
        old.standbys = vec!["n1".to_owned(), "n3".to_owned()];
        old.epoch += 1;
        taken_over(&mut lab, |_| old.clone());
        lab.settle();
        let own = placement(&lab).unwrap();
        assert_eq!(own.order(), old.order());
        taken_over(&mut lab, |p| Placement {
            owner: owner.to_owned(),
            ..p.clone()
        });
        lab.settle();
        let now = placement(&lab).unwrap();
        assert_eq!(now.owner, if stays { owner } else { "n2" });
        assert_eq!(now.epoch, old.epoch);
        assert!(!now.standbys.contains(&now.owner));
        lab.assert_quiet();
    }
}

#[test]
fn announced_means_the_owner_says_so() {
    let mut lab = one(&["n1"]);
    assert_eq!(
        (announced(&lab).status, announced(&lab).reason.as_str()),
        (false, "Pending")
    );
    let mut object = lab.virtual_ips[&ip(ADDRESS)].clone();
    let owner = object.placement.as_ref().unwrap().owner.clone();
    object.announcer = Some(Announcer {
        node: owner,
        interfaces: ["eth0".to_owned()].into(),
    });
    lab.put_virtual_ip(object);
    lab.settle();
    assert_eq!(
        (announced(&lab).status, announced(&lab).reason.as_str()),
        (true, "Announced")
    );
    lab.assert_quiet();
}

#[test]
fn a_released_address_is_not_announced() {
    let mut lab = one(&["n1"]);
    lab.delete("web");
    lab.settle();
    let object = &lab.virtual_ips[&ip(ADDRESS)];
    assert_eq!(object.placement, None);
    assert_eq!(object.conditions[&ConditionType::Allocated].reason, "CoolingDown");
    assert!(!object.conditions.contains_key(&ConditionType::Announced));
    assert!(lab.controller.addresses_per_node().is_empty());
}
