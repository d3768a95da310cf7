//! A router that the bench plays itself: it takes every session, and notes when it hears of which address.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrolb_lab::net::Namespace;

use super::ASN;
use super::speech::{self, KEEPALIVE, message};

/// What it has heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Each address that is announced, or was, on any session; whether it is, and since when.
    pub(super) addresses: BTreeMap<Ipv4Addr, (bool, Instant)>,
    /// Sessions that began.
    pub(super) sessions: usize,
    /// UPDATE messages.
    pub(super) updates: usize,
    /// Prefixes announced, all messages together.
    pub(super) announced: usize,
}

#[derive(Debug, Default)]
struct Shared {
    heard: Mutex<Heard>,
    news: Condvar,
}

/// A running collector; its threads end with the bench.
#[derive(Debug, Clone)]
pub(super) struct Collector(Arc<Shared>);

impl Collector {
    /// Listens on port 179 of every address of the namespace.
    pub(super) fn start(namespace: &Namespace) -> Result<Self> {
        let listener = namespace.run(|| TcpListener::bind("0.0.0.0:179"))?;
        let listener = listener.context("listen on port 179")?;
        let collector = Collector(Arc::default());
        let shared = Arc::clone(&collector.0);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    if let Err(error) = serve(stream, &shared) {
                        super::progress(&format!("a session of the collector ended: {error}"));
                    }
                });
            }
        });
        Ok(collector)
    }

    pub(super) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what it has counted, and the addresses.
    pub(super) fn forget(&self) {
        *self.heard() = Heard::default();
    }

    /// Waits until it has heard enough, and gives what that is.
    pub(super) fn until<T>(&self, what: &str, mut enough: impl FnMut(&Heard) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + super::PATIENCE;
        let mut heard = self.heard();
        loop {
            if let Some(found) = enough(&heard) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            anyhow::ensure!(!left.is_zero(), "not heard: {what}");
            let waited = self.0.news.wait_timeout(heard, left.min(Duration::from_millis(100)));
            heard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let IpAddr::V4(id) = stream.local_addr()?.ip() else {
        anyhow::bail!("a session over IPv6")
    };
    stream.write_all(&speech::open(ASN, id))?;
    let (mut buffer, mut chunk, mut greeted) = (Vec::new(), vec![0; 64 << 10], false);
    loop {
        let count = stream.read(&mut chunk)?;
        let now = Instant::now();
        anyhow::ensure!(count > 0, "closed by the speaker");
        buffer.extend_from_slice(&chunk[..count]);
        for (kind, body) in speech::take_messages(&mut buffer) {
            let mut heard = shared.heard.lock().unwrap_or_else(PoisonError::into_inner);
            if speech::is_update(kind) {
                let (withdrawn, announced) = speech::read_update(&body).context("an UPDATE that cannot be read")?;
                heard.updates += usize::from(!(withdrawn.is_empty() && announced.is_empty()));
                heard.announced += announced.len();
                heard.addresses.extend(withdrawn.into_iter().map(|a| (a, (false, now))));
                heard.addresses.extend(announced.into_iter().map(|a| (a, (true, now))));
            } else {
                if !std::mem::replace(&mut greeted, true) {
                    heard.sessions += 1;
                }
                // The OPEN and each KEEPALIVE are answered.
                stream.write_all(&message(KEEPALIVE, &[]))?;
            }
            shared.news.notify_all();
        }
    }
}
