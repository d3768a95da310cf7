//! When to look again: retries of failed writes, ends of cool-downs, the next sweep over what waits.
//!
//! One deadline per key; setting a key again moves it. Nothing here reads a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_model::ServiceId;

use crate::effect::WriteKey;

/// What a deadline is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Look at this address again: a cool-down ends, or an expected watch event did not come.
    Address(IpAddr),
    /// A failed write may be tried again.
    Retry(WriteKey),
    /// The old address of a Service that is renumbered goes.
    Overlap(ServiceId),
    /// Decide about a Service again that did not come to rest.
    Restless(ServiceId),
    /// Look at everything that waits for an address.
    Sweep,
    /// A drain's delay, or the time that a speaker or a silent node has, is over.
    Nodes,
    /// A new owner has not confirmed in time that it announces what was moved to balance.
    Rebalance,
    /// A speaker was asked about this address and has not answered.
    Probe(IpAddr),
    /// This address, which another machine uses, may be tried again.
    Occupied(IpAddr),
    /// The takeover of this address counts no more than any other placement.
    Belief(IpAddr),
    /// The owner of this address should have confirmed that it announces it.
    Owner(IpAddr),
}

impl Timer {
    fn is_retry(&self) -> bool {
        matches!(self, Timer::Retry(_))
    }
}

/// The pending deadlines.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    at: BTreeMap<Timer, Duration>,
    queue: BTreeSet<(Duration, Timer)>,
    /// How many of them are retries: mostly none, and then nobody has to look for one.
    retries: usize,
}

impl Timers {
    /// Sets or moves a deadline.
    pub(crate) fn set(&mut self, timer: Timer, at: Duration) {
        self.clear(&timer);
        self.queue.insert((at, timer.clone()));
        self.retries += usize::from(timer.is_retry());
        self.at.insert(timer, at);
    }

    /// Sets a deadline unless an earlier one stands.
    pub(crate) fn set_earlier(&mut self, timer: Timer, at: Duration) {
        if self.at.get(&timer).is_none_or(|old| *old > at) {
            self.set(timer, at);
        }
    }

    /// Drops a deadline.
    pub(crate) fn clear(&mut self, timer: &Timer) {
        if let Some(at) = self.at.remove(timer) {
            self.queue.remove(&(at, timer.clone()));
            self.retries -= usize::from(timer.is_retry());
        }
    }

    /// Drops the retry of a write.
    pub(crate) fn clear_retry(&mut self, key: &WriteKey) {
        if self.retries > 0 {
            self.clear(&Timer::Retry(key.clone()));
        }
    }

    /// Whether a write waits to be tried again.
    pub(crate) fn is_retry_set(&self, key: &WriteKey) -> bool {
        self.retries > 0 && self.at.contains_key(&Timer::Retry(key.clone()))
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes one deadline that has come.
    pub(crate) fn pop_due(&mut self, now: Duration) -> Option<Timer> {
        let (at, _) = self.queue.first()?;
        if *at > now {
            return None;
        }
        let (_, timer) = self.queue.pop_first()?;
        self.at.remove(&timer);
        self.retries -= usize::from(timer.is_retry());
        Some(timer)
    }
}

/// How long a write waits after its failures: 100 ms, doubled each time, at most 2 s, so that everything is caught up
/// within 5 s once the API server answers again. While it forbids the write, 1 s and then 2 s: a starting server needs
/// about that long to load its access rules.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: BTreeMap<WriteKey, Failures>,
}

#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    /// The kind of the last one, and how many of that kind came in a row.
    last: Option<Failure>,
    alike: u32,
}

/// What a write met, as far as waiting depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nobody answered, or asked to come back later.
    Unavailable,
    /// The object is not what the picture says.
    Conflict,
    /// Permission is missing.
    Forbidden,
}

const FIRST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(2);
const FORBIDDEN: Duration = Duration::from_secs(1);

