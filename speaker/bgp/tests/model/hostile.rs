//! What a router may do wrong, and what follows: the answer of RFC 4271 section 6, RFC 7606 or RFC 6608, never a
//! panic, and never anything for another session.

use ferrolb_bgp::State;
use ferrolb_bgp::session::Origin;

use crate::link::{Link, ROUTER_ID, peer};
use crate::make::{hosts, tagged};
use crate::router::{capabilities, message, open_message};

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    StaysUp,
    /// This NOTIFICATION.
    Told(u8, u8),
    /// Closed without a word.
    Closed,
}
use Then::{Closed, StaysUp, Told};

fn link() -> Link {
    Link::new(peer(), hosts(false, 3, &tagged(1)))
}

/// Says `bytes` on a session that is up, or, with `early`, as the first thing after our OPEN.
fn judge(bytes: &[u8], early: bool) -> Then {
    let mut link = link();
    if early {
        link.perform();
        link.say(0, bytes);
        // The rest of a proper start.
        link.say(0, &message(4, &[]));
        link.open.clear();
        link.settle();
    } else {
        link.settle();
        link.say(0, bytes);
        link.settle();
    }
    if link.closed.is_empty() {
        assert_eq!(link.state(), State::Established);
        assert_eq!(link.router().held.len(), 3);
        return StaysUp;
    }
    assert!(link.session.status().last_error.is_some());
    match link.last_words() {
        [] => Closed,
        [(code, subcode, _)] => Told(*code, *subcode),
        more => panic!("{more:?}"),
    }
}

fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = |part: &[u8]| (part.len() as u16).to_be_bytes();
    message(
        2,
        &[
            &length(withdrawn)[..],
            withdrawn,
            &length(attributes)[..],
            attributes,
            nlri,
        ]
        .concat(),
    )
}

const ORIGIN: [u8; 4] = [64, 1, 1, 0];
const AS_PATH: [u8; 3] = [64, 2, 0];
const NEXT_HOP: [u8; 7] = [64, 3, 4, 192, 0, 2, 9];
const LOCAL_PREF: [u8; 7] = [64, 5, 4, 0, 0, 0, 100];
const NLRI: [u8; 4] = [24, 10, 1, 1];

fn with(extra: &[u8]) -> Vec<u8> {
    update(
        &[],
        &[&ORIGIN[..], &AS_PATH, &NEXT_HOP, &LOCAL_PREF, extra].concat(),
        &NLRI,
    )
}

#[test]
fn updates() {
    let reach = [
        128, 14, 26, 0, 2, 1, 16, 32, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 32, 32, 1, 13, 184,
    ];
    let twice = [&reach[..], &reach].concat();
    let cases: Vec<(&str, Vec<u8>, Then)> = vec![
        ("ordinary", with(&[]), StaysUp),
        (
            "ordinary IPv6",
            update(&[], &[&ORIGIN[..], &AS_PATH, &LOCAL_PREF, &reach].concat(), &[]),
            StaysUp,
        ),
        ("withdraw only", update(&NLRI, &[], &[]), StaysUp),
        (
            "withdraw only IPv6",
            update(&[], &[128, 15, 8, 0, 2, 1, 32, 32, 1, 13, 184], &[]),
            StaysUp,
        ),
        ("end of RIB", update(&[], &[], &[]), StaysUp),
        (
            "no ORIGIN",
            update(&[], &[&AS_PATH[..], &NEXT_HOP, &LOCAL_PREF].concat(), &NLRI),
            StaysUp,
        ),
        (
            "bad ORIGIN",
            update(&[], &[&[64, 1, 1, 7], &AS_PATH[..], &NEXT_HOP].concat(), &NLRI),
            StaysUp,
        ),
        (
            "bad AS_PATH",
            update(&[], &[&ORIGIN[..], &[64, 2, 2, 2, 9], &NEXT_HOP].concat(), &NLRI),
            StaysUp,
        ),
        ("bad COMMUNITIES", with(&[192, 8, 3, 1, 2, 3]), StaysUp),
        ("attribute overruns the list", with(&[192, 8, 200, 1, 2, 3]), StaysUp),
        ("unknown transitive", with(&[192, 250, 1, 1]), StaysUp),
        ("unknown well-known", with(&[64, 250, 1, 1]), StaysUp),
        ("ORIGIN twice", with(&ORIGIN), StaysUp),
        (
            "list beyond the message",
            message(2, &[0, 0, 0, 99, 64, 1, 1, 0]),
            Told(3, 1),
        ),
        ("withdrawn beyond the message", message(2, &[0, 99, 0, 0]), Told(3, 1)),
        (
            "prefix of 33 bits",
            update(&[], &[&ORIGIN[..], &AS_PATH, &NEXT_HOP].concat(), &[33, 1, 2, 3, 4, 5]),
            Told(3, 10),
        ),
        (
            "MP_REACH twice",
            update(&[], &[&ORIGIN[..], &AS_PATH, &twice].concat(), &[]),
            Told(3, 1),
        ),
    ];
    for (name, bytes, then) in cases {
        assert_eq!(judge(&bytes, false), then, "{name}");
    }
}

