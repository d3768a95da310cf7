//! A session with its socket and what is told about it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::counters::PathCounters;
use crate::hand_over::{LentPath, LentSession};
use crate::packet::{Repr, State};
use crate::seam::{Fault, Path, Status, WantedSession};
use crate::session::{Change, Session};
use crate::sockets::{Sender, index};

/// A router whose multiplier asks for more is told for so long that its session is no longer wanted.
const LEAVE_MOST: Duration = Duration::from_secs(10);
/// Packets sent in a row; more than a session ever has due.
const PACKETS_IN_A_ROW: usize = 4;

pub(super) struct Live {
    session: Session,
    wanted: WantedSession,
    sender: Option<Sender>,
    interface: Option<u32>,
    counters: Arc<PathCounters>,
    /// When it goes, if it is no longer wanted.
    leaves_at: Option<Duration>,
    since: Instant,
    last_change: Option<Change>,
    ups: u64,
    downs: u64,
    failures: u64,
    /// What was wrong with what is wanted.
    wrong: Option<Fault>,
    /// What does not work now.
    broken: Option<Fault>,
    reported: Option<Status>,
}

/// What came of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing was due.
    Nothing,
    /// All that was due.
    Some,
    /// The socket is of no use.
    Broken,
}

impl Live {
    pub(super) fn new(discriminator: NonZeroU32, wanted: &WantedSession, wrong: Option<Fault>) -> Live {
        Live {
            session: Session::new(discriminator, wanted.settings),
            wanted: *wanted,
            sender: None,
            interface: None,
            counters: Arc::default(),
            leaves_at: None,
            since: Instant::now(),
            last_change: None,
            ups: 0,
            downs: 0,
            failures: 0,
            wrong,
            broken: None,
            reported: None,
        }
    }

    /// Goes on with the session of another process. A socket that is of no use here is opened anew.
    pub(super) fn adopt(lent: LentPath, wanted: &WantedSession, path: &Path) -> Live {
        let LentSession {
            mut session,
            interface,
            age,
            failures,
        } = lent.session;
        session.set(wanted.settings);
        let now = Instant::now();
        let sender = lent.sender.map(|socket| Sender::resume(path, interface, socket));
        Live {
            session,
            sender: sender.and_then(Result::ok),
            interface,
            since: now.checked_sub(age).unwrap_or(now),
            // It goes on counting, whatever is said.
            failures: failures.min(u32::MAX.into()),
            ..Live::new(session.discriminator(), wanted, path.check().err())
        }
    }

    /// Gives the session away, unless it is about to go.
    pub(super) fn lend(self) -> Option<LentPath> {
        let stays = self.leaves_at.is_none();
        let session = LentSession {
            session: self.session,
            interface: self.interface,
            age: self.since.elapsed(),
            failures: self.failures,
        };
        let sender = self.sender.map(Sender::into_fd);
        stays.then_some(LentPath { session, sender })
    }

    pub(super) fn discriminator(&self) -> NonZeroU32 {
        self.session.discriminator()
    }

    pub(super) fn interface(&self) -> Option<u32> {
        self.interface
    }

    pub(super) fn minimum_ttl(&self) -> u8 {
        self.wanted.minimum_ttl
    }

    pub(super) fn leaves_at(&self) -> Option<Duration> {
        self.leaves_at
    }

    pub(super) fn counters(&self) -> Arc<PathCounters> {
        Arc::clone(&self.counters)
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let session = self.sender.as_ref().and(self.session.next_deadline());
        let session = session.or(self.session.expires_at());
        session.into_iter().chain(self.leaves_at).min()
    }

    /// It is wanted like this now.
    pub(super) fn set(&mut self, wanted: &WantedSession, path: &Path) {
        if self.leaves_at.take().is_some() {
            let change = self.session.enable();
            self.note(change, path);
        }
        self.wanted = *wanted;
        self.session.set(wanted.settings);
    }

    /// It is no longer wanted. A router that is heard is told so for a detection time (RFC 5880 section 6.8.16).
    pub(super) fn leave(&mut self, now: Duration, path: &Path) {
        if self.leaves_at.is_some() {
            return;
        }
        let heard = self.session.remote().discriminator.is_some();
        let change = self.session.disable();
        self.note(change, path);
        let time = self.session.transmit_interval() * u32::from(self.wanted.settings.multiplier);
        self.leaves_at = Some(now + if heard { time.min(LEAVE_MOST) } else { Duration::ZERO });
    }

