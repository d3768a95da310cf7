//! The body of an OPEN message: it is accepted, or answered with an OPEN Message Error.
#![no_main]

use ferrolb_bgp::proto::{Action, Decoder, Machine, Notification, Open, Phase};
use ferrolb_bgp::settings::{GracefulRestart, RemoteAsn};
use ferrolb_model::FamilySet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if data.len() > 4077 {
        return;
    }
    let (mut machine, _) = Machine::start(Open {
        local_asn: 64512,
        remote_asn: RemoteAsn::External,
        router_id: [10, 0, 0, 1].into(),
        hold_time: 90,
        families: FamilySet { v4: true, v6: true },
        graceful_restart: Some(GracefulRestart { restart_time: 120 }),
        restarting: true,
    });
    let length = (19 + data.len()) as u16;
    let mut decoder = Decoder::default();
    decoder.push(&[&[0xff; 16], &length.to_be_bytes()[..], &[1], data].concat());
    let incoming = decoder.next_message().expect("a whole message");
    let actions = machine.receive(incoming);
    let told = actions.iter().find_map(|action| match action {
        Action::Notify(Notification { code, .. }, _) => Some(*code),
        _ => None,
    });
    match machine.phase() {
        Phase::OpenConfirm => {
            let agreed = machine.negotiated().expect("both OPEN messages are there");
            assert!(agreed.hold_time == 0 || (3..=90).contains(&agreed.hold_time));
            assert!(agreed.asn != 64512 && agreed.asn != 0 && !agreed.families.is_empty());
        }
        Phase::Closed => assert!(matches!(told, Some(1 | 2)), "{told:?}"),
        phase => panic!("{phase:?}"),
    }
});
