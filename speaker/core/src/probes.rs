//! What is known of other machines that use addresses, before this node takes them: for the controller, which names this
//! node as the prober of a VirtualIP, and for this node itself, before it begins to announce.
//!
//! Pure: [`Probes::take`] says what to ask now, [`Probes::answered`] takes in what came of it. The shell asks the wire.
//! Nothing is waited for longer than [`BOUND`]; a segment that cannot be asked says nothing against an address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_model::{Probe, Stranger, VirtualIp};

use crate::effect::Effect;
use crate::input::Input;

/// An answer that has not come by then is not waited for any more.
const BOUND: Duration = Duration::from_millis(500);

/// Nobody has answered a moment ago: that need not be asked again for this long.
const FRESH: Duration = Duration::from_secs(10);

/// An address that another machine uses is asked about again after this long, then after twice as long, and so on, up to
/// [`LONGEST`].
const AGAIN: Duration = Duration::from_secs(10);

/// See [`AGAIN`]. Shorter than a conflict is shown, so that one that lasts is shown without a break.
const LONGEST: Duration = Duration::from_secs(40);

/// What came of a question to the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nobody has answered.
    Clear,
    /// Another machine uses the address.
    Occupied(Stranger),
    /// The question could not be asked.
    NotAsked,
}

/// Where a question is asked: `None` is every suitable interface.
pub type Where = Option<BTreeSet<String>>;

/// What stands between an address and its announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Nothing.
    Free,
    /// The question is open, until then at the latest.
    Open(Duration),
    /// Another machine; it is asked again then.
    Taken(Stranger, Duration),
}

#[derive(Debug)]
struct Question {
    on: Where,
    since: Duration,
    sent: bool,
}

#[derive(Debug)]
struct Found {
    on: Where,
    at: Duration,
    finding: Finding,
    /// How often in a row another machine was found.
    times: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Probes {
    node: String,
    /// VirtualIPs about which the controller asks this node, each with its uid.
    duties: BTreeMap<IpAddr, String>,
    questions: BTreeMap<IpAddr, Question>,
    found: BTreeMap<IpAddr, Found>,
}

impl Probes {
    /// For the speaker of `node`, which knows nothing yet.
    pub fn new(node: impl Into<String>) -> Self {
        Probes {
            node: node.into(),
            duties: BTreeMap::new(),
            questions: BTreeMap::new(),
            found: BTreeMap::new(),
        }
    }

    /// Takes in what concerns it.
    pub fn hear(&mut self, input: &Input, now: Duration) {
        match input {
            Input::VirtualIp(ip) => self.virtual_ip(ip, now),
            Input::VirtualIpGone(address) => {
                self.duties.remove(address);
                self.questions.remove(address);
                self.found.remove(address);
            }
            _ => {}
        }
    }

    /// One that is announced already is past the question, whatever its VirtualIP says.
    fn virtual_ip(&mut self, ip: &VirtualIp, now: Duration) {
        let asks = |probe: &Probe| matches!(probe, Probe::Asked { node } if *node == self.node);
        if ip.announcer.is_some() {
            self.found.remove(&ip.address);
        }
        if ip.announcer.is_some() || !ip.probe.as_deref().is_some_and(asks) {
            self.duties.remove(&ip.address);
        } else if self.duties.insert(ip.address, ip.uid.clone()).as_ref() != Some(&ip.uid) {
            self.ask(ip.address, None, now);
        }
    }

    fn ask(&mut self, address: IpAddr, on: Where, now: Duration) {
        if !self.is_asked(address, &on) {
            let question = Question {
                on,
                since: now,
                sent: false,
            };
            self.questions.insert(address, question);
        }
    }

    fn is_asked(&self, address: IpAddr, on: &Where) -> bool {
        self.questions.get(&address).is_some_and(|question| question.on == *on)
    }

    /// Whether there is something to ask.
    pub fn has_questions(&self) -> bool {
        self.questions.values().any(|question| !question.sent)
    }

    /// What to ask the wire now, `most` addresses at a time.
    pub fn take(&mut self, most: usize) -> BTreeMap<IpAddr, Where> {
        let new = self.questions.iter_mut().filter(|(_, question)| !question.sent);
        let new = new.take(most).map(|(address, question)| {
            question.sent = true;
            (*address, question.on.clone())
        });
        new.collect()
    }

    /// A question has come to its end.
    pub fn answered(&mut self, address: IpAddr, on: Where, finding: Finding, now: Duration) -> Option<Effect> {
        // The controller is answered once.
        let uid = self.duties.get_mut(&address).filter(|_| on.is_none());
        let uid = uid.map(std::mem::take).filter(|uid| !uid.is_empty());
        self.keep(address, on, finding.clone(), now);
        uid.map(|uid| Effect::SetProbe { address, uid, finding })
    }

    fn keep(&mut self, address: IpAddr, on: Where, finding: Finding, now: Duration) {
        if self.is_asked(address, &on) {
            self.questions.remove(&address);
        }
        self.found
            .retain(|of, found| *of == address || now < found.at + LONGEST + FRESH);
        let before = self.found.remove(&address);
        let times = match &finding {
            Finding::Occupied(_) => before.map_or(0, |before| before.times) + 1,
            Finding::Clear | Finding::NotAsked => 0,
        };
        let found = Found {
            on,
            at: now,
            finding,
            times,
        };
        self.found.insert(address, found);
    }

