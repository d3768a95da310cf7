//! Adj-RIB-Out: what the peer holds in the end, and in how few messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferrolb_bgp::adj_rib_out::{AdjRibOut, Context, OwnHops, Refusal};
use ferrolb_bgp::{Attributes, Community, ExtendedCommunity, LargeCommunity, NextHop, Routes};
use ferrolb_model::{Family, FamilySet};
use ipnet::IpNet;
use proptest::prelude::*;

use crate::make::{context, host, hosts, ip, net, tagged};
use crate::router::{Router, Said};

/// Everything there is to say, said.
fn flush(rib: &mut AdjRibOut, router: &mut Router) -> usize {
    let mut messages = 0;
    while let Some(message) = rib.next_message() {
        assert!(message.len() <= 4096);
        router.take(&message, &[]);
        messages += 1;
    }
    messages
}

fn open(routes: Arc<Routes>, context: Context) -> (AdjRibOut, Router) {
    let (mut rib, mut router) = (AdjRibOut::default(), Router::default());
    rib.want(routes);
    rib.open(context);
    flush(&mut rib, &mut router);
    (rib, router)
}

/// What a router must hold of these routes on an internal session.
pub(crate) fn expected(routes: &Routes, context: Context) -> BTreeMap<IpNet, Said> {
    let held = routes.iter().filter_map(|(prefix, attributes)| {
        let family = Family::of(prefix.addr());
        let own = match family {
            Family::V4 => context.own.v4,
            Family::V6 => context.own.v6.map(Into::into),
        };
        let said = Said {
            next_hop: own,
            local_pref: Some(attributes.local_pref.unwrap_or(100)),
            med: attributes.med,
            communities: attributes.communities.iter().map(|c| c.0).collect(),
            ..Said::default()
        };
        context.families.contains(family).then_some((*prefix, said))
    });
    held.collect()
}

#[test]
fn nothing_is_said_without_a_session() {
    let mut rib = AdjRibOut::default();
    rib.want(hosts(false, 3, &Attributes::default()));
    assert_eq!(rib.next_message(), None);
    assert_eq!((rib.wanted(), rib.told()), (3, 0));
}

#[test]
fn many_prefixes_share_a_message_and_the_end_is_told() {
    // 4096 octets less 23 fixed and 28 of attributes, 5 for each prefix.
    let (rib, router) = open(hosts(false, 10_000, &tagged(1)), context());
    assert_eq!((router.held.len(), rib.told()), (10_000, 10_000));
    assert_eq!((router.updates, router.ends_of_rib), (10_000_usize.div_ceil(809), 2));
    let (_, router) = open(hosts(true, 10_000, &tagged(1)), context());
    assert_eq!((router.updates, router.ends_of_rib), (10_000_usize.div_ceil(236), 2));
}

#[test]
fn the_end_is_not_told_before_everything_is_known() {
    let some = hosts(false, 3, &tagged(1));
    let (mut rib, mut router) = open(Arc::new(some.partial()), context());
    assert_eq!((router.held.len(), router.ends_of_rib), (3, 0));
    rib.want(some);
    assert_eq!(flush(&mut rib, &mut router), 2, "nothing but the ends");
    assert_eq!((router.held.len(), router.ends_of_rib), (3, 2));
}

#[test]
fn a_change_is_exactly_the_prefixes_that_changed() {
    let (mut rib, mut router) = open(hosts(false, 1_000, &tagged(1)), context());
    let mut routes = Routes::clone(&hosts(false, 999, &tagged(1)));
    routes.insert(host(false, 2_000), tagged(1));
    let (before, routes) = (router.updates, Arc::new(routes));
    rib.want(Arc::clone(&routes));
    let messages: Vec<_> = std::iter::from_fn(|| rib.next_message()).collect();
    // One to withdraw: 23 octets and 5; one to announce: 28 more of attributes.
    assert_eq!(messages.iter().map(|m| m.len()).collect::<Vec<_>>(), [28, 23 + 28 + 5]);
    messages.iter().for_each(|message| drop(router.take(message, &[])));
    assert_eq!(router.updates, before + 2);
    assert_eq!(router.held, expected(&routes, context()));
    rib.want(Arc::new(Routes::clone(&routes)));
    assert_eq!(rib.next_message(), None, "equal routes are nothing new");
}

