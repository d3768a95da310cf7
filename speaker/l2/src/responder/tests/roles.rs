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

/// What is decided about the message of an IPv6 packet that came by a raw socket.
fn decide_by_message(source: Ipv6Addr, message: &[u8], stance: Stance) -> Decision {
    decide_with(stance, |port| respond_to_solicitation(source, message, port))
}

#[test]
fn a_solicitation_without_its_frame_needs_the_link_layer_address_of_who_asks() {
    let message = |repr: ndp::Repr| OwnedFrame::ndp(CLIENT, OWN, &repr).as_bytes()[54..].to_vec();
    let sound = message(solicitation());
    let asked = Action::Remember(Request::Ndp {
        target: service6(),
        source: client6(),
        mac: CLIENT,
    });
    assert_eq!(decide_by_message(client6(), &sound, Stance::Listen).action, asked);

    let about = |target, mac| {
        message(ndp::Repr {
            message: ask(target, mac),
            ..solicitation()
        })
    };
    let told = message(ndp::Repr {
        message: ndp::Message::Advertisement {
            target: service6(),
            target_mac: Some(CLIENT),
            router: false,
            solicited: false,
            overriding: true,
        },
        ..solicitation()
    });
    let table = [
        (client6(), about(service6(), None), Reason::Sender),
        (client6(), about(service6(), Some([3, 0, 0, 0, 0, 9])), Reason::Sender),
        (client6(), about(service6(), Some(OWN_OTHER)), Reason::OwnFrame),
        (client6(), about(peer6(), Some(CLIENT)), Reason::NotOurs),
        (Ipv6Addr::UNSPECIFIED, sound.clone(), Malformed::Unspecified.into()),
        (ndp::ALL_NODES, sound.clone(), Reason::Sender),
        (client6(), told, Reason::NotARequest),
        (client6(), sound[..31].to_vec(), Malformed::OptionLength.into()),
    ];
    for (source, message, reason) in table {
        let decision = decide_by_message(source, &message, Stance::Listen);
        assert_eq!(decision, Decision::ignore(reason), "{source} {message:02x?}");
    }
}

proptest! {
    /// With the right checksum around it, and from the station its option names, the frame is judged alike.
    #[test]
    fn a_solicitation_is_judged_alike_with_and_without_its_frame(
        role in 0usize..3, from in 0usize..5, mac in prop::sample::select(vec![CLIENT, OWN, OWN_OTHER, MEMBER, [0; 6]]),
        changes in prop::collection::vec((0usize..32, any::<u8>()), 0..3), length in 20usize..33,
        more in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let source = [client6(), service6(), peer6(), Ipv6Addr::UNSPECIFIED, ndp::ALL_NODES][from];
        let packet = ndp::Repr { source, message: ask(service6(), Some(mac)), ..solicitation() };
        let group = ethernet::multicast(packet.destination);
        let mut frame = OwnedFrame::ndp(mac, group, &packet).as_bytes().to_vec();
        frame.truncate(54 + length);
        frame.extend(more);
        for (position, value) in changes {
            if let Some(octet) = frame.get_mut(54 + position) {
                *octet = value;
            }
        }
        // As who sends puts it there.
        frame[19] = (frame.len() - 54) as u8;
        frame[56..58].fill(0);
        let (ip, message) = frame[14..].split_at_mut(40);
        let [source, destination] = [8, 24].map(|at| Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap()));
        smoltcp::wire::Icmpv6Packet::new_unchecked(&mut *message).fill_checksum(&source, &destination);
        // The raw socket passes only what begins like this.
        if message.starts_with(&[135, 0]) && message.get(24..26) == Some(&[1, 1]) && message.len() >= 32 {
            let message = message.to_vec();
            frame[6..12].copy_from_slice(&message[26..32]);
            let stance = [Stance::Own, Stance::StandIn(OWNER), Stance::Listen][role];
            let (with, without) = (decide_as(&frame, stance), decide_by_message(source, &message, stance));
            prop_assert_eq!(with, without);
        }
    }

    #[test]
    fn any_message_is_survived(source: u128, message in prop::collection::vec(any::<u8>(), 0..100)) {
        decide_by_message(Ipv6Addr::from_bits(source), &message, Stance::Listen);
    }
}
