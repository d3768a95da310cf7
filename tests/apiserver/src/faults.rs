//! Faults on request: what goes wrong, with which requests, how often.

use std::time::Duration;

use serde_json::Value;

use crate::refusal::Refusal;
use crate::resource::Place;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// One object.
    Get,
    /// Many.
    List,
    /// Changes, as they come.
    Watch,
    /// A new object.
    Create,
    /// A PUT.
    Update,
    /// A merge patch or server-side apply.
    Patch,
    /// A deletion.
    Delete,
}

impl Verb {
    /// Those that change something.
    pub const WRITES: [Verb; 4] = [Verb::Create, Verb::Update, Verb::Patch, Verb::Delete];

    /// As RBAC spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 409 as though another writer had been first: `AlreadyExists` for a creation. Nothing is stored.
    Conflict,
    /// 429, and the seconds of `Retry-After`.
    TooManyRequests(u32),
    /// 500.
    InternalError,
    /// 403.
    Forbidden,
    /// The answer comes, this much later; so does what was written.
    Delay(Duration),
    /// The write is stored, but the connection is closed instead of an answer.
    AppliedThenClosed,
    /// The write is stored, but the answer is 504.
    AppliedThenTimeout,
    /// A watch that has something to tell ends instead.
    EndWatch(Ending),
    /// A watch tells an event twice.
    Duplicate,
    /// A watch tells an event, and all that follow it, this much later.
    Late(Duration),
    /// A watch leaves out its bookmarks.
    NoBookmarks,
}

/// How a watch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order, as after its time.
    Closed,
    /// In the middle of the answer.
    Cut,
    /// With 410 Gone: the version is too old.
    Gone,
}

impl Fault {
    /// Whether it happens to events of watches, not to requests.
    pub(crate) fn is_about_events(self) -> bool {
        matches!(
            self,
            Fault::EndWatch(_) | Fault::Duplicate | Fault::Late(_) | Fault::NoBookmarks
        )
    }

    /// The refusal that takes the place of the work, if that is what it is.
    pub(crate) fn refusal(self, verb: Verb, place: &Place, body: &Value) -> Option<Refusal> {
        let named = body["metadata"]["name"].as_str().unwrap_or(&place.name);
        let place = place.at(&place.namespace, named);
        match self {
            Fault::Conflict if verb == Verb::Create => Some(Refusal::already_exists(&place)),
            Fault::Conflict => Some(Refusal::conflict(&place)),
            Fault::TooManyRequests(seconds) => Some(Refusal::too_many_requests(seconds)),
            Fault::InternalError => Some(Refusal::internal_error()),
            Fault::Forbidden => Some(Refusal::forbidden(&place, verb.as_str())),
            _ => None,
        }
    }
}

/// A fault and what it happens to.
#[derive(Clone, Debug)]
pub struct Rule {
    verbs: Vec<Verb>,
    resource: Option<String>,
    name: Option<String>,
    fault: Fault,
    left: Option<u32>,
    percent: u8,
}

impl Rule {
    /// The fault happens to every request with one of `verbs`, until it is lifted.
    pub fn new(verbs: impl IntoIterator<Item = Verb>, fault: Fault) -> Self {
        Rule {
            verbs: verbs.into_iter().collect(),
            resource: None,
            name: None,
            fault,
            left: None,
            percent: 100,
        }
    }

    /// Only to requests about this resource, written as in RBAC with its group: `services/status`,
    /// `virtualips.ferrolb.io`.
    #[must_use]
    pub fn on(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// Only to requests about the object of this name; a creation is not.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Only this often.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }

    /// Only in so many of a hundred cases, by the server's seed.
    #[must_use]
    pub fn chance(mut self, percent: u8) -> Self {
        self.percent = percent;
        self
    }

    fn matches(&self, verb: Verb, place: &Place, events: bool) -> bool {
        self.fault.is_about_events() == events
            && self.left != Some(0)
            && self.verbs.contains(&verb)
            && self
                .resource
                .as_ref()
                .is_none_or(|resource| *resource == place.target())
            && self.name.as_ref().is_none_or(|name| *name == place.name)
    }
}

/// The rules in force.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<(u64, Rule)>,
    next: u64,
    random: u64,
}

impl Faults {
    pub(crate) fn seed(&mut self, seed: u64) {
        self.random = seed;
    }

    pub(crate) fn inject(&mut self, rule: Rule) -> u64 {
        self.next += 1;
        self.rules.push((self.next, rule));
        self.next
    }

    pub(crate) fn lift(&mut self, id: u64) {
        self.rules.retain(|(known, _)| *known != id);
    }

    pub(crate) fn lift_all(&mut self) {
        self.rules.clear();
    }

    /// The fault that happens to a request, or to an event of a watch. The first rule that fits and has the luck.
    pub(crate) fn draw(&mut self, verb: Verb, place: &Place, events: bool) -> Option<Fault> {
        for (_, rule) in &mut self.rules {
            if rule.matches(verb, place, events) && next(&mut self.random) % 100 < u64::from(rule.percent) {
                rule.left = rule.left.map(|left| left - 1);
                return Some(rule.fault);
            }
        }
        None
    }
}

/// SplitMix64: small, and good enough to choose faults.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
