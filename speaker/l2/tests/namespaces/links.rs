//! What a link makes of it: switches that snoop MLD hear of the groups, and a carrier that is lost counts at once.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use etherparse::checksum::Sum16BitWords;
use ferrolb_l2::wire::{ethernet, ndp};
use ferrolb_l2::{InterfaceState, Report};

use crate::lab::{CLIENT_MAC, Lab, Tap};
use crate::{V4, V6, ip, no_faults};

/// A record of a Version 2 Multicast Listener Report (RFC 3810 5.2): its type and its group.
type Record = (u8, Ipv6Addr);
/// The answer to a query that is a listener of all sources.
const MODE_IS_EXCLUDE: u8 = 2;
/// What a host says that has joined.
const CHANGE_TO_EXCLUDE: u8 = 4;

/// The records of a frame; none if it is no report. Reports come behind a hop-by-hop header of eight octets, the Router Alert.
fn records(frame: &[u8]) -> Vec<Record> {
    let report = frame.get(62..).filter(|report| report.first() == Some(&143));
    let Some(report) = report.filter(|_| frame[12..14] == [0x86, 0xdd] && frame[20] == 0 && frame[54..56] == [58, 0])
    else {
        return Vec::new();
    };
    let number = |octets: &[u8]| usize::from(u16::from_be_bytes([octets[0], octets[1]]));
    let (mut rest, mut records) = (&report[8..], Vec::new());
    for _ in 0..number(&report[6..]) {
        let group = <[u8; 16]>::try_from(&rest[4..20]).unwrap();
        records.push((rest[0], group.into()));
        rest = &rest[20 + 16 * number(&rest[2..]) + 4 * usize::from(rest[1])..];
    }
    records
}

/// A general query (RFC 3810 5.1), to be answered within a tenth of a second.
fn query() -> Vec<u8> {
    let (source, all): (Ipv6Addr, Ipv6Addr) = ("fe80::9".parse().unwrap(), ndp::ALL_NODES);
    let mut message = [0; 28];
    // Type; milliseconds; robustness; seconds between queries.
    (message[0], message[5], message[24], message[25]) = (130, 100, 2, 125);
    let sum = Sum16BitWords::new()
        .add_16bytes(source.octets())
        .add_16bytes(all.octets())
        .add_4bytes([0, 0, 0, 28])
        .add_2bytes([0, 58])
        .add_slice(&message);
    message[2..4].copy_from_slice(&sum.ones_complement().to_ne_bytes());
    let mut frame = [&ethernet::multicast(all)[..], &CLIENT_MAC, &[0x86, 0xdd]].concat();
    frame.extend([0x60, 0, 0, 0, 0, 36, 0, 1]);
    frame.extend(source.octets().into_iter().chain(all.octets()));
    // Next header, length; a Router Alert for MLD; padding.
    frame.extend([58, 0, 5, 2, 0, 0, 1, 0]);
    frame.extend(message);
    frame
}

fn reported(tap: &Tap, what: &str, kind: u8, groups: &[Ipv6Addr]) {
    let mut missing = groups.to_vec();
    while !missing.is_empty() {
        let frame = tap.until(what, |frame| !records(frame).is_empty());
        let records = records(&frame);
        missing.retain(|group| !records.contains(&(kind, *group)));
    }
}

/// A switch that snoops forwards solicitations only to ports it has heard a report of the group from.
#[test]
fn switches_hear_of_the_groups_again_and_again() {
    let others = ["fd99::2:3", "fd99::4:5"];
    let Some(mut lab) = Lab::new() else { return };
    let groups = [V6, others[0], others[1]].map(|address| match ip(address) {
        IpAddr::V6(address) => ndp::solicited_node(address),
        IpAddr::V4(_) => unreachable!("they are IPv6"),
    });
    let tap = lab.client.tap("c0");
    lab.engine.want(&[V6, others[0], others[1]]);
    reported(&tap, "reports of what was joined", CHANGE_TO_EXCLUDE, &groups);

    let tap = lab.client.tap("c0");
    lab.client.send_frames("c0", vec![query()]);
    reported(&tap, "reports that were asked for", MODE_IS_EXCLUDE, &groups);

    // Switched off, and without a carrier. A report of a change is sent twice within a second.
    for (host, port) in [(&lab.node, "eth0"), (&lab.client, "c0")] {
        host.ip(&format!("link set {port} down"));
        lab.engine.announcing(V6, &[]);
        host.ip(&format!("link set {port} up"));
        let tap = lab.client.tap("c0");
        lab.engine.announcing(V6, &["eth0"]);
        reported(&tap, "reports of a port that came back", CHANGE_TO_EXCLUDE, &groups);
    }
    no_faults(&lab.engine);
}

/// Loses the carrier of `eth0` some times; how long after it the address was announced nowhere, the second best: the kernel
/// tells of the first loss at once, and other tests need the processors, too.
fn silent_after(lab: &mut Lab, address: &str) -> Duration {
    let mut times = Vec::new();
    for _ in 0..7 {
        let start = Instant::now();
        lab.client.ip("link set c0 down");
        lab.engine.announcing(address, &[]);
        times.push(start.elapsed());
        lab.client.ip("link set c0 up");
        lab.engine.announcing(address, &["eth0"]);
    }
    times.sort();
    eprintln!("no carrier, no announcement after {times:?}");
    times[1]
}

/// The kernel itself tells of a lost carrier up to a second after it told of another change: at once of the first, and late of
/// those that follow.
#[test]
fn a_lost_carrier_counts_within_a_tenth_of_a_second_with_and_without_a_subnet() {
    const IN_TIME: Duration = Duration::from_millis(100);
    let Some(mut lab) = Lab::new() else { return };
    lab.engine.want(&[V4]);
    lab.engine.announcing(V4, &["eth0"]);
    let with_subnet = silent_after(&mut lab, V4);
    assert!(with_subnet < IN_TIME, "with a subnet: {with_subnet:?}");
    lab.node.ip("addr flush dev eth0 scope global");
    lab.engine.until("no subnet", |report| match report {
        Report::Interfaces(interfaces) => interfaces.iter().any(without_subnet),
        _ => false,
    });
    let without = silent_after(&mut lab, V4);
    assert!(without < IN_TIME, "without one: {without:?}");
}

/// Has `eth0` no address but its link-local one?
fn without_subnet(state: &InterfaceState) -> bool {
    let link_local = |address| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    state.name == "eth0" && state.addresses.iter().all(|net| link_local(net.addr()))
}
