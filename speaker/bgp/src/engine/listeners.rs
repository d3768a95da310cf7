//! The sockets that accept connections of routers: one per family, VRF and link that some peer wants, each with the
//! TCP-MD5 keys of its peers. What cannot be opened is tried again every few seconds.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::warn;

use crate::settings::{Opening, Password, Peer};
use crate::transport::{Listener, Listening};

/// Before what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: BTreeMap<Listening, Open>,
    failed: BTreeMap<Listening, String>,
    retry: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    listener: Listener,
    keys: BTreeMap<IpAddr, Password>,
}

fn at(port: u16, peer: &Peer) -> Option<Listening> {
    (peer.opening != Opening::Dial).then(|| Listening {
        v6: peer.address.is_ipv6(),
        port,
        device: peer.interface.clone().or_else(|| peer.vrf.clone()),
    })
}

impl Listeners {
    /// Listens for exactly these peers.
    pub(super) fn listen<'a>(&mut self, port: u16, peers: impl Iterator<Item = &'a Arc<Peer>>) {
        let mut wanted: BTreeMap<Listening, BTreeMap<IpAddr, Password>> = BTreeMap::new();
        for peer in peers {
            if let Some(at) = at(port, peer) {
                let keys = wanted.entry(at).or_default();
                keys.extend(peer.password.clone().map(|password| (peer.address, password)));
            }
        }
        // Of those that share a port the kernel takes the first that fits, so that of everywhere has to come last.
        let late = wanted
            .keys()
            .any(|at| at.device.is_some() && !self.open.contains_key(at));
        let overtaken = |at: &Listening| late && at.v6 && at.device.is_none();
        self.open.retain(|at, _| wanted.contains_key(at) && !overtaken(at));
        let failed_before = std::mem::take(&mut self.failed);
        for (at, keys) in wanted.into_iter().rev() {
            if let Err(error) = self.open_with(&at, keys) {
                let error = match error.kind() {
                    ErrorKind::PermissionDenied => {
                        format!(
                            "cannot listen on port {}: {error}: one below 1024 needs root and CAP_NET_BIND_SERVICE",
                            at.port
                        )
                    }
                    _ => format!("cannot listen on port {}: {error}", at.port),
                };
                if failed_before.get(&at) != Some(&error) {
                    warn!(%error, "routers cannot connect");
                }
                self.failed.insert(at, error);
            }
        }
        self.retry = (!self.failed.is_empty()).then(|| Instant::now() + RETRY);
    }

    fn open_with(&mut self, at: &Listening, keys: BTreeMap<IpAddr, Password>) -> std::io::Result<()> {
        let open = match self.open.get_mut(at) {
            Some(open) => open,
            None => {
                let listener = Listener::open(at)?;
                let keys = BTreeMap::new();
                self.open.entry(at.clone()).or_insert(Open { listener, keys })
            }
        };
        for address in open.keys.keys().filter(|address| !keys.contains_key(*address)) {
            open.listener.set_key(*address, None)?;
        }
        for (address, key) in keys
            .iter()
            .filter(|(address, key)| open.keys.get(*address) != Some(*key))
        {
            open.listener.set_key(*address, Some(key.expose()))?;
        }
        open.keys = keys;
        Ok(())
    }

    /// When to listen again, because something failed.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry
    }

    /// Why connections of this peer cannot be accepted, if they should be.
    pub(super) fn fault(&self, port: u16, peer: &Peer) -> Option<String> {
        self.failed.get(&at(port, peer)?).cloned()
    }

    /// The next connection of any of them; never, while nothing listens.
    pub(super) async fn accept(&self) -> (TcpStream, SocketAddr) {
        poll_fn(|cx| {
            for open in self.open.values() {
                // An error belongs to a connection that is gone again; with no file left to open the kernel wakes us
                // when the next one comes.
                if let Poll::Ready(Ok(connection)) = open.listener.poll_accept(cx) {
                    return Poll::Ready(connection);
                }
            }
            Poll::Pending
        })
        .await
    }
}
