//! The engine against real routers: FRR, BIRD and GoBGP, each in namespaces of its own.
//!
//! Needs permission to make namespaces, `ip`, and the Debian packages `frr`, `bird2` and `gobgpd`; without the
//! permission each test says that it was skipped.

mod bird;
mod engine;
mod frr;
mod gobgp;
mod listening;
mod make;
mod unnumbered;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_bgp::engine::Config;
use ferrolb_bgp::proto::Notification;
use ferrolb_bgp::session::Leave;
use ferrolb_bgp::settings::{GracefulRestart, Opening, Password, Reach};
use ferrolb_bgp::status::Fault;
use ferrolb_bgp::{Attributes, Peer, Phase, Routes, State};
use ferrolb_netns::{Lab, NODE, ROUTER, eventually, ip};

use engine::Engine;
use frr::{Frr, internal, neighbour};
use make::{drain, external, peer, routes};

#[test]
fn frr_holds_both_families_over_either_transport() {
    let Some(lab) = Lab::new() else { return };
    let neighbours = internal(&[]) + &neighbour(NODE[1], "64512", &["neighbor @ capability extended-nexthop"]);
    let frr = Frr::start(&lab, &neighbours);
    let mut engine = Engine::start(&lab.node, Config::default());
    let (over_v4, over_v6) = (peer(false), peer(true));
    let both = [("v4", &over_v4), ("v6", &over_v6)];
    engine.want(&both, &routes(10_000, 500));
    for (name, from) in [("v4", NODE[0]), ("v6", NODE[1])] {
        let status = engine.until(name, "told", |s| s.told == 10_500);
        assert!(status.refused.is_empty() && status.local == Some(ip(from)));
        frr.has(from, "ipv4", 10_000);
        frr.has(from, "ipv6", 500);
    }
    let path = |prefix: &str, from: &str| frr.path(prefix, from).unwrap();
    let v4 = path("172.16.0.5/32", NODE[0]);
    assert_eq!((&v4["locPrf"], &v4["metric"]), (&150.into(), &7.into()));
    assert_eq!(v4["community"]["string"], "64512:100");
    assert_eq!(v4["largeCommunity"]["string"], "64512:1:2");
    assert_eq!(v4["nexthops"][0]["ip"], NODE[0]);
    assert_eq!(path("fd00::5/128", NODE[0])["nexthops"][0]["ip"], NODE[1]);
    // RFC 8950.
    assert_eq!(path("172.16.0.5/32", NODE[1])["nexthops"][0]["ip"], NODE[1]);

    engine.want(&both, &routes(5_000, 250));
    frr.has(NODE[0], "ipv4", 5_000);
    frr.has(NODE[1], "ipv4", 5_000);
    frr.has(NODE[1], "ipv6", 250);
    // A route's attributes change on running sessions.
    let mut changed = Routes::clone(&routes(5_000, 250));
    let prefix = "172.16.0.5/32";
    changed = changed
        .iter()
        .filter(|(p, _)| p.to_string() != prefix)
        .map(|(p, a)| (*p, Attributes::clone(a)))
        .collect();
    changed.insert(prefix.parse().unwrap(), Attributes::default());
    let before = engine.status("v4").sent.update;
    engine.want(&both, &Arc::new(changed));
    eventually("the new attributes", || {
        (path(prefix, NODE[0])["locPrf"] == 100).then_some(())
    });
    assert_eq!(
        engine.until("v4", "counted", |s| s.sent.update > before).sent.update,
        before + 1
    );
    frr.vtysh("clear bgp * soft in");
    engine.until("v6", "asked again", |s| s.received.refresh >= 2);
    frr.has(NODE[0], "ipv4", 5_000);
    for from in NODE {
        assert_eq!(frr.neighbour(from)["connectionsEstablished"], 1);
    }
}

