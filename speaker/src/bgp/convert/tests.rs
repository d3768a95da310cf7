//! What of a BGPPeer and a plan reaches the engines.

use std::collections::BTreeSet;

use ferrolb_bgp::settings::Field;
use ferrolb_model::{BfdProfile, BgpTimers, ExtendedCommunity as Extended};

use super::*;

/// A BGPPeer `one` with nothing that is not needed.
pub(crate) fn peer(address: &str) -> model::Peer {
    model::Peer {
        name: "one".to_owned(),
        my_asn: 64600,
        local_asn: None,
        remote_asn: model::RemoteAsn::Number(64512),
        endpoint: PeerEndpoint::Address(address.parse().unwrap()),
        port: 179,
        source_address: None,
        timers: None,
        connect_time: None,
        router_id: None,
        node_selectors: Vec::new(),
        password: None,
        bfd: None,
        graceful_restart: false,
        ebgp_multihop: false,
        vrf: None,
        dual_stack: false,
        opener: model::Opener::Speaker,
        ttl_security: None,
    }
}

fn profile() -> Arc<BfdProfile> {
    Arc::new(BfdProfile {
        name: "fast".to_owned(),
        receive_interval: Duration::from_millis(100),
        transmit_interval: Duration::from_millis(200),
        detect_multiplier: 5,
        echo_interval: None,
        passive: true,
        minimum_ttl: 250,
    })
}

/// A plan for these peers, called after their addresses.
fn plan(peers: Vec<model::Peer>, password: Option<&str>, routes: &PlannedRoutes) -> BgpPlan {
    let planned = |peer: model::Peer| PlannedPeer {
        peer,
        password: password.map(|text| model::Password::new(text.to_owned())),
        routes: Arc::new(routes.clone()),
    };
    BgpPlan {
        router_id: "10.0.0.11".parse().unwrap(),
        peers: peers
            .into_iter()
            .map(|p| (p.endpoint.to_string(), planned(p)))
            .collect(),
        ..BgpPlan::default()
    }
}

fn converted(peers: Vec<model::Peer>) -> Converted {
    converted_with(peers, &Found::new())
}

fn converted_with(peers: Vec<model::Peer>, found: &Found) -> Converted {
    let subnets = ["10.0.0.0/24".parse().unwrap()];
    let ground = Ground {
        subnets: &subnets,
        found,
    };
    convert(&plan(peers, None, &PlannedRoutes::new()), &Known::new(), ground).0
}

/// What follows from a plan where nothing is known of this machine.
fn nowhere(plan: &BgpPlan, before: &Known) -> (Converted, Known) {
    let ground = Ground {
        subnets: &[],
        found: &Found::new(),
    };
    convert(plan, before, ground)
}

