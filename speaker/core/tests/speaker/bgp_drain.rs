//! When a node gives up its routes, by which triggers, and what the last node does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{
    AnnouncementPolicy, BgpAdvertisement, BgpSettings, Config, DrainSettings, DrainTrigger, NodeRefusal, NodeView,
    ServiceView, TrafficPolicy,
};
use ferrolb_speaker_core::{Input, RouteAttributes};

use crate::bgp_bench::{Bench, ad, config, endpoints, facts, node, policy};
use crate::make::{ME, OTHER, labels, selector, service};

/// A node as the others see it.
pub(crate) fn another(name: &str, rack: &str) -> NodeView {
    NodeView {
        name: name.to_owned(),
        labels: labels(&[("rack", rack)]),
        addresses: BTreeSet::new(),
        ..node()
    }
}

fn draining(triggers: &[DrainTrigger], delay: u64) -> Config {
    let drain = DrainSettings {
        triggers: Some(triggers.iter().copied().collect()),
        delay: Some(Duration::from_secs(delay)),
    };
    let policy = AnnouncementPolicy {
        drain,
        ..policy("drain", BgpSettings::default())
    };
    let mut config = config();
    config.announcement_policies = BTreeMap::from([("drain".to_owned(), policy)]);
    config
}

#[test]
fn a_policy_says_what_drains_a_node_and_when() {
    let (cordon, taint) = (DrainTrigger::Cordon, DrainTrigger::Taint);
    let cordoned = NodeView {
        cordoned: true,
        ..node()
    };
    let tainted = NodeView {
        evicting: true,
        ..node()
    };
    let excluded = NodeView {
        excluded: true,
        ..node()
    };
    for (triggers, drained, why) in [
        (vec![cordon], &cordoned, Some(NodeRefusal::Cordoned)),
        (vec![cordon], &tainted, None),
        (vec![cordon, taint], &tainted, Some(NodeRefusal::Tainted)),
        (vec![cordon], &excluded, None),
        (vec![], &excluded, None),
        (vec![DrainTrigger::ExcludeLabel], &cordoned, None),
    ] {
        let mut bench = Bench::new(facts(draining(&triggers, 30)));
        bench.tell(Input::OtherNode(another(OTHER, "b")));
        bench.tell(Input::OwnNode(drained.clone()));
        let what = format!("{triggers:?} of {drained:?}");
        let marked = |bench: &Bench| bench.wishes("one", "192.0.2.7/32")[0].local_pref == Some(0);
        assert!(!marked(&bench) && !bench.plan.draining, "{what}: it has to last");
        bench.wait(29);
        assert!(!marked(&bench), "{what}: it has to last");
        bench.wait(1);
        assert_eq!(
            (marked(&bench), bench.plan.draining),
            (why.is_some(), why.is_some()),
            "{what}"
        );
        bench.wait(5);
        assert_eq!(bench.withheld(), Vec::from_iter(why), "{what}");
        bench.tell(Input::OwnNode(node()));
        assert_eq!(
            bench.wishes("one", "192.0.2.7/32"),
            [RouteAttributes::default()],
            "{what}: at once"
        );
        assert!(!bench.plan.draining && bench.bgp.deadline().is_none());
        bench.tell(Input::OwnNode(drained.clone()));
        assert!(!marked(&bench), "{what}: it has to last again");
    }
}

#[test]
fn by_a_cordon_the_last_node_keeps_what_it_announces() {
    let cordoned = |view: NodeView| NodeView { cordoned: true, ..view };
    let local = ServiceView {
        traffic_policy: TrafficPolicy::Local,
        ..service("web", labels(&[("app", "web")]))
    };
    let fit = || another(OTHER, "b");
    let only_here = Config {
        bgp_advertisements: BTreeMap::from([(
            "all".to_owned(),
            BgpAdvertisement {
                node_selectors: vec![selector("rack", "a")],
                ..ad("all")
            },
        )]),
        ..draining(&[DrainTrigger::Cordon], 0)
    };
    for (what, news, keeps) in [
        ("alone", vec![], true),
        ("beside another", vec![Input::OtherNode(fit())], false),
        (
            "the other is cordoned, too",
            vec![Input::OtherNode(cordoned(fit()))],
            true,
        ),
        (
            "the other is not Ready",
            vec![Input::OtherNode(NodeView { ready: false, ..fit() })],
            true,
        ),
        (
            "the other is gone",
            vec![Input::OtherNode(fit()), Input::OtherNodeGone(OTHER.to_owned())],
            true,
        ),
        (
            "the other is not selected",
            vec![Input::OtherNode(fit()), Input::Config(Arc::new(only_here))],
            true,
        ),
        (
            "Local, the only endpoint is here",
            vec![
                Input::OtherNode(fit()),
                Input::Service(local.clone()),
                endpoints("web", &[(ME, true)]),
            ],
            true,
        ),
        (
            "Local, the other one terminates",
            vec![
                Input::OtherNode(fit()),
                Input::Service(local.clone()),
                endpoints("web", &[(ME, true), (OTHER, false)]),
            ],
            true,
        ),
        (
            "Local, one elsewhere",
            vec![
                Input::OtherNode(fit()),
                Input::Service(local),
                endpoints("web", &[(ME, true), (OTHER, true)]),
            ],
            false,
        ),
    ] {
        for cordon_first in [true, false] {
            let mut bench = Bench::new(facts(draining(&[DrainTrigger::Cordon], 0)));
            let cordon = Input::OwnNode(cordoned(node()));
            let mut all = news.clone();
            all.insert(if cordon_first { 0 } else { all.len() }, cordon);
            for input in all {
                bench.tell(input);
            }
            bench.wait(5);
            let kept = bench.plan.peers["one"].routes.values().flatten();
            let kept = kept.filter(|wish| wish.local_pref.is_none()).count() == 1;
            // Who was to leave before the last one went has come back by now.
            assert_eq!(kept, keeps, "{what}, cordon first: {cordon_first}");
        }
    }
}

#[test]
fn the_exclude_label_takes_the_last_node_too() {
    let mut bench = Bench::new(facts(config()));
    bench
        .tell(Input::OwnNode(NodeView {
            excluded: true,
            ..node()
        }))
        .wait(5);
    assert_eq!(bench.withheld(), [NodeRefusal::Excluded]);
}
