//! Guards on a segment in virtual time: a network that loses, doubles, delays, reorders and splits, processes that stand still,
//! die and come back with or without what they remembered, nodes that boot with another time on their clock, a controller
//! that moves addresses, an API server that is away.
//!
//! A seed draws a history. `FERROLB_SEEDS` says how many (200), `FERROLB_FIRST` from where (0), `FERROLB_SEED` plays one. What must hold stands in
//! `judge.rs` and at the end of `history.rs`, that it bites in `sabotage.rs`; `measure.rs` measures how long a failure is felt.
//! Ten thousand, optimised:
//!
//! ```sh
//! FERROLB_SEEDS=10000 cargo test --release -p ferrolb-liveness --test sim histories -- --nocapture
//! ```

mod api;
mod history;
mod judge;
mod measure;
mod net;
mod node;
mod sabotage;
mod world;

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use history::Kind;
use sabotage::Sabotage;

/// The seeds to play.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse().unwrap());
    match number("FERROLB_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("FERROLB_FIRST").unwrap_or(0);
            first..first + number("FERROLB_SEEDS").unwrap_or(200)
        }
    }
}

/// What the seeds of a kind have shown.
#[derive(Default)]
struct Sum {
    histories: u32,
    longest: [Duration; 2],
}

#[test]
fn histories() {
    let (seeds, next) = (seeds(), AtomicU64::new(seeds().start));
    let (complaints, sums) = (Mutex::new(Vec::new()), Mutex::new(BTreeMap::<Kind, Sum>::new()));
    let play = || {
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds.end {
                return;
            }
            match catch_unwind(|| history::tell(seed, Sabotage::default())) {
                Ok(told) => {
                    complaints.lock().unwrap().extend(told.complaints);
                    let mut sums = sums.lock().unwrap();
                    let sum = sums.entry(told.kind).or_default();
                    sum.histories += 1;
                    for (longest, seen) in sum.longest.iter_mut().zip(told.longest) {
                        *longest = seen.max(*longest);
                    }
                }
                Err(_) => complaints
                    .lock()
                    .unwrap()
                    .push(format!("FERROLB_SEED={seed} panicked, see above")),
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(play)));
    });
    for (kind, Sum { histories, longest }) in sums.into_inner().unwrap() {
        let [two, none] = longest;
        println!(
            "{kind:?}, {histories} histories: at most {two:?} two answers, {none:?} none although a standby was ready"
        );
    }
    let complaints = complaints.into_inner().unwrap();
    assert!(complaints.is_empty(), "in {} seeds: {complaints:#?}", seeds.count());
}
