//! What this node announces by BGP: which routes each router shall hold, and why an address is not among them.
//!
//! Unlike layer 2, where the placement names one node, every node that can carry an address announces it, and nobody
//! has to be asked: a speaker goes on announcing, and taking back, while the controller is away. So the inputs are the
//! claims of all VirtualIPs (an address that merely stands in a Service's status is nobody's), the Services that hold
//! them, their endpoints, this speaker's own Node, and the configuration. [`Bgp::handle`] takes them in,
//! [`Bgp::plan`] decides anew about the addresses that they touch and gives the whole [`BgpPlan`] when it has changed:
//! each router with its settings and its routes. It cannot fail and waits for nothing; [`Bgp::deadline`] says when time
//! alone changes the plan.
//!
//! - Nothing is planned before every stream was heard in full ([`Input::BgpSynced`]): after a restart a router drops the
//!   routes that the first plan does not have.
//! - A Service is announced from a node that a BGPAdvertisement selects for it, unless the node is labelled to be left
//!   out, its network is reported unavailable, or no endpoint can serve: under traffic policy Cluster none anywhere,
//!   under Local none on the node. Each no is a [`NodeRefusal`].
//! - Several advertisements for an address wish several things of one prefix. The plan has all wishes; whoever tells the
//!   router merges them, by a rule that does not depend on their order (`ferrolb_bgp::Attributes::merge`). Addresses
//!   that are aggregated into one prefix are merged in the same way, and the prefix goes with the last of them.
//! - What is announced stays announced while an advertisement cannot be read, and a session keeps the key it has while
//!   its Secret is missing.
//! - An address that begins to be announced waits until kube-proxy is ready ([`crate::DataPath`]). What routers may still
//!   hold from this speaker's last run is no beginning.
//! - A node that is drained marks its routes as leaving (RFC 8326) before it takes them back, and announces them at once
//!   when the drain ends.
//!
//! `judge.rs` decides about one Service on one address, `drain.rs` when a node gives up, `peers.rs` finds what a peer has of the node, `plan.rs` puts it together.

mod drain;
mod judge;
mod peers;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{
    Config, Labels, NodeRefusal, NodeView, Password, PasswordSource, ServiceId, ServiceType, ServiceView,
    TrafficPolicy, VirtualIp,
};
use litemap::LiteMap;

use crate::claims::Claims;
use crate::data_path::{DataPath, NotReady};
use crate::input::Input;
use crate::speaker::Settings;

use drain::{Candidates, Drain, Other};
use judge::Standing;

pub use peers::{NotOnNode, Sought};
pub use plan::{BgpPlan, PeerRefusal, PlannedPeer, PlannedRoutes, RouteAttributes};

/// What is kept of a Service that may hold an address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    /// For events.
    uid: Box<str>,
    labels: Labels,
    traffic_policy: TrafficPolicy,
    /// The policy it asks for.
    policy: Option<Box<str>>,
}

/// What is kept of a VirtualIP.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claimed {
    pool: Option<Box<str>>,
    /// In order, each once.
    by: Box<[ServiceId]>,
}

/// The addresses to decide anew about.
#[derive(Debug)]
enum Stale {
    All,
    These(BTreeSet<IpAddr>),
}

/// The BGP side of the speaker of one node.
#[derive(Debug)]
pub struct Bgp {
    settings: Settings,
    synced: bool,
    config: Arc<Config>,
    node: NodeView,
    drain: Drain,
    /// The other nodes, by name.
    others: BTreeMap<String, Other>,
    holders: LiteMap<ServiceId, Holder>,
    ips: LiteMap<IpAddr, Claimed>,
    /// Which addresses in `ips` a Service claims.
    claimed_by: Claims,
    /// The annotations of this node.
    annotations: Labels,
    /// The default gateways of this node, by interface.
    gateways: BTreeMap<String, BTreeSet<IpAddr>>,
    /// What was found on this node for each peer.
    found: BTreeMap<String, peers::Found>,
    /// The keys that are there, by the names of their Secrets.
    passwords: BTreeMap<String, Password>,
    /// The key that each peer last had, with the name of its Secret.
    last_passwords: BTreeMap<String, (String, Password)>,
    /// How each Service stands on each address it claims, where an advertisement speaks for it.
    standings: BTreeMap<IpAddr, BTreeMap<ServiceId, Standing>>,
    stale: Stale,
    /// The peers or their keys have changed.
    peers_stale: bool,
    router_id: Option<Ipv4Addr>,
    plan: Arc<BgpPlan>,
    /// `plan` is one that was made here.
    planned: bool,
    /// Routers may hold what the last run of this speaker announced, and nothing was planned yet.
    resuming: bool,
    /// What waits for kube-proxy, since when.
    waiting: BTreeMap<(IpAddr, ServiceId), Wait>,
    /// What was begun although kube-proxy was not ready.
    late: Vec<Late>,
}

