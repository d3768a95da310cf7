//! Whether the program can do its work, and whether its owner task still moves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A set of named checks; ready when none has a reason not to be. Cheap to clone: all clones are one set.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    checks: Arc<Mutex<BTreeMap<String, Option<String>>>>,
}

/// The right to say how one check stands.
#[derive(Clone, Debug)]
pub struct Check {
    name: String,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a check, which stands at `not ready: why` until its owner says otherwise.
    pub fn check(&self, name: impl Into<String>, why: impl Into<String>) -> Check {
        let check = Check {
            name: name.into(),
            readiness: self.clone(),
        };
        check.not_ready(why);
        check
    }

    /// Adds a check that stands well until its owner says otherwise.
    pub fn sound_check(&self, name: impl Into<String>) -> Check {
        let check = Check {
            name: name.into(),
            readiness: self.clone(),
        };
        check.ready();
        check
    }

    /// Every check that is not ready, with why, in order of name.
    pub fn missing(&self) -> Vec<(String, String)> {
        self.lock()
            .iter()
            .filter_map(|(name, why)| why.as_ref().map(|why| (name.clone(), why.clone())))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Option<String>>> {
        // Nothing panics while the map is held; were it so, its content would still be sound.
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Check {
    /// It stands well.
    pub fn ready(&self) {
        self.readiness.lock().insert(self.name.clone(), None);
    }

    /// It does not, and why.
    pub fn not_ready(&self, why: impl Into<String>) {
        self.readiness.lock().insert(self.name.clone(), Some(why.into()));
    }
}

/// The pulse of the owner task: it beats, `/healthz` looks when it last did.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    start: Instant,
    limit: Duration,
    last: Arc<AtomicU64>,
}

impl Heartbeat {
    /// A pulse that counts as stopped after `limit` without a beat. Creation is the first beat.
    pub fn new(limit: Duration) -> Self {
        Heartbeat {
            start: Instant::now(),
            limit,
            last: Arc::new(AtomicU64::new(0)),
        }
    }

    /// The owner moves. Call it in every round of its loop, and make a round at least every third of the limit.
    pub fn beat(&self) {
        let now = self.start.elapsed().as_millis();
        self.last
            .store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How often a loop with nothing to do has to beat.
    pub fn period(&self) -> Duration {
        self.limit / 3
    }

    /// `Err` with the time since the last beat when that is too long.
    pub fn alive(&self) -> Result<(), Duration> {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        let silent = self.start.elapsed().saturating_sub(last);
        if silent > self.limit { Err(silent) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_no_check_objects() {
        let readiness = Readiness::default();
        assert!(readiness.missing().is_empty());
        let nodes = readiness.check("nodes", "not listed yet");
        let pods = readiness.check("pods", "not listed yet");
        nodes.ready();
        assert_eq!(readiness.missing(), [("pods".to_owned(), "not listed yet".to_owned())]);
        pods.ready();
        assert!(readiness.missing().is_empty());
        nodes.not_ready("forbidden");
        assert_eq!(readiness.missing(), [("nodes".to_owned(), "forbidden".to_owned())]);
    }

    #[test]
    fn a_heart_that_stops_is_noticed() {
        let stopped = Heartbeat {
            start: Instant::now() - Duration::from_secs(60),
            limit: Duration::from_secs(10),
            last: Arc::default(),
        };
        assert!(stopped.alive().is_err_and(|silent| silent >= Duration::from_secs(59)));
        stopped.beat();
        assert_eq!(stopped.alive(), Ok(()));
    }
}
