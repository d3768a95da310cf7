//! Sessions that another process goes on with.

use std::sync::Arc;
use std::time::Duration;

use ferrolb_bgp::session::Session;
use ferrolb_bgp::settings::{GracefulRestart, Password, Reach};
use ferrolb_bgp::{Handed, Peer, State};
use proptest::prelude::*;

use crate::adj_rib_out::expected;
use crate::link::{Link, local, peer};
use crate::make::{context, hosts, tagged};
use crate::wrong::message;

#[test]
fn the_router_sees_nothing() {
    let routes = hosts(false, 3_000, &tagged(1));
    let mut link = Link::up(peer(), Arc::clone(&routes));
    link.pass(4.0, false);
    let before = link.session.status().clone();
    let deadline = |link: &Link| link.session.deadline().unwrap().as_micros();
    let (updates, due) = (link.router().updates, deadline(&link));
    assert!(link.hand_over(&routes));
    link.settle();
    let after = link.session.status();
    assert_eq!(
        (after.state, after.since, after.established, after.told, after.local),
        (State::Established, before.since, 1, 3_000, before.local)
    );
    assert_eq!(after.negotiated, before.negotiated);
    assert_eq!(deadline(&link), due, "the timers go on");
    link.pass(60.0, false);
    assert_eq!(link.state(), State::Established);
    assert_eq!((link.router().updates, link.closed.len()), (updates, 0));
    // What has changed meanwhile is all that is told.
    let fewer = hosts(false, 2_900, &tagged(1));
    assert!(link.hand_over(&fewer));
    link.settle();
    assert_eq!(link.router().updates, updates + 1);
    assert!(link.router().held == expected(&fewer, context()));
    // A router that has died meanwhile is missed in time.
    assert!(link.hand_over(&fewer));
    link.pass(9.0, true);
    assert_ne!(link.state(), State::Established);
}

#[test]
fn it_goes_on_in_the_middle_of_a_message() {
    let routes = hosts(true, 3_000, &tagged(1));
    let mut link = Link::up(peer(), hosts(true, 1, &tagged(2)));
    // A router that has said half of a message, and read half of one.
    let keepalive = message(4, &[]);
    let before = link.session.status().received.keepalive;
    link.say(0, &keepalive[..7]);
    link.session.want(link.now, Arc::clone(&routes));
    link.carry(0, 5_000);
    assert!(link.hand_over(&routes));
    link.say(0, &keepalive[7..]);
    assert_eq!(link.session.status().received.keepalive, 1, "{before} before");
    link.settle();
    assert!(link.router().held == expected(&routes, context()));
}

#[test]
fn only_with_the_settings_it_was_made_with() {
    let routes = hosts(false, 3, &tagged(1));
    let link = Link::up(peer(), Arc::clone(&routes));
    let (_, handed) = link.session.hand_over().unwrap();
    let adopt = |peer: Peer| {
        let wanted = (Arc::new(peer), Arc::clone(&routes));
        let adopted = Session::adopt(link.now, wanted, Duration::ZERO, 8, (&handed, local()));
        adopted.is_some()
    };
    assert!(adopt(peer()));
    // What may change on a session.
    let reach = Reach::MultiHop;
    assert!(adopt(Peer { reach, ..peer() }));
    let others = [
        Peer {
            hold_time: 10,
            ..peer()
        },
        Peer {
            router_id: [10, 0, 0, 2].into(),
            ..peer()
        },
        Peer {
            local_asn: 64513,
            ..peer()
        },
        Peer { port: 1179, ..peer() },
        Peer {
            password: Some(Password::new(b"key").unwrap()),
            ..peer()
        },
        Peer {
            graceful_restart: Some(GracefulRestart { restart_time: 120 }),
            ..peer()
        },
        // The router's OPEN does not fit.
        Peer {
            remote_asn: ferrolb_bgp::RemoteAsn::External,
            ..peer()
        },
    ];
    for other in others {
        assert!(!adopt(other.clone()), "{other:?}");
    }
    let mut leaving = Link::up(peer(), routes);
    leaving.session.leave(leaving.now, ferrolb_bgp::session::Leave::Restart);
    assert_eq!(leaving.session.hand_over(), None);
}

proptest! {
    /// Whatever stands in place of a number, or of a list: at worst it is no session.
    #[test]
    fn nothing_that_is_handed_over_panics(at: prop::sample::Index, instead in "[0-9]{1,20}|\\[\\]|null|true|\"x\"", passed in 0.0..20.0) {
        let routes = hosts(false, 3, &tagged(1));
        let link = Link::up(peer(), Arc::clone(&routes));
        let handed = serde_json::to_string(&link.session.hand_over().unwrap().1).unwrap();
        let values: Vec<usize> = handed.match_indices([':', '[', ',']).map(|(at, _)| at + 1).collect();
        let start = values[at.index(values.len())];
        let rest = &handed[start..];
        let end = rest.find([',', '}', ']']).unwrap_or(rest.len());
        let text = format!("{}{instead}{}", &handed[..start], &rest[end..]);
        let Ok(handed) = serde_json::from_str::<Handed>(&text) else { return Ok(()) };
        let wanted = (Arc::new(peer()), routes);
        if let Some((mut session, slot)) = Session::adopt(link.now, wanted, Duration::ZERO, 8, (&handed, local())) {
            let now = link.now + Duration::from_secs_f64(passed);
            session.received(now, slot, &message(4, &[]));
            session.tick(now);
            session.sent(now, slot, session.outgoing(slot).len());
            while session.poll().is_some() {}
        }
    }
}
