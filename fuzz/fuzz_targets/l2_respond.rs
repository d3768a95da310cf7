//! Whole frames: whatever arrives, an answer is about an address answered for here, is sent by this interface's MAC to
//! one station, or to all nodes when it defends against duplicate detection; and what is seen is another station's. The
//! same of the octets as a message of a raw socket, with the first of them as the source.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferrolb_l2::plan::Stance;
use ferrolb_l2::responder::{Action, Decision, Port, respond, respond_to_solicitation};
use ferrolb_l2::wire::ethernet;
use libfuzzer_sys::fuzz_target;

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OWNER: [u8; 6] = [2, 0, 0, 0, 0, 6];
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

fuzz_target!(|data: &[u8]| {
    let stances = [Stance::Own, Stance::StandIn(OWNER), Stance::Listen];
    let of = |host: u16| {
        [
            IpAddr::V4(Ipv4Addr::new(10, 99, 0, host as u8)),
            IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, host)),
        ]
    };
    let addresses: BTreeMap<IpAddr, Stance> = (100..)
        .zip(stances)
        .flat_map(|(host, stance)| of(host).map(|address| (address, stance)))
        .collect();
    let peers = BTreeSet::from(of(2));
    let port = Port {
        mac: OWN,
        own_macs: &BTreeSet::from([OWN]),
        members: &BTreeSet::new(),
        addresses: &addresses,
        peers: &peers,
    };
    check(respond(data, port), port);
    if let Some((source, message)) = data.split_first_chunk::<16>() {
        check(respond_to_solicitation(Ipv6Addr::from(*source), message, port), port);
    }
});

fn check(decision: Decision, port: Port<'_>) {
    let Port { addresses, peers, .. } = port;
    match decision.action {
        Action::Reply {
            request,
            for_owner,
            frame,
        } => {
            let stance = addresses[&request.address()];
            assert_ne!(stance, Stance::Listen);
            assert_eq!(for_owner, stance != Stance::Own);
            let header = ethernet::Frame::new(frame.as_bytes()).expect("a whole frame").header();
            assert_eq!(header.source, OWN);
            assert!(!ethernet::is_group(header.destination) || header.destination == ALL_NODES);
        }
        Action::Remember(request) => assert_eq!(addresses[&request.address()], Stance::Listen),
        Action::Conflict { address, mac } => {
            assert_eq!(addresses[&address], Stance::Own);
            assert_ne!(mac, OWN);
        }
        Action::Note => assert!(decision.sighting.is_some()),
        Action::Ignore(_) => assert_eq!(decision.sighting, None),
    }
    if let Some(seen) = decision.sighting {
        assert!(addresses.contains_key(&seen.address) || peers.contains(&seen.address));
        assert!(seen.mac != OWN && seen.source != OWN);
    }
}