#[test]
fn frr_and_a_password() {
    let Some(lab) = Lab::new() else { return };
    let neighbours =
        internal(&["neighbor @ password s3cret"]) + &neighbour(NODE[1], "64512", &["neighbor @ password s3cret"]);
    let frr = Frr::start(&lab, &neighbours);
    let mut engine = Engine::start(&lab.node, Config::default());
    let with = |v6: bool, key: Option<&str>| Peer {
        password: key.map(|key| Password::new(key.as_bytes()).unwrap()),
        ..peer(v6)
    };
    engine.want(
        &[
            ("v4", &with(false, Some("s3cret"))),
            ("v6", &with(true, Some("s3cret"))),
        ],
        &routes(3, 3),
    );
    engine.established("v4");
    engine.established("v6");
    frr.has(NODE[0], "ipv4", 3);
    frr.has(NODE[1], "ipv6", 3);
    // The router resets the session when its key changes; with the right one it comes back.
    frr.configure(&format!("neighbor {} password other", NODE[0]));
    engine.until("v4", "lost", |s| s.state != State::Established);
    engine.want(
        &[("v4", &with(false, Some("other"))), ("v6", &with(true, Some("s3cret")))],
        &routes(3, 3),
    );
    engine.established("v4");
    assert_eq!(engine.status("v6").established, 1);
    // A key that is wrong, or missing, comes to nothing; a lost connection attempt takes its time.
    for key in [None, Some("wrong")] {
        engine.want(
            &[("v4", &with(false, key)), ("v6", &with(true, Some("s3cret")))],
            &routes(3, 3),
        );
        let status = engine.until("v4", "refused", |s| {
            s.negotiated.is_none() && matches!(s.last_error, Some((_, Fault::ConnectTimeout | Fault::Connect(_))))
        });
        assert_ne!(status.state, State::Established);
        engine.want(&[("v6", &with(true, Some("s3cret")))], &routes(3, 3));
    }
    assert_eq!(engine.status("v6").established, 1);
}

#[test]
fn frr_does_not_see_another_engine() {
    let Some(lab) = Lab::new() else { return };
    let neighbours = internal(&["neighbor @ password s3cret"]) + &neighbour(NODE[1], "64512", &[]);
    let frr = Frr::start(&lab, &neighbours);
    let signed = Peer {
        password: Some(Password::new(b"s3cret").unwrap()),
        ..peer(false)
    };
    let other = Peer {
        hold_time: 12,
        ..peer(true)
    };
    let mut engine = Engine::start(&lab.node, Config::default());
    engine.want(&[("v4", &signed), ("v6", &peer(true))], &routes(3_000, 30));
    for (name, from) in [("v4", NODE[0]), ("v6", NODE[1])] {
        engine.established(name);
        frr.has(from, "ipv4", 3_000);
        frr.has(from, "ipv6", 30);
    }
    let version = || frr.vtysh("show bgp ipv4 unicast summary json");
    let table = |text: &str| {
        text.lines()
            .find(|line| line.contains("tableVersion"))
            .map(str::to_owned)
    };
    let before = table(&version());
    for _ in 0..5 {
        engine = Engine::going_on(&lab.node, Config::default(), engine.lend());
        engine.want(&[("v4", &signed), ("v6", &peer(true))], &routes(3_000, 30));
        for name in ["v4", "v6"] {
            let status = engine.until(name, "told", |s| s.told == 3_030);
            assert_eq!((status.established, status.sent.update), (1, 0));
        }
    }
    // Longer than the hold time of nine seconds: both keep it alive.
    engine.until("v4", "kept alive", |s| s.received.keepalive > 2 && s.sent.keepalive > 2);
    assert!(before.is_some() && table(&version()) == before);
    // The settings of one have changed meanwhile: it begins anew, the other one does not notice.
    engine = Engine::going_on(&lab.node, Config::default(), engine.lend());
    engine.want(&[("v4", &signed), ("v6", &other)], &routes(2_000, 30));
    frr.has(NODE[0], "ipv4", 2_000);
    engine.until("v6", "told", |s| s.told == 2_030);
    let times = NODE.map(|from| frr.neighbour(from)["connectionsEstablished"].clone());
    assert_eq!(times, [1, 2]);
}

#[test]
fn frr_and_how_far_it_is() {
    let Some(lab) = Lab::new() else { return };
    let secured = ["neighbor @ ttl-security hops 1"];
    let neighbours = neighbour(NODE[0], "64513", &secured) + &neighbour(NODE[1], "64513", &secured);
    let frr = Frr::start(&lab, &neighbours);
    let mut engine = Engine::start(&lab.node, Config::default());
    let at = |v6: bool, reach: Reach| Peer { reach, ..external(v6) };
    let near = Reach::Secured { hops: 1 };
    engine.want(&[("v4", &at(false, near)), ("v6", &at(true, near))], &routes(3, 3));
    engine.established("v4");
    engine.established("v6");
    frr.has(NODE[0], "ipv4", 3);
    assert_eq!(frr.path("172.16.0.1/32", NODE[0]).unwrap()["aspath"]["string"], "64513");
    // A plain TTL of 1 is not let in, on a running session either.
    engine.want(
        &[("v4", &at(false, Reach::Direct)), ("v6", &at(true, near))],
        &routes(3, 3),
    );
    engine.until("v4", "unheard", |s| match &s.last_error {
        Some((_, Fault::Sent(n) | Fault::Received(n))) => n.code == Notification::HOLD_TIMER,
        _ => false,
    });
    assert_eq!(engine.status("v6").established, 1);
}

