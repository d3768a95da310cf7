//! A seeded world around the controller's core.
//!
//! One seed draws a scenario and a history (`history.rs`): users, administrators, machines and hands, and what of the
//! world fails. The simulator (`sim.rs`) plays it in virtual time around one to three cores, with an API server
//! (`store.rs`) whose watches are late, reordered between objects, doubled and listed anew, and whose writes fail, get
//! lost, or are done without an answer; controllers crash, pause, and at times two believe to lead.
//!
//! What must hold at every write is in `ledger.rs`, what must hold when the dust has settled in `rest.rs`; both judge by
//! rules written once more in `law.rs`. The same seed gives the same run. A history that is calm (nothing fails, and all
//! comes to rest between two actions) is played twice with another order of events, and has to end with equal objects.

mod cluster;
mod history;
mod law;
mod ledger;
mod replica;
mod rest;
mod sim;
mod store;
mod users;
mod words;

use std::fmt;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use ferrolb_model::ServiceId;

pub use crate::sim::Sabotage;

use crate::history::History;
use crate::sim::{Settings, Sim};
use crate::store::Store;

/// Without a write for this long, longer than a cool-down and the belief in a takeover, and shorter than a sweep, the dust has
/// settled.
const REST: Duration = Duration::from_secs(100);

/// The same where a write may have been refused: it is tried again after a minute, and a cool-down may follow.
const REST_AFTER_FAULTS: Duration = Duration::from_secs(140);

/// By then it has, however long the line of those that wait for each other.
const PATIENCE: Duration = Duration::from_secs(2_000);

/// And then nothing is written for this long, in which every sweep has come.
const QUIET: Duration = Duration::from_secs(300);

/// A seed whose run broke a rule.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// When, in virtual time.
    pub at: Duration,
    /// Which rule, and what broke it.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, at, what } = self;
        write!(
            f,
            "seed {seed}, after {:.3} s: {what}\nreplay: cargo run -p xtask -- sim --seed {seed} --trace",
            at.as_secs_f64()
        )
    }
}

/// How much a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Inputs that cores took.
    pub inputs: usize,
    /// Writes that cores asked for.
    pub writes: usize,
}

/// Plays a seed; every line of the log goes to `log`.
pub fn run(seed: u64, log: Option<&dyn Fn(&str)>) -> Result<Summary, Failure> {
    let history = History::draw(seed);
    let (summary, first) = play(seed, 1, &history, log, None)?;
    if history.scenario.calm {
        if let Some(log) = log {
            log("--- the same history with another order of events");
        }
        let (_, second) = play(seed, 2, &history, log, None)?;
        let tied = first.tied || second.tied;
        let mut lines = first.lines.iter().zip(&second.lines);
        if let Some((a, b)) = lines.find(|(a, b)| a != b).filter(|_| !tied) {
            return Err(Failure {
                seed,
                at: first.at,
                what: format!("another order of events ends otherwise: {a}, or {b}"),
            });
        }
    }
    Ok(summary)
}

/// Plays a seed with cores whose effects are falsified.
pub fn run_sabotaged(seed: u64, sabotage: Sabotage) -> Result<Summary, Failure> {
    let history = History::draw(seed);
    play(seed, 1, &history, None, Some(sabotage)).map(|(summary, _)| summary)
}

/// What has to be equal whatever the order of events: which Service shows which addresses of which pool, and who claims
/// what with which sharing key. Uids, versions and nodes may differ.
struct Outcome {
    at: Duration,
    /// Which of two addresses came free first was a matter of milliseconds: the lines need not be equal.
    tied: bool,
    lines: Vec<String>,
}

impl Outcome {
    fn of(store: &Store, at: Duration, tied: bool) -> Self {
        let shows = store
            .services
            .values()
            .map(|v| format!("{} shows {:?} of {:?}", v.id, v.ingress, v.pool_annotation));
        let holds = store.virtual_ips.values().map(|o| {
            let claims = o.claims.iter().map(|c| (&c.service, c.uid.is_some()));
            let mut claims = claims.collect::<Vec<(&ServiceId, bool)>>();
            claims.sort_unstable();
            let address: IpAddr = o.address;
            format!(
                "{address} of {:?} is claimed by {claims:?} under {:?}",
                o.pool, o.sharing_key
            )
        });
        Outcome {
            at,
            tied,
            lines: shows.chain(holds).collect(),
        }
    }
}

fn play(
    seed: u64,
    order: u64,
    history: &History,
    log: Option<&dyn Fn(&str)>,
    sabotage: Option<Sabotage>,
) -> Result<(Summary, Outcome), Failure> {
    let order = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(order);
    if let Some(log) = log {
        log(&format!("{:?}, mute: {:?}", history.scenario, history.mute));
    }
    let settings = Settings { order, log, sabotage };
    let mut sim = Sim::new(history, settings);
    let result = catch_unwind(AssertUnwindSafe(|| to_the_end(&mut sim)));
    let at = sim.now;
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?");
        Err(format!("panic: {text}"))
    });
    match result {
        Ok(()) => {
            let summary = Summary {
                inputs: sim.inputs,
                writes: sim.writes,
            };
            Ok((summary, Outcome::of(&sim.store, at, sim.tied)))
        }
        Err(what) => {
            sim.log(|| format!("!!!         {what}"));
            Err(Failure { seed, at, what })
        }
    }
}

fn to_the_end(sim: &mut Sim<'_>) -> Result<(), String> {
    while !sim.is_over() {
        sim.step(Duration::MAX)?;
    }
    let (over, before) = (sim.calm_down(), sim.writes);
    let rest = if sim.scenario.faults { REST_AFTER_FAULTS } else { REST };
    loop {
        let end = sim.last_write.max(over) + rest;
        while sim.step(end)? {}
        if sim.last_write + rest <= sim.now {
            break;
        }
        if sim.now > over + PATIENCE {
            return Err(format!("never comes to rest; the last writes: {:#?}", sim.recent));
        }
    }
    let objects = sim.store.services.len() + sim.store.virtual_ips.len();
    let writes = sim.writes - before;
    if writes > 20 * (objects + 5) {
        return Err(format!(
            "{writes} writes about {objects} objects; the last: {:#?}",
            sim.recent
        ));
    }
    let leader = sim.leader().ok_or("nobody leads")?;
    rest::check(&sim.store, &leader.core)?;
    let (before, end) = ((sim.writes, sim.remarks), sim.now + QUIET);
    while sim.step(end)? {}
    let (writes, remarks) = (sim.writes - before.0, sim.remarks - before.1);
    // A sweep may find that another one now stands in the way of who waits.
    if writes > remarks || remarks > objects {
        return Err(format!("writes although nothing happened: {:#?}", sim.recent));
    }
    let lists = sim.lists();
    let leader = sim.leader().ok_or("nobody leads")?;
    rest::check_fresh(lists, &leader.core)
}
