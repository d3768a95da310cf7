//! Neighbor Solicitations and Advertisements (RFC 4861 4.3, 4.4) with the IPv6 header they come in.
//!
//! Strict: everything sections 7.1.1 and 7.1.2 tell a receiver to discard is refused. Options other than the
//! link-layer address of the kind that belongs to the message are skipped, their lengths checked. Of two link-layer
//! addresses the first counts. Extension headers before the ICMPv6 header are refused: hosts send none here, and
//! fragments are forbidden (RFC 6980).

use std::net::Ipv6Addr;

use super::{Malformed, bytes};
use crate::seam::Mac;

/// All nodes on the link: `ff02::1`.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The solicited-node group of an address: `ff02::1:ff` and its last 24 bits (RFC 4291 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    const PREFIX: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from_bits(PREFIX | (address.to_bits() & 0x00ff_ffff))
}

const IP_HEADER: usize = 40;
/// Type, code, checksum, flags, target.
const FIXED: usize = 24;
const OPTION: usize = 8;
/// Length of the longest packet [`Repr::emit`] writes, in octets.
pub const MAX_LENGTH: usize = IP_HEADER + FIXED + OPTION;

const NEXT_HEADER_ICMPV6: u8 = 58;
const HOP_LIMIT: u8 = 255;
const TYPE_SOLICITATION: u8 = 135;
const TYPE_ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
const FLAG_ROUTER: u8 = 0x80;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;

/// An IPv6 packet that carries a whole solicitation or advertisement; its fields as they are.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    header: &'a [u8; IP_HEADER],
    icmp: Icmp<'a>,
}

impl<'a> Packet<'a> {
    /// Checks version, next header, lengths and type. Octets beyond the IPv6 payload are padding.
    pub fn new(data: &'a [u8]) -> Result<Packet<'a>, Malformed> {
        let (header, payload) = data.split_first_chunk::<IP_HEADER>().ok_or(Malformed::Truncated)?;
        if header[0] >> 4 != 6 || header[6] != NEXT_HEADER_ICMPV6 {
            return Err(Malformed::NotNeighborDiscovery);
        }
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let icmp = Icmp::new(payload.get(..length).ok_or(Malformed::Truncated)?)?;
        Ok(Packet { header, icmp })
    }

    /// Source address of the IPv6 header.
    pub fn source(&self) -> Ipv6Addr {
        self.header_address(8)
    }

    /// Destination address of the IPv6 header.
    pub fn destination(&self) -> Ipv6Addr {
        self.header_address(24)
    }

    /// Hop limit of the IPv6 header.
    pub fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// ICMPv6 code.
    pub fn code(&self) -> u8 {
        self.icmp.fixed[1]
    }

    /// Does the ICMPv6 checksum hold?
    pub fn checksum_holds(&self) -> bool {
        checksum(self.source(), self.destination(), self.icmp.whole) == 0
    }

    /// The address asked for, or advertised.
    pub fn target(&self) -> Ipv6Addr {
        self.icmp.target()
    }

    fn header_address(&self, offset: usize) -> Ipv6Addr {
        Ipv6Addr::from(bytes::<16>(self.header, offset).expect("both addresses lie inside the header"))
    }
}

/// The ICMPv6 message of a solicitation or advertisement.
#[derive(Clone, Copy, Debug)]
struct Icmp<'a> {
    fixed: &'a [u8; FIXED],
    whole: &'a [u8],
}

impl<'a> Icmp<'a> {
    /// Checks type and length.
    fn new(whole: &'a [u8]) -> Result<Icmp<'a>, Malformed> {
        match whole.first() {
            Some(&(TYPE_SOLICITATION | TYPE_ADVERTISEMENT)) => {}
            Some(_) => return Err(Malformed::NotNeighborDiscovery),
            None => return Err(Malformed::Truncated),
        }
        let fixed = whole.first_chunk().ok_or(Malformed::Truncated)?;
        Ok(Icmp { fixed, whole })
    }

    /// Checks code and target.
    fn check(&self) -> Result<(), Malformed> {
        if self.fixed[1] != 0 {
            return Err(Malformed::Code);
        }
        if self.target().is_multicast() {
            return Err(Malformed::Target);
        }
        Ok(())
    }

    fn target(&self) -> Ipv6Addr {
        Ipv6Addr::from(bytes::<16>(self.fixed, 8).expect("the target lies inside the fixed part"))
    }

    fn flag(&self, flag: u8) -> bool {
        self.fixed[4] & flag != 0
    }

    fn message(&self) -> Result<Message, Malformed> {
        let target = self.target();
        Ok(if self.fixed[0] == TYPE_SOLICITATION {
            Message::Solicitation {
                target,
                source_mac: self.link_layer_address(OPTION_SOURCE)?,
            }
        } else {
            Message::Advertisement {
                target,
                target_mac: self.link_layer_address(OPTION_TARGET)?,
                router: self.flag(FLAG_ROUTER),
                solicited: self.flag(FLAG_SOLICITED),
                overriding: self.flag(FLAG_OVERRIDE),
            }
        })
    }

    /// The first link-layer address of this kind, after checking the lengths of all options.
    fn link_layer_address(&self, kind: u8) -> Result<Option<Mac>, Malformed> {
        let mut rest = &self.whole[FIXED..];
        let mut found = None;
        while !rest.is_empty() {
            let length = rest.get(1).map_or(0, |units| usize::from(*units) * 8);
            if length == 0 || length > rest.len() {
                return Err(Malformed::OptionLength);
            }
            let (option, following) = rest.split_at(length);
            if option[0] == kind && found.is_none() {
                if length != OPTION {
                    return Err(Malformed::OptionLength);
                }
                found = bytes(option, 2);
            }
            rest = following;
        }
        Ok(found)
    }
}

/// What a packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks for the link-layer address of the target.
    Solicitation {
        /// The address asked for.
        target: Ipv6Addr,
        /// Source link-layer address option.
        source_mac: Option<Mac>,
    },
    /// Tells the link-layer address of the target.
    Advertisement {
        /// The address advertised.
        target: Ipv6Addr,
        /// Target link-layer address option.
        target_mac: Option<Mac>,
        /// R: the sender is a router.
        router: bool,
        /// S: answers a solicitation.
        solicited: bool,
        /// O: replaces what the receiver has cached.
        overriding: bool,
    },
}

