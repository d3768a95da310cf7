//! A silent owner: what the wire says about it, and what follows. Pure.
//!
//! A round asks the owner's kernel, one address out of each [`Group`], and, if there is one, the kernel of a third node; the
//! other standbys are asked when they heard of the owner. It is over when layer 2 says so ([`Note::Over`]): until then silence
//! may mean that layer 2 has not run. Then:
//!
//! | the kernel | the address | what is found | the standby of rank r |
//! | --- | --- | --- | --- |
//! | any | answered | [`Finding::Answered`] | waits, asks again in 240 ms |
//! | another standby hears the owner | | [`Finding::Answered`] | the same: the path between the two is broken |
//! | answers | silent | [`Finding::SpeakerSilent`] | answers in the owner's name, after r x 60 ms; takes over when the grace time ends |
//! | silent | silent | [`Finding::Gone`] | takes over, after r x 60 ms |
//!
//! Ranks above 0 ask again before they act. Whoever answers in the owner's name asks every 100 ms: it takes over as
//! soon as the kernel is silent, whatever its rank, and rests when the wire shows that the owner answers itself. Where two
//! answer in its name, neither waits for the other: their ranks say who takes over. When nobody
//! answers at all, not even the third node, the fault may be this node's: it asks once more before it believes it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::seam::{InterfaceChoice, Mac, Note, PeerState, Question, Takeover};

/// How often an address is asked for in a round.
const TRIES: u32 = 3;
/// Between two of these.
const GAP: Duration = Duration::from_millis(10);
/// This process may be this late.
const LATE: Duration = Duration::from_millis(10);
/// After the last one, layer 2 says within this time that the round is over.
const OVER: Duration = Duration::from_millis(60);
/// An owner that has said goodbye answers for a moment longer; after that the wire is asked.
const LEFT: Duration = Duration::from_millis(160);
/// An owner that still says goodbye has not been answered by a standby before this one: so long each of them has.
const ANSWERED: Duration = Duration::from_millis(30);
/// Rounds in a row that may be repeated because this process was late; it may be so busy that it always is.
const LATE_ROUNDS: u32 = 2;
/// What a standby waits for each one before it.
const RANK: Duration = Duration::from_millis(60);
/// Between two rounds while nothing can be done.
const AGAIN: Duration = Duration::from_millis(240);
/// Between two rounds while answering in the owner's name.
const WATCH: Duration = Duration::from_millis(100);
/// The other standbys are asked this often in a round.
const WITNESS_TRIES: u32 = 5;
/// Between two of these. By the last one whoever hears the owner has heard it later than this node, mostly long before. They
/// are many because a question or an answer that a heartbeat overtakes counts as old.
const WITNESS_GAP: Duration = Duration::from_millis(5);
/// Before the first word of a witness is checked: the owner may have died right after.
const DOUBT: Duration = Duration::from_millis(50);
/// So long both answer when the owner is back: its layer 2 has to be ready.
pub const RELIEF: Duration = Duration::from_millis(100);

/// Addresses of one owner for which the same is to be done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// The standbys before this one: where others than these would answer, the silence of one address says nothing about
    /// another.
    pub before: BTreeSet<Arc<str>>,
    /// Where they are announced.
    pub interfaces: InterfaceChoice,
    /// How long they stay with an owner whose speaker is silent.
    pub grace: Duration,
    /// Whether they are answered in its name.
    pub answer_for_owner: bool,
    /// Whether they are now.
    pub standing_in: bool,
}

impl Group {
    /// The same, whether it is answered for or not.
    fn key(&self) -> Group {
        Group {
            standing_in: false,
            ..self.clone()
        }
    }

    /// This node's place among the standbys, 0 for the first.
    pub fn rank(&self) -> u32 {
        u32::try_from(self.before.len()).unwrap_or(u32::MAX)
    }

    fn delay(&self) -> Duration {
        RANK * self.rank()
    }
}

