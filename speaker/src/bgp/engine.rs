//! The threads: BGP on one, with the relay from BFD and the search for routers on links; BFD on another.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Instant;

use ferrolb_bfd::{DriverError, Path, Report};
use ferrolb_bgp::discovery::{self, Found};
use ferrolb_bgp::engine::{Board, Config, EngineError};
use ferrolb_bgp::{Phase, Sessions, Wanted};
use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

/// How each watched path fares.
pub(crate) type BfdBoard = BTreeMap<Arc<Path>, Report>;

/// Which peers depend on a path.
pub(super) type Dependents = BTreeMap<Arc<Path>, Vec<String>>;

/// Reports of BFD that may wait; the thread offers what does not fit again.
const REPORTS: usize = 256;

/// Failed paths that may wait for the engine, which takes them at once.
const DOWNS: usize = 16;

/// BGP is lost in a way that a restart of the process is to heal.
#[derive(Debug, Error)]
pub(crate) enum BgpLost {
    /// The system gives no thread, or no socket to wake it.
    #[error("cannot start the thread {name}: {error}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The BGP engine gave up.
    #[error(transparent)]
    Bgp(#[from] EngineError),
    /// The BFD thread gave up.
    #[error(transparent)]
    Bfd(#[from] DriverError),
    /// A thread ended although nobody asked it to.
    #[error("the thread {0} ended unasked")]
    Ended(&'static str),
}

/// The running engines.
pub(super) struct Threads {
    /// When the clock of the sessions began.
    pub(super) start: (Timestamp, Instant),
    /// To BGP.
    pub(super) wanted: watch::Sender<Arc<Wanted>>,
    /// The interfaces at whose other end a router is to be found.
    pub(super) links: watch::Sender<BTreeSet<String>>,
    phase: watch::Sender<Phase>,
    dependents: watch::Sender<Dependents>,
    sessions: watch::Receiver<Board>,
    paths: watch::Receiver<BfdBoard>,
    found: watch::Receiver<Found>,
    reports: mpsc::Sender<Report>,
    ended: oneshot::Receiver<Result<Sessions, EngineError>>,
    bfd: Option<Bfd>,
    /// Of another run, for BFD to go on with.
    lent: ferrolb_bfd::Lent,
}

struct Bfd {
    handle: ferrolb_bfd::Handle,
    ended: tokio::task::JoinHandle<Result<Result<ferrolb_bfd::Lent, DriverError>, Box<dyn std::any::Any + Send>>>,
}

/// What another run had, in this process or in another one.
#[derive(Debug, Default)]
pub(crate) struct Lent {
    /// BGP's.
    pub(crate) sessions: Sessions,
    /// BFD's.
    pub(crate) paths: ferrolb_bfd::Lent,
    /// The router at the other end of each link.
    pub(crate) routers: BTreeMap<String, Ipv6Addr>,
}

/// What has changed.
pub(super) enum Changed {
    /// A session or a path; all of them.
    Boards(Board, BfdBoard),
    /// What is known of the links.
    Links,
}

impl Threads {
    /// Starts BGP with what is wanted, and looks for routers on `links`. Goes on with what is `lent`.
    pub(super) fn start(
        wanted: Arc<Wanted>,
        links: BTreeSet<String>,
        config: Config,
        (given, lent): (Sessions, ferrolb_bfd::Lent),
    ) -> Result<Self, BgpLost> {
        const NAME: &str = "ferrolb-bgp";
        let (wanted, wanted_out) = watch::channel(wanted);
        let (links, links_out) = watch::channel(links);
        let (found_in, found) = watch::channel(Found::new());
        let (phase, phase_out) = watch::channel(Phase::Stay);
        let (dependents, dependents_out) = watch::channel(Dependents::new());
        let (sessions_in, sessions) = watch::channel(Board::new());
        let (paths_in, paths) = watch::channel(BfdBoard::new());
        let (reports, reports_out) = mpsc::channel(REPORTS);
        let (downs, downs_out) = mpsc::channel(DOWNS);
        let (ended_in, ended) = oneshot::channel();
        let (now, instant) = (Timestamp::now(), Instant::now());
        let start = (
            now.checked_sub(given.clock).unwrap_or(now),
            instant.checked_sub(given.clock).unwrap_or(instant),
        );
        let run = async move {
            tokio::select! {
                result = ferrolb_bgp::run(config, given, wanted_out, phase_out, downs_out, sessions_in) => result,
                never = relay(reports_out, dependents_out, downs, paths_in) => match never {},
                never = discovery::run(config.seed, links_out, found_in) => match never {},
            }
        };
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = runtime
                .map_err(EngineError::Runtime)
                .and_then(|runtime| runtime.block_on(run));
            // Nobody listens any more only when the process ends.
            let _ = ended_in.send(result);
        };
        let spawned = std::thread::Builder::new().name(NAME.to_owned()).spawn(body);
        spawned.map_err(|error| BgpLost::Thread { name: NAME, error })?;
        Ok(Threads {
            start,
            wanted,
            links,
            phase,
            dependents,
            sessions,
            paths,
            found,
            reports,
            ended,
            bfd: None,
            lent,
        })
    }

    /// Watches these paths, on which these peers depend. The thread starts with the first of them.
    pub(super) fn watch(&mut self, wanted: ferrolb_bfd::Wanted, dependents: Dependents) -> Result<(), BgpLost> {
        self.dependents.send_replace(dependents);
        if self.bfd.is_none() && !wanted.sessions.is_empty() {
            let name = "ferrolb-bfd";
            let reports = self.reports.clone();
            let full = |result| matches!(result, Err(mpsc::error::TrySendError::Full(_)));
            let lent = std::mem::take(&mut self.lent);
            let spawned = ferrolb_bfd::spawn_thread(lent, move |report| !full(reports.try_send(report)));
            let (handle, thread) = spawned.map_err(|error| BgpLost::Thread { name, error })?;
            let ended = tokio::task::spawn_blocking(move || thread.join());
            self.bfd = Some(Bfd { handle, ended });
        }
        if let Some(bfd) = &self.bfd {
            bfd.handle.set(Arc::new(wanted));
        }
        Ok(())
    }

    /// What is known of the links.
    pub(super) fn found(&mut self) -> Found {
        self.found.borrow_and_update().clone()
    }

    /// Waits until something has changed.
    pub(super) async fn changed(&mut self) -> Result<Changed, BgpLost> {
        let bfd_ended = async {
            match &mut self.bfd {
                Some(bfd) => (&mut bfd.ended).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = self.sessions.changed() => {}
            Ok(()) = self.paths.changed() => {}
            Ok(()) = self.found.changed() => return Ok(Changed::Links),
            ended = &mut self.ended => return Err(match ended {
                Ok(Err(error)) => error.into(),
                Ok(Ok(_)) | Err(_) => BgpLost::Ended("ferrolb-bgp"),
            }),
            ended = bfd_ended => return Err(match ended {
                Ok(Ok(Err(error))) => error.into(),
                _ => BgpLost::Ended("ferrolb-bfd"),
            }),
        }
        let sessions = self.sessions.borrow_and_update().clone();
        let paths = self.paths.borrow_and_update().clone();
        Ok(Changed::Boards(sessions, paths))
    }

    /// Leaves, in this way, and waits until every router knows. BFD says nothing: a router would take the session down.
    pub(super) async fn leave(self, leave: ferrolb_bgp::session::Leave) -> Result<(), BgpLost> {
        self.phase.send_replace(Phase::Leave(leave));
        match self.ended.await {
            Ok(result) => Ok(result.map(drop)?),
            Err(_) => Err(BgpLost::Ended("ferrolb-bgp")),
        }
    }

    /// Ends BGP without a word and takes its sessions away.
    pub(super) async fn lend_sessions(&mut self) -> Result<Sessions, BgpLost> {
        self.phase.send_replace(Phase::Lend);
        match (&mut self.ended).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(BgpLost::Ended("ferrolb-bgp")),
        }
    }

    /// Ends BFD without a word and takes its sessions away, after those of BGP. What BGP has heard of is not told again.
    pub(super) async fn lend_paths(&mut self) -> Result<ferrolb_bfd::Lent, BgpLost> {
        let Some(bfd) = self.bfd.take() else {
            return Ok(std::mem::take(&mut self.lent));
        };
        drop(bfd.handle);
        let mut lent = match bfd.ended.await {
            Ok(Ok(result)) => result?,
            _ => return Err(BgpLost::Ended("ferrolb-bfd")),
        };
        let heard = self.paths.borrow();
        for (path, lent) in &mut lent.paths {
            let known = heard.get(path).map_or(0, |report| report.status.failures);
            lent.session.failures = lent.session.failures.saturating_sub(known);
        }
        drop(heard);
        Ok(lent)
    }
}

/// Tells BGP of each path that fails, and keeps the latest report of each.
async fn relay(
    mut reports: mpsc::Receiver<Report>,
    dependents: watch::Receiver<Dependents>,
    downs: mpsc::Sender<String>,
    board: watch::Sender<BfdBoard>,
) -> Infallible {
    while let Some(report) = reports.recv().await {
        let before = board
            .borrow()
            .get(&report.path)
            .map_or(0, |known| known.status.failures);
        let on_it = dependents.borrow().get(&report.path).cloned();
        if report.status.failures > before {
            for peer in on_it.iter().flatten() {
                // The engine ends before this does.
                let _ = downs.send(peer.clone()).await;
            }
        }
        board.send_modify(|board| {
            board.insert(Arc::clone(&report.path), report);
            let dependents = dependents.borrow();
            board.retain(|path, _| dependents.contains_key(path));
        });
    }
    std::future::pending().await
}
