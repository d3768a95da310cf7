//! Questions about addresses that are no node's yet, to real kernels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ferrolb_l2::{Finding, InterfaceChoice, InterfaceState, Mac, NamePattern, Report, probe};

use crate::lab::{CLIENT_MAC, Lab};

fn ask(lab: &mut Lab, addresses: &[&str], members: &[Mac]) -> (BTreeMap<IpAddr, Finding>, Duration) {
    let usable = |states: &[InterfaceState]| {
        let eth0 = states.iter().find(|state| state.name == "eth0");
        eth0.is_some_and(|state| state.running() && state.addresses.len() >= 2)
    };
    let known = |report: &Report| matches!(report, Report::Interfaces(states) if usable(states));
    if !lab.engine.seen.iter().any(known) {
        lab.engine.until("the interfaces", known);
    }
    let links = lab.engine.seen.iter().rev().find_map(|report| match report {
        Report::Interfaces(states) => Some(states.clone()),
        _ => None,
    });
    let links = links.expect("it was waited for");
    let addresses = addresses
        .iter()
        .map(|a| (a.parse().unwrap(), InterfaceChoice::All))
        .collect();
    let members = members.iter().copied().collect::<BTreeSet<_>>();
    lab.node.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let start = Instant::now();
        let found = runtime.block_on(probe(&addresses, &links, &NamePattern::defaults(), &members));
        (found, start.elapsed())
    })
}

#[test]
fn a_kernel_that_has_an_address_is_found_and_the_question_leaves_no_trace() {
    let Some(mut lab) = Lab::new() else { return };
    lab.client.ip("addr add 10.99.0.50/24 dev c0");
    lab.client.ip("addr add fd99::50/64 dev c0 nodad");
    let all = ["10.99.0.50", "10.99.0.51", "fd99::50", "fd99::51"];
    let (found, took) = ask(&mut lab, &all, &[]);
    let occupied = Finding::Occupied {
        interface: "eth0".to_owned(),
        mac: CLIENT_MAC,
    };
    let expected = [occupied.clone(), Finding::Clear, occupied, Finding::Clear];
    let expected = all
        .iter()
        .map(|a| a.parse().unwrap())
        .zip(expected)
        .collect::<BTreeMap<IpAddr, _>>();
    assert_eq!(found, expected);
    assert!(
        took >= Duration::from_millis(30),
        "who is silent is asked to the end: {took:?}"
    );
    for address in &all {
        let known = lab.client.neighbour(address.parse().unwrap());
        assert_eq!(known, None, "the question says nothing about {address}");
    }

    let (found, _) = ask(&mut lab, &all[..1], &[CLIENT_MAC]);
    assert_eq!(
        found.values().collect::<Vec<_>>(),
        [&Finding::Clear],
        "a member is no stranger"
    );
}

#[test]
fn where_nobody_can_be_asked_nothing_is_found() {
    let Some(lab) = Lab::new() else { return };
    let links: Vec<InterfaceState> = Vec::new();
    let found = lab.node.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let addresses = BTreeMap::from([("10.99.0.50".parse().unwrap(), InterfaceChoice::All)]);
        runtime.block_on(probe(&addresses, &links, &[], &BTreeSet::new()))
    });
    assert_eq!(found.into_values().collect::<Vec<_>>(), [Finding::NotAsked]);
}
