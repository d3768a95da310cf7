//! Datagrams between speakers: nothing panics, what is accepted is written back as it was read, and a guard that is told
//! anything, rightly signed, has an answer and no deadline that a tick does not move.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_liveness::wire::{Header, Packet};
use ferrolb_liveness::{Duties, Duty, Ground, Guard, Input, InterfaceChoice, Keyring, Manner, Placement, Timing};
use libfuzzer_sys::fuzz_target;

fn duties(keys: &Keyring) -> Duties {
    let node = |octet: u8| IpAddr::V4(Ipv4Addr::new(10, 0, 0, octet));
    let duty = |owner: &str, standby: &str| {
        Arc::new(Duty {
            object: "uid".into(),
            placement: Placement {
                owner: owner.into(),
                standbys: vec![standby.into()],
                epoch: 1,
            },
            previous_owner: None,
            interfaces: InterfaceChoice::All,
            may_announce: true,
            timing: Timing::default(),
            manner: Manner::default(),
        })
    };
    Duties {
        node: "a".into(),
        boot: 1,
        keys: keys.clone(),
        peers: BTreeMap::from([("b".into(), BTreeSet::from([node(2)]))]),
        addresses: BTreeMap::from([(node(10), duty("a", "b")), (node(11), duty("b", "a"))]),
    }
}

fuzz_target!(|data: &[u8]| {
    let keys = Keyring::new(0, [(0, b"key".as_slice())]);
    let mut guard = Guard::new(1, Arc::default());
    let mut now = Duration::ZERO;
    guard.handle(Input::Duties(Arc::new(duties(&keys))), now);
    guard.handle(
        Input::Ground(Arc::new(Ground {
            answering: true,
            links: Vec::new(),
        })),
        now,
    );
    for data in data.split(|octet| *octet == b'\n') {
        let _ = Packet::new(data).map(|packet| packet.message());
        let mut bytes = data.to_vec();
        bytes.extend(keys.sign(0, data).unwrap_or_default());
        let Ok(packet) = Packet::new(&bytes) else { continue };
        if let Ok(message) = packet.message() {
            let header = Header {
                key: packet.key(),
                boot: packet.boot(),
                sequence: packet.sequence(),
                sender: packet.sender(),
            };
            assert_eq!(header.emit(&message), data);
        }
        now += Duration::from_millis(data.len() as u64);
        let waited = Duration::from_millis(data.first().copied().unwrap_or_default().into());
        let at = now.saturating_sub(waited);
        guard.handle(
            Input::Datagram {
                from: Ipv4Addr::LOCALHOST.into(),
                bytes: &bytes,
                at,
            },
            now,
        );
        if guard.next_deadline().is_some_and(|at| at <= now) {
            guard.handle(Input::Tick, now);
        }
        assert!(guard.next_deadline().is_none_or(|at| at > now));
    }
});
