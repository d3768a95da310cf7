//! Runs layer 2.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::counters::Counters;
use crate::seam::{EngineError, Report, Settings, Wanted};

/// Runs until `stop` is cancelled. Give it a thread of its own: [`spawn_thread`].
pub async fn run(
    _settings: Settings,
    mut wanted: watch::Receiver<Arc<Wanted>>,
    reports: mpsc::Sender<Report>,
    _counters: Arc<Counters>,
    stop: CancellationToken,
) -> Result<(), EngineError> {
    loop {
        let now = wanted.borrow_and_update().clone();
        for address in now.addresses.keys() {
            let _ = reports
                .send(Report::Announcing {
                    address: *address,
                    interfaces: Default::default(),
                })
                .await;
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = wanted.changed() => if changed.is_err() { stop.cancelled().await; return Ok(()) },
        }
    }
}

/// Runs the engine on a thread of its own, named `ferrolb-l2`, with a runtime of its own: nothing else the process
/// does can then delay an answer. The thread ends with [`run`].
pub fn spawn_thread(
    settings: Settings,
    wanted: watch::Receiver<Arc<Wanted>>,
    reports: mpsc::Sender<Report>,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> std::io::Result<JoinHandle<Result<(), EngineError>>> {
    std::thread::Builder::new()
        .name("ferrolb-l2".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(EngineError::Runtime)?;
            runtime.block_on(run(settings, wanted, reports, counters, stop))
        })
}
