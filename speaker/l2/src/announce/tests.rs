use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::plan::{Served, Stance};

const MAC: Mac = [2, 0, 0, 0, 0, 1];

fn served(mac: Mac, generation: u64, addresses: &[&str]) -> Served {
    Served {
        name: "eth0".to_owned(),
        mac,
        incarnation: 1,
        generation,
        addresses: addresses
            .iter()
            .map(|address| (address.parse().unwrap(), Stance::Own))
            .collect(),
        gateways: BTreeSet::new(),
    }
}

fn plan(mac: Mac, generation: u64, addresses: &[&str]) -> Plan {
    Plan::from([(3, served(mac, generation, addresses))])
}

/// When announcements go out until `end`, in milliseconds, if each deadline is met exactly.
fn times(announcer: &mut Announcer, end: Duration) -> Vec<u128> {
    let mut times = Vec::new();
    while let Some(deadline) = announcer.next_deadline().filter(|deadline| *deadline < end) {
        assert!(!announcer.due(deadline, 1).is_empty());
        times.push(deadline.as_millis());
    }
    times
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_new_address_is_announced_five_times_and_never_again_without_refresh() {
    let mut announcer = Announcer::new(Duration::ZERO, 1);
    let start = Duration::from_secs(7);
    announcer.serve(start, &plan(MAC, 1, &["192.0.2.1"]));
    assert_eq!(times(&mut announcer, HOUR), [7_000, 7_100, 8_100, 9_200, 12_000]);
    announcer.serve(start * 2, &plan(MAC, 1, &["192.0.2.1"]));
    assert_eq!(announcer.next_deadline(), None, "the same plan again changes nothing");
}

#[test]
fn a_new_mac_or_generation_starts_the_burst_again() {
    for again in [
        plan([2, 0, 0, 0, 0, 2], 1, &["192.0.2.1"]),
        plan(MAC, 2, &["192.0.2.1"]),
    ] {
        let mut announcer = Announcer::new(Duration::ZERO, 1);
        announcer.serve(Duration::ZERO, &plan(MAC, 1, &["192.0.2.1"]));
        assert_eq!(times(&mut announcer, Duration::from_secs(1)), [0, 100]);
        announcer.serve(Duration::from_secs(1), &again);
        assert_eq!(times(&mut announcer, HOUR), [1_000, 1_100, 2_100, 3_200, 6_000]);
    }
}

#[test]
fn an_address_that_goes_is_not_announced_and_the_others_keep_their_times() {
    let mut announcer = Announcer::new(Duration::ZERO, 1);
    announcer.serve(Duration::ZERO, &plan(MAC, 1, &["192.0.2.1", "192.0.2.2"]));
    announcer.due(Duration::ZERO, 10);
    announcer.serve(Duration::from_millis(50), &plan(MAC, 1, &["192.0.2.2"]));
    let due = announcer.due(Duration::from_millis(100), 10);
    assert_eq!(
        due.iter().map(|due| due.address.to_string()).collect::<Vec<_>>(),
        ["192.0.2.2"; 2]
    );
    announcer.serve(Duration::from_millis(200), &Plan::new());
    assert_eq!(announcer.next_deadline(), None);
}

#[test]
fn only_an_owned_address_is_announced_and_one_that_comes_to_be_owned_at_once() {
    let mut announcer = Announcer::new(Duration::ZERO, 1);
    let start = Duration::from_secs(7);
    for stance in [Stance::Listen, Stance::StandIn([2, 0, 0, 0, 0, 9])] {
        let mut other = plan(MAC, 1, &["192.0.2.1"]);
        other.get_mut(&3).unwrap().addresses = BTreeMap::from([("192.0.2.1".parse().unwrap(), stance)]);
        announcer.serve(Duration::ZERO, &other);
        assert_eq!(announcer.next_deadline(), None, "{stance:?}");
        announcer.serve(start, &plan(MAC, 1, &["192.0.2.1"]));
        assert_eq!(times(&mut announcer, start * 2), [7_000, 7_100, 8_100, 9_200, 12_000]);
        announcer.serve(start * 2, &plan(MAC, 1, &["192.0.2.1"]));
        announcer.serve(start * 2, &other);
        assert_eq!(announcer.next_deadline(), None, "{stance:?} again");
    }
}

#[test]
fn what_is_announced_once_more_begins_anew() {
    let mut announcer = Announcer::new(Duration::ZERO, 1);
    announcer.serve(Duration::ZERO, &plan(MAC, 1, &["192.0.2.1", "192.0.2.2"]));
    times(&mut announcer, HOUR);
    let again = ["192.0.2.2", "192.0.2.9"].map(|address| address.parse().unwrap());
    announcer.again(Duration::from_secs(60), &again.into());
    assert_eq!(times(&mut announcer, HOUR), [60_000, 60_100, 61_100, 62_200, 65_000]);
}

#[test]
fn an_address_is_refreshed_as_is_told_for_it_and_a_change_counts_at_once() {
    let minute = Duration::from_secs(60);
    let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse::<IpAddr>().unwrap());
    let mut announcer = Announcer::new(minute, 1);
    announcer.serve(Duration::ZERO, &plan(MAC, 1, &["192.0.2.1", "192.0.2.2"]));
    announcer.refresh(Duration::ZERO, |address| (address == one).then_some(Duration::ZERO));
    let until = |announcer: &mut Announcer, end: Duration| {
        let mut sent = BTreeMap::new();
        while let Some(deadline) = announcer.next_deadline().filter(|deadline| *deadline < end) {
            *sent.entry(announcer.due(deadline, 1)[0].address).or_insert(0) += 1;
        }
        sent
    };
    assert_eq!(
        until(&mut announcer, minute / 10),
        BTreeMap::from([(one, 5), (other, 5)]),
        "the burst"
    );
    assert_eq!(
        until(&mut announcer, minute * 2),
        BTreeMap::from([(other, 1)]),
        "one of them never"
    );

    announcer.refresh(minute * 2, |address| {
        (address == one).then_some(Duration::from_secs(10))
    });
    let between = until(&mut announcer, minute * 3);
    assert!((5..=6).contains(&between[&one]), "{between:?}");
    assert_eq!(between[&other], 1, "{between:?}");

    announcer.refresh(minute * 3, |_| Some(Duration::ZERO));
    assert_eq!(announcer.next_deadline(), None);
    announcer.refresh(minute * 3, |_| None);
    assert_eq!(until(&mut announcer, minute * 3 + minute / 2), BTreeMap::new());
    assert_eq!(
        until(&mut announcer, minute * 4 + minute / 5),
        BTreeMap::from([(one, 1), (other, 1)])
    );
}

