//! The engine on the lab's node. It runs as nobody, without any capability.

use std::sync::Arc;
use std::thread::JoinHandle;

use ferrolb_bgp::engine::{Board, Config, EngineError};
use ferrolb_bgp::{Peer, Phase, Routes, Sessions, State, Status, Wanted, WantedPeer};
use ferrolb_netns::{Namespace, PATIENCE, drop_privileges};
use tokio::sync::{mpsc, oneshot, watch};

/// An engine on a node.
pub(crate) struct Engine {
    pub(crate) wanted: watch::Sender<Arc<Wanted>>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) bfd: mpsc::Sender<String>,
    board: watch::Receiver<Board>,
    crash: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Option<Result<Sessions, EngineError>>>>,
}

impl Engine {
    pub(crate) fn start(node: &Namespace, config: Config) -> Engine {
        Engine::going_on(node, config, Sessions::default())
    }

    /// One that goes on with the sessions of another one.
    pub(crate) fn going_on(node: &Namespace, config: Config, lent: Sessions) -> Engine {
        let (wanted, wanted_by) = watch::channel(Arc::default());
        let (phase, in_phase) = watch::channel(Phase::Stay);
        let (bfd, bfd_seen) = mpsc::channel(4);
        let (publish, board) = watch::channel(Board::new());
        let (crash, crashed) = oneshot::channel();
        let thread = node.run(move || {
            std::thread::spawn(move || {
                drop_privileges();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    tokio::select! {
                        result = ferrolb_bgp::run(config, lent, wanted_by, in_phase, bfd_seen, publish) => Some(result),
                        _ = crashed => None,
                    }
                })
            })
        });
        Engine {
            wanted,
            phase,
            bfd,
            board,
            crash: Some(crash),
            thread: Some(thread),
        }
    }

    /// Wants these peers, each with the same routes.
    pub(crate) fn want(&self, peers: &[(&str, &Peer)], routes: &Arc<Routes>) {
        let peers = peers.iter().map(|(name, peer)| {
            let wanted = WantedPeer {
                peer: Arc::new((*peer).clone()),
                routes: Arc::clone(routes),
            };
            ((*name).to_owned(), wanted)
        });
        self.wanted.send_replace(Arc::new(Wanted { peers: peers.collect() }));
    }

    /// Waits until the status of a peer satisfies.
    pub(crate) fn until(&mut self, name: &str, what: &str, satisfies: impl Fn(&Status) -> bool) -> Arc<Status> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let board = &mut self.board;
        let found = runtime.block_on(async {
            let wait = board.wait_for(|board| board.get(name).is_some_and(|status| satisfies(status)));
            tokio::time::timeout(PATIENCE, wait)
                .await
                .ok()
                .map(|board| board.expect("the engine runs").clone())
        });
        let found = found.unwrap_or_else(|| panic!("{name}: not {what}: {:#?}", self.board.borrow()));
        Arc::clone(&found[name])
    }

    pub(crate) fn established(&mut self, name: &str) -> Arc<Status> {
        self.until(name, "established", |status| status.state == State::Established)
    }

    pub(crate) fn status(&self, name: &str) -> Arc<Status> {
        Arc::clone(&self.board.borrow()[name])
    }

    /// Ends it as a SIGKILL would: the kernel closes the sockets, nothing is said.
    pub(crate) fn crash(mut self) {
        drop(self.crash.take());
        assert!(self.thread.take().unwrap().join().unwrap().is_none());
    }

    /// Waits until it has left.
    pub(crate) fn left(&mut self) {
        let result = self.thread.take().unwrap().join().unwrap();
        assert!(matches!(result, Some(Ok(_))), "{result:?}");
    }

    /// Ends it and takes its sessions away.
    pub(crate) fn lend(mut self) -> Sessions {
        self.phase.send_replace(Phase::Lend);
        let result = self.thread.take().unwrap().join().unwrap();
        result.expect("it was not killed").expect("it did not fail")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.crash.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