#[test]
fn attributes_as_a_router_reads_them() {
    let attributes = Attributes {
        next_hop: NextHop::Session,
        local_pref: Some(150),
        med: Some(7),
        prepend: 2,
        communities: [Community::new(64512, 1), Community::new(64512, 2)].into(),
        large_communities: [LargeCommunity(64512, 3, 4)].into(),
        extended_communities: [ExtendedCommunity(0x0002_fc00_0000_0001)].into(),
        link_bandwidth: Some(125_000_000),
    };
    let routes: Arc<Routes> = Arc::new([(net("10.0.0.0/24"), attributes)].into_iter().collect());
    let (_, router) = open(Arc::clone(&routes), context());
    let internal = Said {
        as_path: vec![],
        next_hop: Some(ip("192.0.2.1")),
        med: Some(7),
        local_pref: Some(150),
        communities: vec![0xfc00_0001, 0xfc00_0002],
        large: vec![(64512, 3, 4)],
        // 125,000,000 as a float is 0x4cee6b28.
        extended: vec![0x0002_fc00_0000_0001, 0x4004_fc00_4cee_6b28],
    };
    assert_eq!(router.held[&net("10.0.0.0/24")], internal);
    let mut external = context();
    external.encoding.external = true;
    external.encoding.local_asn = 4_200_000_000;
    let (_, router) = open(routes, external);
    let expected = Said {
        as_path: vec![4_200_000_000; 3],
        local_pref: None,
        extended: vec![0x0002_fc00_0000_0001, 0x0004_5ba0_4cee_6b28],
        ..internal
    };
    assert_eq!(router.held[&net("10.0.0.0/24")], expected);
}

#[test]
fn what_cannot_be_sent_is_refused_and_withdrawn() {
    let v4_only = Context {
        families: FamilySet { v4: true, v6: false },
        ..context()
    };
    let (rib, router) = open(hosts(true, 2, &tagged(1)), v4_only);
    assert_eq!((router.held.len(), router.ends_of_rib), (0, 1));
    assert_eq!(rib.refused(), &BTreeMap::from([(Refusal::FamilyNotNegotiated, 2)]));

    let no_hop = Context {
        own: OwnHops { v4: None, v6: None },
        ..context()
    };
    let (rib, router) = open(hosts(false, 2, &tagged(1)), no_hop);
    assert_eq!((router.held.len(), rib.refused()[&Refusal::NoNextHop]), (0, 2));

    let mut huge = tagged(1);
    huge.communities = (0..1_100).map(Community).collect();
    let (mut rib, mut router) = open(hosts(false, 2, &tagged(1)), context());
    rib.want(hosts(false, 2, &huge));
    flush(&mut rib, &mut router);
    assert_eq!((router.held.len(), rib.refused()[&Refusal::TooLong]), (0, 2));
    // The most that fits with one prefix: 4096 - 23 - 5, less 25 for the other attributes and 4 for the header.
    huge.communities = (0..1_009).map(Community).collect();
    rib.want(hosts(false, 2, &huge));
    flush(&mut rib, &mut router);
    assert_eq!((router.held.len(), rib.refused().len()), (2, 0));
}

#[test]
fn ipv4_over_ipv6_has_an_ipv6_next_hop() {
    let own = OwnHops {
        v4: Some(ip("2001:db8::1")),
        v6: None,
    };
    let extended = Context {
        extended_next_hop: true,
        own,
        ..context()
    };
    let routes = hosts(false, 1_000, &tagged(1));
    let (mut rib, mut router) = open(Arc::clone(&routes), extended);
    assert_eq!(router.held, expected(&routes, extended));
    rib.want(hosts(false, 10, &tagged(1)));
    flush(&mut rib, &mut router);
    assert_eq!(router.held.len(), 10);
    let (rib, router) = open(routes, Context { own, ..context() });
    assert_eq!((router.held.len(), rib.refused()[&Refusal::NoNextHop]), (0, 1_000));
}

