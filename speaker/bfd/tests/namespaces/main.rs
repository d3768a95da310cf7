//! The driver against FRR and BIRD, over real sockets. Needs root, frr and bird2; without the right to make namespaces
//! the tests say so and pass.

mod bird;
mod driver;
mod frr;
mod process;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use ferrolb_bfd::packet::Malformed;
use ferrolb_bfd::{Cause, Fault, Path, Reason, Settings, State, Status};
use ferrolb_netns::{Lab, NODE, ROUTER, eventually, ip};
use nix::sys::signal::Signal;

use bird::Bird;
use driver::{Driver, every};
use frr::{Frr, peer};
use process::OtherProcess;

fn router(family: usize) -> Path {
    Path::new(ip(ROUTER[family]))
}

/// The router by its link-local address.
fn near(address: &str) -> Path {
    Path {
        interface: Some("eth0".to_owned()),
        ..Path::new(ip(address))
    }
}

fn failed(status: &Status) -> bool {
    status.state != State::Up && status.failures == 1
}

#[test]
fn frr_over_one_hop() {
    let Some(lab) = Lab::new() else { return };
    let mut frr = Frr::start(&lab, &(peer(NODE[0], &[]) + &peer(NODE[1], &[])));
    let mut driver = Driver::start(&lab.node);
    let paths = [router(0), router(1)];
    let want = |driver: &Driver, settings| driver.want(&[(&paths[0], settings), (&paths[1], settings)]);
    want(&driver, every(150, 4));
    for (path, from) in paths.iter().zip(NODE) {
        driver.up(path);
        frr.until(from, "status", "up");
        frr.until(from, "remote-transmit-interval", 150);
        frr.until(from, "remote-receive-interval", 150);
        frr.until(from, "remote-detect-multiplier", 4);
        // The poll sequence that made it fast has ended.
        let agreed = |s: &Status| s.transmit_interval.as_millis() == 200 && s.detection_time.as_millis() == 600;
        let status = driver.until(path, "at full speed", agreed);
        assert_eq!(
            u64::from(status.remote_discriminator.unwrap().get()),
            frr.session(from)["id"].as_u64().unwrap()
        );
    }
    // Other intervals on either side, while Up.
    want(&driver, every(600, 3));
    for (path, from) in paths.iter().zip(NODE) {
        frr.until(from, "remote-transmit-interval", 600);
        let slower = |s: &Status| s.transmit_interval.as_millis() == 600 && s.detection_time.as_millis() == 1800;
        driver.until(path, "slower", slower);
    }
    want(&driver, every(100, 5));
    for (path, from) in paths.iter().zip(NODE) {
        frr.until(from, "remote-transmit-interval", 100);
        frr.configure(from, "transmit-interval 400");
        driver.until(path, "the router is slower", |s| s.detection_time.as_millis() == 1200);
        frr.configure(from, "receive-interval 90");
        driver.until(path, "the router is faster", |s| s.transmit_interval.as_millis() == 100);
    }
    for (path, from) in paths.iter().zip(NODE) {
        let status = driver.status(path);
        assert_eq!((status.ups, status.downs, frr.downs(from)), (1, 0, 0));
        assert_eq!(status.fault, None);
    }
    // Taken down by hand on the router: no failure.
    frr.configure(NODE[0], "shutdown");
    let status = driver.until(&paths[0], "down", |s| s.state == State::Down);
    assert_eq!(
        (status.failures, status.downs, status.remote_state),
        (0, 1, State::AdminDown)
    );
    assert_eq!(
        status.last_change.map(|change| change.cause),
        Some(Cause::NeighborAdminDown)
    );
    frr.configure(NODE[0], "no shutdown");
    driver.up(&paths[0]);
    // No longer wanted: the router is told so, and the other session does not notice.
    driver.want(&[(&paths[1], every(100, 5))]);
    frr.until(NODE[0], "status", "down");
    frr.until(NODE[0], "remote-diagnostic", "administratively down");
    want(&driver, every(100, 5));
    driver.until(&paths[0], "up again", |s| s.state == State::Up && s.ups == 3);
    // The router dies and comes back.
    frr.kill_bfdd();
    driver.until(&paths[0], "failed", failed);
    let status = driver.until(&paths[1], "failed", failed);
    assert_eq!(status.last_change.map(|change| change.cause), Some(Cause::Expired));
    frr.start_bfdd();
    driver.up(&paths[0]);
    assert_eq!((driver.up(&paths[1]).ups, driver.status(&paths[1]).failures), (2, 1));
}

