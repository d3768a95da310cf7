//! What to do with one frame: answer, report a conflict, or nothing. Pure.
//!
//! An answer is given for an address announced on the interface the frame came in by, with that interface's MAC. A
//! frame in which somebody else claims such an address is a conflict and gets no answer (RFC 5227 2.4 allows a
//! broadcast defence, never a unicast reply to a claim). A probe for the address (sender 0.0.0.0; a solicitation from
//! `::`) is answered: that is how the prober learns that the address is taken.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use crate::neighbours::Asker;
use crate::seam::Mac;
use crate::wire::{Malformed, OwnedFrame, arp, ethernet, ndp};

/// Why a frame got no answer, or an answer did not go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Reason {
    /// The packet breaks a rule of its protocol.
    #[error("{0}")]
    Malformed(Malformed),
    /// Neither ARP nor IPv6; VLAN-tagged frames among them.
    #[error("neither ARP nor IPv6")]
    OtherProtocol,
    /// A frame this node sent itself came back.
    #[error("sent by this node")]
    OwnFrame,
    /// The sender's hardware address is zero or a group address.
    #[error("impossible sender address")]
    Sender,
    /// Sent to another station.
    #[error("sent to another station")]
    OtherStation,
    /// Asks for an address that is not announced on this interface.
    #[error("for an address not announced here")]
    NotOurs,
    /// Not a request, and no claim to an address announced here.
    #[error("neither a request nor a claim")]
    NotARequest,
    /// The frame is longer than any that can be answered.
    #[error("longer than the receive buffer")]
    TooLong,
    /// The kernel's queue was full before the frame was read.
    #[error("receive queue full")]
    QueueFull,
    /// An answer or announcement could not be sent.
    #[error("sending failed")]
    SendFailed,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 20] = [
        Reason::Malformed(Malformed::Truncated),
        Reason::Malformed(Malformed::NotEthernetIpv4),
        Reason::Malformed(Malformed::Operation),
        Reason::Malformed(Malformed::NotNeighborDiscovery),
        Reason::Malformed(Malformed::HopLimit),
        Reason::Malformed(Malformed::Checksum),
        Reason::Malformed(Malformed::Code),
        Reason::Malformed(Malformed::Target),
        Reason::Malformed(Malformed::OptionLength),
        Reason::Malformed(Malformed::Unspecified),
        Reason::Malformed(Malformed::SolicitedMulticast),
        Reason::OtherProtocol,
        Reason::OwnFrame,
        Reason::Sender,
        Reason::OtherStation,
        Reason::NotOurs,
        Reason::NotARequest,
        Reason::TooLong,
        Reason::QueueFull,
        Reason::SendFailed,
    ];

    /// Its place in [`Reason::ALL`].
    pub(crate) fn index(self) -> usize {
        match self {
            Reason::Malformed(rule) => rule as usize,
            Reason::OtherProtocol => 11,
            Reason::OwnFrame => 12,
            Reason::Sender => 13,
            Reason::OtherStation => 14,
            Reason::NotOurs => 15,
            Reason::NotARequest => 16,
            Reason::TooLong => 17,
            Reason::QueueFull => 18,
            Reason::SendFailed => 19,
        }
    }

    /// One word, for a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Malformed(Malformed::Truncated) => "truncated",
            Reason::Malformed(Malformed::NotEthernetIpv4) => "not_ethernet_ipv4",
            Reason::Malformed(Malformed::Operation) => "operation",
            Reason::Malformed(Malformed::NotNeighborDiscovery) => "not_neighbor_discovery",
            Reason::Malformed(Malformed::HopLimit) => "hop_limit",
            Reason::Malformed(Malformed::Checksum) => "checksum",
            Reason::Malformed(Malformed::Code) => "code",
            Reason::Malformed(Malformed::Target) => "target",
            Reason::Malformed(Malformed::OptionLength) => "option_length",
            Reason::Malformed(Malformed::Unspecified) => "unspecified",
            Reason::Malformed(Malformed::SolicitedMulticast) => "solicited_multicast",
            Reason::OtherProtocol => "other_protocol",
            Reason::OwnFrame => "own_frame",
            Reason::Sender => "sender",
            Reason::OtherStation => "other_station",
            Reason::NotOurs => "not_ours",
            Reason::NotARequest => "not_a_request",
            Reason::TooLong => "too_long",
            Reason::QueueFull => "queue_full",
            Reason::SendFailed => "send_failed",
        }
    }
}

impl From<Malformed> for Reason {
    fn from(rule: Malformed) -> Reason {
        Reason::Malformed(rule)
    }
}

/// The interface a frame came in by, and what is announced there.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// Its MAC, which answers carry.
    pub mac: Mac,
    /// The MACs of all interfaces of this node: with two on one segment, one hears the other.
    pub own_macs: &'a BTreeSet<Mac>,
    /// The addresses announced there.
    pub addresses: &'a BTreeSet<IpAddr>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this frame out of the interface.
    Reply {
        /// The address asked for.
        address: IpAddr,
        /// Who asked; nobody, if the question came from a probe, which has no address.
        asker: Option<Asker>,
        /// The answer.
        frame: OwnedFrame,
    },
    /// Somebody else claims an address announced there.
    Conflict {
        /// The address.
        address: IpAddr,
        /// The claimant.
        mac: Mac,
    },
    /// Nothing.
    Ignore(Reason),
}