#[test]
fn a_refresh_tells_the_family_again() {
    let mut routes = Routes::clone(&hosts(false, 10, &tagged(1)));
    (0..10).for_each(|n| routes.insert(host(true, n), tagged(1)));
    let (mut rib, mut router) = open(Arc::new(routes), context());
    router.held.clear();
    rib.refresh(Family::V6);
    assert_eq!(flush(&mut rib, &mut router), 1);
    assert!(router.held.len() == 10 && router.held.keys().all(|p| p.addr().is_ipv6()));
    rib.rehop(OwnHops {
        v4: Some(ip("192.0.2.9")),
        v6: None,
    });
    flush(&mut rib, &mut router);
    assert!(router.held.len() == 10 && router.held.values().all(|said| said.next_hop == Some(ip("192.0.2.9"))));
}

fn routes() -> impl Strategy<Value = Arc<Routes>> {
    let attributes = (0..4_u16, prop::option::of(0..3_u32), prop::option::of(99..102_u32));
    let route = (any::<bool>(), 0..40_u32, 24..=32_u8, attributes);
    prop::collection::vec(route, 0..60).prop_map(|wishes| {
        let routes = wishes.into_iter().map(|(v6, number, length, (tag, med, local_pref))| {
            let length = if v6 { 4 * length } else { length };
            let prefix = IpNet::new(host(v6, number * 64).addr(), length).unwrap();
            let attributes = Attributes {
                med,
                local_pref,
                ..tagged(tag)
            };
            (prefix, attributes)
        });
        Arc::new(routes.collect())
    })
}

#[derive(Clone, Debug)]
enum Step {
    Want(Arc<Routes>),
    Say(usize),
    Refresh(bool),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => routes().prop_map(Step::Want),
        4 => (0..6_usize).prop_map(Step::Say),
        1 => any::<bool>().prop_map(Step::Refresh),
        1 => Just(Step::Reconnect),
    ]
}

proptest! {
    /// Whatever was wanted in between, and wherever the peer was when it changed: in the end it holds what is wanted.
    #[test]
    fn the_peer_holds_what_is_wanted(steps in prop::collection::vec(step(), 0..12), last in routes()) {
        let (mut rib, mut router) = (AdjRibOut::default(), Router::default());
        rib.open(context());
        for step in steps {
            match step {
                Step::Want(routes) => rib.want(routes),
                Step::Say(count) => for _ in 0..count {
                    if let Some(message) = rib.next_message() {
                        prop_assert!(message.len() <= 4096);
                        router.take(&message, &[]);
                    }
                },
                Step::Refresh(v6) => rib.refresh(if v6 { Family::V6 } else { Family::V4 }),
                Step::Reconnect => {
                    router = Router::default();
                    rib.open(context());
                }
            }
        }
        rib.want(Arc::clone(&last));
        flush(&mut rib, &mut router);
        prop_assert_eq!(&router.held, &expected(&last, context()));
        prop_assert!(router.ends_of_rib == 2 && rib.next_message().is_none());
    }

    /// From one set to another: no prefix is told twice, none without need, and groups are as few as attributes.
    #[test]
    fn a_change_takes_few_messages(before in routes(), after in routes()) {
        let (mut rib, mut router) = open(Arc::clone(&before), context());
        rib.want(Arc::clone(&after));
        let messages = flush(&mut rib, &mut router);
        let gone = before.iter().filter(|(p, _)| after.get(p).is_none());
        let families = gone.map(|(p, _)| p.addr().is_ipv6()).collect::<std::collections::BTreeSet<_>>().len();
        let new = after.iter().filter(|(p, a)| before.get(p) != Some(a));
        let groups: std::collections::BTreeSet<_> = new.map(|(p, a)| (p.addr().is_ipv6(), a)).collect();
        prop_assert_eq!(messages, families + groups.len());
    }
}
