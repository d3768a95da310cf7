//! Runs BGP: one task per session, and the sockets that accept connections of routers that insist on dialling.
//!
//! | channel | direction | when full or gone |
//! | --- | --- | --- |
//! | `wanted` (watch) | in | holds the latest; a sender that is gone leaves the last value in force |
//! | `phase` (watch) | in | holds the latest; a sender that is gone leaves the last value in force |
//! | `bfd` (bounded) | in | BFD waits; the engine takes from it at once |
//! | `board` (watch) | out | holds the latest status of every session |
//! | orders of a session (watch) | to the session | holds the latest |
//! | accepted connections of a session (bounded) | to the session | the connection is dropped; the router tries again |
//!
//! A peer whose settings cannot be used is told on the board and left as it was; the others never notice.

mod listeners;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::hand_over::{Lent, Sessions};
use crate::proto::Cease;
use crate::route::Routes;
use crate::session::Leave;
use crate::settings::{Field, PORT, Peer};
use crate::status::{Fault, Status};
use crate::transport;
use crate::transport::task::{self, Beginning, Given, Orders, Post};

use listeners::Listeners;

/// The status of every session by the name of its peer.
pub type Board = BTreeMap<String, Arc<Status>>;

/// So long a session of another process waits for its peer to be wanted.
const LENT: Duration = Duration::from_secs(10);

/// Accepted connections that wait for their session.
const ACCEPTED: usize = 2;

/// What stays fixed while the engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// For so long after its start the engine tells routers that this node restarted and kept forwarding (RFC 4724);
    /// zero if it did not restart.
    pub restarted_for: Duration,
    /// The port to accept connections on, for peers that want it.
    pub port: u16,
    /// Seed of the jitter. Give every node another one, so that nodes do not retry in step.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            restarted_for: Duration::ZERO,
            port: PORT,
            seed: 0,
        }
    }
}

/// The peers this node has, by name, and what each shall hold. A new value replaces the old one as a whole. The first one
/// with a peer in it has to be complete: after a restart a router drops what is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// By a name of the caller's choice.
    pub peers: BTreeMap<String, WantedPeer>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedPeer {
    /// Its settings.
    pub peer: Arc<Peer>,
    /// What it shall hold. Share the `Arc` between peers that shall hold the same.
    pub routes: Arc<Routes>,
}

/// Whether the engine stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It stays.
    #[default]
    Stay,
    /// It leaves, in this way, and ends.
    Leave(Leave),
    /// It ends without a word and gives its sessions away.
    Lend,
}

/// What ends the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A task died; without it a session would go on as it is for ever.
    #[error("a BGP task died: {0}")]
    Task(#[source] tokio::task::JoinError),
    /// The engine's own runtime could not be built.
    #[error("cannot build the BGP runtime: {0}")]
    Runtime(#[source] io::Error),
}

/// Runs until it has left ([`Phase::Leave`]), or has given its sessions away ([`Phase::Lend`]), which it returns then. It
/// goes on with the sessions that are `lent` to it as their peers are wanted. `bfd` tells the names of peers whose path
/// BFD saw fail. Give it a thread of its own: [`spawn_thread`]. Works in the network namespace of the thread that polls it
/// first.
pub async fn run(
    config: Config,
    lent: Sessions,
    wanted: watch::Receiver<Arc<Wanted>>,
    phase: watch::Receiver<Phase>,
    bfd: mpsc::Receiver<String>,
    board: watch::Sender<Board>,
) -> Result<Sessions, EngineError> {
    let now = Instant::now();
    let engine = Engine {
        config,
        start: now.checked_sub(lent.clock).unwrap_or(now),
        restarted_until: lent.clock + config.restarted_for,
        lent: lent.by_name,
        lent_until: now + LENT,
        wanted: Arc::default(),
        leave: None,
        board,
        sessions: BTreeMap::new(),
        tasks: JoinSet::new(),
        listeners: Listeners::default(),
        started: 0,
    };
    engine.run(wanted, phase, bfd).await
}

/// Runs the engine on a thread of its own, named `ferrolb-bgp`, with a runtime of its own. The thread ends with
/// [`run`].
pub fn spawn_thread(
    config: Config,
    wanted: watch::Receiver<Arc<Wanted>>,
    phase: watch::Receiver<Phase>,
    bfd: mpsc::Receiver<String>,
    board: watch::Sender<Board>,
) -> io::Result<JoinHandle<Result<(), EngineError>>> {
    std::thread::Builder::new()
        .name("ferrolb-bgp".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(EngineError::Runtime)?;
            let lent = Sessions::default();
            runtime.block_on(run(config, lent, wanted, phase, bfd, board)).map(drop)
        })
}

