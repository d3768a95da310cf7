//! Router Advertisements (RFC 4861 section 4.2) and Router Solicitations (section 4.1), as a raw socket has them: from
//! the ICMPv6 header on, the checksum left to the kernel.
//!
//! Strict: everything section 6.1.2 tells a receiver to discard is refused. Options other than the link-layer address
//! are skipped, their lengths checked.

use std::net::Ipv6Addr;

/// The address of a network card.
pub type Mac = [u8; 6];

/// The longest message written here, in octets.
pub const MAX_LENGTH: usize = FIXED + OPTION;

const TYPE_SOLICITATION: u8 = 133;
/// The ICMPv6 type of an advertisement.
pub(super) const TYPE_ADVERTISEMENT: u8 = 134;
/// Type, code, checksum, hop limit, flags, lifetime, two times.
const FIXED: usize = 16;
/// Type, code, checksum, four reserved octets.
const FIXED_SOLICITATION: usize = 8;
const OPTION: usize = 8;
const OPTION_SOURCE: u8 = 1;
/// What was not forwarded has it.
pub const HOP_LIMIT: u8 = 255;

/// The rule an advertisement breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The octets end before the message does.
    #[error("shorter than a Router Advertisement")]
    Truncated,
    /// Another ICMPv6 message.
    #[error("not a Router Advertisement")]
    Type,
    /// The code is not 0.
    #[error("ICMPv6 code is not 0")]
    Code,
    /// It may have crossed a router.
    #[error("hop limit is not 255")]
    HopLimit,
    /// Routers speak of themselves by their link-local address.
    #[error("source address is not link-local")]
    Source,
    /// An option has length 0 or is longer than the message.
    #[error("an option of impossible length")]
    OptionLength,
}

/// What is of interest in an advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// For how long the sender may be used as a default router, in seconds; 0 is not at all.
    pub lifetime: u16,
    /// The sender's card.
    pub mac: Option<Mac>,
}

impl Advertisement {
    /// Reads a message that came from `source` with `hop_limit`.
    pub fn parse(message: &[u8], source: Ipv6Addr, hop_limit: u8) -> Result<Advertisement, Malformed> {
        match message {
            [TYPE_ADVERTISEMENT, 0, ..] => {}
            [TYPE_ADVERTISEMENT, _, ..] => return Err(Malformed::Code),
            [_, _, ..] => return Err(Malformed::Type),
            _ => return Err(Malformed::Truncated),
        }
        if hop_limit != HOP_LIMIT {
            return Err(Malformed::HopLimit);
        }
        if !source.is_unicast_link_local() {
            return Err(Malformed::Source);
        }
        let (fixed, options) = message.split_first_chunk::<FIXED>().ok_or(Malformed::Truncated)?;
        Ok(Advertisement {
            lifetime: u16::from_be_bytes([fixed[6], fixed[7]]),
            mac: source_mac(options)?,
        })
    }

    /// Writes the message to `buffer`; how many octets of it. All it tells is who the sender is: no times, no prefixes,
    /// no flags.
    pub fn emit(&self, buffer: &mut [u8; MAX_LENGTH]) -> usize {
        buffer.fill(0);
        buffer[0] = TYPE_ADVERTISEMENT;
        buffer[6..8].copy_from_slice(&self.lifetime.to_be_bytes());
        emit_option(buffer, FIXED, self.mac)
    }
}

/// Writes a solicitation to `buffer`; how many octets of it.
pub fn emit_solicitation(mac: Option<Mac>, buffer: &mut [u8; MAX_LENGTH]) -> usize {
    buffer.fill(0);
    buffer[0] = TYPE_SOLICITATION;
    emit_option(buffer, FIXED_SOLICITATION, mac)
}

fn emit_option(buffer: &mut [u8; MAX_LENGTH], at: usize, mac: Option<Mac>) -> usize {
    let Some(mac) = mac else { return at };
    buffer[at] = OPTION_SOURCE;
    buffer[at + 1] = 1;
    buffer[at + 2..at + OPTION].copy_from_slice(&mac);
    at + OPTION
}

