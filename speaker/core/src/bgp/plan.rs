//! The plan: all peers of this node with what each of them shall hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ferrolb_model::{Community, ExtendedCommunity, Password, PasswordSource, Peer, PeerEndpoint, ServiceId};
use ipnet::IpNet;
use thiserror::Error;

use super::Bgp;
use super::judge::{Standing, Wish, leaving};
use super::peers::{self, Node, NotOnNode};

/// What is said about a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteAttributes {
    /// LOCAL_PREF; `None`: not set.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC; `None`: not sent.
    pub med: Option<u32>,
    /// How often our AS number is put in front once more.
    pub prepend: u8,
    /// Standard and large communities.
    pub communities: BTreeSet<Community>,
    /// Extended communities, but for the bandwidth.
    pub extended_communities: BTreeSet<ExtendedCommunity>,
    /// Bandwidth behind the route in octets per second.
    pub link_bandwidth: Option<u64>,
}

/// For each prefix everything that is wished of it, to be merged.
pub type PlannedRoutes = BTreeMap<IpNet, BTreeSet<Arc<RouteAttributes>>>;

/// What this node does by BGP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpPlan {
    /// The BGP identifier for peers that name none: the first IPv4 address of the Node, otherwise made of its name. It
    /// stays while the process lives, because a change would reset all sessions.
    pub router_id: Ipv4Addr,
    /// The node is being drained, and keeps nothing: if the speaker ends now, it leaves for good.
    pub draining: bool,
    /// The sessions, by the name of the peer.
    pub peers: BTreeMap<String, PlannedPeer>,
    /// What is wrong with peers. Those that are not in `peers` as well have no session.
    pub refused: BTreeMap<String, PeerRefusal>,
    /// The Services that routers are told of, each with the peers that hold a prefix with its address.
    pub services: BTreeMap<ServiceId, Arc<BTreeSet<String>>>,
}

impl Default for BgpPlan {
    fn default() -> Self {
        BgpPlan {
            router_id: Ipv4Addr::UNSPECIFIED,
            draining: false,
            peers: BTreeMap::new(),
            refused: BTreeMap::new(),
            services: BTreeMap::new(),
        }
    }
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPeer {
    /// The peer's settings.
    pub peer: Peer,
    /// Its key.
    pub password: Option<Password>,
    /// What it shall hold. Peers that shall hold the same share it.
    pub routes: Arc<PlannedRoutes>,
}

/// Why a peer of this node has no session, or one that is not as configured.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerRefusal {
    /// A policy says where to look for its address or its AS number, and there is none.
    #[error(transparent)]
    NotOnNode(#[from] NotOnNode),
    /// On this node it is the router of another peer.
    #[error("on this node it is {endpoint}, as BGPPeer {other:?} is; one router has one session")]
    SameRouter {
        /// Where both are.
        endpoint: PeerEndpoint,
        /// The other peer.
        other: String,
    },
    /// Its key is not there.
    #[error(
        "spec.passwordSecret.name: {secret:?}: there is no such Secret of type kubernetes.io/basic-auth with a key \
         \"password\" of 1 to 80 octets in this namespace; create it"
    )]
    NoPassword {
        /// The Secret.
        secret: String,
    },
    /// Its key is not in the snapshot of the last run.
    #[error("its key is not kept on this disk; the session waits for the API server")]
    KeyNotKept,
}

impl PeerRefusal {
    /// The stable name.
    pub fn as_str(&self) -> &'static str {
        match self {
            PeerRefusal::NotOnNode(_) => "NotOnNode",
            PeerRefusal::SameRouter { .. } => "SameRouter",
            PeerRefusal::NoPassword { .. } => "NoPassword",
            PeerRefusal::KeyNotKept => "KeyNotKept",
        }
    }
}

impl Bgp {
    /// The plan as things stand.
    pub(super) fn draw(&mut self) -> BgpPlan {
        let config = Arc::clone(&self.config);
        let mut standings = self.standings.values().flat_map(BTreeMap::values);
        let stays = standings.any(Standing::is_staying);
        let mut plan = BgpPlan {
            router_id: self.router_id(),
            draining: !self.drain.is_empty() && !stays,
            ..BgpPlan::default()
        };
        let mut routes = RoutesByPeer::new(self);
        let here = config.peers.values().filter(|peer| peer.covers_node(&self.node.labels));
        let (mut passwords, mut found) = (BTreeMap::new(), BTreeMap::new());
        let mut places = BTreeMap::new();
        for peer in here {
            let mut known = self.found.get(&peer.name).cloned().unwrap_or_default();
            let (on_node, wrong) = peers::on_node(&config, peer, self.own(), &mut known);
            found.insert(peer.name.clone(), known);
            if let Some(wrong) = wrong {
                plan.refused.insert(peer.name.clone(), wrong.into());
            }
            let Some(peer) = on_node else { continue };
            let place = (peer.endpoint.clone(), peer.vrf.clone());
            if let Some(other) = places.get(&place) {
                let (endpoint, other) = (place.0, String::clone(other));
                let refusal = PeerRefusal::SameRouter { endpoint, other };
                plan.refused.insert(peer.name.clone(), refusal);
                continue;
            }
            places.insert(place, peer.name.clone());
            let password = match &peer.password {
                None => None,
                Some(PasswordSource::Text(password)) => Some(password.clone()),
                Some(PasswordSource::Secret(secret)) => {
                    let given = self.passwords.get(secret);
                    if given.is_none() {
                        let secret = secret.clone();
                        plan.refused
                            .insert(peer.name.clone(), PeerRefusal::NoPassword { secret });
                    }
                    let last = self.last_passwords.get(&peer.name);
                    let last = last.filter(|(of, _)| of == secret).map(|(_, password)| password);
                    let Some(password) = given.or(last) else { continue };
                    passwords.insert(peer.name.clone(), (secret.clone(), password.clone()));
                    Some(password.clone())
                }
            };
            let planned = PlannedPeer {
                routes: routes.of(&peer.name),
                peer,
                password,
            };
            plan.peers.insert(planned.peer.name.clone(), planned);
        }
        plan.services = routes.services(&plan.peers);
        (self.last_passwords, self.found) = (passwords, found);
        plan
    }

