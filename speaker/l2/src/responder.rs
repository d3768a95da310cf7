//! What to do with one frame: answer, remember, report a conflict, or nothing; and what it says about where an address
//! is. Pure.
//!
//! A request for an address is answered with the MAC of the interface it came in by, or in the name of the owner with
//! the owner's MAC ([`Stance`]); for an address that is only listened for, it is handed out to be remembered. A frame in
//! which another station claims such an address gets no answer (RFC 5227 2.4 allows a broadcast defence, never a unicast
//! reply to a claim); it is a conflict if the address is announced here and the claimant is no member. A probe for an
//! address (sender 0.0.0.0, RFC 5227 2.1.1; a solicitation from `::`, RFC 4862 5.4.3) is answered: that is how the prober
//! learns that it is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::neighbours::Asker;
use crate::plan::Stance;
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
    /// Is about an address this node has no part in on this interface.
    #[error("for an address not announced here")]
    NotOurs,
    /// Not a request, and no claim to an address this node has a part in.
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

/// The interface a frame came in by, and this node's part in the addresses there.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// Its MAC, the Ethernet source of answers.
    pub mac: Mac,
    /// The MACs of all interfaces of this node: with two on one segment, one hears the other.
    pub own_macs: &'a BTreeSet<Mac>,
    /// The MACs of living members, whose claims are no conflict.
    pub members: &'a BTreeSet<Mac>,
    /// The addresses this node has a part in there.
    pub addresses: &'a BTreeMap<IpAddr, Stance>,
    /// Addresses of other nodes that are asked for.
    pub peers: &'a BTreeSet<IpAddr>,
}

impl Port<'_> {
    fn knows(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address) || self.peers.contains(&address)
    }
}

/// What to do, and what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// What the frame says about its sender, if that has one of the addresses or is a peer.
    pub sighting: Option<Sighting>,
}

impl Decision {
    /// Nothing to do, nothing seen.
    pub fn ignore(reason: Reason) -> Decision {
        Decision {
            action: Action::Ignore(reason),
            sighting: None,
        }
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this frame out of the interface.
    Reply {
        /// What is answered.
        request: Request,
        /// The answer is in the name of the address's owner.
        for_owner: bool,
        /// The answer.
        frame: OwnedFrame,
    },
    /// Remember the request: the address is listened for.
    Remember(Request),
    /// Somebody else claims an address announced there.
    Conflict {
        /// The address.
        address: IpAddr,
        /// The claimant.
        mac: Mac,
    },
    /// Nothing but to note the sighting.
    Note,
    /// Nothing.
    Ignore(Reason),
}

/// Another station's word that an address is at a MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The address.
    pub address: IpAddr,
    /// The MAC it is said to have.
    pub mac: Mac,
    /// Who said so: the Ethernet source.
    pub source: Mac,
}

/// A question for an address, as far as its answer depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// An ARP request.
    Arp {
        /// The address asked for.
        target: Ipv4Addr,
        /// Who asks; unspecified in a probe.
        sender: Ipv4Addr,
        /// Its MAC.
        mac: Mac,
    },
    /// A Neighbor Solicitation.
    Ndp {
        /// The address asked for.
        target: Ipv6Addr,
        /// Who asks; unspecified in a probe.
        source: Ipv6Addr,
        /// Its MAC.
        mac: Mac,
    },
}

impl Request {
    /// The address asked for.
    pub fn address(&self) -> IpAddr {
        match self {
            Request::Arp { target, .. } => (*target).into(),
            Request::Ndp { target, .. } => (*target).into(),
        }
    }

    /// Who asked; nobody, if it is a probe, which has no address.
    pub fn asker(&self) -> Option<Asker> {
        let (host, ip, mac) = match *self {
            Request::Arp { sender: ip, mac, .. } => {
                let host = !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast();
                (host, IpAddr::V4(ip), mac)
            }
            Request::Ndp { source: ip, mac, .. } => (!ip.is_unspecified(), IpAddr::V6(ip), mac),
        };
        host.then_some(Asker { ip, mac })
    }

    /// The answer that the address is at `told`, sent by `own`.
    pub fn answer(&self, own: Mac, told: Mac) -> OwnedFrame {
        match *self {
            Request::Arp { target, sender, mac } => {
                let reply = arp::Repr {
                    operation: arp::Operation::Reply,
                    sender_mac: told,
                    sender_ip: target,
                    target_mac: mac,
                    target_ip: sender,
                };
                OwnedFrame::arp(own, mac, &reply)
            }
            Request::Ndp { target, source, mac } => advertisement(target, source, mac, own, told),
        }
    }
}

/// Decides about one frame, the Ethernet header included.
pub fn respond(frame: &[u8], port: Port<'_>) -> Decision {
    match read(frame, port) {
        Ok((sender, request)) => judge(sender, request, port),
        Err(reason) => Decision::ignore(reason),
    }
}

/// Decides about a solicitation of which only the IPv6 source and the ICMPv6 message are known, as a raw socket gives
/// them; the kernel has looked at hop limit and checksum, and the packet was sent to a group. The station that sent the
/// frame is taken to be the one in the source link-layer address option, without which nobody can be answered.
pub fn respond_to_solicitation(source: Ipv6Addr, message: &[u8], port: Port<'_>) -> Decision {
    match read_solicitation(source, message, port) {
        Ok((sender, request)) => judge(sender, request, port),
        Err(reason) => Decision::ignore(reason),
    }
}

