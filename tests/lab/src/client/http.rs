//! One HTTP/1.1 request over one connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
    /// From before the connection was opened to the last byte.
    pub elapsed: Duration,
}

impl Response {
    /// The value of the line `key: value` in the body: what the lab's pods answer with (`pod`, `node`, `client`,
    /// `server`, `host`, `method`, `path`).
    pub fn line(&self, key: &str) -> Option<&str> {
        self.body
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
    }
}

/// Fetches `path` from `target` within `timeout` altogether.
pub(super) fn get(target: SocketAddr, host: &str, path: &str, timeout: Duration) -> Result<Response> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&target, timeout).context("connect")?;
    stream.set_write_timeout(Some(timeout))?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ferrolb-lab\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).context("send")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            bail!("no whole answer after {timeout:?}, {} bytes so far", answer.len());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("receive"),
        }
        if is_whole(&answer) {
            break;
        }
    }
    let (status, body) = parse(&answer)?;
    Ok(Response {
        status,
        body,
        elapsed: start.elapsed(),
    })
}

/// Head and body, when the head is there.
fn split(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((std::str::from_utf8(&answer[..end]).ok()?, &answer[end + 4..]))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    headers
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

fn content_length(head: &str) -> Option<usize> {
    header(head, "content-length")?.parse().ok()
}

fn is_whole(answer: &[u8]) -> bool {
    split(answer).is_some_and(|(head, body)| content_length(head).is_some_and(|length| body.len() >= length))
}

fn parse(answer: &[u8]) -> Result<(u16, String)> {
    let (head, body) = split(answer).context("the connection ended before the answer's head")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("no HTTP answer: {:?}", head.lines().next().unwrap_or_default()))?;
    let body = if header(head, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        unchunk(body).context("a chunked body that is cut short")?
    } else {
        let length = content_length(head).unwrap_or(body.len());
        body.get(..length).context("a body that is cut short")?.to_vec()
    };
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Joins the chunks of a body (RFC 9112 section 7.1).
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 2 + size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_by_length_chunks_or_end() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Some((200, "abc"))),
            ("HTTP/1.1 502 Bad Gateway\r\n\r\nrest", Some((502, "rest"))),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n",
                Some((200, "abcde")),
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", None),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc", None),
            ("HTTP/1.1 200 OK\r\n", None),
            ("hello", None),
        ] {
            let found = parse(answer.as_bytes()).ok();
            assert_eq!(
                found,
                expected.map(|(status, body)| (status, body.to_owned())),
                "{answer}"
            );
        }
    }

    #[test]
    fn lines_of_the_labs_pods_are_found() {
        let body = "pod: web-1\nclient: 10.0.0.1 port 5\npath: /a: b\n".to_owned();
        let response = Response {
            status: 200,
            body,
            elapsed: Duration::ZERO,
        };
        assert_eq!(response.line("pod"), Some("web-1"));
        assert_eq!(response.line("path"), Some("/a: b"));
        assert_eq!(response.line("po"), None);
    }
}