    fn own(&self) -> Node<'_> {
        Node {
            name: &self.node.name,
            labels: &self.node.labels,
            annotations: &self.annotations,
            gateways: &self.gateways,
        }
    }

    fn router_id(&mut self) -> Ipv4Addr {
        let of_node = || {
            let mut v4 = self.node.addresses.iter().filter_map(|address| match address {
                IpAddr::V4(v4) => Some(*v4),
                IpAddr::V6(_) => None,
            });
            v4.find(|v4| !v4.is_unspecified())
        };
        let id = self
            .router_id
            .unwrap_or_else(|| of_node().unwrap_or_else(|| id_of(&self.node.name)));
        self.router_id = Some(id);
        id
    }
}

/// An identifier that is the same on every start: FNV-1a of the name, and not 0.
fn id_of(name: &str) -> Ipv4Addr {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    Ipv4Addr::from(hash.max(1))
}

/// The wishes for each peer. Peers that the same advertisements speak to share their routes.
struct RoutesByPeer<'a> {
    /// Each wish, whose it is, and whether it is about to go.
    wishes: Vec<(&'a ServiceId, &'a Wish, bool)>,
    /// The sets of peers that wishes name.
    audiences: BTreeSet<&'a Option<BTreeSet<String>>>,
    shared: BTreeMap<Vec<bool>, Arc<PlannedRoutes>>,
}

impl<'a> RoutesByPeer<'a> {
    fn new(bgp: &'a Bgp) -> Self {
        let standings = bgp.standings.values().flatten();
        let wishes: Vec<_> = standings
            .flat_map(|(service, standing)| {
                let leaving = standing.is_leaving();
                let wishes = standing.wishes().unwrap_or_default().iter();
                wishes.map(move |wish| (service, wish, leaving))
            })
            .collect();
        RoutesByPeer {
            audiences: wishes.iter().map(|(_, wish, _)| &wish.peers).collect(),
            wishes,
            shared: BTreeMap::new(),
        }
    }

    fn of(&mut self, peer: &str) -> Arc<PlannedRoutes> {
        let hears = |audience: &&Option<BTreeSet<String>>| audience.as_ref().is_none_or(|peers| peers.contains(peer));
        let signature = self.audiences.iter().map(hears).collect();
        let routes = self.shared.entry(signature);
        Arc::clone(routes.or_insert_with(|| Arc::new(routes_for(peer, &self.wishes))))
    }

    /// The Services with the peers that hold a prefix of theirs. Most have the same peers, which they share.
    fn services(&self, peers: &BTreeMap<String, PlannedPeer>) -> BTreeMap<ServiceId, Arc<BTreeSet<String>>> {
        let hear = |audience: &Option<BTreeSet<String>>| match audience {
            None => peers.keys().cloned().collect(),
            Some(named) => named.iter().filter(|name| peers.contains_key(*name)).cloned().collect(),
        };
        let hear = |audience: &&'a Option<BTreeSet<String>>| (*audience, Arc::new(hear(audience)));
        let heard: BTreeMap<_, Arc<BTreeSet<String>>> = self.audiences.iter().map(hear).collect();
        let mut of_prefix = BTreeMap::new();
        for (_, wish, _) in &self.wishes {
            join(&mut of_prefix, wish.prefix, &heard[&wish.peers]);
        }
        let mut services = BTreeMap::new();
        for (service, wish, _) in &self.wishes {
            join(&mut services, *service, &of_prefix[&wish.prefix]);
        }
        let told = services.into_iter().filter(|(_, peers)| !peers.is_empty());
        told.map(|(service, peers)| (service.clone(), peers)).collect()
    }
}

/// Adds `more` to what `of` has.
fn join<K: Ord>(sets: &mut BTreeMap<K, Arc<BTreeSet<String>>>, of: K, more: &Arc<BTreeSet<String>>) {
    let set = sets.entry(of).or_insert_with(|| Arc::clone(more));
    if !Arc::ptr_eq(set, more) {
        Arc::make_mut(set).extend(more.iter().cloned());
    }
}

/// Of a prefix that some stay with, nothing is about to go.
fn routes_for(peer: &str, wishes: &[(&ServiceId, &Wish, bool)]) -> PlannedRoutes {
    let mut routes = PlannedRoutes::new();
    let told = wishes.iter().filter(|(_, wish, _)| wish.is_for(peer));
    let (leave, stay): (Vec<_>, Vec<_>) = told.partition(|(_, _, leaving)| *leaving);
    for (_, wish, _) in stay {
        routes
            .entry(wish.prefix)
            .or_default()
            .insert(Arc::clone(&wish.attributes));
    }
    let staying: BTreeSet<IpNet> = routes.keys().copied().collect();
    for (_, wish, _) in leave.into_iter().filter(|(_, wish, _)| !staying.contains(&wish.prefix)) {
        let attributes = Arc::new(leaving(&wish.attributes));
        routes.entry(wish.prefix).or_default().insert(attributes);
    }
    routes
}
