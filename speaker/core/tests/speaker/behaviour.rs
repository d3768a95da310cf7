//! What the speaker does, case by case.

use std::collections::{BTreeMap, BTreeSet};

use ferrolb_model::{Announcer, L2Advertisement, NodeRefusal, PoolSelection, ServiceType};
use ferrolb_speaker_core::{Effect, Input, Settings, Speaker};

use crate::make::*;

#[test]
fn what_is_announced_stays_while_an_advertisement_cannot_be_read() {
    let lan = || vec![pool("lan", "192.0.2.0/24")];
    let gap = || config_with_a_gap(lan(), Vec::new());
    let how = BTreeMap::from([(ip("192.0.2.7"), announcement(Some(&["eth1"]), 1))]);
    let mut restarted = speaker();
    restarted.handle(snapshot(&how));
    let owned = |epoch| Input::VirtualIp(virtual_ip(ip("192.0.2.7"), Some((ME, epoch)), &["web"]));
    for input in [
        gap(),
        node(labels(&[])),
        Input::Service(service("web", labels(&[]))),
        owned(1),
    ] {
        assert_eq!(restarted.handle(input), []);
    }
    assert_eq!(restarted.handle(Input::Synced), []);
    assert_eq!(restarted.handle(owned(2)), [announce(Some(&["eth1"]), 2)]);
    restarted.handle(interfaces(&["eth0"], &[]));
    let effects = restarted.handle(answering(ip("192.0.2.7"), &[]));
    let [Effect::AnnounceFailed { message, .. }] = effects.as_slice() else {
        panic!("{effects:?}");
    };
    assert!(
        message.contains("announced on eth1") && message.contains("eth0"),
        "{message}"
    );
    assert_eq!(
        restarted.handle(config(lan(), Vec::new())),
        [nothing(), withheld(NodeRefusal::NotSelected)],
        "readable, and without any advertisement"
    );
    assert_eq!(restarted.handle(gap()), [], "nothing comes back unasked");

    let (mut running, _) = owning(Vec::new());
    assert_eq!(running.handle(gap()), []);
    let moved = virtual_ip(ip("192.0.2.7"), Some((OTHER, 2)), &["web"]);
    assert_eq!(
        running.handle(Input::VirtualIp(moved)),
        [nothing(), withheld(NodeRefusal::NotOwner)]
    );
}

#[test]
fn services_are_told_with_the_interfaces_that_are_named() {
    let (mut speaker, _) = owning(Vec::new());
    assert_eq!(speaker.services(), None, "the engine has said nothing of the address");
    speaker.handle(answering(ip("192.0.2.7"), &["eth0", "eth1"]));
    assert_eq!(speaker.services(), Some(BTreeMap::from([(&id("web"), None)])));
    assert_eq!(speaker.answering(), 1);
    let named = L2Advertisement {
        interfaces: Some(set(&["eth1", "eth9"])),
        ..advertisement("lan")
    };
    speaker.handle(config(vec![pool("lan", "192.0.2.0/24")], vec![named]));
    speaker.handle(answering(ip("192.0.2.7"), &["eth1"]));
    let interfaces = speaker.services().unwrap()[&id("web")].clone();
    assert_eq!(interfaces, Some(set(&["eth1"])), "those that do answer");
    assert_eq!(speaker.named_interfaces(), BTreeSet::from(["eth1", "eth9"]));
    speaker.handle(Input::EngineDown("no NET_RAW".to_owned()));
    assert_eq!((speaker.services(), speaker.answering()), (Some(BTreeMap::new()), 0));

    assert_eq!(self::speaker().services(), None, "nothing is known");
}

#[test]
fn nothing_is_announced_before_every_stream_was_heard() {
    let mut speaker = speaker();
    for input in [
        plain_config(),
        node(labels(&[])),
        Input::Service(service("web", labels(&[]))),
        Input::VirtualIp(virtual_ip(ip("192.0.2.7"), Some((ME, 1)), &["web"])),
        answering(ip("192.0.2.7"), &[]),
    ] {
        assert_eq!(speaker.handle(input), []);
    }
    assert_eq!(speaker.handle(Input::Synced), [announce(None, 1)]);
    assert_eq!(speaker.handle(Input::Synced), []);
}

