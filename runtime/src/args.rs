//! The flags that both programs share, and how a command line that cannot be read is reported.
//!
//! Guarantee: a bad command line ends the process with exit code 2 and exactly one line on standard error.

use std::fmt::Display;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};

/// Where a pod finds the name of its own namespace.
const POD_NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// The namespace where FerroLB's manifests put everything.
const DEFAULT_NAMESPACE: &str = "ferrolb-system";

/// Flags of every program; flatten them into the program's own.
#[derive(Args, Clone, Debug)]
pub struct CommonArgs {
    /// Kubeconfig file; without it $KUBECONFIG, then the pod's own service account
    #[arg(long, value_name = "FILE", env = "FERROLB_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// Namespace of the metallb.io objects; without it the pod's own, else ferrolb-system
    #[arg(long = "namespace", value_name = "NS", env = "FERROLB_NAMESPACE", value_parser = dns_label)]
    namespace: Option<String>,

    /// Where /metrics, /healthz, /readyz and /version are served
    #[arg(long, value_name = "ADDR:PORT", env = "FERROLB_ADMIN_ADDR",
          default_value_t = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 7472))]
    pub admin_addr: SocketAddr,

    /// What is logged
    #[arg(long, value_name = "LEVEL", env = "FERROLB_LOG_LEVEL", value_enum, default_value = "info")]
    pub log_level: LogLevel,

    /// How a log line is written
    #[arg(long, value_name = "FORMAT", env = "FERROLB_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// The least important line that is still logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What needs a person.
    Error,
    /// What may need one.
    Warn,
    /// What happened.
    Info,
    /// Why it happened.
    Debug,
    /// Everything.
    Trace,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl CommonArgs {
    /// The namespace of the `metallb.io` objects.
    pub fn namespace(&self) -> String {
        self.namespace.clone().unwrap_or_else(|| {
            fs::read_to_string(POD_NAMESPACE_FILE)
                .ok()
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
                .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
        })
    }
}

/// Reads the command line. `--help` and `--version` print and exit 0; anything wrong prints one line and exits 2.
pub fn parse<T: Parser>() -> T {
    T::try_parse().unwrap_or_else(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        report::<T>(&one_line(&error.to_string()))
    })
}

/// Ends the process because a value on the command line turned out to be unusable: one line, exit code 2.
pub fn refuse<T: Parser>(error: impl Display) -> ! {
    report::<T>(&format!("error: {}", one_line(&error.to_string())))
}

fn report<T: Parser>(line: &str) -> ! {
    eprintln!("{}: {line}", T::command().get_name());
    std::process::exit(2)
}

/// The first paragraph of clap's report, which says everything, on one line.
fn one_line(report: &str) -> String {
    report
        .lines()
        .take_while(|line| !line.trim().is_empty())
        .flat_map(str::split_whitespace)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A class, such as `loadBalancerClass`, as the API server accepts it: a qualified name, `[prefix/]name`.
///
/// # Errors
/// Says what a class looks like.
pub fn class(text: &str) -> Result<String, String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let fits = (1..=63).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric());
    if fits && prefix.is_none_or(is_subdomain) {
        Ok(text.to_owned())
    } else {
        Err("a class looks like example.com/internal; leave the flag out to serve what has none".to_owned())
    }
}

/// Whether the API server would accept it for the name of most objects (RFC 1123 subdomain).
pub fn is_subdomain(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |part: &str| {
        part.starts_with(alphanumeric)
            && part.ends_with(alphanumeric)
            && part.chars().all(|c| alphanumeric(c) || c == '-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// A name that the API server would accept for a namespace (RFC 1123 label).
fn dns_label(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = (1..=63).contains(&text.len())
        && text.chars().all(|c| inner(c) || c == '-')
        && text.starts_with(inner)
        && text.ends_with(inner);
    if fits {
        Ok(text.to_owned())
    } else {
        Err("a namespace is 1 to 63 lower-case letters, digits and '-', with a letter or digit at both ends".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "ferrolb-test", version)]
    struct Cli {
        #[command(flatten)]
        common: CommonArgs,
        #[arg(long)]
        needed: String,
    }

    fn report(args: &[&str]) -> String {
        let all = ["ferrolb-test"].iter().chain(args).copied().collect::<Vec<_>>();
        one_line(&Cli::try_parse_from(all).unwrap_err().to_string())
    }

    #[test]
    fn a_bad_command_line_is_one_line() {
        for (args, says) in [
            (vec!["--needed=x", "--frobnicate"], "unexpected argument '--frobnicate'"),
            (vec![], "--needed <NEEDED>"),
            (vec!["--needed=x", "--log-format=xml"], "possible values: text, json"),
            (vec!["--needed=x", "--log-level=loud"], "'loud'"),
            (vec!["--needed=x", "--admin-addr=7472"], "'7472'"),
            (vec!["--needed=x", "--namespace=Not_One"], "lower-case letters"),
        ] {
            let line = report(&args);
            assert!(line.starts_with("error: "), "{line}");
            assert!(line.contains(says), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn classes_are_qualified_names() {
        for good in ["internal", "example.com/internal", "a/B_c.d-9", "1"] {
            assert_eq!(class(good), Ok(good.to_owned()));
        }
        let long = format!("example.com/{}", "a".repeat(64));
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "-a",
            "a_",
            "Example.com/a",
            "a..b/c",
            "with space",
            &long,
        ] {
            assert!(class(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn defaults() {
        let cli = Cli::try_parse_from(["ferrolb-test", "--needed=x"]).unwrap();
        assert_eq!(cli.needed, "x");
        assert_eq!(cli.common.admin_addr.to_string(), "[::]:7472");
        assert_eq!(cli.common.log_level, LogLevel::Info);
        assert_eq!(cli.common.log_format, LogFormat::Text);
    }
}
