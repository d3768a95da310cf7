//! Whether kube-proxy has written the rules for what it was told, as far as one can tell from outside.
//!
//! It hears of Services from the API server as this speaker does, a little earlier or later, and says when it last heard
//! of a change and when it last finished writing rules, but neither which change nor when it began. What was known at
//! `since` is written
//!
//! - when it began to write after `since`. How long the last writing took is the growth of a sum between two answers; where
//!   that is not known, it counts as [`LONGEST`];
//! - or when it has had the time to hear of it ([`HEARING`]), and has heard of nothing since it last began to write; or, where
//!   that is not known, has not written for [`QUIET`] although it would have by then.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrolb_model::Family;

use super::scrape::{Progress, Reading};

/// Writing rules takes no longer than this, where nothing better is known.
pub(super) const LONGEST: Duration = Duration::from_secs(3);
/// By then kube-proxy has heard what this speaker has heard.
pub(super) const HEARING: Duration = Duration::from_millis(100);
/// What kube-proxy has heard of it begins to write within its `minSyncPeriod`, a second by default.
pub(super) const QUIET: Duration = Duration::from_millis(1200);
/// Between hearing of a change and writing it, as the figures of an idle kube-proxy show it.
const BLUR: Duration = Duration::from_millis(5);

/// What kube-proxy answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyAnswer {
    /// This.
    Reading {
        /// What it says.
        reading: Reading,
        /// The time of the question by the clock that it goes by, since the Unix epoch.
        wall: Duration,
        /// How long the answer took.
        took: Duration,
    },
    /// Nothing, though something listens there: it hangs.
    Silence,
    /// Nobody listens there, or not kube-proxy, for this reason.
    Nobody(String),
}

/// What is known of kube-proxy.
#[derive(Debug, Default)]
pub(super) struct Proxy {
    state: State,
    /// When the last answer came, whatever it was.
    answered: Option<Duration>,
    families: BTreeMap<Option<Family>, Known>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    /// It was not asked yet.
    #[default]
    Unasked,
    /// It has answered since then.
    Answering(Duration),
    Silent,
    Nobody(String),
}

/// Progress in the core's time.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// When it was read.
    read: Duration,
    queued: Option<Duration>,
    synced: Option<Duration>,
    /// The last writing began then, or later.
    began: Duration,
    syncs: u64,
    spent: Duration,
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lag {
    Unasked,
    Silent,
    NeverSynced,
    Behind,
}

impl Proxy {
    /// Takes in the answer to a question that was asked at `now`.
    pub(super) fn answered(&mut self, answer: ProxyAnswer, now: Duration) {
        self.answered = Some(now);
        self.state = match answer {
            ProxyAnswer::Silence => State::Silent,
            ProxyAnswer::Nobody(why) => State::Nobody(why),
            ProxyAnswer::Reading { reading, .. } if !reading.is_proxy => {
                State::Nobody("what answers there is not kube-proxy".to_owned())
            }
            ProxyAnswer::Reading { reading, wall, took } => {
                let known = reading.progress.iter();
                let known = known.map(|(family, p)| (*family, known_of(p, self.families.get(family), wall, now)));
                self.families = known.collect();
                match self.state {
                    // What the API server said while it hung, or stood still, has yet to reach it.
                    State::Silent => State::Answering(now),
                    _ if took > HEARING => State::Answering(now + took),
                    State::Answering(since) => State::Answering(since),
                    State::Unasked | State::Nobody(_) => State::Answering(Duration::ZERO),
                }
            }
        };
    }

    /// Why nothing can be known, if so.
    pub(super) fn nobody(&self) -> Option<&str> {
        match &self.state {
            State::Nobody(why) => Some(why),
            _ => None,
        }
    }

    /// Whether nobody was there to answer somebody who waits since `asked`.
    pub(super) fn is_absent(&self, asked: Duration) -> bool {
        self.nobody().is_some() && self.answered.is_some_and(|at| at >= asked)
    }

    /// Whether it answers.
    pub(super) fn is_read(&self) -> bool {
        matches!(self.state, State::Answering(_))
    }

    /// Whether the rules for what was known at `since` are written, for somebody who waits since `asked`.
    pub(super) fn caught_up(&self, family: Family, since: Duration, asked: Duration) -> Result<(), Lag> {
        let known = self.families.get(&Some(family)).or_else(|| self.families.get(&None));
        // Rules that were written stay, whatever has become of kube-proxy.
        if known.is_some_and(|known| known.synced.is_some() && known.began >= since) {
            return Ok(());
        }
        if self.answered.is_none_or(|at| at < asked) {
            return Err(Lag::Unasked);
        }
        let answering = match self.state {
            State::Unasked => return Err(Lag::Unasked),
            State::Silent => return Err(Lag::Silent),
            State::Nobody(_) => return Ok(()),
            State::Answering(since) => since,
        };
        let Some(known) = known else {
            // It may not do this family at all.
            return if self.families.is_empty() {
                Err(Lag::NeverSynced)
            } else {
                Ok(())
            };
        };
        let Some(synced) = known.synced else {
            return Err(Lag::NeverSynced);
        };
        let heard = known.read >= since.max(answering) + HEARING;
        let queued = known.queued.unwrap_or_default();
        let nothing_since = queued <= known.began + BLUR || known.read >= queued + QUIET;
        if heard && queued <= synced && nothing_since {
            Ok(())
        } else {
            Err(Lag::Behind)
        }
    }
}

fn known_of(progress: &Progress, before: Option<&Known>, wall: Duration, now: Duration) -> Known {
    let here = |at: Duration| (at + now).saturating_sub(wall);
    let synced = progress.synced.map(here);
    let end = synced.unwrap_or_default();
    let least = end.saturating_sub(LONGEST);
    // Without, or smaller than before: another process.
    let grown = before.and_then(|before| {
        let syncs = progress.syncs.checked_sub(before.syncs)?;
        Some((before, syncs, progress.spent.checked_sub(before.spent)?))
    });
    let began = match grown {
        Some((before, 0, _)) => before.began,
        Some((_, 1, took)) => end.saturating_sub(took),
        // The last but one has ended since, and the last began after it.
        Some((before, ..)) => before.read.max(least).min(end),
        None => least,
    };
    Known {
        read: now,
        queued: progress.queued.map(here),
        synced,
        began,
        syncs: progress.syncs,
        spent: progress.spent,
    }
}