#[test]
fn the_placement_alone_says_who_announces() {
    let address = ip("192.0.2.7");
    let web = || Input::Service(service("web", labels(&[])));
    let mut hand_written = service("web", labels(&[]));
    hand_written.ingress = vec![address];
    let mut cluster_ip = service("web", labels(&[]));
    cluster_ip.kind = ServiceType::ClusterIp;
    let mut other_class = service("web", labels(&[]));
    other_class.class = Some("example.com/other".to_owned());
    let mine = || Input::VirtualIp(virtual_ip(address, Some((ME, 1)), &["web"]));
    type Case = (&'static str, Vec<Input>, Vec<Effect>);
    let cases: Vec<Case> = vec![
        ("mine", vec![web(), mine()], vec![announce(None, 1)]),
        ("status by hand", vec![Input::Service(hand_written)], vec![]),
        (
            "another's",
            vec![web(), Input::VirtualIp(virtual_ip(address, Some((OTHER, 1)), &["web"]))],
            vec![],
        ),
        (
            "not placed",
            vec![web(), Input::VirtualIp(virtual_ip(address, None, &["web"]))],
            vec![],
        ),
        (
            "blocked",
            vec![web(), Input::VirtualIp(virtual_ip(address, Some((ME, 1)), &[]))],
            vec![withheld(NodeRefusal::NoClaim)],
        ),
        ("no Service", vec![mine()], vec![withheld(NodeRefusal::NoClaim)]),
        (
            "ClusterIP",
            vec![Input::Service(cluster_ip), mine()],
            vec![withheld(NodeRefusal::NoClaim)],
        ),
        (
            "class",
            vec![Input::Service(other_class), mine()],
            vec![withheld(NodeRefusal::NoClaim)],
        ),
    ];
    for (name, facts, expected) in cases {
        let mut speaker = speaker();
        let mut effects = Vec::new();
        for input in [plain_config()].into_iter().chain(facts).chain([Input::Synced]) {
            effects.extend(speaker.handle(input));
        }
        assert_eq!(effects, expected, "{name}");
    }
}

#[test]
fn a_class_is_served_exactly() {
    for (setting, class, served) in [
        (None, None, true),
        (Some("example.com/lb"), Some("example.com/lb"), true),
        (Some("example.com/lb"), None, false),
        (None, Some("example.com/lb"), false),
    ] {
        let load_balancer_class = setting.map(str::to_owned);
        let mut speaker = Speaker::new(ME, Settings { load_balancer_class });
        let mut web = service("web", labels(&[]));
        web.class = class.map(str::to_owned);
        for input in [plain_config(), Input::Service(web), Input::Synced] {
            assert_eq!(speaker.handle(input), []);
        }
        let object = virtual_ip(ip("192.0.2.7"), Some((ME, 1)), &["web"]);
        let effects = speaker.handle(Input::VirtualIp(object));
        assert_eq!(
            effects == [announce(None, 1)],
            served,
            "{setting:?} {class:?}: {effects:?}"
        );
    }
}

#[test]
fn advertisements_give_the_interfaces() {
    let on = |name: &str, interfaces: &[&str]| {
        let mut ad = advertisement(name);
        ad.interfaces = Some(set(interfaces));
        ad
    };
    let by_name = |mut ad: ferrolb_model::L2Advertisement, pool: &str| {
        ad.pools = PoolSelection::Some {
            names: set(&[pool]),
            selectors: Vec::new(),
        };
        ad
    };
    let by_label = |mut ad: ferrolb_model::L2Advertisement, pool: &str| {
        ad.pools = PoolSelection::Some {
            names: set(&[]),
            selectors: vec![selector("pool", pool)],
        };
        ad
    };
    let for_node = |mut ad: ferrolb_model::L2Advertisement, zone: &str| {
        ad.node_selectors = vec![selector("zone", zone)];
        ad
    };
    let for_service = |mut ad: ferrolb_model::L2Advertisement, app: &str| {
        ad.service_selectors = vec![selector("app", app)];
        ad
    };
    let refused = || vec![nothing(), withheld(NodeRefusal::NotSelected)];
    type Case = (
        &'static str,
        Vec<ferrolb_model::L2Advertisement>,
        Option<&'static [&'static str]>,
    );
    let cases: Vec<Case> = vec![
        ("one", vec![on("a", &["eth1"])], Some(&["eth1"])),
        (
            "union",
            vec![on("a", &["eth1"]), on("b", &["eth0", "eth1"])],
            Some(&["eth0", "eth1"]),
        ),
        (
            "this pool",
            vec![by_name(on("a", &["eth1"]), "lan"), by_name(advertisement("b"), "dmz")],
            Some(&["eth1"]),
        ),
        (
            "this pool by label",
            vec![by_label(on("a", &["eth1"]), "lan"), by_label(advertisement("b"), "dmz")],
            Some(&["eth1"]),
        ),
        (
            "this node",
            vec![for_node(on("a", &["eth1"]), "a"), for_node(advertisement("b"), "b")],
            Some(&["eth1"]),
        ),
        (
            "this Service",
            vec![
                for_service(on("a", &["eth1"]), "web"),
                for_service(advertisement("b"), "db"),
            ],
            Some(&["eth1"]),
        ),
    ];
    for (name, ads, interfaces) in cases {
        let (mut speaker, effects) = owning(vec![]);
        assert_eq!(effects, [announce(None, 1)]);
        let effects = speaker.handle(config(vec![pool("lan", "192.0.2.0/24")], ads));
        assert_eq!(effects, [announce(interfaces, 1)], "{name}");
    }
    for ads in [
        vec![],
        vec![by_name(advertisement("b"), "dmz")],
        vec![for_node(advertisement("b"), "b")],
        vec![for_service(advertisement("b"), "db")],
    ] {
        let (mut speaker, _) = owning(vec![]);
        let effects = speaker.handle(config(vec![pool("lan", "192.0.2.0/24")], ads));
        assert_eq!(effects, refused());
        assert_eq!(
            speaker.withheld().collect::<Vec<_>>(),
            [(ip("192.0.2.7"), NodeRefusal::NotSelected)]
        );
    }
    // One advertisement that covers and names no interfaces opens all.
    let (mut speaker, _) = owning(vec![config(
        vec![pool("lan", "192.0.2.0/24")],
        vec![on("a", &["eth1"])],
    )]);
    let ads = vec![on("a", &["eth1"]), advertisement("b")];
    assert_eq!(
        speaker.handle(config(vec![pool("lan", "192.0.2.0/24")], ads)),
        [announce(None, 1)]
    );
}