/// A session's task, seen from here.
struct Handle {
    orders: watch::Sender<Orders>,
    accepted: mpsc::Sender<TcpStream>,
}

struct Engine {
    config: Config,
    start: Instant,
    /// On the clock that began with `start`.
    restarted_until: Duration,
    wanted: Arc<Wanted>,
    leave: Option<Leave>,
    board: watch::Sender<Board>,
    sessions: BTreeMap<String, Handle>,
    tasks: JoinSet<Option<Given>>,
    /// Sessions of another process whose peer is not wanted yet.
    lent: BTreeMap<String, Lent>,
    /// Then they are let go.
    lent_until: Instant,
    listeners: Listeners,
    /// How many sessions were started: each has another jitter.
    started: u64,
}

impl Engine {
    async fn run(
        mut self,
        mut wanted: watch::Receiver<Arc<Wanted>>,
        mut phase: watch::Receiver<Phase>,
        mut bfd: mpsc::Receiver<String>,
    ) -> Result<Sessions, EngineError> {
        self.wanted = wanted.borrow_and_update().clone();
        self.obey(phase.borrow_and_update().clone());
        self.reconcile();
        let (mut wanting, mut phasing) = (true, true);
        while self.leave.is_none() || !self.tasks.is_empty() {
            if self.leave.is_none() && *phase.borrow() == Phase::Lend {
                return self.lend().await;
            }
            let retry = self.listeners.retry_at();
            tokio::select! {
                changed = wanted.changed(), if wanting => match changed {
                    Ok(()) => {
                        self.wanted = wanted.borrow_and_update().clone();
                        self.reconcile();
                    }
                    Err(_) => wanting = false,
                },
                changed = phase.changed(), if phasing => match changed {
                    Ok(()) => {
                        self.obey(phase.borrow_and_update().clone());
                        self.reconcile();
                    }
                    Err(_) => phasing = false,
                },
                Some(name) = bfd.recv() => {
                    if let Some(handle) = self.sessions.get(&name) {
                        handle.orders.send_modify(|orders| orders.bfd_downs += 1);
                    }
                }
                (stream, from) = self.listeners.accept() => self.accepted(stream, from),
                Some(ended) = self.tasks.join_next() => drop(ended.map_err(EngineError::Task)?),
                () = sleep_until(self.lent_until), if !self.lent.is_empty() => self.lent.clear(),
                () = sleep_until(retry.unwrap_or(self.start)), if retry.is_some() => self.reconcile(),
            }
        }
        Ok(Sessions::default())
    }

    /// Takes every session away from its task, at the end of what the task is doing.
    async fn lend(mut self) -> Result<Sessions, EngineError> {
        drop(std::mem::take(&mut self.listeners));
        for handle in self.sessions.values() {
            handle.orders.send_modify(|orders| orders.lend = true);
        }
        let mut by_name = std::mem::take(&mut self.lent);
        let mut waiting = self.sessions.len();
        while waiting > 0
            && let Some(ended) = self.tasks.join_next().await
        {
            // A session that is no longer wanted, and has left.
            let Some((name, lent)) = ended.map_err(EngineError::Task)? else {
                continue;
            };
            waiting -= 1;
            by_name.extend(lent.map(|lent| (name, lent)));
        }
        let clock = self.start.elapsed();
        Ok(Sessions { clock, by_name })
    }

    /// Once it leaves it does not come back; only the way can change.
    fn obey(&mut self, phase: Phase) {
        if let Phase::Leave(leave) = phase {
            self.leave = Some(leave);
        }
    }

