//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ferrolb_api::names::DEFAULT_NAMESPACE;

/// Says why a Service has no address or is not reached, moves addresses, and checks a move from MetalLB
#[derive(Clone, Debug, Parser)]
#[command(name = "kubectl-ferrolb", bin_name = "kubectl ferrolb", version)]
pub struct Cli {
    /// Kubeconfig file; without it $KUBECONFIG, then ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig; without it the current one
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,

    /// Namespace of the Service; without it that of the context
    #[arg(short, long, global = true, value_name = "NS")]
    pub namespace: Option<String>,

    /// Services of all namespaces
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace")]
    pub all_namespaces: bool,

    /// How it is told
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub output: Output,

    /// Namespace of FerroLB and of its metallb.io objects
    #[arg(long, global = true, value_name = "NS", default_value = DEFAULT_NAMESPACE)]
    pub ferrolb_namespace: String,

    /// The loadBalancerClass that FerroLB serves, if it was started with one
    #[arg(long, global = true, value_name = "CLASS")]
    pub load_balancer_class: Option<String>,

    /// Read the objects from YAML instead of a cluster; - is standard input. Not for what changes or watches something
    #[arg(short, long, global = true, value_name = "FILE")]
    pub filename: Vec<PathBuf>,

    /// What is asked.
    #[command(subcommand)]
    pub action: Action,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For people who want everything
    Wide,
    /// For programs
    Json,
    /// For programs
    Yaml,
}

/// What is asked.
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Why a Service works, or what to do; without a name all Services, one line each
    #[command(visible_alias = "explain")]
    Why {
        /// The Service, or namespace/name
        service: Option<String>,
    },
    /// Everything at a glance, problems first
    Status,
    /// What changes something, and so needs a cluster.
    #[command(flatten)]
    Request(Request),
    /// Moving in from MetalLB
    Migrate {
        /// Namespace of MetalLB
        #[arg(long, global = true, value_name = "NS", default_value = "metallb-system")]
        metallb_namespace: String,
        /// What of it.
        #[command(subcommand)]
        step: Migrate,
    },
    /// Prints a script that completes commands
    Completion {
        /// For this shell
        shell: Shell,
    },
}

/// What is asked for by annotation.
#[derive(Clone, Debug, Subcommand)]
pub enum Request {
    /// Lets another node announce an address, at layer 2
    Move {
        /// An address, or a Service (all of its addresses)
        what: String,
        /// The node
        #[arg(long, value_name = "NODE")]
        to: String,
        /// How long to wait for the answer
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
        timeout: Duration,
    },
    /// Lets addresses move from the fullest nodes to the emptiest
    Rebalance {
        /// How many at most
        #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
        count: u32,
        /// How long to wait for the answer
        #[arg(long, value_name = "TIME", default_value = "120s", value_parser = duration)]
        timeout: Duration,
    },
    /// Lets Services leave addresses that their pool would not give any more, by ferrolb.io/on-shrink
    Renumber {
        /// The IPAddressPool
        pool: String,
        /// How long to wait for the end
        #[arg(long, value_name = "TIME", default_value = "120s", value_parser = duration)]
        timeout: Duration,
    },
}

/// What of a move from MetalLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Migrate {
    /// What stays the same, what differs and why, and what to do in which order. Changes nothing.
    /// Exit code 0: nothing differs, 1: something does, 2: the cluster cannot be read
    Check,
    /// Looks again and again while MetalLB goes on, and tells what of the check is news. Changes nothing.
    /// Exit code as that of the check at the last look
    Shadow {
        /// Time between two looks, 1s or more
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = pause)]
        every: Duration,
        /// How long; without it until Ctrl-C
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        span: Option<Duration>,
    },
    /// Prints MetalLB's objects, those of an old ConfigMap too, as YAML for FerroLB's namespace
    Objects,
}

fn duration(text: &str) -> Result<Duration, String> {
    ferrolb_config::parse_duration(text).ok_or_else(|| "a time looks like 30s or 2m".to_owned())
}

fn pause(text: &str) -> Result<Duration, String> {
    let pause = duration(text)?;
    match pause >= Duration::from_secs(1) {
        true => Ok(pause),
        false => Err("that is too often; 1s is the least".to_owned()),
    }
}
