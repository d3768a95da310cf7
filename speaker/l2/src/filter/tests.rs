//! Runs the programs in a small interpreter and compares with the responder.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::plan::Stance;
use crate::responder::{self, Action, Port, Reason};
use crate::wire::{OwnedFrame, arp, ethernet, ndp};

/// What the kernel knows of a frame besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Metadata {
    packet_type: u32,
    vlan: Option<u32>,
}

/// Does the program let the frame through?
fn passes(program: &[Instruction], frame: &[u8], metadata: Metadata) -> bool {
    run(program, metadata, |offset| frame.get(offset as usize..))
}

/// Does the program let the message of this IPv6 packet through to a raw socket?
fn passes_raw(program: &[Instruction], packet: &[u8], packet_type: u32) -> bool {
    let metadata = Metadata {
        packet_type,
        vlan: None,
    };
    run(program, metadata, |offset| match offset.checked_sub(0xfff0_0000) {
        Some(offset) => packet.get(offset as usize..),
        None => packet.get(offset as usize + 40..),
    })
}

/// What the program says of octets, of which `at` yields those from an offset on. Loads beyond the end drop them, as in the
/// kernel.
fn run<'a>(program: &[Instruction], metadata: Metadata, at: impl Fn(u32) -> Option<&'a [u8]>) -> bool {
    let mut accumulator = 0u32;
    let mut next = 0usize;
    loop {
        let Instruction { code, jt, jf, k } = program[next];
        next += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            LOAD_WORD | LOAD_HALF => {
                let size = if code == LOAD_WORD { 4 } else { 2 };
                accumulator = match k {
                    METADATA_PACKET_TYPE => metadata.packet_type,
                    METADATA_VLAN_PRESENT => u32::from(metadata.vlan.is_some()),
                    METADATA_VLAN_TAG => metadata.vlan.unwrap_or(0),
                    offset => match at(offset).and_then(|octets| octets.get(..size)) {
                        Some(bytes) => bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)),
                        None => return false,
                    },
                }
            }
            JUMP => next += k as usize,
            JUMP_EQUAL => next += jump(accumulator == k),
            JUMP_GREATER => next += jump(accumulator > k),
            JUMP_AT_LEAST => next += jump(accumulator >= k),
            JUMP_SET => next += jump(accumulator & k != 0),
            RETURN => return k != 0,
            other => panic!("instruction {other:#x} at {}", next - 1),
        }
    }
}

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn arp_frame(operation: arp::Operation, sender: Ipv4Addr, target: Ipv4Addr) -> OwnedFrame {
    let packet = arp::Repr {
        operation,
        sender_mac: OTHER,
        sender_ip: sender,
        target_mac: [0; 6],
        target_ip: target,
    };
    OwnedFrame::arp(OTHER, [0xff; 6], &packet)
}

fn solicitation(target: Ipv6Addr) -> OwnedFrame {
    let packet = ndp::Repr {
        source: "fe80::9".parse().unwrap(),
        destination: ndp::solicited_node(target),
        message: ndp::Message::Solicitation {
            target,
            source_mac: Some(OTHER),
        },
    };
    OwnedFrame::ndp(OTHER, [0x33, 0x33, 0xff, 0, 0, 1], &packet)
}

fn advertisement(target: Ipv6Addr) -> OwnedFrame {
    let packet = ndp::Repr {
        source: "fe80::9".parse().unwrap(),
        destination: "fe80::1".parse().unwrap(),
        message: ndp::Message::Advertisement {
            target,
            target_mac: Some(OTHER),
            router: false,
            solicited: true,
            overriding: true,
        },
    };
    OwnedFrame::ndp(OTHER, OWN, &packet)
}

/// Does the responder look further than "not ours" at this frame? Who sent it is no matter of the filter.
fn concerns(frame: &[u8], addresses: &BTreeSet<IpAddr>, peers: &BTreeSet<IpAddr>) -> bool {
    let addresses: BTreeMap<IpAddr, Stance> = addresses.iter().map(|address| (*address, Stance::Listen)).collect();
    let decision = responder::respond(
        frame,
        Port {
            mac: OWN,
            own_macs: &BTreeSet::from([OWN]),
            members: &BTreeSet::new(),
            addresses: &addresses,
            peers,
        },
    );
    !matches!(
        decision.action,
        Action::Ignore(
            Reason::NotOurs | Reason::OtherProtocol | Reason::Malformed(_) | Reason::Sender | Reason::OwnFrame
        )
    )
}

fn ips<T: Copy + Into<IpAddr>>(addresses: &BTreeSet<T>) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| (*address).into()).collect()
}