    /// Opens what is not open; whether something is to be tried again.
    pub(super) fn open(&mut self, path: &Path, cannot_receive: Option<Fault>, random: impl FnMut() -> u32) -> bool {
        if path.check().is_err() {
            return false;
        }
        let found = path.interface.as_deref().map(index).transpose();
        // An interface that was made anew has another index: the socket is bound to the old one.
        if found.as_ref().is_ok_and(|index| *index != self.interface) {
            self.sender = None;
        }
        let opened = found.and_then(|interface| {
            self.interface = interface;
            match self.sender.take() {
                Some(sender) => Ok(sender),
                None => Sender::open(path, interface, random),
            }
        });
        self.broken = cannot_receive;
        match opened {
            Ok(sender) => self.sender = Some(sender),
            Err(error) => {
                let (path, error) = (path.to_string(), error.to_string());
                self.broken = Some(Fault::Open { path, error });
            }
        }
        self.broken.is_some()
    }

    pub(super) fn receive(&mut self, now: Duration, packet: &Repr, path: &Path) {
        self.counters.count_received();
        let change = self.session.receive(now, packet);
        self.note(change, path);
    }

    /// Whether the router's silence has changed something.
    pub(super) fn tick(&mut self, now: Duration, path: &Path) -> bool {
        let heard = self.session.remote().discriminator.is_some();
        let change = self.session.tick(now);
        self.note(change, path);
        heard && self.session.remote().discriminator.is_none()
    }

    pub(super) fn send(&mut self, now: Duration, path: &Path, mut random: impl FnMut() -> u32) -> Sent {
        let mut sent = Sent::Nothing;
        for _ in 0..PACKETS_IN_A_ROW {
            let Some(sender) = &self.sender else { return sent };
            let Some(packet) = self.session.transmit(now, random()) else {
                return sent;
            };
            sent = Sent::Some;
            match sender.send(&packet.emit()) {
                Ok(()) => {
                    self.counters.count_sent();
                    if matches!(self.broken, Some(Fault::Send { .. })) {
                        self.broken = None;
                    }
                }
                Err(error) => {
                    self.counters.count_unsent();
                    let (path, text) = (path.to_string(), error.to_string());
                    self.broken = Some(Fault::Send { path, error: text });
                    if is_lost(&error) {
                        self.sender = None;
                        return Sent::Broken;
                    }
                }
            }
        }
        sent
    }

    fn note(&mut self, change: Option<Change>, path: &Path) {
        let Some(change) = change else { return };
        super::log(path, change);
        self.since = Instant::now();
        self.last_change = Some(change);
        self.ups += u64::from(change.to == State::Up);
        self.downs += u64::from(change.from == State::Up);
        self.failures += u64::from(change.is_failure());
    }

    /// The status, if it is not as it was when last taken. One that leaves is told of no more.
    pub(super) fn news(&self) -> Option<Status> {
        let remote = self.session.remote();
        let status = Status {
            state: self.session.state(),
            since: self.since,
            last_change: self.last_change,
            ups: self.ups,
            downs: self.downs,
            failures: self.failures,
            diagnostic: self.session.diagnostic(),
            remote_state: remote.state,
            remote_diagnostic: remote.diagnostic,
            discriminator: self.session.discriminator(),
            remote_discriminator: remote.discriminator,
            transmit_interval: self.session.transmit_interval(),
            detection_time: self.session.detection_time(),
            fault: self.wrong.clone().or_else(|| self.broken.clone()),
        };
        let new = self.leaves_at.is_none() && self.reported.as_ref() != Some(&status);
        new.then_some(status)
    }

    pub(super) fn reported(&mut self, status: Status) {
        self.reported = Some(status);
    }
}

/// The socket's interface or source address is gone: another socket is needed once it is back.
fn is_lost(error: &std::io::Error) -> bool {
    use nix::errno::Errno::{EADDRNOTAVAIL, EINVAL, ENODEV, ENXIO};
    let lost = [EADDRNOTAVAIL, EINVAL, ENODEV, ENXIO];
    lost.iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}