#[test]
fn headers() {
    let mut marker = message(4, &[]);
    marker[3] = 0;
    let length = |n: u16| [&[0xff; 16], &n.to_be_bytes()[..], &[4]].concat();
    let cases: [(&str, Vec<u8>, Then); 8] = [
        ("marker", marker, Told(1, 1)),
        ("length 0", length(0), Told(1, 2)),
        ("length 18", length(18), Told(1, 2)),
        ("length 4097", length(4097), Told(1, 2)),
        ("length 65535", length(65535), Told(1, 2)),
        ("type 99", message(99, &[]), Told(1, 3)),
        ("KEEPALIVE of 20 octets", message(4, &[0]), Told(1, 2)),
        ("ROUTE-REFRESH of 22 octets", message(5, &[0, 1, 0]), Told(1, 2)),
    ];
    for (name, bytes, then) in cases {
        assert_eq!(judge(&bytes, false), then, "{name}");
        assert_eq!(judge(&bytes, true), then, "{name} before OPEN");
    }
}

#[test]
fn opens() {
    let open = |asn, hold, id: [u8; 4]| open_message(asn, hold, id.into(), &capabilities(asn));
    let good = open(64512, 9, ROUTER_ID.octets());
    let mut version = good.clone();
    version[19] = 3;
    let mut parameter = good.clone();
    parameter[29] = 9;
    let mut overrun = good.clone();
    overrun[28] = 200;
    let none = open_message(64512, 9, ROUTER_ID, &[]);
    let mut unknown = capabilities(64512);
    unknown.push((250, vec![1, 2, 3]));
    let cases: [(&str, Vec<u8>, Then); 12] = [
        ("good", good.clone(), StaysUp),
        ("hold time 0", open(64512, 0, [9, 9, 9, 9]), StaysUp),
        (
            "unknown capability",
            open_message(64512, 9, ROUTER_ID, &unknown),
            StaysUp,
        ),
        ("no capability at all", none, StaysUp),
        ("version 3", version, Told(2, 1)),
        ("hold time 1", open(64512, 1, [9, 9, 9, 9]), Told(2, 6)),
        ("wrong AS", open(64999, 9, [9, 9, 9, 9]), Told(2, 2)),
        ("AS 0", open(0, 9, [9, 9, 9, 9]), Told(2, 2)),
        ("identifier 0.0.0.0", open(64512, 9, [0; 4]), Told(2, 3)),
        ("our identifier", open(64512, 9, [10, 0, 0, 1]), Told(2, 3)),
        ("unknown parameter", parameter, Told(2, 4)),
        ("parameters overrun", overrun, Told(2, 0)),
    ];
    for (name, bytes, then) in cases {
        assert_eq!(judge(&bytes, true), then, "{name}");
    }
    assert_eq!(judge(&good, false), Told(5, 3), "OPEN in Established");
    assert_eq!(judge(&message(4, &[]), true), Told(5, 1), "KEEPALIVE in OpenSent");
    assert_eq!(judge(&with(&[]), true), Told(5, 1), "UPDATE in OpenSent");
    assert_eq!(
        judge(&[good, with(&[])].concat(), true),
        Told(5, 2),
        "UPDATE in OpenConfirm"
    );
}

#[test]
fn notifications_are_not_answered() {
    for bytes in [
        message(3, &[6, 2]),
        message(3, &[6, 9, 6, 2, 9]),
        message(3, &[99, 99, 1]),
        message(3, &[6]),
    ] {
        assert_eq!(judge(&bytes, false), Closed);
        assert_eq!(judge(&bytes, true), Closed);
    }
}

#[test]
fn only_updates_keep_a_session_up() {
    let mut link = link();
    link.settle();
    for _ in 0..14 {
        link.pass(1.0, true);
        link.say(0, &with(&[]));
    }
    assert_eq!(link.state(), State::Established);
}

#[test]
fn a_stream_in_single_octets_is_the_same_stream() {
    let mut link = link();
    link.perform();
    let stream = [link.open.clone(), message(4, &[]), with(&[]), message(5, &[0, 1, 0, 1])].concat();
    stream.iter().for_each(|octet| link.say(0, &[*octet]));
    link.open.clear();
    link.settle();
    assert_eq!(
        (link.state(), link.session.status().inbound.announced),
        (State::Established, 1)
    );
}

#[test]
fn a_router_without_four_octet_numbers_reads_two() {
    let external = ferrolb_bgp::Peer {
        local_asn: 4_200_000_000,
        ..peer()
    };
    let mut link = Link::new(external, hosts(false, 1, &tagged(1)));
    link.open = open_message(64512, 9, ROUTER_ID, &[(1, vec![0, 1, 0, 1])]);
    link.perform();
    let open = link.open.clone();
    link.say(0, &[open, message(4, &[])].concat());
    assert_eq!(link.state(), State::Established);
    // The last of our messages before End-of-RIB: AS_TRANS in AS_PATH, the number itself in AS4_PATH.
    let outgoing = link.session.outgoing(0);
    let path = [64, 2, 4, 2, 1, 0x5b, 0xa0];
    assert!(outgoing.windows(path.len()).any(|w| w == path));
    let new_path = [192, 17, 6, 2, 1, 0xfa, 0x56, 0xea, 0x00];
    assert!(outgoing.windows(new_path.len()).any(|w| w == new_path));
    assert_eq!(link.connect(Origin::Accepted), None);
}
