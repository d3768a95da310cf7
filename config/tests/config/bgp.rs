//! Peers, BGP advertisements, BFD profiles and communities.

use std::net::IpAddr;
use std::time::Duration;

use ferrolb_api::{BfdProfile, BgpAdvertisement, BgpPeer, Community, IpAddressPool};
use ferrolb_config::{Outcome, Parsed, parse};
use ferrolb_model::{BgpTimers, PasswordSource, PeerEndpoint, RemoteAsn};

use crate::make::{
    messages, nodes, object, only_message, read, read_after, snapshot, surroundings, unreadable, warnings,
};

/// A peer with these fields besides those that every peer has.
fn peer(name: &str, day: u32, more: &str) -> (ferrolb_config::ObjectRef, ferrolb_config::Object) {
    object::<BgpPeer>(name, day, &format!("{{myASN: 64512, peerASN: 64513, {more}}}"))
}

fn timers(hold: u64, keepalive: u64) -> Option<BgpTimers> {
    let [hold, keepalive] = [hold, keepalive].map(Duration::from_secs);
    Some(BgpTimers { hold, keepalive })
}

#[test]
fn a_peer_is_read_as_written() {
    let everything = peer(
        "a",
        1,
        "peerAddress: 192.0.2.1, sourceAddress: 192.0.2.9, peerPort: 1179, holdTime: 90.9s, connectTime: 5s, routerID: \
         10.0.0.1, nodeSelectors: [{matchLabels: {zone: x}}], passwordSecret: {name: key}, bfdProfile: fast, \
         enableGracefulRestart: true, ebgpMultiHop: true, vrf: red, localASN: 64999, dualStackAddressFamily: true",
    );
    let profile = object::<BfdProfile>("fast", 1, "{receiveInterval: 50, detectMultiplier: 5, echoMode: true}");
    let unnumbered = object::<BgpPeer>(
        "b",
        1,
        "{myASN: 64512, dynamicASN: external, interface: eth1, routerID: 10.0.0.1}",
    );
    let parsed = read(&[everything, profile, unnumbered]);
    assert_eq!(messages(&parsed), [""; 0]);
    let peer = &parsed.config.peers["a"];
    assert_eq!(peer.endpoint, PeerEndpoint::Address("192.0.2.1".parse().unwrap()));
    assert_eq!(
        (peer.remote_asn, peer.shown_asn(), peer.port),
        (RemoteAsn::Number(64513), 64999, 1179)
    );
    assert_eq!(
        (peer.timers, peer.connect_time),
        (timers(90, 30), Some(Duration::from_secs(5)))
    );
    assert_eq!(peer.password, Some(PasswordSource::Secret("key".to_owned())));
    assert_eq!(peer.source_address, Some(IpAddr::from([192, 0, 2, 9])));
    assert!(peer.graceful_restart && peer.ebgp_multihop && peer.dual_stack);
    let bfd = peer.bfd.as_ref().unwrap();
    assert_eq!(
        (bfd.receive_interval, bfd.transmit_interval, bfd.detect_multiplier),
        (Duration::from_millis(50), Duration::from_millis(300), 5)
    );
    let unnumbered = &parsed.config.peers["b"];
    assert_eq!(unnumbered.endpoint, PeerEndpoint::Interface("eth1".to_owned()));
    assert_eq!(
        (unnumbered.remote_asn, unnumbered.port, unnumbered.timers),
        (RemoteAsn::External, 179, None)
    );
    assert_eq!(
        warnings(&parsed),
        [
            "BGPPeer \"a\": spec.bfdProfile: echo mode of BFDProfile \"fast\" has no effect; the session is watched by \
             control packets alone (a warning; the object is in force)"
        ]
    );
}

