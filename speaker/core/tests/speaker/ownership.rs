//! The part of a node in addresses whose owners change, with and without the API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{
    AnnouncementPolicy, Announcer, BgpSettings, Config, DrainSettings, EndpointSettings, Layer2Settings, OnRequest,
    Placement, PoolSelection, ServiceView, VirtualIp,
};
use ferrolb_speaker_core::{DataPath, Duty, Effect, Finding, Input, Liveness, Ownership, Probes};

use crate::make::*;

const ADDRESS: &str = "192.0.2.7";

fn placement(owner: &str, standbys: &[&str], epoch: u64) -> Placement {
    Placement {
        owner: owner.to_owned(),
        standbys: standbys.iter().map(|name| (*name).to_owned()).collect(),
        epoch,
    }
}

fn placed(placement: Option<Placement>, version: &str) -> VirtualIp {
    VirtualIp {
        placement,
        resource_version: version.to_owned(),
        ..virtual_ip(ip(ADDRESS), None, &["web"])
    }
}

/// In sync, with the address placed so.
fn ownership(first: Placement) -> Ownership {
    let mut ownership = Ownership::new(ME, speaker());
    let facts = [
        plain_config(),
        node(labels(&[])),
        Input::Service(service("web", labels(&[]))),
        Input::VirtualIp(placed(Some(first), "1")),
        Input::Synced,
    ];
    for input in facts {
        ownership.handle(input);
    }
    // Nothing here waits for kube-proxy, or for the segment.
    let mut probes = Probes::new(ME);
    ownership.begin(&DataPath::off(ME), &mut probes, Duration::ZERO);
    for (address, on) in probes.take(9) {
        probes.answered(address, on, Finding::Clear, Duration::ZERO);
    }
    ownership.begin(&DataPath::off(ME), &mut probes, Duration::ZERO);
    ownership
}

/// The last duties among `effects`, if they changed: the placement for each address.
fn duties(effects: &[Effect]) -> Option<Option<Placement>> {
    let last = effects.iter().rev().find_map(|effect| match effect {
        Effect::Duties(all) => Some(all),
        _ => None,
    });
    last.map(|all| all.get(&ip(ADDRESS)).map(|duty| duty.placement.clone()))
}

fn records(effects: &[Effect]) -> Vec<(Placement, String)> {
    let record = |effect: &Effect| match effect {
        Effect::SetPlacement {
            placement,
            resource_version,
            ..
        } => Some((placement.clone(), resource_version.clone())),
        _ => None,
    };
    effects.iter().filter_map(record).collect()
}

fn took_over(placement: Placement) -> Input {
    Input::TookOver {
        address: ip(ADDRESS),
        placement,
    }
}

#[test]
fn a_standby_has_a_part_as_long_as_it_could_announce() {
    let mut ownership = ownership(placement(OTHER, &[ME], 1));
    let stands_by = |ownership: &mut Ownership, input| duties(&ownership.handle(input));
    assert_eq!(
        stands_by(&mut ownership, Input::ServiceGone(id("web"))),
        Some(None),
        "nobody claims it"
    );
    let web = Input::Service(service("web", labels(&[])));
    assert_eq!(stands_by(&mut ownership, web), Some(Some(placement(OTHER, &[ME], 1))));
    let unselected = config(vec![pool("lan", "192.0.2.0/24")], vec![]);
    assert_eq!(
        stands_by(&mut ownership, unselected),
        Some(None),
        "nothing selects this node"
    );
    stands_by(&mut ownership, plain_config());
    let elsewhere = Input::VirtualIp(placed(Some(placement(OTHER, &["node-c"], 1)), "2"));
    assert_eq!(stands_by(&mut ownership, elsewhere), Some(None), "another stands by");
}

#[test]
fn a_takeover_is_written_until_it_stands_there() {
    let mut ownership = ownership(placement(OTHER, &[ME], 1));
    let mine = placement(ME, &[OTHER], 2);
    let effects = ownership.handle(took_over(mine.clone()));
    assert_eq!(duties(&effects), Some(Some(mine.clone())));
    assert_eq!(records(&effects), [(mine.clone(), "1".to_owned())]);
    assert_eq!(ownership.speaker().wanted(), 1, "and announced");
    assert_eq!(ownership.handle(took_over(mine.clone())), [], "no news");

    let failed = Input::PlacementWritten {
        address: ip(ADDRESS),
        ok: false,
    };
    assert_eq!(ownership.handle(failed), []);
    assert_eq!(ownership.failed_writes(), 1);
    // The API server still knows nothing, and says so.
    let old = Input::VirtualIp(placed(Some(placement(OTHER, &[ME], 1)), "2"));
    let effects = ownership.handle(old);
    assert_eq!(
        (duties(&effects), records(&effects)),
        (None, vec![(mine.clone(), "2".to_owned())])
    );
    let failed = Input::PlacementWritten {
        address: ip(ADDRESS),
        ok: false,
    };
    ownership.handle(failed);
    assert_eq!(records(&ownership.handle(Input::Retry)).len(), 1);
    ownership.handle(Input::PlacementWritten {
        address: ip(ADDRESS),
        ok: true,
    });
    let effects = ownership.handle(Input::VirtualIp(placed(Some(placement(ME, &["node-c"], 2)), "3")));
    assert_eq!(
        duties(&effects),
        Some(Some(placement(ME, &["node-c"], 2))),
        "as the controller completed it"
    );
    assert_eq!(records(&effects), []);
}

