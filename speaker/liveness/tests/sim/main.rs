//! Guards on a segment in virtual time: a network that loses, delays, reorders and splits, processes that stand still,
//! die and come back, a controller that moves addresses, an API server that is away.
//!
//! A seed draws a history. `FERROLB_SEEDS` says how many (200), `FERROLB_SEED` plays one. What must hold stands in
//! `judge.rs`; `measure.rs` measures how long a failure is felt.

mod api;
mod history;
mod judge;
mod measure;
mod node;
mod world;

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The seeds to play.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse().unwrap());
    match number("FERROLB_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FERROLB_SEEDS").unwrap_or(200),
    }
}

#[test]
fn histories() {
    let (seeds, failed) = (seeds(), Mutex::new(Vec::new()));
    let next = AtomicU64::new(seeds.start);
    let play = || {
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds.end {
                return;
            }
            if catch_unwind(|| history::play(seed)).is_err() {
                failed.lock().unwrap().push(seed);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(play)));
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    assert!(
        failed.is_empty(),
        "{} of {} seeds failed, above each with its reason: {failed:?}",
        failed.len(),
        seeds.count()
    );
}
