//! What a stand-in and a listener do, and what is seen of members and peers.

use super::*;

/// A request and what its answer is like: Ethernet destination, the packet with `told` as the address's MAC.
fn requests_and_answers(told: Mac) -> [(&'static str, OwnedFrame, OwnedFrame, Option<Asker>); 4] {
    let reply = |target_ip| arp::Repr {
        operation: arp::Operation::Reply,
        sender_mac: told,
        sender_ip: SERVICE,
        target_mac: CLIENT,
        target_ip,
    };
    let advertisement = |destination, solicited| ndp::Repr {
        source: service6(),
        destination,
        message: ndp::Message::Advertisement {
            target: service6(),
            target_mac: Some(told),
            router: false,
            solicited,
            overriding: true,
        },
    };
    let probe = arp::Repr {
        sender_ip: Ipv4Addr::UNSPECIFIED,
        ..request()
    };
    let dad = ndp::Repr {
        source: Ipv6Addr::UNSPECIFIED,
        message: ask(service6(), None),
        ..solicitation()
    };
    let group = ethernet::multicast(ndp::solicited_node(service6()));
    let all_nodes = ethernet::multicast(ndp::ALL_NODES);
    let client = |ip: IpAddr| Some(Asker { ip, mac: CLIENT });
    [
        (
            "request",
            OwnedFrame::arp(CLIENT, ethernet::BROADCAST, &request()),
            OwnedFrame::arp(OWN, CLIENT, &reply(CLIENT_IP)),
            client(CLIENT_IP.into()),
        ),
        (
            "probe",
            OwnedFrame::arp(CLIENT, ethernet::BROADCAST, &probe),
            OwnedFrame::arp(OWN, CLIENT, &reply(Ipv4Addr::UNSPECIFIED)),
            None,
        ),
        (
            "solicitation",
            OwnedFrame::ndp(CLIENT, group, &solicitation()),
            OwnedFrame::ndp(OWN, CLIENT, &advertisement(client6(), true)),
            client(client6().into()),
        ),
        (
            "duplicate detection",
            OwnedFrame::ndp(CLIENT, group, &dad),
            OwnedFrame::ndp(OWN, all_nodes, &advertisement(ndp::ALL_NODES, false)),
            None,
        ),
    ]
}

#[test]
fn a_stand_in_answers_with_the_owners_mac_from_its_own() {
    for (case, asked, answer, asker) in requests_and_answers(OWNER) {
        let decision = decide_as(asked.as_bytes(), Stance::StandIn(OWNER));
        let Action::Reply {
            request,
            for_owner: true,
            frame,
        } = decision.action
        else {
            panic!("{case}: {decision:?}")
        };
        assert_eq!(frame, answer, "{case}");
        assert_eq!((request.asker(), decision.sighting), (asker, None), "{case}");
    }
}

#[test]
fn a_listener_hands_out_requests_that_can_be_answered_later() {
    for told in [OWN, OWNER] {
        for (case, asked, answer, asker) in requests_and_answers(told) {
            let decision = decide_as(asked.as_bytes(), Stance::Listen);
            let Action::Remember(request) = decision.action else {
                panic!("{case}: {decision:?}")
            };
            assert_eq!(request.answer(OWN, told), answer, "{case}");
            assert_eq!((request.asker(), decision.sighting), (asker, None), "{case}");
        }
    }
}

#[test]
fn a_claim_is_seen_in_every_role_and_fought_by_the_owner_alone_unless_a_member_makes_it() {
    let claims = |mac: Mac| {
        let gratuitous = arp::Repr {
            sender_mac: mac,
            sender_ip: SERVICE,
            ..request()
        };
        [
            (
                IpAddr::V4(SERVICE),
                OwnedFrame::arp(THIRD, ethernet::BROADCAST, &gratuitous),
            ),
            (
                IpAddr::V6(service6()),
                OwnedFrame::ndp(THIRD, [0x33, 0x33, 0, 0, 0, 1], &advertised(Some(mac))),
            ),
        ]
    };
    for stance in [Stance::Own, Stance::StandIn(OWNER), Stance::Listen] {
        for mac in [CLIENT, MEMBER, OWNER] {
            for (address, frame) in claims(mac) {
                let sighting = Sighting {
                    address,
                    mac,
                    source: THIRD,
                };
                let action = if stance == Stance::Own && mac != MEMBER {
                    conflict(address, mac)
                } else {
                    Action::Note
                };
                assert_eq!(
                    decide_as(frame.as_bytes(), stance),
                    Decision {
                        action,
                        sighting: Some(sighting)
                    },
                    "{stance:?} {address} {mac:?}"
                );
            }
        }
    }
}

#[test]
fn peers_are_seen_and_answered_like_everybody_but_not_answered_for() {
    let seen = |address: IpAddr| {
        Some(Sighting {
            address,
            mac: MEMBER,
            source: MEMBER,
        })
    };
    let reply = arp::Repr {
        operation: arp::Operation::Reply,
        sender_mac: MEMBER,
        sender_ip: PEER,
        target_mac: OWN,
        target_ip: Ipv4Addr::new(10, 99, 0, 1),
    };
    let elsewhere = arp::Repr {
        operation: arp::Operation::Request,
        target_ip: CLIENT_IP,
        ..reply
    };
    for (packet, destination) in [(reply, OWN), (elsewhere, ethernet::BROADCAST)] {
        let decision = decide_as(OwnedFrame::arp(MEMBER, destination, &packet).as_bytes(), Stance::Listen);
        assert_eq!((decision.action, decision.sighting), (Action::Note, seen(PEER.into())));
    }
    let advertisement = ndp::Repr {
        source: peer6(),
        destination: "fe80::1".parse().unwrap(),
        message: ndp::Message::Advertisement {
            target: peer6(),
            target_mac: None,
            router: false,
            solicited: true,
            overriding: true,
        },
    };
    let decision = decide_as(OwnedFrame::ndp(MEMBER, OWN, &advertisement).as_bytes(), Stance::Listen);
    assert_eq!(
        (decision.action, decision.sighting),
        (Action::Note, seen(peer6().into()))
    );

    let for_service = arp::Repr {
        target_ip: SERVICE,
        ..elsewhere
    };
    let decision = decide_as(
        OwnedFrame::arp(MEMBER, ethernet::BROADCAST, &for_service).as_bytes(),
        Stance::Own,
    );
    assert!(matches!(decision.action, Action::Reply { .. }), "{decision:?}");
    assert_eq!(decision.sighting, seen(PEER.into()));

    let for_peer = arp::Repr {
        target_ip: PEER,
        ..request()
    };
    assert_eq!(
        act(OwnedFrame::arp(CLIENT, ethernet::BROADCAST, &for_peer).as_bytes()),
        Action::Ignore(Reason::NotOurs)
    );
    let for_peer = ndp::Repr {
        message: ask(peer6(), Some(CLIENT)),
        ..solicitation()
    };
    assert_eq!(
        act(OwnedFrame::ndp(CLIENT, [0x33, 0x33, 0xff, 0, 0, 2], &for_peer).as_bytes()),
        Action::Ignore(Reason::NotOurs)
    );
}
