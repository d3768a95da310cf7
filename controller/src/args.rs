//! The command line.

use clap::Parser;
use ferrolb_runtime::args::{CommonArgs, class};

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
