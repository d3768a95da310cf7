//! The task that keeps the engines in line with the plan, and the view in line with both.

use std::sync::Arc;
use std::time::Duration;

use ferrolb_bgp::proto::Cease;
use ferrolb_bgp::session::Leave;
use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::convert::{Converted, Known, RESTART_TIME, convert};
use super::engine::{BgpLost, Dependents, Threads};
use super::marker::Marker;
use super::{Planned, View};

/// The task.
pub(crate) struct Keeper {
    planned: watch::Receiver<Option<Planned>>,
    view: watch::Sender<Arc<View>>,
    marker: Marker,
    seed: u64,
    born: Instant,
    threads: Option<Threads>,
    /// What the routes of the last plan became.
    routes: Known,
}

impl Keeper {
    /// Follows plans and shows what comes of them. `marker` remembers that BGP ran; nodes have different seeds.
    pub(crate) fn new(
        planned: watch::Receiver<Option<Planned>>,
        view: watch::Sender<Arc<View>>,
        marker: Marker,
        seed: u64,
    ) -> Self {
        Keeper {
            planned,
            view,
            marker,
            seed,
            born: Instant::now(),
            threads: None,
            routes: Known::new(),
        }
    }

    /// Runs until `stop` is cancelled. A stop may be an upgrade as well as the end, so routers are asked to keep the
    /// routes where they can, unless the node is being drained.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), BgpLost> {
        loop {
            let changed = async {
                match &mut self.threads {
                    Some(threads) => threads.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return self.leave().await,
                Ok(()) = self.planned.changed() => self.follow()?,
                boards = changed => {
                    let (sessions, bfd) = boards?;
                    self.view.send_modify(|view| {
                        let view = Arc::make_mut(view);
                        (view.sessions, view.bfd) = (sessions, bfd);
                    });
                }
            }
        }
    }

    fn follow(&mut self) -> Result<(), BgpLost> {
        let Some(planned) = self.planned.borrow_and_update().clone() else {
            return Ok(());
        };
        let watched = planned.plan.peers.values().any(|planned| planned.peer.bfd.is_some());
        let subnets = if watched { subnets() } else { Vec::new() };
        let (converted, routes) = convert(&planned.plan, &self.routes, &subnets);
        self.routes = routes;
        let Converted {
            bgp,
            bfd,
            paths,
            faults,
        } = converted;
        let mut dependents = Dependents::new();
        for (peer, path) in &paths {
            dependents.entry(Arc::clone(path)).or_default().push(peer.clone());
        }
        match &self.threads {
            Some(threads) => drop(threads.wanted.send_replace(Arc::new(bgp))),
            None if bgp.peers.is_empty() => {}
            None => self.threads = Some(self.start(Arc::new(bgp))?),
        }
        if let Some(threads) = &mut self.threads {
            threads.watch(bfd, dependents)?;
        }
        let start = self.threads.as_ref().map(|threads| threads.start);
        self.view.send_modify(|view| {
            let view = Arc::make_mut(view);
            (view.planned, view.faults, view.paths, view.start) = (Some(planned), faults, paths, start);
        });
        Ok(())
    }

    fn start(&self, wanted: Arc<ferrolb_bgp::Wanted>) -> Result<Threads, BgpLost> {
        let restarted = self.marker.set();
        let kept = Duration::from_secs(RESTART_TIME.into());
        let restarted_for = if restarted {
            kept.saturating_sub(self.born.elapsed())
        } else {
            Duration::ZERO
        };
        info!(peers = wanted.peers.len(), restarted, "starting BGP");
        Threads::start(wanted, restarted_for, self.seed)
    }

    async fn leave(self) -> Result<(), BgpLost> {
        let Some(threads) = self.threads else { return Ok(()) };
        let draining = self.planned.borrow().as_ref().is_some_and(|p| p.plan.draining);
        threads
            .leave(match draining {
                true => Leave::Withdraw {
                    wait: Duration::ZERO,
                    cease: Cease::Shutdown,
                    text: "node drained".to_owned(),
                },
                false => Leave::Restart,
            })
            .await
    }
}

/// The subnets that this machine is in.
fn subnets() -> Vec<IpNet> {
    let addresses = match getifaddrs() {
        Ok(addresses) => addresses,
        Err(error) => {
            warn!(%error, "the addresses of this machine cannot be read: internal peers are taken to be some hops away");
            return Vec::new();
        }
    };
    let subnet = |entry: nix::ifaddrs::InterfaceAddress| {
        let (address, mask) = (entry.address?, entry.netmask?);
        if let (Some(address), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
            return IpNet::with_netmask(address.ip().into(), mask.ip().into()).ok();
        }
        let (address, mask) = (address.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
        IpNet::with_netmask(address.ip().into(), mask.ip().into()).ok()
    };
    addresses.filter_map(subnet).collect()
}
