use proptest::prelude::*;

use super::*;

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).into()),
    ]
}

fn places() -> impl Strategy<Value = Vec<Place>> {
    let place = (addresses(), any::<Mac>()).prop_map(|(address, mac)| Place { address, mac });
    proptest::collection::vec(place, 0..=LINKS)
}

fn hellos() -> impl Strategy<Value = Message> {
    (1_u32.., 1_u8.., any::<bool>(), any::<bool>(), places()).prop_map(
        |(micros, multiplier, answering, standing_in, places)| Message::Hello {
            interval: Duration::from_micros(micros.into()),
            multiplier,
            answering,
            standing_in,
            places,
        },
    )
}

fn messages() -> impl Strategy<Value = Message> {
    let known = (addresses(), any::<u64>(), "[a-z0-9.-]{1,253}").prop_map(|(address, epoch, owner)| Known {
        address,
        epoch,
        owner,
    });
    prop_oneof![
        hellos(),
        places().prop_map(|places| Message::Goodbye { places }),
        proptest::collection::vec((addresses(), any::<u64>()), 0..=255).prop_map(Message::Claim),
        proptest::collection::vec((addresses(), any::<u64>()), 0..=255).prop_map(Message::Yours),
        proptest::collection::vec((addresses(), any::<u64>()), 0..=255).prop_map(Message::Unable),
        (any::<u64>(), "[a-z0-9.-]{1,253}").prop_map(|(question, about)| Message::Ask { question, about }),
        (any::<u64>(), "[a-z0-9.-]{1,253}", proptest::option::of(0..u32::MAX)).prop_map(|(question, about, ago)| {
            let ago = ago.map(|micros| Duration::from_micros(micros.into()));
            Message::Heard { question, about, ago }
        }),
        proptest::collection::vec(known, 0..20).prop_map(Message::Tell),
    ]
}

/// A signed-looking datagram.
fn emit(header: &Header<'_>, message: &Message) -> Vec<u8> {
    let mut bytes = header.emit(message);
    bytes.extend([7; TAG]);
    bytes
}

proptest! {
    #[test]
    fn values_survive(message in messages(), key: u32, boot: u64, sequence: u64, sender in "[a-z0-9.-]{1,253}") {
        let header = Header { key, boot, sequence, sender: &sender };
        let bytes = emit(&header, &message);
        let packet = Packet::new(&bytes).unwrap();
        let read = Header { key: packet.key(), boot: packet.boot(), sequence: packet.sequence(), sender: packet.sender() };
        prop_assert_eq!(read, header);
        prop_assert_eq!(packet.tag(), &[7; TAG]);
        prop_assert_eq!(packet.message().unwrap(), message);
    }

    #[test]
    fn bytes_survive(message in messages(), change in 0_usize..400, to: u8) {
        let mut bytes = emit(&Header { key: 1, boot: 2, sequence: 3, sender: "node" }, &message);
        if let Some(octet) = bytes.get_mut(change) {
            *octet = to;
        }
        if let Ok(packet) = Packet::new(&bytes) && let Ok(message) = packet.message() {
            let (key, boot, sequence) = (packet.key(), packet.boot(), packet.sequence());
            let again = Header { key, boot, sequence, sender: packet.sender() }.emit(&message);
            prop_assert_eq!(again.as_slice(), packet.signed());
        }
    }

    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Packet::new(&bytes).map(|packet| packet.message());
    }

    #[test]
    fn no_part_is_a_whole(message in messages()) {
        let bytes = Header { key: 1, boot: 2, sequence: 3, sender: "node" }.emit(&message);
        for length in 0..bytes.len().min(300) {
            let mut part = bytes[..length].to_vec();
            part.extend([0; TAG]);
            let read = Packet::new(&part).and_then(|packet| packet.message());
            prop_assert_eq!(read, Err(Malformed::Truncated));
        }
    }
}

#[test]
fn every_rule_has_its_name() {
    let hello = Message::Hello {
        interval: Duration::from_millis(50),
        multiplier: 2,
        answering: true,
        standing_in: false,
        places: vec![Place {
            address: Ipv4Addr::LOCALHOST.into(),
            mac: [1; 6],
        }],
    };
    let header = Header {
        key: 0,
        boot: 0,
        sequence: 0,
        sender: "n",
    };
    let good = emit(&header, &hello);
    let read = |bytes: &[u8]| Packet::new(bytes).and_then(|packet| packet.message());
    assert_eq!(read(&good), Ok(hello));
    // Where, what, why.
    let table = [
        (0, 0, Malformed::Magic),
        (4, 2, Malformed::Version),
        (5, 0, Malformed::Kind),
        (5, 9, Malformed::Kind),
        (26, 0, Malformed::Sender),
        (27, 0xff, Malformed::Sender),
        (32, 0, Malformed::Value),
        (33, 4, Malformed::Value),
        (34, 2, Malformed::Truncated),
        (34, 0, Malformed::Trailing),
        (35, 5, Malformed::Family),
    ];
    for (at, octet, why) in table {
        let mut bad = good.clone();
        bad[at] = octet;
        assert_eq!(read(&bad), Err(why), "octet {at} = {octet}");
    }
    let mut zero = good.clone();
    zero[28..32].fill(0);
    assert_eq!(read(&zero), Err(Malformed::Value));
    let places = vec![
        Place {
            address: Ipv4Addr::LOCALHOST.into(),
            mac: [1; 6]
        };
        LINKS + 1
    ];
    let mut many = Header { sender: "n", ..header }.emit(&Message::Goodbye { places: Vec::new() });
    many.pop();
    put_list(&mut many, &places, |out, place| {
        put_address(out, &place.address);
        out.extend(place.mac);
    });
    many.extend([0; TAG]);
    assert_eq!(read(&many), Err(Malformed::Links));
    assert_eq!(read(&[]), Err(Malformed::Truncated));
}
