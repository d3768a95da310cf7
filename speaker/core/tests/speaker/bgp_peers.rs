//! Peers of which a policy takes something from the node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ferrolb_model::{
    AddressSource, AnnouncementPolicy, BgpSettings, Config, Family, NodeValue, OnRequest, Opener, Peer, PeerEndpoint,
    PeerSettings, RemoteAsn,
};
use ferrolb_speaker_core::Input;

use crate::bgp_bench::{Bench, ad, facts, node, peer, policy, with};
use crate::make::{ip, labels, selector};

fn by_label(key: &str) -> Option<AddressSource> {
    Some(AddressSource::Node(NodeValue::Label(key.to_owned())))
}

fn by_annotation(key: &str) -> Option<AddressSource> {
    Some(AddressSource::Node(NodeValue::Annotation(key.to_owned())))
}

/// A policy `name` that says this of peer `one`.
fn says(name: &str, settings: PeerSettings) -> AnnouncementPolicy {
    let bgp = BgpSettings {
        peers: [("one".to_owned(), settings)].into(),
        ..BgpSettings::default()
    };
    policy(name, bgp)
}

fn address(address: Option<AddressSource>) -> PeerSettings {
    PeerSettings {
        address,
        ..PeerSettings::default()
    }
}

/// Peer `one` leaves its address to policies, peer `two` has one.
fn config(policies: Vec<AnnouncementPolicy>) -> Config {
    let open = Peer {
        endpoint: PeerEndpoint::ByPolicy,
        ..peer("one", 1)
    };
    Config {
        announcement_policies: policies.into_iter().map(|p| (p.name.clone(), p)).collect(),
        ..with(vec![open, peer("two", 2)], vec![ad("all")])
    }
}

fn bench(policies: Vec<AnnouncementPolicy>) -> Bench {
    Bench::new(facts(config(policies)))
}

fn labelled(pairs: &[(&str, &str)]) -> Input {
    let mut view = node();
    for (key, value) in pairs {
        view.labels.insert((*key).to_owned(), (*value).to_owned());
    }
    Input::OwnNode(view)
}

fn endpoint(bench: &Bench) -> Option<String> {
    Some(bench.plan.peers.get("one")?.peer.endpoint.to_string())
}

fn refusal(bench: &Bench) -> Option<String> {
    Some(bench.plan.refused.get("one")?.to_string())
}

/// The session, and what is wrong with it; the other peer never notices.
fn stands(bench: &Bench, at: Option<&str>, wrong: &[&str]) {
    assert_eq!(endpoint(bench).as_deref(), at, "{:?}", refusal(bench));
    let refusal = refusal(bench);
    assert_eq!(refusal.is_some(), !wrong.is_empty(), "{refusal:?}");
    for part in wrong {
        assert!(
            refusal.as_ref().is_some_and(|told| told.contains(part)),
            "{part}: {refusal:?}"
        );
    }
    assert!(bench.plan.peers.contains_key("two") && !bench.plan.refused.contains_key("two"));
}

#[test]
fn an_address_comes_from_a_label_and_moves_with_it() {
    let key = "example.com/tor";
    let mut bench = bench(vec![says("racks", address(by_label(key)))]);
    stands(
        &bench,
        None,
        &["node \"node-a\" has no label \"example.com/tor\"", "192.0.2.1"],
    );
    bench.tell(labelled(&[(key, "10.1.0.1")]));
    stands(&bench, Some("10.1.0.1"), &[]);
    bench.tell(labelled(&[(key, "10.2.0.1")]));
    stands(&bench, Some("10.2.0.1"), &[]);
    // A slip of the hand is told and ends nothing.
    for (bad, told) in [
        ("tor-2", "is \"tor-2\""),
        ("0.0.0.0", "is \"0.0.0.0\""),
        ("", "is \"\""),
    ] {
        bench.tell(labelled(&[(key, bad)]));
        stands(
            &bench,
            Some("10.2.0.1"),
            &["node \"node-a\"", key, told, "write the address of a router"],
        );
    }
    bench.tell(labelled(&[]));
    stands(&bench, Some("10.2.0.1"), &["has no label"]);
    // What was found under one key is no answer to the question for another.
    let other = config(vec![says("racks", address(by_label("example.com/other")))]);
    bench.tell(Input::Config(Arc::new(other)));
    stands(&bench, None, &["example.com/other"]);
}

#[test]
fn an_address_comes_from_an_annotation() {
    let key = "example.com/tor";
    let mut bench = bench(vec![says("racks", address(by_annotation(key)))]);
    let annotated = |value: &str| Input::OwnAnnotations(labels(&[(key, value), ("other", "x")]));
    bench.tell(annotated("2001:db8::1"));
    stands(&bench, Some("2001:db8::1"), &[]);
    bench.tell(annotated("fe80::1%eth1"));
    stands(&bench, Some("fe80::1%eth1"), &[]);
    bench.tell(annotated("fe80::1"));
    stands(
        &bench,
        Some("fe80::1%eth1"),
        &["annotation \"example.com/tor\" is \"fe80::1\"", "fe80::1%eth0"],
    );
    // Others come and go without a new plan.
    let before = Arc::clone(&bench.plan);
    bench.tell(Input::OwnAnnotations(labels(&[(key, "fe80::1"), ("other", "y")])));
    assert!(Arc::ptr_eq(&before, &bench.plan));
}

