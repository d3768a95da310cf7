//! How one kind of write stands, told to the log and to `/readyz`: when trouble begins, changes and ends, not on every
//! attempt. `/readyz` objects to a missing rule only: the rest is trouble of the API server, or of one object.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::apply::Failure;
use crate::readiness::{Check, Readiness};

/// A write that is still wanted is tried again within less than this.
const LAPSE: Duration = Duration::from_secs(15);

/// What is known of one kind of write.
#[derive(Debug)]
pub struct WriteHealth {
    check: Check,
    rule: &'static str,
    trouble: Option<(Failure, Instant)>,
}

impl WriteHealth {
    /// Writes that need `rule`, verb and resource, as in `patch services/status`. They count as working until one fails.
    pub fn new(readiness: &Readiness, rule: &'static str) -> Self {
        WriteHealth {
            check: readiness.sound_check(rule),
            rule,
            trouble: None,
        }
    }

    /// A write about `what` has ended at `now`.
    pub fn outcome(&mut self, result: &Result<(), Failure>, what: impl Debug, now: Instant) {
        match result {
            Ok(()) => self.works(),
            // Lost a race, which only those can lose who may write. What won it follows by watch.
            Err(failure @ (Failure::Conflict | Failure::Gone)) => {
                debug!(?what, "{}: {failure}", self.rule);
                self.works();
            }
            Err(failure) => {
                let known = self.trouble.as_ref().map(|(known, _)| known.as_str());
                if known != Some(failure.as_str()) {
                    warn!(?what, "cannot {}: {failure}", self.rule);
                }
                match failure {
                    Failure::Forbidden(_) => self.check.not_ready(failure.to_string()),
                    // Nobody was asked about rules.
                    Failure::Unavailable(_) => {}
                    _ => self.check.ready(),
                }
                self.trouble = Some((failure.clone(), now));
            }
        }
    }

    /// No write that failed is wanted any more.
    pub fn settled(&mut self) {
        if self.trouble.take().is_some() {
            debug!("{}: what failed is not wanted any more", self.rule);
            self.check.ready();
        }
    }

    /// Forgets trouble that was not met again for so long that what failed cannot be wanted any more. For writers that
    /// do not know; ask every few seconds.
    pub fn lapse(&mut self, now: Instant) {
        if self
            .trouble
            .as_ref()
            .is_some_and(|(_, met)| now.duration_since(*met) >= LAPSE)
        {
            self.settled();
        }
    }

    fn works(&mut self) {
        if self.trouble.take().is_some() {
            info!("{} works again", self.rule);
            self.check.ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_rule_shows_until_it_is_there_or_nobody_needs_it() {
        let readiness = Readiness::default();
        let start = Instant::now();
        let mut writes = WriteHealth::new(&readiness, "patch services/status");
        assert!(readiness.missing().is_empty());

        let forbidden = Err(Failure::Forbidden("no rule".to_owned()));
        let shown = [("patch services/status".to_owned(), "forbidden: no rule".to_owned())];
        for heals in [Ok(()), Err(Failure::Conflict), Err(Failure::Refused("spec".to_owned()))] {
            writes.outcome(&forbidden, "web", start);
            writes.outcome(&Err(Failure::Unavailable("starting".to_owned())), "web", start);
            assert_eq!(readiness.missing(), shown);
            writes.outcome(&heals, "web", start);
            assert!(readiness.missing().is_empty(), "{heals:?}");
        }

        writes.outcome(&forbidden, "web", start);
        writes.outcome(&forbidden, "web", start + LAPSE);
        writes.lapse(start + LAPSE);
        assert_eq!(readiness.missing(), shown, "met again just now");
        writes.lapse(start + LAPSE * 2);
        assert!(readiness.missing().is_empty());
    }

    #[test]
    fn an_outage_keeps_the_program_ready() {
        let readiness = Readiness::default();
        let mut writes = WriteHealth::new(&readiness, "patch services/status");
        writes.outcome(&Err(Failure::Unavailable("gone".to_owned())), "web", Instant::now());
        assert!(readiness.missing().is_empty());
    }
}
