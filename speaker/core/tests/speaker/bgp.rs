//! What routers are told, and why not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{
    AnnouncementPolicy, BgpAdvertisement, BgpSettings, Community, EndpointsView, Family, NodeRefusal, NodeView,
    OnRequest, Password, PasswordSource, Peer, PoolSelection, ServiceView, TrafficPolicy,
};
use ferrolb_speaker_core::{
    Bgp, BgpPlan, DataPath, Input, NotReady, PeerRefusal, Progress, ProxyAnswer, Reading, RouteAttributes, Settings,
    WAIT,
};
use proptest::prelude::*;

use crate::bgp_bench::{Bench, WEB, ad, config, endpoints, facts, node, peer, policy, with};
use crate::bgp_drain::another;
use crate::make::{ME, OTHER, id, ip, labels, selector, service, set, virtual_ip};

#[test]
fn nothing_is_planned_before_everything_is_heard() {
    let mut all = facts(config());
    all.pop();
    let mut bgp = Bgp::new(ME, Settings::default());
    let mut path = DataPath::off(ME);
    for input in &all {
        path.hear(input, Duration::ZERO);
        bgp.handle(input);
    }
    assert_eq!(bgp.plan(&path, Duration::ZERO), None);
    bgp.handle(&Input::BgpSynced);
    let plan = bgp.plan(&path, Duration::ZERO).expect("a plan");
    assert_eq!(plan.peers["one"].routes.len(), 1);
    assert_eq!(plan.services, BTreeMap::from([(id("web"), Arc::new(set(&["one"])))]));
    assert_eq!(plan.router_id.to_string(), "10.0.0.11");
}

#[test]
fn each_no_has_its_reason_and_each_yes_its_route() {
    let local = {
        let mut view = service("web", labels(&[("app", "web")]));
        view.traffic_policy = TrafficPolicy::Local;
        Input::Service(view)
    };
    let unavailable = Input::OwnNode(NodeView {
        network_unavailable: true,
        ..node()
    });
    let elsewhere = |ad: BgpAdvertisement| Input::Config(Arc::new(with(vec![peer("one", 1)], vec![ad])));
    for (what, news, says) in [
        ("everything is right", vec![], Some(None)),
        (
            "no endpoint",
            vec![endpoints("web", &[])],
            Some(Some(NodeRefusal::NoEndpoint)),
        ),
        ("one terminates", vec![endpoints("web", &[(OTHER, false)])], Some(None)),
        (
            "Local, elsewhere",
            vec![local.clone()],
            Some(Some(NodeRefusal::NoLocalEndpoint)),
        ),
        (
            "Local, here",
            vec![local.clone(), endpoints("web", &[(ME, true)])],
            Some(None),
        ),
        (
            "Local, one terminates here",
            vec![local.clone(), endpoints("web", &[(ME, false)])],
            Some(None),
        ),
        (
            "Local, one terminates here, one is ready where nobody announces",
            vec![local.clone(), endpoints("web", &[(ME, false), (OTHER, true)])],
            Some(None),
        ),
        (
            "Local, one terminates here, one is ready on another node",
            vec![
                local.clone(),
                Input::OtherNode(another(OTHER, "b")),
                endpoints("web", &[(ME, false), (OTHER, true)]),
            ],
            Some(Some(NodeRefusal::NoLocalEndpoint)),
        ),
        (
            "Local, one terminates here and one does not",
            vec![
                local,
                Input::OtherNode(another(OTHER, "b")),
                endpoints("web", &[(ME, false), (ME, true), (OTHER, true)]),
            ],
            Some(None),
        ),
        (
            "no network",
            vec![unavailable],
            Some(Some(NodeRefusal::NetworkUnavailable)),
        ),
        (
            "no such peer",
            vec![elsewhere(BgpAdvertisement {
                peers: Some(set(&["two"])),
                ..ad("all")
            })],
            Some(Some(NodeRefusal::NoPeer)),
        ),
        (
            "another node",
            vec![elsewhere(BgpAdvertisement {
                node_selectors: vec![selector("rack", "b")],
                ..ad("all")
            })],
            None,
        ),
        (
            "another Service",
            vec![elsewhere(BgpAdvertisement {
                service_selectors: vec![selector("app", "db")],
                ..ad("all")
            })],
            None,
        ),
        (
            "another pool",
            vec![elsewhere(BgpAdvertisement {
                pools: PoolSelection::Some {
                    names: set(&["wan"]),
                    selectors: vec![],
                },
                ..ad("all")
            })],
            None,
        ),
        ("the Service is gone", vec![Input::ServiceGone(id("web"))], None),
        ("the claim is gone", vec![Input::VirtualIpGone(ip(WEB))], None),
        (
            "claimed by another",
            vec![Input::VirtualIp(virtual_ip(ip(WEB), None, &["db"]))],
            None,
        ),
        (
            "the endpoints are gone",
            vec![Input::EndpointsGone(("shop".into(), "web-1".into()))],
            Some(Some(NodeRefusal::NoEndpoint)),
        ),
    ] {
        let mut bench = Bench::new(facts(config()));
        for input in news {
            bench.tell(input);
        }
        let told = bench.plan.peers.get("one").is_some_and(|peer| !peer.routes.is_empty());
        assert_eq!(told, says == Some(None), "{what}");
        assert_eq!(bench.withheld(), Vec::from_iter(says.flatten()), "{what}");
        assert_eq!(bench.bgp.announced().count(), usize::from(told), "{what}");
    }
}