/// What a round has found out about a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Nothing answers.
    Gone,
    /// The owner's kernel answers, the address is silent or answered by a stand-in.
    SpeakerSilent,
    /// The address is answered.
    Answered,
}

/// What is to be done about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Take its addresses over.
    Take(Takeover),
    /// Answer in the owner's name, with the MAC its kernel has on each of these interfaces.
    StandIn(BTreeMap<String, Mac>),
    /// Do not: somebody answers for them himself.
    Rest,
}

/// What is being asked.
#[derive(Clone, Debug)]
struct Round {
    id: u64,
    /// At the latest.
    ends: Duration,
    /// Layer 2 has said so.
    over: bool,
    kernel: BTreeSet<IpAddr>,
    known: BTreeSet<Mac>,
    control: BTreeSet<IpAddr>,
    samples: BTreeMap<Group, IpAddr>,
    /// The MAC the kernel answered with, by interface.
    macs: BTreeMap<String, Mac>,
    control_answered: bool,
    /// Addresses that answered; true if only a stand-in did.
    answered: BTreeMap<IpAddr, bool>,
    unasked: BTreeSet<IpAddr>,
    /// When the other standbys are asked next, and how often they have been.
    witnesses: (Option<Duration>, u32),
    /// One of them has heard the owner since this node did.
    vouched: bool,
}

/// One silent owner.
#[derive(Clone, Debug)]
pub struct Case {
    /// Since when it has been silent.
    pub since: Duration,
    /// It is heard again: until then it is still answered for.
    pub relieved_at: Option<Duration>,
    /// It has said goodbye, then for the first time.
    left: Option<Duration>,
    /// Some of its addresses have been answered in its name.
    pub stood_in: bool,
    round: Option<Round>,
    /// When to ask next.
    next: Option<Duration>,
    /// What was found last about each group, and since when it is so.
    findings: BTreeMap<Group, (Finding, Duration)>,
    /// Rounds in a row in which nobody at all has answered.
    alone: u32,
    /// Rounds in a row whose end this process has missed.
    late: u32,
    /// Rounds in a row in which another standby has heard the owner.
    vouched: u32,
}

impl Case {
    /// An owner that has been silent `since` then; asks at `next`.
    pub fn new(since: Duration, next: Duration) -> Case {
        Case {
            since,
            relieved_at: None,
            left: None,
            stood_in: false,
            round: None,
            next: Some(next),
            findings: BTreeMap::new(),
            alone: 0,
            late: 0,
            vouched: 0,
        }
    }

