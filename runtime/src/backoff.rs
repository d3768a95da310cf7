//! How long to wait before trying again.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Doubling delays with jitter, from `first` up to `cap`. Whoever comes back after an outage of any length is at most
/// `cap` late, and the jitter keeps a fleet from coming back in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays that start at `first` and never exceed `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Backoff {
            first,
            cap,
            next: first,
        }
    }

    /// The next delay: between half and all of the current step, which then doubles.
    pub fn delay(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.cap);
        step.mul_f64(0.5 + 0.5 * random_fraction())
    }

    /// It worked: start from `first` again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A number in `0.0..1.0`, different in every process and on every call; good enough for jitter, never for secrets.
pub fn random_fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_and_starts_over() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(500));
        for step in [100, 200, 400, 500, 500] {
            let delay = backoff.delay();
            assert!(delay >= ms(step) / 2 && delay <= ms(step), "{delay:?} of {step} ms");
        }
        backoff.reset();
        assert!(backoff.delay() <= ms(100));
    }
}
