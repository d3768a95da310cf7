//! Everything a developer runs that is not cargo itself: `cargo run -p xtask -- <command>`.
//!
//! One module per command, each with its arguments (`Args`) and `run`. A command that fails says why on standard error
//! and exits with 1; a command line that cannot be read exits with 2.

mod bench;
mod chart;
mod controlplane;
mod demo;
mod emulate;
mod generate;
mod image;
mod lab;
mod licenses;
mod plugin;
mod sim;
mod soak;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "Developer commands of FerroLB")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure FerroLB in a real cluster.
    Bench(bench::Args),
    /// Render the Helm chart and the overlays, and try out the alerts.
    Chart(chart::Args),
    /// Build Kubernetes for the lab, unless it is built.
    Controlplane(controlplane::Args),
    /// Show FerroLB at work in a real cluster: a Service, its addresses, a node that is lost.
    Demo(demo::Args),
    /// Run what is built for the other processor, by qemu: the programs of the images, and tests.
    Emulate(emulate::Args),
    /// Write deploy/crds and deploy/manifests from the Rust types and deploy/base.
    Gen(generate::Args),
    /// Make the container images of the programs.
    Image(image::Args),
    /// A cluster that stays: up, down, list.
    Lab(lab::Args),
    /// Check the licence of every package that is linked in, and advisories where cargo-deny is installed.
    Licenses(licenses::Args),
    /// Make the archives of `kubectl ferrolb` and its krew manifest, and install it by krew.
    Plugin(plugin::Args),
    /// Play the controller in a seeded world, or replay one seed.
    Sim(sim::Args),
    /// Stall speakers, lose heartbeats, restart the API server, under load, for as long as you like: nothing may move.
    Soak(soak::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Chart(args) => chart::run(&args),
        Command::Controlplane(args) => controlplane::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Emulate(args) => emulate::run(&args),
        Command::Gen(args) => generate::run(&args),
        Command::Image(args) => image::run(&args),
        Command::Lab(args) => lab::run(&args),
        Command::Licenses(args) => licenses::run(&args),
        Command::Plugin(args) => plugin::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Soak(args) => soak::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
fn repository() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands in a line after the way this program is called, without the remark.
    fn arguments(line: &str) -> Option<Vec<&str>> {
        let line = line.split('#').next().unwrap_or_default();
        let (_, words) = match line.split_once("cargo xtask ") {
            Some(call) => call,
            None => line.split_once("-p xtask ")?,
        };
        // Inside of a sentence it ends with the code.
        let words = words.split('`').next().unwrap_or_default().split_whitespace();
        Some(words.skip_while(|word| ["--", "--release"].contains(word)).collect())
    }

    #[test]
    fn documents_call_it_as_it_can_be_called() {
        let root = repository();
        let pages = std::fs::read_dir(root.join("docs/src")).unwrap();
        let mut documents = pages.map(|page| page.unwrap().path()).collect::<Vec<_>>();
        documents.extend(["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(|name| root.join(name)));
        let mut seen = 0;
        for document in documents {
            let text = std::fs::read_to_string(&document).unwrap();
            for words in text.lines().filter_map(arguments).filter(|words| !words.is_empty()) {
                seen += 1;
                if let Err(error) = Cli::try_parse_from(std::iter::once("xtask").chain(words.iter().copied())) {
                    panic!("{}: {words:?}: {error}", document.display());
                }
            }
        }
        assert!(
            seen > 20,
            "only {seen} commands found: is this test still looking right?"
        );
    }
}