#[test]
fn frr_over_several_hops() {
    let Some(lab) = Lab::new() else { return };
    lab.host.ip("addr add 10.200.0.9/32 dev lo");
    lab.node.ip("addr add 10.200.0.1/32 dev lo");
    lab.node.ip("route add 10.200.0.9/32 via 10.99.0.9");
    lab.host.ip("route add 10.200.0.1/32 via 10.99.0.1");
    let lines = [
        "neighbor @ ebgp-multihop 4",
        "neighbor @ update-source 10.200.0.9",
        "neighbor @ timers 0 0",
    ];
    let frr = Frr::start(&lab, &neighbour("10.200.0.1", "64513", &lines));
    let mut engine = Engine::start(&lab.node, Config::default());
    let far = Peer {
        address: ip("10.200.0.9"),
        source: Some(ip("10.200.0.1")),
        reach: Reach::MultiHop,
        hold_time: 0,
        ..external(false)
    };
    engine.want(&[("far", &far)], &routes(3, 0));
    let status = engine.established("far");
    assert_eq!(status.negotiated.as_ref().unwrap().hold_time, 0);
    frr.has("10.200.0.1", "ipv4", 3);
    // An address this node does not have is said to be the reason.
    let elsewhere = Peer {
        source: Some(ip("10.200.0.2")),
        ..far
    };
    engine.want(&[("far", &elsewhere)], &routes(3, 0));
    let status = engine.until("far", "refused", |s| {
        matches!(s.last_error, Some((_, Fault::Connect(_))))
    });
    let error = status.last_error.as_ref().unwrap().1.to_string();
    assert!(
        error.starts_with("cannot connect: source address 10.200.0.2: "),
        "{error}"
    );
}

#[test]
fn frr_comes_back() {
    let Some(lab) = Lab::new() else { return };
    let mut frr = Frr::start(&lab, &internal(&[]));
    let mut engine = Engine::start(&lab.node, Config::default());
    engine.want(&[("frr", &peer(false))], &routes(100, 10));
    frr.has(NODE[0], "ipv4", 100);
    frr.kill_bgpd();
    let status = engine.until("frr", "lost", |s| s.state != State::Established);
    assert!(status.last_error.is_some() && status.told == 0);
    frr.start_bgpd();
    engine.established("frr");
    frr.has(NODE[0], "ipv4", 100);
    frr.configure(&format!("neighbor {} shutdown message until noon", NODE[0]));
    let told = |s: &ferrolb_bgp::Status| {
        s.last_error
            .as_ref()
            .is_some_and(|(_, fault)| fault.to_string().contains("until noon"))
    };
    engine.until("frr", "told why", told);
    frr.configure(&format!("no neighbor {} shutdown", NODE[0]));
    engine.established("frr");
    engine.bfd.try_send("frr".to_owned()).unwrap();
    eventually("the reason of BFD", || frr.was_notified("BFD Down").then_some(()));
    engine.established("frr");
    frr.has(NODE[0], "ipv4", 100);
}

