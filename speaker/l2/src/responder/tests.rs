use proptest::prelude::*;

use super::*;

const OWN: Mac = [2, 0, 0, 0, 0, 1];
const OWN_OTHER: Mac = [2, 0, 0, 0, 0, 2];
const CLIENT: Mac = [2, 0, 0, 0, 0, 9];
const THIRD: Mac = [2, 0, 0, 0, 0, 7];
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 100);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);

const MEMBER: Mac = [2, 0, 0, 0, 0, 8];
const OWNER: Mac = [2, 0, 0, 0, 0, 6];
const PEER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

fn peer6() -> Ipv6Addr {
    "fd99::2".parse().unwrap()
}

fn service6() -> Ipv6Addr {
    "fd99::100".parse().unwrap()
}

fn client6() -> Ipv6Addr {
    "fe80::9".parse().unwrap()
}

/// What is decided by a node with this part in both addresses.
fn decide_with(stance: Stance, decide: impl FnOnce(Port<'_>) -> Decision) -> Decision {
    let addresses = BTreeMap::from([(IpAddr::V4(SERVICE), stance), (IpAddr::V6(service6()), stance)]);
    decide(Port {
        mac: OWN,
        own_macs: &BTreeSet::from([OWN, OWN_OTHER]),
        members: &BTreeSet::from([MEMBER]),
        addresses: &addresses,
        peers: &BTreeSet::from([IpAddr::V4(PEER), IpAddr::V6(peer6())]),
    })
}

/// The same about a frame.
fn decide_as(frame: &[u8], stance: Stance) -> Decision {
    decide_with(stance, |port| respond(frame, port))
}

fn act(frame: &[u8]) -> Action {
    decide_as(frame, Stance::Own).action
}

fn request() -> arp::Repr {
    arp::Repr {
        operation: arp::Operation::Request,
        sender_mac: CLIENT,
        sender_ip: CLIENT_IP,
        target_mac: [0; 6],
        target_ip: SERVICE,
    }
}

fn conflict(address: impl Into<IpAddr>, mac: Mac) -> Action {
    Action::Conflict {
        address: address.into(),
        mac,
    }
}

#[test]
fn arp_is_answered_reported_or_ignored() {
    use Action::Ignore;
    let answer = |destination: Mac, target_ip| Action::Reply {
        request: Request::Arp {
            target: SERVICE,
            sender: target_ip,
            mac: destination,
        },
        for_owner: false,
        frame: OwnedFrame::arp(
            OWN,
            destination,
            &arp::Repr {
                operation: arp::Operation::Reply,
                sender_mac: OWN,
                sender_ip: SERVICE,
                target_mac: destination,
                target_ip,
            },
        ),
    };
    let reply = arp::Operation::Reply;
    let (all, none) = (ethernet::BROADCAST, Ipv4Addr::UNSPECIFIED);
    let elsewhere = Ipv4Addr::new(10, 99, 0, 101);
    let table = [
        ("broadcast request", CLIENT, all, request(), answer(CLIENT, CLIENT_IP)),
        ("unicast request", CLIENT, OWN, request(), answer(CLIENT, CLIENT_IP)),
        (
            "probe",
            CLIENT,
            all,
            arp::Repr {
                sender_ip: none,
                ..request()
            },
            answer(CLIENT, none),
        ),
        ("behind a repeater", THIRD, all, request(), answer(CLIENT, CLIENT_IP)),
        (
            "other address",
            CLIENT,
            all,
            arp::Repr {
                target_ip: elsewhere,
                ..request()
            },
            Ignore(Reason::NotOurs),
        ),
        ("other station", CLIENT, THIRD, request(), Ignore(Reason::OtherStation)),
        (
            "reply to the address",
            CLIENT,
            OWN,
            arp::Repr {
                operation: reply,
                ..request()
            },
            Ignore(Reason::NotARequest),
        ),
        ("own frame", OWN, all, request(), Ignore(Reason::OwnFrame)),
        (
            "own frame of another interface",
            OWN_OTHER,
            all,
            arp::Repr {
                sender_mac: OWN_OTHER,
                sender_ip: SERVICE,
                ..request()
            },
            Ignore(Reason::OwnFrame),
        ),
        (
            "group as sender",
            CLIENT,
            all,
            arp::Repr {
                sender_mac: [3; 6],
                ..request()
            },
            Ignore(Reason::Sender),
        ),
        (
            "zero as sender",
            CLIENT,
            all,
            arp::Repr {
                sender_mac: [0; 6],
                ..request()
            },
            Ignore(Reason::Sender),
        ),
        (
            "gratuitous request",
            CLIENT,
            all,
            arp::Repr {
                sender_ip: SERVICE,
                ..request()
            },
            conflict(SERVICE, CLIENT),
        ),
        (
            "gratuitous reply",
            CLIENT,
            all,
            arp::Repr {
                operation: reply,
                sender_ip: SERVICE,
                ..request()
            },
            conflict(SERVICE, CLIENT),
        ),
        (
            "a stranger uses the address",
            CLIENT,
            THIRD,
            arp::Repr {
                sender_ip: SERVICE,
                target_ip: elsewhere,
                ..request()
            },
            conflict(SERVICE, CLIENT),
        ),
    ];
    for (case, source, destination, packet, expected) in table {
        assert_eq!(
            act(OwnedFrame::arp(source, destination, &packet).as_bytes()),
            expected,
            "{case}"
        );
    }
}

fn solicitation() -> ndp::Repr {
    ndp::Repr {
        source: client6(),
        destination: ndp::solicited_node(service6()),
        message: ndp::Message::Solicitation {
            target: service6(),
            source_mac: Some(CLIENT),
        },
    }
}

fn ask(target: Ipv6Addr, source_mac: Option<Mac>) -> ndp::Message {
    ndp::Message::Solicitation { target, source_mac }
}

fn advertised(target_mac: Option<Mac>) -> ndp::Repr {
    let message = ndp::Message::Advertisement {
        target: service6(),
        target_mac,
        router: false,
        solicited: false,
        overriding: true,
    };
    ndp::Repr {
        source: client6(),
        destination: ndp::ALL_NODES,
        message,
    }
}

#[test]
fn solicitations_are_answered_advertisements_reported() {
    use Action::Ignore;
    let answer = |destination_mac: Mac, destination: Ipv6Addr, solicited: bool| Action::Reply {
        request: Request::Ndp {
            target: service6(),
            source: if solicited { destination } else { Ipv6Addr::UNSPECIFIED },
            mac: if solicited { destination_mac } else { CLIENT },
        },
        for_owner: false,
        frame: OwnedFrame::ndp(
            OWN,
            destination_mac,
            &ndp::Repr {
                source: service6(),
                destination,
                message: ndp::Message::Advertisement {
                    target: service6(),
                    target_mac: Some(OWN),
                    router: false,
                    solicited,
                    overriding: true,
                },
            },
        ),
    };
    let all_nodes = [0x33, 0x33, 0, 0, 0, 1];
    let group = ethernet::multicast(ndp::solicited_node(service6()));
    let dad = ndp::Repr {
        source: Ipv6Addr::UNSPECIFIED,
        message: ask(service6(), None),
        ..solicitation()
    };
    let bare = ndp::Repr {
        message: ask(service6(), None),
        ..solicitation()
    };
    let elsewhere = ask("fd99::101".parse().unwrap(), Some(CLIENT));
    let table = [
        (
            "multicast",
            CLIENT,
            group,
            solicitation(),
            answer(CLIENT, client6(), true),
        ),
        (
            "unicast",
            CLIENT,
            OWN,
            ndp::Repr {
                destination: service6(),
                ..bare
            },
            answer(CLIENT, client6(), true),
        ),
        (
            "no link-layer address",
            THIRD,
            group,
            bare,
            answer(THIRD, client6(), true),
        ),
        (
            "duplicate detection",
            CLIENT,
            group,
            dad,
            answer(all_nodes, ndp::ALL_NODES, false),
        ),
        (
            "other address",
            CLIENT,
            group,
            ndp::Repr {
                message: elsewhere,
                ..solicitation()
            },
            Ignore(Reason::NotOurs),
        ),
        (
            "other station",
            CLIENT,
            THIRD,
            solicitation(),
            Ignore(Reason::OtherStation),
        ),
        ("own frame", OWN, group, solicitation(), Ignore(Reason::OwnFrame)),
        (
            "own frame of another interface",
            OWN_OTHER,
            group,
            dad,
            Ignore(Reason::OwnFrame),
        ),
        (
            "group as sender",
            CLIENT,
            group,
            ndp::Repr {
                message: ask(service6(), Some([3; 6])),
                ..solicitation()
            },
            Ignore(Reason::Sender),
        ),
        (
            "group address as source",
            CLIENT,
            group,
            ndp::Repr {
                source: ndp::ALL_NODES,
                ..solicitation()
            },
            Ignore(Reason::Sender),
        ),
        (
            "solicits from the address",
            CLIENT,
            group,
            ndp::Repr {
                source: service6(),
                ..solicitation()
            },
            conflict(service6(), CLIENT),
        ),
        (
            "advertises the address",
            CLIENT,
            all_nodes,
            advertised(Some(THIRD)),
            conflict(service6(), THIRD),
        ),
        (
            "advertises without its MAC",
            CLIENT,
            all_nodes,
            advertised(None),
            conflict(service6(), CLIENT),
        ),
        (
            "own advertisement relayed",
            CLIENT,
            all_nodes,
            advertised(Some(OWN)),
            Ignore(Reason::OwnFrame),
        ),
    ];
    for (case, source, destination, packet, expected) in table {
        assert_eq!(
            act(OwnedFrame::ndp(source, destination, &packet).as_bytes()),
            expected,
            "{case}"
        );
    }
}

#[test]
fn tagged_and_other_frames_are_nobodys() {
    let mut frame = OwnedFrame::arp(CLIENT, ethernet::BROADCAST, &request())
        .as_bytes()
        .to_vec();
    frame.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    assert_eq!(act(&frame), Action::Ignore(Reason::OtherProtocol));
    assert_eq!(
        act(&frame[..13]),
        Action::Ignore(Reason::Malformed(Malformed::Truncated))
    );
}

#[test]
fn every_reason_has_its_place_and_label() {
    let labels: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.label()).collect();
    assert_eq!(labels.len(), Reason::ALL.len());
    for (place, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(reason.index(), place, "{reason:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        act(&bytes);
    }

    /// Whatever is answered is about an address this node answers for, comes from this interface's MAC, and never goes
    /// to a group except to defend against duplicate detection. Whatever is seen is another station's.
    #[test]
    fn an_answer_is_always_ours_to_give(
        v6: bool, role in 0usize..3, changes in prop::collection::vec((0usize..86, any::<u8>()), 0..3),
    ) {
        let frame = if v6 {
            OwnedFrame::ndp(CLIENT, ethernet::multicast(ndp::solicited_node(service6())), &solicitation())
        } else {
            OwnedFrame::arp(CLIENT, ethernet::BROADCAST, &request())
        };
        let mut bytes = frame.as_bytes().to_vec();
        for (position, value) in changes {
            if let Some(byte) = bytes.get_mut(position) {
                *byte = value;
            }
        }
        let stance = [Stance::Own, Stance::StandIn(OWNER), Stance::Listen][role];
        let decision = decide_as(&bytes, stance);
        if let Action::Reply { request, for_owner, frame } = decision.action {
            let address = request.address();
            prop_assert!(address == IpAddr::V4(SERVICE) || address == IpAddr::V6(service6()));
            prop_assert_eq!(for_owner, stance != Stance::Own);
            prop_assert!(stance != Stance::Listen);
            let ether = ethernet::Frame::new(frame.as_bytes()).unwrap();
            prop_assert_eq!(ether.header().source, OWN);
            prop_assert!(!ethernet::is_group(ether.header().destination));
        }
        if let Some(seen) = decision.sighting {
            prop_assert!(![seen.mac, seen.source].iter().any(|mac| [OWN, OWN_OTHER].contains(mac)));
        }
    }
}

mod roles;
