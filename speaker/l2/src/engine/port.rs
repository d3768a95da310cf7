//! The sockets of one interface: opened, filtered and closed as the plan says.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tracing::debug;

use crate::counters::{Counters, Family};
use crate::filter::{self, Instruction};
use crate::io::PacketSocket;
use crate::memory::Memory;
use crate::plan::Served;
use crate::responder::Reason;
use crate::wire::OwnedFrame;

/// The addresses a filter is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Those this node has a part in.
    addresses: BTreeSet<IpAddr>,
    /// Those heard as senders only.
    peers: BTreeSet<IpAddr>,
}

/// A socket and what it hears.
pub(super) struct Tap {
    pub(super) socket: PacketSocket,
    heard: Heard,
    /// The filter lets the whole protocol through, because there are too many addresses.
    pub(super) unfiltered: bool,
}

impl Tap {
    /// Does it hear what this address sends?
    pub(super) fn hears(&self, sender: IpAddr) -> bool {
        self.heard.addresses.contains(&sender) || self.heard.peers.contains(&sender)
    }
}

/// An interface on which this node has a part in addresses.
pub(super) struct Port {
    pub(super) served: Served,
    pub(super) taps: BTreeMap<Family, Tap>,
    pub(super) memory: Memory,
}

impl Port {
    pub(super) fn new(served: Served) -> Port {
        Port {
            served,
            taps: BTreeMap::new(),
            memory: Memory::default(),
        }
    }

    /// Makes the socket of this family hear its addresses among these, or closes it if there are none.
    pub(super) fn tune(&mut self, index: u32, family: Family, peers: &BTreeSet<IpAddr>) -> io::Result<()> {
        let of_family = |address: &&IpAddr| Family::of(**address) == family;
        let heard = Heard {
            addresses: self.served.addresses.keys().filter(of_family).copied().collect(),
            peers: peers.iter().filter(of_family).copied().collect(),
        };
        if heard == Heard::default() {
            self.close(family);
            return Ok(());
        }
        let Some(tap) = self.taps.get_mut(&family) else {
            let (socket, unfiltered) = with_filter(family, &heard, |filter| PacketSocket::open(family, index, filter))?;
            let tap = Tap {
                socket,
                heard,
                unfiltered,
            };
            self.taps.insert(family, tap);
            return Ok(());
        };
        if tap.heard != heard {
            tap.unfiltered = with_filter(family, &heard, |filter| tap.socket.set_filter(filter))?.1;
            tap.heard = heard;
        }
        Ok(())
    }

    /// Closes a socket off the thread that answers: the kernel waits for all processors to let go of it, which takes
    /// milliseconds.
    pub(super) fn close(&mut self, family: Family) {
        if let Some(tap) = self.taps.remove(&family) {
            tokio::task::spawn_blocking(move || drop(tap));
        }
    }

    /// Sends frames of one family; how many of them, from the first on, are on their way.
    pub(super) fn send(&self, family: Family, frames: &[OwnedFrame], counters: &Counters) -> usize {
        let Some(tap) = self.taps.get(&family) else { return 0 };
        let (sent, error) = tap.socket.send(frames);
        if let Some(error) = error {
            counters.dropped(Reason::SendFailed, (frames.len() - sent) as u64);
            debug!(interface = self.served.name, family = family.name(), %error, "cannot send");
        }
        sent
    }
}

/// A socket that hears what these addresses of the family send.
pub(crate) fn listen(index: u32, family: Family, senders: &BTreeSet<IpAddr>) -> io::Result<PacketSocket> {
    let heard = Heard {
        addresses: BTreeSet::new(),
        peers: senders.clone(),
    };
    let (socket, _) = with_filter(family, &heard, |filter| PacketSocket::open(family, index, filter))?;
    Ok(socket)
}

/// Does something with the filter for these addresses; if they are too many for one, or the kernel has no memory for
/// it, with the filter that lets the whole protocol through. Tells which.
fn with_filter<T>(
    family: Family,
    heard: &Heard,
    mut attach: impl FnMut(&[Instruction]) -> io::Result<T>,
) -> io::Result<(T, bool)> {
    let program = match family {
        Family::Arp => filter::arp(&v4(&heard.addresses), &v4(&heard.peers)),
        Family::Ndp => filter::ndp(&v6(&heard.addresses), &v6(&heard.peers)),
    };
    if let Ok(program) = program {
        match attach(&program) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
            result => return result.map(|attached| (attached, false)),
        }
    }
    attach(&filter::everything(family)).map(|attached| (attached, true))
}

fn v4(addresses: &BTreeSet<IpAddr>) -> BTreeSet<Ipv4Addr> {
    let v4 = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    v4.collect()
}

fn v6(addresses: &BTreeSet<IpAddr>) -> BTreeSet<Ipv6Addr> {
    let v6 = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(*address),
    });
    v6.collect()
}
