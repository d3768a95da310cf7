//! How one stream stands, told to the log and to `/readyz`: when trouble begins, changes and ends, not on every attempt.

use std::time::Instant;

use tracing::{info, warn};

use crate::readiness::{Check, Readiness};

/// What keeps a watch from working.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) kind: ProblemKind,
    pub(super) verb: &'static str,
    pub(super) message: String,
}

impl Problem {
    fn is_like(&self, other: &Problem) -> bool {
        (self.kind, self.verb) == (other.kind, other.verb)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProblemKind {
    /// A rule is missing.
    Forbidden,
    /// The resource itself is missing.
    Missing,
    /// The server refuses for another reason.
    Failing,
    /// No answer at all.
    Unreachable,
}

/// What is known to be wrong with one stream, told to the log and to `/readyz`.
pub(super) struct Health {
    check: Check,
    resource: String,
    synced: bool,
    problem: Option<(Problem, Instant)>,
    /// What another problem has turned into, seen once. An API server that starts refuses for reasons of its own for a
    /// moment (its access rules are not loaded yet), and that is not worth a line.
    candidate: Option<Problem>,
}

impl Health {
    /// A stream that has told nothing yet.
    pub(super) fn new(readiness: &Readiness, resource: String) -> Self {
        Health {
            check: readiness.check(format!("watch {resource}"), "not listed yet"),
            resource,
            synced: false,
            problem: None,
            candidate: None,
        }
    }

    /// An attempt failed.
    pub(super) fn trouble(&mut self, problem: Problem) {
        let since = match &self.problem {
            None => Instant::now(),
            Some((known, since)) if known.is_like(&problem) => *since,
            Some(_) if !self.candidate.as_ref().is_some_and(|seen| seen.is_like(&problem)) => {
                self.candidate = Some(problem);
                return;
            }
            Some((_, since)) => *since,
        };
        if !self.problem.as_ref().is_some_and(|(known, _)| known.is_like(&problem)) {
            let Problem { kind, verb, message } = &problem;
            warn!(resource = self.resource, verb, reason = ?kind, "cannot {verb} {}: {message}", self.resource);
        }
        // A program that has synced once goes on with what it knows while the server is away.
        if !self.synced || problem.kind != ProblemKind::Unreachable {
            self.check
                .not_ready(format!("{} {}: {}", problem.verb, self.resource, problem.message));
        }
        self.candidate = None;
        self.problem = Some((problem, since));
    }

    /// The list is complete.
    pub(super) fn listed(&mut self) {
        self.synced = true;
        if self.problem.as_ref().is_none_or(|(problem, _)| problem.verb == "list") {
            self.established();
        }
    }

    /// The stream works.
    pub(super) fn established(&mut self) {
        self.check.ready();
        self.candidate = None;
        if let Some((problem, since)) = self.problem.take() {
            let outage_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(
                resource = self.resource,
                outage_ms, "{} {} works again", problem.verb, self.resource
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: ProblemKind) -> Problem {
        Problem {
            kind,
            verb: "watch",
            message: format!("{kind:?}"),
        }
    }

    #[test]
    fn an_outage_after_the_first_list_keeps_the_program_ready() {
        let readiness = Readiness::default();
        let mut health = Health::new(&readiness, "pods".to_owned());
        health.trouble(problem(ProblemKind::Unreachable));
        assert_eq!(readiness.missing().len(), 1, "nothing is known yet");
        health.listed();
        health.established();
        health.trouble(problem(ProblemKind::Unreachable));
        assert!(readiness.missing().is_empty());
    }

    #[test]
    fn a_refusal_is_shown_at_once_but_after_an_outage_only_when_it_lasts() {
        let readiness = Readiness::default();
        let mut health = Health::new(&readiness, "pods".to_owned());
        health.listed();
        health.trouble(problem(ProblemKind::Forbidden));
        assert_eq!(readiness.missing().len(), 1);
        health.established();
        assert!(readiness.missing().is_empty());

        health.trouble(problem(ProblemKind::Unreachable));
        health.trouble(problem(ProblemKind::Forbidden));
        health.trouble(problem(ProblemKind::Failing));
        health.trouble(problem(ProblemKind::Forbidden));
        assert!(readiness.missing().is_empty());
        health.trouble(problem(ProblemKind::Forbidden));
        assert_eq!(readiness.missing().len(), 1);
    }
}
