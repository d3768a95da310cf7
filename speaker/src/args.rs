//! The command line. A bad one ends the process with exit code 2 and one line (see `ferrolb_runtime::args`).
//!
//! With a word first ([`Errand`]) the program does that alone, and ends.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ferrolb_l2::NamePattern;
use ferrolb_runtime::args::{CommonArgs, class, is_subdomain};

/// Longest interval that makes sense between two refreshes of an announcement, in seconds: a day.
const LONGEST_REFRESH: u64 = 86_400;

/// Announces LoadBalancer addresses from this node.
///
/// `ferrolb-speaker own-state-dir --help` tells how it gives its state directory to another user.
#[derive(Clone, Debug, Parser)]
#[command(name = "ferrolb-speaker", version)]
pub(crate) struct Args {
    /// Flags that every program has.
    #[command(flatten)]
    pub(crate) common: CommonArgs,

    /// Name of the Node object of the machine this runs on
    #[arg(long, value_name = "NODE", env = "FERROLB_NODE_NAME", value_parser = node_name)]
    pub(crate) node_name: String,

    /// Serve the Services of this class; without it exactly those that have none
    #[arg(long, value_name = "CLASS", env = "FERROLB_LOAD_BALANCER_CLASS", value_parser = class)]
    pub(crate) load_balancer_class: Option<String>,

    /// Where the snapshot is kept that a restart announces from
    #[arg(long, value_name = "DIR", env = "FERROLB_STATE_DIR", default_value = "/run/ferrolb")]
    pub(crate) state_dir: PathBuf,

    /// Interfaces that are not used unless an advertisement names them; '*' at the end stands for any rest
    #[arg(long, value_name = "NAME,...", env = "FERROLB_EXCLUDE_INTERFACES",
          value_delimiter = ',', default_values_t = NamePattern::defaults())]
    pub(crate) exclude_interfaces: Vec<NamePattern>,

    /// Seconds between two refreshes of an announcement; 0 means never
    #[arg(long, value_name = "SECONDS", env = "FERROLB_REFRESH_INTERVAL", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(0..=LONGEST_REFRESH))]
    refresh_interval: u64,

    /// Do layer 2 alone: no BGP, no BFD, and nothing of either is read from the API server
    #[arg(long, env = "FERROLB_LAYER2_ONLY")]
    pub(crate) layer2_only: bool,

    /// TCP port on which routers may connect, where an AnnouncementPolicy lets them; one below 1024 needs
    /// root and CAP_NET_BIND_SERVICE
    #[arg(long, value_name = "PORT", env = "FERROLB_BGP_PORT", default_value_t = ferrolb_bgp::settings::PORT,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) bgp_port: u16,

    /// UDP port on which the speakers watch each other, the same on every node
    #[arg(long, value_name = "PORT", env = "FERROLB_LIVENESS_PORT", default_value_t = ferrolb_liveness::PORT,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) liveness_port: u16,

    /// Where this node's kube-proxy serves its metrics, which say how far it is; empty to announce without asking it
    #[arg(long, value_name = "IP:PORT", env = "FERROLB_KUBE_PROXY_METRICS", default_value = "127.0.0.1:10249",
          value_parser = kube_proxy)]
    pub(crate) kube_proxy_metrics: KubeProxy,
}

/// What the program can be asked for by a word instead of announcing addresses.
#[derive(Debug, Parser)]
#[command(name = "ferrolb-speaker", version)]
pub(crate) enum Errand {
    /// Gives the state directory, and a speaker's files in it, to the user that the speaker runs as
    ///
    /// For root with CAP_CHOWN, before the speaker starts. Touches nothing else and follows no link. Exits with 0 also when
    /// the directory stays as it was, with the reason in the log: a speaker without memory is better than none.
    OwnStateDir(OwnStateDir),
}

impl Errand {
    /// Whether this is the word for one.
    pub(crate) fn is(word: &OsStr) -> bool {
        word == "own-state-dir"
    }
}

/// Which directory gets which owner.
#[derive(Debug, clap::Args)]
pub(crate) struct OwnStateDir {
    /// Flags that every program has; those of the log count.
    #[command(flatten)]
    pub(crate) common: CommonArgs,

    /// The user's number
    #[arg(long, value_name = "UID", value_parser = clap::value_parser!(u32).range(1..i64::from(u32::MAX)))]
    pub(crate) uid: u32,

    /// The directory, as in the speaker's own flag
    #[arg(long, value_name = "DIR", env = "FERROLB_STATE_DIR", default_value = "/run/ferrolb")]
    pub(crate) state_dir: PathBuf,
}

