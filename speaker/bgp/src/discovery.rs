//! Finds the router at the other end of a link, for sessions that are configured with an interface in place of an
//! address, and lets the router find us.
//!
//! Both by Router Advertisements (RFC 4861), as routers with interface neighbours do it: the router's link-local
//! address is where its advertisements come from, and it takes connections only from whom it has heard. Ours say that
//! we are no default router, so that no host on the link sends us anything.
//!
//! | channel | direction | when full or gone |
//! | --- | --- | --- |
//! | `wanted` (watch) | in | holds the latest; a sender that is gone leaves the last value in force |
//! | `found` (watch) | out | holds the latest |
//!
//! An interface may come later, go, and come back as another: it is looked at once a second. [`link`] decides who the
//! router is. Needs `CAP_NET_RAW`; without it each interface says so.

pub mod advertisement;
pub mod link;
mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::Ipv6Addr;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use advertisement::Advertisement;
use link::Link;
use socket::{Interface, Port, Unusable};

/// How often interfaces are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of each link that is wanted, by the name of its interface.
pub type Found = BTreeMap<String, Finding>;

/// What is known of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The router's link-local address.
    Router {
        /// It.
        address: Ipv6Addr,
        /// Somebody else on the link who also advertises.
        other: Option<Ipv6Addr>,
    },
    /// No router was heard yet.
    Nobody,
    /// The interface is not there.
    Missing,
    /// The interface has no link-local address: it is down, or IPv6 is switched off on it.
    NoLinkLocal,
    /// Nothing can be sent or received.
    Socket(String),
}

impl Finding {
    /// The router's address, where there is one.
    pub fn router(&self) -> Option<Ipv6Addr> {
        match self {
            Finding::Router { address, .. } => Some(*address),
            _ => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Router { address, other: None } => write!(f, "the router is {address}"),
            Finding::Router {
                address,
                other: Some(other),
            } => write!(
                f,
                "the router is {address}, but {other} sends Router Advertisements too: the link must have two ends"
            ),
            Finding::Nobody => {
                f.write_str("no router was heard: it must send Router Advertisements (RFC 4861) on this link")
            }
            Finding::Missing => f.write_str("there is no interface of this name on the node"),
            Finding::NoLinkLocal => {
                f.write_str("has no IPv6 link-local address: it is down, or IPv6 is switched off on it")
            }
            Finding::Socket(error) => write!(f, "cannot send and receive Router Advertisements: {error}"),
        }
    }
}

/// Runs for ever. `seed` decides the jitter. Works in the network namespace of the thread that polls it first.
pub async fn run(seed: u64, mut wanted: watch::Receiver<BTreeSet<String>>, found: watch::Sender<Found>) -> Infallible {
    let mut links = Links {
        start: Instant::now(),
        seed,
        links: BTreeMap::new(),
        found,
    };
    links.want(&wanted.borrow_and_update().clone());
    let mut wanting = true;
    loop {
        let now = links.start.elapsed();
        links.work(now);
        links.publish();
        let deadline = links.deadline();
        let at = links.start + deadline.unwrap_or_default();
        tokio::select! {
            changed = wanted.changed(), if wanting => match changed {
                Ok(()) => links.want(&wanted.borrow_and_update().clone()),
                Err(_) => wanting = false,
            },
            (name, received) = poll_fn(|cx| links.poll_receive(cx)) => links.received(&name, received),
            () = sleep_until(at), if deadline.is_some() => {}
        }
    }
}

/// A link that is wanted.
struct Wanted {
    link: Link,
    port: Option<Port>,
    look: Duration,
    /// Why there is no port, or why it is of no use.
    fault: Option<Finding>,
}

struct Links {
    start: Instant,
    seed: u64,
    links: BTreeMap<String, Wanted>,
    found: watch::Sender<Found>,
}