#[test]
fn a_status_written_by_hand_is_nobodys_address() {
    let mut view = service("web", labels(&[]));
    view.ingress = vec![ip("192.0.2.99")];
    let mut bench = Bench::new(facts(config()));
    bench.tell(Input::Service(view));
    assert_eq!(bench.prefixes("one"), ["192.0.2.7/32"]);
}

#[test]
fn a_drained_node_says_so_before_it_withdraws() {
    let mut policies = config();
    let wait = Some(Duration::from_secs(9));
    let slow = BgpSettings {
        graceful_shutdown: wait,
        ..BgpSettings::default()
    };
    policies.announcement_policies = BTreeMap::from([("slow".to_owned(), policy("slow", slow))]);
    for (config, wait) in [(config(), 5), (policies, 9)] {
        let mut bench = Bench::new(facts(config));
        let excluded = |excluded| Input::OwnNode(NodeView { excluded, ..node() });
        bench.tell(excluded(true));
        let leaving = bench.wishes("one", "192.0.2.7/32");
        assert_eq!(leaving[0].communities, [Community::Standard(65535, 0)].into());
        assert_eq!(leaving[0].local_pref, Some(0));
        assert_eq!(bench.bgp.deadline(), Some(bench.now + Duration::from_secs(wait)));
        assert!(bench.plan.draining);
        bench.wait(wait - 1).tell(endpoints("web", &[(ME, true)]));
        assert_eq!(bench.prefixes("one"), ["192.0.2.7/32"], "still there");
        bench.wait(1);
        assert_eq!(bench.prefixes("one"), [""; 0]);
        assert_eq!(bench.withheld(), [NodeRefusal::Excluded]);
        assert_eq!(bench.bgp.deadline(), None);
        bench.tell(excluded(false));
        assert_eq!(bench.wishes("one", "192.0.2.7/32"), [RouteAttributes::default()]);
    }
    let mut restarted = facts(config());
    restarted[1] = Input::OwnNode(NodeView {
        excluded: true,
        ..node()
    });
    assert_eq!(
        Bench::new(restarted).prefixes("one"),
        [""; 0],
        "a restart announces nothing anew"
    );
}

#[test]
fn an_aggregate_goes_with_its_last_member() {
    let wide = BgpAdvertisement {
        aggregation_v4: 24,
        ..ad("wide")
    };
    let mut bench = Bench::new(facts(with(vec![peer("one", 1), peer("two", 2)], vec![wide])));
    bench
        .tell(Input::Service(service("db", labels(&[]))))
        .tell(Input::VirtualIp(virtual_ip(ip("192.0.2.8"), None, &["db"])))
        .tell(endpoints("db", &[(ME, true)]));
    assert_eq!(bench.prefixes("one"), ["192.0.2.0/24"]);
    assert!(
        Arc::ptr_eq(&bench.plan.peers["one"].routes, &bench.plan.peers["two"].routes),
        "shared"
    );
    bench.tell(Input::ServiceGone(id("web")));
    assert_eq!(bench.prefixes("one"), ["192.0.2.0/24"]);
    bench.tell(endpoints("db", &[]));
    assert_eq!(bench.prefixes("one"), [""; 0]);
}

