//! Frames in, answers out; and the answers to requests that came before this node was to answer them.

use std::net::IpAddr;

use tracing::debug;

use super::Engine;
use super::port::Port;
use crate::counters::{ByAddress, Counters, Family};
use crate::io::Received;
use crate::plan::Plan;
use crate::responder::{self, Action, Decision, Reason};
use crate::seam::Conflicts;
use crate::wire::OwnedFrame;

/// Batches read from one socket before the others have their turn.
const BATCHES_IN_A_ROW: usize = 16;

/// Answers of one family about to be sent on one interface.
#[derive(Default)]
pub(super) struct Answers {
    frames: Vec<OwnedFrame>,
    /// The address each of them answers for, and whether in another's name.
    about: Vec<(IpAddr, bool)>,
}

impl Answers {
    fn clear(&mut self) {
        self.frames.clear();
        self.about.clear();
    }

    fn push(&mut self, address: IpAddr, for_owner: bool, frame: OwnedFrame) {
        self.frames.push(frame);
        self.about.push((address, for_owner));
    }

    /// Sends and counts them; how many were sent.
    fn send(&self, port: &Port, family: Family, counters: &Counters, of_address: &ByAddress) -> usize {
        for (address, _) in &self.about {
            counters.requested(family, of_address.get(address).map(|c| &**c));
        }
        let sent = port.send(family, &self.frames, counters);
        for (address, for_owner) in &self.about[..sent] {
            counters.replied(family, of_address.get(address).map(|c| &**c), *for_owner);
        }
        sent
    }
}

impl Engine {
    /// Reads from a socket and answers.
    pub(super) fn answer(&mut self, index: u32, family: Family) {
        self.turn = self.turn.wrapping_add(1);
        for _ in 0..BATCHES_IN_A_ROW {
            let Some(tap) = self.ports.get(&index).and_then(|port| port.taps.get(&family)) else {
                return;
            };
            if let Err(error) = tap.socket.receive(&mut self.batch) {
                // Told once when the interface goes down; the socket works again when it comes back.
                debug!(interface = index, family = family.name(), %error, "cannot read frames");
                return;
            }
            self.answer_batch(index, family);
            if !self.batch.is_full() {
                return;
            }
            if let Some(tap) = self.ports.get(&index).and_then(|port| port.taps.get(&family)) {
                self.counters
                    .dropped(Reason::QueueFull, tap.socket.dropped().unwrap_or(0));
            }
        }
    }

    /// Reads from every socket and answers.
    pub(super) fn answer_all(&mut self) {
        let taps = self
            .ports
            .iter()
            .flat_map(|(index, port)| port.taps.keys().map(|family| (*index, *family)));
        for (index, family) in taps.collect::<Vec<_>>() {
            self.answer(index, family);
        }
    }

    fn answer_batch(&mut self, index: u32, family: Family) {
        let now = self.start.elapsed();
        let Some(port) = self.ports.get_mut(&index) else { return };
        let view = responder::Port {
            mac: port.served.mac,
            own_macs: &self.own_macs,
            members: &self.wanted.members,
            addresses: &port.served.addresses,
            peers: &self.wanted.peers,
        };
        self.answers.clear();
        for received in self.batch.frames() {
            let Decision { action, sighting } = match received {
                Received::Frame(frame) => responder::respond(frame, view),
                Received::TooLong => Decision::ignore(Reason::TooLong),
            };
            if let Some(sighting) = sighting {
                let claimed = port.served.addresses.contains_key(&sighting.address);
                self.asking
                    .sighted(&port.served.name, claimed, sighting, &self.counters);
            }
            match action {
                Action::Reply {
                    request,
                    for_owner,
                    frame,
                } => {
                    let address = request.address();
                    if let Some(asker) = request.asker() {
                        self.announcer.neighbours.asked(index, address, asker);
                    }
                    self.answers.push(address, for_owner, frame);
                }
                Action::Remember(request) => {
                    if let Some(asker) = request.asker() {
                        self.announcer.neighbours.asked(index, request.address(), asker);
                    }
                    port.memory.remember(now, request);
                }
                Action::Conflict { address, mac } => {
                    let want = self.wanted.addresses.get(&address);
                    if want.is_some_and(|want| want.manner.conflicts == Conflicts::Ignore) {
                        continue;
                    }
                    self.counters.conflict(family);
                    self.defence.claimed(now, index, address);
                    self.outbox.conflict(now, address, &port.served.name, mac);
                }
                Action::Note => {}
                Action::Ignore(reason) => self.counters.dropped(reason, 1),
            }
        }
        self.answers.send(port, family, &self.counters, &self.address_counters);
    }

    /// Answers the remembered requests for addresses that this plan answers for.
    pub(super) fn recall(&mut self, plan: &Plan) {
        let now = self.start.elapsed();
        for (index, served) in plan {
            let Some(port) = self.ports.get_mut(index) else {
                continue;
            };
            let told = |address| {
                served
                    .addresses
                    .get(&address)
                    .and_then(|stance| stance.told(served.mac))
            };
            let requests = port.memory.recall(now, |address| told(address).is_some());
            for family in [Family::Arp, Family::Ndp] {
                self.answers.clear();
                for request in &requests {
                    let address = request.address();
                    if let Some(mac) = told(address).filter(|_| Family::of(address) == family) {
                        let frame = request.answer(served.mac, mac);
                        self.answers.push(address, !served.owns(address), frame);
                    }
                }
                let sent = self.answers.send(port, family, &self.counters, &self.address_counters);
                self.counters.replied_from_memory(family, sent);
            }
        }
    }
}
