//! The application of the lab's pods: HTTP, TCP echo and UDP echo servers that say which pod answered.
//!
//! On SIGTERM it goes on serving for a lame-duck time, so that load balancers have heard of its end before it comes,
//! asks HTTP clients to close, then ends as soon as no request is under way (at most five seconds later).

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::{http, udp};

/// Requests get this long to finish after the lame-duck time.
const FINISH: Duration = Duration::from_secs(5);

/// What to serve.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    http: Vec<u16>,
    tcp: Vec<u16>,
    udp: Vec<u16>,
    name: Option<String>,
    ready_after: Duration,
    lame_duck: Duration,
}

impl Options {
    /// Reads the arguments that follow `mode`.
    pub(crate) fn parse(mode: &str, mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            http: Vec::new(),
            tcp: Vec::new(),
            udp: Vec::new(),
            name: None,
            ready_after: Duration::ZERO,
            lame_duck: Duration::from_secs(2),
        };
        while let Some(flag) = args.next() {
            let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
            let number = |of: &str| {
                of.parse()
                    .map_err(|_| format!("{flag} {value}: not a number that fits"))
            };
            match (flag.as_str(), mode) {
                ("--http", "web") | ("--port", "web") => options.http.push(number(&value)?),
                ("--tcp", "web") | ("--port", "tcp-echo") => options.tcp.push(number(&value)?),
                ("--udp", "web") | ("--port", "udp-echo") => options.udp.push(number(&value)?),
                ("--name", _) => options.name = Some(value),
                ("--ready-after", "web") => options.ready_after = Duration::from_millis(number(&value)?.into()),
                ("--lame-duck", _) => options.lame_duck = Duration::from_millis(number(&value)?.into()),
                _ => return Err(format!("unknown flag {flag} for {mode}")),
            }
        }
        if options.http.is_empty() && options.tcp.is_empty() && options.udp.is_empty() {
            return Err(format!("{mode}: no port to serve on"));
        }
        Ok(options)
    }
}

/// What the servers share.
pub(crate) struct Pod {
    /// The pod's name: the flag, or else the host name.
    pub(crate) name: String,
    /// The node's name, from the environment.
    pub(crate) node: String,
    /// When `/healthz` begins to say yes.
    pub(crate) ready_at: Instant,
    /// Whether `/readiness/off` was asked for.
    pub(crate) switched_off: AtomicBool,
    /// Whether the end has been announced.
    pub(crate) draining: AtomicBool,
    /// HTTP requests under way.
    pub(crate) in_flight: AtomicUsize,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let end: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    // Blocked before the first thread starts, so that all inherit it and only the wait below sees them.
    end.thread_block().map_err(|error| format!("block signals: {error}"))?;
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let pod = Arc::new(Pod {
        name: options
            .name
            .clone()
            .or_else(|| variable("HOSTNAME"))
            .unwrap_or_else(|| "unnamed".into()),
        node: variable("NODE_NAME").unwrap_or_else(|| "unknown".into()),
        ready_at: Instant::now() + options.ready_after,
        switched_off: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        in_flight: AtomicUsize::new(0),
    });
    for port in &options.http {
        accept(*port, &pod, |stream, pod| http::serve(&stream, pod))?;
    }
    for port in &options.tcp {
        accept(*port, &pod, echo)?;
    }
    for port in &options.udp {
        let (socket, pod) = (udp::bind(*port)?, pod.clone());
        thread::spawn(move || udp::echo(&socket, &pod.name));
    }
    println!("{}: serving {options:?}", pod.name);
    let signal = end.wait().map_err(|error| format!("wait for a signal: {error}"))?;
    println!("{}: {signal}, draining", pod.name);
    pod.draining.store(true, Ordering::Relaxed);
    thread::sleep(options.lame_duck);
    let deadline = Instant::now() + FINISH;
    while pod.in_flight.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(ExitCode::SUCCESS)
}

/// Accepts connections on all addresses of both families and gives each a thread.
fn accept(port: u16, pod: &Arc<Pod>, serve: fn(TcpStream, &Pod)) -> Result<(), String> {
    // The standard library leaves IPV6_V6ONLY alone, and Linux has it off: the socket takes IPv4 too.
    let listener =
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).map_err(|error| format!("listen on port {port}: {error}"))?;
    let pod = pod.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => {
                    let pod = pod.clone();
                    thread::spawn(move || serve(stream, &pod));
                }
                Err(error) => {
                    eprintln!("accept on port {port}: {error}");
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
    });
    Ok(())
}

/// Sends back what comes, after the pod's name and a space at the beginning of the connection.
fn echo(mut stream: TcpStream, pod: &Pod) {
    if write!(stream, "{} ", pod.name).is_err() {
        return;
    }
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(mode: &str, line: &str) -> Result<Options, String> {
        Options::parse(mode, line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn one_process_can_serve_several_protocols() {
        let options = parse("web", "--http 8080 --udp 5353 --tcp 9000 --ready-after 300").unwrap();
        assert_eq!(
            (options.http, options.tcp, options.udp),
            (vec![8080], vec![9000], vec![5353])
        );
        assert_eq!(options.ready_after, Duration::from_millis(300));
    }

    #[test]
    fn the_short_modes_take_one_port() {
        assert_eq!(parse("udp-echo", "--port 53").unwrap().udp, [53]);
        assert_eq!(parse("tcp-echo", "--port 53").unwrap().tcp, [53]);
        assert!(parse("udp-echo", "--http 53").is_err());
    }

    #[test]
    fn bad_arguments_are_named() {
        assert!(parse("web", "").unwrap_err().contains("no port"));
        assert!(parse("web", "--http 99999").unwrap_err().contains("99999"));
        assert!(parse("web", "--http").unwrap_err().contains("--http"));
    }
}
