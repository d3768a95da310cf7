//! A client as users have it: one request after the other, each tried again once when it fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::http;
use crate::net::Namespace;

/// How long one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What such a client has seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SteadyResult {
    /// Requests, attempts that were repeated not counted.
    pub requests: u64,
    /// Requests that were answered at the second attempt only.
    pub retried: u64,
    /// Requests that failed twice.
    pub failed: u64,
    /// What was wrong with the first few attempts that failed.
    pub errors: Vec<String>,
    /// The slowest request that was answered, with its retry.
    pub slowest: Duration,
}

/// A steady client at work. Dropping it stops it.
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<SteadyResult>>,
}

impl Steady {
    pub(super) fn start(
        namespace: &Namespace,
        target: SocketAddr,
        host: &str,
        path: &str,
        period: Duration,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, namespace, host, path) = (stop.clone(), namespace.clone(), host.to_owned(), path.to_owned());
        let attempt = move || match http::get(target, &host, &path, TIMEOUT) {
            Ok(response) if response.status < 500 => Ok(()),
            Ok(response) => Err(format!("status {}", response.status)),
            Err(error) => Err(format!("{error:#}")),
        };
        let thread = std::thread::Builder::new()
            .name("steady client".into())
            .spawn(move || {
                namespace
                    .run(|| run(attempt, period, &stopped))
                    .unwrap_or_else(|error| SteadyResult {
                        requests: 1,
                        failed: 1,
                        errors: vec![error.to_string()],
                        ..SteadyResult::default()
                    })
            })
            .context("start a steady client")?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops after the request that is under way and says what was seen.
    ///
    /// # Errors
    /// When the client's thread has panicked.
    pub fn stop(mut self) -> Result<SteadyResult> {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.thread.take().and_then(|thread| thread.join().ok());
        result.context("the steady client has panicked")
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whatever it has seen, nobody asks.
            let _ = thread.join();
        }
    }
}

fn run(attempt: impl Fn() -> Result<(), String>, period: Duration, stop: &AtomicBool) -> SteadyResult {
    let mut result = SteadyResult::default();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        one(&attempt, &mut result);
        std::thread::sleep(period.saturating_sub(start.elapsed()));
    }
    result
}

fn one(attempt: impl Fn() -> Result<(), String>, result: &mut SteadyResult) {
    const KEPT: usize = 5;
    let start = Instant::now();
    result.requests += 1;
    let mut note = |error| {
        if result.errors.len() < KEPT {
            result.errors.push(error);
        }
    };
    match attempt() {
        Ok(()) => {}
        Err(first) => {
            note(first);
            match attempt() {
                Ok(()) => result.retried += 1,
                Err(second) => {
                    note(second);
                    result.failed += 1;
                    return;
                }
            }
        }
    }
    result.slowest = result.slowest.max(start.elapsed());
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn one_failure_is_retried_two_are_a_failure() {
        let outcomes = RefCell::new("s fs ff s".replace(' ', "").chars().collect::<Vec<_>>().into_iter());
        let attempt = || match outcomes.borrow_mut().next() {
            Some('s') => Ok(()),
            _ => Err("refused".to_owned()),
        };
        let mut result = SteadyResult::default();
        (0..4).for_each(|_| one(attempt, &mut result));
        assert_eq!((result.requests, result.retried, result.failed), (4, 1, 1));
        assert_eq!(result.errors.len(), 3);
    }
}
