//! Waiting for a condition, with an error that says what was seen instead.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// The pause between two looks: short beside what is waited for, long beside what a look costs.
const PAUSE: Duration = Duration::from_millis(25);

/// Calls `look` until it succeeds. Its error is the state seen so far, and ends up in the message when `timeout` is over:
/// `waited 5s for an address; last seen: status has no ingress`.
pub async fn wait_until<T>(what: &str, timeout: Duration, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let mut seen = anyhow!("nothing");
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        match tokio::time::timeout(left.max(PAUSE), look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(state)) => seen = state,
            Err(_) => seen = seen.context("no answer before the time was over; earlier"),
        }
        if start.elapsed() >= timeout {
            return Err(anyhow!("waited {timeout:?} for {what}; last seen: {seen:#}"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Succeeds when `condition` holds; otherwise the state to show is `seen`.
pub fn ensure_seen(condition: bool, seen: impl FnOnce() -> String) -> Result<()> {
    if condition { Ok(()) } else { Err(anyhow!(seen())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_error_says_what_was_seen() {
        let mut looks = 0;
        let error = wait_until("rain", Duration::from_millis(60), async || {
            looks += 1;
            ensure_seen(false, || "sun".to_owned())
        })
        .await
        .expect_err("there is no rain");
        assert_eq!(error.to_string(), "waited 60ms for rain; last seen: sun");
        assert!(looks > 1, "it looks again");
    }

    #[tokio::test]
    async fn a_look_that_hangs_does_not_outlast_the_wait() {
        let wait = wait_until("an answer", Duration::from_millis(60), async || {
            std::future::pending::<()>().await;
            Ok(())
        });
        assert!(wait.await.expect_err("there is none").to_string().contains("no answer"));
    }
}
