//! The task that keeps the engines in line with the plan, and the view in line with both.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_api::names::reasons;
use ferrolb_bgp::discovery::{Finding, Found};
use ferrolb_bgp::proto::Cease;
use ferrolb_bgp::session::Leave;
use ferrolb_config::Kind;
use ferrolb_runtime::events::{Note, Recorder};
use ferrolb_speaker_core::BgpPlan;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::ObjectReference;
use nix::ifaddrs::getifaddrs;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::convert::{Converted, Ground, Known, RESTART_TIME, convert, links};
use super::engine::{BgpLost, Changed, Dependents, Lent, Threads};
use super::marker::Marker;
use super::notices::{Notice, Notices};
use super::picture::{self, Services};
use super::{BgpPicture, Planned, View};

/// So long a router that another run has found is believed to be there without being heard.
const FORGET: Duration = Duration::from_secs(10);

/// The ends of the channels that the keeper holds.
pub(super) struct Ends {
    /// From the owner task.
    pub(crate) planned: watch::Receiver<Option<Planned>>,
    /// To `/metrics`.
    pub(crate) view: watch::Sender<Arc<View>>,
    /// To whoever writes down what this speaker says about itself.
    pub(crate) picture: watch::Sender<BgpPicture>,
    /// To users.
    pub(crate) events: Recorder,
    /// From the hand-over.
    pub(crate) orders: mpsc::Receiver<Order>,
}

/// What the hand-over asks for, in this order.
#[derive(Debug)]
pub(crate) enum Order {
    /// End BGP without a word; the plan it was at, and what it had.
    LendSessions(oneshot::Sender<(Option<Arc<BgpPlan>>, Lent)>),
    /// End BFD as well.
    LendPaths(oneshot::Sender<ferrolb_bfd::Lent>),
    /// Go on with this.
    Resume(Lent),
}

/// What stays fixed.
pub(crate) struct Fixed {
    /// The node.
    pub(crate) node: String,
    /// Where the BGPPeers are.
    pub(crate) namespace: String,
    /// Remembers that BGP ran.
    pub(crate) marker: Marker,
    /// Where routers may connect.
    pub(crate) port: u16,
    /// Nodes have different ones.
    pub(crate) seed: u64,
}

/// The task.
pub(crate) struct Keeper {
    ends: Ends,
    fixed: Fixed,
    born: Instant,
    notices: Notices,
    /// When there may be something to tell although nothing has changed.
    notice_at: Option<Instant>,
    threads: Option<Threads>,
    /// To go on with. Its routers are those of links on which nobody was heard yet, for a while.
    lent: Lent,
    forget_at: Instant,
    /// What the threads had is lent to somebody.
    resting: bool,
    /// What is said about Services, of the last plan.
    services: Option<Services>,
    /// What the routes of the last plan became.
    routes: Known,
}

impl Keeper {
    /// Follows plans and shows what comes of them. Goes on with what is `lent`.
    pub(crate) fn new(fixed: Fixed, lent: Lent, ends: Ends) -> Self {
        Keeper {
            ends,
            fixed,
            born: Instant::now(),
            notices: Notices::default(),
            notice_at: None,
            threads: None,
            lent,
            forget_at: Instant::now() + FORGET,
            resting: false,
            services: None,
            routes: Known::new(),
        }
    }

