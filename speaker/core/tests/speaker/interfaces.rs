//! What is said when an address can be announced on no interface.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferrolb_model::{
    AnnouncementPolicy, BgpSettings, Config, DrainSettings, EndpointSettings, Layer2Settings, NodeRefusal,
    PoolSelection,
};
use ferrolb_speaker_core::{Effect, Input, Speaker};

use crate::make::*;

#[test]
fn a_missing_interface_is_said_once_and_says_what_would_be_right() {
    let address = ip("192.0.2.7");
    let mut ad = advertisement("lan-only");
    ad.interfaces = Some(set(&["eth9"]));
    let (mut speaker, _) = owning(vec![config(vec![pool("lan", "192.0.2.0/24")], vec![ad])]);
    speaker.handle(interfaces(&["eth0", "wlan0"], &["docker0"]));
    let effects = speaker.handle(answering(address, &[]));
    let [Effect::AnnounceFailed { service, uid, message }] = effects.as_slice() else {
        panic!("{effects:?}");
    };
    assert_eq!((service, uid.as_str()), (&id("web"), "uid-web"));
    for part in [
        "node-a",
        "192.0.2.7",
        "lan-only",
        "spec.interfaces",
        "eth9",
        "eth0, wlan0",
        "docker0",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(speaker.handle(answering(address, &[])), []);
    assert_eq!(
        speaker.withheld().collect::<Vec<_>>(),
        [(address, NodeRefusal::NoInterface)]
    );
    // It comes, goes and comes: each change is said.
    assert_eq!(
        speaker.handle(answering(address, &["eth9"])),
        [set_announcer(Some(&["eth9"]), "1"), assigned("web")]
    );
    assert!(matches!(
        speaker.handle(answering(address, &[])).as_slice(),
        [Effect::AnnounceFailed { .. }]
    ));
    assert_eq!(speaker.handle(answering(address, &["eth9"])), [assigned("web")]);
}

/// Owns 192.0.2.7 with one interface in another subnet; what is said about it.
fn outside_of_the_subnet() -> (Speaker, Vec<Effect>) {
    let (mut speaker, _) = owning(vec![]);
    let news = Input::Interfaces {
        usable: [("eth0".to_owned(), subnets(&["10.0.0.4/24", "fd00::4/64"]))].into(),
        excluded: [("docker0".to_owned(), subnets(&["192.0.2.1/24"]))].into(),
    };
    speaker.handle(news);
    let effects = speaker.handle(answering(ip("192.0.2.7"), &[]));
    (speaker, effects)
}

#[test]
fn an_address_outside_of_every_subnet_is_said_once_with_what_would_help() {
    let address = ip("192.0.2.7");
    let (mut speaker, effects) = outside_of_the_subnet();
    let [Effect::AnnounceFailed { message, .. }] = effects.as_slice() else {
        panic!("{effects:?}");
    };
    assert_eq!(
        message,
        "node \"node-a\" does not announce 192.0.2.7: it is in no subnet of eth0 (10.0.0.0/24); take it from an \
         IPAddressPool in one of these subnets, or, if clients find it there all the same, set \
         spec.layer2.subnetCheck: false in an AnnouncementPolicy"
    );
    assert_eq!(
        speaker.withheld().collect::<Vec<_>>(),
        [(address, NodeRefusal::NoSubnet)]
    );
    assert_eq!(speaker.handle(answering(address, &[])), []);
}

#[test]
fn what_stands_against_an_address_is_said_anew_when_it_changes() {
    let address = ip("192.0.2.7");
    let (mut speaker, _) = outside_of_the_subnet();
    let with = |usable: &[(&str, &[&str])]| Input::Interfaces {
        usable: usable
            .iter()
            .map(|(name, of)| ((*name).to_owned(), subnets(of)))
            .collect(),
        excluded: BTreeMap::new(),
    };
    assert_eq!(
        speaker.handle(with(&[("eth0", &["10.0.1.4/24"])])),
        [],
        "another subnet, the same reason"
    );
    assert!(matches!(
        speaker.handle(with(&[])).as_slice(),
        [Effect::AnnounceFailed { .. }]
    ));
    assert_eq!(
        speaker.withheld().collect::<Vec<_>>(),
        [(address, NodeRefusal::NoInterface)]
    );
    // The engine is about to say that it answers.
    assert_eq!(speaker.handle(with(&[("eth0", &["192.0.2.4/24"])])), []);
    assert_eq!(
        speaker.handle(answering(address, &["eth0"])),
        [set_announcer(Some(&["eth0"]), "1"), assigned("web")]
    );
    assert_eq!(speaker.withheld().count(), 0);
}

#[test]
fn without_the_check_the_subnets_are_no_matter() {
    let (mut speaker, _) = outside_of_the_subnet();
    let policy = AnnouncementPolicy {
        name: "lan".to_owned(),
        pools: PoolSelection::All,
        service_selectors: Vec::new(),
        node_selectors: Vec::new(),
        on_request: None,
        layer2: Layer2Settings {
            subnet_check: Some(false),
            ..Layer2Settings::default()
        },
        drain: DrainSettings::default(),
        endpoints: EndpointSettings::default(),
        bgp: BgpSettings::default(),
    };
    let Input::Config(plain) = plain_config() else {
        panic!("a configuration");
    };
    let config = Config {
        announcement_policies: BTreeMap::from([("lan".to_owned(), policy)]),
        ..Arc::unwrap_or_clone(plain)
    };
    let effects = speaker.handle(Input::Config(Arc::new(config)));
    assert!(matches!(effects.as_slice(), [Effect::Announce(_)]), "{effects:?}");
    assert!(matches!(
        speaker.handle(answering(ip("192.0.2.7"), &["eth0"])).as_slice(),
        [_, Effect::NodeAssigned { .. }]
    ));
}

#[test]
fn a_corrected_advertisement_is_no_second_failure() {
    let address = ip("192.0.2.7");
    let named = |interface: &str| {
        let mut ad = advertisement("a");
        ad.interfaces = Some(set(&[interface]));
        config(vec![pool("lan", "192.0.2.0/24")], vec![ad])
    };
    for (corrected, failures) in [
        (named("eth0"), 0),
        (named("docker0"), 0),
        (plain_config(), 0),
        (named("eth8"), 1),
    ] {
        let (mut speaker, _) = owning(vec![named("eth9")]);
        speaker.handle(interfaces(&["eth0"], &["docker0"]));
        assert_eq!(speaker.handle(answering(address, &[])).len(), 1);
        let effects = speaker.handle(corrected);
        assert!(matches!(effects[0], Effect::Announce(_)));
        assert_eq!(effects.len() - 1, failures, "{effects:?}");
    }
}