#[test]
fn advertisements_speak_to_their_peers_and_pile_up() {
    let to = |name: &str, peers: &[&str], communities: &[Community], local_pref| BgpAdvertisement {
        peers: Some(set(peers)),
        communities: communities.iter().copied().collect(),
        local_pref,
        ..ad(name)
    };
    let (a, b) = (Community::Standard(64512, 1), Community::Large(64512, 1, 2));
    let ads = vec![to("a", &["one"], &[a], Some(200)), to("b", &["one", "two"], &[b], None)];
    let bench = Bench::new(facts(with(vec![peer("one", 1), peer("two", 2), peer("three", 3)], ads)));
    let wishes = |peer| bench.wishes(peer, "192.0.2.7/32");
    let (first, second) = (
        RouteAttributes {
            local_pref: Some(200),
            communities: [a].into(),
            ..RouteAttributes::default()
        },
        RouteAttributes {
            communities: [b].into(),
            ..RouteAttributes::default()
        },
    );
    assert_eq!(wishes("one"), [second.clone(), first]);
    assert_eq!(wishes("two"), [second]);
    assert_eq!(bench.prefixes("three"), [""; 0]);
    assert_eq!(*bench.plan.services[&id("web")], set(&["one", "two"]));
}

#[test]
fn policies_add_what_advertisements_cannot_say() {
    let mut config = config();
    let large = Community::Large(64512, 7, 7);
    let first = BgpSettings {
        med: Some(10),
        link_bandwidth: Some(1000),
        ..BgpSettings::default()
    };
    let second = BgpSettings {
        med: Some(20),
        as_path_prepend: Some(2),
        large_communities: [large].into(),
        ..BgpSettings::default()
    };
    let elsewhere = AnnouncementPolicy {
        node_selectors: vec![selector("rack", "b")],
        ..policy(
            "0",
            BgpSettings {
                med: Some(1),
                ..BgpSettings::default()
            },
        )
    };
    for policy in [elsewhere, policy("1", first), policy("2", second)] {
        config.announcement_policies.insert(policy.name.clone(), policy);
    }
    let mut bench = Bench::new(facts(config));
    let expected = |link_bandwidth| RouteAttributes {
        med: Some(10),
        prepend: 2,
        communities: [large].into(),
        link_bandwidth,
        ..RouteAttributes::default()
    };
    assert_eq!(
        bench.wishes("one", "192.0.2.7/32"),
        [expected(None)],
        "nothing here adds nothing"
    );
    let v4 = endpoints("web", &[(ME, true), (ME, true), (ME, false), (OTHER, true)]);
    bench.tell(v4.clone());
    // Two endpoints of 1,000 Mbit/s, in octets.
    assert_eq!(bench.wishes("one", "192.0.2.7/32"), [expected(Some(250_000_000))]);
    // The same pods by their other addresses are no others.
    let Input::Endpoints(v4) = v4 else { unreachable!() };
    let mut v6 = EndpointsView {
        slice: ("shop".to_owned(), "web-2".to_owned()),
        family: Family::V6,
        ..v4
    };
    bench.tell(Input::Endpoints(v6.clone()));
    assert_eq!(bench.wishes("one", "192.0.2.7/32"), [expected(Some(250_000_000))]);
    // Further ones of the same family are.
    v6.slice.1 = "web-3".to_owned();
    bench.tell(Input::Endpoints(v6));
    assert_eq!(bench.wishes("one", "192.0.2.7/32"), [expected(Some(500_000_000))]);
}

#[test]
fn a_policy_goes_before_the_prepend_of_the_advertisement() {
    let prepends = |advertised, by_policy: Option<u8>| {
        let ad = BgpAdvertisement {
            as_path_prepend: advertised,
            ..ad("a")
        };
        let mut config = with(vec![peer("one", 1)], vec![ad]);
        let settings = BgpSettings {
            as_path_prepend: by_policy,
            ..BgpSettings::default()
        };
        config
            .announcement_policies
            .insert("1".to_owned(), policy("1", settings));
        let wishes = Bench::new(facts(config)).wishes("one", "192.0.2.7/32");
        wishes.iter().map(|wish| wish.prepend).collect::<Vec<u8>>()
    };
    assert_eq!(prepends(None, None), [0]);
    assert_eq!(prepends(Some(3), None), [3]);
    assert_eq!(prepends(Some(3), Some(0)), [0]);
    assert_eq!(prepends(Some(3), Some(2)), [2]);
}

