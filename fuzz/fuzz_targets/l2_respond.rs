//! Whole frames: whatever arrives, an answer is about an address announced here, says this interface's MAC and goes to
//! one station, or to all nodes when it defends against duplicate detection.
#![no_main]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferrolb_l2::responder::{Action, Port, respond};
use ferrolb_l2::wire::ethernet;
use libfuzzer_sys::fuzz_target;

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

fuzz_target!(|data: &[u8]| {
    let own_macs = BTreeSet::from([OWN]);
    let addresses = BTreeSet::from([
        IpAddr::V4(Ipv4Addr::new(10, 99, 0, 100)),
        IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0x100)),
    ]);
    match respond(
        data,
        Port {
            mac: OWN,
            own_macs: &own_macs,
            addresses: &addresses,
        },
    ) {
        Action::Reply { address, frame } => {
            assert!(addresses.contains(&address));
            let header = ethernet::Frame::new(frame.as_bytes()).expect("a whole frame").header();
            assert_eq!(header.source, OWN);
            assert!(!ethernet::is_group(header.destination) || header.destination == ALL_NODES);
        }
        Action::Conflict { address, mac } => {
            assert!(addresses.contains(&address));
            assert_ne!(mac, OWN);
        }
        Action::Ignore(_) => {}
    }
});
