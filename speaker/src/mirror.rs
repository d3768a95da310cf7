//! Objects of one kind that this speaker alone writes: what should stand in them, what does, and which are to be
//! written now. Level-triggered: nothing but the latest of what is wanted and seen counts.
//!
//! An object is written on change only and at most once in [`PACE`], however often it changes. Objects that somebody
//! deletes are made again; those that nobody wants are deleted. While the API server is away one pause holds for all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ferrolb_runtime::apply::Failure;
use ferrolb_runtime::backoff::Backoff;

/// Time between two writes of an object.
pub(crate) const PACE: Duration = Duration::from_secs(1);

/// Time before what the API server refused is tried again.
const REFUSED: Duration = Duration::from_secs(30);

/// The same where a rule is missing: an API server that starts says so until it has loaded its rules.
const FORBIDDEN: Duration = Duration::from_secs(3);

/// Delays between attempts while the API server is away.
const AWAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));

/// All objects of the kind that are wanted or there, by name.
pub(crate) struct Mirror<S> {
    entries: BTreeMap<String, Entry<S>>,
    /// Those to look at.
    changed: BTreeSet<String>,
    away: Backoff,
    pause_until: Option<Instant>,
}

struct Entry<S> {
    wanted: Option<S>,
    /// `None`: there is no such object.
    stands: Option<S>,
    busy: bool,
    /// Not made since it became wanted.
    new: bool,
    not_before: Option<Instant>,
}

/// What is to be done about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Write<S> {
    /// Write this.
    Put {
        /// The status.
        status: S,
        /// The object is not there.
        make: bool,
        /// And was not there since it became wanted.
        first: bool,
    },
    /// Delete it.
    Delete,
}

impl<S: Clone + PartialEq> Mirror<S> {
    /// Nothing wanted, nothing there.
    pub(crate) fn new() -> Self {
        Mirror {
            entries: BTreeMap::new(),
            changed: BTreeSet::new(),
            away: Backoff::new(AWAY.0, AWAY.1),
            pause_until: None,
        }
    }

    /// These are wanted and no others.
    pub(crate) fn want(&mut self, mut wanted: BTreeMap<String, S>) {
        for (name, entry) in &mut self.entries {
            let now = wanted.remove(name);
            if entry.wanted != now {
                entry.new |= entry.wanted.is_none();
                self.changed.insert(name.clone());
            }
            entry.wanted = now;
            entry.share();
        }
        for (name, status) in wanted {
            self.changed.insert(name.clone());
            self.entries.insert(name, Entry::new(Some(status), None));
        }
    }

    /// The object says this, or is gone.
    pub(crate) fn seen(&mut self, name: String, stands: Option<S>) {
        match self.entries.get_mut(&name) {
            Some(entry) => {
                entry.stands = stands;
                entry.share();
            }
            None if stands.is_none() => return,
            None => drop(self.entries.insert(name.clone(), Entry::new(None, stands))),
        }
        self.changed.insert(name);
    }

    /// What to write now, at most so many; the outcomes come back through [`Mirror::written`].
    pub(crate) fn due(&mut self, now: Instant, room: usize) -> Vec<(String, Write<S>)> {
        if self.pause_until.is_some_and(|until| until > now) {
            return Vec::new();
        }
        let (mut due, mut settled) = (Vec::new(), Vec::new());
        for name in &self.changed {
            if due.len() >= room {
                break;
            }
            let Some(entry) = self.entries.get_mut(name) else {
                settled.push(name.clone());
                continue;
            };
            if entry.busy {
                continue;
            }
            if entry.wanted == entry.stands {
                settled.push(name.clone());
            } else if entry.not_before.is_none_or(|at| at <= now) {
                entry.busy = true;
                due.push((name.clone(), entry.write()));
            }
        }
        for name in settled {
            self.changed.remove(&name);
            if self.entries.get(&name).is_some_and(|entry| entry.wanted.is_none()) {
                self.entries.remove(&name);
            }
        }
        due
    }

    /// A write has ended.
    pub(crate) fn written(&mut self, name: &str, write: Write<S>, result: &Result<(), Failure>, now: Instant) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        entry.busy = false;
        entry.not_before = Some(now + PACE);
        match (result, write) {
            (Ok(()), Write::Put { status, .. }) => {
                entry.stands = Some(status);
                entry.new = false;
            }
            (Ok(()) | Err(Failure::Gone), Write::Delete) | (Err(Failure::Gone), Write::Put { .. }) => {
                entry.stands = None;
            }
            (Err(Failure::Unavailable(_)), _) => {
                self.pause_until = Some(now + self.away.delay());
                return;
            }
            (Err(Failure::Forbidden(_)), _) => entry.not_before = Some(now + FORBIDDEN),
            (Err(_), _) => entry.not_before = Some(now + REFUSED),
        }
        self.away.reset();
    }

    /// When to ask [`Mirror::due`] again, unless a write ends before.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let idle = |name: &String| self.entries.get(name).filter(|entry| !entry.busy);
        let next = self
            .changed
            .iter()
            .filter_map(idle)
            .map(|entry| entry.not_before)
            .min()?;
        next.max(self.pause_until)
    }

    /// Nothing is to be written.
    pub(crate) fn settled(&self) -> bool {
        self.changed.is_empty()
    }
}

