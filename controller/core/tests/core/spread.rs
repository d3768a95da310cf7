//! Which node gets an address, and which stand by: balance, and what AnnouncementPolicies say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{
    AnnouncementPolicy, AntiAffinity, Config, FamilyPolicy, LabelSelector, Layer2Settings, NodeView, OnRequest,
    Operator, Placement, PreferredNode, Requirement, ServiceView,
};

use ferrolb_controller_core::EventKind;
use proptest::prelude::*;

use crate::fixtures::*;
use crate::lab::*;

pub(crate) fn with_policy(base: &Arc<Config>, layer2: Layer2Settings) -> Arc<Config> {
    let mut config = Config::clone(base);
    let policy = AnnouncementPolicy {
        layer2,
        ..policy("place")
    };
    config.announcement_policies.insert(policy.name.clone(), policy);
    Arc::new(config)
}

/// The policy counts for those that ask for it alone, and who asks in vain is told so and served as before.
#[test]
fn a_policy_that_has_to_be_asked_for() {
    let mut lab = Lab::started([pool("a", &["192.0.2.0/30"])]);
    for name in ["n1", "n2", "n3"] {
        lab.set_node(node(name));
        lab.set_endpoints(endpoints(name, &["n1"]));
    }
    let layer2 = Layer2Settings {
        weights: vec![weight("n3", 10)],
        ..Layer2Settings::default()
    };
    let mut config = Config::clone(&with_policy(&config([pool("a", &["192.0.2.0/30"])]), layer2));
    let admits = |names: &[&str]| OnRequest {
        namespaces: Some(names.iter().map(|name| (*name).to_owned()).collect()),
    };
    config.announcement_policies.get_mut("place").unwrap().on_request = Some(admits(&["other"]));
    lab.set_config(Arc::new(config.clone()));
    lab.settle();
    let asking = |policy: &str| ServiceView {
        announcement_policy: Some(policy.to_owned()),
        ..service("n1", 1)
    };
    lab.apply(asking("place"));
    lab.settle();
    assert_eq!(lab.kinds("n1"), [EventKind::PolicyNotGranted, EventKind::Allocated]);
    assert_ne!(lab.owner("192.0.2.0"), None);
    lab.assert_quiet();

    let namespace = service("n1", 1).id.namespace.clone();
    config.announcement_policies.get_mut("place").unwrap().on_request = Some(admits(&[&namespace]));
    lab.set_config(Arc::new(config));
    lab.settle();
    lab.delete("n1");
    lab.settle();
    lab.set_endpoints(endpoints("n2", &["n1"]));
    lab.apply(ServiceView {
        announcement_policy: Some("place".to_owned()),
        ..service("n2", 2)
    });
    lab.settle();
    let address = lab.shown("n2")[0].clone();
    assert_eq!(lab.owner(&address), Some("n3"), "it has what it asks for");
    assert!(!lab.kinds("n2").contains(&EventKind::PolicyNotGranted));
    lab.assert_quiet();
}

/// Prefers the nodes with the label `kubernetes.io/hostname=name`.
fn weight(name: &str, weight: u32) -> PreferredNode {
    let requirement = Requirement {
        key: "kubernetes.io/hostname".to_owned(),
        operator: Operator::In([name.to_owned()].into()),
    };
    PreferredNode {
        weight,
        selector: LabelSelector {
            requirements: vec![requirement],
        },
    }
}

/// A cluster of so many nodes, with one Service per address of the pool that any node can serve.
fn crowd(nodes: usize, services: usize) -> Lab {
    let mut lab = Lab::started([pool("a", &["192.0.0.0/16"])]);
    for n in 0..nodes {
        lab.set_node(node(&format!("n{n}")));
    }
    for n in 0..services {
        let name = format!("s{n}");
        lab.set_endpoints(endpoints(&name, &["n1"]));
        lab.apply(service(&name, n as i64));
    }
    lab.settle();
    lab
}

fn placements(lab: &Lab) -> Vec<Placement> {
    let placed = lab.virtual_ips.values().map(|o| o.placement.clone());
    placed.collect::<Option<_>>().expect("all are placed")
}

fn owners(lab: &Lab) -> BTreeMap<String, usize> {
    let mut owners = BTreeMap::new();
    for placed in placements(lab) {
        *owners.entry(placed.owner).or_insert(0) += 1;
    }
    owners
}

#[test]
fn addresses_of_a_node_that_dies_go_to_many_and_no_others_move() {
    let mut lab = crowd(20, 400);
    let owned = owners(&lab);
    assert_eq!(owned.len(), 20);
    assert!(owned.values().all(|n| *n == 20), "{owned:?}");
    let before = placements(&lab);
    let heirs = before.iter().filter(|p| p.owner == "n7").map(|p| &p.standbys[0]);
    let heirs = heirs.collect::<BTreeSet<_>>();
    assert!(heirs.len() >= 5, "the first standbys are {heirs:?}");
    lab.set_node(NodeView {
        ready: false,
        ..node("n7")
    });
    lab.settle();
    for (old, new) in before.iter().zip(placements(&lab)) {
        let moved = (&old.owner, old.epoch) != (&new.owner, new.epoch);
        assert_eq!(moved, old.owner == "n7");
        assert!(!new.standbys.contains(&"n7".to_owned()));
    }
    let owned = owners(&lab);
    assert!(owned.values().all(|n| (20..=22).contains(n)), "{owned:?}");
}