fn read_solicitation(source: Ipv6Addr, message: &[u8], port: Port<'_>) -> Result<Content, Reason> {
    let message = ndp::Message::parse(message)?;
    let ndp::Message::Solicitation { target, source_mac } = message else {
        return Err(Reason::NotARequest);
    };
    let station = source_mac.ok_or(Reason::Sender)?;
    if source.is_unspecified() {
        return Err(Malformed::Unspecified.into());
    }
    let destination = ndp::solicited_node(target);
    let header = ethernet::Repr {
        destination: ethernet::multicast(destination),
        source: station,
        ether_type: ethernet::TYPE_IPV6,
    };
    let packet = ndp::Repr {
        source,
        destination,
        message,
    };
    ndp(header, packet, port)
}

/// What a frame says about its sender, and what it asks for.
type Content = (Sighting, Result<Request, Reason>);

fn read(frame: &[u8], port: Port<'_>) -> Result<Content, Reason> {
    let frame = ethernet::Frame::new(frame)?;
    let header = frame.header();
    match header.ether_type {
        ethernet::TYPE_ARP => arp(header, arp::Repr::parse(&arp::Packet::new(frame.payload())?)?, port),
        ethernet::TYPE_IPV6 => ndp(header, ndp::Repr::parse(&ndp::Packet::new(frame.payload())?)?, port),
        _ => Err(Reason::OtherProtocol),
    }
}

fn judge(sender: Sighting, request: Result<Request, Reason>, port: Port<'_>) -> Decision {
    let sighting = port.knows(sender.address).then_some(sender);
    let action = if let Some(stance) = port.addresses.get(&sender.address) {
        if *stance == Stance::Own && !port.members.contains(&sender.mac) {
            Action::Conflict {
                address: sender.address,
                mac: sender.mac,
            }
        } else {
            Action::Note
        }
    } else {
        match request.and_then(|request| decide(request, port)) {
            Err(_) if sighting.is_some() => Action::Note,
            Err(reason) => Action::Ignore(reason),
            Ok(action) => action,
        }
    };
    Decision { action, sighting }
}

fn decide(request: Request, port: Port<'_>) -> Result<Action, Reason> {
    let stance = port.addresses.get(&request.address()).ok_or(Reason::NotOurs)?;
    Ok(match stance.told(port.mac) {
        Some(mac) => Action::Reply {
            request,
            for_owner: *stance != Stance::Own,
            frame: request.answer(port.mac, mac),
        },
        None => Action::Remember(request),
    })
}

fn arp(header: ethernet::Repr, packet: arp::Repr, port: Port<'_>) -> Result<Content, Reason> {
    check_sender(packet.sender_mac, port)?;
    check_sender(header.source, port)?;
    let sender = Sighting {
        address: packet.sender_ip.into(),
        mac: packet.sender_mac,
        source: header.source,
    };
    let request = if !port.addresses.contains_key(&packet.target_ip.into()) {
        Err(Reason::NotOurs)
    } else if packet.operation != arp::Operation::Request {
        Err(Reason::NotARequest)
    } else if header.destination != ethernet::BROADCAST && header.destination != port.mac {
        Err(Reason::OtherStation)
    } else {
        Ok(Request::Arp {
            target: packet.target_ip,
            sender: packet.sender_ip,
            mac: packet.sender_mac,
        })
    };
    Ok((sender, request))
}

fn ndp(header: ethernet::Repr, packet: ndp::Repr, port: Port<'_>) -> Result<Content, Reason> {
    check_sender(header.source, port)?;
    let (address, mac, request) = match packet.message {
        ndp::Message::Solicitation { target, source_mac } => {
            if !port.addresses.contains_key(&target.into()) {
                return Err(Reason::NotOurs);
            }
            let (source, mac) = (packet.source, source_mac.unwrap_or(header.source));
            let request = if header.destination != port.mac && !ethernet::is_group(header.destination) {
                Err(Reason::OtherStation)
            } else if source.is_multicast() || source.is_loopback() {
                Err(Reason::Sender)
            } else {
                Ok(Request::Ndp { target, source, mac })
            };
            (source, mac, request)
        }
        ndp::Message::Advertisement { target, target_mac, .. } => {
            if !port.knows(target.into()) {
                return Err(Reason::NotOurs);
            }
            (target, target_mac.unwrap_or(header.source), Err(Reason::NotARequest))
        }
    };
    check_sender(mac, port)?;
    let sender = Sighting {
        address: address.into(),
        mac,
        source: header.source,
    };
    Ok((sender, request))
}

/// The answer to a solicitation: overriding, because it is the owner's word (RFC 4861 7.2.4). One that came from `::`
/// is answered to all nodes and not as solicited, since its sender has no address to answer to. A solicitation without a
/// link-layer address (RFC 4861 4.3 lets a unicast one be so) is answered to the station that sent the frame.
fn advertisement(target: Ipv6Addr, asker: Ipv6Addr, asker_mac: Mac, own: Mac, told: Mac) -> OwnedFrame {
    let solicited = !asker.is_unspecified();
    let (destination, destination_mac) = if solicited {
        (asker, asker_mac)
    } else {
        (ndp::ALL_NODES, ethernet::multicast(ndp::ALL_NODES))
    };
    let message = ndp::Message::Advertisement {
        target,
        target_mac: Some(told),
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
