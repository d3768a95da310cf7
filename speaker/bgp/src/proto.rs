//! BGP messages and the RFC 4271 state machine. The only module that names the pinned crates (`rustbgpd-wire`,
//! `rustbgpd-fsm`): whoever replaces them rewrites this module and nothing else.
//!
//! [`Decoder`] cuts a stream of bytes into messages, [`Machine`] is the state machine of one connection, [`update`]
//! makes UPDATE messages and judges those received (RFC 7606). Nothing here panics on input, waits or reads a clock.

mod machine;
pub mod update;

use std::fmt;
use std::net::Ipv4Addr;

use bytes::{Buf, Bytes, BytesMut};
use ferrolb_model::{Family, FamilySet};
use rustbgpd_wire::notification;
use rustbgpd_wire::{Afi, DecodeError, MAX_MESSAGE_LEN, Message, NotificationCode, NotificationMessage, Safi};

pub use machine::{Action, Machine, Open, Phase, Seen, Timer};

/// The longest message, in octets (RFC 4271 section 4.1). The extension of RFC 8654 is never offered.
pub const MESSAGE_MAX: usize = MAX_MESSAGE_LEN as usize;
/// The length of a message's header in octets.
pub const HEADER: usize = 19;

/// A NOTIFICATION, sent or received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Error code (RFC 4271 section 4.5).
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// The shutdown communication (RFC 9003), if there is one that can be read.
    pub text: Option<String>,
}

/// Subcodes of Cease (RFC 4486, RFC 8203, RFC 9384).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cease {
    /// The session was taken down on purpose.
    Shutdown,
    /// The peer is no longer wanted.
    Deconfigured,
    /// A setting changed.
    ConfigurationChanged,
    /// Another connection to the same peer is kept (RFC 4271 section 6.8).
    Collision,
}

impl Cease {
    fn subcode(self) -> u8 {
        match self {
            Cease::Shutdown => 2,
            Cease::Deconfigured => 3,
            Cease::ConfigurationChanged => 6,
            Cease::Collision => 7,
        }
    }
}

impl Notification {
    /// Code of Cease.
    pub const CEASE: u8 = 6;
    /// Code of Hold Timer Expired.
    pub const HOLD_TIMER: u8 = 4;

    fn of(message: &NotificationMessage) -> Notification {
        Notification {
            code: message.code.as_u8(),
            subcode: message.subcode,
            text: notification::extract_shutdown_communication(message)
                .ok()
                .flatten()
                .filter(|text| !text.is_empty())
                .map(str::to_owned),
        }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = notification::description(NotificationCode::from_u8(self.code), self.subcode);
        write!(f, "{meaning} ({}/{})", self.code, self.subcode)?;
        match &self.text {
            Some(text) => write!(f, ": {text:?}"),
            None => Ok(()),
        }
    }
}

/// What both ends agreed upon by their OPEN messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's AS.
    pub asn: u32,
    /// The peer's BGP identifier.
    pub router_id: Ipv4Addr,
    /// Hold time in seconds; 0 means that no keepalives are sent or expected.
    pub hold_time: u16,
    /// The families that may be exchanged.
    pub families: FamilySet,
    /// Both know AS numbers of four octets (RFC 6793).
    pub four_octet_asn: bool,
    /// IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// The peer may ask for all routes again (RFC 2918).
    pub route_refresh: bool,
    /// The peer takes part in graceful restart (RFC 4724), if only as a helper.
    pub graceful_restart: bool,
    /// Our routes outlive a NOTIFICATION too (RFC 8538).
    pub notification_restart: bool,
    /// Codes of all capabilities that the peer sent.
    pub capabilities: Vec<u8>,
}

/// A message of the peer, or why there is none.
#[derive(Debug)]
pub struct Incoming(Result<Message, DecodeError>);

/// Cuts the bytes of one connection into messages. Holds at most one message and what was pushed last.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    broken: bool,
}

impl Decoder {
    /// Takes in bytes from the peer.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.broken {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// What has arrived of a message that is not whole yet.
    pub fn pending(&self) -> &[u8] {
        &self.buffer
    }

    /// The next whole message. After one that cannot be read there are no more: the stream is out of step.
    pub fn next_message(&mut self) -> Option<Incoming> {
        if self.broken {
            return None;
        }
        let incoming = match rustbgpd_wire::peek_message_length(&self.buffer, MAX_MESSAGE_LEN) {
            Ok(Some(length)) if self.buffer.len() >= usize::from(length) => {
                let mut message = self.buffer.split_to(usize::from(length)).freeze();
                let decoded = rustbgpd_wire::decode_message(&mut message, MAX_MESSAGE_LEN);
                // The decoder takes its own length's worth; what it leaves over belongs to no field.
                message.advance(message.remaining());
                decoded
            }
            Ok(_) => return None,
            Err(error) => Err(error),
        };
        if incoming.is_err() {
            self.broken = true;
            self.buffer = BytesMut::new();
        }
        Some(Incoming(incoming))
    }
}

/// Encodes a message. Nothing comes of one that is longer than messages may be, which ours are not.
fn encode(message: &Message) -> Bytes {
    rustbgpd_wire::encode_message(message)
        .map(BytesMut::freeze)
        .unwrap_or_default()
}

fn afi(family: Family) -> Afi {
    match family {
        Family::V4 => Afi::Ipv4,
        Family::V6 => Afi::Ipv6,
    }
}

fn family(afi: Afi, safi: Safi) -> Option<Family> {
    match (afi, safi) {
        (Afi::Ipv4, Safi::Unicast) => Some(Family::V4),
        (Afi::Ipv6, Safi::Unicast) => Some(Family::V6),
        _ => None,
    }
}