/// Where kube-proxy is asked, if it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KubeProxy(pub(crate) Option<SocketAddr>);

impl Args {
    /// Time between two refreshes of an announcement; zero means never.
    pub(crate) fn refresh(&self) -> Duration {
        Duration::from_secs(self.refresh_interval)
    }
}

fn kube_proxy(text: &str) -> Result<KubeProxy, String> {
    if text.is_empty() {
        return Ok(KubeProxy(None));
    }
    let target = text.parse().map(Some).map(KubeProxy);
    target.map_err(|_| "write an IP address and a port, as in 127.0.0.1:10249 or [::1]:10249, or nothing".to_owned())
}

/// A name that the API server would accept for a Node (RFC 1123 subdomain).
fn node_name(text: &str) -> Result<String, String> {
    if is_subdomain(text) {
        Ok(text.to_owned())
    } else {
        Err("a Node's name is up to 253 lower-case letters, digits, '-' and '.', as in `kubectl get nodes`".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["ferrolb-speaker"].iter().chain(args))
    }

    #[test]
    fn defaults() {
        let args = read(&["--node-name=node-a"]).unwrap();
        assert_eq!(args.state_dir, PathBuf::from("/run/ferrolb"));
        assert_eq!(args.refresh(), Duration::from_secs(60));
        assert_eq!((args.load_balancer_class, args.liveness_port), (None, 7947));
        assert!(!args.layer2_only && read(&["--node-name=node-a", "--layer2-only"]).unwrap().layer2_only);
        let proxy = SocketAddr::from(([127, 0, 0, 1], 10249));
        assert_eq!(args.kube_proxy_metrics, KubeProxy(Some(proxy)));
        let off = read(&["--node-name=node-a", "--kube-proxy-metrics="]).unwrap();
        assert_eq!(off.kube_proxy_metrics, KubeProxy(None));
        assert!(args.exclude_interfaces.iter().any(|p| p.matches("veth1234")));
        assert!(!args.exclude_interfaces.iter().any(|p| p.matches("eth0")));
    }

    #[test]
    fn what_is_refused_is_named() {
        for (args, says) in [
            (vec![], "--node-name <NODE>"),
            (vec!["--node-name="], "'--node-name <NODE>'"),
            (vec!["--node-name=../etc/passwd"], "kubectl get nodes"),
            (vec!["--node-name=Node-A"], "kubectl get nodes"),
            (vec!["--node-name=a", "--refresh-interval=-1"], "-1"),
            (vec!["--node-name=a", "--liveness-port=0"], "--liveness-port"),
            (vec!["--node-name=a", "--bgp-port=0"], "--bgp-port"),
            (vec!["--node-name=a", "--refresh-interval=86401"], "86400"),
            (vec!["--node-name=a", "--kube-proxy-metrics=10249"], "[::1]:10249"),
            (vec!["--node-name=a", "--load-balancer-class="], "--load-balancer-class"),
            (
                vec!["--node-name=a", "--load-balancer-class=a b"],
                "example.com/internal",
            ),
        ] {
            let report = read(&args).unwrap_err().to_string();
            assert!(report.contains(says), "{args:?}: {report}");
        }
    }

    #[test]
    fn a_state_directory_is_given_to_a_user_that_is_not_root() {
        let read = |args: &[&str]| Errand::try_parse_from(["ferrolb-speaker", "own-state-dir"].iter().chain(args));
        assert!(Errand::is(OsStr::new("own-state-dir")) && !Errand::is(OsStr::new("--uid=1")));
        let Errand::OwnStateDir(args) = read(&["--uid=65534", "--log-format=json"]).unwrap();
        assert_eq!((args.uid, args.state_dir), (65534, PathBuf::from("/run/ferrolb")));
        for (args, says) in [
            (vec![], "--uid <UID>"),
            (vec!["--uid=0"], "--uid <UID>"),
            (vec!["--uid=4294967295"], "--uid <UID>"),
            (vec!["--uid=nobody"], "--uid <UID>"),
        ] {
            let report = read(&args).unwrap_err().to_string();
            assert!(report.contains(says), "{args:?}: {report}");
        }
    }

    #[test]
    fn interfaces_are_a_list() {
        let args = read(&["--node-name=a", "--exclude-interfaces=wg*,eth1"]).unwrap();
        let excluded = |name| args.exclude_interfaces.iter().any(|p| p.matches(name));
        assert_eq!(
            ["wg0", "eth1", "eth10", "veth0"].map(excluded),
            [true, true, false, false]
        );
    }
}