impl Message {
    /// Reads the ICMPv6 message of a packet whose hop limit and checksum somebody else has looked at, under the rules
    /// that need nothing of its IPv6 header.
    pub fn parse(icmp: &[u8]) -> Result<Message, Malformed> {
        let icmp = Icmp::new(icmp)?;
        icmp.check()?;
        icmp.message()
    }
}

/// A packet as a value. The hop limit is 255, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source address of the IPv6 header.
    pub source: Ipv6Addr,
    /// Destination address of the IPv6 header.
    pub destination: Ipv6Addr,
    /// The message.
    pub message: Message,
}

impl Repr {
    /// Reads a packet under the rules above.
    pub fn parse(packet: &Packet<'_>) -> Result<Repr, Malformed> {
        let (source, destination) = (packet.source(), packet.destination());
        if packet.hop_limit() != HOP_LIMIT {
            return Err(Malformed::HopLimit);
        }
        packet.icmp.check()?;
        if !packet.checksum_holds() {
            return Err(Malformed::Checksum);
        }
        let message = packet.icmp.message()?;
        match message {
            Message::Solicitation { source_mac, .. } => {
                let to_group = destination == solicited_node(destination);
                if source.is_unspecified() && (source_mac.is_some() || !to_group) {
                    return Err(Malformed::Unspecified);
                }
            }
            Message::Advertisement { solicited, .. } => {
                if solicited && destination.is_multicast() {
                    return Err(Malformed::SolicitedMulticast);
                }
            }
        }
        Ok(Repr {
            source,
            destination,
            message,
        })
    }

    /// Length of the packet in octets, the IPv6 header included.
    pub fn length(&self) -> usize {
        let (Message::Solicitation { source_mac: mac, .. } | Message::Advertisement { target_mac: mac, .. }) =
            self.message;
        IP_HEADER + FIXED + if mac.is_some() { OPTION } else { 0 }
    }

    /// Writes the packet to `buffer`.
    ///
    /// # Panics
    /// If `buffer` is not [`Repr::length`] long.
    pub fn emit(&self, buffer: &mut [u8]) {
        assert_eq!(buffer.len(), self.length(), "the buffer is as long as the packet");
        buffer.fill(0);
        let (header, icmp) = buffer.split_at_mut(IP_HEADER);
        header[0] = 6 << 4;
        // At most 32: the longest packet is `MAX_LENGTH`.
        header[5] = icmp.len() as u8;
        header[6] = NEXT_HEADER_ICMPV6;
        header[7] = HOP_LIMIT;
        header[8..24].copy_from_slice(&self.source.octets());
        header[24..].copy_from_slice(&self.destination.octets());

        let (target, option) = match self.message {
            Message::Solicitation { target, source_mac } => {
                icmp[0] = TYPE_SOLICITATION;
                (target, source_mac.map(|mac| (OPTION_SOURCE, mac)))
            }
            Message::Advertisement {
                target,
                target_mac,
                router,
                solicited,
                overriding,
            } => {
                icmp[0] = TYPE_ADVERTISEMENT;
                let flags = [
                    (router, FLAG_ROUTER),
                    (solicited, FLAG_SOLICITED),
                    (overriding, FLAG_OVERRIDE),
                ];
                icmp[4] = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
                (target, target_mac.map(|mac| (OPTION_TARGET, mac)))
            }
        };
        icmp[8..FIXED].copy_from_slice(&target.octets());
        if let Some((kind, mac)) = option {
            icmp[FIXED] = kind;
            icmp[FIXED + 1] = 1;
            icmp[FIXED + 2..].copy_from_slice(&mac);
        }
        let sum = checksum(self.source, self.destination, icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The Internet checksum over the IPv6 pseudo header (RFC 8200 8.1) and the ICMPv6 message: the field's value if the
/// field is 0, and 0 if the field holds the right value.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, icmp: &[u8]) -> u16 {
    let words = |data: &[u8]| -> u64 {
        let (pairs, rest) = data.as_chunks::<2>();
        let sum: u64 = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum();
        sum + rest.first().map_or(0, |last| u64::from(*last) << 8)
    };
    let length = icmp.len() as u64;
    let mut sum = words(&source.octets()) + words(&destination.octets()) + words(icmp);
    sum += length + u64::from(NEXT_HEADER_ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