    /// Whether this node may begin to announce the address on these interfaces; asks if that is not known.
    pub(crate) fn judge(&mut self, address: IpAddr, on: &Where, now: Duration) -> Segment {
        let found = self.found.get(&address).filter(|found| found.on == *on);
        if let Some(found) = found {
            let wait = AGAIN
                .saturating_mul(1 << found.times.saturating_sub(1).min(8))
                .min(LONGEST);
            match &found.finding {
                Finding::Clear | Finding::NotAsked if now < found.at + FRESH => return Segment::Free,
                Finding::Occupied(stranger) if now < found.at + wait => {
                    return Segment::Taken(stranger.clone(), found.at + wait);
                }
                _ => {}
            }
        }
        self.ask(address, on.clone(), now);
        let until = self
            .questions
            .get(&address)
            .map_or(now, |question| question.since + BOUND);
        if now >= until {
            // Whoever asks has fallen silent, and that is no reason to leave an address without an answer.
            self.keep(address, on.clone(), Finding::NotAsked, now);
            return Segment::Free;
        }
        Segment::Open(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn stranger() -> Stranger {
        Stranger {
            mac: [2, 0, 0x5e, 0, 0, 7],
            interface: "eth0".to_owned(),
        }
    }

    fn asked(node: &str, uid: &str) -> Input {
        Input::VirtualIp(VirtualIp {
            probe: Some(Box::new(Probe::Asked { node: node.to_owned() })),
            uid: uid.to_owned(),
            resource_version: "1".to_owned(),
            ..VirtualIp::of(A)
        })
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_controller_is_answered_once_for_each_object() {
        let mut probes = Probes::new("n1");
        probes.hear(&asked("n2", "u"), seconds(0));
        assert!(!probes.has_questions(), "another node is asked");
        for _ in 0..2 {
            probes.hear(&asked("n1", "u"), seconds(0));
        }
        assert_eq!(probes.take(9), BTreeMap::from([(A, None)]));
        assert!(probes.take(9).is_empty());
        let effect = probes.answered(A, None, Finding::Occupied(stranger()), seconds(1));
        let expected = Effect::SetProbe {
            address: A,
            uid: "u".to_owned(),
            finding: Finding::Occupied(stranger()),
        };
        assert_eq!(effect, Some(expected));
        assert_eq!(probes.answered(A, None, Finding::Clear, seconds(1)), None);
        probes.hear(&Input::VirtualIpGone(A), seconds(2));
        probes.hear(&asked("n1", "v"), seconds(2));
        assert!(probes.has_questions(), "a new object is a new question");
    }

    #[test]
    fn what_was_found_clear_for_the_controller_is_not_asked_again_at_once() {
        let mut probes = Probes::new("n1");
        probes.hear(&asked("n1", "u"), seconds(0));
        probes.take(9);
        assert_eq!(probes.judge(A, &None, seconds(0)), Segment::Open(BOUND));
        probes.answered(A, None, Finding::Clear, seconds(0));
        assert_eq!(probes.judge(A, &None, seconds(9)), Segment::Free);
        let elsewhere = Some(BTreeSet::from(["eth9".to_owned()]));
        let until = seconds(9) + BOUND;
        assert_eq!(
            probes.judge(A, &elsewhere, seconds(9)),
            Segment::Open(until),
            "another segment"
        );
        assert_eq!(probes.judge(A, &None, seconds(11)), Segment::Open(seconds(11) + BOUND));
    }

    #[test]
    fn a_stranger_is_asked_about_less_and_less_often_and_gone_when_silent() {
        let mut probes = Probes::new("n1");
        let mut now = seconds(100);
        for wait in [10, 20, 40, 40] {
            assert_eq!(probes.judge(A, &None, now), Segment::Open(now + BOUND));
            assert_eq!(probes.take(9).len(), 1);
            probes.answered(A, None, Finding::Occupied(stranger()), now);
            let taken = Segment::Taken(stranger(), now + seconds(wait));
            assert_eq!(probes.judge(A, &None, now), taken);
            now += seconds(wait);
        }
        probes.judge(A, &None, now);
        probes.take(9);
        probes.answered(A, None, Finding::Clear, now);
        assert_eq!(probes.judge(A, &None, now), Segment::Free);
    }

    #[test]
    fn an_answer_that_does_not_come_is_no_obstacle_and_still_the_controllers() {
        let mut probes = Probes::new("n1");
        probes.hear(&asked("n1", "u"), seconds(0));
        probes.judge(A, &None, seconds(0));
        probes.take(9);
        assert_eq!(probes.judge(A, &None, BOUND), Segment::Free);
        assert_eq!(probes.judge(A, &None, BOUND + seconds(1)), Segment::Free);
        assert!(!probes.has_questions());
        assert!(probes.answered(A, None, Finding::Clear, BOUND + seconds(1)).is_some());
    }
}
