//! ARP for Ethernet and IPv4 (RFC 826): requests and replies, nothing else. What follows the 28 octets is padding.

use std::net::Ipv4Addr;

use super::{Malformed, bytes};
use crate::seam::Mac;

/// Length of a packet in octets.
pub const LENGTH: usize = 28;

/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4: how every packet starts.
const PREFIX: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// A packet that is long enough; its fields as they are.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a>(&'a [u8; LENGTH]);

impl<'a> Packet<'a> {
    /// Checks the length.
    pub fn new(data: &'a [u8]) -> Result<Packet<'a>, Malformed> {
        data.first_chunk().map(Packet).ok_or(Malformed::Truncated)
    }

    /// Hardware type, protocol type and the two address lengths.
    fn prefix(&self) -> &[u8] {
        &self.0[..6]
    }

    /// The operation: 1 is a request, 2 a reply.
    pub fn operation(&self) -> u16 {
        u16::from_be_bytes(self.field(6))
    }

    /// Hardware address of the sender.
    pub fn sender_mac(&self) -> Mac {
        self.field(8)
    }

    /// Protocol address of the sender.
    pub fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.field::<4>(14))
    }

    /// Hardware address of the target; means nothing in a request.
    pub fn target_mac(&self) -> Mac {
        self.field(18)
    }

    /// Protocol address of the target.
    pub fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.field::<4>(24))
    }

    fn field<const N: usize>(&self, offset: usize) -> [u8; N] {
        bytes(self.0, offset).expect("all fields lie inside the fixed length")
    }
}

/// What a packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Asks who has the target address.
    Request,
    /// Says where the sender address is.
    Reply,
}

/// A packet as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Request or reply.
    pub operation: Operation,
    /// Hardware address of the sender.
    pub sender_mac: Mac,
    /// Protocol address of the sender.
    pub sender_ip: Ipv4Addr,
    /// Hardware address of the target.
    pub target_mac: Mac,
    /// Protocol address of the target.
    pub target_ip: Ipv4Addr,
}

impl Repr {
    /// Reads a packet under the rules above.
    pub fn parse(packet: &Packet<'_>) -> Result<Repr, Malformed> {
        if packet.prefix() != PREFIX {
            return Err(Malformed::NotEthernetIpv4);
        }
        let operation = match packet.operation() {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return Err(Malformed::Operation),
        };
        Ok(Repr {
            operation,
            sender_mac: packet.sender_mac(),
            sender_ip: packet.sender_ip(),
            target_mac: packet.target_mac(),
            target_ip: packet.target_ip(),
        })
    }

    /// Writes the packet to the front of `buffer`.
    ///
    /// # Panics
    /// If `buffer` is shorter than [`LENGTH`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let operation: u16 = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        buffer[..6].copy_from_slice(&PREFIX);
        buffer[6..8].copy_from_slice(&operation.to_be_bytes());
        buffer[8..14].copy_from_slice(&self.sender_mac);
        buffer[14..18].copy_from_slice(&self.sender_ip.octets());
        buffer[18..24].copy_from_slice(&self.target_mac);
        buffer[24..LENGTH].copy_from_slice(&self.target_ip.octets());
    }
}
