//! The sockets of one interface: opened, filtered and closed as the plan says.
//!
//! What has to be answered or told at once wakes the thread. Questions for addresses that are only listened for do not:
//! they wait in the queue of a socket of their own, for the next look at it or the moment in which one of them is to be
//! answered. So a question of a client wakes the process of the node that answers, and none of its standbys. Without such
//! a socket the other one hears them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::runtime::Handle;
use tracing::{debug, warn};

use crate::counters::{Counters, Family};
use crate::filter::{self, Instruction, TooLarge};
use crate::io::{Batch, PacketSocket, SolicitationSocket};
use crate::memory::Memory;
use crate::plan::{Served, Stance};
use crate::responder::Reason;
use crate::wire::OwnedFrame;

/// The addresses a filter is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Those asked for.
    targets: BTreeSet<IpAddr>,
    /// Those whose questions another socket hears, as far as it can.
    aside: BTreeSet<IpAddr>,
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
        let (socket, unfiltered) = heard.with_filter(family, |filter| PacketSocket::open(family, index, filter))?;
        Ok(Tap {
            socket,
            heard,
            unfiltered,
        })
    }

    fn hear(&mut self, family: Family, heard: Heard) -> io::Result<()> {
        if self.heard != heard {
            self.unfiltered = heard.with_filter(family, |filter| self.socket.set_filter(filter))?.1;
            self.heard = heard;
        }
        Ok(())
    }
}

/// A socket that nobody waits for, and the addresses whose questions it hears.
pub(super) struct Quiet {
    socket: QuietSocket,
    heard: BTreeSet<IpAddr>,
}

enum QuietSocket {
    Arp(PacketSocket),
    Ndp(SolicitationSocket),
}

impl Quiet {
    /// Hears nothing yet.
    fn open(index: u32, family: Family) -> io::Result<Quiet> {
        let socket = match family {
            Family::Arp => QuietSocket::Arp(PacketSocket::open(family, index, &filter::nothing())?),
            Family::Ndp => QuietSocket::Ndp(SolicitationSocket::open(index)?),
        };
        Ok(Quiet {
            socket,
            heard: BTreeSet::new(),
        })
    }

    fn hear(&mut self, heard: BTreeSet<IpAddr>) -> io::Result<()> {
        if self.heard == heard {
            return Ok(());
        }
        let set = match &self.socket {
            QuietSocket::Arp(socket) => {
                let program = filter::arp(&v4(&heard), &BTreeSet::new());
                let all = || filter::everything(Family::Arp);
                with_program(program, all, |filter| socket.set_filter(filter))
            }
            QuietSocket::Ndp(socket) => {
                let program = filter::solicitations(&v6(&heard));
                with_program(program, filter::every_solicitation, |filter| socket.set_filter(filter))
            }
        };
        set.map(|_| self.heard = heard)
    }

    /// Reads what is queued, up to a batch: frames, or messages.
    pub(super) fn receive(&self, batch: &mut Batch) -> io::Result<()> {
        match &self.socket {
            QuietSocket::Arp(socket) => socket.receive(batch),
            QuietSocket::Ndp(socket) => socket.receive(batch),
        }
    }
}

/// An interface on which this node has a part in addresses.
pub(super) struct Port {
    pub(super) served: Served,
    pub(super) taps: BTreeMap<Family, Tap>,
    /// Hear questions for what is only listened for.
    pub(super) quiet: BTreeMap<Family, Quiet>,
    /// Those of `quiet` that could not be opened or filtered, which was said.
    refused: BTreeSet<Family>,
    pub(super) memory: Memory,
}

impl Port {
    pub(super) fn new(served: Served) -> Port {
        Port {
            served,
            taps: BTreeMap::new(),
            quiet: BTreeMap::new(),
            refused: BTreeSet::new(),
            memory: Memory::default(),
        }
    }

