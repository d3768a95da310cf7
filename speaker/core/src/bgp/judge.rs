//! Whether one Service is announced on one address that it claims, to whom and how.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{
    AnnouncementPolicy, Applicant, BgpAdvertisement, Community, EndpointSettings, NodeRefusal, Pool, ServiceId,
    TrafficPolicy,
};
use ipnet::IpNet;

use super::drain::{Candidates, Due};
use super::{Bgp, Holder, Late, RouteAttributes, Wait};
use crate::data_path::{Beginning, DataPath, WAIT};
use crate::decide::pool_of;
use crate::endpoints::{Counts, Endpoints};

/// How long routes are marked as leaving where no policy says it.
const GRACEFUL_SHUTDOWN: Duration = Duration::from_secs(5);

/// RFC 8326.
const LEAVING: Community = Community::Standard(0xffff, 0);

/// What a megabit per second is in octets per second.
const MEGABIT: u64 = 125_000;

/// What one advertisement wishes for one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) prefix: IpNet,
    /// The peers by name; `None` is every peer.
    pub(super) peers: Option<BTreeSet<String>>,
    pub(super) attributes: Arc<RouteAttributes>,
}

impl Wish {
    pub(super) fn is_for(&self, peer: &str) -> bool {
        self.peers.as_ref().is_none_or(|peers| peers.contains(peer))
    }
}

/// How a Service stands on an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is announced, and looked at again then if not before.
    Announced(Vec<Wish>, Option<Duration>),
    /// It is announced as about to go, until then.
    Leaving(Vec<Wish>, Duration),
    /// It is not announced.
    Withheld(NodeRefusal),
}

impl Standing {
    /// What routers are told.
    pub(super) fn wishes(&self) -> Option<&[Wish]> {
        match self {
            Standing::Announced(wishes, _) | Standing::Leaving(wishes, _) => Some(wishes),
            Standing::Withheld(_) => None,
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self, Standing::Leaving(..))
    }

    /// It is announced, and not about to go.
    pub(super) fn is_staying(&self) -> bool {
        matches!(self, Standing::Announced(..))
    }

    /// When time alone changes it.
    pub(super) fn until(&self) -> Option<Duration> {
        match self {
            Standing::Leaving(_, until) => Some(*until),
            Standing::Announced(_, again) => *again,
            Standing::Withheld(_) => None,
        }
    }

    pub(super) fn refusal(&self) -> Option<NodeRefusal> {
        match self {
            Standing::Withheld(why) => Some(*why),
            Standing::Announced(..) | Standing::Leaving(..) => None,
        }
    }
}

/// What is said about a Service on this node beyond its advertisements: each setting from the first policy that has it.
struct Policies<'a>(Vec<&'a AnnouncementPolicy>);

impl Policies<'_> {
    fn first<T>(&self, setting: impl Fn(&AnnouncementPolicy) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(|policy| setting(policy))
    }
}

impl Bgp {
    /// Decides anew about an address; whether anything has changed.
    pub(super) fn judge(&mut self, address: IpAddr, path: &DataPath, now: Duration, candidates: &Candidates) -> bool {
        let before = self.standings.remove(&address).unwrap_or_default();
        let mut after = BTreeMap::new();
        let mut begins = Vec::new();
        if let Some(claimed) = self.ips.get(&address) {
            let pool = pool_of(&self.config, claimed.pool.as_deref(), address);
            for (service, holder) in claimed.by.iter().filter_map(|id| Some((id, self.holders.get(id)?))) {
                let case = Case {
                    bgp: self,
                    address,
                    pool: &pool,
                    service,
                    holder,
                    endpoints: path.endpoints(),
                    candidates,
                };
                let Some(standing) = case.judge(before.get(service), now) else {
                    continue;
                };
                let is_told = |standing: &Standing| standing.wishes().is_some();
                if is_told(&standing) && !self.resuming && !before.get(service).is_some_and(is_told) {
                    begins.push((service.clone(), holder.uid.clone(), case.endpoint_settings()));
                }
                after.insert(service.clone(), standing);
            }
        }
        self.waiting
            .retain(|(of, service), _| *of != address || begins.iter().any(|(begins, ..)| begins == service));
        for (service, uid, settings) in begins {
            if !self.may_begin(address, (&service, uid), settings, path, now) {
                let why = NodeRefusal::DataPathNotReady;
                after.insert(service, Standing::Withheld(why));
            }
        }
        let changed = before != after;
        if !after.is_empty() {
            self.standings.insert(address, after);
        }
        changed
    }

