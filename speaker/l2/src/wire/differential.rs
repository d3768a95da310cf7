//! Round trips, and the same bytes given to this codec and to two others, smoltcp's and etherparse's.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{NetSlice, SlicedPacket, icmpv6::NdpOptionSlice};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire as oracle;

use super::*;

fn mac() -> impl Strategy<Value = Mac> {
    any::<Mac>()
}

fn arp_repr() -> impl Strategy<Value = arp::Repr> {
    let operation = prop_oneof![Just(arp::Operation::Request), Just(arp::Operation::Reply)];
    (operation, mac(), any::<u32>(), mac(), any::<u32>()).prop_map(|(operation, sender_mac, from, target_mac, to)| {
        arp::Repr {
            operation,
            sender_mac,
            sender_ip: from.into(),
            target_mac,
            target_ip: to.into(),
        }
    })
}

/// Addresses of all kinds, the special ones often.
fn v6() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![
        any::<u128>().prop_map(Ipv6Addr::from_bits),
        Just(Ipv6Addr::UNSPECIFIED),
        Just(ndp::ALL_NODES),
        any::<u32>().prop_map(|low| ndp::solicited_node(Ipv6Addr::from_bits(low.into()))),
    ]
}

fn ndp_repr() -> impl Strategy<Value = ndp::Repr> {
    let option = || prop::option::of(mac());
    let message = prop_oneof![
        (v6(), option()).prop_map(|(target, source_mac)| ndp::Message::Solicitation { target, source_mac }),
        (v6(), option(), any::<(bool, bool, bool)>()).prop_map(
            |(target, target_mac, (router, solicited, overriding))| {
                ndp::Message::Advertisement {
                    target,
                    target_mac,
                    router,
                    solicited,
                    overriding,
                }
            }
        ),
    ];
    (v6(), v6(), message).prop_map(|(source, destination, message)| ndp::Repr {
        source,
        destination,
        message,
    })
}

fn emit(repr: &ndp::Repr) -> Vec<u8> {
    let mut bytes = vec![0; repr.length()];
    repr.emit(&mut bytes);
    bytes
}

fn parse(bytes: &[u8]) -> Result<ndp::Repr, Malformed> {
    ndp::Repr::parse(&ndp::Packet::new(bytes)?)
}

/// The rules of RFC 4861 7.1 that are about the combination of fields, which nothing but this codec checks.
fn allowed(repr: &ndp::Repr) -> Result<(), Malformed> {
    let (ndp::Message::Solicitation { target, .. } | ndp::Message::Advertisement { target, .. }) = repr.message;
    if target.is_multicast() {
        return Err(Malformed::Target);
    }
    let to_solicited_node = repr.destination.octets()[..13] == ndp::solicited_node(target).octets()[..13];
    match repr.message {
        ndp::Message::Solicitation { source_mac, .. }
            if repr.source.is_unspecified() && (source_mac.is_some() || !to_solicited_node) =>
        {
            Err(Malformed::Unspecified)
        }
        ndp::Message::Advertisement { solicited: true, .. } if repr.destination.is_multicast() => {
            Err(Malformed::SolicitedMulticast)
        }
        _ => Ok(()),
    }
}

/// Puts the right checksum into a packet with a whole ICMPv6 header.
fn fix_checksum(bytes: &mut [u8]) {
    let (header, icmp) = bytes.split_at_mut(40);
    let [source, destination] = [8, 24].map(|at| Ipv6Addr::from(super::bytes::<16>(header, at).unwrap()));
    oracle::Icmpv6Packet::new_unchecked(icmp).fill_checksum(&source, &destination);
}

/// A message of this codec as smoltcp reads the packet.
fn as_smoltcp(bytes: &[u8]) -> Option<ndp::Repr> {
    let ip = oracle::Ipv6Packet::new_checked(bytes).ok()?;
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    if ip.next_header() != oracle::IpProtocol::Icmpv6 || ip.hop_limit() != 255 {
        return None;
    }
    let icmp = oracle::Icmpv6Packet::new_checked(ip.payload()).ok()?;
    let repr = oracle::Icmpv6Repr::parse(&source, &destination, &icmp, &ChecksumCapabilities::default()).ok()?;
    let ethernet = |address: oracle::RawHardwareAddress| -> Option<Mac> { address.as_bytes().try_into().ok() };
    let message = match repr {
        oracle::Icmpv6Repr::Ndisc(oracle::NdiscRepr::NeighborSolicit { target_addr, lladdr }) => {
            ndp::Message::Solicitation {
                target: target_addr,
                source_mac: lladdr.and_then(ethernet),
            }
        }
        oracle::Icmpv6Repr::Ndisc(oracle::NdiscRepr::NeighborAdvert {
            flags,
            target_addr,
            lladdr,
        }) => ndp::Message::Advertisement {
            target: target_addr,
            target_mac: lladdr.and_then(ethernet),
            router: flags.contains(oracle::NdiscNeighborFlags::ROUTER),
            solicited: flags.contains(oracle::NdiscNeighborFlags::SOLICITED),
            overriding: flags.contains(oracle::NdiscNeighborFlags::OVERRIDE),
        },
        _ => return None,
    };
    Some(ndp::Repr {
        source,
        destination,
        message,
    })
}

