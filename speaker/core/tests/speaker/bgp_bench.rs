//! What the tests of BGP have in common: objects that want nothing special, and a core that is told them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{
    AnnouncementPolicy, BgpAdvertisement, BgpSettings, Config, Endpoint, EndpointsView, Family, NodeRefusal, NodeView,
    Opener, Peer, PeerEndpoint, PoolSelection, RemoteAsn,
};
use ferrolb_speaker_core::{Bgp, BgpPlan, DataPath, Input, RouteAttributes, Settings};

use crate::make::{ME, OTHER, id, ip, labels, pool, service, virtual_ip};

/// The address of the Service `web`.
pub(crate) const WEB: &str = "192.0.2.7";

pub(crate) fn peer(name: &str, n: u8) -> Peer {
    Peer {
        name: name.to_owned(),
        my_asn: 64600,
        local_asn: None,
        remote_asn: RemoteAsn::Number(64512),
        endpoint: PeerEndpoint::Address(IpAddr::from([10, 0, 0, n])),
        port: 179,
        source_address: None,
        timers: None,
        connect_time: None,
        router_id: None,
        node_selectors: Vec::new(),
        password: None,
        bfd: None,
        graceful_restart: false,
        ebgp_multihop: false,
        vrf: None,
        dual_stack: false,
        opener: Opener::Speaker,
        ttl_security: None,
    }
}

pub(crate) fn ad(name: &str) -> BgpAdvertisement {
    BgpAdvertisement {
        name: name.to_owned(),
        pools: PoolSelection::All,
        node_selectors: Vec::new(),
        service_selectors: Vec::new(),
        peers: None,
        aggregation_v4: 32,
        aggregation_v6: 128,
        local_pref: None,
        as_path_prepend: None,
        communities: BTreeSet::new(),
    }
}

pub(crate) fn policy(name: &str, bgp: BgpSettings) -> AnnouncementPolicy {
    AnnouncementPolicy {
        name: name.to_owned(),
        bgp,
        ..AnnouncementPolicy::default()
    }
}

/// One peer, one advertisement of everything.
pub(crate) fn config() -> Config {
    with(vec![peer("one", 1)], vec![ad("all")])
}

pub(crate) fn with(peers: Vec<Peer>, ads: Vec<BgpAdvertisement>) -> Config {
    Config {
        pools: BTreeMap::from([("lan".to_owned(), pool("lan", "192.0.2.0/24"))]),
        peers: peers.into_iter().map(|p| (p.name.clone(), p)).collect(),
        bgp_advertisements: ads.into_iter().map(|a| (a.name.clone(), a)).collect(),
        ..Config::default()
    }
}

pub(crate) fn node() -> NodeView {
    NodeView {
        name: ME.to_owned(),
        labels: labels(&[("rack", "a")]),
        ready: true,
        silent: false,
        network_unavailable: false,
        excluded: false,
        cordoned: false,
        evicting: false,
        addresses: [ip("10.0.0.11")].into(),
    }
}

/// `ready` or terminating endpoints of a Service, each on its node.
pub(crate) fn endpoints(name: &str, each: &[(&str, bool)]) -> Input {
    let endpoint = |(node, ready): &(&str, bool)| Endpoint {
        node: Some((*node).to_owned()),
        ready: *ready,
        serving: true,
    };
    Input::Endpoints(EndpointsView {
        slice: ("shop".to_owned(), format!("{name}-1")),
        service: id(name),
        family: Family::V4,
        endpoints: each.iter().map(endpoint).collect(),
    })
}

/// What makes the Service `web` announced.
pub(crate) fn facts(config: Config) -> Vec<Input> {
    vec![
        Input::Config(Arc::new(config)),
        Input::OwnNode(node()),
        Input::Service(service("web", labels(&[("app", "web")]))),
        Input::VirtualIp(virtual_ip(ip(WEB), None, &["web"])),
        endpoints("web", &[(OTHER, true)]),
        Input::BgpSynced,
    ]
}

/// A speaker's decisions about BGP, which are looked at after each input.
pub(crate) struct Bench {
    pub(crate) bgp: Bgp,
    pub(crate) path: DataPath,
    pub(crate) plan: Arc<BgpPlan>,
    pub(crate) now: Duration,
}

impl Bench {
    pub(crate) fn new(facts: Vec<Input>) -> Bench {
        let mut bench = Bench {
            bgp: Bgp::new(ME, Settings::default()),
            path: DataPath::off(ME),
            plan: Arc::default(),
            now: Duration::from_secs(1),
        };
        facts.iter().for_each(|input| bench.hear(input));
        bench.look();
        bench
    }

    pub(crate) fn tell(&mut self, input: Input) -> &mut Self {
        self.hear(&input);
        self.look()
    }

    pub(crate) fn hear(&mut self, input: &Input) {
        let endpoints = self.path.hear(input, self.now);
        self.bgp.handle(input);
        self.bgp.endpoints_changed(&endpoints);
    }

    /// Gives time a step; whether the plan has changed.
    pub(crate) fn wait(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self.look()
    }

    pub(crate) fn look(&mut self) -> &mut Self {
        if let Some(plan) = self.bgp.plan(&self.path, self.now) {
            self.plan = plan;
        }
        assert!(self.bgp.plan(&self.path, self.now).is_none(), "nothing is told twice");
        self
    }

    /// The prefixes that a peer shall hold.
    pub(crate) fn prefixes(&self, peer: &str) -> Vec<String> {
        self.plan.peers[peer].routes.keys().map(ToString::to_string).collect()
    }

    /// Everything wished of a prefix.
    pub(crate) fn wishes(&self, peer: &str, prefix: &str) -> Vec<RouteAttributes> {
        let wishes = &self.plan.peers[peer].routes[&prefix.parse().unwrap()];
        wishes.iter().map(|wish| RouteAttributes::clone(wish)).collect()
    }

    pub(crate) fn withheld(&self) -> Vec<NodeRefusal> {
        self.bgp.withheld().map(|(_, _, why)| why).collect()
    }
}
