//! The first thousand seeds, and those beyond that found a fault which is mended.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

const SEEDS: u64 = 1_000;

/// Seeds beyond the first that found something.
const FOUND: [u64; 35] = [
    1622, 9723, 27913, 50156, 70194, 75365, 94589, 97065, 97311, 121787, 135777, 140008, 157776, 166577, 168567,
    168738, 174105, 184176, 190852, 212244, 218202, 251878, 255719, 256851, 267952, 282445, 299888, 304204, 310886,
    328194, 347392, 356002, 362082, 371988, 450820,
];

#[test]
fn every_seed_ends_well() {
    let seeds = (1..=SEEDS).chain(FOUND).collect::<Vec<_>>();
    let next = AtomicUsize::new(0);
    let (failed, failures) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (next, seeds, failed) = (&next, &seeds, failed.clone());
            scope.spawn(move || {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(failure) = ferrolb_sim::run(*seed, None) {
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
