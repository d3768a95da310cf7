//! Whether this node's kube-proxy can serve an address, before the node begins to announce it.
//!
//! [`DataPath`] hears the same news as the cores, and what kube-proxy and its health check ports answer when they are
//! asked. For each Service it knows since when kube-proxy could serve it here: since its status has the address, and
//! an endpoint can take the traffic (one of this node under externalTrafficPolicy Local). An address is ready when
//! kube-proxy has written its rules after that moment (`proxy.rs`) and its health check port does not deny it.
//!
//! Only a beginning waits: [`crate::Ownership`] and [`crate::Bgp`] ask about what they are about to announce and do not
//! announce yet, never about what they do. It waits for a bounded time ([`WAIT`], or as a policy says) and goes ahead then.
//! Where nobody is there to ask, nothing waits: another program than kube-proxy may carry the traffic, or one that does not
//! tell.
//!
//! Endpoints are kept for [`crate::Bgp`] as well, which is told when those of a Service have changed.

mod proxy;
mod scrape;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ferrolb_model::{Family, ServiceId, TrafficPolicy};
use litemap::LiteMap;

use crate::endpoints::{Counts, Endpoints};
use crate::input::Input;

use proxy::{Lag, Proxy};

pub use proxy::ProxyAnswer;
pub use scrape::{Progress, Reading, Scrape};

/// How long a beginning waits at most, where no policy says it.
pub const WAIT: Duration = Duration::from_secs(5);
/// The same where another node answers for the address meanwhile, which it does not do for ever (its speaker gives up 10 s
/// after the move): a policy that says more is not followed so far.
pub const WAIT_TO_TAKE: Duration = Duration::from_secs(8);

/// See the module.
#[derive(Debug, Default)]
pub struct DataPath {
    node: String,
    /// Without anything to ask, nothing waits.
    asks: bool,
    /// What was known by then was known before this speaker ran, or may have been.
    synced: bool,
    /// Of this node, where kube-proxy has the health check ports.
    addresses: BTreeSet<IpAddr>,
    services: LiteMap<ServiceId, Known>,
    endpoints: Endpoints,
    proxy: Proxy,
    health: Health,
}

/// What is known of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    ingress: Box<[IpAddr]>,
    policy: TrafficPolicy,
    health_port: Option<u16>,
    since: Duration,
}

/// What health check ports have answered when they were last asked.
#[derive(Debug, Default)]
struct Health {
    serves: BTreeMap<u16, bool>,
    at: Duration,
}

/// What somebody is about to announce.
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    /// The address.
    pub address: IpAddr,
    /// Endpoints that terminate and still serve count.
    pub terminating: bool,
    /// Since when it waits.
    pub asked: Duration,
}

/// Why an address is not known to be served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// This speaker knows of no Service with the address in its status and an endpoint that can take its traffic here.
    Nothing,
    /// kube-proxy has not been heard yet.
    Unasked,
    /// kube-proxy does not answer.
    Silent,
    /// kube-proxy has never written its rules.
    NeverSynced,
    /// kube-proxy has not written its rules since.
    Behind,
    /// kube-proxy says at the Service's health check port that it has no endpoint on this node.
    NoLocalEndpoint,
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotReady::Nothing => {
                "no Service has it in its status together with an endpoint that can take traffic there"
            }
            NotReady::Unasked => "it has not answered yet",
            NotReady::Silent => "it does not answer, although something listens where it is asked",
            NotReady::NeverSynced => "it has not written its rules since it started",
            NotReady::Behind => "it has not written its rules since the address was given out",
            NotReady::NoLocalEndpoint => "its health check port says that it knows of no endpoint on the node",
        })
    }
}

impl From<Lag> for NotReady {
    fn from(lag: Lag) -> Self {
        match lag {
            Lag::Unasked => NotReady::Unasked,
            Lag::Silent => NotReady::Silent,
            Lag::NeverSynced => NotReady::NeverSynced,
            Lag::Behind => NotReady::Behind,
        }
    }
}

impl DataPath {
    /// That of `node`, whose kube-proxy can be asked.
    pub fn new(node: impl Into<String>) -> Self {
        DataPath {
            node: node.into(),
            asks: true,
            ..DataPath::default()
        }
    }

    /// That of `node`, which asks nobody: every address is ready.
    pub fn off(node: impl Into<String>) -> Self {
        DataPath {
            node: node.into(),
            ..DataPath::default()
        }
    }

