//! The driver on the lab's node. It runs as nobody, without any capability.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferrolb_bfd::{
    DriverError, Handle, Lent, Path, Report, Settings, State, Status, Wanted, WantedSession, spawn_thread,
};
use ferrolb_netns::{Namespace, PATIENCE, drop_privileges};

/// The driver on a node, and the latest report of each path.
pub(crate) struct Driver {
    handle: Option<Handle>,
    thread: Option<JoinHandle<Result<Lent, DriverError>>>,
    reports: Receiver<Report>,
    pub(crate) latest: BTreeMap<Path, Report>,
}

impl Driver {
    pub(crate) fn start(node: &Namespace) -> Driver {
        Driver::going_on(node, Lent::default())
    }

    /// One that goes on with what another one had.
    pub(crate) fn going_on(node: &Namespace, lent: Lent) -> Driver {
        let (inlet, reports) = channel();
        // A reader that has no room every other time misses nothing.
        let mut room = false;
        let reports_to = move |report| {
            room = !room;
            room && inlet.send(report).is_ok()
        };
        let start = || {
            drop_privileges();
            spawn_thread(lent, reports_to)
        };
        let (handle, thread) = node.run(|| std::thread::spawn(start).join().unwrap()).unwrap();
        Driver {
            handle: Some(handle),
            thread: Some(thread),
            reports,
            latest: BTreeMap::new(),
        }
    }

    /// Ends it and takes away what it has.
    pub(crate) fn lend(mut self) -> Lent {
        drop(self.handle.take());
        let thread = self.thread.take().unwrap();
        thread.join().unwrap().unwrap()
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.handle.as_ref().unwrap()
    }

    pub(crate) fn want(&self, paths: &[(&Path, Settings)]) {
        let paths: Vec<_> = paths.iter().map(|(path, settings)| (*path, *settings, None)).collect();
        self.want_named(&paths);
    }

    /// The same with given discriminators.
    pub(crate) fn want_named(&self, paths: &[(&Path, Settings, Option<u32>)]) {
        let sessions = paths.iter().map(|(path, settings, discriminator)| {
            let wanted = WantedSession {
                settings: *settings,
                minimum_ttl: 254,
                discriminator: discriminator.and_then(NonZeroU32::new),
            };
            (Arc::new((*path).clone()), wanted)
        });
        let sessions = sessions.collect();
        self.handle().set(Arc::new(Wanted { sessions }));
    }

    /// Waits until the status of a path satisfies.
    pub(crate) fn until(&mut self, path: &Path, what: &str, satisfies: impl Fn(&Status) -> bool) -> Status {
        let start = Instant::now();
        loop {
            if let Some(report) = self.latest.get(path)
                && satisfies(&report.status)
            {
                return report.status.clone();
            }
            let left = PATIENCE.saturating_sub(start.elapsed());
            match self.reports.recv_timeout(left) {
                Ok(report) => drop(self.latest.insert(Path::clone(&report.path), report)),
                Err(_) => panic!("{path}: not {what}: {:#?}", self.latest.get(path)),
            }
        }
    }

    pub(crate) fn up(&mut self, path: &Path) -> Status {
        self.until(path, "up", |status| status.state == State::Up)
    }

    /// The latest status.
    pub(crate) fn status(&mut self, path: &Path) -> Status {
        for report in self.reports.try_iter() {
            self.latest.insert(Path::clone(&report.path), report);
        }
        self.latest[path].status.clone()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.handle.take());
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(std::thread::panicking() || matches!(result, Ok(Ok(_))), "{result:?}");
        }
    }
}

/// Both intervals, in milliseconds, and the multiplier.
pub(crate) fn every(milliseconds: u64, multiplier: u8) -> Settings {
    Settings {
        receive: Duration::from_millis(milliseconds),
        transmit: Duration::from_millis(milliseconds),
        multiplier,
        passive: false,
    }
}
