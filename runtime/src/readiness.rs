//! Whether the program can do its work, and whether its owner task still moves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A set of named checks; ready when none has a reason not to be. Cheap to clone: all clones are one set.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    checks: Arc<Mutex<BTreeMap<String, Stand>>>,
    changed: Arc<Notify>,
}

/// How a check stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stand {
    Ready,
    /// Ready, but something is wrong.
    Warned(String),
    /// Nothing is wrong, it only takes its time.
    Waiting(String),
    NotReady(String),
}

/// The right to say how one check stands.
#[derive(Clone, Debug)]
pub struct Check {
    name: String,
    readiness: Readiness,
}

/// What is wrong, one line for each check, in order of name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// What keeps the program from being ready.
    pub missing: Vec<String>,
    /// What does not.
    pub warnings: Vec<String>,
}

impl Readiness {
    /// Adds a check, which waits for `why` until its owner says otherwise.
    pub fn check(&self, name: impl Into<String>, why: impl Into<String>) -> Check {
        let check = Check {
            name: name.into(),
            readiness: self.clone(),
        };
        check.stands(Stand::Waiting(why.into()));
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
        let missing = |stand: &Stand| match stand {
            Stand::Waiting(why) | Stand::NotReady(why) => Some(why.clone()),
            Stand::Ready | Stand::Warned(_) => None,
        };
        self.lock()
            .iter()
            .filter_map(|(name, stand)| Some((name.clone(), missing(stand)?)))
            .collect()
    }

    /// What is wrong; a check that has not said anything yet is not.
    pub fn troubles(&self) -> Troubles {
        let mut troubles = Troubles::default();
        for (name, stand) in self.lock().iter() {
            match stand {
                Stand::Ready | Stand::Waiting(_) => {}
                Stand::Warned(why) => troubles.warnings.push(format!("{name}: {why}")),
                Stand::NotReady(why) => troubles.missing.push(format!("{name}: {why}")),
            }
        }
        troubles
    }

    /// Waits until a check has changed since this was last waited for. For one task alone.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Lets [`Readiness::changed`] return once more.
    pub fn look_again(&self) {
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Stand>> {
        // Nothing panics while the map is held; were it so, its content would still be sound.
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Check {
    /// It stands well.
    pub fn ready(&self) {
        self.stands(Stand::Ready);
    }

    /// The program can do its work, but somebody should look at this.
    pub fn warn(&self, why: impl Into<String>) {
        self.stands(Stand::Warned(why.into()));
    }

    /// It does not, and why.
    pub fn not_ready(&self, why: impl Into<String>) {
        self.stands(Stand::NotReady(why.into()));
    }

    fn stands(&self, stand: Stand) {
        let before = self.readiness.lock().insert(self.name.clone(), stand.clone());
        if before.as_ref() != Some(&stand) {
            self.readiness.changed.notify_one();
        }
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
    fn what_waits_is_no_trouble_and_what_is_warned_of_is_ready() {
        let readiness = Readiness::default();
        let nodes = readiness.check("nodes", "not listed yet");
        let pods = readiness.sound_check("pods");
        pods.warn("too many");
        let troubles = |missing: &[&str]| Troubles {
            missing: missing.iter().map(ToString::to_string).collect(),
            warnings: vec!["pods: too many".to_owned()],
        };
        assert_eq!(readiness.troubles(), troubles(&[]));
        nodes.not_ready("forbidden");
        assert_eq!(readiness.troubles(), troubles(&["nodes: forbidden"]));
        nodes.ready();
        assert!(readiness.missing().is_empty());
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