    /// Takes one piece of news in; gives the Services whose endpoints it changes.
    pub fn hear(&mut self, input: &Input, now: Duration) -> Vec<ServiceId> {
        match input {
            Input::Endpoints(view) => {
                let before = self.endpoints.of(&view.service);
                let touched = self.endpoints.insert(&self.node, view);
                self.appeared(&view.service, before, now);
                return touched;
            }
            Input::EndpointsGone(slice) => return self.endpoints.remove(slice).into_iter().collect(),
            // Nothing else is needed to say that all is ready.
            _ if !self.asks => {}
            Input::Service(view) => {
                let ingress = view.ingress.as_slice();
                let before = self.services.get(&view.id);
                let more = before.is_none_or(|known| {
                    known.policy != view.traffic_policy
                        || !ingress.iter().all(|address| known.ingress.contains(address))
                });
                let since = match before {
                    Some(known) if !more => known.since,
                    _ => self.now(now),
                };
                let known = Known {
                    ingress: ingress.into(),
                    policy: view.traffic_policy,
                    health_port: view.health_check_port,
                    since,
                };
                self.services.insert(view.id.clone(), known);
            }
            Input::ServiceGone(id) => drop(self.services.remove(id)),
            Input::OwnNode(view) => self.addresses.clone_from(&view.addresses),
            Input::BgpSynced => self.synced = true,
            _ => {}
        }
        Vec::new()
    }

    /// The endpoints of all Services.
    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Takes in what kube-proxy answered.
    pub fn answered(&mut self, answer: ProxyAnswer, now: Duration) {
        self.proxy.answered(answer, now);
    }

    /// Takes in which health check ports say whether there are endpoints on this node. One that says nothing is no reason to
    /// wait.
    pub fn checked(&mut self, serves: BTreeMap<u16, bool>, at: Duration) {
        self.health = Health { serves, at };
    }

    /// What is to be asked for `claims` on `address` besides kube-proxy itself: health check ports.
    pub fn checks<'a>(
        &'a self,
        address: IpAddr,
        claims: impl IntoIterator<Item = &'a ServiceId>,
    ) -> impl Iterator<Item = SocketAddr> {
        let family = Family::of(address);
        let mut here = self.addresses.iter().filter(move |here| Family::of(**here) == family);
        let here = here.next().copied();
        let ports = claims.into_iter().filter_map(|id| self.check_of(id));
        ports.filter_map(move |port| Some(SocketAddr::new(here?, port)))
    }

    /// The port that says whether a Service has endpoints on this node. It counts those that are ready alone.
    fn check_of(&self, id: &ServiceId) -> Option<u16> {
        let known = self.services.get(id)?;
        let ready = self.endpoints.of(id).here.ready > 0;
        known
            .health_port
            .filter(|_| known.policy == TrafficPolicy::Local && ready)
    }

    /// Whether what `claims` the address is served here.
    ///
    /// # Errors
    /// Why it is not known to be.
    pub fn ready<'a>(
        &self,
        beginning: Beginning,
        claims: impl IntoIterator<Item = &'a ServiceId>,
    ) -> Result<(), NotReady> {
        let Beginning {
            address,
            terminating,
            asked,
        } = beginning;
        if !self.asks || self.proxy.is_absent(asked) {
            return Ok(());
        }
        let mut since = None;
        let mut denied = false;
        for id in claims {
            let Some(known) = self.services.get(id) else { continue };
            let served = can_serve(known.policy, self.endpoints.of(id), terminating);
            if served && known.ingress.contains(&address) {
                since = since.max(Some(known.since));
                let said = self.check_of(id).and_then(|port| self.health.serves.get(&port));
                denied |= said == Some(&false) && self.health.at >= asked;
            }
        }
        self.proxy
            .caught_up(Family::of(address), since.ok_or(NotReady::Nothing)?, asked)?;
        if denied { Err(NotReady::NoLocalEndpoint) } else { Ok(()) }
    }

    /// Whether kube-proxy can be asked, and otherwise why not; `None` while that is not known, or nobody asks.
    pub fn is_asked(&self) -> Option<Result<(), &str>> {
        match self.proxy.nobody() {
            Some(why) => Some(Err(why)),
            None => self.proxy.is_read().then_some(Ok(())),
        }
    }

    fn now(&self, now: Duration) -> Duration {
        if self.synced { now } else { Duration::ZERO }
    }

    /// Endpoints have changed: where there were none that could serve, kube-proxy has to hear of them first.
    fn appeared(&mut self, id: &ServiceId, before: Counts, now: Duration) {
        let now = self.now(now);
        let after = self.endpoints.of(id);
        let Some(known) = self.services.get_mut(id) else {
            return;
        };
        let newly =
            |terminating| can_serve(known.policy, after, terminating) && !can_serve(known.policy, before, terminating);
        if newly(true) || newly(false) {
            known.since = now;
        }
    }
}

fn can_serve(policy: TrafficPolicy, counts: Counts, terminating: bool) -> bool {
    match policy {
        TrafficPolicy::Cluster => counts.anywhere,
        TrafficPolicy::Local => counts.here,
    }
    .can_serve(terminating)
}

#[cfg(test)]
mod tests;
