//! Frames in, answers out; and the answers to requests that came before this node was to answer them.

use std::time::Duration;

use tracing::debug;

use super::Engine;
use super::port::Port;
use crate::counters::{ByAddress, Counters, Family};
use crate::io::Received;
use crate::plan::Plan;
use crate::responder::{self, Action, Decision, Reason, Request};
use crate::seam::Conflicts;
use crate::wire::OwnedFrame;

/// Batches read from one socket before the others have their turn.
const BATCHES_IN_A_ROW: usize = 16;
/// Between two looks at what is asked about addresses that are only listened for.
const LISTEN: Duration = Duration::from_millis(250);

/// Answers of one family about to be sent on one interface.
#[derive(Default)]
pub(super) struct Answers {
    frames: Vec<OwnedFrame>,
    /// What each of them answers, and whether in another's name.
    about: Vec<(Request, bool)>,
}

impl Answers {
    fn clear(&mut self) {
        self.frames.clear();
        self.about.clear();
    }

    fn push(&mut self, request: Request, for_owner: bool, frame: OwnedFrame) {
        self.frames.push(frame);
        self.about.push((request, for_owner));
    }

    /// Sends and then counts them; how many were sent.
    fn send(&self, port: &Port, family: Family, counters: &Counters, of_address: &ByAddress) -> usize {
        if self.frames.is_empty() {
            return 0;
        }
        let sent = port.send(family, &self.frames, counters);
        for (place, (request, for_owner)) in self.about.iter().enumerate() {
            let of_address = of_address.get(&request.address()).map(|c| &**c);
            counters.requested(family, of_address);
            if place < sent {
                counters.replied(family, of_address, *for_owner);
            }
        }
        sent
    }
}

impl Engine {
    /// Reads from a socket and answers: the first frame alone, because that is what there is as a rule, and whatever has
    /// come behind it in batches.
    pub(super) fn answer(&mut self, index: u32, family: Family) {
        for round in 0..=BATCHES_IN_A_ROW {
            let Some(tap) = self.ports.get(&index).and_then(|port| port.taps.get(&family)) else {
                return;
            };
            let read = match round {
                0 => tap.socket.receive_one(&mut self.batch),
                _ => tap.socket.receive(&mut self.batch),
            };
            if let Err(error) = read {
                // Told once when the interface goes down; the socket works again when it comes back.
                debug!(interface = index, family = family.name(), %error, "cannot read frames");
                return;
            }
            if self.batch.is_empty() {
                return;
            }
            self.answer_batch(index, family);
            if self.batch.is_full()
                && let Some(tap) = self.ports.get(&index).and_then(|port| port.taps.get(&family))
            {
                self.counters
                    .dropped(Reason::QueueFull, tap.socket.dropped().unwrap_or(0));
            } else if round > 0 {
                return;
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

    /// Reads the questions that nobody was woken for. They are remembered; one for an address that is answered for since
    /// is answered.
    pub(super) fn hear_quiet(&mut self) {
        let of_port = |(index, port): (&u32, &Port)| {
            let families = port.quiet.keys().map(|family| (*index, *family));
            families.collect::<Vec<_>>()
        };
        let quiet: Vec<(u32, Family)> = self.ports.iter().flat_map(of_port).collect();
        for (index, family) in &quiet {
            for _ in 0..BATCHES_IN_A_ROW {
                let Some(socket) = self.ports.get(index).and_then(|port| port.quiet.get(family)) else {
                    break;
                };
                if let Err(error) = socket.receive(&mut self.batch) {
                    debug!(interface = index, family = family.name(), %error, "cannot read questions");
                    break;
                }
                self.remember_batch(*index, *family);
                if !self.batch.is_full() {
                    break;
                }
            }
        }
        self.listen_at = (!quiet.is_empty()).then(|| self.now() + LISTEN);
    }

    /// Of what else these say the other socket tells.
    fn remember_batch(&mut self, index: u32, family: Family) {
        let now = self.now();
        let Some(port) = self.ports.get_mut(&index) else { return };
        let view = responder::Port {
            mac: port.served.mac,
            own_macs: &self.own_macs,
            members: &self.wanted.members,
            addresses: &port.served.addresses,
            peers: &self.wanted.peers,
        };
        self.answers.clear();
        for (source, received) in self.batch.messages() {
            let Received::Frame(octets) = received else { continue };
            let decision = match family {
                Family::Arp => responder::respond(octets, view),
                Family::Ndp => responder::respond_to_solicitation(source, octets, view),
            };
            let request = match decision.action {
                Action::Reply {
                    request,
                    for_owner,
                    frame,
                } => {
                    self.answers.push(request, for_owner, frame);
                    request
                }
                Action::Remember(request) => {
                    port.memory.remember(now, request);
                    request
                }
                Action::Conflict { .. } | Action::Note | Action::Ignore(_) => continue,
            };
            if let Some(asker) = request.asker() {
                self.announcer.neighbours.asked(index, request.address(), asker);
            }
        }
        self.answers.send(port, family, &self.counters, &self.address_counters);
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
                    self.answers.push(request, for_owner, frame);
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
        for (request, _) in &self.answers.about {
            if let Some(asker) = request.asker() {
                self.announcer.neighbours.asked(index, request.address(), asker);
            }
        }
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
                        self.answers.push(*request, !served.owns(address), frame);
                    }
                }
                let sent = self.answers.send(port, family, &self.counters, &self.address_counters);
                self.counters.replied_from_memory(family, sent);
            }
        }
    }
}