impl<S: Clone + PartialEq> Entry<S> {
    fn new(wanted: Option<S>, stands: Option<S>) -> Self {
        Entry {
            wanted,
            stands,
            busy: false,
            new: true,
            not_before: None,
        }
    }

    /// What stands as it is wanted is kept once, where statuses can be shared.
    fn share(&mut self) {
        if self.stands == self.wanted {
            self.stands.clone_from(&self.wanted);
        }
    }

    fn write(&self) -> Write<S> {
        match self.wanted.clone() {
            Some(status) => Write::Put {
                status,
                make: self.stands.is_none(),
                first: self.new && self.stands.is_none(),
            },
            None => Write::Delete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(entries: &[(&str, u8)]) -> BTreeMap<String, u8> {
        entries
            .iter()
            .map(|(name, status)| ((*name).to_owned(), *status))
            .collect()
    }

    fn put(name: &str, status: u8, make: bool, first: bool) -> (String, Write<u8>) {
        (name.to_owned(), Write::Put { status, make, first })
    }

    /// Writes everything that is due; what that was.
    fn write(mirror: &mut Mirror<u8>, now: Instant, result: Result<(), Failure>) -> Vec<(String, Write<u8>)> {
        let due = mirror.due(now, 10);
        for (name, write) in due.clone() {
            mirror.written(&name, write, &result, now);
        }
        due
    }

    #[test]
    fn written_on_change_only_and_once_in_a_second() {
        let start = Instant::now();
        let mut mirror = Mirror::new();
        mirror.want(wanted(&[("a", 1)]));
        assert_eq!(write(&mut mirror, start, Ok(())), [put("a", 1, true, true)]);
        mirror.seen("a".to_owned(), Some(1));
        mirror.want(wanted(&[("a", 1)]));
        assert!(write(&mut mirror, start + PACE, Ok(())).is_empty());
        assert!(mirror.settled());

        mirror.want(wanted(&[("a", 2)]));
        assert_eq!(write(&mut mirror, start + PACE, Ok(())), [put("a", 2, false, false)]);
        mirror.want(wanted(&[("a", 3)]));
        mirror.want(wanted(&[("a", 4)]));
        assert!(mirror.due(start + PACE, 10).is_empty(), "too soon");
        assert_eq!(mirror.deadline(), Some(start + PACE * 2));
        assert_eq!(mirror.due(start + PACE * 2, 10), [put("a", 4, false, false)]);
        assert!(mirror.due(start + PACE * 4, 10).is_empty(), "one write at a time");
        assert_eq!(mirror.deadline(), None);
    }

    #[test]
    fn what_is_not_wanted_is_deleted_and_what_somebody_deletes_is_made_again() {
        let start = Instant::now();
        let mut mirror = Mirror::new();
        mirror.seen("stale".to_owned(), Some(1));
        mirror.seen("a".to_owned(), Some(1));
        mirror.seen("never".to_owned(), None);
        mirror.want(wanted(&[("a", 1)]));
        assert_eq!(write(&mut mirror, start, Ok(())), [("stale".to_owned(), Write::Delete)]);
        assert!(write(&mut mirror, start, Ok(())).is_empty());
        assert_eq!(mirror.entries.len(), 1, "what is gone is forgotten");
        mirror.seen("a".to_owned(), None);
        assert_eq!(write(&mut mirror, start, Ok(())).len(), 1);
        mirror.seen("a".to_owned(), None);
        assert_eq!(write(&mut mirror, start + PACE, Ok(())), [put("a", 1, true, false)]);
        mirror.want(wanted(&[]));
        mirror.written(
            "a",
            Write::Put {
                status: 1,
                make: true,
                first: false,
            },
            &Err(Failure::Gone),
            start,
        );
        assert!(write(&mut mirror, start + PACE * 9, Ok(())).is_empty(), "gone already");
    }

    #[test]
    fn an_api_server_that_is_away_is_asked_by_one_pause_and_a_refusal_holds_up_one_object() {
        let start = Instant::now();
        let mut mirror = Mirror::new();
        mirror.want(wanted(&[("a", 1), ("b", 1), ("c", 1)]));
        assert_eq!(mirror.due(start, 1).len(), 1, "no more than there is room for");
        let first = Write::Put {
            status: 1,
            make: true,
            first: true,
        };
        mirror.written("a", first.clone(), &Err(Failure::Unavailable("away".to_owned())), start);
        assert!(mirror.due(start, 10).is_empty());
        let pause = mirror.deadline().unwrap();
        assert!(pause > start && pause <= start + AWAY.1);
        assert_eq!(mirror.due(pause.max(start + PACE), 10).len(), 3, "nothing is lost");
        for (name, result) in [
            ("a", Err(Failure::Refused("no".to_owned()))),
            ("b", Err(Failure::Forbidden("not yet".to_owned()))),
            ("c", Ok(())),
        ] {
            mirror.written(name, first.clone(), &result, start);
        }
        assert!(mirror.due(start + PACE * 2, 10).is_empty());
        assert_eq!(mirror.due(start + FORBIDDEN, 10), [put("b", 1, true, true)]);
        mirror.written("b", first.clone(), &Ok(()), start + FORBIDDEN);
        assert_eq!(mirror.due(start + REFUSED, 10), [put("a", 1, true, true)]);
    }
}