#[test]
fn a_policy_that_has_to_be_asked_for_goes_before_the_others() {
    let with_med = |name, med| {
        policy(
            name,
            BgpSettings {
                med: Some(med),
                ..BgpSettings::default()
            },
        )
    };
    let mut config = config();
    let fast = AnnouncementPolicy {
        on_request: Some(OnRequest {
            namespaces: Some(set(&["shop"])),
        }),
        ..with_med("fast", 1)
    };
    for policy in [with_med("all", 2), fast] {
        config.announcement_policies.insert(policy.name.clone(), policy);
    }
    let mut bench = Bench::new(facts(config));
    let med = |bench: &Bench| bench.wishes("one", "192.0.2.7/32")[0].med;
    assert_eq!(med(&bench), Some(2));
    for (asks, expected) in [("fast", 1), ("slow", 2), ("all", 2), ("fast", 1)] {
        let view = ServiceView {
            announcement_policy: Some(asks.to_owned()),
            ..service("web", labels(&[("app", "web")]))
        };
        bench.tell(Input::Service(view));
        assert_eq!(med(&bench), Some(expected), "asks for {asks}");
    }
}

#[test]
fn what_is_announced_outlives_an_advertisement_that_cannot_be_read() {
    let mut gap = with(vec![peer("one", 1)], vec![]);
    gap.bgp_advertisements_unknown = true;
    let mut bench = Bench::new(facts(config()));
    bench.tell(Input::Config(Arc::new(gap.clone())));
    assert_eq!(bench.prefixes("one"), ["192.0.2.7/32"]);
    bench.tell(endpoints("web", &[]));
    assert_eq!(bench.withheld(), [NodeRefusal::NoEndpoint], "but not the last endpoint");
    assert_eq!(Bench::new(facts(gap)).prefixes("one"), [""; 0], "nothing is made up");
}

#[test]
fn a_peer_without_its_key_waits_and_a_session_keeps_the_key_it_has() {
    let secret = |name: &str| Peer {
        password: Some(PasswordSource::Secret(name.to_owned())),
        ..peer("one", 1)
    };
    let key = |text: Option<&str>| Input::Password {
        secret: "router".to_owned(),
        password: text.map(|text| Password::new(text.to_owned())),
    };
    let mut bench = Bench::new(facts(with(vec![secret("router")], vec![ad("all")])));
    let missing = PeerRefusal::NoPassword {
        secret: "router".to_owned(),
    };
    assert_eq!(bench.plan.refused["one"], missing);
    assert!(bench.plan.peers.is_empty());
    bench.tell(key(Some("old")));
    let held = |bench: &Bench| bench.plan.peers["one"].password.as_ref().map(|p| p.reveal().to_owned());
    assert_eq!(held(&bench).as_deref(), Some("old"));
    assert!(!bench.plan.refused.contains_key("one"));
    bench.tell(key(Some("new")));
    assert_eq!(held(&bench).as_deref(), Some("new"));
    bench.tell(key(None));
    assert_eq!(
        (held(&bench).as_deref(), &bench.plan.refused["one"]),
        (Some("new"), &missing)
    );
    bench.tell(Input::Config(Arc::new(with(vec![secret("another")], vec![ad("all")]))));
    assert!(bench.plan.peers.is_empty(), "another Secret's key is no key");
    assert!(
        !format!("{bench:?}", bench = bench.bgp).contains("new"),
        "keys are not printed"
    );
}

proptest! {
    /// Whatever the order, the same facts end in the same plan.
    #[test]
    fn order_leaves_no_trace(order in Just((0..10).collect::<Vec<usize>>()).prop_shuffle()) {
        let mut all = facts(with(vec![peer("one", 1), peer("two", 2)], vec![ad("all")]));
        all.extend([
            Input::Service(service("db", labels(&[]))),
            Input::VirtualIp(virtual_ip(ip("192.0.2.8"), None, &["db", "web"])),
            endpoints("db", &[(ME, true)]),
            Input::EndpointsGone(("shop".to_owned(), "none".to_owned())),
        ]);
        let expected = Bench::new(all.clone()).plan;
        let mut bench = Bench::new(Vec::new());
        for n in order {
            bench.tell(all[n].clone());
        }
        // An identifier is kept once it is chosen, even if the Node was not heard yet.
        let plan = BgpPlan { router_id: expected.router_id, ..BgpPlan::clone(&bench.plan) };
        prop_assert_eq!(plan, BgpPlan::clone(&expected));
    }
}