/// Owners and standbys say Hello to each other: neither many addresses nor many nodes make that more.
#[test]
fn an_owner_has_few_standbys_however_many_addresses() {
    for (nodes, addresses) in [(20, 400), (60, 600)] {
        let mut partners = BTreeMap::<String, BTreeSet<String>>::new();
        let mut standbys = partners.clone();
        for placed in placements(&crowd(nodes, addresses)) {
            for standby in placed.standbys {
                standbys
                    .entry(placed.owner.clone())
                    .or_default()
                    .insert(standby.clone());
                partners
                    .entry(placed.owner.clone())
                    .or_default()
                    .insert(standby.clone());
                partners.entry(standby).or_default().insert(placed.owner.clone());
            }
        }
        assert!(standbys.values().all(|s| s.len() <= 8), "{standbys:?}");
        let most = partners.values().map(BTreeSet::len).max();
        assert!(most <= Some(16), "{nodes} nodes: {partners:?}");
    }
}

#[test]
fn weights_decide_where_there_is_a_choice_and_move_nothing() {
    let mut lab = crowd(3, 1);
    let weights = |node| Layer2Settings {
        weights: vec![weight(node, 50)],
        ..Layer2Settings::default()
    };
    let (config, old) = (Arc::clone(&lab.config), placements(&lab)[0].owner.clone());
    for name in ["n0", "n1", "n2"] {
        lab.set_config(with_policy(&config, weights(name)));
        lab.settle();
        assert_eq!(placements(&lab)[0].owner, old);
    }
    lab.set_node(NodeView {
        excluded: true,
        ..node(&old)
    });
    lab.settle();
    let preferred = if old == "n2" { "n0" } else { "n2" };
    lab.set_config(with_policy(&config, weights(preferred)));
    lab.settle();
    lab.set_endpoints(endpoints("late", &["n1"]));
    lab.apply(service("late", 9));
    lab.settle();
    assert_eq!(placements(&lab)[1].owner, preferred);
}

#[test]
fn with_preemption_an_address_moves_once_to_a_node_that_is_preferred_more() {
    let mut lab = crowd(3, 6);
    let rules = Layer2Settings {
        weights: vec![weight("n1", 50)],
        preemption: Some(true),
        ..Layer2Settings::default()
    };
    let config = with_policy(&lab.config, rules);
    lab.set_config(config);
    lab.settle();
    assert_eq!(owners(&lab), BTreeMap::from([("n1".to_owned(), 6)]));
    lab.assert_quiet();
    let mut gone = node("n1");
    gone.ready = false;
    lab.set_node(gone);
    lab.settle();
    assert!(!owners(&lab).contains_key("n1"));
    lab.set_node(node("n1"));
    lab.settle();
    assert_eq!(
        owners(&lab),
        BTreeMap::from([("n1".to_owned(), 6)]),
        "it takes them back"
    );
    lab.assert_quiet();
}

#[test]
fn anti_affinity_keeps_addresses_apart_and_is_no_reason_to_move() {
    for (rule, apart) in [
        (None, false),
        (Some(AntiAffinity::Service), true),
        (Some(AntiAffinity::Label("app".to_owned())), true),
    ] {
        let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9"])]);
        let rules = Layer2Settings {
            anti_affinity: rule.clone(),
            // Anti-affinity goes before weights, and pre-emption does not fight it.
            weights: vec![weight("n2", 10)],
            preemption: Some(true),
            ..Layer2Settings::default()
        };
        let config = with_policy(&lab.config, rules);
        lab.set_config(config);
        let mut view = dual(service("web", 1), FamilyPolicy::RequireDualStack);
        view.labels.insert("app".to_owned(), "shop".to_owned());
        lab.set_endpoints(endpoints("web", &["n1"]));
        lab.apply(view);
        lab.pass(Duration::from_secs(1));
        let nodes = owners(&lab).len();
        assert_eq!(nodes, if apart { 2 } else { 1 }, "{rule:?}");
        lab.assert_quiet();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever comes and goes: only addresses move whose owner may not announce any more, and standbys keep their order.
    #[test]
    fn only_what_has_to_moves(faults in prop::collection::vec((0..9_usize, 0..5_u8), 1..12)) {
        let mut lab = crowd(9, 45);
        for (n, fault) in faults {
            let mut view = lab.nodes[&format!("n{n}")].clone();
            match fault {
                0 => (view.ready, view.silent) = (!view.ready, false),
                1 => view.excluded = !view.excluded,
                2 => view.network_unavailable = !view.network_unavailable,
                3 => (view.ready, view.silent) = (view.silent, !view.silent),
                _ => view.cordoned = !view.cordoned,
            }
            let is_fit = |v: &NodeView| (v.ready || v.silent) && !v.excluded && !v.network_unavailable;
            let before = placements(&lab);
            lab.set_node(view);
            lab.settle();
            if !lab.nodes.values().any(is_fit) {
                return Ok(());
            }
            let after = placements(&lab);
            for (old, new) in before.iter().zip(&after) {
                let lost = !is_fit(&lab.nodes[&old.owner]);
                prop_assert_eq!(lost, (&old.owner, old.epoch) != (&new.owner, new.epoch));
                prop_assert!(is_fit(&lab.nodes[&new.owner]));
                prop_assert!(new.standbys.iter().all(|n| is_fit(&lab.nodes[n]) && *n != new.owner));
                let stay = old.standbys.iter().filter(|n| is_fit(&lab.nodes[*n]) && **n != new.owner);
                prop_assert!(new.standbys.starts_with(&stay.cloned().collect::<Vec<_>>()), "standbys keep their order");
            }
        }
    }
}