/// Scattered and consecutive addresses, close together so that near misses occur.
fn v4() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        (0u32..600).prop_map(|low| Ipv4Addr::from_bits(0x0a63_0000 + low)),
        any::<u32>().prop_map(Ipv4Addr::from_bits),
        Just(Ipv4Addr::BROADCAST),
        Just(Ipv4Addr::UNSPECIFIED),
    ]
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    (0u128..3, 0u128..3, 0u128..3, 0u128..40)
        .prop_map(|(a, b, c, d)| Ipv6Addr::from_bits((0x2001_0db8 + a) << 96 | b << 64 | c << 32 | d))
}

proptest! {
    #[test]
    fn arp_passes_exactly_when_the_responder_cares(
        set in prop::collection::btree_set(v4(), 0..80), peers in prop::collection::btree_set(v4(), 0..20),
        sender in v4(), target in v4(), reply: bool,
    ) {
        let program = super::arp(&set, &peers).unwrap();
        let operation = if reply { arp::Operation::Reply } else { arp::Operation::Request };
        let some = |of: &BTreeSet<Ipv4Addr>, other| [other, *of.first().unwrap_or(&other), *of.last().unwrap_or(&other)];
        for sender in some(&set, sender).into_iter().chain(some(&peers, sender)) {
            for target in some(&set, target).into_iter().chain(some(&peers, target)) {
                let frame = arp_frame(operation, sender, target);
                prop_assert_eq!(
                    passes(&program, frame.as_bytes(), Metadata::default()),
                    concerns(frame.as_bytes(), &ips(&set), &ips(&peers)),
                    "{} to {}", sender, target
                );
            }
        }
    }

    #[test]
    fn neighbor_discovery_passes_exactly_when_the_responder_cares(
        set in prop::collection::btree_set(v6(), 0..80), peers in prop::collection::btree_set(v6(), 0..20),
        target in v6(),
    ) {
        let program = super::ndp(&set, &BTreeSet::new(), &peers).unwrap();
        for target in set.iter().chain(&peers).copied().chain([target]) {
            for frame in [solicitation(target), advertisement(target)] {
                prop_assert_eq!(
                    passes(&program, frame.as_bytes(), Metadata::default()),
                    concerns(frame.as_bytes(), &ips(&set), &ips(&peers)),
                    "{}", target
                );
            }
        }
    }

    /// What is asked of a group goes aside for these addresses, and to the packet socket for the others; what they say, and
    /// what is asked otherwise, goes there for all.
    #[test]
    fn of_what_is_heard_aside_nothing_but_questions_to_a_group_is_kept_from_the_packet_socket(
        set in prop::collection::btree_set(v6(), 0..60), aside in prop::collection::btree_set(v6(), 0..60),
        peers in prop::collection::btree_set(v6(), 0..20), target in v6(),
    ) {
        let set = &set - &aside;
        let peers = &peers - &aside;
        let (program, raw) = (super::ndp(&set, &aside, &peers).unwrap(), super::solicitations(&aside).unwrap());
        for target in set.iter().chain(&aside).chain(&peers).copied().chain([target]) {
            let (ours, there) = (set.contains(&target) || aside.contains(&target), aside.contains(&target));
            for packet_type in [0, 1, 2] {
                let metadata = Metadata { packet_type, vlan: None };
                let (question, word) = (solicitation(target), advertisement(target));
                let quiet = there && packet_type == 2;
                prop_assert_eq!(passes(&program, question.as_bytes(), metadata), ours && !quiet, "{}", target);
                prop_assert_eq!(passes_raw(&raw, &question.as_bytes()[14..], packet_type), quiet, "{}", target);
                let heard = ours || peers.contains(&target);
                prop_assert_eq!(passes(&program, word.as_bytes(), metadata), heard, "{}", target);
                prop_assert!(!passes_raw(&raw, &word.as_bytes()[14..], packet_type));
            }
        }
    }

    /// However a question comes, one of the two sockets hears it, and the responder remembers the same of both.
    #[test]
    fn what_is_asked_about_an_address_that_is_heard_aside_is_remembered(
        probe: bool, option: bool, sent_to in 0usize..3, ether in 0usize..4, cut in prop::option::of(60usize..100),
        changes in prop::collection::vec((14usize..90, any::<u8>()), 0..3),
        more in prop::collection::vec(any::<[u8; 8]>(), 0..3),
    ) {
        let six: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let packet = ndp::Repr {
            source: if probe { Ipv6Addr::UNSPECIFIED } else { "fe80::9".parse().unwrap() },
            destination: [ndp::solicited_node(six), six, ndp::ALL_NODES][sent_to],
            message: ndp::Message::Solicitation { target: six, source_mac: option.then_some(OTHER) },
        };
        let destination = [ethernet::multicast(packet.destination), OWN, ethernet::BROADCAST, OTHER][ether];
        let mut bytes = OwnedFrame::ndp(OTHER, destination, &packet).as_bytes().to_vec();
        bytes.extend(more.concat());
        bytes[19] = (bytes.len() - 54) as u8;
        for (position, value) in changes {
            if let Some(byte) = bytes.get_mut(position) {
                *byte = value;
            }
        }
        let icmp = 54..54 + usize::from(bytes[19]);
        fix_checksum(&mut bytes, icmp.clone());
        bytes.truncate(cut.unwrap_or(bytes.len()));

        let addresses = BTreeMap::from([(IpAddr::V6(six), Stance::Listen)]);
        let (own_macs, nobody, no_peers) = (BTreeSet::from([OWN]), BTreeSet::new(), BTreeSet::new());
        let port = Port { mac: OWN, own_macs: &own_macs, members: &nobody, addresses: &addresses, peers: &no_peers };
        let aside = BTreeSet::from([six]);
        let (program, raw) =
            (super::ndp(&BTreeSet::new(), &aside, &BTreeSet::new()).unwrap(), super::solicitations(&aside).unwrap());
        let metadata = Metadata { packet_type: [2, 0, 1, 3][ether], vlan: None };

        let heard = passes(&program, &bytes, metadata);
        let heard_aside = bytes.len() > 54 && passes_raw(&raw, &bytes[14..icmp.end.min(bytes.len())], metadata.packet_type);
        prop_assert!(!(heard && heard_aside), "both hear it");
        if let action @ Action::Remember(_) = responder::respond(&bytes, port).action {
            prop_assert!(heard || heard_aside, "nobody hears it");
            if heard_aside {
                let source = Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[22..38]).unwrap());
                prop_assert_eq!(responder::respond_to_solicitation(source, &bytes[icmp], port).action, action);
            }
        }
    }

    /// Whatever arrives, the filter never keeps from the responder what it would act on, and never runs astray.
    #[test]
    fn a_mutated_frame_the_responder_acts_on_passes(
        v6: bool, cut in 0usize..90, changes in prop::collection::vec((0usize..86, any::<u8>()), 0..4),
    ) {
        let (four, six): (Ipv4Addr, Ipv6Addr) = ("10.99.0.100".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let addresses = BTreeSet::from([IpAddr::V4(four), IpAddr::V6(six)]);
        let (frame, program) = if v6 {
            (solicitation(six), super::ndp(&BTreeSet::from([six]), &BTreeSet::new(), &BTreeSet::new()).unwrap())
        } else {
            (arp_frame(arp::Operation::Request, Ipv4Addr::new(10, 99, 0, 3), four), super::arp(&BTreeSet::from([four]), &BTreeSet::new()).unwrap())
        };
        let mut bytes = frame.as_bytes().to_vec();
        for (position, value) in changes {
            if let Some(byte) = bytes.get_mut(position) {
                *byte = value;
            }
        }
        bytes.truncate(cut.max(1));
        let same_protocol = family(&bytes) == family(frame.as_bytes());
        if same_protocol && concerns(&bytes, &addresses, &BTreeSet::new()) {
            prop_assert!(passes(&program, &bytes, Metadata::default()));
        }
    }
}