#[test]
fn every_setting_arrives() {
    let plain = peer("10.0.0.1");
    let reference = converted(vec![plain.clone()]).bgp.peers["10.0.0.1"].peer.clone();
    assert_eq!((reference.hold_time, reference.keepalive), (90, None));
    assert_eq!(reference.router_id.to_string(), "10.0.0.11");
    let timers = |hold, keepalive| {
        let [hold, keepalive] = [hold, keepalive].map(Duration::from_secs);
        Some(BgpTimers { hold, keepalive })
    };
    let cases: Vec<(model::Peer, Vec<Field>)> = vec![
        (
            model::Peer {
                local_asn: Some(65000),
                ..plain.clone()
            },
            vec![Field::LocalAsn],
        ),
        (
            model::Peer {
                remote_asn: model::RemoteAsn::External,
                ..plain.clone()
            },
            vec![Field::RemoteAsn],
        ),
        (
            model::Peer {
                port: 1179,
                ..plain.clone()
            },
            vec![Field::Port],
        ),
        (
            model::Peer {
                source_address: Some([10, 0, 0, 12].into()),
                ..plain.clone()
            },
            vec![Field::Source],
        ),
        (
            model::Peer {
                timers: timers(9, 3),
                ..plain.clone()
            },
            vec![Field::HoldTime, Field::Keepalive],
        ),
        (
            model::Peer {
                timers: timers(0, 0),
                ..plain.clone()
            },
            vec![Field::HoldTime],
        ),
        (
            model::Peer {
                connect_time: Some(Duration::from_secs(3)),
                ..plain.clone()
            },
            vec![Field::ConnectRetry],
        ),
        (
            model::Peer {
                router_id: Some([1, 2, 3, 4].into()),
                ..plain.clone()
            },
            vec![Field::RouterId],
        ),
        (
            model::Peer {
                graceful_restart: true,
                ..plain.clone()
            },
            vec![Field::GracefulRestart],
        ),
        (
            model::Peer {
                ebgp_multihop: true,
                ..plain.clone()
            },
            vec![Field::Reach],
        ),
        (
            model::Peer {
                vrf: Some("blue".to_owned()),
                ..plain.clone()
            },
            vec![Field::Vrf],
        ),
        (
            model::Peer {
                dual_stack: true,
                ..plain.clone()
            },
            vec![Field::Families],
        ),
        (
            model::Peer {
                opener: model::Opener::Router,
                ..plain.clone()
            },
            vec![Field::Opening],
        ),
        (
            model::Peer {
                ttl_security: Some(1),
                ..plain.clone()
            },
            vec![Field::Reach],
        ),
        // These are about other things than the session itself.
        (
            model::Peer {
                bfd: Some(profile()),
                my_asn: 64600,
                ..plain
            },
            vec![],
        ),
    ];
    for (given, fields) in cases {
        let diff = reference.diff(&converted(vec![given.clone()]).bgp.peers["10.0.0.1"].peer);
        let changed: BTreeSet<Field> = diff.reset.union(&diff.live).copied().collect();
        assert_eq!(changed, fields.into_iter().collect(), "{given:?}");
    }
}

#[test]
fn a_key_that_cannot_be_used_costs_its_peer_alone_and_is_not_told() {
    let long = "k".repeat(81);
    for (key, faults) in [("s3cret", 0), (long.as_str(), 1)] {
        let plan = plan(vec![peer("10.0.0.1")], Some(key), &PlannedRoutes::new());
        let (converted, _) = nowhere(&plan, &Known::new());
        assert_eq!(
            (converted.faults.len(), converted.bgp.peers.len()),
            (faults, 1 - faults)
        );
        assert!(!format!("{converted:?}").contains(key));
    }
}

#[test]
fn bfd_watches_the_paths_of_the_peers_that_ask_for_it() {
    let watched = |address: &str, asn| model::Peer {
        bfd: Some(profile()),
        remote_asn: model::RemoteAsn::Number(asn),
        ..peer(address)
    };
    let far = model::Peer {
        ebgp_multihop: true,
        ..watched("10.0.0.4", 64512)
    };
    let peers = vec![
        peer("10.0.0.9"),
        watched("10.0.0.1", 64512),
        watched("10.0.0.2", 64600),
        watched("10.9.0.3", 64600),
        far,
    ];
    let converted = converted(peers);
    let multi_hop = |name: &str| converted.paths[name].multi_hop;
    assert_eq!(converted.paths.len(), 4);
    assert!(!multi_hop("10.0.0.1"), "external: one hop, whatever the subnet");
    assert!(!multi_hop("10.0.0.2"), "internal, on the same link");
    assert!(multi_hop("10.9.0.3"), "internal, elsewhere");
    assert!(multi_hop("10.0.0.4"), "as it is said");
    let session = converted.bfd.sessions[&converted.paths["10.0.0.1"]];
    assert_eq!(
        (
            session.minimum_ttl,
            session.settings.multiplier,
            session.settings.passive
        ),
        (250, 5, true)
    );
    assert_eq!(session.settings.receive, Duration::from_millis(100));
}