/// Options as they are on the wire: a type, a length in units of eight octets, true or not, and that many octets.
fn options() -> impl Strategy<Value = Vec<u8>> {
    // Types 3 to 5 belong to router messages; etherparse judges their contents too.
    let kind = prop_oneof![Just(1u8), Just(2), Just(14), 6u8..];
    let length = prop_oneof![6 => Just(1u8), 2 => Just(2), 1 => Just(0), 1 => any::<u8>()];
    let option = (kind, length, 1usize..3, any::<[u8; 16]>()).prop_map(|(kind, length, units, filling)| {
        let mut bytes = filling[..units * 8].to_vec();
        bytes[..2].copy_from_slice(&[kind, length]);
        bytes
    });
    (prop::collection::vec(option, 0..4), 0usize..8).prop_map(|(options, cut)| {
        let bytes = options.concat();
        let keep = if cut < 6 {
            bytes.len()
        } else {
            bytes.len().saturating_sub(cut)
        };
        bytes[..keep].to_vec()
    })
}

proptest! {
    #[test]
    fn ethernet_survives_the_round_trip(destination in mac(), source in mac(), ether_type: u16) {
        let repr = ethernet::Repr { destination, source, ether_type };
        let mut bytes = [0; ethernet::HEADER_LENGTH];
        repr.emit(&mut bytes);
        prop_assert_eq!(ethernet::Frame::new(&bytes).unwrap().header(), repr);
        let theirs = oracle::EthernetFrame::new_checked(&bytes).unwrap();
        prop_assert_eq!(theirs.dst_addr().0, destination);
        prop_assert_eq!(theirs.src_addr().0, source);
        prop_assert_eq!(u16::from(theirs.ethertype()), ether_type);
    }

    #[test]
    fn arp_survives_the_round_trip_and_others_read_the_same(repr in arp_repr(), padding in 0usize..20) {
        let mut bytes = vec![0; arp::LENGTH + padding];
        repr.emit(&mut bytes);
        prop_assert_eq!(arp::Repr::parse(&arp::Packet::new(&bytes).unwrap()), Ok(repr));

        let theirs = oracle::ArpRepr::parse(&oracle::ArpPacket::new_checked(&bytes).unwrap()).unwrap();
        let oracle::ArpRepr::EthernetIpv4 {
            operation, source_hardware_addr, source_protocol_addr, target_hardware_addr, target_protocol_addr
        } = theirs else { panic!("Ethernet and IPv4") };
        prop_assert_eq!(operation == oracle::ArpOperation::Reply, repr.operation == arp::Operation::Reply);
        prop_assert_eq!((source_hardware_addr.0, source_protocol_addr), (repr.sender_mac, repr.sender_ip));
        prop_assert_eq!((target_hardware_addr.0, target_protocol_addr), (repr.target_mac, repr.target_ip));

        let theirs = etherparse::ArpPacketSlice::from_slice(&bytes).unwrap();
        prop_assert_eq!(theirs.sender_hw_addr(), &repr.sender_mac[..]);
        prop_assert_eq!(theirs.sender_protocol_addr(), &repr.sender_ip.octets()[..]);
        prop_assert_eq!(theirs.target_hw_addr(), &repr.target_mac[..]);
        prop_assert_eq!(theirs.target_protocol_addr(), &repr.target_ip.octets()[..]);
    }

    #[test]
    fn arp_is_accepted_where_smoltcp_accepts_it(
        repr in arp_repr(), changes in prop::collection::vec((0usize..8, any::<u8>()), 0..3), cut in 20usize..40,
    ) {
        let mut bytes = [0; 40];
        repr.emit(&mut bytes);
        for (position, value) in changes {
            bytes[position] = value;
        }
        let bytes = &bytes[..cut];
        let ours = arp::Packet::new(bytes).and_then(|packet| arp::Repr::parse(&packet));
        let theirs = oracle::ArpPacket::new_checked(bytes).and_then(|packet| oracle::ArpRepr::parse(&packet));
        // smoltcp hands on operations it does not know.
        let known = !matches!(&theirs, Ok(oracle::ArpRepr::EthernetIpv4 { operation: oracle::ArpOperation::Unknown(_), .. }));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok() && known, "{:?} {:?}", ours, theirs);
    }

    #[test]
    fn neighbor_discovery_survives_the_round_trip(repr in ndp_repr(), padding in 0usize..20) {
        let mut bytes = emit(&repr);
        bytes.extend(vec![0xaa; padding]);
        match allowed(&repr) {
            Ok(()) => prop_assert_eq!(parse(&bytes), Ok(repr)),
            Err(rule) => prop_assert_eq!(parse(&bytes), Err(rule)),
        }
    }

    #[test]
    fn others_read_the_same_neighbor_discovery(repr in ndp_repr()) {
        let bytes = emit(&repr);
        let (ndp::Message::Solicitation { target, .. } | ndp::Message::Advertisement { target, .. }) = repr.message;
        if !target.is_multicast() {
            prop_assert_eq!(as_smoltcp(&bytes), Some(repr));
        }

        let sliced = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("IPv6") };
        prop_assert_eq!(ip.header().source_addr(), repr.source);
        prop_assert_eq!(ip.header().destination_addr(), repr.destination);
        prop_assert_eq!(ip.header().hop_limit(), 255);
        let Some(etherparse::TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("ICMPv6") };
        prop_assert!(icmp.is_checksum_valid(repr.source.octets(), repr.destination.octets()));
    }

    /// Options decide here: what is refused for a length must be refused by etherparse too, and what is accepted must
    /// be accepted by it.
    #[test]
    fn options_are_judged_as_etherparse_judges_them(
        target in any::<u128>(), options in options(), advertisement: bool,
    ) {
        let target = Ipv6Addr::from_bits(target & !(0xff << 120) | 0x20 << 120);
        let message = if advertisement {
            ndp::Message::Advertisement { target, target_mac: None, router: false, solicited: true, overriding: false }
        } else {
            ndp::Message::Solicitation { target, source_mac: None }
        };
        let repr = ndp::Repr { source: "fe80::9".parse().unwrap(), destination: target, message };
        let mut bytes = emit(&repr);
        bytes.extend(&options);
        bytes[5] = (bytes.len() - 40) as u8;
        fix_checksum(&mut bytes);

        let kind = if advertisement { 2 } else { 1 };
        let mut first = None;
        let mut sound = true;
        for option in etherparse::icmpv6::NdpOptionsIterator::from_slice(&options) {
            match option {
                Ok(NdpOptionSlice::SourceLinkLayerAddress(address)) if kind == 1 => {
                    first = first.or(Some(address.link_layer_address().to_vec()));
                }
                Ok(NdpOptionSlice::TargetLinkLayerAddress(address)) if kind == 2 => {
                    first = first.or(Some(address.link_layer_address().to_vec()));
                }
                Ok(_) => {}
                Err(_) => sound = false,
            }
        }
        let expected = match first.map(Mac::try_from) {
            _ if !sound => Err(Malformed::OptionLength),
            None => Ok(None),
            Some(Ok(mac)) => Ok(Some(mac)),
            Some(Err(_)) => Err(Malformed::OptionLength),
        };
        let ours = parse(&bytes).map(|repr| match repr.message {
            ndp::Message::Solicitation { source_mac: mac, .. } | ndp::Message::Advertisement { target_mac: mac, .. } => mac,
        });
        prop_assert_eq!(ours, expected);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ethernet::Frame::new(&bytes);
        let _ = arp::Packet::new(&bytes).map(|packet| arp::Repr::parse(&packet));
        let _ = parse(&bytes);
    }

    /// A damaged packet is refused, or says what smoltcp reads in it too.
    #[test]
    fn a_damaged_packet_is_refused_or_read_alike(
        repr in ndp_repr(), changes in prop::collection::vec((0usize..72, any::<u8>()), 1..4), cut in 0usize..100,
    ) {
        let mut bytes = emit(&repr);
        for (position, value) in changes {
            if let Some(byte) = bytes.get_mut(position) {
                *byte = value;
            }
        }
        if bytes.len() >= 64 {
            fix_checksum(&mut bytes);
        }
        bytes.truncate(cut);
        // Of the options that say nothing here smoltcp checks more than that they have a length.
        prop_assume!(bytes.get(64).is_none_or(|kind| matches!(kind, 1 | 2)));
        if let Ok(repr) = parse(&bytes) {
            prop_assert_eq!(as_smoltcp(&bytes), Some(repr));
        }
    }
}

