//! What a session does, step by step, under a clock turned by hand.

use std::sync::Arc;
use std::time::Duration;

use ferrolb_bgp::proto::{Cease, Notification};
use ferrolb_bgp::session::{Leave, Origin, SLOTS};
use ferrolb_bgp::settings::{Field, GracefulRestart, Opening, Password, Reach};
use ferrolb_bgp::status::Fault;
use ferrolb_bgp::{Attributes, Peer, RemoteAsn, State};

use crate::link::{Link, local, peer};
use crate::make::{hosts, tagged};
use crate::router::Message;
use crate::wrong::{ROUTER_ID, capabilities, message, open_message};

const KEEPALIVE: u8 = 4;

fn routes(count: u32) -> Arc<ferrolb_bgp::Routes> {
    hosts(false, count, &tagged(1))
}

/// Our OPEN's capability with this code.
fn capability(link: &mut Link, code: u8) -> Option<Vec<u8>> {
    let Some(Message::Open { capabilities, .. }) = link.router().open.clone() else {
        panic!("there was no OPEN")
    };
    capabilities
        .into_iter()
        .find(|(c, _)| *c == code)
        .map(|(_, value)| value)
}

fn graceful(mut link: Link) -> Link {
    let mut offered = capabilities(64512);
    // N bit, 120 s, IPv4 and IPv6 kept.
    offered.push((64, vec![0x40, 120, 0, 1, 1, 0x80, 0, 2, 1, 0x80]));
    link.open = open_message(64512, 9, ROUTER_ID, &offered);
    link.settle();
    link
}

fn graceful_peer() -> Peer {
    let graceful_restart = Some(GracefulRestart { restart_time: 120 });
    Peer {
        graceful_restart,
        ..peer()
    }
}

#[test]
fn it_comes_up_and_tells_everything() {
    let mut link = Link::up(peer(), routes(1_000));
    assert_eq!((link.router().held.len(), link.router().ends_of_rib), (1_000, 2));
    let status = link.session.status();
    assert_eq!((status.wanted, status.told, status.established), (1_000, 1_000, 1));
    assert_eq!(status.local, Some(local().address));
    let negotiated = status.negotiated.as_ref().unwrap();
    assert_eq!(
        (negotiated.asn, negotiated.router_id, negotiated.hold_time),
        (64512, ROUTER_ID, 9)
    );
    assert!(negotiated.route_refresh && negotiated.extended_next_hop && !negotiated.graceful_restart);
    assert_eq!(
        (status.sent.open, status.sent.keepalive, status.received.open),
        (1, 1, 1)
    );
    assert_eq!(status.sent.update, 2 + 2);
    // Neither extended messages nor enhanced refresh are offered.
    assert_eq!((capability(&mut link, 6), capability(&mut link, 70)), (None, None));
}

#[test]
fn keepalives_come_in_time_and_are_expected() {
    let mut link = Link::up(peer(), routes(1));
    link.pass(60.0, false);
    assert_eq!(link.state(), State::Established);
    let sent = link.session.status().sent.keepalive;
    assert!((20..=28).contains(&sent), "{sent} in 60 s of one per 2.25 to 3 s");

    let silent_since = link.now;
    while link.state() == State::Established {
        link.pass(0.1, true);
    }
    let waited = (link.now - silent_since).as_secs_f64();
    assert!((7.0..9.2).contains(&waited), "{waited}");
    assert_eq!(link.last_words(), [(4, 0, vec![])]);
    let error = &link.session.status().last_error.as_ref().unwrap().1;
    assert_eq!(error.to_string(), "sent NOTIFICATION: Hold Timer Expired (4/0)");
    assert_eq!(link.state(), State::Idle);
    link.pass(5.0, false);
    assert_eq!(link.state(), State::Established);
}

#[test]
fn hold_time_zero_expects_and_sends_nothing() {
    let mut link = Link::new(Peer { hold_time: 0, ..peer() }, routes(1));
    link.settle();
    link.pass(1_000.0, true);
    assert_eq!(link.state(), State::Established);
    assert_eq!(link.session.status().sent.keepalive, 1);
}

