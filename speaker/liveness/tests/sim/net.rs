//! The network between the nodes: datagrams, and frames on the segment.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_liveness::{Note, Question};

use crate::world::{Event, World, ms};

impl World {
    fn lost(&mut self) -> bool {
        self.loss > 0 && self.rng.u32(0..1000) < self.loss
    }

    fn frame_delay(&mut self) -> Duration {
        self.between(Duration::from_micros(50), self.delay)
    }

    pub(crate) fn send(&mut self, node: usize, to: IpAddr, bytes: &[u8]) {
        let from = self.nodes[node].ip;
        let Some(to) = self.nodes.iter().position(|other| other.ip == to) else {
            return;
        };
        let cut = self.cut.contains(&(node.min(to), node.max(to)));
        if cut || !self.reach(node, to) || self.lost() {
            return;
        }
        let twice = self.loss > 0 && self.lost();
        for _ in 0..=u8::from(twice) {
            let at = self.now + self.frame_delay() + self.frame_delay();
            let bytes = bytes.to_vec();
            self.at(at, Event::Datagram { to, from, bytes });
        }
    }

    /// Pairs of nodes that cannot tell each other anything, as far as it is known who would listen.
    pub(crate) fn mute(&self) -> BTreeSet<(usize, usize)> {
        let mut mute: BTreeSet<(usize, usize)> = self.cut.union(&self.deaf).copied().collect();
        let disbelieved = self.disbelieved.iter().filter(|(_, until)| self.now < **until);
        for node in disbelieved.map(|(node, _)| *node) {
            mute.extend((0..self.nodes.len()).map(|other| (node.min(other), node.max(other))));
        }
        mute
    }

    /// Datagrams pass. They have another way where a link is lost.
    fn reach(&self, one: usize, two: usize) -> bool {
        let deaf = self.deaf.contains(&(one.min(two), one.max(two)));
        let (one, two) = (&self.nodes[one], &self.nodes[two]);
        !deaf && one.kernel && two.kernel && one.segment == two.segment
    }

    /// Frames pass.
    fn hear(&self, one: usize, two: usize) -> bool {
        self.reach(one, two) && self.nodes[one].link && self.nodes[two].link
    }

    /// The carrier of the interface that is announced on comes or goes.
    pub(crate) fn plug(&mut self, node: usize, link: bool) {
        self.say(|| format!("node-{node} carrier: {link}"));
        self.nodes[node].link = link;
        if let Some(process) = &self.nodes[node].process {
            let (at, run) = (self.now + ms(2), process.run);
            self.at(at, Event::Ground(node, run));
        }
    }

    /// A gratuitous ARP.
    pub(crate) fn announce(&mut self, node: usize, address: IpAddr) {
        for other in 0..self.nodes.len() {
            if other == node || !self.hear(node, other) || self.lost() {
                continue;
            }
            let (at, mac) = (self.now + self.frame_delay(), self.nodes[node].mac);
            let Some(process) = &self.nodes[other].process else {
                continue;
            };
            let run = process.run;
            if process.applied.addresses.contains_key(&address) {
                let note = Note::Claimed {
                    address,
                    interface: "eth0".to_owned(),
                    mac,
                };
                self.at(at, Event::Note(other, run, note));
            }
        }
    }

    /// One of the tries of a question.
    pub(crate) fn ask(&mut self, node: usize, run: u64, question: Question, left: u32) {
        let Some(process) = self.process(node, Some(run)) else {
            return;
        };
        if let Some(until) = process.stalled_until {
            self.at(
                until,
                Event::Try {
                    node,
                    run,
                    question,
                    left,
                },
            );
            return;
        }
        for other in 0..self.nodes.len() {
            if other == node || !self.hear(node, other) {
                continue;
            }
            for address in &question.addresses {
                let there = &self.nodes[other];
                let kernel = (there.ip == *address).then_some((there.mac, false));
                let Some((mac, in_its_name)) = kernel.or_else(|| there.answers(*address)) else {
                    continue;
                };
                if self.lost() || self.lost() {
                    continue;
                }
                let at = self.now + self.frame_delay() + self.frame_delay();
                let note = Note::Answer {
                    question: question.id,
                    address: *address,
                    interface: "eth0".to_owned(),
                    mac,
                    in_its_name,
                };
                self.at(at, Event::Note(node, run, note));
            }
        }
        if left > 1 {
            let at = self.now + question.gap;
            self.at(
                at,
                Event::Try {
                    node,
                    run,
                    question,
                    left: left - 1,
                },
            );
        } else if !self.lost() {
            let over = Note::Over {
                question: question.id,
                unasked: BTreeSet::new(),
            };
            // Layer 2 waits a gap for answers, then looks at what has come.
            let at = self.now + question.gap + Duration::from_micros(600);
            self.at(at, Event::Note(node, run, over));
        }
    }
}