#[test]
fn routes_carry_what_is_wished_and_stay_the_same_object_while_they_do() {
    let communities = [model::Community::Standard(64512, 7), model::Community::Large(1, 2, 3)];
    let extended: Vec<Extended> = ["rt:64512:100", "soo:192.0.2.1:7", "rt:4200000000:9"]
        .map(|text| text.parse().unwrap())
        .into();
    let wish = |local_pref, med| RouteAttributes {
        local_pref,
        med,
        prepend: 2,
        communities: communities.into(),
        extended_communities: extended.iter().copied().collect(),
        link_bandwidth: Some(125),
    };
    let prefix: IpNet = "192.0.2.7/32".parse().unwrap();
    let wishes = [wish(Some(50), Some(9)), wish(None, Some(4))].map(Arc::new).into();
    let planned = PlannedRoutes::from([(prefix, wishes)]);
    let plan = plan(vec![peer("10.0.0.1"), peer("10.0.0.2")], None, &planned);
    let (first, known) = nowhere(&plan, &Known::new());
    let routes = |converted: &Converted, peer: &str| Arc::clone(&converted.bgp.peers[peer].routes);
    let expected = Attributes {
        next_hop: NextHop::Session,
        local_pref: None,
        med: Some(4),
        prepend: 2,
        communities: [Community::new(64512, 7)].into(),
        large_communities: [LargeCommunity(1, 2, 3)].into(),
        extended_communities: [
            ExtendedCommunity(0x0002_fc00_0000_0064),
            ExtendedCommunity(0x0103_c000_0201_0007),
            ExtendedCommunity(0x0202_fa56_ea00_0009),
        ]
        .into(),
        link_bandwidth: Some(125),
    };
    assert_eq!(**routes(&first, "10.0.0.1").get(&prefix).unwrap(), expected);
    assert!(Arc::ptr_eq(&routes(&first, "10.0.0.1"), &routes(&first, "10.0.0.2")));
    let (second, _) = nowhere(&plan, &known);
    assert!(Arc::ptr_eq(&routes(&first, "10.0.0.1"), &routes(&second, "10.0.0.1")));
}

#[test]
fn the_router_at_the_other_end_of_an_interface_has_to_be_found() {
    let of = |interface: &str| model::Peer {
        endpoint: PeerEndpoint::Interface(interface.to_owned()),
        bfd: Some(profile()),
        remote_asn: model::RemoteAsn::Internal,
        ..peer("10.0.0.1")
    };
    let peers = vec![of("eth0"), of("eth1"), of("eth2"), peer("10.0.0.2")];
    let named: BTreeSet<String> = ["eth0", "eth1", "eth2"].map(str::to_owned).into();
    assert_eq!(links(&plan(peers.clone(), None, &PlannedRoutes::new())), named);
    let router = "fe80::9".parse().unwrap();
    let there = Finding::Router {
        address: router,
        other: None,
    };
    let found = Found::from([("eth0".to_owned(), there), ("eth1".to_owned(), Finding::Missing)]);
    let converted = converted_with(peers, &found);
    let session = &converted.bgp.peers["eth0"].peer;
    assert_eq!(
        (session.address, session.interface.as_deref()),
        (router.into(), Some("eth0"))
    );
    assert_eq!(session.families, FamilySet { v4: true, v6: true });
    assert_eq!(session.check(), Ok(()));
    let path = &converted.paths["eth0"];
    assert_eq!(
        (path.peer, path.interface.as_deref(), path.multi_hop),
        (router.into(), Some("eth0"), false),
        "on the link, although it is internal and in no subnet"
    );
    assert!(converted.bgp.peers.contains_key("10.0.0.2"), "others do not wait");
    assert_eq!(converted.faults.keys().collect::<Vec<_>>(), ["eth1", "eth2"]);
    for (interface, part) in [("eth1", "no interface of this name"), ("eth2", "no router was heard")] {
        let fault = &converted.faults[interface];
        assert!(
            fault.starts_with(&format!("spec.interface: {interface:?}: ")) && fault.contains(part),
            "{fault}"
        );
    }
}