#[test]
fn timers_follow_from_each_other() {
    for (given, expected) in [
        ("holdTime: 90s", timers(90, 30)),
        ("keepaliveTime: 10s", timers(30, 10)),
        ("holdTime: 90s, keepaliveTime: 90s", timers(90, 90)),
        ("holdTime: 0s", timers(0, 0)),
        ("holdTime: 1m30.9s, keepaliveTime: 0s", timers(90, 30)),
        ("holdTime: 0s, keepaliveTime: 0s", timers(0, 0)),
        ("keepaliveTime: 0s", None),
        ("holdTime: 3s", timers(3, 1)),
        ("vrf: ''", None),
    ] {
        let parsed = read(&[peer("a", 1, &format!("peerAddress: 192.0.2.1, {given}"))]);
        assert_eq!(messages(&parsed), [""; 0], "{given}");
        assert_eq!(parsed.config.peers["a"].timers, expected, "{given}");
    }
}

#[test]
fn every_mistake_of_a_peer_is_named() {
    let bad = object::<BgpPeer>(
        "bad",
        1,
        "{myASN: 0, peerASN: 7, dynamicASN: internal, localASN: 0, peerAddress: 'fe80::1%eth0', sourceAddress: 0.0.0.0, \
         peerPort: 16385, holdTime: 2.9s, keepaliveTime: x, connectTime: 1.5s, routerID: '::1', password: s3cret, \
         passwordSecret: {name: key}, bfdProfile: none, vrf: 'a b'}",
    );
    let parsed = read(&[bad]);
    let all = messages(&parsed).join("\n");
    for (field, part) in [
        ("spec.myASN", "0 is out of range; write a number from 1 to 4294967295"),
        (
            "spec.peerASN",
            "both are set; set exactly one of spec.peerASN and spec.dynamicASN",
        ),
        ("spec.localASN", "0 is out of range"),
        ("spec.peerAddress", "\"fe80::1%eth0\" is not an IP address"),
        ("spec.sourceAddress", "0.0.0.0 is not the address of one machine"),
        ("spec.peerPort", "16385 is out of range; write a number from 1 to 16384"),
        (
            "spec.holdTime",
            "\"2.9s\" is out of range; write 0s, which is never, or 3s to 65535s",
        ),
        ("spec.keepaliveTime", "\"x\" is not a duration; write one like 90s"),
        (
            "spec.connectTime",
            "\"1.5s\" is out of range; write 1s to 65535s, whole seconds",
        ),
        ("spec.routerID", "\"::1\" is not a BGP identifier"),
        (
            "spec.passwordSecret.name",
            "both are set; set exactly one of spec.password and spec.passwordSecret",
        ),
        ("spec.bfdProfile", "no BFDProfile \"none\" is in force; create it"),
        ("spec.vrf", "\"a b\" is not the name of an interface"),
    ] {
        assert!(
            all.contains(&format!("{field}: {part}")),
            "{field}: {part} is not in\n{all}"
        );
    }
    assert_eq!(parsed.errors.len(), 13, "{all}");
    assert!(!format!("{parsed:?} {all}").contains("s3cret"), "the password is shown");

    for (more, part) in [
        ("", "spec.peerAddress: neither is set"),
        (
            "peerAddress: 192.0.2.1, interface: eth0",
            "spec.peerAddress: both are set",
        ),
        ("interface: sixteen-letters-", "is not the name of an interface"),
        (
            "peerAddress: 192.0.2.1, sourceAddress: '2001:db8::1'",
            "is not of the family of spec.peerAddress",
        ),
        (
            "peerAddress: 192.0.2.1, holdTime: 90s, keepaliveTime: 91s",
            "\"91s\" is longer than spec.holdTime \"90s\"",
        ),
        (
            "peerAddress: 192.0.2.1, keepaliveTime: 21846s",
            "spec.keepaliveTime: \"21846s\" is out of range",
        ),
        (
            "peerAddress: 192.0.2.1, peerASN: 64512, ebgpMultiHop: true",
            "spec.ebgpMultiHop: is for peers of another AS",
        ),
        ("peerAddress: 192.0.2.1, peerASN: 0", "spec.peerASN: neither is set"),
    ] {
        let spec = format!("{{myASN: 64512, {more}}}");
        let spec = if more.contains("peerASN") {
            spec
        } else {
            spec.replace("64512,", "64512, peerASN: 1,")
        };
        let parsed = read(&[object::<BgpPeer>("p", 1, &spec)]);
        assert!(only_message(&parsed).contains(part), "{}", only_message(&parsed));
    }
    let long = peer(
        "p",
        1,
        &format!("peerAddress: 192.0.2.1, password: {}", "geheim".repeat(14)),
    );
    let parsed = read(&[long]);
    assert!(only_message(&parsed).contains("spec.password: is longer than the 80 bytes"));
    assert!(!format!("{parsed:?}").contains("geheim"));
}

