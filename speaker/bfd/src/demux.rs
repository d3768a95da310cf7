//! Which session a packet belongs to (RFC 5880 section 6.3, RFC 5881 section 3, RFC 5883 section 4).
//!
//! A packet that names the session belongs to it whatever address it came from, for routers may change theirs. The first
//! packets of a router name none: they belong to the session with their sender, the one that says most about the path
//! if there are several. Then the distance is judged.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::counters::Reason;
use crate::packet::Repr;
use crate::seam::Path;

/// Over one hop packets have this TTL (RFC 5881 section 5).
pub const SINGLE_HOP_TTL: u8 = 255;

/// Where a packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival<'a> {
    /// Its sender.
    pub source: IpAddr,
    /// The address it was sent to.
    pub destination: IpAddr,
    /// Index of the interface it came in on.
    pub interface: u32,
    /// The VRF of the socket.
    pub vrf: Option<&'a str>,
    /// It came to the port for several hops.
    pub multi_hop: bool,
    /// Its TTL or hop limit.
    pub ttl: u8,
}

/// What is to be known of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The session.
    pub path: Arc<Path>,
    /// Index of the path's interface; `None` if it names none.
    pub interface: Option<u32>,
    /// The least TTL over several hops.
    pub minimum_ttl: u8,
}

impl Entry {
    fn fits(&self, arrival: &Arrival<'_>) -> bool {
        self.path.multi_hop == arrival.multi_hop
            && self.path.vrf.as_deref() == arrival.vrf
            && self.interface.is_none_or(|index| index == arrival.interface)
    }

    fn is_with(&self, arrival: &Arrival<'_>) -> bool {
        self.path.peer == arrival.source && self.path.local.is_none_or(|local| local == arrival.destination)
    }
}

/// All sessions, by their discriminators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demux {
    /// The sessions.
    pub entries: BTreeMap<NonZeroU32, Entry>,
}

impl Demux {
    /// The session that a packet belongs to.
    pub fn find(&self, arrival: &Arrival<'_>, packet: &Repr) -> Result<&Arc<Path>, Reason> {
        let entry = match NonZeroU32::new(packet.your_discriminator) {
            Some(discriminator) => {
                let entry = self.entries.get(&discriminator).ok_or(Reason::UnknownDiscriminator)?;
                entry.fits(arrival).then_some(entry).ok_or(Reason::OtherPath)?
            }
            None => {
                let fitting = self.entries.values().filter(|e| e.fits(arrival) && e.is_with(arrival));
                fitting
                    .max_by_key(|e| (e.interface.is_some(), e.path.local.is_some()))
                    .ok_or(Reason::UnknownPeer)?
            }
        };
        let least = if arrival.multi_hop {
            entry.minimum_ttl
        } else {
            SINGLE_HOP_TTL
        };
        if arrival.ttl < least {
            return Err(Reason::Ttl);
        }
        Ok(&entry.path)
    }
}

#[cfg(test)]
mod tests;
