//! Who leads, decided by a Lease: the pure part, in the manner of client-go.
//!
//! An [`Elector`] says what to do next ([`Elector::step`]) and is told what came of it. It compares no wall clocks: a
//! Lease counts as abandoned when it was *seen* unchanged for its whole duration, and an elector's own right to lead
//! ends [`Timing::renew_deadline`] after it *asked* for the renewal that was granted. The deadline is shorter than the
//! duration, so while clocks run at about the same rate nobody takes over before the old leader has stopped.
//!
//! Guarantees: every write carries the version that was read last (or creates the object); a write is asked for only on
//! knowledge younger than the renew deadline, so an elector that was paused looks before it writes; who has led and
//! then sees another name, no name or no Lease has lost for good.
//!
//! `now` is the time since an arbitrary start that never goes back. The task around it is in `leader.rs`.

use std::time::Duration;

/// The times of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a Lease has to be seen unchanged before another may take it; whole seconds.
    pub lease: Duration,
    /// How long a leader leads after asking for its last renewal. Shorter than `lease` by more than clocks may differ.
    pub renew_deadline: Duration,
    /// Time between renewals.
    pub renew: Duration,
    /// Time between the looks of those who wait, and before anything that failed is tried again.
    pub look: Duration,
}

/// Who takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    base: String,
    /// Whether there is at most one process of this base at a time.
    exclusive: bool,
    full: String,
}

impl Identity {
    /// One run of the pod's only container: no other run of this pod is alive, so a Lease in the name of an earlier one
    /// is free. `run` tells the runs apart.
    pub fn of_pod(pod: &str, run: &str) -> Self {
        Identity {
            exclusive: true,
            ..Identity::of_host(pod, run)
        }
    }

    /// One of possibly several processes on a host.
    pub fn of_host(host: &str, run: &str) -> Self {
        Identity {
            base: host.to_owned(),
            exclusive: false,
            full: format!("{host}_{run}"),
        }
    }

    /// The name that stands in the Lease.
    pub fn as_str(&self) -> &str {
        &self.full
    }

    fn is_earlier_run(&self, holder: &str) -> bool {
        let base = holder.rsplit_once('_').map(|(base, _)| base);
        self.exclusive && holder != self.full && base == Some(&self.base)
    }
}

/// A Lease as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who holds it; `None` after a release.
    pub holder: Option<String>,
    /// How long the holder asks to be waited for.
    pub lease: Duration,
    /// How often the holder changed.
    pub transitions: i32,
    /// The resourceVersion.
    pub version: String,
}

/// What should stand in the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Who holds it; `None` releases it.
    pub holder: Option<String>,
    /// How long the holder asks to be waited for.
    pub lease: Duration,
    /// How often the holder changed.
    pub transitions: i32,
    /// Whether the holder is a new one, so that the time of acquisition is now.
    pub acquires: bool,
    /// The version that must still be there; `None` creates the object.
    pub over: Option<String>,
}

/// How a write failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotWritten {
    /// The object is not the one that was read: for certain nothing was written.
    Conflict,
    /// Anything else; it may have been written all the same.
    Unknown,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time.
    WaitUntil(Duration),
    /// Read the Lease, and tell [`Elector::read`].
    Read,
    /// Write it, and tell [`Elector::written`].
    Write(Write),
}

/// Whether this process leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does not; this one does, as far as is known.
    Following(Option<String>),
    /// It does, until then.
    Leading(Duration),
    /// It did and could not renew in time. It must do nothing until it leads again, which it will if nobody else has
    /// led meanwhile.
    Suspended,
    /// It did, and the Lease has another holder, or none, or is gone. There is no way back.
    Lost(Option<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Read,
    /// A write, on knowledge that is good until then.
    Write(Duration),
}

/// The state of one participant; see the module.
#[derive(Debug)]
pub struct Elector {
    me: Identity,
    timing: Timing,
    /// The Lease as known last; `None` when there is none, or nothing is known.
    seen: Option<Seen>,
    /// When its version was seen first.
    since: Duration,
    /// Whether the look before the last one had an answer.
    looked: bool,
    /// Until when it leads, or led.
    until: Option<Duration>,
    lost: bool,
    next: Next,
    due: Duration,
}

