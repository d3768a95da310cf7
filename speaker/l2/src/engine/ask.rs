//! Asks the wire, and tells what is heard.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::Engine;
use crate::counters::{Counters, Family};
use crate::interfaces::suitable;
use crate::question::{self, Due, Questions};
use crate::responder::Sighting;
use crate::seam::{Note, Question};
use crate::wire::OwnedFrame;

/// The open questions, and where their answers go.
pub(super) struct Asking {
    pub(super) questions: Questions,
    notes: mpsc::Sender<Note>,
}

impl Asking {
    pub(super) fn new(notes: mpsc::Sender<Note>) -> Asking {
        Asking {
            questions: Questions::default(),
            notes,
        }
    }

    /// Tells what a sighting answers, and whether it claims an address that this node has a part in.
    pub(super) fn sighted(&mut self, interface: &str, claimed: bool, sighting: Sighting, counters: &Counters) {
        let Sighting { address, mac, .. } = sighting;
        let Asking { questions, notes } = self;
        questions.heard(interface, sighting, |answer| {
            let told = tell(notes, Note::Answer(answer), counters);
            if told {
                counters.answered(Family::of(address));
            }
            told
        });
        if claimed {
            let interface = interface.to_owned();
            tell(
                notes,
                Note::Claimed {
                    address,
                    interface,
                    mac,
                },
                counters,
            );
        }
    }
}

/// Never waits; `false` if there is no room. That nobody listens is no loss.
fn tell(notes: &mpsc::Sender<Note>, note: Note, counters: &Counters) -> bool {
    let full = matches!(notes.try_send(note), Err(TrySendError::Full(_)));
    if full {
        counters.note_dropped();
    }
    !full
}

impl Engine {
    /// Asks and tells what is due.
    pub(super) fn ask(&mut self, now: Duration) {
        for due in self.asking.questions.due(now) {
            match due {
                Due::Ask(question) => {
                    let asked = self.send_question(&question);
                    self.asking.questions.asked(question.id, asked);
                }
                Due::Tell(note) => {
                    self.answer_all();
                    tell(&self.asking.notes, note, &self.counters);
                }
            }
        }
    }

    /// Asks once on every interface that suits; what was asked for where.
    fn send_question(&self, question: &Question) -> Vec<(u32, IpAddr)> {
        let links = Arc::clone(&self.interfaces.links);
        let mut asked = Vec::new();
        for (index, port) in &self.ports {
            let Some(link) = links.iter().find(|link| link.state.index == *index) else {
                continue;
            };
            for (family, tap) in &port.taps {
                let (addresses, frames): (Vec<IpAddr>, Vec<OwnedFrame>) = question
                    .addresses
                    .iter()
                    .filter(|address| Family::of(**address) == *family && tap.hears(**address))
                    .filter(|address| {
                        suitable(&link.state, **address, &question.interfaces, &self.settings.exclude).is_ok()
                    })
                    .filter_map(|address| {
                        let frame = question::frame(*address, &link.state, port.served.mac, question.probe)?;
                        Some((*address, frame))
                    })
                    .unzip();
                let sent = port.send(*family, &frames, &self.counters);
                self.counters.asked(*family, sent);
                asked.extend(addresses[..sent].iter().map(|address| (*index, *address)));
            }
        }
        asked
    }
}
