//! The command line.

use clap::{ArgAction, Parser};
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

    /// Decide only while holding the lease `ferrolb-controller`, so that further replicas stand by
    #[arg(long, value_name = "BOOL", env = "FERROLB_LEADER_ELECT", action = ArgAction::Set,
          default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) leader_elect: bool,

    /// The pod's name, for the lease; without it the host's
    #[arg(long, value_name = "POD", env = "FERROLB_POD_NAME")]
    pub(crate) pod_name: Option<String>,

    /// The pod's uid, for events about it
    #[arg(long, value_name = "UID", env = "FERROLB_POD_UID")]
    pub(crate) pod_uid: Option<String>,
}
