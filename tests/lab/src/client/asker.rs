//! Who has an address, asked again and again: for how long nobody answered.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Client;

/// Between two questions; each waits so long for answers.
const PERIOD: Duration = Duration::from_millis(20);

/// Somebody who asks by ARP or Neighbor Discovery all the time. Dropping it stops it.
#[derive(Debug)]
pub struct Asker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Duration>>>,
}

impl Asker {
    pub(super) fn start(client: Client, address: IpAddr) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("asker".into())
            .spawn(move || ask(&client, address, &stopped))
            .context("start an asker")?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops asking, and says what the longest time without an answer was.
    ///
    /// # Errors
    /// When frames cannot be sent or received.
    pub fn stop(mut self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().and_then(|thread| thread.join().ok());
        ended.context("the asker has panicked")?
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whatever it has seen, nobody asks.
            let _ = thread.join();
        }
    }
}

fn ask(client: &Client, address: IpAddr, stop: &AtomicBool) -> Result<Duration> {
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        for reply in client.resolve(address, PERIOD)?.0 {
            let answered = asked + reply.after;
            longest = longest.max(answered.saturating_duration_since(last));
            last = answered;
        }
    }
    Ok(longest.max(last.elapsed()))
}
