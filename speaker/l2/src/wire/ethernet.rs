//! Ethernet II headers: destination, source, EtherType. VLAN tags are not looked into: a tagged frame has the tag's
//! EtherType and is nobody's here.

use std::net::Ipv6Addr;

use super::{Malformed, bytes};
use crate::seam::Mac;

/// Length of the header in octets.
pub const HEADER_LENGTH: usize = 14;
/// EtherType of ARP.
pub const TYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;
/// All stations.
pub const BROADCAST: Mac = [0xff; 6];

/// Is this a group address (broadcast or multicast)?
pub fn is_group(mac: Mac) -> bool {
    mac[0] & 1 != 0
}

/// The Ethernet group of an IPv6 multicast address (RFC 2464 section 7).
pub fn multicast(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// A frame that has a whole header.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    repr: Repr,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks that the header is there.
    pub fn new(data: &'a [u8]) -> Result<Frame<'a>, Malformed> {
        let repr = Repr {
            destination: bytes(data, 0).ok_or(Malformed::Truncated)?,
            source: bytes(data, 6).ok_or(Malformed::Truncated)?,
            ether_type: u16::from_be_bytes(bytes(data, 12).ok_or(Malformed::Truncated)?),
        };
        Ok(Frame {
            repr,
            payload: &data[HEADER_LENGTH..],
        })
    }

    /// The header.
    pub fn header(&self) -> Repr {
        self.repr
    }

    /// What follows the header, padding included.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The header as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Who gets the frame.
    pub destination: Mac,
    /// Who sent it.
    pub source: Mac,
    /// What the payload is.
    pub ether_type: u16,
}

impl Repr {
    /// Writes the header to the front of `buffer`.
    ///
    /// # Panics
    /// If `buffer` is shorter than [`HEADER_LENGTH`].
    pub fn emit(&self, buffer: &mut [u8]) {
        buffer[..6].copy_from_slice(&self.destination);
        buffer[6..12].copy_from_slice(&self.source);
        buffer[12..HEADER_LENGTH].copy_from_slice(&self.ether_type.to_be_bytes());
    }
}
