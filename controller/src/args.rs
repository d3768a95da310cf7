//! The command line.

use clap::Parser;
use ferrolb_runtime::args::CommonArgs;

/// Gives addresses from IPAddressPools to Services of type LoadBalancer
#[derive(Clone, Debug, Parser)]
#[command(name = "ferrolb-controller", version)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: CommonArgs,

    /// Serve Services of exactly this loadBalancerClass; without it those that have none
    #[arg(long, value_name = "CLASS", env = "FERROLB_LOAD_BALANCER_CLASS", value_parser = class)]
    pub(crate) load_balancer_class: Option<String>,
}

/// A class as the API server would accept it, roughly: a label key with an optional prefix.
fn class(text: &str) -> Result<String, String> {
    let fits =
        !text.is_empty() && text.len() <= 317 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    if fits {
        Ok(text.to_owned())
    } else {
        Err("a class looks like example.com/internal".to_owned())
    }
}