#[test]
fn peers_that_cannot_stand_next_to_each_other() {
    let older = peer(
        "z",
        1,
        "peerAddress: 192.0.2.1, nodeSelectors: [{matchLabels: {zone: x}}]",
    );
    let newer = |more: &str| peer("a", 2, more);
    let zones = [nodes(&[("n1", "x"), ("n2", "y")]), nodes(&[])];
    for (more, with_nodes, without) in [
        (
            "peerAddress: 192.0.2.1",
            Some("spec.peerAddress: 192.0.2.1 is the router of the older BGPPeer \"z\""),
            true,
        ),
        (
            "peerAddress: '::ffff:192.0.2.1', peerPort: 1179",
            Some("is the router of the older BGPPeer"),
            true,
        ),
        (
            "peerAddress: 192.0.2.1, nodeSelectors: [{matchLabels: {zone: y}}]",
            None,
            true,
        ),
        ("peerAddress: 192.0.2.1, vrf: red", None, false),
        (
            "peerAddress: 192.0.2.2, routerID: 10.0.0.1",
            Some("10.0.0.1 differs from none of the older BGPPeer \"z\""),
            true,
        ),
        (
            "peerAddress: 192.0.2.2, myASN: 7",
            Some("spec.myASN: 7 differs from 64512"),
            true,
        ),
        ("peerAddress: 192.0.2.2, myASN: 7, vrf: red", None, false),
        ("peerAddress: 192.0.2.2", None, false),
    ] {
        let spec = match more.contains("myASN") {
            true => object::<BgpPeer>("a", 2, &format!("{{peerASN: 64513, {more}}}")),
            false => newer(more),
        };
        let objects = snapshot(&[older.clone(), spec]);
        for (known, expected) in zones.iter().zip([with_nodes.is_some(), without]) {
            let mut around = surroundings();
            around.nodes.clone_from(known);
            let parsed = parse(&objects, &around, &Parsed::default());
            assert!(parsed.config.peers.contains_key("z"), "the older one stays");
            assert_eq!(parsed.config.peers.contains_key("a"), !expected, "{more}");
            if let Some(part) = with_nodes {
                assert!(only_message(&parsed).contains(part), "{}", only_message(&parsed));
            }
        }
    }
}

#[test]
fn a_profile_that_goes_keeps_its_peers() {
    let using = peer("p", 1, "peerAddress: 192.0.2.1, bfdProfile: fast");
    let good = object::<BfdProfile>("fast", 1, "{receiveInterval: 50}");
    let bad = object::<BfdProfile>(
        "fast",
        1,
        "{receiveInterval: 9, detectMultiplier: 256, minimumTtl: 255}",
    );
    let last = read(&[using.clone(), good]);
    let wrong = read_after(&[using.clone(), bad.clone()], &last);
    assert_eq!(wrong.config, last.config);
    assert_eq!(wrong.errors.len(), 3, "{:?}", messages(&wrong));
    let gone = read_after(std::slice::from_ref(&using), &last);
    assert_eq!(gone.config.peers, last.config.peers, "the peer keeps what it knew");
    assert!(only_message(&gone).ends_with("(its last good version stays in force)"));
    let never = read(&[using, bad]);
    assert!(never.config.peers.is_empty() && never.config.bfd_profiles.is_empty());
    assert_eq!(never.errors.len(), 4, "{:?}", messages(&never));
}

