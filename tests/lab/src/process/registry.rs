//! Every process the lab has running, so that an interrupted lab can end them without unwinding its owners.

use std::sync::{Arc, Mutex, Weak};

use super::{Inner, kill_and_reap};

static RUNNING: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

/// Remembers a process for [`kill_all`].
pub(super) fn add(process: &Arc<Inner>) {
    let mut running = RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    running.retain(|process| process.strong_count() > 0);
    running.push(Arc::downgrade(process));
}

/// Kills every process this program has started, in the order they were started in.
pub(crate) fn kill_all() {
    let running = std::mem::take(&mut *RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    for process in running.iter().filter_map(Weak::upgrade) {
        kill_and_reap(&mut process.run.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }
}