/// How long something waits for kube-proxy.
#[derive(Clone, Copy, Debug)]
struct Wait {
    since: Duration,
    until: Duration,
}

/// An address that is announced although kube-proxy is not known to serve it, because it has waited for long enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// The address.
    pub address: IpAddr,
    /// Who holds it.
    pub service: ServiceId,
    /// Its uid.
    pub uid: String,
    /// How long it has waited.
    pub waited: Duration,
    /// What is missing.
    pub why: NotReady,
}

impl Bgp {
    /// That of the node `node_name`, which knows nothing yet.
    pub fn new(node_name: impl Into<String>, settings: Settings) -> Self {
        Bgp {
            settings,
            synced: false,
            config: Arc::default(),
            node: NodeView {
                name: node_name.into(),
                labels: Labels::new(),
                ready: false,
                silent: false,
                network_unavailable: false,
                excluded: false,
                cordoned: false,
                evicting: false,
                addresses: BTreeSet::new(),
            },
            drain: Drain::default(),
            others: BTreeMap::new(),
            holders: LiteMap::new(),
            ips: LiteMap::new(),
            claimed_by: Claims::default(),
            annotations: Labels::new(),
            gateways: BTreeMap::new(),
            found: BTreeMap::new(),
            passwords: BTreeMap::new(),
            last_passwords: BTreeMap::new(),
            standings: BTreeMap::new(),
            stale: Stale::All,
            peers_stale: true,
            router_id: None,
            plan: Arc::default(),
            planned: false,
            resuming: false,
            waiting: BTreeMap::new(),
            late: Vec::new(),
        }
    }

    /// Routers may still hold what the last run of this speaker announced: the first plan waits for nothing.
    pub fn resume(&mut self) {
        self.resuming = true;
    }

    /// What the last run planned, from its snapshot. It stays in force until there is a plan, which takes its identifier
    /// and the keys of its sessions over where there are no others.
    pub fn restore(&mut self, plan: Arc<BgpPlan>) {
        self.router_id = Some(plan.router_id);
        let keys = plan
            .peers
            .iter()
            .filter_map(|(name, planned)| match &planned.peer.password {
                Some(PasswordSource::Secret(secret)) => {
                    Some((name.clone(), (secret.clone(), planned.password.clone()?)))
                }
                Some(PasswordSource::Text(_)) | None => None,
            });
        self.last_passwords = keys.collect();
        self.plan = plan;
    }

    /// Takes one piece of news in. What concerns layer 2 alone means nothing here.
    pub fn handle(&mut self, input: &Input) {
        match input {
            Input::Config(config) if self.config != *config => {
                self.config = Arc::clone(config);
                self.reconsider_all();
            }
            Input::OwnNode(view) if view.name == self.node.name && *view != self.node => {
                self.node = view.clone();
                self.reconsider_all();
            }
            Input::OwnAnnotations(annotations) => {
                let differs = |key: &str| annotations.get(key) != self.annotations.get(key);
                self.peers_stale |= peers::named_annotations(&self.config).any(differs);
                self.annotations.clone_from(annotations);
            }
            Input::Gateways(gateways) if self.gateways != *gateways => {
                self.gateways.clone_from(gateways);
                self.peers_stale = true;
            }
            Input::OtherNode(view) => {
                let other = Other::of(view);
                if self.others.get(&view.name) != Some(&other) {
                    self.others.insert(view.name.clone(), other);
                    self.reconsider_drain();
                }
            }
            Input::OtherNodeGone(name) if self.others.remove(name).is_some() => self.reconsider_drain(),
            Input::Service(view) => self.service(view),
            Input::ServiceGone(id) => self.service_gone(id),
            Input::VirtualIp(ip) => self.virtual_ip(ip),
            Input::VirtualIpGone(address) => self.keep(*address, None),
            Input::Password { secret, password } => {
                match password {
                    Some(password) => drop(self.passwords.insert(secret.clone(), password.clone())),
                    None => drop(self.passwords.remove(secret)),
                }
                self.peers_stale = true;
            }
            Input::BgpSynced => self.synced = true,
            _ => {}
        }
    }

    /// The endpoints of these Services have changed, as [`DataPath::hear`] says.
    pub fn endpoints_changed(&mut self, services: &[ServiceId]) {
        services.iter().for_each(|service| self.reconsider_claims_of(service));
    }

    /// Each Service that is announced to some router, with its address.
    pub fn announced(&self) -> impl Iterator<Item = (&ServiceId, IpAddr)> {
        self.standings.iter().flat_map(|(address, services)| {
            let announced = services.iter().filter(|(_, standing)| standing.wishes().is_some());
            announced.map(|(service, _)| (service, *address))
        })
    }

    /// The Services that an advertisement speaks for and that are not announced, with the address and the reason.
    pub fn withheld(&self) -> impl Iterator<Item = (&ServiceId, IpAddr, NodeRefusal)> {
        self.standings.iter().flat_map(|(address, services)| {
            let withheld = services
                .iter()
                .filter_map(|(service, standing)| Some((service, standing.refusal()?)));
            withheld.map(|(service, why)| (service, *address, why))
        })
    }

