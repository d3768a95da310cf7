//! One plain HTTP request from inside a namespace, for health checks and metrics.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use super::Namespace;

/// How long to wait for a connection, and for each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Fetches `path` from `address` as a host with the network of `namespace` would; returns the status code and the body.
///
/// It blocks; in async code use `spawn_blocking`.
///
/// # Errors
/// When there is no connection or no HTTP answer.
pub fn http_get(namespace: &Namespace, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = namespace
        .run(|| TcpStream::connect_timeout(&address, PATIENCE))?
        .with_context(|| format!("connect to {address} from {}", namespace.name()))?;
    stream.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
    // HTTP/1.0: the server closes at the end, and sends no chunks.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: */*\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .with_context(|| format!("write to {address}"))?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("read from {address}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("no HTTP answer from {address}"))?;
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    Ok((
        status.with_context(|| format!("no status in {head:?}"))?,
        body.to_owned(),
    ))
}