#[test]
fn each_rule_of_neighbor_discovery_refuses() {
    let target: Ipv6Addr = "fd99::100".parse().unwrap();
    let message = ndp::Message::Solicitation {
        target,
        source_mac: Some([2, 0, 0, 0, 0, 9]),
    };
    let sound = emit(&ndp::Repr {
        source: "fe80::9".parse().unwrap(),
        destination: ndp::solicited_node(target),
        message,
    });
    assert!(parse(&sound).is_ok());

    let with = |position: usize, value: u8| {
        let mut bytes = sound.clone();
        bytes[position] = value;
        fix_checksum(&mut bytes);
        bytes
    };
    let table = [
        ("hop limit", with(7, 254), Malformed::HopLimit),
        ("code", with(41, 1), Malformed::Code),
        ("target", with(48, 0xff), Malformed::Target),
        ("option of length 0", with(65, 0), Malformed::OptionLength),
        ("option too long", with(65, 2), Malformed::OptionLength),
        ("router solicitation", with(40, 133), Malformed::NotNeighborDiscovery),
        ("IPv4", with(0, 0x45), Malformed::NotNeighborDiscovery),
        ("hop-by-hop header", with(6, 0), Malformed::NotNeighborDiscovery),
        ("payload longer than the frame", with(5, 33), Malformed::Truncated),
        ("cut short", sound[..60].to_vec(), Malformed::Truncated),
    ];
    for (case, bytes, rule) in table {
        assert_eq!(parse(&bytes), Err(rule), "{case}");
    }
    let mut wrong = sound.clone();
    wrong[43] ^= 1;
    assert_eq!(parse(&wrong), Err(Malformed::Checksum));
}