#[test]
fn frr_does_not_see_another_driver() {
    let Some(lab) = Lab::new() else { return };
    let fast = ["receive-interval 100", "transmit-interval 100"];
    let frr = Frr::start(&lab, &(peer(NODE[0], &fast) + &peer(NODE[1], &fast)));
    let mut driver = Driver::start(&lab.node);
    let paths = [router(0), router(1)];
    let want = |driver: &Driver| driver.want(&[(&paths[0], every(100, 3)), (&paths[1], every(100, 3))]);
    want(&driver);
    let before = paths.each_ref().map(|path| {
        driver.up(path);
        driver
            .until(path, "at full speed", |s| s.detection_time.as_millis() == 300)
            .discriminator
    });
    for _ in 0..20 {
        driver = Driver::going_on(&lab.node, driver.lend());
        want(&driver);
        for (path, name) in paths.iter().zip(before) {
            let status = driver.until(path, "going on", |_| true);
            assert_eq!((status.state, status.discriminator), (State::Up, name));
            assert_eq!((status.downs, status.failures), (0, 0));
            let sent = driver.latest[path].counters.sent();
            eventually("it is heard and hears", || {
                (driver.latest[path].counters.sent() > sent + 3).then_some(())
            });
            assert_eq!(driver.status(path).state, State::Up);
        }
    }
    assert_eq!(NODE.map(|from| frr.downs(from)), [0, 0]);
    for (path, name) in paths.iter().zip(before) {
        assert_eq!(driver.up(path).discriminator, name);
    }
}

#[test]
fn frr_over_several_hops() {
    let Some(lab) = Lab::new() else { return };
    lab.host.ip("addr add 10.200.0.9/32 dev lo");
    lab.node.ip("addr add 10.200.0.1/32 dev lo");
    lab.node.ip("route add 10.200.0.9/32 via 10.99.0.9");
    lab.host.ip("route add 10.200.0.1/32 via 10.99.0.1");
    let frr = Frr::start(&lab, &peer("10.200.0.1 multihop local-address 10.200.0.9", &[]));
    let mut driver = Driver::start(&lab.node);
    let far = Path {
        local: Some(ip("10.200.0.1")),
        multi_hop: true,
        ..Path::new(ip("10.200.0.9"))
    };
    // The name of a session of another process, and one that is taken.
    driver.want_named(&[
        (&far, every(200, 3), Some(4242)),
        (&router(1), every(200, 3), Some(4242)),
    ]);
    assert_eq!(driver.up(&far).discriminator.get(), 4242);
    frr.until("10.200.0.1", "status", "up");
    frr.until("10.200.0.1", "remote-id", 4242);
    let status = driver.until(&router(1), "a fault", |s| {
        matches!(s.fault, Some(Fault::Discriminator { .. }))
    });
    assert_ne!(status.discriminator.get(), 4242);
    assert!(driver.latest[&far].counters.received() > 0 && driver.latest[&far].counters.sent() > 0);
}

#[test]
fn who_waits_for_whom() {
    let Some(lab) = Lab::new() else { return };
    let _frr = Frr::start(&lab, &(peer(NODE[0], &[]) + &peer(NODE[1], &["passive-mode"])));
    let mut driver = Driver::start(&lab.node);
    let passive = Settings {
        passive: true,
        ..every(200, 3)
    };
    let paths = [router(0), router(1)];
    driver.want(&[(&paths[0], passive), (&paths[1], every(200, 3))]);
    driver.up(&paths[0]);
    driver.up(&paths[1]);
}