#[test]
fn a_holder_outlives_its_pool() {
    let (mut speaker, _) = owning(vec![]);
    let renamed = config(vec![pool("dmz", "192.0.2.0/24")], vec![advertisement("all")]);
    assert_eq!(speaker.handle(renamed), []);
    let deleted = config(vec![], vec![advertisement("all")]);
    assert_eq!(speaker.handle(deleted), []);
}

#[test]
fn labels_decide_as_they_change() {
    let mut ad = advertisement("a");
    ad.node_selectors = vec![selector("zone", "a")];
    ad.service_selectors = vec![selector("app", "web")];
    let (mut speaker, effects) = owning(vec![config(vec![pool("lan", "192.0.2.0/24")], vec![ad])]);
    assert_eq!(effects, [announce(None, 1)]);
    let refused = [nothing(), withheld(NodeRefusal::NotSelected)];
    assert_eq!(speaker.handle(node(labels(&[("zone", "b")]))), refused);
    assert_eq!(
        speaker.handle(node(labels(&[("zone", "a"), ("x", "y")]))),
        [announce(None, 1)]
    );
    assert_eq!(speaker.handle(Input::Service(service("web", labels(&[])))), refused);
    let web = service("web", labels(&[("app", "web")]));
    assert_eq!(speaker.handle(Input::Service(web)), [announce(None, 1)]);
}

#[test]
fn what_moves_away_is_withdrawn_with_that_event() {
    let address = ip("192.0.2.7");
    type Case = (Input, NodeRefusal);
    let cases: Vec<Case> = vec![
        (
            Input::VirtualIp(virtual_ip(address, Some((OTHER, 2)), &["web"])),
            NodeRefusal::NotOwner,
        ),
        (
            Input::VirtualIp(virtual_ip(address, None, &["web"])),
            NodeRefusal::NotOwner,
        ),
        (Input::VirtualIpGone(address), NodeRefusal::NotOwner),
        (Input::ServiceGone(id("web")), NodeRefusal::NoClaim),
    ];
    for (input, why) in cases {
        let (mut speaker, _) = owning(vec![]);
        assert_eq!(speaker.handle(input), [nothing(), withheld(why)]);
        assert_eq!(speaker.wanted(), 0);
    }
}

