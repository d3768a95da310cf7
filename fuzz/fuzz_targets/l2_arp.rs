//! ARP packets: nothing panics, and what is accepted is written back as it was read.
#![no_main]

use ferrolb_l2::wire::arp::{LENGTH, Packet, Repr};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(repr) = Packet::new(data).and_then(|packet| Repr::parse(&packet)) else {
        return;
    };
    let mut written = [0; LENGTH];
    repr.emit(&mut written);
    assert_eq!(written, data[..LENGTH]);
});