impl Elector {
    /// A participant that knows nothing yet and looks at once.
    pub fn new(me: Identity, timing: Timing) -> Self {
        Elector {
            me,
            timing,
            seen: None,
            since: Duration::ZERO,
            looked: true,
            until: None,
            lost: false,
            next: Next::Read,
            due: Duration::ZERO,
        }
    }

    /// Where it stands at `now`.
    pub fn standing(&self, now: Duration) -> Standing {
        let holder = || self.seen.as_ref().and_then(|seen| seen.holder.clone());
        match self.until {
            _ if self.lost => Standing::Lost(holder()),
            None => Standing::Following(holder()),
            Some(until) if until > now => Standing::Leading(until),
            Some(_) => Standing::Suspended,
        }
    }

    /// What to do at `now`. Asking changes nothing.
    pub fn step(&self, now: Duration) -> Step {
        match self.next {
            _ if self.lost => Step::WaitUntil(Duration::MAX),
            _ if now < self.due => Step::WaitUntil(self.due),
            Next::Write(good_until) if now < good_until => Step::Write(self.claim()),
            _ => Step::Read,
        }
    }

    /// A look that was asked for at `asked` had this answer: the Lease, or that there is none; `Err` without an answer.
    pub fn read(&mut self, answer: Result<Option<Seen>, ()>, asked: Duration, now: Duration) {
        let Ok(answer) = answer else {
            self.looked = false;
            self.look_at(now + self.timing.look);
            return;
        };
        if self.seen.as_ref().map(|seen| &seen.version) != answer.as_ref().map(|seen| &seen.version) {
            self.since = now;
        }
        self.seen = answer;
        // After looks without an answer the holder gets the chance to renew first: it may have been cut off as well.
        let looked = std::mem::replace(&mut self.looked, true);
        let holder = self.seen.as_ref().and_then(|seen| seen.holder.as_deref());
        let mine = holder == Some(self.me.as_str());
        if self.until.is_some() && !mine {
            self.lost = true;
            return;
        }
        let abandoned = match (holder, &self.seen) {
            (Some(holder), Some(seen)) if !mine && !self.me.is_earlier_run(holder) => self.since + seen.lease,
            _ => now,
        };
        if now < abandoned {
            self.look_at(abandoned.min(now + self.timing.look));
        } else if mine || looked {
            self.write_at(now, asked);
        } else {
            self.look_at(now + self.timing.look);
        }
    }

    /// The write that was asked for at `asked` had this outcome; on success the Lease as it is now.
    pub fn written(&mut self, outcome: Result<Seen, NotWritten>, asked: Duration, now: Duration) {
        match outcome {
            Ok(seen) => {
                self.seen = Some(seen);
                self.since = now;
                self.until = Some(asked + self.timing.renew_deadline);
                self.write_at(asked + self.timing.renew, asked);
            }
            // A leader's own renewal, of which it had no answer, may have been in the way.
            Err(NotWritten::Conflict) if self.until.is_some() => self.look_at(now),
            Err(_) => self.look_at(now + self.timing.look),
        }
    }

    /// The write that lets somebody else lead at once, if it is for this one to give. Nothing may be done under its
    /// lead any more.
    pub fn release(&self) -> Option<Write> {
        let seen = self.seen.as_ref().filter(|_| self.until.is_some() && !self.lost)?;
        Some(Write {
            holder: None,
            lease: Duration::from_secs(1),
            transitions: seen.transitions,
            acquires: false,
            over: Some(seen.version.clone()),
        })
    }

    fn claim(&self) -> Write {
        let seen = self.seen.as_ref();
        let mine = seen.is_some_and(|seen| seen.holder.as_deref() == Some(self.me.as_str()));
        let change = i32::from(seen.is_some() && !mine);
        Write {
            holder: Some(self.me.as_str().to_owned()),
            lease: self.timing.lease,
            transitions: seen.map_or(0, |seen| seen.transitions).saturating_add(change),
            acquires: !mine,
            over: seen.map(|seen| seen.version.clone()),
        }
    }

    fn look_at(&mut self, at: Duration) {
        self.next = Next::Read;
        self.due = at;
    }

    /// Plans a write on what was asked for at `asked`.
    fn write_at(&mut self, at: Duration, asked: Duration) {
        self.next = Next::Write(asked + self.timing.renew_deadline);
        self.due = at;
    }
}
