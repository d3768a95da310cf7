//! `sim`: the controller in a seeded world; many seeds on all cores, or one with its log.

use std::cell::Cell;
use std::num::NonZero;
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};

/// Failures that are told in full.
const TOLD: usize = 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many seeds to play.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Play this one alone.
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Print every input, effect and write of the one seed.
    #[arg(long, requires = "seed")]
    trace: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match args.seed {
        Some(seed) => one(seed, args.trace),
        None => many(args.first, args.seeds),
    }
}

fn one(seed: u64, trace: bool) -> Result<()> {
    let log: &dyn Fn(&str) = &|line| println!("{line}");
    let summary = ferrolb_sim::run(seed, trace.then_some(log)).map_err(|failure| anyhow!("{failure}"))?;
    println!(
        "seed {seed}: all is well after {} inputs and {} writes",
        summary.inputs, summary.writes
    );
    Ok(())
}

fn many(first: u64, seeds: u64) -> Result<()> {
    tell_seed_on_panic();
    let start = Instant::now();
    let next = AtomicU64::new(first);
    let end = first.saturating_add(seeds);
    let (send, results) = mpsc::channel();
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (next, send) = (&next, send.clone());
            scope.spawn(move || {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < end) {
                    SEED.set(seed);
                    let _ = send.send(ferrolb_sim::run(seed, None));
                }
            });
        }
    });
    drop(send);
    let (mut inputs, mut writes, mut failures) = (0, 0, Vec::new());
    for result in results {
        match result {
            Ok(summary) => {
                inputs += summary.inputs;
                writes += summary.writes;
            }
            Err(failure) => failures.push(failure),
        }
    }
    failures.sort_by_key(|failure| failure.seed);
    for failure in failures.iter().take(TOLD) {
        println!("{failure}\n");
    }
    println!(
        "{seeds} seeds from {first} on {threads} threads in {:.1} s: {inputs} inputs, {writes} writes, {} failures",
        start.elapsed().as_secs_f64(),
        failures.len()
    );
    if let Some(failure) = failures.first() {
        bail!(
            "{} of {seeds} seeds failed, the first is {}",
            failures.len(),
            failure.seed
        );
    }
    Ok(())
}

thread_local! {
    /// The seed that the thread plays.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// In a release build a panic ends the process before anybody can say whose it was.
fn tell_seed_on_panic() {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let seed = SEED.get();
        eprintln!("seed {seed}; replay: cargo run -p xtask -- sim --seed {seed} --trace");
        default(info);
    }));
}