impl Backoff {
    /// Counts a failure; says how long to wait, and how many of its kind came in a row.
    pub(crate) fn fail(&mut self, key: &WriteKey, failure: Failure) -> (Duration, u32) {
        let failures = self.failures.entry(key.clone()).or_default();
        if failures.last.replace(failure) != Some(failure) {
            failures.alike = 0;
        }
        let wait = match failure {
            Failure::Forbidden => FORBIDDEN.saturating_mul(1 << failures.alike.min(16)),
            Failure::Unavailable | Failure::Conflict => FIRST.saturating_mul(1 << failures.in_a_row.min(16)),
        };
        failures.in_a_row += 1;
        failures.alike += 1;
        (wait.min(MOST), failures.alike)
    }

    /// Forgets the failures of a write that went through.
    pub(crate) fn succeed(&mut self, key: &WriteKey) {
        self.failures.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_fires_once_and_can_be_moved() {
        let seconds = Duration::from_secs;
        let mut timers = Timers::default();
        timers.set(Timer::Sweep, seconds(5));
        timers.set(Timer::Sweep, seconds(3));
        timers.set_earlier(Timer::Sweep, seconds(4));
        assert_eq!(timers.next(), Some(seconds(3)));
        assert_eq!(timers.pop_due(seconds(2)), None);
        assert_eq!(timers.pop_due(seconds(3)), Some(Timer::Sweep));
        assert_eq!((timers.pop_due(seconds(9)), timers.next()), (None, None));
    }

    #[test]
    fn retries_are_found_until_they_are_due() {
        let keys = ["a", "b"].map(|name| WriteKey::ServiceStatus(ServiceId::new("a", name)));
        let mut timers = Timers::default();
        assert!(!timers.is_retry_set(&keys[0]));
        for (at, key) in [(1, &keys[0]), (2, &keys[1]), (3, &keys[0])] {
            timers.set(Timer::Retry(key.clone()), Duration::from_secs(at));
        }
        assert_eq!(keys.each_ref().map(|k| timers.is_retry_set(k)), [true, true]);
        assert_eq!(timers.pop_due(Duration::MAX), Some(Timer::Retry(keys[1].clone())));
        assert_eq!(keys.each_ref().map(|k| timers.is_retry_set(k)), [true, false]);
        timers.clear_retry(&keys[0]);
        assert_eq!((timers.is_retry_set(&keys[0]), timers.next()), (false, None));
    }

    #[test]
    fn waits_double_up_to_a_cap() {
        let key = WriteKey::ServiceStatus(ServiceId::new("a", "b"));
        let mut backoff = Backoff::default();
        let mut wait = |_| backoff.fail(&key, Failure::Unavailable).0.as_millis();
        let waits = (0..40).map(&mut wait).collect::<Vec<_>>();
        assert_eq!(waits[..8], [100, 200, 400, 800, 1600, 2000, 2000, 2000]);
        assert_eq!(waits[39], 2000);
        backoff.succeed(&key);
        assert_eq!(backoff.fail(&key, Failure::Conflict), (FIRST, 1));
    }

    #[test]
    fn failures_of_a_kind_are_counted_in_a_row() {
        let key = WriteKey::ServiceStatus(ServiceId::new("a", "b"));
        let mut backoff = Backoff::default();
        let mut fail = |failure| {
            let (wait, alike) = backoff.fail(&key, failure);
            (wait.as_millis(), alike)
        };
        assert_eq!(fail(Failure::Unavailable), (100, 1));
        assert_eq!(fail(Failure::Forbidden), (1000, 1));
        assert_eq!(fail(Failure::Forbidden), (2000, 2));
        assert_eq!(fail(Failure::Forbidden), (2000, 3));
        assert_eq!(fail(Failure::Conflict), (1600, 1));
        assert_eq!(fail(Failure::Forbidden), (1000, 1), "no longer in a row");
    }
}
