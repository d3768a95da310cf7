//! `ferrolb-controller`: gives addresses to Services of type LoadBalancer and places them on nodes.
//!
//! A thin shell around `ferrolb-controller-core`. Read `program.rs` (how it is put together), `news.rs` (what is
//! watched), `owner.rs` (the one task that owns the core) and `writes.rs` (what is written), in this order.

mod admission;
mod args;
mod configuration;
mod definitions;
mod liveness_key;
mod metrics;
mod news;
mod owner;
mod pools;
mod program;
mod rivals;
mod verdict;
mod writes;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use ferrolb_runtime::{args as common, client, footprint, logs};
use tracing::{error, info};

use crate::args::Args;

/// What still blocks a thread at the end, a look-up of a name at most, gets this long.
const END: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    footprint::one_heap();
    client::install_crypto();
    let args = common::parse::<Args>();
    logs::init(&args.common);
    // One thread: the work is waiting for the API server, and every thread would cost memory.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.context("cannot start the runtime").and_then(|runtime| {
        let result = runtime.block_on(program::run(args));
        runtime.shutdown_timeout(END);
        Ok(result?)
    });
    match result {
        Ok(()) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            error!("{failure:#}");
            ExitCode::FAILURE
        }
    }
}