    /// Opens the quiet socket of this family if something is only listened for. It hears nothing yet.
    pub(super) fn open_quiet(&mut self, index: u32, family: Family) {
        if self.quiet.contains_key(&family) || self.only_listened_for(family).is_empty() {
            return;
        }
        match Quiet::open(index, family) {
            Ok(quiet) => {
                self.quiet.insert(family, quiet);
            }
            Err(error) if self.refused.insert(family) => {
                let (interface, family) = (&self.served.name, family.name());
                warn!(interface, family, %error, "questions for what is only listened for wake the speaker");
            }
            Err(_) => {}
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
        let aside = match self.quiet.get(&family) {
            Some(_) => self.only_listened_for(family),
            None => BTreeSet::new(),
        };
        let heard = Heard {
            senders: addresses
                .iter()
                .chain(peers.iter().filter(of_family))
                .copied()
                .collect(),
            targets: &addresses - &aside,
            aside,
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

    /// Makes the quiet socket of this family hear what is asked about addresses that are only listened for. One that is
    /// needed no more hears nothing then, and may hold something still.
    pub(super) fn tune_quiet(&mut self, family: Family) {
        // A socket that hears everything hears these as well.
        let everything = self.taps.get(&family).is_none_or(|tap| tap.unfiltered);
        let heard = if everything {
            BTreeSet::new()
        } else {
            self.only_listened_for(family)
        };
        match self.quiet.get_mut(&family).map(|quiet| quiet.hear(heard)) {
            Some(Err(error)) if self.refused.insert(family) => {
                let (interface, family) = (&self.served.name, family.name());
                warn!(interface, family, %error, "who asks while this node only listens is not answered from memory");
            }
            Some(Ok(())) => {
                self.refused.remove(&family);
            }
            _ => {}
        }
    }

    fn only_listened_for(&self, family: Family) -> BTreeSet<IpAddr> {
        let all = self.served.addresses.iter();
        all.filter(|(address, stance)| Family::of(**address) == family && **stance == Stance::Listen)
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

    /// The same for the quiet sockets of families of which nothing is only listened for any more.
    pub(super) fn close_idle(&mut self, closer: &Handle) {
        for family in [Family::Arp, Family::Ndp] {
            if self.only_listened_for(family).is_empty()
                && let Some(idle) = self.quiet.remove(&family)
            {
                closer.spawn_blocking(move || drop(idle));
            }
        }
    }

    /// The same for all of them.
    pub(super) fn close_all(self, closer: &Handle) {
        let Port { taps, quiet, .. } = self;
        closer.spawn_blocking(move || drop((taps, quiet)));
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
        senders: senders.clone(),
        ..Heard::default()
    };
    let (socket, _) = heard.with_filter(family, |filter| PacketSocket::open(family, index, filter))?;
    Ok(socket)
}

impl Heard {
    /// Does something with the filter for these addresses, as [`with_program`] says.
    fn with_filter<T>(
        &self,
        family: Family,
        attach: impl FnMut(&[Instruction]) -> io::Result<T>,
    ) -> io::Result<(T, bool)> {
        let Heard {
            targets,
            aside,
            senders,
        } = self;
        let program = match family {
            Family::Arp => filter::arp(&v4(targets), &v4(senders)),
            Family::Ndp => filter::ndp(&v6(targets), &v6(aside), &v6(&(&(senders - targets) - aside))),
        };
        with_program(program, || filter::everything(family), attach)
    }
}

/// Does something with this filter; if the addresses were too many for one, or the kernel has no memory for it, with the
/// one that lets everything through. Tells whether it was that.
fn with_program<T>(
    program: Result<Vec<Instruction>, TooLarge>,
    everything: impl FnOnce() -> Vec<Instruction>,
    mut attach: impl FnMut(&[Instruction]) -> io::Result<T>,
) -> io::Result<(T, bool)> {
    if let Ok(program) = program {
        match attach(&program) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
            result => return result.map(|attached| (attached, false)),
        }
    }
    attach(&everything()).map(|attached| (attached, true))
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