#[test]
fn a_router_that_is_away_is_tried_at_a_steady_pace() {
    let mut link = Link::new(peer(), routes(1));
    link.reachable = false;
    link.perform();
    link.pass(600.0, true);
    let pauses: Vec<f64> = link.dials.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
    for (pause, longest) in pauses
        .iter()
        .zip([1.0, 2.0, 4.0, 8.0].into_iter().chain(std::iter::repeat(10.0)))
    {
        assert!(*pause <= longest && *pause >= 0.75 * longest, "{pauses:?}");
    }
    assert_eq!(link.state(), State::Active);
    let error = link.session.status().last_error.as_ref().unwrap().1.to_string();
    assert_eq!(error, "cannot connect: refused");
    link.reachable = true;
    link.pass(10.0, false);
    assert_eq!(link.state(), State::Established);
}

#[test]
fn what_a_router_says_is_shown_and_not_hurried() {
    let mut link = Link::up(peer(), routes(1));
    let text = b"maintenance until noon";
    let body = [&[6, 2, text.len() as u8], &text[..]].concat();
    link.say(0, &message(3, &body));
    assert_eq!(link.state(), State::Idle);
    let error = link.session.status().last_error.as_ref().unwrap().1.to_string();
    let expected = "received NOTIFICATION: Administrative Shutdown (6/2): \"maintenance until noon\"";
    assert_eq!(error, expected);
    assert!(link.last_words().is_empty());
    assert!(link.session.status().negotiated.is_none() && link.session.status().told == 0);
    link.pass(3.7, false);
    assert_eq!(link.state(), State::Idle);
    link.pass(1.4, false);
    assert_eq!(link.state(), State::Established);
    assert_eq!(link.router().held.len(), 1);
}

#[test]
fn errors_in_a_row_are_answered_ever_more_slowly() {
    let mut link = Link::new(peer(), routes(1));
    link.open = open_message(64999, 9, ROUTER_ID, &capabilities(64999));
    link.settle();
    link.pass(400.0, false);
    let pauses: Vec<f64> = link.dials.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
    let expected = [5.0, 10.0, 20.0, 40.0].into_iter().chain(std::iter::repeat(60.0));
    for (pause, longest) in pauses.iter().zip(expected) {
        assert!(*pause <= longest + 0.1 && *pause >= 0.75 * longest, "{pauses:?}");
    }
    assert_eq!(link.last_words(), [(2, 2, vec![])]);
}

#[test]
fn bfd_takes_the_session_down() {
    let mut link = Link::up(peer(), routes(1));
    link.session.bfd_down(link.now);
    link.settle();
    assert_eq!((link.last_words(), link.state()), (&[(6, 10, vec![])][..], State::Idle));
}

#[test]
fn a_lost_connection_is_made_again_soon() {
    let mut link = Link::up(peer(), routes(5));
    link.session.closed(link.now, 0, "closed by the peer");
    link.perform();
    assert_eq!(link.state(), State::Active);
    assert_eq!(
        link.session.status().last_error.as_ref().unwrap().1,
        Fault::Lost(State::Established, "closed by the peer".to_owned())
    );
    link.pass(1.1, false);
    assert_eq!((link.state(), link.router().held.len()), (State::Established, 5));
}