#[test]
fn groups_of_an_address() {
    let address: Ipv6Addr = "2001:db8::1:aabb:ccdd".parse().unwrap();
    let group = ndp::solicited_node(address);
    assert_eq!(group, "ff02::1:ffbb:ccdd".parse::<Ipv6Addr>().unwrap());
    assert_eq!(ethernet::multicast(group), [0x33, 0x33, 0xff, 0xbb, 0xcc, 0xdd]);
}

/// Octets of a dump in hexadecimal.
fn dump(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// What a Linux client sent, taken from the wire by tcpdump: shows if all codecs are wrong alike.
#[test]
fn captured_requests_read_as_tcpdump_says() {
    const CLIENT: Mac = [2, 0, 0, 0, 0, 9];
    // Request who-has 10.99.0.100 tell 10.99.0.3, length 28
    let bytes = dump(
        "ffff ffff ffff 0200 0000 0009 0806 0001 0800 0604 0001 0200 0000 0009 0a63 0003 0000 0000 0000 0a63 0064",
    );
    let frame = ethernet::Frame::new(&bytes).unwrap();
    assert_eq!(
        (frame.header().destination, frame.header().ether_type),
        (ethernet::BROADCAST, ethernet::TYPE_ARP)
    );
    let request = arp::Repr {
        operation: arp::Operation::Request,
        sender_mac: CLIENT,
        sender_ip: Ipv4Addr::new(10, 99, 0, 3),
        target_mac: [0; 6],
        target_ip: Ipv4Addr::new(10, 99, 0, 100),
    };
    assert_eq!(
        arp::Repr::parse(&arp::Packet::new(frame.payload()).unwrap()),
        Ok(request)
    );
    assert_eq!(OwnedFrame::arp(CLIENT, ethernet::BROADCAST, &request).as_bytes(), bytes);

    // fd99::3 > ff02::1:ff00:100: neighbor solicitation, who has fd99::100, length 32
    let bytes = dump(
        "3333 ff00 0100 0200 0000 0009 86dd 6000 0000 0020 3aff fd99 0000 0000 0000 0000 0000 0000 0003 ff02 0000 0000
         0000 0000 0001 ff00 0100 8700 7a5f 0000 0000 fd99 0000 0000 0000 0000 0000 0000 0100 0101 0200 0000 0009",
    );
    let frame = ethernet::Frame::new(&bytes).unwrap();
    let target = "fd99::100".parse().unwrap();
    let solicitation = ndp::Repr {
        source: "fd99::3".parse().unwrap(),
        destination: ndp::solicited_node(target),
        message: ndp::Message::Solicitation {
            target,
            source_mac: Some(CLIENT),
        },
    };
    assert_eq!(parse(frame.payload()), Ok(solicitation));
    let to = ethernet::multicast(ndp::solicited_node(target));
    assert_eq!(OwnedFrame::ndp(CLIENT, to, &solicitation).as_bytes(), bytes);
}
