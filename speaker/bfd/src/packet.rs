//! Control packets (RFC 5880 section 4.1) as bytes and as values.
//!
//! [`Packet`] reads fields out of borrowed bytes after one check of their length; [`Repr`] is a packet under all rules
//! of RFC 5880 section 6.8.6 that can be checked without a session. No input panics. What follows the length that the
//! packet states is ignored.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// Length of a packet without authentication, in octets.
pub const LENGTH: usize = 24;

/// The only version there is.
const VERSION: u8 = 1;

/// The rule a packet breaks. Such a packet is dropped, as RFC 5880 section 6.8.6 asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Malformed {
    /// Fewer octets than a packet has, or than it says to have.
    #[error("shorter than a control packet, or than it says to be")]
    Truncated,
    /// Not version 1.
    #[error("version is not 1")]
    Version,
    /// The length it states is less than a packet has.
    #[error("length field is less than 24")]
    Length,
    /// The A bit: authentication is used here by nobody.
    #[error("has an authentication section")]
    Authentication,
    /// The detection multiplier is zero.
    #[error("detection multiplier is 0")]
    Multiplier,
    /// The M bit: reserved for point-to-multipoint.
    #[error("multipoint bit is set")]
    Multipoint,
    /// My Discriminator is zero.
    #[error("my discriminator is 0")]
    MyDiscriminator,
    /// Your Discriminator is zero although the state says that the sender knows it.
    #[error("your discriminator is 0 in state Init or Up")]
    YourDiscriminator,
}

/// The states of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// Taken down by hand.
    AdminDown,
    /// Nothing is heard, or nothing was until now.
    #[default]
    Down,
    /// The other side is heard; it has not said yet that it hears this one.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    /// The name as in RFC 5880.
    pub fn name(self) -> &'static str {
        match self {
            State::AdminDown => "AdminDown",
            State::Down => "Down",
            State::Init => "Init",
            State::Up => "Up",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a session last left Up: the five bits of a packet, whatever they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Diagnostic(u8);

impl Diagnostic {
    /// No diagnostic.
    pub const NONE: Diagnostic = Diagnostic(0);
    /// Nothing was heard for the detection time.
    pub const EXPIRED: Diagnostic = Diagnostic(1);
    /// The other side said that the session is down.
    pub const NEIGHBOR_DOWN: Diagnostic = Diagnostic(3);
    /// Taken down by hand.
    pub const ADMINISTRATIVELY_DOWN: Diagnostic = Diagnostic(7);

    /// The number.
    pub fn code(self) -> u8 {
        self.0
    }

    /// The name as in RFC 5880 section 4.1.
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            _ => "unknown",
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

/// A packet that is as long as it says; its fields as they are.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a>(&'a [u8; LENGTH]);

impl<'a> Packet<'a> {
    /// Checks that all fields are there.
    pub fn new(data: &'a [u8]) -> Result<Packet<'a>, Malformed> {
        let packet = data.first_chunk().map(Packet).ok_or(Malformed::Truncated)?;
        if usize::from(packet.length()) > data.len() {
            return Err(Malformed::Truncated);
        }
        Ok(packet)
    }

    /// Three bits.
    pub fn version(&self) -> u8 {
        self.0[0] >> 5
    }

    /// The sender's diagnostic.
    pub fn diagnostic(&self) -> Diagnostic {
        Diagnostic(self.0[0] & 0x1f)
    }

    /// The sender's state.
    pub fn state(&self) -> State {
        match self.0[1] >> 6 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        }
    }

    /// Bits P, F, C, A, D, M from 0x20 down to 0x01.
    fn flag(&self, bit: u8) -> bool {
        self.0[1] & bit != 0
    }

    /// Packets that may be missed in a row.
    pub fn multiplier(&self) -> u8 {
        self.0[2]
    }

    /// Octets of the packet with its authentication section.
    pub fn length(&self) -> u8 {
        self.0[3]
    }

    /// The 32-bit field with this number, after the first four octets.
    fn word(&self, number: usize) -> u32 {
        let (words, _) = self.0.as_chunks::<4>();
        u32::from_be_bytes(words[number + 1])
    }
}

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// A packet as a value. Intervals are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Why the sender last left Up.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// P: asks for a packet with F.
    pub poll: bool,
    /// F: answers a packet with P.
    pub r#final: bool,
    /// C: the sender survives a restart of its control plane.
    pub independent: bool,
    /// D: the receiver shall send nothing while both are Up.
    pub demand: bool,
    /// Packets of the sender that the receiver may miss in a row.
    pub multiplier: u8,
    /// The sender's name for the session.
    pub my_discriminator: NonZeroU32,
    /// The receiver's name for the session, 0 if the sender does not know it.
    pub your_discriminator: u32,
    /// The shortest time between packets that the sender wants to send.
    pub desired_transmit: u32,
    /// The shortest time between packets that the sender takes in; 0 asks for silence.
    pub required_receive: u32,
    /// The shortest time between echo packets that the sender takes in; 0 for none.
    pub required_echo: u32,
}

impl Repr {
    /// Reads a packet under the rules above.
    pub fn parse(packet: &Packet<'_>) -> Result<Repr, Malformed> {
        if packet.version() != VERSION {
            return Err(Malformed::Version);
        }
        if usize::from(packet.length()) < LENGTH {
            return Err(Malformed::Length);
        }
        if packet.multiplier() == 0 {
            return Err(Malformed::Multiplier);
        }
        if packet.flag(MULTIPOINT) {
            return Err(Malformed::Multipoint);
        }
        let my_discriminator = NonZeroU32::new(packet.word(0)).ok_or(Malformed::MyDiscriminator)?;
        let state = packet.state();
        if packet.word(1) == 0 && matches!(state, State::Init | State::Up) {
            return Err(Malformed::YourDiscriminator);
        }
        if packet.flag(AUTHENTICATION) {
            return Err(Malformed::Authentication);
        }
        Ok(Repr {
            diagnostic: packet.diagnostic(),
            state,
            poll: packet.flag(POLL),
            r#final: packet.flag(FINAL),
            independent: packet.flag(INDEPENDENT),
            demand: packet.flag(DEMAND),
            multiplier: packet.multiplier(),
            my_discriminator,
            your_discriminator: packet.word(1),
            desired_transmit: packet.word(2),
            required_receive: packet.word(3),
            required_echo: packet.word(4),
        })
    }

    /// The packet.
    pub fn emit(&self) -> [u8; LENGTH] {
        let state = match self.state {
            State::AdminDown => 0,
            State::Down => 1,
            State::Init => 2,
            State::Up => 3,
        };
        let flags = [
            (self.poll, POLL),
            (self.r#final, FINAL),
            (self.independent, INDEPENDENT),
            (self.demand, DEMAND),
        ];
        let flags = flags.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum::<u8>();
        let words = [
            self.my_discriminator.get(),
            self.your_discriminator,
            self.desired_transmit,
            self.required_receive,
            self.required_echo,
        ];
        let mut data = [0; LENGTH];
        data[0] = VERSION << 5 | self.diagnostic.0;
        data[1] = state << 6 | flags;
        data[2] = self.multiplier;
        data[3] = LENGTH as u8;
        for (room, word) in data[4..].chunks_exact_mut(4).zip(words) {
            room.copy_from_slice(&word.to_be_bytes());
        }
        data
    }
}

#[cfg(test)]
mod tests;
