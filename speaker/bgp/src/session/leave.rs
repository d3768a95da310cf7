//! How a session leaves, so that the router loses no packet over it.

use std::sync::Arc;
use std::time::Duration;

use super::{Connection, Output, SLOTS, Session};
use crate::proto::Cease;
use crate::route::Routes;

/// What has not been taken by the peer by then is not waited for.
const FLUSH: Duration = Duration::from_secs(5);

/// How to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leave {
    /// For good: mark the routes as leaving (RFC 8326) so that the router turns to others, wait, withdraw them, and
    /// say goodbye. A Cease alone would not do: with graceful restart a router keeps routes over it (RFC 8538).
    Withdraw {
        /// How long the routes stay marked. With zero they are withdrawn at once.
        wait: Duration,
        /// The goodbye.
        cease: Cease,
        /// Told to the router's operator (RFC 9003), at most 128 octets of it.
        text: String,
    },
    /// To come back: where graceful restart was agreed upon close without a word, so that the router keeps the routes;
    /// elsewhere withdraw.
    Restart,
}

#[derive(Debug)]
pub(super) struct Leaving {
    cease: Cease,
    text: String,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Routes are marked until then.
    Marked(Duration),
    /// Routes are withdrawn; until then the peer may take its time.
    Withdrawn(Duration),
    Done,
}

impl Leaving {
    pub(super) fn deadline(&self) -> Option<Duration> {
        match self.step {
            Step::Marked(until) | Step::Withdrawn(until) => Some(until),
            Step::Done => None,
        }
    }
}

impl Session {
    /// Leaves. A second call replaces what the first has not done yet. Ends with [`Output::Done`].
    pub fn leave(&mut self, now: Duration, leave: Leave) {
        if self.leaving.as_ref().is_some_and(|l| l.step == Step::Done) {
            return;
        }
        self.outputs.push_back(Output::AbortDial);
        let kept = self.status.negotiated.as_ref().is_some_and(|n| n.graceful_restart);
        let (wait, cease, text) = match leave {
            Leave::Withdraw { wait, cease, text } => (wait, cease, text),
            Leave::Restart if kept => {
                self.leaving = Some(Leaving {
                    cease: Cease::Shutdown,
                    text: String::new(),
                    step: Step::Done,
                });
                for slot in 0..SLOTS {
                    self.end(now, slot, None, false);
                }
                self.outputs.push_back(Output::Done);
                self.settle(now);
                return;
            }
            Leave::Restart => (Duration::ZERO, Cease::Shutdown, "restarting".to_owned()),
        };
        let step = Step::Marked(now + wait);
        self.leaving = Some(Leaving { cease, text, step });
        if !wait.is_zero() {
            self.rib.want(Arc::new(self.routes.leaving()));
        }
        self.advance_leaving(now);
        self.settle(now);
    }

    /// The routes were marked for long enough.
    pub(super) fn advance_leaving(&mut self, now: Duration) {
        let nobody = self.established().is_none();
        if let Some(leaving) = self.leaving.as_mut()
            && let Step::Marked(until) = leaving.step
            && (until <= now || nobody)
        {
            leaving.step = Step::Withdrawn(now + FLUSH);
            self.rib.want(Arc::new(Routes::default()));
        }
    }

    /// Says goodbye once the peer has everything, or had its time.
    pub(super) fn finish_leaving(&mut self, now: Duration) {
        let Some(leaving) = self.leaving.as_mut() else { return };
        let Step::Withdrawn(until) = leaving.step else { return };
        let established = self
            .slots
            .iter()
            .flatten()
            .find(|c| c.state() == crate::status::State::Established);
        if until > now && !established.is_none_or(Connection::is_flushed) {
            return;
        }
        leaving.step = Step::Done;
        let (cease, text) = (leaving.cease, std::mem::take(&mut leaving.text));
        for slot in 0..SLOTS {
            self.cease(now, slot, cease, &text);
        }
        self.outputs.push_back(Output::Done);
    }
}
