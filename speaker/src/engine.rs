//! Keeps the layer-2 engine running on its thread.
//!
//! An engine that cannot run, because a capability or netlink is missing, is an operator's problem: it is said once in
//! the log and on `/readyz`, told to the owner task, and tried again every few seconds. An engine that panics ends the
//! process, like every task.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_l2::{Channels, Counters, EngineError, Settings, spawn_thread};
use ferrolb_runtime::apply::chain;
use ferrolb_runtime::readiness::Check;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::news::News;

/// Time until the next attempt to run the engine.
const AGAIN: Duration = Duration::from_secs(5);

/// What the engine is given.
pub(crate) struct Engine {
    /// What stays fixed.
    pub(crate) settings: Settings,
    /// What it is told, and what it says.
    pub(crate) channels: Channels,
    /// What it counts.
    pub(crate) counters: Arc<Counters>,
    /// For `/readyz`; the owner task calls it ready with the first report.
    pub(crate) check: Check,
    /// Where the owner task hears that it does not run.
    pub(crate) news: mpsc::Sender<News>,
}

/// The engine is lost in a way that a restart of the process is to heal.
#[derive(Debug, Error)]
pub(crate) enum EngineLost {
    /// The system gives no thread.
    #[error("cannot start the layer 2 thread: {0}")]
    Thread(#[source] io::Error),
    /// It returned although nobody asked it to.
    #[error("the layer 2 engine ended unasked")]
    Ended,
    /// It panicked; the message stands above in the log.
    #[error("the layer 2 engine panicked")]
    Panicked,
}

impl Engine {
    /// Runs until `stop` is cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), EngineLost> {
        let mut said = None;
        let mut channels = self.channels;
        loop {
            let thread = spawn_thread(
                self.settings.clone(),
                channels,
                Arc::clone(&self.counters),
                stop.clone(),
            );
            let thread = thread.map_err(EngineLost::Thread)?;
            let ended = tokio::task::spawn_blocking(move || thread.join()).await;
            let Ok(Ok((back, result))) = ended else {
                return Err(EngineLost::Panicked);
            };
            let error = match result {
                Ok(()) if stop.is_cancelled() => return Ok(()),
                Ok(()) => return Err(EngineLost::Ended),
                Err(error) => error,
            };
            channels = back;
            let why = explain(&error);
            self.check.not_ready(why.clone());
            if said.as_ref() != Some(&why) {
                error!("layer 2 does not run: {why}");
                said = Some(why.clone());
            }
            // When nobody listens any more, the program is about to end.
            let _ = self.news.send(News::EngineDown(why)).await;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}

/// What an operator needs to know, and to do.
fn explain(error: &EngineError) -> String {
    match error {
        EngineError::PacketSocket(source) if source.kind() == io::ErrorKind::PermissionDenied => format!(
            "a packet socket cannot be opened ({source}): the speaker needs the capability NET_RAW; grant it \
             (securityContext.capabilities.add: [NET_RAW])"
        ),
        other => chain(other),
    }
}
