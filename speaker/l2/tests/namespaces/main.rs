//! The engine against real kernels: a node and a client in network namespaces of their own.
//!
//! Needs permission to make namespaces, and `ip`, `arping` and `ndisc6`; without the permission each test says that it
//! was skipped. The engine itself always runs as nobody with CAP_NET_RAW alone.

mod lab;
mod links;
mod malformed;
mod probe;
mod roles;
mod segments;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ferrolb_l2::wire::{OwnedFrame, arp, ethernet, ndp};
use ferrolb_l2::{Fault, Mac, Reason, Report};
use lab::{CLIENT_MAC, Engine, Lab, NODE, STRANGER_MAC, Segment, eventually};

const V4: &str = "10.99.0.100";
const V6: &str = "fd99::100";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn no_faults(engine: &Engine) {
    let faults: Vec<&Report> = engine
        .seen
        .iter()
        .filter(|report| matches!(report, Report::Faults(_)))
        .collect();
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn a_client_resolves_the_addresses() {
    let Some(mut lab) = Lab::new() else { return };
    lab.engine.want(&[V4, V6]);
    lab.engine.announcing(V4, &["eth0"]);
    lab.engine.announcing(V6, &["eth0"]);
    for address in [ip(V4), ip(V6)] {
        lab.client.send_to(address);
        eventually("the kernel resolves it", || {
            lab.client.neighbour(address).as_deref() == Some(NODE)
        });
    }
    let (output, success) = lab.client.command(&format!("arping -c 2 -w 3 -I c0 {V4}"));
    assert!(success && output.to_lowercase().contains(NODE), "{output}");
    let (output, success) = lab.client.command(&format!("ndisc6 -1 -w 2000 {V6} c0"));
    assert!(success && output.to_lowercase().contains(NODE), "{output}");

    // A request is counted a moment before its reply.
    eventually("every request is answered", || {
        let counts = lab.engine.counts();
        counts.arp.replies == counts.arp.requests && counts.ndp.replies == counts.ndp.requests
    });
    let counts = lab.engine.counts();
    assert!(counts.arp.requests >= 2 && counts.ndp.requests >= 1, "{counts:?}");
    assert_eq!(counts.addresses[&ip(V4)].requests, counts.arp.requests);
    assert_eq!(counts.addresses[&ip(V6)].replies, counts.ndp.replies);
    assert!(counts.arp.gratuitous >= 2 && counts.ndp.gratuitous >= 1, "{counts:?}");
    no_faults(&lab.engine);
    assert!(lab.engine.stop().is_ok());
}

/// A neighbour that checks whether an entry still holds asks by unicast; nothing in user space but a packet socket
/// hears that.
#[test]
fn unicast_probes_of_neighbours_are_answered() {
    let Some(mut lab) = Lab::new() else { return };
    lab.engine.want(&[V4, V6]);
    lab.engine.announcing(V6, &["eth0"]);
    for address in [V4, V6] {
        lab.client
            .ip(&format!("neigh replace {address} lladdr {NODE} dev c0 nud probe"));
        eventually("the probe is answered", || {
            lab.client.ip(&format!("neigh show to {address}")).contains("REACHABLE")
        });
    }
}

#[test]
fn neighbours_follow_a_new_mac_without_asking() {
    let Some(mut lab) = Lab::new() else { return };
    lab.engine.want(&[V4, V6]);
    lab.engine.announcing(V6, &["eth0"]);
    for address in [ip(V4), ip(V6)] {
        lab.client.send_to(address);
        eventually("the kernel resolves it", || {
            lab.client.neighbour(address).as_deref() == Some(NODE)
        });
    }
    const NEW: &str = "02:00:00:00:00:77";
    lab.node.ip(&format!("link set eth0 address {NEW}"));
    for address in [V4, V6] {
        eventually("the client hears of it", || {
            lab.client.neighbour(ip(address)).as_deref() == Some(NEW)
        });
    }
    lab.client.ip("neigh flush all");
    lab.client.send_to(ip(V4));
    eventually("answers carry the new MAC", || {
        lab.client.neighbour(ip(V4)).as_deref() == Some(NEW)
    });
}

#[test]
fn an_interface_that_appears_late_is_served() {
    let Some(mut lab) = Lab::new() else { return };
    lab.engine.want(&["10.98.0.100", "fd98::100"]);
    lab.engine.announcing("fd98::100", &["eth0"]);
    lab.link("eth1", "02:00:00:00:01:01", "c1", "02:00:00:00:01:09", 98);
    lab.engine.announcing("10.98.0.100", &["eth0", "eth1"]);
    lab.engine.announcing("fd98::100", &["eth0", "eth1"]);
    for address in [ip("10.98.0.100"), ip("fd98::100")] {
        lab.client.send_to(address);
        eventually("resolved over the late interface", || {
            lab.client.neighbour(address).as_deref() == Some("02:00:00:00:01:01")
        });
    }
    let groups = lab.node.ip("-6 maddr show dev eth1");
    assert!(groups.contains("ff02::1:ff00:100"), "{groups}");
    no_faults(&lab.engine);
}

#[test]
fn an_interface_that_goes_and_comes_back_is_served_again() {
    let Some(mut lab) = Lab::new() else { return };
    lab.engine.want(&[V4]);
    lab.engine.announcing(V4, &["eth0"]);
    let announced = |lab: &Lab| lab.engine.counts().arp.gratuitous;

    lab.node.ip("link set eth0 down");
    lab.engine.announcing(V4, &[]);
    let before = announced(&lab);
    lab.node.ip("link set eth0 up");
    lab.engine.announcing(V4, &["eth0"]);
    eventually("it is announced again", || announced(&lab) > before);

    lab.client.ip("link set c0 down");
    lab.engine.announcing(V4, &[]);
    lab.client.ip("link set c0 up");
    lab.engine.announcing(V4, &["eth0"]);

    lab.node.ip("link del eth0");
    lab.engine.announcing(V4, &[]);
    lab.link("eth0", "02:00:00:00:00:55", "c0", lab::CLIENT, 99);
    lab.engine.announcing(V4, &["eth0"]);
    lab.client.send_to(ip(V4));
    eventually("the new interface answers", || {
        lab.client.neighbour(ip(V4)).as_deref() == Some("02:00:00:00:00:55")
    });
    no_faults(&lab.engine);
}

#[test]
fn a_bridge_is_served_in_place_of_its_port() {
    let Some(mut lab) = Lab::new() else { return };
    lab.engine.want(&[V4]);
    lab.engine.announcing(V4, &["eth0"]);
    lab.node
        .ip("link add br0 address 02:00:00:00:00:b0 type bridge forward_delay 0");
    lab.node.ip("link set br0 up");
    lab.node.ip("link set eth0 master br0");
    lab.engine.announcing(V4, &["br0"]);
    lab.client.send_to(ip(V4));
    eventually("the bridge answers", || {
        lab.client.neighbour(ip(V4)).as_deref() == Some("02:00:00:00:00:b0")
    });
    lab.node.ip("link set eth0 nomaster");
    lab.engine.announcing(V4, &["eth0"]);
}

#[test]
fn a_storm_for_other_addresses_wakes_nobody() {
    let Some(mut lab) = Lab::new() else { return };
    lab.engine.want(&[V4, V6]);
    lab.engine.announcing(V6, &["eth0"]);
    let solicitation = |host: u128| {
        let target = (0xfd99_u128 << 112 | host << 24 | 0x100).into();
        let packet = ndp::Repr {
            source: "fe80::9".parse().unwrap(),
            destination: ndp::solicited_node(target),
            message: ndp::Message::Solicitation {
                target,
                source_mac: Some(CLIENT_MAC),
            },
        };
        OwnedFrame::ndp(CLIENT_MAC, ethernet::multicast(packet.destination), &packet)
            .as_bytes()
            .to_vec()
    };
    let arp = (0..10_000u32).map(|n| question(Ipv4Addr::from_bits(0x0a63_0200 + n)));
    let storm = arp.chain((1..=10_000).map(solicitation)).collect();
    let before = (lab.engine.frames(), lab.engine.wakeups(&lab.node));
    lab.client.send_frames("c0", storm);
    let after = (lab.engine.frames(), lab.engine.wakeups(&lab.node));
    assert_eq!(after.0, before.0, "frames that reached the engine");
    assert!(after.1 - before.1 < 20, "{} wake-ups", after.1 - before.1);

    lab.client.send_frames("c0", vec![question(ip_v4(V4))]);
    eventually("it still answers", || lab.engine.counts().arp.replies == 1);
}

/// The ARP request of a host that is none of the client's addresses.
fn question(target: Ipv4Addr) -> Vec<u8> {
    let packet = arp::Repr {
        operation: arp::Operation::Request,
        sender_mac: CLIENT_MAC,
        sender_ip: Ipv4Addr::new(10, 99, 0, 3),
        target_mac: [0; 6],
        target_ip: target,
    };
    OwnedFrame::arp(CLIENT_MAC, ethernet::BROADCAST, &packet)
        .as_bytes()
        .to_vec()
}

fn ip_v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

#[test]
fn duplicate_detection_finds_the_addresses_taken() {
    let Some(mut lab) = Lab::new() else { return };
    lab.engine.want(&[V4, V6]);
    lab.engine.announcing(V6, &["eth0"]);
    let (output, free) = lab.client.command(&format!("arping -D -c 1 -w 2 -I c0 {V4}"));
    assert!(!free, "an ARP probe is answered: {output}");

    lab.client
        .run(|| std::fs::write("/proc/sys/net/ipv6/conf/c0/dad_transmits", "1"))
        .unwrap();
    lab.client.ip(&format!("addr add {V6}/64 dev c0"));
    eventually("the address is refused", || {
        lab.client.ip("-6 addr show dev c0").contains("dadfailed")
    });
}

#[test]
fn a_claim_by_somebody_else_is_a_conflict() {
    let Some(mut lab) = Lab::new() else { return };
    lab.engine.want(&[V4, V6]);
    lab.engine.announcing(V6, &["eth0"]);
    for address in [V4, V6] {
        let mask = if ip(address).is_ipv4() { 24 } else { 64 };
        lab.client.ip(&format!("addr add {address}/{mask} dev c0 nodad"));
    }
    let (output, _) = lab.client.command(&format!("arping -U -c 1 -w 1 -I c0 -s {V4} {V4}"));
    let conflict = |of: IpAddr| {
        move |report: &Report| {
            *report
                == Report::Conflict {
                    address: of,
                    interface: "eth0".to_owned(),
                    mac: CLIENT_MAC,
                }
        }
    };
    lab.engine
        .until(&format!("a conflict about {V4}: {output}"), conflict(ip(V4)));

    lab.client.send_frames("c0", vec![claim(ip(V6), CLIENT_MAC)]);
    lab.engine.until("a conflict about the IPv6 address", conflict(ip(V6)));
}

/// The frames by which a host takes an address: a gratuitous ARP request, or an unsolicited advertisement.
fn claim(address: IpAddr, mac: Mac) -> Vec<u8> {
    let frame = match address {
        IpAddr::V4(ip) => {
            let packet = arp::Repr {
                operation: arp::Operation::Request,
                sender_mac: mac,
                sender_ip: ip,
                target_mac: [0; 6],
                target_ip: ip,
            };
            OwnedFrame::arp(mac, ethernet::BROADCAST, &packet)
        }
        IpAddr::V6(target) => {
            let message = ndp::Message::Advertisement {
                target,
                target_mac: Some(mac),
                router: false,
                solicited: false,
                overriding: true,
            };
            let packet = ndp::Repr {
                source: target,
                destination: ndp::ALL_NODES,
                message,
            };
            OwnedFrame::ndp(mac, ethernet::multicast(ndp::ALL_NODES), &packet)
        }
    };
    frame.as_bytes().to_vec()
}

#[test]
fn a_stranger_does_not_keep_a_client_and_starts_no_storm() {
    const NODE: &str = "02:00:00:00:00:02";
    let addresses = ["10.98.0.100", "fd98::100"];
    let Some(mut lab) = Lab::new() else { return };
    let segment = Segment::new(&lab);
    lab.engine.want(&addresses);
    for address in addresses {
        lab.engine.announcing(address, &["eth0", "eth1"]);
        eventually("the client knows the node's address", || {
            lab.client.send_to(ip(address));
            lab.client.neighbour(ip(address)).as_deref() == Some(NODE)
        });
    }
    // The announcements of the first seconds would bring the client back, too; at most 2.8 s are between two of them.
    let mut before = lab.engine.counts();
    loop {
        std::thread::sleep(Duration::from_millis(3_500));
        let now = lab.engine.counts();
        if now.arp.gratuitous == before.arp.gratuitous && now.ndp.gratuitous == before.ndp.gratuitous {
            break;
        }
        before = now;
    }
    assert_eq!(before.arp.conflicts + before.ndp.conflicts, 0);
    for (count, address) in (1..).zip(addresses) {
        segment
            .stranger
            .send_frames("s0", vec![claim(ip(address), STRANGER_MAC); 5]);
        eventually("every claim is heard", || {
            let counts = lab.engine.counts();
            counts.arp.conflicts + counts.ndp.conflicts == 5 * count
        });
        eventually("the client is with the node again", || {
            let counts = lab.engine.counts();
            counts.arp.defences + counts.ndp.defences == count
                && lab.client.neighbour(ip(address)).as_deref() == Some(NODE)
        });
    }
    for address in addresses {
        segment
            .stranger
            .send_frames("s0", vec![claim(ip(address), STRANGER_MAC)]);
        eventually("it is lost to who claims again at once", || {
            lab.client.neighbour(ip(address)).as_deref() != Some(NODE)
        });
    }
    let after = lab.engine.counts();
    for (before, after) in [(before.arp, after.arp), (before.ndp, after.ndp)] {
        assert_eq!(after.defences, 1, "once per interval");
        assert_eq!(after.gratuitous, before.gratuitous + 1, "one frame");
    }
}

#[test]
fn neighbours_that_heed_no_gratuitous_announcement_are_told() {
    let Some(mut lab) = Lab::new() else { return };
    lab.client.run(|| {
        for (family, name) in [("ipv4", "drop_gratuitous_arp"), ("ipv6", "drop_unsolicited_na")] {
            std::fs::write(format!("/proc/sys/net/{family}/conf/c0/{name}"), "1").unwrap();
        }
    });
    lab.engine.want(&[V4, V6]);
    lab.engine.announcing(V6, &["eth0"]);
    for address in [V4, V6] {
        eventually("the client knows the node's address", || {
            lab.client.send_to(ip(address));
            lab.client.neighbour(ip(address)).as_deref() == Some(NODE)
        });
    }
    const NEW: &str = "02:00:00:00:00:21";
    lab.node.ip(&format!("link set eth0 address {NEW}"));
    for address in [V4, V6] {
        eventually("who asked is told of the new MAC", || {
            lab.client.neighbour(ip(address)).as_deref() == Some(NEW)
        });
    }
}

#[test]
fn a_gateway_is_told_though_it_never_asked() {
    let Some(mut lab) = Lab::new() else { return };
    lab.node.ip("route add default via 10.99.0.3");
    lab.node.ip("-6 route add default via fd99::3");
    lab.engine.until("the gateways", |report| match report {
        Report::Interfaces(interfaces) => interfaces
            .iter()
            .any(|i| i.gateways == BTreeSet::from([ip("10.99.0.3"), ip("fd99::3")])),
        _ => false,
    });
    lab.engine.want(&[V4, V6]);
    for address in [V4, V6] {
        eventually("the gateway knows where the address is", || {
            lab.client.neighbour(ip(address)).as_deref() == Some(NODE)
        });
    }
    lab.node.ip("route del default via 10.99.0.3");
    lab.engine.until("one gateway less", |report| match report {
        Report::Interfaces(interfaces) => interfaces.iter().any(|i| i.gateways == BTreeSet::from([ip("fd99::3")])),
        _ => false,
    });
}

#[test]
fn an_address_given_up_is_not_answered_and_its_group_left() {
    let Some(mut lab) = Lab::new() else { return };
    lab.engine.want(&[V4, V6]);
    lab.engine.announcing(V6, &["eth0"]);
    let group = "ff02::1:ff00:100";
    assert!(lab.node.ip("-6 maddr show dev eth0").contains(group));
    lab.engine.want(&["10.99.0.200"]);
    lab.engine.announcing(V4, &[]);
    lab.engine.announcing(V6, &[]);
    assert!(!lab.node.ip("-6 maddr show dev eth0").contains(group));
    let (output, answered) = lab.client.command(&format!("arping -c 1 -w 1 -I c0 {V4}"));
    assert!(!answered, "{output}");
    assert_eq!(
        lab.engine.counts().addresses.keys().copied().collect::<Vec<_>>(),
        [ip("10.99.0.200")]
    );
}

#[test]
fn more_addresses_than_a_filter_holds_are_answered_all_the_same() {
    let Some(mut lab) = Lab::new() else { return };
    let scattered: Vec<String> = (0..3_000u32)
        .map(|n| Ipv4Addr::from_bits(0x0a63_1000 + 2 * n).to_string())
        .collect();
    let mut addresses: Vec<&str> = scattered.iter().map(String::as_str).collect();
    addresses.push(V4);
    lab.engine.want(&addresses);
    lab.engine.until("a filter that is too large", |report| {
        *report
            == Report::Faults(BTreeSet::from([Fault::Filter {
                interface: "eth0".to_owned(),
                family: "ARP",
            }]))
    });
    lab.client.send_to(ip(V4));
    eventually("it is resolved", || {
        lab.client.neighbour(ip(V4)).as_deref() == Some(NODE)
    });
    lab.engine.want(&[V4]);
    eventually("the set is small again", || lab.engine.counts().addresses.len() == 1);
    let foreign = |lab: &Lab| lab.engine.counts().drops[&Reason::NotOurs];
    let before = foreign(&lab);
    let (_, answered) = lab.client.command("arping -c 1 -w 1 -I c0 10.99.0.222");
    assert!(!answered);
    assert_eq!(foreign(&lab), before, "the kernel filters again");
}

#[test]
fn a_reader_that_does_not_read_delays_no_answer() {
    let Some(mut lab) = Lab::new() else { return };
    lab.engine = Engine::start(&lab.node, 1);
    lab.engine.want(&[V4, V6]);
    for address in [V4, V6] {
        eventually("resolved while nobody reads the reports", || {
            lab.client.send_to(ip(address));
            lab.client.neighbour(ip(address)).as_deref() == Some(NODE)
        });
    }
    lab.engine.announcing(V4, &["eth0"]);
}
