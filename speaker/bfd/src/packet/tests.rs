use proptest::prelude::*;

use super::*;

/// An Up packet with P as FRR sends it: 300 ms both ways, multiplier 3.
const UP: [u8; LENGTH] = [
    0x20, 0xe0, 3, 24, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 4, 0x93, 0xe0, 0, 4, 0x93, 0xe0, 0, 0, 0xc3,
    0x50,
];

fn parse(data: &[u8]) -> Result<Repr, Malformed> {
    Packet::new(data).and_then(|packet| Repr::parse(&packet))
}

/// The packet with some octets replaced.
fn with(changes: &[(usize, u8)]) -> Vec<u8> {
    let mut data = UP.to_vec();
    for (at, octet) in changes {
        data[*at] = *octet;
    }
    data
}

#[test]
fn bytes_and_value_are_the_same_packet() {
    let repr = Repr {
        diagnostic: Diagnostic::NONE,
        state: State::Up,
        poll: true,
        r#final: false,
        independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: NonZeroU32::new(0x1122_3344).unwrap(),
        your_discriminator: 0x5566_7788,
        desired_transmit: 300_000,
        required_receive: 300_000,
        required_echo: 50_000,
    };
    assert_eq!(parse(&UP), Ok(repr));
    assert_eq!(repr.emit(), UP);
}

#[test]
fn each_bit_has_its_place() {
    let repr = parse(&UP).unwrap();
    let down = Repr {
        state: State::Down,
        poll: false,
        ..repr
    };
    let cases = [
        (down, 0x40),
        (
            Repr {
                state: State::AdminDown,
                ..down
            },
            0x00,
        ),
        (
            Repr {
                state: State::Init,
                ..down
            },
            0x80,
        ),
        (Repr { r#final: true, ..down }, 0x50),
        (
            Repr {
                independent: true,
                ..down
            },
            0x48,
        ),
        (Repr { demand: true, ..down }, 0x42),
    ];
    for (repr, octet) in cases {
        assert_eq!(repr.emit().as_slice(), with(&[(1, octet)]));
        assert_eq!(parse(&with(&[(1, octet)])), Ok(repr));
    }
    for code in 0..32 {
        let repr = parse(&with(&[(0, 0x20 | code)])).unwrap();
        assert_eq!(repr.diagnostic.code(), code);
        assert_eq!(repr.emit()[0], 0x20 | code);
    }
}

#[test]
fn every_rule_is_checked() {
    let no_my = with(&[(4, 0), (5, 0), (6, 0), (7, 0)]);
    let no_your = |state: u8| with(&[(1, state), (8, 0), (9, 0), (10, 0), (11, 0)]);
    let cases: [(Vec<u8>, Malformed); 13] = [
        (vec![], Malformed::Truncated),
        (UP[..23].to_vec(), Malformed::Truncated),
        (with(&[(3, 25)]), Malformed::Truncated),
        (with(&[(0, 0x00)]), Malformed::Version),
        (with(&[(0, 0x40)]), Malformed::Version),
        (with(&[(3, 23)]), Malformed::Length),
        (with(&[(3, 0)]), Malformed::Length),
        (with(&[(2, 0)]), Malformed::Multiplier),
        (with(&[(1, 0xe1)]), Malformed::Multipoint),
        (no_my, Malformed::MyDiscriminator),
        (no_your(0xc0), Malformed::YourDiscriminator),
        (no_your(0x80), Malformed::YourDiscriminator),
        (with(&[(1, 0xe4)]), Malformed::Authentication),
    ];
    for (data, rule) in cases {
        assert_eq!(parse(&data), Err(rule), "{data:02x?}");
    }
    for state in [0x00, 0x40] {
        assert_eq!(parse(&no_your(state)).map(|repr| repr.your_discriminator), Ok(0));
    }
    // What follows the packet means nothing.
    assert_eq!(parse(&[&UP[..], &[1, 2, 3]].concat()), parse(&UP));
}

proptest! {
    #[test]
    fn what_is_accepted_is_written_back_as_it_was(mut data in prop::collection::vec(any::<u8>(), 0..40), real: bool) {
        if let [first, _, multiplier, length, ..] = &mut data[..] && real {
            *first = 0x20 | *first & 0x1f;
            *length = LENGTH as u8;
            *multiplier |= 1;
        }
        if let Ok(repr) = parse(&data) {
            let mut expected: [u8; LENGTH] = data[..LENGTH].try_into().unwrap();
            expected[3] = LENGTH as u8;
            prop_assert_eq!(repr.emit(), expected);
        }
    }
}
