//! The body of an UPDATE message on a session that is up: the session stays up, or ends with an UPDATE Message Error.
#![no_main]

use ferrolb_bgp::proto::{Action, Decoder, Machine, Open, Phase, Seen};
use ferrolb_bgp::settings::RemoteAsn;
use ferrolb_model::FamilySet;
use libfuzzer_sys::fuzz_target;

/// OPEN of AS 64512 with both families and AS numbers of four octets, KEEPALIVE.
const START: [u8; 72] = [
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 53, 1, 4, 252, 0, 0, 90, 10, 0,
    0, 9, 24, 2, 22, 1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 65, 4, 0, 0, 252, 0, 70, 0, 255, 255, 255, 255, 255,
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 19, 4,
];

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    if data.len() > 4077 {
        return;
    }
    let (mut machine, _) = Machine::start(Open {
        // Internal or external.
        local_asn: 64512 + u32::from(first % 2),
        remote_asn: RemoteAsn::Is(64512),
        router_id: [10, 0, 0, 1].into(),
        hold_time: 90,
        families: FamilySet { v4: true, v6: true },
        graceful_restart: None,
        restarting: false,
    });
    let mut decoder = Decoder::default();
    decoder.push(&START);
    while let Some(incoming) = decoder.next_message() {
        machine.receive(incoming);
    }
    assert_eq!(machine.phase(), Phase::Established);
    let length = (19 + data.len()) as u16;
    decoder.push(&[&[0xff; 16], &length.to_be_bytes()[..], &[2], data].concat());
    let incoming = decoder.next_message().expect("a whole message");
    let actions = machine.receive(incoming);
    let judged = actions
        .iter()
        .any(|action| matches!(action, Action::Seen(Seen::Update(_))));
    match machine.phase() {
        Phase::Established => assert!(judged),
        Phase::Closed => assert!(
            actions
                .iter()
                .any(|a| matches!(a, Action::Notify(n, _) if matches!(n.code, 1 | 3)))
        ),
        phase => panic!("{phase:?}"),
    }
});