#[test]
fn a_snapshot_is_announced_from_at_once_and_corrected_in_sync() {
    let address = ip("192.0.2.7");
    let restored = || snapshot(&BTreeMap::from([(address, announcement(None, 3))]));
    let mut speaker = speaker();
    assert_eq!(speaker.handle(restored()), [announce(None, 3)]);
    // Nothing that is merely missing takes it away, nor a placement that is older than the takeover by this node.
    assert_eq!(speaker.handle(plain_config()), []);
    assert_eq!(speaker.handle(Input::ServiceGone(id("web"))), []);
    let older = virtual_ip(address, Some((OTHER, 2)), &["web"]);
    assert_eq!(speaker.handle(Input::VirtualIp(older)), []);
    // A later placement elsewhere does.
    let later = virtual_ip(address, Some((OTHER, 4)), &["web"]);
    assert_eq!(
        speaker.handle(Input::VirtualIp(later)),
        [nothing(), withheld(NodeRefusal::NotOwner)]
    );

    let mut speaker = Speaker::new(ME, Settings::default());
    speaker.handle(restored());
    speaker.handle(plain_config());
    assert_eq!(
        speaker.handle(Input::Synced),
        [nothing(), withheld(NodeRefusal::NotOwner)]
    );
    assert_eq!(speaker.handle(restored()), [], "too late");
}

#[test]
fn a_restart_is_silent_to_users() {
    let address = ip("192.0.2.7");
    let mut speaker = speaker();
    speaker.handle(snapshot(&BTreeMap::from([(address, announcement(None, 1))])));
    for input in [
        answering(address, &["eth0"]),
        plain_config(),
        Input::Service(service("web", labels(&[]))),
        with_announcer(ME, &["eth0"], "5"),
        Input::Synced,
    ] {
        assert_eq!(speaker.handle(input), []);
    }
    assert_eq!(speaker.announced().collect::<Vec<_>>(), [(&id("web"), address)]);
}

#[test]
fn the_announcer_follows_what_the_engine_does() {
    let address = ip("192.0.2.7");
    let (mut speaker, _) = owning(vec![]);
    assert_eq!(
        speaker.handle(answering(address, &["eth0"])),
        [set_announcer(Some(&["eth0"]), "1"), assigned("web")]
    );
    // While that write is under way, another interface comes: no second write yet, and no second event.
    assert_eq!(speaker.handle(answering(address, &["eth0", "eth1"])), []);
    assert_eq!(speaker.handle(Input::AnnouncerWritten { address, ok: true }), []);
    assert_eq!(
        speaker.handle(with_announcer(ME, &["eth0"], "2")),
        [set_announcer(Some(&["eth0", "eth1"]), "2")]
    );
    // The watch may be faster than the answer to the write.
    assert_eq!(speaker.handle(with_announcer(ME, &["eth0", "eth1"], "3")), []);
    assert_eq!(speaker.handle(Input::AnnouncerWritten { address, ok: true }), []);
    // Withdrawn: our name goes.
    let mut moved = virtual_ip(address, Some((OTHER, 2)), &["web"]);
    moved.resource_version = "4".to_owned();
    moved.announcer = Some(Announcer {
        node: ME.to_owned(),
        interfaces: ["eth0".to_owned(), "eth1".to_owned()].into(),
    });
    assert_eq!(
        speaker.handle(Input::VirtualIp(moved.clone())),
        [nothing(), withheld(NodeRefusal::NotOwner), set_announcer(None, "4")]
    );
    assert_eq!(speaker.handle(answering(address, &[])), []);
    // Meanwhile the new owner wrote its own name: ours is not there any more, so the failed write is not repeated.
    moved.announcer = Some(Announcer {
        node: OTHER.to_owned(),
        interfaces: ["eth0".to_owned()].into(),
    });
    moved.resource_version = "5".to_owned();
    assert_eq!(speaker.handle(Input::VirtualIp(moved)), []);
    assert_eq!(speaker.handle(Input::AnnouncerWritten { address, ok: false }), []);
    assert_eq!(speaker.handle(Input::Retry), []);
    assert_eq!(speaker.failed_writes(), 0);
}

#[test]
fn failed_writes_wait_for_news_or_for_the_retry() {
    let address = ip("192.0.2.7");
    let (mut speaker, _) = owning(vec![]);
    speaker.handle(answering(address, &["eth0"]));
    assert_eq!(speaker.handle(Input::AnnouncerWritten { address, ok: false }), []);
    assert_eq!(speaker.failed_writes(), 1);
    assert_eq!(
        speaker.handle(answering(address, &["eth0"])),
        [],
        "not before it is time"
    );
    assert_eq!(
        speaker.handle(Input::Retry),
        [set_announcer(Some(&["eth0"]), "1")],
        "it is time"
    );
    assert_eq!(speaker.handle(Input::Retry), [], "under way");
    // The object had changed under the write: its new version came before the refusal.
    assert_eq!(speaker.handle(with_announcer(OTHER, &["eth0"], "2")), []);
    assert_eq!(
        speaker.handle(Input::AnnouncerWritten { address, ok: false }),
        [set_announcer(Some(&["eth0"]), "2")]
    );
    // And the other way round.
    speaker.handle(Input::AnnouncerWritten { address, ok: false });
    assert_eq!(
        speaker.handle(with_announcer(OTHER, &["eth0"], "3")),
        [set_announcer(Some(&["eth0"]), "3")]
    );
}