/// The first source link-layer address of Ethernet's length, after checking the lengths of all options.
fn source_mac(mut options: &[u8]) -> Result<Option<Mac>, Malformed> {
    let mut found = None;
    while !options.is_empty() {
        let length = options.get(1).map_or(0, |units| usize::from(*units) * 8);
        if length == 0 || length > options.len() {
            return Err(Malformed::OptionLength);
        }
        let (option, following) = options.split_at(length);
        if option[0] == OPTION_SOURCE && length == OPTION {
            found = found.or(option[2..].first_chunk().copied());
        }
        options = following;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    /// What FRR 8.4 sends on a link of an interface neighbour.
    const OF_FRR: [u8; 24] = [
        134, 0, 0x12, 0x34, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 9,
    ];

    #[test]
    fn an_advertisement_is_read() {
        let read = Advertisement::parse(&OF_FRR, ROUTER, 255);
        let expected = Advertisement {
            lifetime: 1800,
            mac: Some(MAC),
        };
        assert_eq!(read, Ok(expected));
        // An MTU before it, a link-layer address of another length instead of it.
        let mtu = [&OF_FRR[..16], &[5, 1, 0, 0, 0, 0, 5, 220], &OF_FRR[16..]].concat();
        assert_eq!(Advertisement::parse(&mtu, ROUTER, 255), Ok(expected));
        let long = [&OF_FRR[..16], &[1, 2], &[0; 14]].concat();
        assert_eq!(
            Advertisement::parse(&long, ROUTER, 255),
            Ok(Advertisement { mac: None, ..expected })
        );
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        let global = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 9);
        let with = |at: usize, octet: u8| {
            let mut message = OF_FRR.to_vec();
            message[at] = octet;
            message
        };
        for (message, source, hop_limit, rule) in [
            (OF_FRR[..1].to_vec(), ROUTER, 255, Malformed::Truncated),
            (OF_FRR[..15].to_vec(), ROUTER, 255, Malformed::Truncated),
            (with(0, 135), ROUTER, 255, Malformed::Type),
            (with(1, 1), ROUTER, 255, Malformed::Code),
            (OF_FRR.to_vec(), ROUTER, 254, Malformed::HopLimit),
            (OF_FRR.to_vec(), global, 255, Malformed::Source),
            (with(17, 0), ROUTER, 255, Malformed::OptionLength),
            (with(17, 2), ROUTER, 255, Malformed::OptionLength),
            (OF_FRR[..17].to_vec(), ROUTER, 255, Malformed::OptionLength),
        ] {
            assert_eq!(Advertisement::parse(&message, source, hop_limit), Err(rule));
        }
    }

    #[test]
    fn ours_says_that_we_are_no_default_router() {
        let mut buffer = [0xff; MAX_LENGTH];
        let ours = Advertisement {
            lifetime: 0,
            mac: Some(MAC),
        };
        assert_eq!(ours.emit(&mut buffer), 24);
        assert_eq!(buffer[..16], [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(buffer[16..], [1, 1, 2, 0, 0, 0, 0, 9]);
        assert_eq!(emit_solicitation(Some(MAC), &mut buffer), 16);
        assert_eq!(buffer[..16], [133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 9]);
        assert_eq!(emit_solicitation(None, &mut buffer), 8);
    }

    proptest! {
        #[test]
        fn no_octets_panic(
            message in prop::collection::vec(any::<u8>(), 0..80),
            source: Ipv6Addr, hop_limit in prop_oneof![Just(255), any::<u8>()],
        ) {
            let _ = Advertisement::parse(&message, source, hop_limit);
            let advertisement = [&[TYPE_ADVERTISEMENT, 0], &message[..]].concat();
            let _ = Advertisement::parse(&advertisement, ROUTER, 255);
        }

        #[test]
        fn what_is_written_is_read(lifetime: u16, mac: Option<Mac>) {
            let written = Advertisement { lifetime, mac };
            let mut buffer = [0; MAX_LENGTH];
            let length = written.emit(&mut buffer);
            prop_assert_eq!(Advertisement::parse(&buffer[..length], ROUTER, 255), Ok(written));
        }
    }
}
