//! BFD control packets and the session they belong to: nothing panics, what is accepted is written back as it was read,
//! and whatever arrives a session has only a few packets due, slow ones until it is Up.
#![no_main]

use std::num::NonZeroU32;
use std::time::Duration;

use ferrolb_bfd::Settings;
use ferrolb_bfd::packet::{LENGTH, Packet, Repr, State};
use ferrolb_bfd::session::Session;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let settings = Settings {
        receive: Duration::from_millis(50),
        transmit: Duration::from_millis(50),
        multiplier: 3,
        passive: data.first().is_some_and(|octet| octet & 1 == 0),
    };
    let mut session = Session::new(NonZeroU32::MIN, settings);
    let mut now = Duration::ZERO;
    for (number, data) in data.chunks(LENGTH + 1).enumerate() {
        now += Duration::from_millis(data.last().copied().unwrap_or(0).into());
        session.tick(now);
        if let Ok(packet) = Packet::new(data).and_then(|packet| Repr::parse(&packet)) {
            let mut expected = [0; LENGTH];
            expected.copy_from_slice(&data[..LENGTH]);
            expected[3] = LENGTH as u8;
            assert_eq!(packet.emit(), expected);
            session.receive(now, &packet);
        }
        let due = std::iter::from_fn(|| session.transmit(now, number as u32)).take(4);
        let due: Vec<Repr> = due.collect();
        assert!(due.len() < 4);
        for packet in due {
            assert!(packet.state == State::Up || packet.desired_transmit >= 1_000_000);
            assert!(!(packet.poll && packet.r#final));
        }
        assert!(
            session
                .next_deadline()
                .is_none_or(|at| at > now || session.expires_at() <= Some(now))
        );
    }
});
