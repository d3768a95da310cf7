//! Asks this node's kube-proxy how far it is with its rules, while something waits for it and not otherwise.
//!
//! What it says is read as it comes (`ferrolb_speaker_core::Scrape`), a line at a time. Then the health check ports of the
//! Services that wait are asked (`spec.healthCheckNodePort`), where a status is all that counts. A kube-proxy that accepts a
//! connection and says nothing in time hangs; where a connection is refused, or something else answers, there is nobody to
//! ask. Both are told to the owner task, which draws the conclusions.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ferrolb_runtime::apply::chain;
use ferrolb_speaker_core::{ProxyAnswer, Reading, Scrape};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::news::News;

/// Between two questions.
const AGAIN: Duration = Duration::from_millis(50);

/// One that has not answered by then hangs.
const TIMEOUT: Duration = Duration::from_secs(1);

/// More health check ports are not asked at a time: the others do not count then.
const AT_ONCE: usize = 64;

/// More is not read. In a process with more than kube-proxy in it the answer may be some megabytes.
const LARGEST: usize = 32 << 20;

/// The time of the core, which begins at the Unix epoch and does not follow the clock when that is set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    began: Duration,
}

impl Clock {
    /// One that begins now.
    pub(crate) fn start() -> Self {
        Clock {
            start: Instant::now(),
            began: wall(),
        }
    }

    /// The core's time at `at`.
    pub(crate) fn at(self, at: Instant) -> Duration {
        self.began + (at - self.start)
    }

    /// Now.
    pub(crate) fn now(self) -> Duration {
        self.at(Instant::now())
    }

    /// When the core's time will be `time`.
    pub(crate) fn instant(self, time: Duration) -> Instant {
        self.start + time.saturating_sub(self.began)
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The health check ports to ask besides; `None` when nothing waits.
pub(crate) type Asks = Option<BTreeSet<SocketAddr>>;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answers {
    /// When the questions were asked.
    pub(crate) at: Instant,
    /// What kube-proxy says.
    pub(crate) proxy: ProxyAnswer,
    /// Which health check ports say whether there are endpoints on this node.
    pub(crate) checks: BTreeMap<u16, bool>,
}

/// The task.
pub(crate) struct Asker {
    /// Where kube-proxy serves its metrics.
    pub(crate) target: SocketAddr,
    /// Whether something waits, and for what.
    pub(crate) asks: watch::Receiver<Asks>,
    /// To the owner task.
    pub(crate) news: mpsc::Sender<News>,
}

impl Asker {
    /// Runs until `stop` is cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let asking = async {
            while let Ok(asked) = self.asks.wait_for(Option::is_some).await.map(|asks| asks.clone()) {
                let at = Instant::now();
                let proxy = ask(self.target).await;
                let checks = match &proxy {
                    ProxyAnswer::Reading { .. } => check(asked.unwrap_or_default()).await,
                    ProxyAnswer::Silence | ProxyAnswer::Nobody(_) => BTreeMap::new(),
                };
                if self
                    .news
                    .send(News::KubeProxy(Answers { at, proxy, checks }))
                    .await
                    .is_err()
                {
                    break;
                }
                // One that is slow is asked less often. What begins to wait meanwhile is asked for at once.
                let pause = AGAIN.max(at.elapsed());
                let _ = tokio::time::timeout(pause, self.asks.wait_for(Option::is_none)).await;
            }
            // Whoever asks and listens is about to end.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = asking => {}
        }
        Ok(())
    }
}

/// Why nothing can be learned there.
#[derive(Debug, Error)]
enum NoAnswer {
    #[error("cannot connect to {target}: {source}")]
    Connect { target: SocketAddr, source: std::io::Error },
    #[error("{target} does not speak HTTP: {source}")]
    Http { target: SocketAddr, source: hyper::Error },
    #[error("{target} answers {status} when asked for {path}")]
    Status {
        target: SocketAddr,
        path: &'static str,
        status: StatusCode,
    },
    #[error("{target} has more than {LARGEST} bytes to say")]
    TooMuch { target: SocketAddr },
}

async fn ask(target: SocketAddr) -> ProxyAnswer {
    let (wall, at) = (wall(), Instant::now());
    match tokio::time::timeout(TIMEOUT, read(target)).await {
        Ok(Ok(reading)) => {
            let took = at.elapsed();
            ProxyAnswer::Reading { reading, wall, took }
        }
        Ok(Err(error)) => ProxyAnswer::Nobody(chain(&error)),
        Err(_) => ProxyAnswer::Silence,
    }
}

/// Which of `targets` say whether there are endpoints, by port.
async fn check(targets: BTreeSet<SocketAddr>) -> BTreeMap<u16, bool> {
    let check = |target: SocketAddr| async move {
        let mut nothing = |_: &[u8]| {};
        let answer = tokio::time::timeout(TIMEOUT, get(target, "/healthz", &mut nothing)).await;
        let serves = match answer.ok()?.err() {
            None => true,
            Some(NoAnswer::Status { status, .. }) if status == StatusCode::SERVICE_UNAVAILABLE => false,
            Some(_) => return None,
        };
        Some((target.port(), serves))
    };
    let answers = futures::future::join_all(targets.into_iter().take(AT_ONCE).map(check)).await;
    answers.into_iter().flatten().collect()
}

async fn read(target: SocketAddr) -> Result<Reading, NoAnswer> {
    let mut scrape = Scrape::default();
    get(target, "/metrics", &mut |piece| scrape.feed(piece)).await?;
    Ok(scrape.end())
}

/// Gives the body of an answer, whose status is 200, to `take`, in pieces.
async fn get(target: SocketAddr, path: &'static str, take: &mut impl FnMut(&[u8])) -> Result<(), NoAnswer> {
    let stream = TcpStream::connect(target).await;
    let stream = stream.map_err(|source| NoAnswer::Connect { target, source })?;
    let http = |source| NoAnswer::Http { target, source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let exchange = async move {
        let request = Request::get(path)
            .header(header::HOST, target.to_string())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new());
        // The parts are constants and an address.
        let request = request.unwrap_or_default();
        let response = sender.send_request(request).await.map_err(http)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(NoAnswer::Status { target, path, status });
        }
        let mut body = response.into_body();
        let mut size = 0;
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame.map_err(http)?.into_data() else {
                continue;
            };
            size += piece.len();
            if size > LARGEST {
                return Err(NoAnswer::TooMuch { target });
            }
            take(&piece);
        }
        Ok(())
    };
    // The connection ends with the exchange, and its errors are the exchange's.
    let (taken, _) = futures::future::join(exchange, connection).await;
    taken
}

#[cfg(test)]
mod tests;