#[test]
fn an_as_number_comes_from_the_node() {
    let settings = PeerSettings {
        asn: Some(NodeValue::Label("asn".to_owned())),
        ..address(by_label("tor"))
    };
    let mut bench = bench(vec![says("racks", settings)]);
    bench.tell(labelled(&[("tor", "10.1.0.1"), ("asn", "none")]));
    stands(&bench, None, &["label \"asn\" is \"none\"", "1 to 4294967295"]);
    bench.tell(labelled(&[("tor", "10.1.0.1"), ("asn", "4200000007")]));
    stands(&bench, Some("10.1.0.1"), &[]);
    assert_eq!(
        bench.plan.peers["one"].peer.remote_asn,
        RemoteAsn::Number(4_200_000_007)
    );
    bench.tell(labelled(&[("tor", "10.1.0.1"), ("asn", "0")]));
    stands(&bench, Some("10.1.0.1"), &["\"0\""]);
}

#[test]
fn the_default_gateway_is_one() {
    let gateway = |family| address(Some(AddressSource::DefaultGateway(family)));
    let told = |pairs: &[(&str, &[&str])]| {
        let each = pairs.iter().map(|(interface, gateways)| {
            let gateways: BTreeSet<_> = gateways.iter().map(|text| ip(text)).collect();
            ((*interface).to_owned(), gateways)
        });
        Input::Gateways(each.collect::<BTreeMap<_, _>>())
    };
    let mut v4 = bench(vec![says("racks", gateway(Family::V4))]);
    stands(
        &v4,
        None,
        &["node \"node-a\" has 0 default gateways of IPv4", "there must be one"],
    );
    v4.tell(told(&[("eth0", &["10.0.0.254", "fe80::1"])]));
    stands(&v4, Some("10.0.0.254"), &[]);
    v4.tell(told(&[("eth0", &["10.0.0.254"]), ("eth1", &["10.1.0.254"])]));
    stands(
        &v4,
        Some("10.0.0.254"),
        &["has 2 default gateways", "10.0.0.254, 10.1.0.254"],
    );
    v4.tell(told(&[("eth1", &["10.1.0.254"])]));
    stands(&v4, Some("10.1.0.254"), &[]);
    let mut v6 = bench(vec![says("racks", gateway(Family::V6))]);
    v6.tell(told(&[("eth0", &["10.0.0.254", "fe80::1"])]));
    stands(&v6, Some("fe80::1%eth0"), &[]);
}

#[test]
fn each_setting_is_taken_from_the_first_policy_of_the_node_that_has_it() {
    let elsewhere = AnnouncementPolicy {
        node_selectors: vec![selector("rack", "b")],
        ..says("a", address(by_label("elsewhere")))
    };
    let asked = AnnouncementPolicy {
        on_request: Some(OnRequest::default()),
        ..says("b", address(by_label("asked")))
    };
    let opener = |opener| PeerSettings {
        opener: Some(opener),
        ..PeerSettings::default()
    };
    let policies = vec![
        elsewhere,
        asked,
        says("c", opener(Opener::Both)),
        says(
            "d",
            PeerSettings {
                address: by_label("tor"),
                ttl_security: Some(3),
                ..opener(Opener::Router)
            },
        ),
        says("e", address(by_label("late"))),
    ];
    let mut first = bench(policies);
    let all = ["elsewhere", "asked", "tor", "late"].map(|key| (key, "10.1.0.1"));
    first.tell(labelled(&all));
    stands(&first, Some("10.1.0.1"), &[]);
    let one = &first.plan.peers["one"].peer;
    assert_eq!((one.opener, one.ttl_security), (Opener::Both, Some(3)));
    first.tell(labelled(&[("tor", "10.3.0.1"), ("late", "10.4.0.1")]));
    stands(&first, Some("10.3.0.1"), &[]);
    let nobody = bench(vec![says("c", opener(Opener::Both))]);
    stands(&nobody, None, &["left to an AnnouncementPolicy", "node \"node-a\""]);
}

#[test]
fn one_router_has_one_session() {
    let mut bench = bench(vec![says("racks", address(by_label("tor")))]);
    bench.tell(labelled(&[("tor", "10.0.0.2")]));
    let (one, two) = ("one".to_owned(), bench.plan.refused["two"].to_string());
    assert!(bench.plan.peers.contains_key(&one) && !bench.plan.peers.contains_key("two"));
    assert!(two.contains("10.0.0.2") && two.contains("\"one\""), "{two}");
}
