//! The byte stream of a whole session, from our OPEN on, and the pauses in it: whatever a router sends, nothing panics,
//! what waits to be sent stays small, and every end is followed by a pause.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use ferrolb_bgp::session::{Local, Origin, Output, Session};
use ferrolb_bgp::{Attributes, Peer, RemoteAsn, Routes};
use libfuzzer_sys::fuzz_target;

/// A router's OPEN and KEEPALIVE; input that begins with an even octet comes after them.
const START: [u8; 72] = [
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 53, 1, 4, 252, 0, 0, 90, 10, 0,
    0, 9, 24, 2, 22, 1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 65, 4, 0, 0, 252, 0, 70, 0, 255, 255, 255, 255, 255,
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 19, 4,
];

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let mut peer = Peer::new([192, 0, 2, 9].into(), 64512, RemoteAsn::Is(64512), [10, 0, 0, 1].into());
    peer.families.v6 = true;
    let routes: Routes = [([10, 0, 0, 0], 24), ([10, 0, 1, 0], 24)]
        .into_iter()
        .map(|(address, length)| {
            let prefix = ipnet::Ipv4Net::new(address.into(), length).expect("a length of IPv4");
            (prefix.into(), Attributes::default())
        })
        .collect();
    let mut now = Duration::ZERO;
    let mut session = Session::new(now, Arc::new(peer), Arc::new(routes), now, 1);
    let local = Local {
        address: [192, 0, 2, 1].into(),
        v4: None,
        v6: None,
    };
    assert_eq!(session.poll(), Some(Output::Dial));
    let slot = session.connected(now, Origin::Dialled, local).expect("it dialled");
    if first % 2 == 0 {
        session.received(now, slot, &START);
        assert!(session.status().negotiated.is_some());
    }
    for chunk in data.chunks(1 + usize::from(*first)) {
        session.received(now, slot, chunk);
        let waiting = session.outgoing(slot).len();
        assert!(waiting < 64 * 1024, "{waiting} octets wait");
        session.sent(now, slot, waiting);
        while let Some(output) = session.poll() {
            assert_ne!(output, Output::Dial, "after an end comes a pause");
        }
        now += Duration::from_millis(1);
        session.tick(now);
    }
});