#[test]
fn communities_by_value_and_by_alias() {
    let aliases = object::<Community>(
        "names",
        1,
        "communities: [{name: vpn, value: '1234:1'}, {name: big, value: 'large:64512:1:2'}]",
    );
    let ad = |list: &str| object::<BgpAdvertisement>("ad", 1, &format!("communities: [{list}]"));
    let parsed = read(&[aliases.clone(), ad("vpn, big, '65535:65281', 'large:1:2:3'")]);
    let texts = parsed.config.bgp_advertisements["ad"].communities.iter();
    assert_eq!(
        texts.map(ToString::to_string).collect::<Vec<_>>(),
        ["1234:1", "65535:65281", "large:1:2:3", "large:64512:1:2"]
    );
    for (text, part) in [
        (
            "vpm",
            "\"vpm\" is no community, and no Community object in force has an alias of this name",
        ),
        ("'65536:1'", "\"65536\" in \"65536:1\" is not a number from 0 to 65535"),
        ("'1:2:3'", "neither a community like"),
        ("vpn, vpn", "spec.communities[1]: \"vpn\" stands there already"),
    ] {
        let parsed = read(&[aliases.clone(), ad(text)]);
        assert!(only_message(&parsed).contains(part), "{}", only_message(&parsed));
        assert!(parsed.config.bgp_advertisements_unknown);
    }
    let good = read(&[aliases.clone(), ad("vpn")]);
    let without = read_after(&[ad("vpn")], &good);
    assert_eq!(
        without.config.bgp_advertisements, good.config.bgp_advertisements,
        "it keeps what it knew"
    );

    let later = object::<Community>(
        "later",
        2,
        "communities: [{name: x, value: '1:1'}, {name: vpn, value: '1:2'}]",
    );
    let parsed = read(&[later, aliases]);
    assert_eq!(
        messages(&parsed),
        [
            "Community \"later\": spec.communities[1].name: alias \"vpn\" is in the older Community \"names\" already; an \
             alias may be in one object only (the object is left out)"
        ]
    );
    let bad = object::<Community>(
        "bad",
        1,
        "communities: [{value: '1:1'}, {name: a, value: b}, {name: a, value: '1:1'}]",
    );
    assert_eq!(read(&[bad]).errors.len(), 3);
}

#[test]
fn an_aggregate_is_never_wider_than_its_pool() {
    let wide = object::<IpAddressPool>("wide", 1, "addresses: [10.0.0.0/16, '2001:db8::/64']");
    let narrow = object::<IpAddressPool>("narrow", 2, "addresses: [192.0.2.0/28, 192.0.2.100-192.0.2.103]");
    let ad = |spec: &str| object::<BgpAdvertisement>("ad", 1, spec);
    let covers = |parsed: &Parsed| {
        let config = &parsed.config;
        let ad = &config.bgp_advertisements["ad"];
        config
            .pools
            .values()
            .filter(|p| ad.covers_pool(p))
            .map(|p| p.name.clone())
            .collect::<Vec<_>>()
    };
    let both = [wide.clone(), narrow.clone()];
    let with = |spec: &str| [both.as_slice(), &[ad(spec)]].concat();
    let single = read(&with("{}"));
    assert_eq!(covers(&single), ["narrow", "wide"]);
    let made = read(&with("aggregationLength: 24"));
    assert_eq!(covers(&made), ["wide"], "a new one works as far as it can");
    assert_eq!(
        messages(&made),
        [
            "BGPAdvertisement \"ad\": spec.aggregationLength: a prefix of length 24 is wider than 192.0.2.0-192.0.2.15 of \
             IPAddressPool \"narrow\", whose addresses are not advertised by it; write at least 28 (the rest of the object \
             is in force)"
        ]
    );
    assert_eq!(made.errors[0].outcome, Outcome::InPart);
    let edited = read_after(&with("aggregationLength: 24"), &single);
    assert_eq!(covers(&edited), ["narrow", "wide"], "an edit takes nothing away");
    assert_eq!(edited.errors[0].outcome, Outcome::LastGood);
    let before = read(&[wide, ad("aggregationLength: 24")]);
    let after = read_after(&with("aggregationLength: 24"), &before);
    assert_eq!(covers(&after), ["wide"], "a pool that came later is not advertised");
    let narrower = read(&with("aggregationLength: 28"));
    assert_eq!(covers(&narrower), ["wide"], "four addresses are no prefix of length 28");

    for (spec, part) in [
        (
            "aggregationLength: 33",
            "33 is out of range; write a number from 1 to 32",
        ),
        ("aggregationLength: 0", "0 is out of range"),
        ("asPathPrepend: 11", "11 is out of range"),
        ("aggregationLengthV6: 129", "from 0 to 128"),
        (
            "{aggregationLength: 24, serviceSelectors: [{}]}",
            "not possible with spec.serviceSelectors; remove one of the two",
        ),
    ] {
        let parsed = read(&[ad(spec)]);
        assert!(only_message(&parsed).contains(part), "{}", only_message(&parsed));
    }
}