/// Decides about one frame, the Ethernet header included.
pub fn respond(frame: &[u8], port: Port<'_>) -> Action {
    match decide(frame, port) {
        Ok(action) => action,
        Err(reason) => Action::Ignore(reason),
    }
}

fn decide(frame: &[u8], port: Port<'_>) -> Result<Action, Reason> {
    let frame = ethernet::Frame::new(frame)?;
    let header = frame.header();
    match header.ether_type {
        ethernet::TYPE_ARP => arp(header, arp::Repr::parse(&arp::Packet::new(frame.payload())?)?, port),
        ethernet::TYPE_IPV6 => ndp(header, ndp::Repr::parse(&ndp::Packet::new(frame.payload())?)?, port),
        _ => Err(Reason::OtherProtocol),
    }
}

fn arp(header: ethernet::Repr, packet: arp::Repr, port: Port<'_>) -> Result<Action, Reason> {
    check_sender(packet.sender_mac, port)?;
    check_sender(header.source, port)?;
    let claimed = IpAddr::V4(packet.sender_ip);
    if port.addresses.contains(&claimed) {
        return Ok(Action::Conflict {
            address: claimed,
            mac: packet.sender_mac,
        });
    }
    let address = IpAddr::V4(packet.target_ip);
    if !port.addresses.contains(&address) {
        return Err(Reason::NotOurs);
    }
    if packet.operation != arp::Operation::Request {
        return Err(Reason::NotARequest);
    }
    if header.destination != ethernet::BROADCAST && header.destination != port.mac {
        return Err(Reason::OtherStation);
    }
    let reply = arp::Repr {
        operation: arp::Operation::Reply,
        sender_mac: port.mac,
        sender_ip: packet.target_ip,
        target_mac: packet.sender_mac,
        target_ip: packet.sender_ip,
    };
    Ok(Action::Reply {
        address,
        asker: asker(packet.sender_ip.into(), packet.sender_mac),
        frame: OwnedFrame::arp(port.mac, packet.sender_mac, &reply),
    })
}

fn ndp(header: ethernet::Repr, packet: ndp::Repr, port: Port<'_>) -> Result<Action, Reason> {
    check_sender(header.source, port)?;
    match packet.message {
        ndp::Message::Solicitation { target, source_mac } => {
            let address = IpAddr::V6(target);
            if !port.addresses.contains(&address) {
                return Err(Reason::NotOurs);
            }
            let claimed = IpAddr::V6(packet.source);
            if port.addresses.contains(&claimed) {
                return Ok(Action::Conflict {
                    address: claimed,
                    mac: source_mac.unwrap_or(header.source),
                });
            }
            if header.destination != port.mac && !ethernet::is_group(header.destination) {
                return Err(Reason::OtherStation);
            }
            let asker_mac = source_mac.unwrap_or(header.source);
            check_sender(asker_mac, port)?;
            if packet.source.is_multicast() || packet.source.is_loopback() {
                return Err(Reason::Sender);
            }
            Ok(Action::Reply {
                address,
                asker: asker(packet.source.into(), asker_mac),
                frame: advertisement(target, packet.source, asker_mac, port.mac),
            })
        }
        ndp::Message::Advertisement { target, target_mac, .. } => {
            let address = IpAddr::V6(target);
            let mac = target_mac.unwrap_or(header.source);
            if !port.addresses.contains(&address) {
                return Err(Reason::NotOurs);
            }
            check_sender(mac, port)?;
            Ok(Action::Conflict { address, mac })
        }
    }
}

fn asker(ip: IpAddr, mac: Mac) -> Option<Asker> {
    let host = match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified(),
    };
    host.then_some(Asker { ip, mac })
}

/// The answer to a solicitation: overriding, because this node is the owner (RFC 4861 7.2.4). One that came from `::`
/// is answered to all nodes and not as solicited, since its sender has no address to answer to.
fn advertisement(target: Ipv6Addr, asker: Ipv6Addr, asker_mac: Mac, own: Mac) -> OwnedFrame {
    let solicited = !asker.is_unspecified();
    let (destination, destination_mac) = if solicited {
        (asker, asker_mac)
    } else {
        (ndp::ALL_NODES, ethernet::multicast(ndp::ALL_NODES))
    };
    let message = ndp::Message::Advertisement {
        target,
        target_mac: Some(own),
        router: false,
        solicited,
        overriding: true,
    };
    OwnedFrame::ndp(
        own,
        destination_mac,
        &ndp::Repr {
            source: target,
            destination,
            message,
        },
    )
}

/// A frame of this node's own that came back says nothing, and an answer to a group would reach everybody.
fn check_sender(mac: Mac, port: Port<'_>) -> Result<(), Reason> {
    if mac == port.mac || port.own_macs.contains(&mac) {
        return Err(Reason::OwnFrame);
    }
    if ethernet::is_group(mac) || mac == [0; 6] {
        return Err(Reason::Sender);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