    /// Whether something waits for kube-proxy.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What is to be asked for that besides kube-proxy itself.
    pub fn checks(&self, path: &DataPath) -> BTreeSet<SocketAddr> {
        let waiting = self.waiting.keys();
        waiting
            .flat_map(|(address, service)| path.checks(*address, [service]))
            .collect()
    }

    /// What was begun since the last call although kube-proxy was not ready.
    pub fn late(&mut self) -> Vec<Late> {
        std::mem::take(&mut self.late)
    }

    /// When the plan changes by itself.
    pub fn deadline(&self) -> Option<Duration> {
        let waiting = self.waiting.values().map(|wait| wait.until);
        self.timed().map(|(_, until)| until).chain(waiting).min()
    }

    /// The addresses about which time alone decides anew, and when. There are none unless the node is drained.
    fn timed(&self) -> impl Iterator<Item = (IpAddr, Duration)> {
        let standings = (!self.drain.is_empty())
            .then_some(&self.standings)
            .into_iter()
            .flatten();
        standings.flat_map(|(address, services)| {
            let until = services.values().filter_map(Standing::until);
            until.map(|until| (*address, until))
        })
    }

    /// The plan, if it is the first or another than the one given last. Of what begins it has what `path` is ready for.
    pub fn plan(&mut self, path: &DataPath, now: Duration) -> Option<Arc<BgpPlan>> {
        self.drain.look(&self.node, now);
        if !self.synced {
            return None;
        }
        let candidates = Candidates::default();
        let mut changed = std::mem::take(&mut self.peers_stale);
        for address in self.due(now) {
            changed |= self.judge(address, path, now, &candidates);
        }
        self.resuming = false;
        if !changed {
            return None;
        }
        let plan = self.draw();
        if plan == *self.plan && self.planned {
            return None;
        }
        self.planned = true;
        self.plan = Arc::new(plan);
        Some(Arc::clone(&self.plan))
    }

    /// The addresses to decide about now.
    fn due(&mut self, now: Duration) -> BTreeSet<IpAddr> {
        let mut due = match std::mem::replace(&mut self.stale, Stale::These(BTreeSet::new())) {
            Stale::All => self.ips.keys().chain(self.standings.keys()).copied().collect(),
            Stale::These(these) => these,
        };
        let over = self.timed().filter(|(_, until)| *until <= now);
        due.extend(over.map(|(address, _)| address));
        due.extend(self.waiting.keys().map(|(address, _)| *address));
        due
    }

    fn service(&mut self, view: &ServiceView) {
        if view.kind != ServiceType::LoadBalancer || view.class != self.settings.load_balancer_class {
            return self.service_gone(&view.id);
        }
        let holder = Holder {
            uid: view.uid.as_str().into(),
            labels: view.labels.clone(),
            traffic_policy: view.traffic_policy,
            policy: view.announcement_policy.as_deref().map(Into::into),
        };
        if self.holders.get(&view.id) != Some(&holder) {
            self.holders.insert(view.id.clone(), holder);
            self.reconsider_claims_of(&view.id);
        }
    }

    fn service_gone(&mut self, id: &ServiceId) {
        if self.holders.remove(id).is_some() {
            self.reconsider_claims_of(id);
        }
    }

    fn virtual_ip(&mut self, ip: &VirtualIp) {
        let by: BTreeSet<&ServiceId> = ip.claims.iter().map(|claim| &claim.service).collect();
        let claimed = Claimed {
            pool: ip.pool.as_deref().map(Into::into),
            by: by.into_iter().cloned().collect(),
        };
        if self.ips.get(&ip.address) != Some(&claimed) {
            self.keep(ip.address, Some(claimed));
        }
    }

    /// Replaces what is known of a VirtualIP, and the index over its claims.
    fn keep(&mut self, address: IpAddr, claimed: Option<Claimed>) {
        for service in self.ips.remove(&address).into_iter().flat_map(|claimed| claimed.by) {
            self.claimed_by.remove(service, address);
        }
        if let Some(claimed) = claimed {
            for service in &claimed.by {
                self.claimed_by.insert(service.clone(), address);
            }
            self.ips.insert(address, claimed);
        }
        self.reconsider([address]);
    }

    fn reconsider_claims_of(&mut self, service: &ServiceId) {
        let addresses = self.claimed_by.of(service);
        self.reconsider(addresses);
    }

    fn reconsider(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        if let Stale::These(these) = &mut self.stale {
            these.extend(addresses);
        }
    }

    /// Other nodes count where this one is to give something up.
    fn reconsider_drain(&mut self) {
        if !self.drain.is_empty() {
            self.stale = Stale::All;
        }
    }

    fn reconsider_all(&mut self) {
        self.stale = Stale::All;
        self.peers_stale = true;
    }
}
