//! What a predecessor hands over: words, sessions of BGP and of BFD, as any bytes. At worst they are none.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use ferrolb_bfd::{LentSession, session};
use ferrolb_bgp::session::{Local, Session};
use ferrolb_bgp::{Handed, Peer, RemoteAsn, Routes};
use ferrolb_handover::frame::{HEADER, Header, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(header) = data.first_chunk::<HEADER>() {
        let _ = Header::parse(*header);
    }
    let _ = parse(data);
    let _ = serde_json::from_slice::<LentSession>(data);
    let now = Duration::from_secs(1);
    if let Ok(mut session) = serde_json::from_slice::<session::Session>(data) {
        let _ = session.next_deadline();
        session.tick(now);
        let _ = session.transmit(now, 7);
        let _ = session.next_deadline();
    }
    let Ok(handed) = serde_json::from_slice::<Handed>(data) else {
        return;
    };
    let peer = Peer::new([192, 0, 2, 9].into(), 64512, RemoteAsn::Is(64512), [10, 0, 0, 1].into());
    let local = Local {
        address: [192, 0, 2, 1].into(),
        v4: None,
        v6: None,
    };
    let wanted = (Arc::new(peer), Arc::<Routes>::default());
    if let Some((mut session, slot)) = Session::adopt(now, wanted, now, 1, (&handed, local)) {
        session.tick(now);
        session.sent(now, slot, session.outgoing(slot).len());
        let _ = session.deadline();
    }
});