impl Links {
    fn want(&mut self, names: &BTreeSet<String>) {
        self.links.retain(|name, _| names.contains(name));
        let now = self.start.elapsed();
        for name in names {
            self.seed = self.seed.wrapping_add(1);
            let seed = self.seed;
            self.links.entry(name.clone()).or_insert_with(|| Wanted {
                link: Link::new(now, seed),
                port: None,
                look: now,
                fault: None,
            });
        }
    }

    fn work(&mut self, now: Duration) {
        for (name, wanted) in &mut self.links {
            if wanted.look <= now {
                wanted.look = now + LOOK;
                wanted.look_at(now, name);
            }
            wanted.send(now);
        }
    }

    fn deadline(&self) -> Option<Duration> {
        let deadline = |wanted: &Wanted| match wanted.port {
            Some(_) => wanted.look.min(wanted.link.deadline()),
            None => wanted.look,
        };
        self.links.values().map(deadline).min()
    }

    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<(String, io::Result<(Ipv6Addr, Advertisement)>)> {
        for (name, wanted) in &self.links {
            if let Some(port) = &wanted.port
                && let Poll::Ready(received) = port.poll_receive(cx)
            {
                return Poll::Ready((name.clone(), received));
            }
        }
        Poll::Pending
    }

    fn received(&mut self, name: &str, received: io::Result<(Ipv6Addr, Advertisement)>) {
        let now = self.start.elapsed();
        let Some(wanted) = self.links.get_mut(name) else { return };
        match received {
            Ok((source, said)) => wanted.link.heard(now, source, &said),
            // It is opened again with the next look.
            Err(error) => {
                wanted.port = None;
                wanted.fault = Some(Finding::Socket(error.to_string()));
            }
        }
    }

    fn publish(&self) {
        let findings = self.links.iter();
        let next: Found = findings
            .map(|(name, wanted)| (name.clone(), wanted.finding()))
            .collect();
        self.found.send_if_modified(|found| {
            let changed = *found != next;
            for (interface, finding) in next.iter().filter(|(name, finding)| found.get(*name) != Some(*finding)) {
                match finding {
                    Finding::Router { other: None, .. } => info!(interface, "{finding}"),
                    _ => warn!(interface, "{finding}"),
                }
            }
            *found = next;
            changed
        });
    }
}

impl Wanted {
    /// Keeps the port in line with the interface.
    fn look_at(&mut self, now: Duration, name: &str) {
        let interface = match Interface::look(name) {
            Ok(Ok(interface)) => interface,
            Ok(Err(unusable)) => {
                self.port = None;
                self.fault = Some(match unusable {
                    Unusable::Missing => {
                        // Another of that name is another link.
                        self.link = Link::new(now, self.look.as_secs());
                        Finding::Missing
                    }
                    Unusable::NoLinkLocal => Finding::NoLinkLocal,
                });
                return;
            }
            Err(error) => {
                self.fault = Some(Finding::Socket(error.to_string()));
                return;
            }
        };
        if self.port.as_ref().is_some_and(|port| port.interface == interface) {
            return;
        }
        self.link.up(now);
        match Port::open(name, interface) {
            Ok(port) => (self.port, self.fault) = (Some(port), None),
            Err(error) => (self.port, self.fault) = (None, Some(Finding::Socket(error.to_string()))),
        }
    }

    /// Sends what is due. What cannot be sent now is sent after the next pause.
    fn send(&mut self, now: Duration) {
        let Some(port) = &self.port else { return };
        while let Some(message) = self.link.poll(now) {
            self.fault = port.send(message).err().map(|error| Finding::Socket(error.to_string()));
        }
    }

    /// A router that is known stays so while the link is down.
    fn finding(&self) -> Finding {
        match (self.link.router(), &self.fault) {
            (Some(address), _) => Finding::Router {
                address,
                other: self.link.other(),
            },
            (None, Some(fault)) => fault.clone(),
            (None, None) => Finding::Nobody,
        }
    }
}