    /// Whether a Service that was not announced on the address may be now.
    fn may_begin(
        &mut self,
        address: IpAddr,
        (service, uid): (&ServiceId, Box<str>),
        settings: EndpointSettings,
        path: &DataPath,
        now: Duration,
    ) -> bool {
        let waited = settings.wait.unwrap_or(WAIT);
        let key = (address, service.clone());
        let (since, until) = (now, now + waited);
        let wait = *self.waiting.entry(key.clone()).or_insert(Wait { since, until });
        let beginning = Beginning {
            address,
            terminating: settings.serving.unwrap_or(true),
            asked: wait.since,
        };
        let ready = path.ready(beginning, [service]);
        if ready.is_err() && now < wait.until {
            return false;
        }
        self.waiting.remove(&key);
        if let Err(why) = ready
            && !waited.is_zero()
        {
            let service = service.clone();
            self.late.push(Late {
                address,
                service,
                uid: uid.into(),
                waited,
                why,
            });
        }
        true
    }
}

/// One Service on one address.
pub(super) struct Case<'a> {
    pub(super) bgp: &'a Bgp,
    address: IpAddr,
    pool: &'a Cow<'a, Pool>,
    pub(super) service: &'a ServiceId,
    pub(super) holder: &'a Holder,
    pub(super) endpoints: &'a Endpoints,
    pub(super) candidates: &'a Candidates,
}