/// `web` with its address, which kube-proxy goes by.
fn web_with_address() -> Input {
    let mut view = service("web", labels(&[("app", "web")]));
    view.ingress = vec![ip(WEB)];
    Input::Service(view)
}

/// A node with a kube-proxy that says nothing yet; `resumes` if routers may hold routes of an earlier run.
fn gated(resumes: bool) -> Bench {
    let mut bench = Bench {
        bgp: Bgp::new(ME, Settings::default()),
        path: DataPath::new(ME),
        plan: Arc::default(),
        now: Duration::from_secs(1_000),
    };
    if resumes {
        bench.bgp.resume();
    }
    let mut facts = facts(config());
    facts.insert(facts.len() - 1, web_with_address());
    facts.iter().for_each(|input| bench.hear(input));
    bench.look();
    bench
}

/// kube-proxy answers that it has written its rules a while ago, or never.
fn answers(bench: &mut Bench, synced: bool) {
    let at = bench.now - Duration::from_secs(60);
    let progress = Progress {
        queued: Some(at),
        synced: synced.then_some(at),
        syncs: u64::from(synced),
        spent: Duration::ZERO,
    };
    let reading = Reading {
        is_proxy: true,
        progress: [(None, progress)].into(),
    };
    let wall = bench.now;
    bench.path.answered(
        ProxyAnswer::Reading {
            reading,
            wall,
            took: Duration::ZERO,
        },
        bench.now,
    );
    bench.look();
}

#[test]
fn after_a_boot_a_route_waits_for_kube_proxy() {
    let mut bench = gated(false);
    assert_eq!(bench.withheld(), [NodeRefusal::DataPathNotReady]);
    assert!(bench.prefixes("one").is_empty() && bench.bgp.is_waiting());
    answers(&mut bench, false);
    assert!(bench.prefixes("one").is_empty(), "it has just started");
    answers(&mut bench, true);
    assert_eq!(bench.prefixes("one"), ["192.0.2.7/32"]);
    assert!(!bench.bgp.is_waiting() && bench.bgp.late().is_empty());
    // What is announced stays so.
    bench.path.answered(ProxyAnswer::Silence, bench.now);
    bench.tell(endpoints("web", &[("node-c", true)]));
    assert_eq!(bench.prefixes("one"), ["192.0.2.7/32"]);
    // Gone and back: it begins anew.
    bench.tell(endpoints("web", &[]));
    assert_eq!(bench.withheld(), [NodeRefusal::NoEndpoint]);
    bench.tell(endpoints("web", &[(ME, true)]));
    assert_eq!(bench.withheld(), [NodeRefusal::DataPathNotReady]);
    bench.tell(Input::ServiceGone(id("web")));
    assert!(!bench.bgp.is_waiting(), "nothing is left to wait for");
}

#[test]
fn after_a_restart_the_first_plan_has_what_routers_hold() {
    let mut bench = gated(true);
    assert_eq!(bench.prefixes("one"), ["192.0.2.7/32"]);
    bench.tell(endpoints("web", &[]));
    bench.tell(endpoints("web", &[(ME, true)]));
    assert_eq!(
        bench.withheld(),
        [NodeRefusal::DataPathNotReady],
        "from then on it is asked"
    );
}

#[test]
fn a_route_is_announced_anyway_after_a_while() {
    let mut bench = gated(false);
    let until = bench.bgp.deadline().expect("a bound");
    assert_eq!(until, bench.now + WAIT);
    bench.wait(4);
    assert!(bench.prefixes("one").is_empty());
    bench.wait(1);
    assert_eq!(bench.prefixes("one"), ["192.0.2.7/32"]);
    let late: Vec<_> = bench
        .bgp
        .late()
        .into_iter()
        .map(|late| (late.uid, late.waited, late.why))
        .collect();
    assert_eq!(late, [("uid-web".to_owned(), WAIT, NotReady::Unasked)]);
    assert_eq!(bench.bgp.deadline(), None);
}