#[test]
fn one_prefix_has_one_local_preference_and_one_prepend() {
    let pools = [
        object::<IpAddressPool>("v4", 1, "addresses: [10.0.0.0/16]"),
        object::<IpAddressPool>("dual", 1, "addresses: [10.1.0.0/16, '2001:db8::/64']"),
    ];
    let zone = |zone: &str| format!("nodeSelectors: [{{matchLabels: {{zone: {zone}}}}}]");
    let ad = |name: &str, day: u32, spec: &str| object::<BgpAdvertisement>(name, day, &format!("{{{spec}}}"));
    let (x, y) = (zone("x"), zone("y"));
    for (one, other, conflict) in [
        ("localPref: 100", "localPref: 200", true),
        ("localPref: 100", "localPref: 100", false),
        ("localPref: 100", "", true),
        ("asPathPrepend: 1", "asPathPrepend: 2", true),
        ("asPathPrepend: 2", "asPathPrepend: 2", false),
        ("asPathPrepend: 2, peers: [a]", "localPref: 100, peers: [b]", false),
        (
            "localPref: 100, ipAddressPools: [v4]",
            "localPref: 200, ipAddressPools: [dual]",
            false,
        ),
        ("localPref: 100, peers: [a]", "localPref: 200, peers: [b]", false),
        ("localPref: 100, peers: [a]", "localPref: 200", true),
        (
            &*format!("localPref: 100, {x}"),
            &*format!("localPref: 200, {y}"),
            false,
        ),
        (&*format!("localPref: 100, {x}"), "localPref: 200", true),
        (
            "localPref: 100, ipAddressPools: [v4]",
            "localPref: 200, ipAddressPools: [v4], aggregationLength: 24",
            false,
        ),
        (
            "localPref: 100, ipAddressPools: [dual]",
            "localPref: 200, ipAddressPools: [dual], aggregationLength: 24",
            true,
        ),
        (
            "localPref: 100, ipAddressPools: [dual]",
            "localPref: 200, ipAddressPools: [dual], aggregationLength: 24, aggregationLengthV6: 64",
            false,
        ),
        (
            "localPref: 100",
            "localPref: 200, serviceSelectors: [{matchLabels: {a: b}}]",
            false,
        ),
    ] {
        let objects = [pools.as_slice(), &[ad("old", 1, one), ad("new", 2, other)]].concat();
        let mut around = surroundings();
        around.nodes = nodes(&[("n1", "x"), ("n2", "y")]);
        let parsed = parse(&snapshot(&objects), &around, &Parsed::default());
        assert!(parsed.config.bgp_advertisements.contains_key("old"));
        assert_eq!(
            parsed.config.bgp_advertisements.contains_key("new"),
            !conflict,
            "{one} and {other}"
        );
        if conflict {
            let message = only_message(&parsed);
            assert!(message.contains("of the older BGPAdvertisement \"old\""), "{message}");
        }
    }
}

#[test]
fn a_peer_that_cannot_be_read_says_nothing_of_its_values() {
    let (of, _) = unreadable::<BgpPeer>("p");
    let object = of.kind.unreadable("invalid type: integer `123456`, expected a string");
    let parsed = read(&[(of, object)]);
    assert!(!only_message(&parsed).contains("123456"), "it may be the password");
}
