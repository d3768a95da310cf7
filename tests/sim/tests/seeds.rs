//! The first thousand seeds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

const SEEDS: u64 = 1_000;

#[test]
fn every_seed_ends_well() {
    let next = AtomicU64::new(1);
    let (failed, failures) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (next, failed) = (&next, failed.clone());
            scope.spawn(move || {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed <= SEEDS) {
                    if let Err(failure) = ferrolb_sim::run(seed, None) {
                        let _ = failed.send(failure);
                    }
                }
            });
        }
    });
    drop(failed);
    let failures = failures.iter().map(|f| f.to_string()).collect::<Vec<_>>();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