#[test]
fn every_holder_of_a_shared_address_is_told() {
    let address = ip("192.0.2.7");
    let (mut speaker, _) = owning(vec![]);
    speaker.handle(answering(address, &["eth0"]));
    assert_eq!(speaker.handle(Input::Service(service("dns", labels(&[])))), []);
    let mut shared = virtual_ip(address, Some((ME, 1)), &["web", "dns"]);
    shared.announcer = Some(Announcer {
        node: ME.to_owned(),
        interfaces: ["eth0".to_owned()].into(),
    });
    shared.resource_version = "2".to_owned();
    assert_eq!(speaker.handle(Input::VirtualIp(shared)), [assigned("dns")]);
    assert_eq!(speaker.announced().count(), 2);
    // One leaves: the address stays for the other.
    assert_eq!(speaker.handle(Input::ServiceGone(id("web"))), []);
    assert_eq!(
        speaker.handle(Input::ServiceGone(id("dns"))),
        [
            nothing(),
            withheld(NodeRefusal::NoClaim),
            // The first write has not been answered yet, so the removal waits for it.
        ]
    );
    assert_eq!(
        speaker.handle(Input::AnnouncerWritten { address, ok: true }),
        [set_announcer(None, "2")]
    );
}

#[test]
fn a_stranger_is_reported_once() {
    let address = ip("192.0.2.7");
    let conflict = |mac: u8| Input::Conflict {
        address,
        interface: "eth0".to_owned(),
        mac: [2, 0, 0, 0, 0, mac],
    };
    let (mut speaker, _) = owning(vec![]);
    assert_eq!(
        speaker.handle(conflict(1)),
        [Effect::Conflict {
            address,
            interface: "eth0".to_owned(),
            mac: [2, 0, 0, 0, 0, 1],
            services: vec![(id("web"), "uid-web".to_owned())],
        }]
    );
    assert_eq!(speaker.handle(conflict(1)), []);
    let said = (0..=255).map(|mac| speaker.handle(conflict(mac)).len()).sum::<usize>();
    assert_eq!(said, 7, "a flood of invented MAC addresses is not a flood of events");
    speaker.handle(Input::VirtualIpGone(address));
    assert_eq!(speaker.handle(conflict(1)), [], "not ours any more");
}

#[test]
fn an_engine_that_does_not_run_is_said_with_its_reason() {
    let address = ip("192.0.2.7");
    let (mut speaker, _) = owning(vec![]);
    speaker.handle(answering(address, &["eth0"]));
    speaker.handle(Input::AnnouncerWritten { address, ok: true });
    speaker.handle(with_announcer(ME, &["eth0"], "2"));
    let down = || Input::EngineDown("CAP_NET_RAW is missing".to_owned());
    let effects = speaker.handle(down());
    let [removal, Effect::AnnounceFailed { message, .. }] = effects.as_slice() else {
        panic!("{effects:?}");
    };
    assert_eq!(*removal, set_announcer(None, "2"));
    assert!(message.ends_with("CAP_NET_RAW is missing"), "{message}");
    assert_eq!(speaker.handle(down()), []);
    // An address that comes while it is down is said, too.
    let later = virtual_ip(ip("192.0.2.8"), Some((ME, 1)), &["web"]);
    let effects = speaker.handle(Input::VirtualIp(later));
    assert!(
        matches!(effects[..], [Effect::Announce(_), Effect::AnnounceFailed { .. }]),
        "{effects:?}"
    );
    speaker.handle(Input::VirtualIpGone(ip("192.0.2.8")));
    assert_eq!(
        speaker.withheld().collect::<Vec<_>>(),
        [(address, NodeRefusal::NoLayer2)]
    );
    assert_eq!(speaker.handle(interfaces(&["eth0"], &[])), []);
    assert_eq!(speaker.handle(answering(address, &["eth0"])), [assigned("web")]);
}
