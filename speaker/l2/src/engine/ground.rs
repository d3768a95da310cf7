//! The thread beside the engine's: it follows the interfaces, and does what takes long.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use tokio::runtime::{self, Handle};
use tokio::sync::{oneshot, watch};

use crate::netlink::{Follower, Interfaces};
use crate::seam::EngineError;

/// Ends the thread when it is dropped.
pub(super) struct Ground {
    /// The sender is gone when the thread is dead.
    pub(super) interfaces: watch::Receiver<Interfaces>,
    /// In: the indices of the interfaces that this node has a part in addresses on.
    pub(super) used: watch::Sender<BTreeSet<u32>>,
    /// Runs what may block.
    pub(super) closer: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ground {
    /// Reads the interfaces once and follows them from then on, in the network namespace and with the rights of the thread
    /// that calls it.
    pub(super) fn start() -> Result<Ground, EngineError> {
        let (stop, stopped) = oneshot::channel();
        let (started, start) = mpsc::sync_channel(1);
        let (used, used_out) = watch::channel(BTreeSet::new());
        let thread = Builder::new()
            .name("ferrolb-netlink".to_owned())
            .spawn(move || {
                let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(started.send(Err(EngineError::Runtime(error)))),
                };
                runtime.block_on(async {
                    let follower = match Follower::start().await {
                        Ok(follower) => follower,
                        Err(error) => return drop(started.send(Err(EngineError::Netlink(error)))),
                    };
                    let (publish, interfaces) = watch::channel(follower.interfaces());
                    let _ = started.send(Ok((interfaces, Handle::current())));
                    tokio::select! {
                        () = follower.follow(publish, used_out) => {}
                        _ = stopped => {}
                    }
                });
            })
            .map_err(EngineError::Runtime)?;
        let ended = || io::Error::other("the thread that reads them has ended");
        let (interfaces, closer) = start.recv().map_err(|_| EngineError::Netlink(ended()))??;
        Ok(Ground {
            interfaces,
            used,
            closer,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Whether it has panicked was seen before.
            let _ = thread.join();
        }
    }
}
