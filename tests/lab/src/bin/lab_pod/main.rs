//! `lab_pod`: what runs in the lab's pods.
//!
//! Several programs in one small executable, because all have to be found beside the lab:
//! - `lab_pod enter ... -- PROGRAM ARGS` makes the inside of a container and becomes its outer half ([`enter`]);
//! - `lab_pod machine ...` makes the inside of a node with a real kubelet, and runs it ([`machine`]);
//! - `lab_pod web|tcp-echo|udp-echo` is the application, a well-behaved server that says which pod answered
//!   ([`serve`]);
//! - `lab_pod pause` is what holds a pod's namespaces: it waits for its end.
//!
//! Under the name `web` or `pause` it is that program, as images need it, whose entry point is a file.
//!
//! It links neither the lab nor the Kubernetes client: a pod is a fork away, and many of them fit on a small machine.

mod enter;
mod http;
mod machine;
mod machine_root;
mod root;
mod serve;
mod udp;

use std::path::Path;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};

const USAGE: &str = "\
usage: lab_pod web      [--http PORT]... [--tcp PORT]... [--udp PORT]... [--name NAME]
                        [--ready-after MILLISECONDS] [--lame-duck MILLISECONDS]
       lab_pod tcp-echo --port PORT [--name NAME]
       lab_pod udp-echo --port PORT [--name NAME]
       lab_pod enter    --root DIRECTORY [--layer DIRECTORY]... [--bind SOURCE:TARGET[:ro]]... [--env NAME=VALUE]...
                        [--hostname NAME] [--workdir DIRECTORY] -- PROGRAM [ARGUMENT]...
       lab_pod machine  --hostname NAME --root DIRECTORY --disk DIRECTORY [--share PATH]... [--cgroup DIRECTORY]...
                        --service LOG:FILE [--service LOG:FILE]
       lab_pod pause";

fn main() -> ExitCode {
    let mut words = std::env::args();
    let own = words.next().unwrap_or_default();
    let name = Path::new(&own).file_name().and_then(|name| name.to_str());
    let applet = name.filter(|name| ["web", "pause"].contains(name)).map(str::to_owned);
    let mode = applet.or_else(|| words.next());
    let mut args = words;
    let outcome = match mode.as_deref() {
        Some("enter") => enter::Plan::parse(args).and_then(|plan| enter::run(&plan)),
        Some("machine") => machine::Plan::parse(args).and_then(|plan| machine::run(&plan)),
        Some("pause") if args.next().is_none() => pause(),
        Some(mode @ ("web" | "tcp-echo" | "udp-echo")) => {
            serve::Options::parse(mode, args).and_then(|options| serve::run(&options))
        }
        _ => Err(USAGE.to_owned()),
    };
    outcome.unwrap_or_else(|message| {
        eprintln!("lab_pod: {message}");
        ExitCode::from(128)
    })
}

/// Waits to be asked to end.
fn pause() -> Result<ExitCode, String> {
    let end: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    end.thread_block().map_err(|error| format!("block signals: {error}"))?;
    end.wait().map_err(|error| format!("wait for a signal: {error}"))?;
    Ok(ExitCode::SUCCESS)
}