#[test]
fn the_greater_placement_counts() {
    let mut ownership = ownership(placement(ME, &[OTHER], 3));
    let theirs = placement(OTHER, &[ME], 4);
    assert_eq!(
        duties(&ownership.handle(took_over(theirs.clone()))),
        Some(Some(theirs.clone()))
    );
    assert_eq!(ownership.speaker().wanted(), 0);
    let behind = Input::VirtualIp(placed(Some(placement(ME, &[OTHER], 3)), "2"));
    let effects = ownership.handle(behind);
    assert_eq!(
        (duties(&effects), records(&effects)),
        (None, vec![]),
        "the other node writes it"
    );
    let back = placement(ME, &[OTHER], 5);
    let effects = ownership.handle(Input::VirtualIp(placed(Some(back.clone()), "3")));
    assert_eq!(duties(&effects), Some(Some(back)));
    assert_eq!(duties(&ownership.handle(took_over(theirs))), None, "an old tale");
}

#[test]
fn an_address_is_kept_until_the_new_owner_is_heard() {
    let mut ownership = ownership(placement(ME, &[], 1));
    let theirs = placement(OTHER, &["node-c"], 2);
    let effects = ownership.handle(Input::VirtualIp(placed(Some(theirs.clone()), "2")));
    assert_eq!(
        duties(&effects),
        Some(Some(theirs)),
        "this node is in it no more, and answers"
    );
    assert_eq!(
        ownership.speaker().wanted(),
        0,
        "but does not count as the one that announces"
    );
    let on = placement("node-c", &[OTHER], 3);
    let effects = ownership.handle(Input::VirtualIp(placed(Some(on.clone()), "3")));
    assert_eq!(duties(&effects), Some(Some(on)));
    assert_eq!(duties(&ownership.handle(Input::HandedOver(ip(ADDRESS)))), Some(None));

    ownership.handle(Input::VirtualIp(placed(Some(placement(ME, &[], 4)), "4")));
    let moved = placed(Some(placement(OTHER, &[], 5)), "5");
    assert!(
        duties(&ownership.handle(Input::VirtualIp(moved.clone())))
            .flatten()
            .is_some()
    );
    let heard = VirtualIp {
        announcer: Some(Announcer {
            node: OTHER.to_owned(),
            interfaces: ["eth0".to_owned()].into(),
        }),
        ..moved
    };
    assert_eq!(
        duties(&ownership.handle(Input::VirtualIp(heard))),
        Some(None),
        "heard through the API server"
    );

    let withdrawn = [None, Some(placement(OTHER, &[], 9))];
    for (version, then) in withdrawn.into_iter().enumerate() {
        let mine = Some(placement(ME, &[], 8));
        ownership.handle(Input::VirtualIp(placed(mine, &format!("a{version}"))));
        let gone = match then {
            None => ownership.handle(Input::VirtualIp(placed(None, "b"))),
            Some(_) => ownership.handle(Input::VirtualIpGone(ip(ADDRESS))),
        };
        assert_eq!(duties(&gone), Some(None), "nobody is to answer");
    }
}

#[test]
fn a_restart_goes_on_from_the_snapshot() {
    let mine = duty(ip(ADDRESS), ME, &announcement(None, 5));
    let before = |duty: &Duty| Input::Restored(BTreeMap::from([(ip(ADDRESS), Arc::new(duty.clone()))]).into());
    let facts = || {
        [
            plain_config(),
            node(labels(&[])),
            Input::Service(service("web", labels(&[]))),
        ]
    };
    let behind = || Input::VirtualIp(placed(Some(placement(OTHER, &[ME], 4)), "1"));

    let mut ownership = Ownership::new(ME, speaker());
    assert_eq!(
        duties(&ownership.handle(before(&mine))),
        Some(Some(mine.placement.clone()))
    );
    for input in facts().into_iter().chain([behind()]) {
        assert_eq!(duties(&ownership.handle(input)), None);
    }
    let effects = ownership.handle(Input::Synced);
    assert_eq!(records(&effects), [(mine.placement.clone(), "1".to_owned())]);
    assert_eq!(ownership.speaker().wanted(), 1);

    // The same address, but its VirtualIP was made anew meanwhile.
    let mut ownership = Ownership::new(ME, speaker());
    let other = Duty {
        uid: "another".to_owned(),
        ..mine
    };
    ownership.handle(before(&other));
    for input in facts() {
        ownership.handle(input);
    }
    ownership.handle(behind());
    let effects = ownership.handle(Input::Synced);
    assert_eq!(duties(&effects), Some(Some(placement(OTHER, &[ME], 4))));
    assert_eq!((records(&effects).len(), ownership.speaker().wanted()), (0, 0));
}

