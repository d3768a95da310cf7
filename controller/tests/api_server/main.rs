//! The program against an API server: the same scenario with the double, which misbehaves where the scenario says so,
//! and with a real one, which does not. What stands in the API server in the end must be the same.
//!
//! What only the double can show, faults and counts, a scenario checks itself ([`World::double`]).

mod faults;
mod look;
mod program;
mod scenarios;
mod world;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use ferrolb_apiserver::RealApiServer;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::sync::Mutex;

use crate::world::{Scenario, World};

fn scenarios() -> impl Iterator<Item = &'static (&'static str, Scenario)> {
    scenarios::ALL.iter().chain(faults::ALL)
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = Arc::new(runtime.expect("a runtime"));
    let start = async || RealApiServer::start(&mut |line| eprintln!("{line}")).await;
    let server = (!arguments.list).then(|| runtime.block_on(start()).expect("a real API server"));
    // There is one for all scenarios, so they take turns.
    let real = Arc::new(Mutex::new(server.as_ref().map(|server| server.kubeconfig().to_owned())));
    let trials = scenarios().map(|(name, scenario)| {
        let (runtime, real) = (Arc::clone(&runtime), Arc::clone(&real));
        Trial::test(*name, move || {
            let both = runtime.block_on(compare(name, *scenario, &real));
            both.map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    drop(server);
    conclusion.exit_code()
}

async fn compare(name: &str, scenario: Scenario, real: &Mutex<Option<String>>) -> Result<()> {
    let mut world = World::with_double(name).await?;
    let double = scenario(&mut world).await.with_context(|| world.told("the double"))?;
    let kubeconfig = real.lock().await;
    let mut world = World::with_real(name, kubeconfig.as_deref().context("no real API server")?).await?;
    let real = scenario(&mut world)
        .await
        .with_context(|| world.told("the real API server"))?;
    ensure!(
        double == real,
        "with the double:\n{double:#}\nwith the real API server:\n{real:#}"
    );
    Ok(())
}
