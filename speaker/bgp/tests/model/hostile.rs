//! What a router may do wrong, and what follows: the answer of RFC 4271 section 6, RFC 7606 or RFC 6608, never a
//! panic, and never anything for another session. What it may say stands in `wrong.rs`.

use ferrolb_bgp::State;
use ferrolb_bgp::session::Origin;

use crate::link::{Link, peer};
use crate::make::{hosts, tagged};
use crate::wrong::{self, Case, ROUTER_ID, Then, message, open_message, with};

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
        return Then::StaysUp;
    }
    assert!(link.session.status().last_error.is_some());
    match link.last_words() {
        [] => Then::Closed,
        [(code, subcode, _)] => Then::Told(*code, *subcode),
        more => panic!("{more:?}"),
    }
}

fn judge_all(cases: Vec<Case>) {
    for case in cases {
        assert_eq!(judge(&case.bytes, case.early), case.then, "{}", case.name);
    }
}

#[test]
fn updates() {
    judge_all(wrong::updates());
}

#[test]
fn headers() {
    judge_all(wrong::headers());
}

#[test]
fn opens() {
    judge_all(wrong::opens([10, 0, 0, 1].into()));
}

#[test]
fn notifications_are_not_answered() {
    judge_all(wrong::notifications());
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
