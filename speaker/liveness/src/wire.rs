//! Datagrams between speakers, as bytes and as values. No input panics.
//!
//! All numbers are big-endian.
//!
//! | octets | field |
//! | --- | --- |
//! | 4 | magic, `FLBL` |
//! | 1 | version, 1 |
//! | 1 | kind |
//! | 4 | number of the key |
//! | 8 | boot: names the sender's run |
//! | 8 | sequence: grows with each datagram of a run |
//! | 1, n | sender: length and name |
//! | … | body, by kind |
//! | 16 | signature over all before it |
//!
//! An IP address is its family (4 or 6) in an octet and 4 or 16 octets. Lists begin with their length in an octet. What
//! follows the body, or is reserved, makes a datagram malformed: a later version says so in its version.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::keyring::TAG;
use crate::seam::Mac;

const MAGIC: &[u8; 4] = b"FLBL";
const VERSION: u8 = 1;
/// Magic, version, kind, key, boot, sequence.
const FIXED: usize = 26;
/// Longest datagram sent, so that it fits into any path: IPv6 promises 1280 octets, with its headers.
pub const LONGEST: usize = 1200;
/// Most links in a heartbeat.
pub const LINKS: usize = 8;
/// Longest name of a node.
const NAME: usize = 253;
/// Stands for no time at all.
const NEVER: u32 = u32::MAX;

/// The rule a datagram breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Malformed {
    /// Ends before all of it is there.
    #[error("too short")]
    Truncated,
    /// Goes on after all of it was there.
    #[error("too long")]
    Trailing,
    /// Does not begin with the magic.
    #[error("not a datagram of this protocol")]
    Magic,
    /// Another version.
    #[error("version is not 1")]
    Version,
    /// Another kind.
    #[error("unknown kind")]
    Kind,
    /// The sender's name is empty, too long or not UTF-8.
    #[error("sender is not a name of 1 to 253 octets")]
    Sender,
    /// Interval or multiplier is zero, or a reserved bit is set.
    #[error("interval or multiplier is 0, or a reserved bit is set")]
    Value,
    /// Neither 4 nor 6.
    #[error("address family is neither 4 nor 6")]
    Family,
    /// More links than a heartbeat has.
    #[error("more than 8 links")]
    Links,
}

/// Where a node's kernel can be asked: an address of it on an interface it announces on, and the MAC there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The kernel's address.
    pub address: IpAddr,
    /// The interface's MAC.
    pub mac: Mac,
}

/// An address and the claim to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The address.
    pub address: IpAddr,
    /// The epoch.
    pub epoch: u64,
    /// The owner.
    pub owner: String,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// I live.
    Hello {
        /// Between two of these; microseconds on the wire.
        interval: Duration,
        /// How many of these may be missed in a row, at least 1.
        multiplier: u8,
        /// My layer 2 answers for what I own.
        answering: bool,
        /// I answer in your name.
        standing_in: bool,
        /// Where my kernel can be asked, at most [`LINKS`].
        places: Vec<Place>,
    },
    /// I am about to restart or to end: answer in my name.
    Goodbye {
        /// Where my kernel can be asked, at most [`LINKS`].
        places: Vec<Place>,
    },
    /// I own these.
    Claim(Vec<(IpAddr, u64)>),
    /// As far as I know, these are owned so: the answer to a claim.
    Tell(Vec<Known>),
    /// You own these now, and I answer for them until you claim them.
    Yours(Vec<(IpAddr, u64)>),
    /// When did you hear of this node?
    Ask {
        /// Comes back in the answer.
        question: u64,
        /// The node.
        about: String,
    },
    /// Then: the answer to [`Message::Ask`].
    Heard {
        /// That of the question.
        question: u64,
        /// The node.
        about: String,
        /// How long ago it last said that it answers for what it owns; microseconds on the wire. `None`: never, or longer ago
        /// than can be said.
        ago: Option<Duration>,
    },
    /// I own these and have no interface to answer them on: take them.
    Unable(Vec<(IpAddr, u64)>),
}

/// A datagram that has all fields up to its sender, and a signature.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    sender: &'a str,
    tag: &'a [u8; TAG],
}

