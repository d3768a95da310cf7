//! Asks this node's kube-proxy how far it is with its rules, while something waits for it and not otherwise.
//!
//! What it says is read as it comes (`ferrolb_speaker_core::Scrape`), a line at a time. One that accepts a connection and
//! says nothing in time hangs; where a connection is refused, or something else answers, there is nobody to ask. Both are
//! told to the owner task, which draws the conclusions.

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

/// The task.
pub(crate) struct Asker {
    /// Where kube-proxy serves its metrics.
    pub(crate) target: SocketAddr,
    /// Whether something waits.
    pub(crate) asks: watch::Receiver<bool>,
    /// To the owner task.
    pub(crate) news: mpsc::Sender<News>,
}

impl Asker {
    /// Runs until `stop` is cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let asking = async {
            while self.asks.wait_for(|asks| *asks).await.is_ok() {
                let at = Instant::now();
                let answer = ask(self.target).await;
                if self.news.send(News::KubeProxy(answer, at)).await.is_err() {
                    break;
                }
                // What begins to wait meanwhile is asked for at once.
                let _ = tokio::time::timeout(AGAIN, self.asks.wait_for(|asks| !*asks)).await;
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
    #[error("{target} answers {status} when asked for /metrics")]
    Status { target: SocketAddr, status: StatusCode },
    #[error("{target} has more than {LARGEST} bytes of metrics")]
    TooMuch { target: SocketAddr },
}

async fn ask(target: SocketAddr) -> ProxyAnswer {
    let wall = wall();
    match tokio::time::timeout(TIMEOUT, read(target)).await {
        Ok(Ok(reading)) => ProxyAnswer::Reading { reading, wall },
        Ok(Err(error)) => ProxyAnswer::Nobody(chain(&error)),
        Err(_) => ProxyAnswer::Silence,
    }
}

async fn read(target: SocketAddr) -> Result<Reading, NoAnswer> {
    let stream = TcpStream::connect(target).await;
    let stream = stream.map_err(|source| NoAnswer::Connect { target, source })?;
    let http = |source| NoAnswer::Http { target, source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let exchange = async move {
        let request = Request::get("/metrics")
            .header(header::HOST, target.to_string())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new());
        // The parts are constants and an address.
        let request = request.unwrap_or_default();
        let response = sender.send_request(request).await.map_err(http)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(NoAnswer::Status { target, status });
        }
        let mut body = response.into_body();
        let (mut scrape, mut size) = (Scrape::default(), 0);
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame.map_err(http)?.into_data() else {
                continue;
            };
            size += piece.len();
            if size > LARGEST {
                return Err(NoAnswer::TooMuch { target });
            }
            scrape.feed(&piece);
        }
        Ok(scrape.end())
    };
    // The connection ends with the exchange, and its errors are the exchange's.
    let (reading, _) = futures::future::join(exchange, connection).await;
    reading
}

#[cfg(test)]
mod tests;