impl Case<'_> {
    /// `None` where no advertisement speaks for the Service on this node; that is no refusal, it may be announced at
    /// layer 2.
    fn judge(&self, before: Option<&Standing>, now: Duration) -> Option<Standing> {
        let node = &self.bgp.node;
        let everywhere = self.policies();
        let here = everywhere.iter().copied();
        let policies = Policies(here.filter(|policy| policy.covers_node(&node.labels)).collect());
        let counts = self.endpoints.of(self.service);
        let mut wishes = self.wishes(&policies, counts);
        if wishes.is_empty() && self.bgp.config.bgp_advertisements_unknown {
            // The advertisement behind it may be the one that cannot be read.
            wishes = before.and_then(Standing::wishes)?.to_vec();
        }
        if wishes.is_empty() {
            return None;
        }
        let refusal = if node.network_unavailable {
            Some(NodeRefusal::NetworkUnavailable)
        } else {
            self.no_endpoint(&policies, &everywhere, counts)
                .or_else(|| self.no_peer(&wishes))
        };
        if let Some(why) = refusal {
            return Some(Standing::Withheld(why));
        }
        Some(match self.due(&everywhere, now) {
            Due::No => Standing::Announced(wishes, None),
            Due::Later(then) => Standing::Announced(wishes, Some(then)),
            Due::Now(why) => {
                let until = match before {
                    Some(Standing::Leaving(_, until)) => *until,
                    Some(Standing::Announced(..)) => {
                        now + policies.first(|p| p.bgp.graceful_shutdown).unwrap_or(GRACEFUL_SHUTDOWN)
                    }
                    Some(Standing::Withheld(_)) | None => now,
                };
                match until > now {
                    true => Standing::Leaving(wishes, until),
                    false => Standing::Withheld(why),
                }
            }
        })
    }

    fn endpoint_settings(&self) -> EndpointSettings {
        let labels = &self.bgp.node.labels;
        let policies = self.policies().into_iter().filter(|policy| policy.covers_node(labels));
        let policies = Policies(policies.collect());
        EndpointSettings {
            serving: policies.first(|p| p.endpoints.serving),
            wait: policies.first(|p| p.endpoints.wait),
        }
    }

    /// A node whose last endpoints terminate gives up while they still serve, if another one can go on.
    fn no_endpoint(
        &self,
        policies: &Policies<'_>,
        everywhere: &[&AnnouncementPolicy],
        counts: Counts,
    ) -> Option<NodeRefusal> {
        let terminating = policies.first(|p| p.endpoints.serving).unwrap_or(true);
        let (serves, why) = match self.holder.traffic_policy {
            TrafficPolicy::Cluster => (counts.anywhere.can_serve(terminating), NodeRefusal::NoEndpoint),
            TrafficPolicy::Local => {
                let here = counts.here.can_serve(terminating);
                let serves = here && (counts.here.ready > 0 || self.is_last(everywhere));
                (serves, NodeRefusal::NoLocalEndpoint)
            }
        };
        (!serves).then_some(why)
    }

    fn no_peer(&self, wishes: &[Wish]) -> Option<NodeRefusal> {
        let mut peers = self.bgp.config.peers.values();
        let told = peers
            .any(|peer| peer.covers_node(&self.bgp.node.labels) && wishes.iter().any(|wish| wish.is_for(&peer.name)));
        (!told).then_some(NodeRefusal::NoPeer)
    }

    /// The policies of the Service, whatever the node.
    fn policies(&self) -> Vec<&AnnouncementPolicy> {
        let service = Applicant {
            id: self.service,
            labels: &self.holder.labels,
            policy: self.holder.policy.as_deref(),
        };
        self.bgp.config.policies_of(Some(self.pool), &[service]).collect()
    }

    /// The advertisements that speak for the Service on the address, whatever the node.
    pub(super) fn advertisements(&self) -> impl Iterator<Item = &BgpAdvertisement> {
        let ads = self.bgp.config.bgp_advertisements.values();
        ads.filter(|ad| ad.covers_pool(self.pool) && ad.covers_service(&self.holder.labels))
    }

    fn wishes(&self, policies: &Policies<'_>, counts: Counts) -> Vec<Wish> {
        let ads = self.advertisements();
        let ads = ads.filter(|ad| ad.covers_node(&self.bgp.node.labels));
        let wish = |ad: &BgpAdvertisement| Wish {
            prefix: ad.prefix(self.address),
            peers: ad.peers.clone(),
            attributes: Arc::new(attributes(ad, policies, counts)),
        };
        ads.map(wish).collect()
    }
}

fn attributes(ad: &BgpAdvertisement, policies: &Policies<'_>, counts: Counts) -> RouteAttributes {
    let set = |communities: &BTreeSet<_>| (!communities.is_empty()).then(|| communities.clone());
    let mut communities = ad.communities.clone();
    communities.extend(policies.first(|p| set(&p.bgp.large_communities)).into_iter().flatten());
    let here = u64::from(counts.here.serving());
    RouteAttributes {
        local_pref: ad.local_pref,
        med: policies.first(|p| p.bgp.med),
        prepend: policies
            .first(|p| p.bgp.as_path_prepend)
            .or(ad.as_path_prepend)
            .unwrap_or_default(),
        communities,
        extended_communities: policies
            .first(|p| Some(p.bgp.extended_communities.clone()).filter(|set| !set.is_empty()))
            .unwrap_or_default(),
        // A node without endpoints adds nothing that a router could weigh.
        link_bandwidth: policies
            .first(|p| p.bgp.link_bandwidth)
            .map(|megabits| u64::from(megabits) * MEGABIT * here)
            .filter(|bandwidth| *bandwidth > 0),
    }
}

/// The same route, about to go: routers turn to others before it is taken back.
pub(super) fn leaving(attributes: &RouteAttributes) -> RouteAttributes {
    let mut leaving = attributes.clone();
    leaving.communities.insert(LEAVING);
    leaving.local_pref = Some(0);
    leaving
}