#[test]
fn another_interval_does_not_cut_a_burst_short() {
    let mut announcer = Announcer::new(Duration::ZERO, 1);
    announcer.serve(Duration::ZERO, &plan(MAC, 1, &["192.0.2.1"]));
    announcer.due(Duration::ZERO, 1);
    announcer.refresh(Duration::from_millis(50), |_| Some(Duration::from_secs(60)));
    let sent = times(&mut announcer, Duration::from_secs(100));
    assert_eq!(sent[..4], [100, 1_100, 2_200, 5_000]);
    assert_eq!(sent.len(), 5);
}

#[test]
fn steps_slept_through_are_skipped() {
    let mut announcer = Announcer::new(Duration::ZERO, 1);
    announcer.serve(Duration::ZERO, &plan(MAC, 1, &["192.0.2.1"]));
    assert_eq!(announcer.due(Duration::from_secs(3), 10).len(), 2);
    assert_eq!(announcer.next_deadline(), Some(Duration::from_secs(5)));
    assert_eq!(announcer.due(Duration::from_secs(60), 10).len(), 2);
    assert_eq!(announcer.next_deadline(), None);
}

#[test]
fn the_limit_leaves_the_rest_due() {
    let mut announcer = Announcer::new(Duration::ZERO, 1);
    announcer.serve(Duration::ZERO, &plan(MAC, 1, &["192.0.2.1", "192.0.2.2", "192.0.2.3"]));
    assert_eq!(announcer.due(Duration::ZERO, 2).len(), 4);
    assert_eq!(announcer.next_deadline(), Some(Duration::ZERO));
    assert_eq!(announcer.due(Duration::ZERO, 2).len(), 2);
}

