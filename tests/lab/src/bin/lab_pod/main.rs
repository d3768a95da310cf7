//! `lab_pod`: what runs in the lab's pods.
//!
//! Two programs in one small executable, because both have to be found beside the lab:
//! - `lab_pod enter ... -- PROGRAM ARGS` makes the inside of a container and becomes its outer half ([`enter`]);
//! - `lab_pod web|tcp-echo|udp-echo` is the application, a well-behaved server that says which pod answered
//!   ([`serve`]).
//!
//! It links neither the lab nor the Kubernetes client: a pod is a fork away, and many of them fit on a small machine.

mod enter;
mod http;
mod root;
mod serve;
mod udp;

use std::process::ExitCode;

const USAGE: &str = "\
usage: lab_pod web      [--http PORT]... [--tcp PORT]... [--udp PORT]... [--name NAME]
                        [--ready-after MILLISECONDS] [--lame-duck MILLISECONDS]
       lab_pod tcp-echo --port PORT [--name NAME]
       lab_pod udp-echo --port PORT [--name NAME]
       lab_pod enter    --root DIRECTORY [--layer DIRECTORY]... [--bind SOURCE:TARGET[:ro]]... [--env NAME=VALUE]...
                        [--hostname NAME] [--workdir DIRECTORY] -- PROGRAM [ARGUMENT]...";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let outcome = match args.next().as_deref() {
        Some("enter") => enter::Plan::parse(args).and_then(|plan| enter::run(&plan)),
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
