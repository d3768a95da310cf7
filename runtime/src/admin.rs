//! The admin server: `/metrics`, `/healthz`, `/readyz` and `/version`. Read-only, and never in the way of the work.

use std::io;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde::Serialize;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::readiness::{Heartbeat, Readiness};

/// The media type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the server tells about.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Name and version of the program.
    pub version: Version,
    /// Everything that is measured.
    pub metrics: Arc<Registry>,
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/healthz`.
    pub heartbeat: Heartbeat,
}

/// What `/version` says.
#[derive(Clone, Debug, Serialize)]
pub struct Version {
    /// The program.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

/// The server cannot run.
#[derive(Debug, Error)]
pub enum AdminError {
    /// The address cannot be listened on.
    #[error("--admin-addr {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Listens on `addr`; `[::]` falls back to `0.0.0.0` on a machine without IPv6.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener, AdminError> {
    let bound = match TcpListener::bind(addr).await {
        Err(error) if addr.ip().is_unspecified() && addr.is_ipv6() && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), addr.port())).await
        }
        other => other,
    };
    bound.map_err(|source| AdminError::Bind { addr, source })
}

/// Listens on by the socket of another process.
pub fn resume(listener: OwnedFd) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(listener);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves until `stop` is cancelled.
pub async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/version", get(version))
        .with_state(admin);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &admin.metrics) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State(admin): State<Admin>) -> Response {
    match admin.heartbeat.alive() {
        Ok(()) => "ok\n".into_response(),
        Err(silent) => {
            let text = format!("the owner task has not moved for {} s\n", silent.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let warnings = admin.readiness.troubles().warnings;
    let warnings = warnings.iter().map(|line| format!("warning: {line}\n"));
    let missing = admin.readiness.missing();
    if missing.is_empty() {
        return iter::once("ok\n".to_owned())
            .chain(warnings)
            .collect::<String>()
            .into_response();
    }
    let lines = missing.iter().map(|(name, why)| format!("{name}: {why}\n"));
    (
        StatusCode::SERVICE_UNAVAILABLE,
        lines.chain(warnings).collect::<String>(),
    )
        .into_response()
}

async fn version(State(admin): State<Admin>) -> Response {
    match serde_json::to_string(&admin.version) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn ask(addr: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_what_it_is_asked() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let readiness = Readiness::default();
        let check = readiness.check("services", "list services: forbidden");
        let admin = Admin {
            version: Version {
                name: "ferrolb-test",
                version: "1.2.3",
            },
            metrics: Arc::default(),
            readiness,
            heartbeat: Heartbeat::new(Duration::from_secs(10)),
        };
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, admin, stop.clone()));

        assert!(ask(addr, "/healthz").await.starts_with("HTTP/1.1 200"));
        let unready = ask(addr, "/readyz").await;
        assert!(unready.starts_with("HTTP/1.1 503"), "{unready}");
        assert!(unready.ends_with("services: list services: forbidden\n"), "{unready}");
        check.ready();
        assert!(ask(addr, "/readyz").await.starts_with("HTTP/1.1 200"));
        check.warn("too many");
        let warned = ask(addr, "/readyz").await;
        assert!(warned.starts_with("HTTP/1.1 200"), "{warned}");
        assert!(warned.ends_with("ok\nwarning: services: too many\n"), "{warned}");
        assert!(
            ask(addr, "/version")
                .await
                .ends_with(r#"{"name":"ferrolb-test","version":"1.2.3"}"#)
        );
        let metrics = ask(addr, "/metrics").await;
        assert!(metrics.contains("application/openmetrics-text"), "{metrics}");
        assert!(metrics.ends_with("# EOF\n"), "{metrics}");

        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