#[test]
fn a_policy_says_how_a_failure_is_noticed() {
    let policy = |name: &str, layer2: Layer2Settings| {
        let policy = AnnouncementPolicy {
            name: name.to_owned(),
            pools: PoolSelection::All,
            service_selectors: Vec::new(),
            node_selectors: Vec::new(),
            on_request: None,
            layer2,
            drain: DrainSettings::default(),
            endpoints: EndpointSettings::default(),
            bgp: BgpSettings::default(),
        };
        (name.to_owned(), policy)
    };
    let seconds = |n| Some(Duration::from_secs(n));
    let first = Layer2Settings {
        grace: seconds(3),
        ..Layer2Settings::default()
    };
    let second = Layer2Settings {
        grace: seconds(5),
        liveness_multiplier: Some(4),
        ..Layer2Settings::default()
    };
    let Input::Config(plain) = plain_config() else {
        unreachable!("a configuration")
    };
    let config = Config {
        announcement_policies: [policy("b", second), policy("a", first)].into(),
        ..(*plain).clone()
    };
    let mut ownership = ownership(placement(ME, &[OTHER], 1));
    let effects = ownership.handle(Input::Config(Arc::new(config)));
    let [Effect::Duties(all)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    let expected = Liveness {
        grace: seconds(3),
        multiplier: Some(4),
        ..Liveness::default()
    };
    assert_eq!(all[&ip(ADDRESS)].liveness, expected);
}

#[test]
fn a_service_may_ask_for_a_policy() {
    let Input::Config(plain) = plain_config() else {
        unreachable!("a configuration")
    };
    let fast = AnnouncementPolicy {
        name: "fast".to_owned(),
        pools: PoolSelection::All,
        service_selectors: Vec::new(),
        node_selectors: Vec::new(),
        on_request: Some(OnRequest::default()),
        layer2: Layer2Settings {
            refresh: Some(Duration::from_secs(7)),
            liveness_multiplier: Some(4),
            ..Layer2Settings::default()
        },
        drain: DrainSettings::default(),
        endpoints: EndpointSettings::default(),
        bgp: BgpSettings::default(),
    };
    let config = Config {
        announcement_policies: [(fast.name.clone(), fast)].into(),
        ..(*plain).clone()
    };
    let mut ownership = ownership(placement(ME, &[OTHER], 1));
    ownership.handle(Input::Config(Arc::new(config)));
    let asking = ServiceView {
        announcement_policy: Some("fast".to_owned()),
        ..service("web", labels(&[]))
    };
    let effects = ownership.handle(Input::Service(asking));
    let [Effect::Duties(all)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    let duty = &all[&ip(ADDRESS)];
    assert_eq!(duty.manner.refresh, Some(Duration::from_secs(7)));
    assert_eq!(duty.liveness.multiplier, Some(4));
}

#[test]
fn a_takeover_before_anything_was_heard_is_remembered_and_written() {
    let heard = duty(ip(ADDRESS), OTHER, &announcement(None, 4));
    let restored = Input::Restored(BTreeMap::from([(ip(ADDRESS), Arc::new(heard))]).into());
    let mut ownership = Ownership::new(ME, speaker());
    ownership.handle(restored);
    let mine = placement(ME, &[OTHER], 5);
    assert_eq!(
        duties(&ownership.handle(took_over(mine.clone()))),
        Some(Some(mine.clone()))
    );
    for input in [
        plain_config(),
        node(labels(&[])),
        Input::Service(service("web", labels(&[]))),
        Input::VirtualIp(placed(Some(placement(OTHER, &[ME], 4)), "1")),
    ] {
        ownership.handle(input);
    }
    assert_eq!(records(&ownership.handle(Input::Synced)), [(mine, "1".to_owned())]);
    assert_eq!(ownership.speaker().wanted(), 1);
}

#[test]
fn an_owner_that_may_not_announce_any_more_goes_on_until_the_address_is_elsewhere() {
    let mut ownership = ownership(placement(ME, &[OTHER], 1));
    let unselected = config(vec![pool("lan", "192.0.2.0/24")], vec![]);
    let able = |effects: &[Effect]| {
        let Some(Effect::Duties(all)) = effects.iter().find(|effect| matches!(effect, Effect::Duties(_))) else {
            panic!("{effects:?}")
        };
        all.get(&ip(ADDRESS)).map(|duty| duty.able)
    };
    assert_eq!(able(&ownership.handle(unselected)), Some(false));
    assert_eq!(able(&ownership.handle(Input::VirtualIp(placed(None, "2")))), None);
    ownership.handle(plain_config());
    ownership.handle(Input::VirtualIp(placed(Some(placement(ME, &[], 2)), "3")));
    assert_eq!(
        able(&ownership.handle(Input::ServiceGone(id("web")))),
        None,
        "nobody claims it"
    );
}