    /// Brings sessions and listeners in line with what is wanted.
    fn reconcile(&mut self) {
        let wanted = Arc::clone(&self.wanted);
        let gone: Vec<String> = self
            .sessions
            .keys()
            .filter(|n| !wanted.peers.contains_key(*n))
            .cloned()
            .collect();
        gone.iter().for_each(|name| self.dismiss(name));
        self.board.send_if_modified(|board| {
            let before = board.len();
            board.retain(|name, _| wanted.peers.contains_key(name));
            board.len() != before
        });
        let usable = wanted.peers.iter().filter(|(_, wanted)| wanted.peer.check().is_ok());
        let usable: BTreeMap<&String, &Arc<Peer>> = usable.map(|(name, wanted)| (name, &wanted.peer)).collect();
        let staying = self.leave.is_none();
        self.listeners
            .listen(self.config.port, usable.values().filter(|_| staying).copied());
        for (name, wanted) in &wanted.peers {
            match wanted.peer.check() {
                Ok(()) => self.order(name, wanted),
                Err(error) => self.refuse(name, Fault::Settings(error)),
            }
        }
        if let Some(leave) = &self.leave {
            for handle in self.sessions.values() {
                handle.orders.send_modify(|orders| orders.leave = Some(leave.clone()));
            }
        }
    }

    /// Tells that a peer's settings cannot be used. A session that runs goes on with those it has.
    fn refuse(&self, name: &str, fault: Fault) {
        let now = self.start.elapsed();
        self.board.send_if_modified(|board| {
            let status = Arc::make_mut(board.entry(name.to_owned()).or_default());
            let known = status.last_error.as_ref().is_some_and(|(_, last)| *last == fault);
            if !known {
                status.last_error = Some((now, fault));
            }
            !known
        });
    }

    /// Gives a session its orders; starts it if there is none.
    fn order(&mut self, name: &str, wanted: &WantedPeer) {
        if let Some(handle) = self.sessions.get(name) {
            let elsewhere = [Field::Address, Field::Interface, Field::Port, Field::Vrf];
            let diff = handle.orders.borrow().peer.diff(&wanted.peer);
            if elsewhere.iter().any(|field| diff.reset.contains(field)) {
                // Another router: the old one has to be told that its routes are gone.
                self.dismiss(name);
            }
        }
        let deaf = self.listeners.fault(self.config.port, &wanted.peer);
        match self.sessions.get(name) {
            Some(handle) => drop(handle.orders.send_if_modified(|orders| {
                let next = Orders {
                    peer: Arc::clone(&wanted.peer),
                    routes: Arc::clone(&wanted.routes),
                    deaf,
                    ..orders.clone()
                };
                let changed = next != *orders;
                *orders = next;
                changed
            })),
            None if self.leave.is_some() => {}
            None => self.start(name, wanted, deaf),
        }
    }

    fn start(&mut self, name: &str, wanted: &WantedPeer, deaf: Option<String>) {
        let (orders, given) = watch::channel(Orders {
            peer: Arc::clone(&wanted.peer),
            routes: Arc::clone(&wanted.routes),
            leave: None,
            bfd_downs: 0,
            deaf,
            quiet: false,
            lend: false,
        });
        let (accepted, connections) = mpsc::channel(ACCEPTED);
        let post = Post {
            name: name.to_owned(),
            board: self.board.clone(),
        };
        self.started += 1;
        let seed = self.config.seed.wrapping_mul(31).wrapping_add(self.started);
        let beginning = Beginning {
            start: self.start,
            restarted_until: self.restarted_until,
            seed,
            lent: self.lent.remove(name),
        };
        self.tasks.spawn(task::run(beginning, given, connections, post));
        self.sessions.insert(name.to_owned(), Handle { orders, accepted });
    }

    /// Lets a session leave, unobserved. Its last orders stay in force without a sender.
    fn dismiss(&mut self, name: &str) {
        if let Some(handle) = self.sessions.remove(name) {
            handle.orders.send_modify(|orders| {
                orders.quiet = true;
                orders.leave = Some(Leave::Withdraw {
                    wait: Duration::ZERO,
                    cease: Cease::Deconfigured,
                    text: String::new(),
                });
            });
        }
    }

    fn accepted(&mut self, stream: TcpStream, from: SocketAddr) {
        let wanted = self
            .wanted
            .peers
            .iter()
            .find(|(_, wanted)| transport::is_from(&wanted.peer, from));
        let Some((name, wanted)) = wanted else { return };
        let Some(handle) = self.sessions.get(name) else { return };
        if transport::tune(&stream, &wanted.peer).is_ok() {
            // Full: the router dials again.
            let _ = handle.accepted.try_send(stream);
        }
    }
}
