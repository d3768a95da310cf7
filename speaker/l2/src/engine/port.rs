//! The sockets of one interface: opened, filtered and closed as the plan says.
//!
//! What has to be answered or told at once wakes the thread. ARP requests for addresses that are only listened for do not:
//! they wait in the queue of a socket of their own, for the next look at it or the moment in which one of them is to be
//! answered. So a question of a client wakes the process of the node that answers, and none of its standbys.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::runtime::Handle;
use tracing::debug;

use crate::counters::{Counters, Family};
use crate::filter::{self, Instruction};
use crate::io::PacketSocket;
use crate::memory::Memory;
use crate::plan::{Served, Stance};
use crate::responder::Reason;
use crate::wire::OwnedFrame;

/// The addresses a filter is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Those asked for.
    targets: BTreeSet<IpAddr>,
    /// Those that say something, be it a claim or an answer.
    senders: BTreeSet<IpAddr>,
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
        self.heard.senders.contains(&sender)
    }

    fn open(index: u32, family: Family, heard: Heard) -> io::Result<Tap> {
        let (socket, unfiltered) = with_filter(family, &heard, |filter| PacketSocket::open(family, index, filter))?;
        Ok(Tap {
            socket,
            heard,
            unfiltered,
        })
    }

    fn hear(&mut self, family: Family, heard: Heard) -> io::Result<()> {
        if self.heard != heard {
            self.unfiltered = with_filter(family, &heard, |filter| self.socket.set_filter(filter))?.1;
            self.heard = heard;
        }
        Ok(())
    }
}

/// An interface on which this node has a part in addresses.
pub(super) struct Port {
    pub(super) served: Served,
    pub(super) taps: BTreeMap<Family, Tap>,
    /// Hears ARP requests for what is only listened for; nobody waits for it.
    pub(super) quiet: Option<Tap>,
    pub(super) memory: Memory,
}

impl Port {
    pub(super) fn new(served: Served) -> Port {
        Port {
            served,
            taps: BTreeMap::new(),
            quiet: None,
            memory: Memory::default(),
        }
    }

    /// Makes the socket of this family hear its addresses among these, or closes it if there are none.
    pub(super) fn tune(
        &mut self,
        index: u32,
        family: Family,
        peers: &BTreeSet<IpAddr>,
        closer: &Handle,
    ) -> io::Result<()> {
        let of_family = |address: &&IpAddr| Family::of(**address) == family;
        let addresses: BTreeSet<IpAddr> = self.served.addresses.keys().filter(of_family).copied().collect();
        let heard = Heard {
            senders: addresses
                .iter()
                .chain(peers.iter().filter(of_family))
                .copied()
                .collect(),
            targets: &addresses - &self.only_listened_for(family),
        };
        if heard == Heard::default() {
            self.close(family, closer);
            return Ok(());
        }
        match self.taps.get_mut(&family) {
            Some(tap) => tap.hear(family, heard)?,
            None => {
                self.taps.insert(family, Tap::open(index, family, heard)?);
            }
        }
        Ok(())
    }

    /// Makes the quiet socket hear what is asked about addresses that are only listened for. One that is needed no more
    /// hears nothing then, and may hold something still.
    pub(super) fn tune_quiet(&mut self, index: u32) -> io::Result<()> {
        // A socket that hears everything hears these as well.
        let everything = self.taps.get(&Family::Arp).is_none_or(|tap| tap.unfiltered);
        let heard = Heard {
            targets: if everything {
                BTreeSet::new()
            } else {
                self.only_listened_for(Family::Arp)
            },
            senders: BTreeSet::new(),
        };
        match &mut self.quiet {
            Some(tap) => tap.hear(Family::Arp, heard),
            None if heard == Heard::default() => Ok(()),
            None => {
                self.quiet = Some(Tap::open(index, Family::Arp, heard)?);
                Ok(())
            }
        }
    }

    /// A socket for Neighbor Discovery costs something per packet of the interface, so that a second one is not worth it.
    fn only_listened_for(&self, family: Family) -> BTreeSet<IpAddr> {
        let all = self.served.addresses.iter().filter(|_| family == Family::Arp);
        all.filter(|(address, stance)| address.is_ipv4() && **stance == Stance::Listen)
            .map(|(address, _)| *address)
            .collect()
    }

    /// Closes a socket off the thread that answers: the kernel waits for all processors to let go of it, which takes
    /// milliseconds.
    pub(super) fn close(&mut self, family: Family, closer: &Handle) {
        if let Some(tap) = self.taps.remove(&family) {
            closer.spawn_blocking(move || drop(tap));
        }
    }

    /// The same for the quiet socket, if it has nothing to hear any more.
    pub(super) fn close_idle(&mut self, closer: &Handle) {
        if let Some(tap) = self.quiet.take_if(|tap| tap.heard == Heard::default()) {
            closer.spawn_blocking(move || drop(tap));
        }
    }

    /// The same for all of them.
    pub(super) fn close_all(mut self, closer: &Handle) {
        self.close(Family::Arp, closer);
        self.close(Family::Ndp, closer);
        if let Some(tap) = self.quiet.take() {
            closer.spawn_blocking(move || drop(tap));
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
        targets: BTreeSet::new(),
        senders: senders.clone(),
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
        Family::Arp => filter::arp(&v4(&heard.targets), &v4(&heard.senders)),
        Family::Ndp => filter::ndp(&v6(&heard.targets), &v6(&(&heard.senders - &heard.targets))),
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
