//! An HTTP/1.1 server connection, as small as it can be: keep-alive, no request bodies beyond what it skips.
//!
//! - `GET /healthz`: 200, or 503 until the ready time, after `/readiness/off` and never because of draining (that is
//!   the endpoint controller's knowledge);
//! - `/readiness/on`, `/readiness/off`: switch the above;
//! - `/slow?ms=N`: answers after N milliseconds;
//! - anything else: 200 and lines of `key: value` that say who answered what to whom.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::serve::Pod;

/// The parts of a request that are answered to.
struct Request {
    method: String,
    target: String,
    host: String,
    keep_alive: bool,
}

/// Serves one connection to its end.
pub(crate) fn serve(stream: &TcpStream, pod: &Pod) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        pod.in_flight.fetch_add(1, Ordering::Relaxed);
        let (status, body) = answer(&request, stream, pod);
        let keep_alive = request.keep_alive && !pod.draining.load(Ordering::Relaxed);
        let sent = respond(stream, status, &body, keep_alive, request.method == "HEAD");
        pod.in_flight.fetch_sub(1, Ordering::Relaxed);
        if sent.is_err() || !keep_alive {
            return;
        }
    }
}

/// The next request; `None` at the end of the connection or when it is not HTTP.
fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace();
    let (method, target, version) = (words.next()?.to_owned(), words.next()?.to_owned(), words.next()?);
    let mut request = Request {
        method,
        target,
        host: String::new(),
        keep_alive: version == "HTTP/1.1",
    };
    let mut body = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|length| *length > 0)?;
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "host" => request.host = value.to_owned(),
            "connection" => request.keep_alive = !value.eq_ignore_ascii_case("close"),
            "content-length" => body = value.parse().ok()?,
            _ => {}
        }
    }
    std::io::copy(&mut reader.take(body), &mut std::io::sink()).ok()?;
    Some(request)
}

fn answer(request: &Request, stream: &TcpStream, pod: &Pod) -> (&'static str, String) {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    match path {
        "/healthz" => {
            let ready = Instant::now() >= pod.ready_at && !pod.switched_off.load(Ordering::Relaxed);
            return if ready {
                ("200 OK", "ok\n".into())
            } else {
                ("503 Service Unavailable", "not ready\n".into())
            };
        }
        "/readiness/on" => pod.switched_off.store(false, Ordering::Relaxed),
        "/readiness/off" => pod.switched_off.store(true, Ordering::Relaxed),
        "/slow" => {
            let wanted = query.split('&').find_map(|pair| pair.strip_prefix("ms=")?.parse().ok());
            thread::sleep(Duration::from_millis(wanted.unwrap_or(1000)));
        }
        _ => {}
    }
    let address = |address: std::io::Result<std::net::SocketAddr>| {
        address.map_or_else(
            |error| error.to_string(),
            |it| format!("{} port {}", it.ip().to_canonical(), it.port()),
        )
    };
    let body = format!(
        "pod: {}\nnode: {}\nclient: {}\nserver: {}\nhost: {}\nmethod: {}\npath: {}\n",
        pod.name,
        pod.node,
        address(stream.peer_addr()),
        address(stream.local_addr()),
        request.host,
        request.method,
        request.target,
    );
    ("200 OK", body)
}

fn respond(mut stream: &TcpStream, status: &str, body: &str, keep_alive: bool, head: bool) -> std::io::Result<()> {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let mut message = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        body.len(),
    );
    if !head {
        message += body;
    }
    stream.write_all(message.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_follow_each_other_on_one_connection() {
        let text = "POST /a?b=c HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 3\r\n\r\nabc\
                    GET / HTTP/1.1\r\nhost: x\r\nConnection: close\r\n\r\n";
        let mut reader = text.as_bytes();
        let first = read(&mut reader).unwrap();
        assert_eq!(
            (first.method.as_str(), first.target.as_str(), first.host.as_str()),
            ("POST", "/a?b=c", "shop.example")
        );
        assert!(first.keep_alive);
        let second = read(&mut reader).unwrap();
        assert_eq!((second.target.as_str(), second.keep_alive), ("/", false));
        assert!(read(&mut reader).is_none());
    }

    #[test]
    fn what_is_not_http_ends_the_connection() {
        assert!(read(&mut "hello\r\n".as_bytes()).is_none());
        assert!(read(&mut "GET / HTTP/1.1\r\nHost: cut".as_bytes()).is_none());
    }
}