#[test]
fn a_change_of_settings_resets_only_if_it_must() {
    let mut link = Link::up(peer(), routes(5));
    let mut next = peer();
    (next.keepalive, next.reach, next.opening) = (Some(1), Reach::MultiHop, Opening::DialAndListen);
    (next.remote_asn, next.next_hops.v4) = (RemoteAsn::Internal, Some("192.0.2.7".parse().unwrap()));
    let diff = link.session.reconfigure(link.now, Arc::new(next.clone()));
    assert!(
        diff.reset.is_empty() && diff.live.contains(&Field::RemoteAsn),
        "{diff:?}"
    );
    link.settle();
    let hops: Vec<_> = link.router().held.values().filter_map(|said| said.next_hop).collect();
    assert_eq!(hops, ["192.0.2.7".parse::<std::net::IpAddr>().unwrap(); 5]);
    let before = link.session.status().sent.keepalive;
    for second in 0..10 {
        // Not even settings that change all the time keep it from speaking.
        next.next_hops.v4 = Some(std::net::Ipv4Addr::new(192, 0, 2, second).into());
        link.session.reconfigure(link.now, Arc::new(next.clone()));
        link.say(0, &message(KEEPALIVE, &[]));
        link.pass(1.0, false);
    }
    assert!(link.session.status().sent.keepalive - before >= 10);
    assert_eq!((link.session.status().established, link.closed.len()), (1, 0));

    next.hold_time = 30;
    link.session.reconfigure(link.now, Arc::new(next.clone()));
    link.settle();
    assert_eq!(link.last_words(), [(6, 6, vec![])]);
    let error = &link.session.status().last_error.as_ref().unwrap().1;
    assert_eq!(*error, Fault::Reconfigured(vec![Field::HoldTime]));
    link.pass(1.1, false);
    assert_eq!((link.state(), link.router().held.len()), (State::Established, 5));

    next.remote_asn = RemoteAsn::External;
    let diff = link.session.reconfigure(link.now, Arc::new(next));
    assert!(diff.reset.contains(&Field::RemoteAsn), "the router is not external");
}

#[test]
fn it_leaves_in_steps() {
    let mut link = Link::up(peer(), routes(5));
    let leave = Leave::Withdraw {
        wait: Duration::from_secs(10),
        cease: Cease::Shutdown,
        text: "node drained".to_owned(),
    };
    link.session.leave(link.now, leave);
    link.settle();
    let marked = |link: &mut Link| {
        let held = link.router().held.clone();
        held.values()
            .filter(|s| s.communities.contains(&0xffff_0000) && s.local_pref == Some(0))
            .count()
    };
    assert_eq!(marked(&mut link), 5);
    // What changes meanwhile does not undo it.
    link.session.want(link.now, routes(50));
    link.pass(9.0, false);
    assert_eq!((marked(&mut link), link.done), (5, false));
    link.pass(1.1, false);
    assert!(link.done && link.closed[0].held.is_empty());
    assert_eq!(link.last_words(), [(6, 2, [&[12], &b"node drained"[..]].concat())]);
    assert_eq!((link.session.deadline(), link.state()), (None, State::Idle));
    assert_eq!(link.session.status().last_error, None, "to leave is no fault");
}

#[test]
fn it_leaves_at_once_where_there_is_no_session() {
    let mut link = Link::new(peer(), routes(5));
    link.reachable = false;
    link.perform();
    let leave = Leave::Withdraw {
        wait: Duration::from_secs(10),
        cease: Cease::Deconfigured,
        text: String::new(),
    };
    link.session.leave(link.now, leave);
    link.settle();
    assert!(link.done);
    link.pass(100.0, false);
    assert_eq!(link.dials.len(), 1);
}

#[test]
fn a_peer_that_is_no_longer_wanted_keeps_nothing() {
    let mut link = graceful(Link::new(graceful_peer(), routes(5)));
    let leave = Leave::Withdraw {
        wait: Duration::ZERO,
        cease: Cease::Deconfigured,
        text: String::new(),
    };
    link.session.leave(link.now, leave);
    link.settle();
    assert!(link.done && link.closed[0].held.is_empty());
    assert_eq!(link.last_words(), [(6, 3, vec![])]);
}

#[test]
fn a_restart_is_announced_and_kept() {
    let until = Duration::from_secs(120);
    let mut link = graceful(Link::restarted(graceful_peer(), routes(5), until));
    // R and N bits, 120 s, F bits.
    let expected = vec![0xc0, 120, 0, 1, 1, 0x80, 0, 2, 1, 0x80];
    assert_eq!(capability(&mut link, 64), Some(expected));
    let negotiated = link.session.status().negotiated.as_ref().unwrap();
    assert!(negotiated.graceful_restart && negotiated.notification_restart);
    link.session.leave(link.now, Leave::Restart);
    link.settle();
    assert!(link.done && link.last_words().is_empty() && link.closed[0].held.len() == 5);

    // The second session of this life is no restart of the node.
    let mut link = graceful(Link::restarted(graceful_peer(), routes(5), until));
    link.session.closed(link.now, 0, "reset");
    link.pass(1.1, false);
    assert_eq!(capability(&mut link, 64).unwrap()[0], 0x40);

    // A router that would not keep them is told.
    let mut link = Link::up(graceful_peer(), routes(5));
    link.session.leave(link.now, Leave::Restart);
    link.settle();
    assert!(link.done && link.closed[0].held.is_empty());
    assert_eq!(link.last_words()[0].1, 2);
}