#[test]
fn bird_over_one_hop_and_an_interface() {
    let Some(lab) = Lab::new() else { return };
    let (node, host) = (lab.node.link_local("eth0"), lab.host.link_local("eth0"));
    let lines = format!(
        "interface \"eth0\" {{ interval 200 ms; multiplier 3; }};\nneighbor {} dev \"eth0\";\nneighbor {node} dev \"eth0\";\n\
         neighbor {} dev \"eth0\";",
        NODE[0], NODE[1]
    );
    let bird = Bird::start(&lab, &lines);
    let mut driver = Driver::start(&lab.node);
    let paths = [router(0), router(1), near(&host)];
    let want = |driver: &Driver, settings| driver.want(&paths.each_ref().map(|path| (path, settings)));
    want(&driver, every(250, 6));
    for path in &paths {
        driver.up(path);
    }
    for from in [NODE[0], NODE[1], &node] {
        bird.until(from, "Up");
    }
    for (milliseconds, agreed) in [(400, 400), (150, 200)] {
        want(&driver, every(milliseconds, 6));
        for path in &paths {
            driver.until(path, "changed", |s| s.transmit_interval.as_millis() == agreed);
        }
    }
    for path in &paths {
        let status = driver.status(path);
        assert_eq!((status.ups, status.downs), (1, 0), "{path}: {status:?}");
    }
    bird.birdc("disable bfd1");
    for path in &paths {
        let status = driver.until(path, "down", |s| s.state == State::Down);
        assert_eq!(
            (status.ups, status.failures),
            (1, u64::from(status.remote_state != State::AdminDown))
        );
    }
}

/// A packet from another address would belong to the router's session with that.
#[test]
fn a_link_local_router_hears_the_link_local_address_alone() {
    let Some(lab) = Lab::new() else { return };
    let (node, host) = (lab.node.link_local("eth0"), lab.host.link_local("eth0"));
    let router = lab.host.run(|| UdpSocket::bind("[::]:3784")).unwrap();
    router.set_nonblocking(true).unwrap();
    lab.node.ip(&format!("addr del {node}/64 dev eth0"));
    let mut driver = Driver::start(&lab.node);
    let path = near(&host);
    driver.want(&[(&path, every(200, 3))]);
    let text = format!("cannot open a socket to {path}: eth0 has no link-local address");
    driver.until(&path, "without an address", |s| {
        s.fault.as_ref().is_some_and(|fault| fault.to_string() == text)
    });
    // For three seconds the kernel asks whether somebody else has it.
    for (name, value) in [("accept_dad", "1"), ("dad_transmits", "3")] {
        lab.node.write(&format!("/proc/sys/net/ipv6/conf/eth0/{name}"), value);
    }
    lab.node.ip(&format!("addr add {node}/64 dev eth0"));
    driver.until(&path, "refused by the kernel", |s| {
        matches!(s.fault, Some(Fault::Send { .. }))
    });
    let (_, from) = eventually("a packet", || router.recv_from(&mut [0; 64]).ok());
    assert_eq!(from.ip(), ip(&node));
    driver.until(&path, "without a fault", |s| s.fault.is_none());
}

#[test]
fn a_cut_is_seen_in_time() {
    let Some(lab) = Lab::new() else { return };
    let frr = Frr::start(&lab, &peer(NODE[0], &[]));
    let mut driver = Driver::start(&lab.node);
    driver.want(&[(&router(0), every(200, 3))]);
    driver.up(&router(0));
    driver.until(&router(0), "at full speed", |s| s.detection_time.as_millis() == 600);
    frr.until(NODE[0], "remote-transmit-interval", 200);
    lab.node.ip("link set eth0 down");
    let cut = Instant::now();
    let status = driver.until(&router(0), "failed", failed);
    let time = status.since - cut;
    eprintln!("seen after {time:?} of 600 ms since the last packet");
    assert!(time < Duration::from_millis(800), "{time:?}");
    let unsent = |s: &Status| matches!(s.fault, Some(Fault::Send { .. }));
    driver.until(&router(0), "a fault that names the path", unsent);
    lab.node.ip("link set eth0 up");
    let status = driver.up(&router(0));
    assert_eq!(status.fault, None);
}