#[test]
fn frr_keeps_routes_over_a_restart() {
    let Some(lab) = Lab::new() else { return };
    let frr = Frr::start(&lab, &internal(&[]));
    let kept = Peer {
        graceful_restart: Some(GracefulRestart { restart_time: 60 }),
        ..peer(false)
    };
    let mut engine = Engine::start(&lab.node, Config::default());
    engine.want(&[("frr", &kept)], &routes(100, 10));
    assert!(engine.established("frr").negotiated.as_ref().unwrap().graceful_restart);
    frr.has(NODE[0], "ipv4", 100);
    let held = || frr.vtysh("show bgp ipv4 unicast").matches("172.16.").count();
    let stale = || {
        frr.vtysh("show bgp ipv4 unicast")
            .lines()
            .filter(|line| line.starts_with("S>"))
            .count()
    };
    engine.crash();
    eventually("all are stale", || (stale() == 100).then_some(()));
    let restarted = Config {
        restarted_for: Duration::from_secs(60),
        ..Config::default()
    };
    let mut engine = Engine::start(&lab.node, restarted);
    engine.want(&[("frr", &kept)], &routes(60, 10));
    engine.established("frr");
    eventually("only what is wanted is left", || {
        (held() == 60 && stale() == 0).then_some(())
    });
    // The same on purpose.
    engine.phase.send_replace(Phase::Leave(Leave::Restart));
    engine.left();
    eventually("all are stale", || (stale() == 60).then_some(()));
    // To drain is something else: nothing is left, although the router would keep it.
    let mut engine = Engine::start(&lab.node, restarted);
    engine.want(&[("frr", &kept)], &routes(60, 10));
    engine.established("frr");
    eventually("all are back", || (held() == 60 && stale() == 0).then_some(()));
    engine.phase.send_replace(drain(1, "node drained"));
    eventually("they are marked", || {
        let path = frr.path("172.16.0.5/32", NODE[0])?;
        path["community"]["string"]
            .as_str()?
            .contains("graceful-shutdown")
            .then_some(())
    });
    engine.left();
    eventually("nothing is left", || (held() == 0).then_some(()));
    let text = eventually("the text", || {
        frr.neighbour(NODE[0])["lastShutdownDescription"]
            .as_str()
            .map(str::to_owned)
    });
    assert_eq!(text, "node drained");
    // A peer that is no longer wanted keeps nothing either.
    let mut engine = Engine::start(&lab.node, restarted);
    engine.want(&[("frr", &kept)], &routes(60, 10));
    engine.established("frr");
    eventually("all are back", || (held() == 60).then_some(()));
    engine.want(&[], &routes(0, 0));
    eventually("nothing is left", || (held() == 0).then_some(()));
    // And a SIGKILL without graceful restart loses them at once.
    let mut engine = Engine::start(&lab.node, Config::default());
    engine.want(&[("frr", &peer(false))], &routes(60, 10));
    engine.established("frr");
    eventually("all are back", || (held() == 60).then_some(()));
    engine.crash();
    eventually("nothing is left", || (held() == 0).then_some(()));
}

#[test]
fn bird_in_every_role() {
    let Some(lab) = Lab::new() else { return };
    let mut bird = bird::Bird::start(
        &lab,
        &bird::protocol("v6", NODE[1], "passive yes; password \"s3cret\";"),
    );
    let mut engine = Engine::start(
        &lab.node,
        Config {
            port: 1790,
            ..Config::default()
        },
    );
    let dialled = Peer {
        password: Some(Password::new(b"s3cret").unwrap()),
        ..peer(true)
    };
    engine.want(&[("bird", &dialled)], &routes(1_000, 100));
    engine.established("bird");
    bird.has("v6", 1_000, 100);
    let route = bird.birdc("show route 172.16.0.5/32 all");
    for part in [
        "BGP.next_hop: fd99::1",
        "BGP.local_pref: 150",
        "(64512,100)",
        "(64512, 1, 2)",
    ] {
        assert!(route.contains(part), "{part}: {route}");
    }
    engine.want(&[("bird", &dialled)], &routes(10, 100));
    bird.has("v6", 10, 100);
    assert_eq!(engine.status("bird").established, 1);

    // BIRD dials, we only listen; then both do.
    for (opening, passive) in [
        (Opening::Listen, "no"),
        (Opening::DialAndListen, "no"),
        (Opening::DialAndListen, "yes"),
    ] {
        let options = format!("passive {passive}; password \"s3cret\"; connect delay time 0; connect retry time 1;");
        let listening = Peer {
            opening,
            ..dialled.clone()
        };
        engine.want(&[], &routes(0, 0));
        bird = bird.restart(&bird::protocol_to("v6", NODE[1], 1790, &options));
        engine.want(&[("bird", &listening)], &routes(10, 10));
        engine.established("bird");
        bird.has("v6", 10, 10);
    }
    engine.phase.send_replace(drain(0, "node drained"));
    engine.left();
    let state = bird.birdc("show protocols all v6");
    assert!(state.contains("node drained"), "{state}");
}

