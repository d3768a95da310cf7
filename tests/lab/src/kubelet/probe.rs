//! Probes: what is asked, how often, and how many answers in a row count.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPHeader, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::environment::Environment;

/// A program gets so long to start before a probe that fails counts: the real kubelet would ask again a period later,
/// and every scenario would wait for it.
const STARTING: Duration = Duration::from_secs(1);
const EAGER: Duration = Duration::from_millis(30);

/// Counts answers in a row; says something exactly when a run of them reaches its threshold.
#[derive(Debug)]
struct Counter {
    success_threshold: i32,
    failure_threshold: i32,
    last: Option<bool>,
    run: i32,
}

impl Counter {
    fn new(probe: &Probe) -> Self {
        Self {
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
            last: None,
            run: 0,
        }
    }

    fn observe(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.last = Some(success);
        let threshold = if success {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        (self.run == threshold).then_some(success)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Check {
    Http {
        address: IpAddr,
        port: u16,
        request: String,
    },
    Tcp {
        address: IpAddr,
        port: u16,
    },
    Exec(Vec<String>),
}

/// A probe that is being run.
pub(super) struct Prober {
    check: Check,
    counter: Counter,
    timeout: Duration,
    period: Duration,
    /// Until the next question.
    pause: Duration,
    /// When the first question was answered or lost.
    began: Option<Instant>,
}

impl Prober {
    /// The probe of a container whose pod has the address `pod`.
    ///
    /// # Errors
    /// Says what of the probe is not supported here.
    pub(super) fn new(probe: &Probe, container: &Container, pod: IpAddr) -> Result<Self, String> {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(
                value
                    .and_then(|value| u64::try_from(value).ok())
                    .filter(|s| *s > 0)
                    .unwrap_or(default),
            )
        };
        Ok(Self {
            check: check(probe, container, pod)?,
            counter: Counter::new(probe),
            timeout: seconds(probe.timeout_seconds, 1),
            period: seconds(probe.period_seconds, 10),
            pause: seconds(probe.initial_delay_seconds, 0),
            began: None,
        })
    }

    /// Asks until the answers reach a threshold. `process` is the outer half of the container.
    ///
    /// Questions that fail while the program starts are asked again at once and do not count.
    pub(super) async fn next(&mut self, process: i32, env: &Environment) -> bool {
        loop {
            sleep(self.pause).await;
            let answer = timeout(self.timeout, self.check.ask(process, env))
                .await
                .unwrap_or(false);
            let starting = self.began.get_or_insert_with(Instant::now).elapsed() < STARTING;
            if starting && !answer && self.counter.last.is_none() {
                self.pause = EAGER;
                continue;
            }
            self.pause = self.period;
            if let Some(verdict) = self.counter.observe(answer) {
                return verdict;
            }
        }
    }
}

fn check(probe: &Probe, container: &Container, pod: IpAddr) -> Result<Check, String> {
    let host = |host: &Option<String>| match host {
        Some(host) => host.parse().map_err(|_| format!("probe host {host:?} is no address")),
        None => Ok(pod),
    };
    if let Some(http) = &probe.http_get {
        if http.scheme.as_deref().is_some_and(|scheme| scheme != "HTTP") {
            return Err("only HTTP probes are supported here".into());
        }
        let (address, port) = (host(&http.host)?, port(&http.port, container)?);
        let path = http.path.as_deref().unwrap_or("/");
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        return Ok(Check::Http {
            address,
            port,
            request: request(&path, address, port, http.http_headers.as_deref()),
        });
    }
    if let Some(tcp) = &probe.tcp_socket {
        return Ok(Check::Tcp {
            address: host(&tcp.host)?,
            port: port(&tcp.port, container)?,
        });
    }
    match probe.exec.as_ref().and_then(|exec| exec.command.clone()) {
        Some(command) if !command.is_empty() => Ok(Check::Exec(command)),
        _ => Err("only httpGet, tcpSocket and exec probes are supported here".into()),
    }
}

fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_ref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .ok_or_else(|| format!("probe port {port:?}: no such port"))
}

fn request(path: &str, address: IpAddr, port: u16, headers: Option<&[HTTPHeader]>) -> String {
    let headers = headers.unwrap_or_default();
    let mut request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\nUser-Agent: kube-probe/lab\r\n");
    if !headers.iter().any(|header| header.name.eq_ignore_ascii_case("host")) {
        request += &format!("Host: {}\r\n", std::net::SocketAddr::from((address, port)));
    }
    for header in headers {
        request += &format!("{}: {}\r\n", header.name, header.value);
    }
    request + "\r\n"
}

impl Check {
    async fn ask(&self, process: i32, env: &Environment) -> bool {
        match self {
            Self::Tcp { address, port } => TcpStream::connect((*address, *port)).await.is_ok(),
            Self::Http { address, port, request } => http_status(*address, *port, request)
                .await
                .is_some_and(|status| (200..400).contains(&status)),
            Self::Exec(command) => exec(command, process, env).await,
        }
    }
}

async fn http_status(address: IpAddr, port: u16, request: &str) -> Option<u16> {
    let mut stream = TcpStream::connect((address, port)).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    // "HTTP/1.1 200"
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.ok()?;
    std::str::from_utf8(&start).ok()?.split_once(' ')?.1.parse().ok()
}

/// Runs `command` inside the container whose outer half is `process`; says whether it succeeds.
pub(super) async fn exec(command: &[String], process: i32, env: &Environment) -> bool {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    let Some(inner) = children.split_whitespace().next() else {
        return false;
    };
    let status = Command::new("nsenter")
        .args([
            "--target", inner, "--net", "--mount", "--pid", "--uts", "--root", "--wd", "--",
        ])
        .args(command)
        .envs(env.iter())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await;
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn probe(value: serde_json::Value) -> Probe {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn answers_count_when_a_run_of_them_reaches_the_threshold() {
        let mut counter = Counter::new(&probe(json!({ "successThreshold": 2, "failureThreshold": 3 })));
        let answers = "ssfffssffsfffff".chars().map(|answer| counter.observe(answer == 's'));
        let said: String = answers
            .map(|verdict| verdict.map_or('.', |good| if good { 'S' } else { 'F' }))
            .collect();
        assert_eq!(said, ".S..F.S.....F..");
    }

    #[test]
    fn the_defaults_are_those_of_kubernetes() {
        let container = Container::default();
        let tcp = probe(json!({ "tcpSocket": { "port": 80 } }));
        let prober = Prober::new(&tcp, &container, "10.0.0.1".parse().unwrap()).unwrap();
        assert_eq!(
            (
                prober.timeout.as_secs(),
                prober.period.as_secs(),
                prober.pause.as_secs()
            ),
            (1, 10, 0)
        );
        assert_eq!(
            (prober.counter.success_threshold, prober.counter.failure_threshold),
            (1, 3)
        );
    }

    #[test]
    fn targets_are_resolved() {
        let container: Container =
            serde_json::from_value(json!({ "name": "c", "ports": [{ "name": "http", "containerPort": 8080 }] }))
                .unwrap();
        let pod = "fd00::2".parse().unwrap();
        let made = |value| check(&probe(value), &container, pod);
        let Ok(Check::Http {
            port: 8080, request, ..
        }) = made(json!({ "httpGet": { "port": "http", "path": "ok" } }))
        else {
            panic!("an HTTP check on the named port");
        };
        assert!(request.starts_with("GET /ok HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("Host: [fd00::2]:8080\r\n"), "{request}");
        assert!(
            made(json!({ "httpGet": { "port": "nope" } }))
                .unwrap_err()
                .contains("nope")
        );
        assert!(made(json!({ "grpc": { "port": 1 } })).is_err());
    }
}
