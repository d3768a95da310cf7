//! What is asked on the wire, when, and which answers are told. Pure: time comes in, frames and answers go out.
//!
//! A question is asked `tries` times, a gap apart, counted from when a try was really made: a thread that was not
//! scheduled for a while asks later, not less. A gap after the last try the question is over, and its answers are heard
//! a little longer ([`LATE`]). The same answer is told once; one that could not be told is told when it comes again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::interfaces::InterfaceState;
use crate::neighbours;
use crate::responder::Sighting;
use crate::seam::{Answer, AnswerKind, Mac, Note, Question};
use crate::wire::OwnedFrame;

/// How long answers are heard after a question is over.
pub const LATE: Duration = Duration::from_millis(100);
/// Questions open at a time; beyond, the one with the lowest id is forgotten.
pub const OPEN: usize = 64;

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Ask this, and say what was asked ([`Questions::asked`]).
    Ask(Arc<Question>),
    /// Look at every frame that is there, then tell this.
    Tell(Note),
}

#[derive(Debug)]
struct Open {
    question: Arc<Question>,
    tried: u32,
    over: bool,
    next: Duration,
    /// On which interface what was asked for.
    asked: BTreeSet<(u32, IpAddr)>,
    told: BTreeSet<Answer>,
}

/// The open questions. All times are durations since an arbitrary start.
#[derive(Debug, Default)]
pub struct Questions {
    open: BTreeMap<u64, Open>,
}

impl Questions {
    /// Opens a question, due at once.
    pub fn ask(&mut self, now: Duration, question: Question) {
        let id = question.id;
        let open = Open {
            question: Arc::new(question),
            tried: 0,
            over: false,
            next: now,
            asked: BTreeSet::new(),
            told: BTreeSet::new(),
        };
        self.open.insert(id, open);
        if self.open.len() > OPEN {
            self.open.pop_first();
        }
    }

    /// When [`Questions::due`] has something next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.open.values().map(|open| open.next).min()
    }

    /// What is due by now, at most one thing for each question.
    pub fn due(&mut self, now: Duration) -> Vec<Due> {
        self.open.retain(|_, open| open.next > now || !open.over);
        let due = self.open.values_mut().filter(|open| open.next <= now);
        due.map(|open| {
            let question = &open.question;
            if open.tried < question.tries {
                open.tried += 1;
                open.next = now + question.gap;
                return Due::Ask(Arc::clone(question));
            }
            open.over = true;
            open.next = now + LATE;
            let asked: BTreeSet<IpAddr> = open.asked.iter().map(|(_, address)| *address).collect();
            Due::Tell(Note::Over {
                question: question.id,
                unasked: question.addresses.difference(&asked).copied().collect(),
            })
        })
        .collect()
    }

    /// This was asked for, each on the interface of this index.
    pub fn asked(&mut self, id: u64, asked: impl IntoIterator<Item = (u32, IpAddr)>) {
        if let Some(open) = self.open.get_mut(&id) {
            open.asked.extend(asked);
        }
    }

    /// The interface is lost: what was asked there may have gone nowhere.
    pub fn lost(&mut self, index: u32) {
        for open in self.open.values_mut() {
            open.asked.retain(|(at, _)| *at != index);
        }
    }

    /// Somebody said on `interface` that an address is there: gives what that answers to `tell`, as far as it is new.
    /// What `tell` could not pass on is new the next time.
    pub fn heard(&mut self, interface: &str, sighting: Sighting, mut tell: impl FnMut(Answer) -> bool) {
        let Sighting { address, mac, source } = sighting;
        let asked = |open: &&mut Open| open.question.addresses.contains(&address);
        for open in self.open.values_mut().filter(asked) {
            let answer = Answer {
                question: open.question.id,
                address,
                interface: interface.to_owned(),
                mac,
                is: if source == mac {
                    AnswerKind::Itself
                } else {
                    AnswerKind::InItsName { by: source }
                },
            };
            if !open.told.contains(&answer) && tell(answer.clone()) {
                open.told.insert(answer);
            }
        }
    }
}

/// The frame that asks for `target` on this interface; `None` if the interface itself has it.
pub fn frame(target: IpAddr, interface: &InterfaceState, mac: Mac, probe: bool) -> Option<OwnedFrame> {
    if interface.addresses.iter().any(|own| own.addr() == target) {
        return None;
    }
    let fits = |own: &&IpNet| match own {
        IpNet::V4(_) => own.contains(&target),
        IpNet::V6(own) => target.is_ipv6() && own.addr().is_unicast_link_local(),
    };
    let own = interface
        .addresses
        .iter()
        .filter(|_| !probe)
        .find(fits)
        .map(IpNet::addr);
    let nobody = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    neighbours::question(own.unwrap_or(nobody), mac, target, None)
}

#[cfg(test)]
mod tests;
