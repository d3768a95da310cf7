//! What a router may say that is wrong, and what has to follow. It knows nothing of the crate under test: the lab says
//! the same things to a running speaker.

use std::net::Ipv4Addr;

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    StaysUp,
    /// This NOTIFICATION.
    Told(u8, u8),
    /// Closed without a word.
    Closed,
}
use Then::{Closed, StaysUp, Told};

/// Something to say.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    /// As the first thing after our OPEN, else on a session that is up.
    pub(crate) early: bool,
    pub(crate) then: Then,
}

/// The identifier of the router.
pub(crate) const ROUTER_ID: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 99);

fn all(cases: impl IntoIterator<Item = (&'static str, Vec<u8>, Then)>, early: bool) -> Vec<Case> {
    let case = |(name, bytes, then): (&str, _, _)| Case {
        name: if early {
            format!("{name}, early")
        } else {
            name.to_owned()
        },
        bytes,
        early,
        then,
    };
    cases.into_iter().map(case).collect()
}

/// A message of this type with this body.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (19 + body.len()) as u16;
    [&[0xff; 16], &length.to_be_bytes()[..], &[kind], body].concat()
}

/// An OPEN message with these capabilities in one parameter.
pub(crate) fn open_message(asn: u32, hold_time: u16, router_id: Ipv4Addr, capabilities: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let two_octets = u16::try_from(asn).unwrap_or(23456);
    let mut inner = Vec::new();
    for (code, value) in capabilities {
        inner.extend([*code, value.len() as u8]);
        inner.extend(value);
    }
    let mut parameters = Vec::new();
    if !inner.is_empty() {
        parameters.extend([2, inner.len() as u8]);
        parameters.extend(inner);
    }
    let body = [
        &[4],
        &two_octets.to_be_bytes()[..],
        &hold_time.to_be_bytes(),
        &router_id.octets(),
        &[parameters.len() as u8],
        &parameters,
    ];
    message(1, &body.concat())
}

/// The capabilities of a router that does both families, AS numbers of four octets, refresh and RFC 8950.
pub(crate) fn capabilities(asn: u32) -> Vec<(u8, Vec<u8>)> {
    vec![
        (1, vec![0, 1, 0, 1]),
        (1, vec![0, 2, 0, 1]),
        (2, vec![]),
        (5, vec![0, 1, 0, 1, 0, 2]),
        (65, asn.to_be_bytes().to_vec()),
    ]
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

pub(crate) fn with(extra: &[u8]) -> Vec<u8> {
    update(
        &[],
        &[&ORIGIN[..], &AS_PATH, &NEXT_HOP, &LOCAL_PREF, extra].concat(),
        &NLRI,
    )
}

/// UPDATEs: RFC 4271 section 6.3, RFC 7606.
pub(crate) fn updates() -> Vec<Case> {
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
    all(cases, false)
}

/// Headers: RFC 4271 section 6.1. At any time.
pub(crate) fn headers() -> Vec<Case> {
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
    let mut both = all(cases.clone(), false);
    both.extend(all(cases, true));
    both
}

/// OPENs: RFC 4271 section 6.2; and messages at the wrong time (RFC 6608). `ours` is our identifier.
pub(crate) fn opens(ours: Ipv4Addr) -> Vec<Case> {
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
    let cases: [(&str, Vec<u8>, Then); 15] = [
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
        ("our identifier", open(64512, 9, ours.octets()), Told(2, 3)),
        ("unknown parameter", parameter, Told(2, 4)),
        ("parameters overrun", overrun, Told(2, 0)),
        ("KEEPALIVE in OpenSent", message(4, &[]), Told(5, 1)),
        ("UPDATE in OpenSent", with(&[]), Told(5, 1)),
        ("UPDATE in OpenConfirm", [good.clone(), with(&[])].concat(), Told(5, 2)),
    ];
    let mut both = all(cases, true);
    both.extend(all([("OPEN in Established", good, Told(5, 3))], false));
    both
}

/// NOTIFICATIONs, which are not answered whatever they say.
pub(crate) fn notifications() -> Vec<Case> {
    let cases = [
        ("NOTIFICATION", message(3, &[6, 2]), Closed),
        (
            "NOTIFICATION with a text that is too short",
            message(3, &[6, 9, 6, 2, 9]),
            Closed,
        ),
        ("NOTIFICATION of an unknown kind", message(3, &[99, 99, 1]), Closed),
        ("NOTIFICATION without a subcode", message(3, &[6]), Closed),
    ];
    let mut both = all(cases.clone(), false);
    both.extend(all(cases, true));
    both
}
