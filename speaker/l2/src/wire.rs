//! Frames as bytes and as values: Ethernet II, ARP for Ethernet and IPv4 (RFC 826), Neighbor Solicitations and
//! Advertisements (RFC 4861).
//!
//! Each packet has a view that reads fields out of borrowed bytes after one check of its length, and a value type
//! that `parse` makes of it under all rules of the protocol and `emit` turns back into bytes. No input panics; a packet
//! that breaks a rule is refused as a whole, with the rule it broke ([`Malformed`]).

use std::fmt;

use crate::seam::Mac;

pub mod arp;
pub mod ethernet;
pub mod ndp;

/// The rule a packet breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Malformed {
    /// The bytes end before the packet does.
    #[error("shorter than its headers say")]
    Truncated,
    /// Not ARP for Ethernet and IPv4: hardware or protocol type, or an address length, is another.
    #[error("not ARP for Ethernet and IPv4")]
    NotEthernetIpv4,
    /// Neither an ARP request nor a reply.
    #[error("neither an ARP request nor a reply")]
    Operation,
    /// Not an IPv6 packet whose payload is a Neighbor Solicitation or Advertisement.
    #[error("not a Neighbor Solicitation or Advertisement")]
    NotNeighborDiscovery,
    /// The hop limit is not 255: the packet may have crossed a router (RFC 4861 7.1.1, 7.1.2).
    #[error("hop limit is not 255")]
    HopLimit,
    /// The ICMPv6 checksum is wrong.
    #[error("wrong ICMPv6 checksum")]
    Checksum,
    /// The ICMPv6 code is not 0.
    #[error("ICMPv6 code is not 0")]
    Code,
    /// The target is a multicast address.
    #[error("target is a multicast address")]
    Target,
    /// An option has length 0, is longer than the packet, or is a link-layer address of another length than Ethernet's
    /// (RFC 4861 4.6).
    #[error("an option of impossible length")]
    OptionLength,
    /// A solicitation from the unspecified address that is not sent to a solicited-node group, or that has a source
    /// link-layer address (RFC 4861 7.1.1).
    #[error("impossible solicitation from the unspecified address")]
    Unspecified,
    /// An advertisement sent to a multicast address with the solicited flag (RFC 4861 7.1.2).
    #[error("solicited flag in a multicast advertisement")]
    SolicitedMulticast,
}

/// Reads `N` bytes at `offset`.
fn bytes<const N: usize>(data: &[u8], offset: usize) -> Option<[u8; N]> {
    data.get(offset..)?.first_chunk().copied()
}

/// A frame built here, ready to send. Holds the longest one this crate builds, without an allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OwnedFrame {
    bytes: [u8; OwnedFrame::CAPACITY],
    length: usize,
}

impl OwnedFrame {
    /// An Ethernet header and a Neighbor Advertisement with one link-layer address.
    const CAPACITY: usize = ethernet::HEADER_LENGTH + ndp::MAX_LENGTH;

    /// An ARP packet from `source` to `destination`.
    pub fn arp(source: Mac, destination: Mac, packet: &arp::Repr) -> OwnedFrame {
        let ether = ethernet::Repr {
            destination,
            source,
            ether_type: ethernet::TYPE_ARP,
        };
        OwnedFrame::build(ether, arp::LENGTH, |payload| packet.emit(payload))
    }

    /// A Neighbor Discovery packet from `source` to `destination`.
    pub fn ndp(source: Mac, destination: Mac, packet: &ndp::Repr) -> OwnedFrame {
        let ether = ethernet::Repr {
            destination,
            source,
            ether_type: ethernet::TYPE_IPV6,
        };
        OwnedFrame::build(ether, packet.length(), |payload| packet.emit(payload))
    }

    /// The bytes to send.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn build(ether: ethernet::Repr, payload: usize, emit: impl FnOnce(&mut [u8])) -> OwnedFrame {
        let length = ethernet::HEADER_LENGTH + payload;
        let mut bytes = [0; OwnedFrame::CAPACITY];
        ether.emit(&mut bytes);
        emit(&mut bytes[ethernet::HEADER_LENGTH..length]);
        OwnedFrame { bytes, length }
    }
}

impl fmt::Debug for OwnedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod differential;