#[test]
fn packets_of_strangers_do_nothing() {
    let Some(lab) = Lab::new() else { return };
    let _frr = Frr::start(&lab, &peer(NODE[0], &[]));
    let mut driver = Driver::start(&lab.node);
    driver.want(&[(&router(0), every(200, 3))]);
    let status = driver.up(&router(0));
    let mut down = [
        0x20, 0x40, 3, 24, 0, 0, 0, 9, 0, 0, 0, 0, 0, 15, 66, 64, 0, 15, 66, 64, 0, 0, 0, 0,
    ];
    let send = |data: &[u8], ttl: u32| {
        let data = data.to_vec();
        lab.host.run(move || {
            let socket = UdpSocket::bind((ROUTER[0], 0)).unwrap();
            socket.set_ttl(ttl).unwrap();
            socket.send_to(&data, (NODE[0], 3784)).unwrap();
        });
    };
    let mut seen = Vec::new();
    let mut sends = |data: &[u8], ttl, reason| {
        send(data, ttl);
        seen.push(reason);
    };
    // From behind a router, with the right discriminator and without.
    sends(&down, 254, Reason::Ttl);
    down[8..12].copy_from_slice(&status.discriminator.get().to_be_bytes());
    sends(&down, 254, Reason::Ttl);
    down[8] ^= 1;
    sends(&down, 255, Reason::UnknownDiscriminator);
    sends(&down[..20], 255, Reason::Malformed(Malformed::Truncated));
    down[1] |= 4;
    sends(&down, 255, Reason::Malformed(Malformed::Authentication));
    sends(&[0xff; 2000], 255, Reason::Malformed(Malformed::Truncated));
    for reason in Reason::ALL {
        let expected = seen.iter().filter(|seen| **seen == reason).count() as u64;
        eventually("counted", || {
            (driver.handle().drops().of(reason) == expected).then_some(())
        });
    }
    let status = driver.status(&router(0));
    assert_eq!((status.state, status.downs), (State::Up, 0));
}

#[test]
fn what_cannot_work_is_said() {
    let Some(lab) = Lab::new() else { return };
    let mut driver = Driver::start(&lab.node);
    let from = |local: &str| Path {
        local: Some(ip(local)),
        ..router(0)
    };
    let on = |interface: &str| Path {
        interface: Some(interface.to_owned()),
        ..router(0)
    };
    let cases = [
        (
            from("10.99.0.77"),
            "cannot open a socket to 10.99.0.9 from 10.99.0.77: ",
        ),
        (
            from(NODE[1]),
            "source address fd99::1: must be of the same family as the peer address 10.99.0.9",
        ),
        (
            Path::new(ip("fe80::1")),
            "peer address fe80::1 is link-local: needs an interface",
        ),
        (on("eth7"), "cannot open a socket to 10.99.0.9%eth7: "),
        (Path::new(ip("203.0.113.1")), "cannot send to 203.0.113.1: "),
    ];
    let wanted: Vec<_> = cases.iter().map(|(path, _)| (path, every(200, 3))).collect();
    driver.want(&wanted);
    for (path, text) in &cases {
        let said = |s: &Status| {
            s.fault
                .as_ref()
                .is_some_and(|fault| fault.to_string().starts_with(text))
        };
        driver.until(path, text, said);
    }
    // What is missing may come.
    lab.node.ip("link add eth7 type veth peer name eth8");
    driver.until(&on("eth7"), "without a fault", |s| s.fault.is_none());
    // A port that somebody else has.
    let other = Lab::new().unwrap();
    let taken = other.node.run(|| UdpSocket::bind("0.0.0.0:3784").unwrap());
    let mut driver = Driver::start(&other.node);
    driver.want(&[(&router(0), every(200, 3))]);
    driver.until(&router(0), "a fault", |s| {
        matches!(s.fault, Some(Fault::Receive { port: 3784, .. }))
    });
    drop(taken);
    driver.until(&router(0), "without a fault", |s| s.fault.is_none());
}