impl<'a> Packet<'a> {
    /// Checks what has to be known before the signature can be.
    pub fn new(bytes: &'a [u8]) -> Result<Packet<'a>, Malformed> {
        let (signed, tag) = bytes.split_last_chunk::<TAG>().ok_or(Malformed::Truncated)?;
        let mut reader = Reader(signed);
        if reader.take::<4>()? != MAGIC {
            return Err(Malformed::Magic);
        }
        if reader.octet()? != VERSION {
            return Err(Malformed::Version);
        }
        reader.take::<{ FIXED - 5 }>()?;
        let sender = reader.name()?;
        Ok(Packet {
            bytes: signed,
            sender,
            tag,
        })
    }

    /// The number of the key it is signed with.
    pub fn key(&self) -> u32 {
        self.field(6).map_or(0, u32::from_be_bytes)
    }

    /// The sender's run.
    pub fn boot(&self) -> u64 {
        self.field(10).map_or(0, u64::from_be_bytes)
    }

    /// Its place in the run.
    pub fn sequence(&self) -> u64 {
        self.field(18).map_or(0, u64::from_be_bytes)
    }

    /// The sender's node.
    pub fn sender(&self) -> &'a str {
        self.sender
    }

    /// What the signature is about.
    pub fn signed(&self) -> &'a [u8] {
        self.bytes
    }

    /// The signature.
    pub fn tag(&self) -> &'a [u8; TAG] {
        self.tag
    }

    /// What it says.
    pub fn message(&self) -> Result<Message, Malformed> {
        let body = self.bytes.get(FIXED + 1 + self.sender.len()..);
        let mut reader = Reader(body.ok_or(Malformed::Truncated)?);
        let message = match self.bytes.get(5) {
            Some(1) => reader.hello()?,
            Some(2) => Message::Goodbye {
                places: reader.places()?,
            },
            Some(3) => Message::Claim(reader.claims()?),
            Some(4) => Message::Tell(reader.list(|r| {
                Ok(Known {
                    address: r.address()?,
                    epoch: r.number()?,
                    owner: r.name()?.to_owned(),
                })
            })?),
            Some(5) => Message::Yours(reader.claims()?),
            Some(6) => Message::Ask {
                question: reader.number()?,
                about: reader.name()?.to_owned(),
            },
            Some(7) => Message::Heard {
                question: reader.number()?,
                about: reader.name()?.to_owned(),
                ago: reader.ago()?,
            },
            Some(8) => Message::Unable(reader.claims()?),
            _ => return Err(Malformed::Kind),
        };
        if reader.0.is_empty() {
            Ok(message)
        } else {
            Err(Malformed::Trailing)
        }
    }

    fn field<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..)?.first_chunk().copied()
    }
}

/// What stands before the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The number of the key it is signed with.
    pub key: u32,
    /// The sender's run.
    pub boot: u64,
    /// Its place in the run.
    pub sequence: u64,
    /// The sender's node, at most 253 octets.
    pub sender: &'a str,
}

impl Header<'_> {
    /// The datagram without its signature.
    pub fn emit(&self, message: &Message) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend(MAGIC);
        out.push(VERSION);
        out.push(match message {
            Message::Hello { .. } => 1,
            Message::Goodbye { .. } => 2,
            Message::Claim(_) => 3,
            Message::Tell(_) => 4,
            Message::Yours(_) => 5,
            Message::Ask { .. } => 6,
            Message::Heard { .. } => 7,
            Message::Unable(_) => 8,
        });
        out.extend(self.key.to_be_bytes());
        out.extend(self.boot.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        put_name(&mut out, self.sender);
        match message {
            Message::Hello {
                interval,
                multiplier,
                answering,
                standing_in,
                places,
            } => {
                let micros = u32::try_from(interval.as_micros()).unwrap_or(u32::MAX);
                out.extend(micros.to_be_bytes());
                out.push(*multiplier);
                out.push(u8::from(*answering) | u8::from(*standing_in) << 1);
                put_places(&mut out, places);
            }
            Message::Goodbye { places } => put_places(&mut out, places),
            Message::Claim(claims) | Message::Yours(claims) | Message::Unable(claims) => {
                put_list(&mut out, claims, |out, (address, epoch)| {
                    put_address(out, address);
                    out.extend(epoch.to_be_bytes());
                });
            }
            Message::Tell(all) => {
                put_list(&mut out, all, |out, known| {
                    put_address(out, &known.address);
                    out.extend(known.epoch.to_be_bytes());
                    put_name(out, &known.owner);
                });
            }
            Message::Ask { question, about } => {
                out.extend(question.to_be_bytes());
                put_name(&mut out, about);
            }
            Message::Heard { question, about, ago } => {
                out.extend(question.to_be_bytes());
                put_name(&mut out, about);
                let ago = ago.and_then(|ago| u32::try_from(ago.as_micros()).ok());
                out.extend(ago.unwrap_or(NEVER).to_be_bytes());
            }
        }
        out
    }
}

