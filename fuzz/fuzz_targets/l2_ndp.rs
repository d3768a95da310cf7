//! Neighbor Discovery packets: nothing panics, and what is accepted reads the same after being written.
//!
//! Random bytes seldom have the right checksum, so the target puts it there: the rules behind it are reached too.
#![no_main]

use ferrolb_l2::wire::Malformed;
use ferrolb_l2::wire::ndp::{Packet, Repr};
use libfuzzer_sys::fuzz_target;

fn parse(data: &[u8]) -> Result<Repr, Malformed> {
    Repr::parse(&Packet::new(data)?)
}

/// Sums the pseudo header and the message as RFC 1071 says, with the checksum field taken as 0.
fn with_checksum(data: &[u8]) -> Option<Vec<u8>> {
    let mut data = data.to_vec();
    let length = usize::from(u16::from_be_bytes([*data.get(4)?, *data.get(5)?]));
    let (addresses, message) = data.split_at_mut_checked(40)?;
    let message = message.get_mut(..length).filter(|message| message.len() >= 4)?;
    message[2..4].fill(0);
    let pairs = |bytes: &[u8]| -> u32 {
        bytes
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
            .sum()
    };
    let mut sum = pairs(&addresses[8..40]) + pairs(message) + length as u32 + 58;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    Some(data)
}

fuzz_target!(|data: &[u8]| {
    let _ = parse(data);
    let Some(data) = with_checksum(data) else { return };
    match parse(&data) {
        Ok(repr) => {
            let mut written = vec![0; repr.length()];
            repr.emit(&mut written);
            assert_eq!(parse(&written), Ok(repr));
        }
        Err(rule) => assert_ne!(rule, Malformed::Checksum),
    }
});