#[test]
fn a_router_that_does_not_read_costs_a_buffer_and_its_session() {
    let mut link = Link::up(peer(), routes(0));
    link.session.want(link.now, routes(100_000));
    let deadline = link.now + Duration::from_secs(480);
    while link.now < deadline {
        assert_eq!(link.state(), State::Established);
        let waiting = link.session.outgoing(0).len();
        assert!((32_000..48_000).contains(&waiting), "{waiting}");
        link.now += Duration::from_secs(2);
        link.say(0, &message(KEEPALIVE, &[]));
        link.session.tick(link.now);
    }
    link.perform();
    assert!(matches!(
        link.session.status().last_error,
        Some((_, Fault::SendHold(_)))
    ));
    assert_eq!(link.state(), State::Active);
}

#[test]
fn a_refresh_is_answered_with_everything_of_the_family() {
    let mut link = Link::up(peer(), routes(1_000));
    link.router().held.clear();
    link.say(0, &message(5, &[0, 2, 0, 1]));
    link.settle();
    assert_eq!(link.router().held.len(), 0);
    link.say(0, &message(5, &[0, 1, 0, 1]));
    link.settle();
    assert_eq!((link.router().held.len(), link.router().ends_of_rib), (1_000, 2));
}

fn listening() -> Peer {
    Peer {
        opening: Opening::DialAndListen,
        ..peer()
    }
}

#[test]
fn of_two_connections_one_is_kept() {
    // (router id of the router, which connection stays)
    for (router_id, stays) in [([10, 0, 0, 99], Origin::Accepted), ([9, 0, 0, 1], Origin::Dialled)] {
        for first in [Origin::Dialled, Origin::Accepted] {
            let mut link = Link::new(listening(), routes(3));
            link.open = open_message(64512, 9, router_id.into(), &capabilities(64512));
            link.perform();
            let accepted = link.connect(Origin::Accepted).unwrap();
            let dialled = 1 - accepted;
            let order = if first == Origin::Dialled {
                [dialled, accepted]
            } else {
                [accepted, dialled]
            };
            // Both OPENs cross before either side says more.
            let open = link.open.clone();
            link.open.clear();
            order.iter().for_each(|slot| link.say(*slot, &open));
            link.settle();
            link.pass(2.1, false);
            let kept = if stays == Origin::Dialled { dialled } else { accepted };
            assert!(link.routers[kept].is_some() && link.routers[1 - kept].is_none());
            assert_eq!(
                (link.state(), link.last_words()),
                (State::Established, &[(6, 7, vec![])][..])
            );
            assert_eq!(link.router().held.len(), 3);
            assert_eq!(link.session.status().last_error, None);
        }
    }
}

#[test]
fn a_second_connection_does_not_disturb_a_session() {
    let mut link = Link::up(listening(), routes(3));
    let slot = link.connect(Origin::Accepted).unwrap();
    link.settle();
    assert!(link.routers[slot].is_none() && link.state() == State::Established);
    assert_eq!(link.last_words(), [(6, 7, vec![])]);
    // Silent ones replace each other.
    for _ in 0..5 {
        assert!(link.session.connected(link.now, Origin::Accepted, local()).is_some());
        while link.session.poll().is_some() {}
    }
    assert_eq!(link.state(), State::Established);
    // A peer that does not want it is not listened to.
    let mut link = Link::up(peer(), routes(3));
    assert_eq!(link.connect(Origin::Accepted), None);
}