    /// An owner that has said goodbye: its groups count as found without a speaker.
    pub fn goodbye<'a>(groups: impl Iterator<Item = &'a Group>, now: Duration) -> Case {
        let found = groups.map(|group| (group.key(), (Finding::SpeakerSilent, now)));
        Case {
            left: Some(now),
            findings: found.collect(),
            ..Case::new(now, now + LEFT)
        }
    }

    /// It has said goodbye, and was not heard since.
    pub fn has_left(&self) -> bool {
        self.left.is_some() && self.relieved_at.is_none()
    }

    /// It says goodbye, now: is it this node's turn to answer for the group?
    pub fn follows(&self, group: &Group, now: Duration) -> bool {
        let turn = self.left.map(|at| at + ANSWERED * group.rank());
        group.answer_for_owner && !group.standing_in && turn.is_some_and(|turn| turn <= now)
    }

    /// Asks (again) at this time; forgets what is being asked.
    pub fn ask_at(&mut self, at: Duration) {
        self.round = None;
        self.next = Some(at);
    }

    /// When something is due.
    pub fn deadline(&self) -> Option<Duration> {
        let round = |round: &Round| round.witnesses.0.map_or(round.ends, |at| at.min(round.ends));
        self.relieved_at.or(self.round.as_ref().map(round)).or(self.next)
    }

    /// Is it time to ask?
    pub fn asks(&self, now: Duration) -> bool {
        self.relieved_at.is_none() && self.round.is_none() && self.next.is_some_and(|at| at <= now)
    }

    /// Is a round over?
    pub fn ends(&self, now: Duration) -> bool {
        self.relieved_at.is_none() && self.round.as_ref().is_some_and(|round| round.ends <= now)
    }

    /// Is this its question?
    pub fn asked(&self, question: u64) -> bool {
        self.round.as_ref().is_some_and(|round| round.id == question)
    }

    /// The question to put to the other standbys now, if it is time for that.
    pub fn asks_witnesses(&mut self, now: Duration) -> Option<u64> {
        let round = self.round.as_mut().filter(|_| self.relieved_at.is_none())?;
        let (next, asked) = &mut round.witnesses;
        if next.is_none_or(|at| now < at) {
            return None;
        }
        *asked += 1;
        *next = (*asked < WITNESS_TRIES).then(|| now + WITNESS_GAP);
        Some(round.id)
    }

    /// Another standby has heard the owner since this node did.
    pub fn vouch(&mut self) {
        if let Some(round) = &mut self.round {
            round.vouched = true;
        }
    }

    /// Begins a round. `kernel` has the owner's addresses and, where they are known, its MACs: others may have the same
    /// address on some bridge of their own. `samples` has an address of each group; `control` is a third node.
    pub fn ask(
        &mut self,
        id: u64,
        (kernel, known): (BTreeSet<IpAddr>, BTreeSet<Mac>),
        control: BTreeSet<IpAddr>,
        samples: BTreeMap<Group, IpAddr>,
        now: Duration,
    ) -> Question {
        let choices = samples.keys().map(|group| &group.interfaces);
        let none = InterfaceChoice::Named(BTreeSet::new());
        let interfaces = choices.fold(none, InterfaceChoice::or);
        let addresses = kernel.iter().chain(&control).chain(samples.values()).copied().collect();
        self.next = None;
        self.round = Some(Round {
            id,
            ends: now + GAP * TRIES + OVER,
            over: false,
            kernel,
            known,
            control,
            samples,
            macs: BTreeMap::new(),
            control_answered: false,
            answered: BTreeMap::new(),
            unasked: BTreeSet::new(),
            witnesses: (Some(now), 0),
            vouched: false,
        });
        Question {
            id,
            addresses,
            interfaces,
            tries: TRIES,
            gap: GAP,
        }
    }

    /// Takes in what layer 2 has heard.
    pub fn hear(&mut self, note: &Note, now: Duration) {
        let Some(round) = &mut self.round else { return };
        match note {
            Note::Answer {
                address,
                interface,
                mac,
                in_its_name,
                ..
            } => {
                // A stand-in says nothing about a kernel.
                let owner = round.known.is_empty() || round.known.contains(mac);
                if round.kernel.contains(address) && owner && !in_its_name {
                    round.macs.insert(interface.clone(), *mac);
                }
                round.control_answered |= round.control.contains(address);
                let only_stand_in = round.answered.entry(*address).or_insert(true);
                *only_stand_in &= in_its_name;
            }
            Note::Over { unasked, .. } => {
                round.unasked.extend(unasked);
                round.over = true;
                round.ends = round.ends.min(now);
            }
            Note::Claimed { .. } => {}
        }
    }

    /// Ends a round: what is to be done, and what is thought of the owner now.
    pub fn conclude(&mut self, now: Duration) -> (Vec<(Group, Act)>, PeerState) {
        let Some(round) = self.round.take() else {
            return (Vec::new(), PeerState::Suspect);
        };
        let late = now > round.ends + LATE && self.late < LATE_ROUNDS;
        self.late = if late { self.late + 1 } else { 0 };
        if late || !round.over {
            // Layer 2 or this process has not run, so questions may not have been asked, nor answers been heard.
            self.next = Some(now);
            return (Vec::new(), PeerState::Suspect);
        }
        self.vouched = if round.vouched { self.vouched + 1 } else { 0 };
        let kernel = !round.macs.is_empty();
        let deaf = !round.vouched && !kernel && !round.control_answered && round.answered.is_empty();
        if !round.vouched && !kernel && round.kernel.iter().all(|address| round.unasked.contains(address)) {
            // Nothing was asked, so silence means nothing.
            self.next = Some(now + AGAIN);
            return (Vec::new(), PeerState::Suspect);
        }
        self.alone = if deaf { self.alone + 1 } else { 0 };
        if deaf && !round.control.is_empty() && self.alone == 1 {
            self.next = Some(now);
            return (Vec::new(), PeerState::Suspect);
        }
        let (mut acts, mut next, mut worst) = (Vec::new(), None, None);
        for (group, sample) in round.samples {
            let answered = round.answered.get(&sample).copied();
            let finding = match (answered, kernel) {
                _ if round.vouched => Finding::Answered,
                _ if round.unasked.contains(&sample) => continue,
                (None, false) => Finding::Gone,
                // Another one that answers in its name as well will not do more than this one.
                (Some(true), false) if group.standing_in => Finding::Gone,
                (None, true) | (Some(true), true) => Finding::SpeakerSilent,
                (Some(_), _) => Finding::Answered,
            };
            worst = worst.min(Some(finding)).or(Some(finding));
            let (act, again) = self.judge(&group, finding, answered.is_some(), &round.macs, now);
            acts.extend(act.map(|act| (group, act)));
            next = [next, again].into_iter().flatten().min();
        }
        self.next = Some(match self.vouched {
            1 => now + DOUBT,
            _ => next.unwrap_or(now + AGAIN),
        });
        let state = match worst {
            Some(Finding::Gone) => PeerState::Gone,
            Some(Finding::SpeakerSilent) => PeerState::SpeakerSilent,
            Some(Finding::Answered) if round.vouched => PeerState::HeardByOthers,
            Some(Finding::Answered) => PeerState::StillAnswers,
            None => PeerState::Suspect,
        };
        (acts, state)
    }

    /// What is to be done about a group, and when to ask again.
    fn judge(
        &mut self,
        group: &Group,
        finding: Finding,
        answered: bool,
        macs: &BTreeMap<String, Mac>,
        now: Duration,
    ) -> (Option<Act>, Option<Duration>) {
        let known = self.findings.entry(group.key()).or_insert((finding, now));
        if known.0 != finding {
            *known = (finding, now);
        }
        let turn = known.1 + group.delay();
        // Not since the heartbeats stopped: they may be lost for hours while the speaker lives.
        let grace = known.1 + group.grace + group.delay();
        match finding {
            Finding::Gone if (group.standing_in && !answered) || turn <= now => {
                (Some(Act::Take(Takeover::NodeGone)), None)
            }
            Finding::Gone => (None, Some(turn)),
            // A witness hears that the owner's speaker lives, not that it knows of the address: who restarts while the API
            // server is away may have forgotten it.
            Finding::Answered if group.standing_in && !answered => (None, Some(now + WATCH)),
            Finding::Answered => (group.standing_in.then_some(Act::Rest), Some(now + AGAIN)),
            Finding::SpeakerSilent if answered && !group.standing_in => (None, Some(now + AGAIN)),
            Finding::SpeakerSilent if grace <= now => (Some(Act::Take(Takeover::GraceOver)), None),
            Finding::SpeakerSilent if group.standing_in => (None, Some((now + WATCH).min(grace))),
            Finding::SpeakerSilent if !group.answer_for_owner => (None, Some((now + AGAIN).min(grace))),
            Finding::SpeakerSilent if turn <= now => (Some(Act::StandIn(macs.clone())), Some(now + WATCH)),
            Finding::SpeakerSilent => (None, Some(turn)),
        }
    }
}

#[cfg(test)]
mod tests;