#[test]
fn bird_by_its_link_local_address() {
    let Some(lab) = Lab::new() else { return };
    lab.node.ip("addr add fe80::1/64 dev eth0 nodad");
    lab.host.ip("addr add fe80::9/64 dev eth0 nodad");
    let protocol = bird::protocol("ll", "fe80::1%eth0", "passive yes;").replace(ROUTER[1], "fe80::9");
    let bird = bird::Bird::start(&lab, &protocol);
    let mut engine = Engine::start(&lab.node, Config::default());
    let scoped = Peer {
        address: ip("fe80::9"),
        interface: Some("eth0".to_owned()),
        source: Some(ip("fe80::1")),
        ..peer(true)
    };
    let elsewhere = Peer {
        interface: Some("eth7".to_owned()),
        ..scoped.clone()
    };
    engine.want(&[("bird", &elsewhere)], &routes(10, 10));
    let status = engine.until("bird", "refused", |s| s.last_error.is_some());
    let error = status.last_error.as_ref().unwrap().1.to_string();
    assert!(error.starts_with("cannot connect: interface eth7: "), "{error}");
    engine.want(&[("bird", &scoped)], &routes(10, 10));
    engine.established("bird");
    bird.has("ll", 10, 10);
    let route = bird.birdc("show route 172.16.0.5/32 all");
    assert!(route.contains("via fe80::1 on eth0"), "{route}");
}

#[test]
fn gobgp_takes_what_it_is_told() {
    let Some(lab) = Lab::new() else { return };
    let gobgp = gobgp::Gobgp::start(&lab, "s3cret");
    let mut engine = Engine::start(&lab.node, Config::default());
    let peer = Peer {
        password: Some(Password::new(b"s3cret").unwrap()),
        // Bound to a device as to a VRF, of which this kernel may have none.
        vrf: Some("eth0".to_owned()),
        ..external(false)
    };
    let elsewhere = Peer {
        vrf: Some("red".to_owned()),
        ..peer.clone()
    };
    engine.want(&[("gobgp", &elsewhere)], &routes(0, 0));
    let status = engine.until("gobgp", "refused", |s| s.last_error.is_some());
    let error = status.last_error.as_ref().unwrap().1.to_string();
    assert!(error.starts_with("cannot connect: VRF red: "), "{error}");
    engine.want(&[("gobgp", &peer)], &routes(1_000, 100));
    engine.established("gobgp");
    gobgp.has("ipv4", 1_000);
    gobgp.has("ipv6", 100);
    engine.want(&[("gobgp", &peer)], &routes(500, 100));
    gobgp.has("ipv4", 500);
    let shown = gobgp.run(&["global", "rib", "172.16.0.5/32"]);
    for part in [NODE[0], "64513", "64512:100", "64512:1:2"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(engine.status("gobgp").established, 1);
}

/// Two engines: the one dials, the other listens.
#[test]
fn a_key_is_exchanged_on_a_running_session() {
    let Some(lab) = Lab::new() else { return };
    let config = Config {
        port: 1790,
        ..Config::default()
    };
    let mut node = Engine::start(&lab.node, Config::default());
    let mut host = Engine::start(&lab.host, config);
    let with = |key: &str| {
        let password = Some(Password::new(key.as_bytes()).unwrap());
        let dialling = Peer {
            port: 1790,
            password: password.clone(),
            ..peer(false)
        };
        let listening = Peer {
            address: ip(NODE[0]),
            router_id: Ipv4Addr::new(10, 0, 0, 9),
            opening: Opening::Listen,
            password,
            ..peer(false)
        };
        (dialling, listening)
    };
    let (dialling, listening) = with("first");
    host.want(&[("node", &listening)], &routes(3, 3));
    node.want(&[("host", &dialling)], &routes(5, 5));
    node.until("host", "told", |s| s.told == 10 && s.inbound.announced == 6);
    host.until("node", "told", |s| s.told == 6 && s.inbound.announced == 10);

    let (dialling, listening) = with("second");
    host.want(&[("node", &listening)], &routes(3, 3));
    node.want(&[("host", &dialling)], &routes(7, 7));
    // What is said with the new key is heard, by the same sessions.
    host.until("node", "told with the new key", |s| s.inbound.announced == 14);
    assert_eq!(
        (node.status("host").established, host.status("node").established),
        (1, 1)
    );

    // Settings that cannot be used are said to be so, and change nothing.
    let impossible = Peer {
        hold_time: 2,
        ..dialling.clone()
    };
    node.want(&[("host", &impossible), ("other", &impossible)], &routes(7, 7));
    for name in ["host", "other"] {
        let status = node.until(name, "refused", |s| {
            matches!(s.last_error, Some((_, Fault::Settings(_))))
        });
        assert_eq!(status.established, u64::from(name == "host"));
    }
    assert_eq!(node.status("host").state, State::Established);
    node.phase.send_replace(drain(0, "done"));
    node.left();
    host.until("node", "told why", |s| {
        s.last_error
            .as_ref()
            .is_some_and(|(_, f)| f.to_string().contains("done"))
    });
}