    /// Runs until `stop` is cancelled. A stop may be an upgrade as well as the end, so routers are asked to keep the
    /// routes where they can, unless the node is being drained.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), BgpLost> {
        loop {
            let changed = async {
                match &mut self.threads {
                    Some(threads) if !self.resting => threads.changed().await,
                    _ => std::future::pending().await,
                }
            };
            let notice_at = self.notice_at;
            tokio::select! {
                // What has come back from a hand-over in the moment of the end is left in order, too.
                biased;
                Some(order) = self.ends.orders.recv() => self.obey(order).await?,
                () = stop.cancelled() => return self.leave().await,
                Ok(()) = self.ends.planned.changed(), if !self.resting => self.follow()?,
                changed = changed => match changed? {
                    Changed::Links => self.follow()?,
                    Changed::Boards(sessions, bfd) => self.ends.view.send_modify(|view| {
                        let view = Arc::make_mut(view);
                        (view.sessions, view.bfd) = (sessions, bfd);
                    }),
                },
                () = tokio::time::sleep_until(self.forget_at), if !self.lent.routers.is_empty() && !self.resting => {
                    self.lent.routers.clear();
                    self.follow()?;
                }
                () = tokio::time::sleep_until(notice_at.unwrap_or(self.born)), if notice_at.is_some() => {}
            }
            self.tell();
        }
    }

    /// Whoever does not wait for what it has asked for is about to end, with the process.
    async fn obey(&mut self, order: Order) -> Result<(), BgpLost> {
        match order {
            Order::LendSessions(to) => {
                self.resting = true;
                let found = self.found();
                let router = |(link, finding): (&String, &Finding)| Some((link.clone(), finding.router()?));
                let routers = found.iter().filter_map(router).collect();
                let sessions = match &mut self.threads {
                    Some(threads) => threads.lend_sessions().await?,
                    None => std::mem::take(&mut self.lent.sessions),
                };
                let plan = self.ends.planned.borrow().as_ref().map(|p| Arc::clone(&p.plan));
                let lent = Lent {
                    sessions,
                    routers,
                    ..Lent::default()
                };
                let _ = to.send((plan, lent));
            }
            Order::LendPaths(to) => {
                let paths = match &mut self.threads {
                    Some(threads) => threads.lend_paths().await?,
                    None => std::mem::take(&mut self.lent.paths),
                };
                let _ = to.send(paths);
            }
            Order::Resume(mut lent) => {
                // BFD may not have rested yet.
                if let Some(threads) = &mut self.threads {
                    let paths = threads.lend_paths().await?;
                    if !paths.paths.is_empty() {
                        lent.paths = paths;
                    }
                }
                (self.threads, self.lent, self.resting) = (None, lent, false);
                self.forget_at = Instant::now() + FORGET;
                self.follow()?;
            }
        }
        Ok(())
    }

    fn tell(&mut self) {
        let view = Arc::clone(&self.ends.view.borrow());
        let picture = BgpPicture {
            state: picture::state(&view),
            services: self.services.clone(),
        };
        self.ends.picture.send_if_modified(|old| {
            let changed = *old != picture;
            *old = picture;
            changed
        });
        let (notices, again) = self.notices.look(&view, self.born.elapsed());
        self.notice_at = again.map(|after| self.born + after);
        for notice in notices {
            self.ends.events.record(self.note(notice));
        }
    }

    fn note(&self, notice: Notice) -> Note {
        let Notice { peer, uid, up, error } = notice;
        let node = &self.fixed.node;
        let (reason, message) = match up {
            true => (
                reasons::SESSION_UP,
                format!("node {node:?} has a BGP session with the router"),
            ),
            false => (
                reasons::SESSION_DOWN,
                format!("node {node:?} has no BGP session with the router: {error}"),
            ),
        };
        let about = ObjectReference {
            api_version: Some(Kind::BgpPeer.api_version().to_owned()),
            kind: Some(Kind::BgpPeer.name().to_owned()),
            namespace: Some(self.fixed.namespace.clone()),
            name: Some(peer),
            uid: Some(uid),
            ..ObjectReference::default()
        };
        Note {
            about,
            warning: !up,
            reason,
            message,
        }
    }

    /// What is known of the links.
    fn found(&mut self) -> Found {
        let mut found = self.threads.as_mut().map(Threads::found).unwrap_or_default();
        for (link, router) in &self.lent.routers {
            let unheard = found.get(link).is_none_or(|finding| *finding == Finding::Nobody);
            if unheard {
                let (address, other) = (*router, None);
                found.insert(link.clone(), Finding::Router { address, other });
            }
        }
        found
    }

    /// Brings the engines in line with the plan and with what is known of the links.
    fn follow(&mut self) -> Result<(), BgpLost> {
        let Some(planned) = self.ends.planned.borrow_and_update().clone() else {
            return Ok(());
        };
        let watched = planned.plan.peers.values().any(|planned| planned.peer.bfd.is_some());
        let subnets = if watched { subnets() } else { Vec::new() };
        let found = self.found();
        let ground = Ground {
            subnets: &subnets,
            found: &found,
        };
        let (converted, routes) = convert(&planned.plan, &self.routes, ground);
        self.routes = routes;
        let Converted {
            bgp,
            bfd,
            paths,
            faults,
        } = converted;
        let bgp = Arc::new(if planned.restored { partial(bgp) } else { bgp });
        let mut dependents = Dependents::new();
        for (peer, path) in &paths {
            dependents.entry(Arc::clone(path)).or_default().push(peer.clone());
        }
        match &self.threads {
            Some(threads) => {
                threads.wanted.send_replace(Arc::clone(&bgp));
                let links = links(&planned.plan);
                threads
                    .links
                    .send_if_modified(|wanted| std::mem::replace(wanted, links.clone()) != links);
            }
            None if planned.plan.peers.is_empty() => {}
            None => self.threads = Some(self.start(Arc::clone(&bgp), links(&planned.plan))?),
        }
        if let Some(threads) = &mut self.threads {
            threads.watch(bfd, dependents)?;
        }
        let before = self.ends.view.borrow().planned.as_ref().map(|p| Arc::clone(&p.plan));
        // What the last run told is no news, and may lack something that would be taken back in the API server.
        let told = |before: Arc<BgpPlan>| self.services.is_some() && before.services == planned.plan.services;
        if !planned.restored && !before.is_some_and(told) {
            self.services = Some(picture::services(&planned, &self.fixed.node));
        }
        let start = self.threads.as_ref().map(|threads| threads.start);
        self.ends.view.send_modify(|view| {
            let view = Arc::make_mut(view);
            (view.planned, view.wanted, view.start) = (Some(planned), bgp, start);
            (view.faults, view.paths) = (faults, paths);
        });
        Ok(())
    }

    fn start(&mut self, wanted: Arc<ferrolb_bgp::Wanted>, links: BTreeSet<String>) -> Result<Threads, BgpLost> {
        let restarted = self.fixed.marker.set();
        let kept = Duration::from_secs(RESTART_TIME.into());
        let restarted_for = if restarted {
            kept.saturating_sub(self.born.elapsed())
        } else {
            Duration::ZERO
        };
        let sessions = std::mem::take(&mut self.lent.sessions);
        let paths = std::mem::take(&mut self.lent.paths);
        let going_on = sessions.by_name.len();
        info!(peers = wanted.peers.len(), restarted, going_on, "starting BGP");
        let config = ferrolb_bgp::engine::Config {
            restarted_for,
            port: self.fixed.port,
            seed: self.fixed.seed,
        };
        Threads::start(wanted, links, config, (sessions, paths))
    }

    async fn leave(self) -> Result<(), BgpLost> {
        let Some(threads) = self.threads.filter(|_| !self.resting) else {
            return Ok(());
        };
        let draining = self.ends.planned.borrow().as_ref().is_some_and(|p| p.plan.draining);
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

/// The same, to which more may come.
fn partial(mut wanted: ferrolb_bgp::Wanted) -> ferrolb_bgp::Wanted {
    for peer in wanted.peers.values_mut() {
        peer.routes = Arc::new(peer.routes.partial());
    }
    wanted
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use axum::http::{Request, Response};
    use ferrolb_runtime::events;
    use kube::Client;
    use prometheus_client::registry::Registry;

    use super::*;

    #[tokio::test]
    async fn an_order_that_came_before_the_end_is_obeyed_before_it() {
        // Whichever of the two would be looked at first.
        for _ in 0..32 {
            let server = tower::service_fn(async |_: Request<kube::client::Body>| {
                Ok::<_, Infallible>(Response::new(Body::empty()))
            });
            let (events, _poster) = events::recorder(
                Client::new(server, "default"),
                "ferrolb-speaker",
                "node-a",
                &mut Registry::default(),
            );
            let (orders_in, orders) = mpsc::channel(1);
            let ends = Ends {
                planned: watch::Sender::default().subscribe(),
                view: watch::Sender::default(),
                picture: watch::Sender::default(),
                events,
                orders,
            };
            let fixed = Fixed {
                node: "node-a".to_owned(),
                namespace: "ferrolb-system".to_owned(),
                marker: Marker::new(&std::env::temp_dir(), "node-a"),
                port: 0,
                seed: 1,
            };
            let (to, mut lent) = oneshot::channel();
            orders_in.try_send(Order::LendSessions(to)).unwrap();
            let stop = CancellationToken::new();
            stop.cancel();
            Keeper::new(fixed, Lent::default(), ends).run(stop).await.unwrap();
            assert!(lent.try_recv().is_ok(), "it was not heard");
        }
    }
}
