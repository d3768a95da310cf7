//! Sessions with the router at the other end of an interface, found by its advertisements. The discovery runs with
//! `CAP_NET_RAW` and nothing else, the engine with nothing.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use ferrolb_bgp::Peer;
use ferrolb_bgp::discovery::{self, Finding, Found};
use ferrolb_bgp::engine::Config;
use ferrolb_bgp::settings::Password;
use ferrolb_netns::{Lab, Namespace, PATIENCE, drop_privileges, drop_privileges_but_raw, eventually};
use tokio::sync::{oneshot, watch};

use crate::bird::Bird;
use crate::engine::Engine;
use crate::frr::{Frr, interface_neighbour};
use crate::make::{external, routes};

/// A discovery on a node.
struct Discovery {
    wanted: watch::Sender<BTreeSet<String>>,
    found: watch::Receiver<Found>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Discovery {
    fn start(node: &Namespace, interfaces: &[&str], privileges: fn()) -> Discovery {
        let (wanted, wanted_by) = watch::channel(names(interfaces));
        let (publish, found) = watch::channel(Found::new());
        let (stop, stopped) = oneshot::channel();
        let thread = node.run(move || {
            std::thread::spawn(move || {
                privileges();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    tokio::select! {
                        never = discovery::run(1, wanted_by, publish) => match never {},
                        _ = stopped => {}
                    }
                });
            })
        });
        Discovery {
            wanted,
            found,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Waits until what is known of an interface satisfies.
    fn until<T>(&mut self, interface: &str, satisfies: impl Fn(&Finding) -> Option<T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let told = |found: &Found| found.get(interface).and_then(&satisfies);
        let wait = async {
            let wait = self.found.wait_for(|found| told(found).is_some());
            tokio::time::timeout(PATIENCE, wait).await.map(drop)
        };
        let met = runtime.block_on(wait).is_ok();
        let found = self.found.borrow();
        assert!(met, "{interface}: {found:?}");
        told(&found).expect("it satisfies")
    }

    fn router(&mut self, interface: &str) -> Ipv6Addr {
        self.until(interface, Finding::router)
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn names(interfaces: &[&str]) -> BTreeSet<String> {
    interfaces.iter().map(|name| (*name).to_owned()).collect()
}

/// The router that was found on an interface.
fn found(router: Ipv6Addr, interface: &str) -> Peer {
    Peer {
        address: router.into(),
        interface: Some(interface.to_owned()),
        ..external(true)
    }
}

/// A second link between the two.
fn second_link(lab: &Lab) {
    lab.node.ip(&format!(
        "link add eth1 type veth peer name eth1 netns {}",
        lab.host.tid()
    ));
    for namespace in [&lab.node, &lab.host] {
        namespace.ip("link set eth1 up");
    }
}

/// Two links with the same addresses at their ends, fe80::1 on the node.
pub(crate) fn two_alike(lab: &Lab) {
    second_link(lab);
    for (namespace, address) in [(&lab.node, "fe80::1"), (&lab.host, "fe80::9")] {
        for interface in ["eth0", "eth1"] {
            let old = namespace.link_local(interface);
            namespace.ip(&format!("addr add {address}/64 dev {interface}"));
            namespace.ip(&format!("addr del {old}/64 dev {interface}"));
        }
    }
}

#[test]
fn frr_is_found_and_takes_routes_of_both_families() {
    let Some(lab) = Lab::new() else { return };
    lab.host.ip("addr flush dev eth0 scope global");
    lab.node.ip("addr flush dev eth0 scope global");
    let mut frr = Frr::start(&lab, &interface_neighbour("eth0", "64513"));
    let mut discovery = Discovery::start(&lab.node, &["eth0"], drop_privileges_but_raw);
    let mut engine = Engine::start(&lab.node, Config::default());
    let router = discovery.router("eth0");
    assert_eq!(router.to_string(), lab.host.link_local("eth0"));
    engine.want(&[("frr", &found(router, "eth0"))], &routes(1_000, 100));
    let status = engine.established("frr");
    let own = lab.node.link_local("eth0");
    assert_eq!(status.local.map(|local| local.to_string()), Some(own.clone()));
    frr.has("eth0", "ipv4", 1_000);
    frr.has("eth0", "ipv6", 100);
    for (family, prefix) in [("-4", "172.16.0.5"), ("-6", "fd00::5")] {
        eventually("a route in the kernel", || {
            let shown = lab.host.ip(&format!("{family} route show {prefix}"));
            let via = [format!("via inet6 {own} dev eth0"), format!("via {own} dev eth0")];
            via.iter().any(|via| shown.contains(via)).then_some(())
        });
    }

    // A global address of the node changes nothing: the router has no way to it on this link.
    engine.want(&[], &routes(0, 0));
    lab.node.ip("addr add fd77::1/64 dev eth0");
    engine.want(&[("frr", &found(router, "eth0"))], &routes(10, 10));
    engine.established("frr");
    frr.has("eth0", "ipv4", 10);
    let told = frr.vtysh("show bgp ipv6 unicast fd00::5/128");
    assert!(told.contains(&own) && !told.contains("fd77::1"), "{told}");

    // A daemon that starts again has to be told of us again.
    frr.kill_bgpd();
    engine.until("frr", "down", |status| status.negotiated.is_none());
    frr.start_bgpd();
    engine.until("frr", "up again", |status| status.established == 2);
    frr.has("eth0", "ipv4", 10);
}

#[test]
fn a_router_changes_its_address_and_an_interface_comes_late() {
    let Some(lab) = Lab::new() else { return };
    let neighbours = interface_neighbour("eth0", "64513") + &interface_neighbour("eth1", "64513");
    let frr = Frr::start(&lab, &neighbours);
    let mut discovery = Discovery::start(&lab.node, &["eth0", "eth1"], drop_privileges_but_raw);
    let mut engine = Engine::start(&lab.node, Config::default());
    let before = discovery.router("eth0");
    discovery.until("eth1", |finding| (*finding == Finding::Missing).then_some(()));
    engine.want(&[("frr", &found(before, "eth0"))], &routes(10, 10));
    engine.established("frr");

    lab.host.ip("addr add fe80::99/64 dev eth0");
    lab.host.ip(&format!("addr del {before}/64 dev eth0"));
    let after = discovery.until("eth0", |finding| finding.router().filter(|router| *router != before));
    assert_eq!(after, "fe80::99".parse::<Ipv6Addr>().unwrap());
    engine.want(&[("frr", &found(after, "eth0"))], &routes(10, 10));
    engine.established("frr");
    frr.has("eth0", "ipv4", 10);

    // The router has the same address on both links.
    second_link(&lab);
    let old = lab.host.link_local("eth1");
    lab.host.ip("addr add fe80::99/64 dev eth1");
    lab.host.ip(&format!("addr del {old}/64 dev eth1"));
    let second = discovery.until("eth1", |finding| finding.router().filter(|router| *router == after));
    let peers = [found(after, "eth0"), found(second, "eth1")];
    engine.want(&[("frr", &peers[0]), ("second", &peers[1])], &routes(10, 10));
    engine.established("second");
    frr.has("eth1", "ipv6", 10);
    engine.established("frr");

    // It goes, and comes back as another.
    lab.node.ip("link del eth1");
    discovery.until("eth1", |finding| (*finding == Finding::Missing).then_some(()));
    discovery.wanted.send_replace(names(&["eth0"]));
}

/// Both links have the same addresses at their ends. (FRR 8.4 takes two such sessions for one, and ends the older.)
#[test]
fn bird_advertises_and_has_a_key_on_each_of_two_links() {
    let Some(lab) = Lab::new() else { return };
    two_alike(&lab);
    let protocol = |name: &str, interface: &str, key: &str| {
        format!(
            "protocol bgp {name} {{\n  local fe80::9 as 64512;\n  neighbor fe80::1%{interface} as 64513;\n  passive yes;\n  \
             password \"{key}\";\n  hold time 9;\n  error wait time 1, 2;\n  \
             ipv4 {{ import all; export none; extended next hop on; }};\n  ipv6 {{ import all; export none; }};\n}}\n"
        )
    };
    let radv = "protocol radv { interface \"eth0\", \"eth1\" { max ra interval 4; default lifetime 0; }; }\n";
    let protocols = [
        radv,
        &protocol("one", "eth0", "s3cret"),
        &protocol("two", "eth1", "s3cret"),
    ]
    .concat();
    let bird = Bird::start(&lab, &protocols);
    let mut discovery = Discovery::start(&lab.node, &["eth0", "eth1"], drop_privileges_but_raw);
    let mut engine = Engine::start(&lab.node, Config::default());
    let peers = ["eth0", "eth1"].map(|interface| Peer {
        password: Some(Password::new(b"s3cret").unwrap()),
        ..found(discovery.router(interface), interface)
    });
    assert_eq!(peers[0].address, peers[1].address);
    engine.want(&[("one", &peers[0]), ("two", &peers[1])], &routes(10, 10));
    for (name, interface) in [("one", "eth0"), ("two", "eth1")] {
        engine.established(name);
        bird.has(name, 10, 10);
        let route = bird.birdc(&format!("show route 172.16.0.5/32 protocol {name} all"));
        assert!(route.contains(&format!("via fe80::1 on {interface}")), "{route}");
    }
}

#[test]
fn without_the_capability_each_interface_says_so() {
    let Some(lab) = Lab::new() else { return };
    let mut discovery = Discovery::start(&lab.node, &["eth0"], drop_privileges);
    let error = discovery.until("eth0", |finding| match finding {
        Finding::Socket(error) => Some(error.clone()),
        _ => None,
    });
    assert!(error.contains("not permitted"), "{error}");
}

/// What other hosts on the link make of our advertisements: nothing.
#[test]
fn nobody_takes_us_for_a_default_router() {
    let Some(lab) = Lab::new() else { return };
    lab.host
        .run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_ra", "2").unwrap());
    let heard = lab.host.run(|| {
        let name = "/proc/thread-self/net/snmp6";
        move || {
            let text = std::fs::read_to_string(name).unwrap();
            let line = text
                .lines()
                .find(|line| line.starts_with("Icmp6InRouterAdvertisements"));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
                .unwrap()
        }
    });
    let _discovery = Discovery::start(&lab.node, &["eth0"], drop_privileges_but_raw);
    eventually("two advertisements", || (lab.host.run(heard) >= 2).then_some(()));
    assert_eq!(lab.host.ip("-6 route show default").trim(), "");
}