#[test]
fn ipv4_is_announced_by_request_and_reply() {
    let [request, reply] = frames("192.0.2.1".parse().unwrap(), MAC).map(|frame| {
        let frame = frame.unwrap();
        let ether = ethernet::Frame::new(frame.as_bytes()).unwrap();
        assert_eq!(
            (ether.header().destination, ether.header().source),
            (ethernet::BROADCAST, MAC)
        );
        arp::Repr::parse(&arp::Packet::new(ether.payload()).unwrap()).unwrap()
    });
    let ip = "192.0.2.1".parse().unwrap();
    let expected = |operation, target_mac| arp::Repr {
        operation,
        sender_mac: MAC,
        sender_ip: ip,
        target_mac,
        target_ip: ip,
    };
    assert_eq!(request, expected(arp::Operation::Request, [0; 6]));
    assert_eq!(reply, expected(arp::Operation::Reply, MAC));
}

#[test]
fn ipv6_is_announced_by_an_overriding_advertisement_to_all_nodes() {
    let [Some(frame), None] = frames("2001:db8::1".parse().unwrap(), MAC) else {
        panic!("one frame")
    };
    let ether = ethernet::Frame::new(frame.as_bytes()).unwrap();
    assert_eq!(ether.header().destination, [0x33, 0x33, 0, 0, 0, 1]);
    let target = "2001:db8::1".parse().unwrap();
    assert_eq!(
        ndp::Repr::parse(&ndp::Packet::new(ether.payload()).unwrap()).unwrap(),
        ndp::Repr {
            source: target,
            destination: "ff02::1".parse().unwrap(),
            message: ndp::Message::Advertisement {
                target,
                target_mac: Some(MAC),
                router: false,
                solicited: false,
                overriding: true
            },
        }
    );
}

proptest! {
    #[test]
    fn refresh_comes_at_the_interval_give_or_take_a_tenth(seed: u64, seconds in 1u64..1_000) {
        let refresh = Duration::from_secs(seconds);
        let mut announcer = Announcer::new(refresh, seed);
        announcer.serve(Duration::ZERO, &plan(MAC, 1, &["192.0.2.1"]));
        let times = times(&mut announcer, refresh * 20);
        for pair in times[4..].windows(2) {
            let interval = (pair[1] - pair[0]) as u64;
            prop_assert!((seconds * 900 - 1..=seconds * 1_100 + 1).contains(&interval), "{}", interval);
        }
        prop_assert!(times.len() > 15);
    }

    /// Queue and entries agree, whatever changes when: nothing is sent that is not served, and what is served is sent.
    #[test]
    fn exactly_what_is_served_is_announced(
        steps in prop::collection::vec((0u64..4_000, prop::collection::btree_set(1u8..6, 0..5), 1u64..3), 1..12),
    ) {
        let mut announcer = Announcer::new(Duration::from_secs(60), 1);
        let mut now = Duration::ZERO;
        for (wait, hosts, generation) in steps {
            let addresses: Vec<String> = hosts.iter().map(|host| format!("192.0.2.{host}")).collect();
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            let served = plan(MAC, generation, &addresses);
            announcer.serve(now, &served);
            now += Duration::from_millis(wait);
            for due in announcer.due(now, 100) {
                prop_assert!(served[&3].owns(due.address));
            }
            prop_assert_eq!(announcer.entries.len(), hosts.len());
            prop_assert_eq!(announcer.queue.len(), hosts.len());
            prop_assert!(announcer.next_deadline().is_none_or(|deadline| deadline > now));
        }
    }
}
