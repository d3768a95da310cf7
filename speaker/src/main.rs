//! `ferrolb-speaker`: announces LoadBalancer addresses from one node.
//!
//! A thin shell (`shell`) around `ferrolb-speaker-core`: watches become inputs (`news`, `configuration`), one task owns the core
//! (`owner`), its effects go to the layer-2 engine (`engine`), the snapshot (`store`, `snapshot`), the API server
//! (`api`) and the metrics (`metrics`). What the speaker says about itself (`picture`) is written by a task of its own
//! (`reporter`, `mirror`). What was announced before a restart is announced from the first moment on,
//! before the API server is asked.

mod api;
mod args;
mod bgp;
mod configuration;
mod engine;
mod guard;
mod hand_over;
mod kube_proxy;
mod metrics;
mod mirror;
mod news;
mod owner;
mod picture;
mod prober;
mod reporter;
mod shell;
mod snapshot;
mod state_dir;
mod store;
mod strict_arp;
mod takeovers;
mod whole;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use ferrolb_runtime::{args as common, client, footprint, logs};
use tracing::{error, info, warn};

use crate::args::{Args, Errand, OwnStateDir};

/// What still blocks a thread at the end, a disk at most, gets this long.
const END: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| Errand::is(&word)) {
        let Errand::OwnStateDir(args) = common::parse();
        return own_state_dir(&args);
    }
    footprint::one_heap();
    client::install_crypto();
    let args: Args = common::parse();
    logs::init(&args.common);
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Before the speaker that runs as another user. That starts in any case: it goes on without a directory.
fn own_state_dir(args: &OwnStateDir) -> ExitCode {
    logs::init(&args.common);
    let dir = args.state_dir.display();
    match state_dir::give(&args.state_dir, args.uid) {
        Ok(0) => {}
        Ok(changed) => info!(%dir, user = args.uid, changed, "gave the state directory to the speaker's user"),
        Err(error) => warn!(%dir, user = args.uid, %error,
            "the state directory is not the speaker's: no snapshot, and no upgrade takes over"),
    }
    ExitCode::SUCCESS
}

/// One thread does everything but layer 2, which has its own: a slow API server cannot delay an answer.
fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot build the runtime")?;
    let result = runtime.block_on(shell::speak(args));
    runtime.shutdown_timeout(END);
    Ok(result?)
}