/// Octets a [`Known`] takes at most, with a name of this length.
pub fn known_length(owner: &str) -> usize {
    17 + 8 + 1 + owner.len()
}

/// Octets an address and epoch take at most.
pub const CLAIM_LENGTH: usize = 17 + 8;

/// Octets that a list may take in a datagram of this sender.
pub fn room(sender: &str) -> usize {
    LONGEST - FIXED - 1 - sender.len() - 1 - TAG
}

/// As much of a list as its length can say.
fn put_list<T>(out: &mut Vec<u8>, all: &[T], mut each: impl FnMut(&mut Vec<u8>, &T)) {
    let all = &all[..all.len().min(u8::MAX.into())];
    out.push(all.len() as u8);
    all.iter().for_each(|one| each(out, one));
}

fn put_places(out: &mut Vec<u8>, places: &[Place]) {
    put_list(out, &places[..places.len().min(LINKS)], |out, place| {
        put_address(out, &place.address);
        out.extend(place.mac);
    });
}

fn put_address(out: &mut Vec<u8>, address: &IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            out.push(4);
            out.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(6);
            out.extend(v6.octets());
        }
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    out.push(u8::try_from(name.len()).unwrap_or(0));
    out.extend(name.as_bytes());
}

/// What is still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn octet(&mut self) -> Result<u8, Malformed> {
        self.take::<1>().map(|[octet]| *octet)
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        self.take().map(|octets| u64::from_be_bytes(*octets))
    }

    fn name(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::from(self.octet()?);
        let (name, rest) = self.0.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        match str::from_utf8(name) {
            Ok(name) if (1..=NAME).contains(&length) => Ok(name),
            _ => Err(Malformed::Sender),
        }
    }

    fn address(&mut self) -> Result<IpAddr, Malformed> {
        match self.octet()? {
            4 => Ok(Ipv4Addr::from(*self.take::<4>()?).into()),
            6 => Ok(Ipv6Addr::from(*self.take::<16>()?).into()),
            _ => Err(Malformed::Family),
        }
    }

    fn list<T>(&mut self, mut each: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        let length = self.octet()?;
        (0..length).map(|_| each(self)).collect()
    }

    fn claims(&mut self) -> Result<Vec<(IpAddr, u64)>, Malformed> {
        self.list(|reader| Ok((reader.address()?, reader.number()?)))
    }

    fn places(&mut self) -> Result<Vec<Place>, Malformed> {
        let places = self.list(|reader| {
            Ok(Place {
                address: reader.address()?,
                mac: *reader.take()?,
            })
        })?;
        if places.len() > LINKS {
            return Err(Malformed::Links);
        }
        Ok(places)
    }

    fn ago(&mut self) -> Result<Option<Duration>, Malformed> {
        let micros = u32::from_be_bytes(*self.take()?);
        Ok((micros != NEVER).then(|| Duration::from_micros(micros.into())))
    }

    fn hello(&mut self) -> Result<Message, Malformed> {
        let interval = u32::from_be_bytes(*self.take()?);
        let (multiplier, flags) = (self.octet()?, self.octet()?);
        if interval == 0 || multiplier == 0 || flags & !3 != 0 {
            return Err(Malformed::Value);
        }
        Ok(Message::Hello {
            interval: Duration::from_micros(interval.into()),
            multiplier,
            answering: flags & 1 != 0,
            standing_in: flags & 2 != 0,
            places: self.places()?,
        })
    }
}

#[cfg(test)]
mod tests;
