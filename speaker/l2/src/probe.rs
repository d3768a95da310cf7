//! Asks the segment whether another machine has an address, before it is taken: by ARP probes (RFC 5227 2.1.1) and by
//! Neighbor Solicitations from `::` (RFC 4862 5.4.2), so that nobody learns a wrong place for it from the question.
//!
//! Each call of [`probe`] has sockets of its own for as long as it takes, beside those of the engine: what is asked for
//! here is no address of this node yet, and the engine's filters and roles stay as they are. The intervals are far shorter
//! than those of the RFCs, which think of hosts that have all day: a machine that lives answers within a millisecond, and
//! one that answers later is found while the address is announced.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::net::IpAddr;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::counters::Family;
use crate::engine::listen;
use crate::interfaces::{InterfaceState, NamePattern, suitable};
use crate::io::{Batch, Received, Watched};
use crate::question;
use crate::responder::{self, Port};
use crate::seam::{InterfaceChoice, Mac};
use crate::wire::OwnedFrame;

/// How often each address is asked for.
pub const TRIES: u32 = 3;

/// Between two tries, and after the last one.
pub const GAP: Duration = Duration::from_millis(10);

/// What was found out about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nobody has answered.
    Clear,
    /// Another machine has it.
    Occupied {
        /// The interface it was heard on.
        interface: String,
        /// Its MAC.
        mac: Mac,
    },
    /// There is no interface to ask on, or nothing could be sent.
    NotAsked,
}

/// A socket of one family on one interface, and what is asked there.
struct Ear {
    interface: String,
    family: Family,
    mac: Mac,
    asked: BTreeSet<IpAddr>,
    frames: Vec<OwnedFrame>,
    socket: Watched,
}

/// Asks for all of these addresses side by side, each on the interfaces chosen for it that suit: of those, where there are
/// any, on the ones with a subnet that contains it. What a machine of `members` says is no finding. Takes [`TRIES`] times
/// [`GAP`], less if somebody has everything. Needs `CAP_NET_RAW` and a runtime with IO.
pub async fn probe(
    addresses: &BTreeMap<IpAddr, InterfaceChoice>,
    links: &[InterfaceState],
    exclude: &[NamePattern],
    members: &BTreeSet<Mac>,
) -> BTreeMap<IpAddr, Finding> {
    let ears = open(addresses, links, exclude);
    let own_macs = links.iter().filter_map(|link| link.mac).collect::<BTreeSet<_>>();
    let mut findings = addresses
        .keys()
        .map(|address| (*address, Finding::NotAsked))
        .collect::<BTreeMap<_, _>>();
    if ears.is_empty() {
        return findings;
    }
    let mut batch = Batch::new();
    for _ in 0..TRIES {
        for ear in &ears {
            let (sent, error) = ear.socket.socket().send(&ear.frames);
            if let Some(error) = error {
                debug!(interface = ear.interface, family = ear.family.name(), %error, "cannot probe");
            }
            for address in ear.asked.iter().take(sent) {
                clear(&mut findings, *address);
            }
        }
        let until = Instant::now() + GAP;
        loop {
            let ready = tokio::time::timeout_at(until, readable(&ears)).await;
            // Late or not: what has come by then is looked at before anything is concluded.
            for ear in &ears {
                hear(ear, &own_macs, members, &mut batch, &mut findings);
            }
            if ready.is_err() {
                break;
            }
        }
        if findings
            .values()
            .all(|finding| matches!(finding, Finding::Occupied { .. }))
        {
            break;
        }
    }
    // The kernel waits for all processors to let go of a packet socket, which takes milliseconds.
    tokio::task::spawn_blocking(move || drop(ears));
    findings
}

fn clear(findings: &mut BTreeMap<IpAddr, Finding>, address: IpAddr) {
    if let Some(finding @ Finding::NotAsked) = findings.get_mut(&address) {
        *finding = Finding::Clear;
    }
}

fn open(addresses: &BTreeMap<IpAddr, InterfaceChoice>, links: &[InterfaceState], exclude: &[NamePattern]) -> Vec<Ear> {
    let contains = |link: &InterfaceState, address: &IpAddr| link.addresses.iter().any(|net| net.contains(address));
    let suits = |link: &InterfaceState, address: &IpAddr, choice: &InterfaceChoice| {
        link.mac.is_some() && suitable(link, *address, choice, exclude).is_ok()
    };
    let at_home = addresses
        .iter()
        .filter(|(address, choice)| links.iter().any(|l| suits(l, address, choice) && contains(l, address)));
    let at_home = at_home.map(|(address, _)| *address).collect::<BTreeSet<_>>();
    let mut ears = Vec::new();
    for link in links {
        let Some(mac) = link.mac else { continue };
        for family in [Family::Arp, Family::Ndp] {
            let here = addresses.iter().filter(|(address, choice)| {
                Family::of(**address) == family
                    && suits(link, address, choice)
                    && (contains(link, address) || !at_home.contains(*address))
            });
            let framed = |(address, _): (&IpAddr, &InterfaceChoice)| {
                Some((*address, question::frame(*address, link, mac, true)?))
            };
            // In the order of the addresses, so that what was sent is known by its number.
            let (asked, frames): (BTreeSet<IpAddr>, Vec<OwnedFrame>) = here.filter_map(framed).unzip();
            if asked.is_empty() {
                continue;
            }
            match listen(link.index, family, &asked).and_then(Watched::new) {
                Ok(socket) => ears.push(Ear {
                    interface: link.name.clone(),
                    family,
                    mac,
                    asked,
                    frames,
                    socket,
                }),
                Err(error) => debug!(interface = link.name, family = family.name(), %error, "cannot probe"),
            }
        }
    }
    ears
}

async fn readable(ears: &[Ear]) {
    poll_fn(|cx| {
        let ready = ears.iter().any(|ear| ear.socket.poll_readable(cx).is_ready());
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Reads what is there.
fn hear(
    ear: &Ear,
    own_macs: &BTreeSet<Mac>,
    members: &BTreeSet<Mac>,
    batch: &mut Batch,
    findings: &mut BTreeMap<IpAddr, Finding>,
) {
    let nothing = BTreeMap::new();
    let port = Port {
        mac: ear.mac,
        own_macs,
        members,
        addresses: &nothing,
        peers: &ear.asked,
    };
    loop {
        if let Err(error) = ear.socket.socket().receive(batch) {
            debug!(interface = ear.interface, family = ear.family.name(), %error, "cannot hear answers to a probe");
            return;
        }
        for received in batch.frames() {
            let Received::Frame(frame) = received else { continue };
            let Some(sighting) = responder::respond(frame, port).sighting else {
                continue;
            };
            let said_by_member = members.contains(&sighting.mac) || members.contains(&sighting.source);
            let finding = findings.get_mut(&sighting.address).filter(|_| !said_by_member);
            if let Some(finding) = finding.filter(|finding| !matches!(finding, Finding::Occupied { .. })) {
                *finding = Finding::Occupied {
                    interface: ear.interface.clone(),
                    mac: sighting.mac,
                };
            }
        }
        if !batch.is_full() {
            return;
        }
    }
}