/// Puts the right checksum into a frame, if it has a whole ICMPv6 header there.
fn fix_checksum(frame: &mut [u8], icmp: std::ops::Range<usize>) {
    if icmp.len() >= 4 && icmp.end <= frame.len() {
        let [source, destination] =
            [22, 38].map(|at| Ipv6Addr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap()));
        smoltcp::wire::Icmpv6Packet::new_unchecked(&mut frame[icmp]).fill_checksum(&source, &destination);
    }
}

#[test]
fn a_raw_socket_is_given_no_packet_from_beyond_the_link_and_nothing_at_first() {
    let six: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let sound = solicitation(six).as_bytes()[14..].to_vec();
    let programs = [
        super::solicitations(&BTreeSet::from([six])).unwrap(),
        every_solicitation(),
    ];
    for program in &programs {
        assert!(passes_raw(program, &sound, 2));
        // A hop-by-hop header, a router on the way, a router solicitation, code 1, an option of another kind or length.
        for (position, value) in [(6, 0), (7, 254), (40, 133), (41, 1), (64, 14), (65, 2)] {
            let mut other = sound.clone();
            other[position] = value;
            assert!(!passes_raw(program, &other, 2), "octet {position}");
        }
        assert!(!passes_raw(program, &sound[..64], 2), "no option");
    }
    let elsewhere = &solicitation("2001:db8::2".parse().unwrap()).as_bytes()[14..].to_vec();
    assert_eq!(
        programs.map(|program| passes_raw(&program, elsewhere, 2)),
        [false, true]
    );
    assert!(!passes_raw(&nothing(), &sound, 2));
}

