//! Routers that insist on dialling: whom the engine lets in, and what becomes of two connections at once.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use ferrolb_bgp::engine::Config;
use ferrolb_bgp::settings::{Opening, Password, Reach};
use ferrolb_bgp::status::Fault;
use ferrolb_bgp::{Peer, State};
use ferrolb_netns::{Lab, NODE, ROUTER, ip};
use socket2::{Domain, Socket, Type};

use crate::bird::Bird;
use crate::engine::Engine;
use crate::frr::Frr;
use crate::make::{external, peer, routes};
use crate::unnumbered::two_alike;

/// One that nobody may keep us from.
const PORT: u16 = 1790;

fn engine(lab: &Lab) -> Engine {
    let config = Config {
        port: PORT,
        ..Config::default()
    };
    Engine::start(&lab.node, config)
}

/// FRR dials every second; so do we.
#[test]
fn frr_and_we_dial_at_the_same_moment() {
    let Some(lab) = Lab::new() else { return };
    let mut neighbours = String::new();
    for (address, remote_as) in [(NODE[0], 64512), (NODE[1], 64513)] {
        neighbours += &format!(
            " neighbor {address} remote-as {remote_as}\n neighbor {address} port {PORT}\n neighbor {address} timers connect 1\n \
             neighbor {address} password s3cret\n address-family ipv4 unicast\n  neighbor {address} activate\n \
             exit-address-family\n address-family ipv6 unicast\n  neighbor {address} activate\n exit-address-family\n"
        );
    }
    let frr = Frr::start(&lab, &neighbours);
    let password = Some(Password::new(b"s3cret").unwrap());
    let both = |peer: Peer| Peer {
        opening: Opening::DialAndListen,
        password: password.clone(),
        ..peer
    };
    let (internal, external) = (both(peer(false)), both(external(true)));
    let mut engine = engine(&lab);
    for round in 1..=5 {
        engine.want(&[("internal", &internal), ("external", &external)], &routes(10, 10));
        for (name, from) in [("internal", NODE[0]), ("external", NODE[1])] {
            engine.established(name);
            frr.has(from, if name == "internal" { "ipv4" } else { "ipv6" }, 10);
            assert_eq!(
                engine.status(name).established,
                1,
                "round {round}: {:?}",
                engine.status(name)
            );
        }
        engine.want(&[], &routes(0, 0));
        frr.vtysh("clear bgp *");
    }
}

/// A router that counts hops wants the answer to its first packet to have made none.
#[test]
fn frr_dials_with_ttl_security() {
    let Some(lab) = Lab::new() else { return };
    let neighbours = format!(
        " neighbor {0} remote-as 64513\n neighbor {0} port {PORT}\n neighbor {0} timers connect 1\n \
         neighbor {0} ttl-security hops 1\n address-family ipv4 unicast\n  neighbor {0} activate\n exit-address-family\n",
        NODE[0]
    );
    let frr = Frr::start(&lab, &neighbours);
    let mut engine = engine(&lab);
    let secured = Peer {
        opening: Opening::Listen,
        reach: Reach::Secured { hops: 1 },
        ..external(false)
    };
    engine.want(&[("frr", &secured)], &routes(10, 0));
    engine.established("frr");
    frr.has(NODE[0], "ipv4", 10);
}

/// Whether a connection from this address is told anything before it ends.
fn is_told_anything(from: Ipv4Addr, to: SocketAddr) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // An end, or a reset of the connection, is nothing.
    stream.read(&mut [0; 19]).is_ok_and(|octets| octets > 0)
}

#[test]
fn strangers_are_told_nothing() {
    let Some(lab) = Lab::new() else { return };
    lab.host.ip("addr add 10.99.0.77/24 dev eth0");
    let mut engine = engine(&lab);
    let listening = Peer {
        opening: Opening::Listen,
        ..peer(false)
    };
    let dialling = Peer {
        address: ip("10.99.0.78"),
        ..peer(false)
    };
    lab.host.ip("addr add 10.99.0.78/24 dev eth0");
    engine.want(&[("listening", &listening), ("dialling", &dialling)], &routes(1, 1));
    engine.until("listening", "listening", |status| status.state == State::Active);
    let to: SocketAddr = format!("{}:{PORT}", NODE[0]).parse().unwrap();
    let told = |from: &str| {
        let from = from.parse().unwrap();
        lab.host.run(move || is_told_anything(from, to))
    };
    assert!(told(ROUTER[0]), "the router gets an OPEN");
    assert!(!told("10.99.0.77"), "nobody's address");
    assert!(!told("10.99.0.78"), "a router that we dial");
}

/// The same address at the other end of two links, with a key for each.
#[test]
fn bird_dials_over_two_links_with_a_key_for_each() {
    let Some(lab) = Lab::new() else { return };
    two_alike(&lab);
    let protocol = |name: &str, interface: &str, key: &str| {
        format!(
            "protocol bgp {name} {{\n  local fe80::9 as 64512;\n  neighbor fe80::1%{interface} port {PORT} as 64513;\n  \
             password \"{key}\";\n  hold time 9;\n  connect delay time 0;\n  connect retry time 1;\n  error wait time 1, 2;\n  \
             ipv4 {{ import all; export none; extended next hop on; }};\n  ipv6 {{ import all; export none; }};\n}}\n"
        )
    };
    let protocols = protocol("one", "eth0", "first") + &protocol("two", "eth1", "second");
    let bird = Bird::start(&lab, &protocols);
    let mut engine = engine(&lab);
    let on = |interface: &str, key: &str| Peer {
        address: ip("fe80::9"),
        interface: Some(interface.to_owned()),
        opening: Opening::Listen,
        password: Some(Password::new(key.as_bytes()).unwrap()),
        ..external(true)
    };
    let over_global = Peer {
        opening: Opening::Listen,
        ..external(true)
    };
    let (one, two) = (on("eth0", "first"), on("eth1", "second"));
    engine.want(
        &[("global", &over_global), ("one", &one), ("two", &two)],
        &routes(10, 10),
    );
    for name in ["one", "two"] {
        engine.established(name);
        bird.has(name, 10, 10);
    }
    let deaf = |s: &ferrolb_bgp::Status| matches!(s.last_error, Some((_, Fault::Listen(_))));
    assert!(
        !deaf(&engine.status("global")),
        "listeners of links do not stand in the way of the others"
    );
}

#[test]
fn a_port_that_cannot_be_had_is_told() {
    let Some(lab) = Lab::new() else { return };
    let mut engine = Engine::start(&lab.node, Config::default());
    let listening = Peer {
        opening: Opening::Listen,
        ..peer(false)
    };
    engine.want(&[("router", &listening)], &routes(1, 1));
    let status = engine.until("router", "deaf", |s| {
        matches!(s.last_error, Some((_, Fault::Listen(_))))
    });
    let error = status.last_error.as_ref().unwrap().1.to_string();
    assert!(
        error.contains("port 179") && error.contains("CAP_NET_BIND_SERVICE"),
        "{error}"
    );
}