#[test]
fn a_process_is_killed() {
    let Some(lab) = Lab::new() else { return };
    let frr = Frr::start(&lab, &peer(NODE[0], &[]));
    let process = OtherProcess::start(&lab.node, ROUTER[0], 200, 3);
    frr.until(NODE[0], "status", "up");
    frr.until(NODE[0], "remote-transmit-interval", 200);
    let killed = Instant::now();
    drop(process);
    frr.until(NODE[0], "status", "down");
    let time = killed.elapsed();
    eprintln!("seen by the router after {time:?} of 600 ms since the last packet");
    assert!(time < Duration::from_millis(1200), "{time:?}");
    assert_eq!(frr.session(NODE[0])["diagnostic"], "control detection time expired");
    // The next one is another session to the router, and comes up.
    let _process = OtherProcess::start(&lab.node, ROUTER[0], 200, 3);
    frr.until(NODE[0], "status", "up");
}

#[test]
fn a_process_that_stands_still_for_a_while_takes_nothing_down() {
    let Some(lab) = Lab::new() else { return };
    let frr = Frr::start(
        &lab,
        &peer(
            NODE[0],
            &["receive-interval 700", "transmit-interval 150", "detect-multiplier 3"],
        ),
    );
    // Its own detection time is 450 ms, that of the router 2100 ms.
    let process = OtherProcess::start(&lab.node, ROUTER[0], 100, 3);
    frr.until(NODE[0], "status", "up");
    frr.until(NODE[0], "remote-transmit-interval", 100);
    for _ in 0..3 {
        process.signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(700));
        process.signal(Signal::SIGCONT);
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(frr.session(NODE[0])["status"], "up");
    assert_eq!(frr.downs(NODE[0]), 0);
    assert_eq!(process.downs(), 0);
}

/// For longer: `BFD_LOAD_SECONDS=600`.
#[test]
fn four_busy_loops() {
    let Some(lab) = Lab::new() else { return };
    let lines = ["receive-interval 50", "transmit-interval 50"];
    let frr = Frr::start(&lab, &(peer(NODE[0], &lines) + &peer(NODE[1], &lines)));
    let mut driver = Driver::start(&lab.node);
    let paths = [router(0), router(1)];
    driver.want(&[(&paths[0], every(50, 3)), (&paths[1], every(50, 3))]);
    for path in &paths {
        driver.until(path, "at full speed", |s| s.detection_time.as_millis() == 150);
    }
    let _loops: Vec<_> = (0..4)
        .map(|_| lab.node.start(&["sh", "-c", "while :; do :; done"]))
        .collect();
    let seconds = std::env::var("BFD_LOAD_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    std::thread::sleep(Duration::from_secs(seconds.unwrap_or(5)));
    for (path, from) in paths.iter().zip(NODE) {
        let status = driver.status(path);
        let (sent, received) = (
            driver.latest[path].counters.sent(),
            driver.latest[path].counters.received(),
        );
        eprintln!(
            "{path}: {} downs here, {} there, {sent} sent, {received} received",
            status.downs,
            frr.downs(from)
        );
        eprintln!(
            "{path}: failed {}; diagnostics: {} there",
            status.failures,
            frr.session(from)["remote-diagnostic"]
        );
    }
    for (path, from) in paths.iter().zip(NODE) {
        assert_eq!((driver.status(path).downs, frr.downs(from)), (0, 0));
    }
}