#[test]
fn frames_for_others_sent_here_or_tagged_are_refused() {
    let (four, six): (Ipv4Addr, Ipv6Addr) = ("10.99.0.100".parse().unwrap(), "2001:db8::1".parse().unwrap());
    let arp = arp_frame(arp::Operation::Request, Ipv4Addr::new(10, 99, 0, 3), four);
    let ndp = solicitation(six);
    for (frame, program, family) in [
        (
            arp,
            super::arp(&BTreeSet::from([four]), &BTreeSet::new()).unwrap(),
            Family::Arp,
        ),
        (
            ndp,
            super::ndp(&BTreeSet::from([six]), &BTreeSet::new(), &BTreeSet::new()).unwrap(),
            Family::Ndp,
        ),
    ] {
        let table = [
            (0, None, true),
            (1, None, true),
            (2, None, true),
            (3, None, false),
            (4, None, false),
            // Priority 5 in VLAN 0, then VLAN 7. The kernel marks ARP of a VLAN as for another station by itself.
            (2, Some(5 << 13), true),
            (if family == Family::Arp { 3 } else { 2 }, Some(7), false),
        ];
        for (packet_type, vlan, expected) in table {
            let metadata = Metadata { packet_type, vlan };
            assert_eq!(
                passes(&program, frame.as_bytes(), metadata),
                expected,
                "{family:?} {metadata:?}"
            );
            assert_eq!(
                passes(&everything(family), frame.as_bytes(), metadata),
                expected,
                "{family:?} {metadata:?}"
            );
        }
        for program in [
            super::arp(&BTreeSet::new(), &BTreeSet::new()),
            super::ndp(&BTreeSet::new(), &BTreeSet::new(), &BTreeSet::new()),
        ] {
            assert!(!passes(&program.unwrap(), frame.as_bytes(), Metadata::default()));
        }
    }
}

#[test]
fn each_protocol_has_its_own_filter() {
    let arp = arp_frame(
        arp::Operation::Request,
        Ipv4Addr::new(10, 99, 0, 3),
        Ipv4Addr::new(10, 99, 0, 100),
    );
    let ndp = solicitation("2001:db8::1".parse().unwrap());
    assert!(!passes(&everything(Family::Ndp), arp.as_bytes(), Metadata::default()));
    assert!(!passes(&everything(Family::Arp), ndp.as_bytes(), Metadata::default()));
}

#[test]
fn pools_become_ranges_and_scattered_addresses_hit_the_limit() {
    let every_other = |count: u32| (0..count).map(|n| Ipv4Addr::from_bits(0x0a00_0000 + 2 * n)).collect();
    let range = (0..65_536).map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n)).collect();
    assert!(super::arp(&range, &BTreeSet::new()).unwrap().len() < 30);

    let program = super::arp(&every_other(1_000), &BTreeSet::new()).unwrap();
    assert!(program.len() < 3_100, "{} instructions", program.len());
    for n in 0..2_000 {
        let frame = arp_frame(
            arp::Operation::Request,
            Ipv4Addr::new(10, 99, 0, 3),
            Ipv4Addr::from_bits(0x0a00_0000 + n),
        );
        assert_eq!(
            passes(&program, frame.as_bytes(), Metadata::default()),
            n % 2 == 0,
            "address {n}"
        );
    }
    let error = super::arp(&every_other(2_000), &BTreeSet::new()).unwrap_err();
    assert!(error.instructions > MAX_INSTRUCTIONS);

    let hosts = |count: u128| {
        let host = |n: u128| Ipv6Addr::from_bits(0x2001_0db8 << 96 | n << 40 | n << 1);
        (0..count).map(host).collect()
    };
    assert!(super::ndp(&hosts(400), &BTreeSet::new(), &BTreeSet::new()).is_ok());
    assert!(super::ndp(&hosts(2_000), &BTreeSet::new(), &BTreeSet::new()).is_err());
}

/// The protocol of a frame, as far as its EtherType tells.
fn family(frame: &[u8]) -> Option<Family> {
    match ethernet::Frame::new(frame).ok()?.header().ether_type {
        ethernet::TYPE_ARP => Some(Family::Arp),
        ethernet::TYPE_IPV6 => Some(Family::Ndp),
        _ => None,
    }
}