#[test]
fn a_router_that_restarts_replaces_its_session() {
    let peer = Peer {
        opening: Opening::DialAndListen,
        ..graceful_peer()
    };
    let mut link = graceful(Link::new(peer, routes(3)));
    let slot = link.connect(Origin::Accepted).unwrap();
    link.settle();
    assert!(link.routers[slot].is_some() && link.routers[1 - slot].is_none());
    link.pass(2.1, false);
    assert_eq!((link.state(), link.router().held.len()), (State::Established, 3));
    assert!(link.last_words().is_empty());
}

#[test]
fn who_only_listens_never_dials() {
    let peer = Peer {
        opening: Opening::Listen,
        ..peer()
    };
    let mut link = Link::new(peer, routes(3));
    link.pass(100.0, false);
    assert_eq!((link.dials.len(), link.state()), (0, State::Active));
    link.connect(Origin::Accepted).unwrap();
    link.settle();
    assert_eq!((link.state(), link.router().held.len()), (State::Established, 3));
}

#[test]
fn an_external_session_is_seen_as_one() {
    let external = Peer {
        remote_asn: RemoteAsn::External,
        ..peer()
    };
    let mut link = Link::new(external, routes(1));
    link.open = open_message(4_200_000_000, 9, ROUTER_ID, &capabilities(4_200_000_000));
    link.settle();
    assert_eq!(link.state(), State::Established);
    let said = link.router().held.values().next().unwrap().clone();
    assert_eq!((said.as_path, said.local_pref), (vec![64512], None));
    assert_eq!(link.session.status().negotiated.as_ref().unwrap().asn, 4_200_000_000);
}

#[test]
fn received_routes_are_counted_and_dropped() {
    let mut link = Link::up(peer(), hosts(false, 1, &Attributes::default()));
    // ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF.
    let attributes = [64, 1, 1, 0, 64, 2, 0, 64, 3, 4, 192, 0, 2, 9, 64, 5, 4, 0, 0, 0, 100];
    let update = |attributes: &[u8], nlri: &[u8]| {
        let length = (attributes.len() as u16).to_be_bytes();
        message(2, &[&[0, 0], &length[..], attributes, nlri].concat())
    };
    let nlri: Vec<u8> = (0..=255_u8).flat_map(|n| [24, 10, 1, n]).collect();
    for _ in 0..100 {
        link.say(0, &update(&attributes, &nlri));
    }
    // A bad ORIGIN: the routes count as withdrawn (RFC 7606 section 7.1).
    link.say(
        0,
        &update(&[&[64, 1, 1, 9], &attributes[4..]].concat(), &[24, 10, 1, 1]),
    );
    link.say(0, &message(2, &[0, 4, 24, 10, 1, 1, 0, 0]));
    let inbound = link.session.status().inbound;
    assert_eq!(
        (inbound.announced, inbound.withdrawn, inbound.as_withdrawn),
        (25_601, 1, 1)
    );
    assert_eq!(
        (link.state(), link.session.status().received.update),
        (State::Established, 102)
    );
}

#[test]
fn the_password_is_nowhere_to_be_read() {
    let mut secret = peer();
    secret.password = Some(Password::new(b"hunter2-hunter2").unwrap());
    let mut link = Link::up(secret.clone(), routes(1));
    let wanted = ferrolb_bgp::WantedPeer {
        peer: Arc::new(secret.clone()),
        routes: routes(1),
    };
    let diff = secret.diff(&peer());
    link.session.reconfigure(link.now, Arc::new(peer()));
    let texts = [
        format!("{secret:?} {secret:#?}"),
        format!("{wanted:?} {wanted:#?} {diff:?}"),
        format!("{:?} {:#?}", link.session, link.session.status()),
        link.session.status().last_error.as_ref().unwrap().1.to_string(),
        format!("{:?}", Password::new(&[b'x'; 99]).unwrap_err()),
    ];
    for text in texts {
        assert!(!text.contains("hunter2") && !text.contains("104, 117, 110"), "{text}");
    }
    assert_eq!(SLOTS, 2);
    let shown = Notification {
        code: 6,
        subcode: 2,
        text: Some("\u{1b}[31m\n".to_owned()),
    };
    assert_eq!(shown.to_string(), "Administrative Shutdown (6/2): \"\\u{1b}[31m\\n\"");
}
