//! From a plan to what the engines want. Pure: what is known of this machine and its links is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_bfd::WantedSession;
use ferrolb_bgp::discovery::{Finding, Found};
use ferrolb_bgp::settings::{GracefulRestart, Opening, Password, Reach, SettingsError};
use ferrolb_bgp::{
    Attributes, Community, ExtendedCommunity, LargeCommunity, NextHop, Peer, RemoteAsn, Routes, Wanted, WantedPeer,
};
use ferrolb_model as model;
use ferrolb_model::{Administrator, ExtendedKind, FamilySet, PeerEndpoint};
use ferrolb_speaker_core::{BgpPlan, PlannedPeer, PlannedRoutes, RouteAttributes};
use ipnet::IpNet;

/// How long routers keep routes while the speaker restarts; what FRR uses.
pub(crate) const RESTART_TIME: u16 = 120;

/// Routes as planned, and what they became.
pub(super) type Known = Vec<(Arc<PlannedRoutes>, Arc<Routes>)>;

/// What comes of a plan.
#[derive(Debug, Default)]
pub(super) struct Converted {
    /// For BGP.
    pub(super) bgp: Wanted,
    /// For BFD.
    pub(super) bfd: ferrolb_bfd::Wanted,
    /// The path of each peer that BFD watches.
    pub(super) paths: BTreeMap<String, Arc<ferrolb_bfd::Path>>,
    /// Peers whose settings cannot be used, and why.
    pub(super) faults: BTreeMap<String, String>,
}

/// What is known of the network around this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground<'a> {
    /// The subnets it is in.
    pub(super) subnets: &'a [IpNet],
    /// The routers at the other ends of its links, where one is wanted.
    pub(super) found: &'a Found,
}

/// The interfaces of a plan at whose other end a router has to be found.
pub(super) fn links(plan: &BgpPlan) -> BTreeSet<String> {
    let interfaces = plan.peers.values().filter_map(|planned| match &planned.peer.endpoint {
        PeerEndpoint::Interface(name) => Some(name.clone()),
        PeerEndpoint::Address(_) | PeerEndpoint::OnLink(..) | PeerEndpoint::ByPolicy => None,
    });
    interfaces.collect()
}

/// Turns a plan into what the engines want. `before` is what came of the last one, so that what has not changed stays
/// the same object.
pub(super) fn convert(plan: &BgpPlan, before: &Known, ground: Ground<'_>) -> (Converted, Known) {
    let mut converted = Converted::default();
    let mut shared = Known::new();
    for (name, planned) in &plan.peers {
        let peer = address(&planned.peer.endpoint, ground.found).and_then(|address| {
            let peer = settings(address, planned, plan.router_id);
            peer.map_err(|error| error.to_string())
        });
        let peer = match peer {
            Ok(peer) => peer,
            Err(error) => {
                converted.faults.insert(name.clone(), error);
                continue;
            }
        };
        let routes = match shared.iter().find(|(of, _)| *of == planned.routes) {
            Some((_, routes)) => Arc::clone(routes),
            None => {
                let known = before.iter().find(|(of, _)| *of == planned.routes);
                let routes = known.map_or_else(|| Arc::new(routes(&planned.routes)), |(_, routes)| Arc::clone(routes));
                shared.push((Arc::clone(&planned.routes), Arc::clone(&routes)));
                routes
            }
        };
        if let Some(profile) = &planned.peer.bfd {
            let path = Arc::new(path(&planned.peer, &peer, ground.subnets));
            // Two peers behind one path share its session, with the settings of the first.
            converted
                .bfd
                .sessions
                .entry(Arc::clone(&path))
                .or_insert_with(|| WantedSession {
                    settings: profile.as_ref().into(),
                    minimum_ttl: profile.minimum_ttl,
                    discriminator: None,
                });
            converted.paths.insert(name.clone(), path);
        }
        let peer = Arc::new(peer);
        converted.bgp.peers.insert(name.clone(), WantedPeer { peer, routes });
    }
    (converted, shared)
}

/// The router's address; or why there is none yet.
fn address(endpoint: &PeerEndpoint, found: &Found) -> Result<IpAddr, String> {
    match endpoint {
        PeerEndpoint::Address(address) => Ok(*address),
        PeerEndpoint::OnLink(address, _) => Ok((*address).into()),
        PeerEndpoint::ByPolicy => Err("no policy gives it an address".to_owned()),
        PeerEndpoint::Interface(name) => {
            let finding = found.get(name).unwrap_or(&Finding::Nobody);
            let router = finding.router().map(IpAddr::V6);
            router.ok_or_else(|| format!("spec.interface: {name:?}: {finding}"))
        }
    }
}

fn settings(address: IpAddr, planned: &PlannedPeer, router_id: std::net::Ipv4Addr) -> Result<Peer, SettingsError> {
    let given = &planned.peer;
    let remote_asn = match given.remote_asn {
        model::RemoteAsn::Number(asn) => RemoteAsn::Is(asn),
        model::RemoteAsn::Internal => RemoteAsn::Internal,
        model::RemoteAsn::External => RemoteAsn::External,
    };
    let router_id = given.router_id.unwrap_or(router_id);
    let mut peer = Peer::new(address, given.shown_asn(), remote_asn, router_id);
    peer.port = given.port;
    peer.source = given.source_address;
    peer.vrf.clone_from(&given.vrf);
    if let PeerEndpoint::Interface(name) | PeerEndpoint::OnLink(_, name) = &given.endpoint {
        peer.interface = Some(name.clone());
    }
    if given.dual_stack || matches!(given.endpoint, PeerEndpoint::Interface(_)) {
        peer.families = FamilySet { v4: true, v6: true };
    }
    if let Some(timers) = given.timers {
        peer.hold_time = whole_seconds(timers.hold);
        peer.keepalive = Some(whole_seconds(timers.keepalive)).filter(|k| *k > 0 && peer.hold_time > 0);
    }
    if let Some(pause) = given.connect_time {
        peer.connect_retry = pause;
    }
    peer.opening = match given.opener {
        model::Opener::Speaker => Opening::Dial,
        model::Opener::Router => Opening::Listen,
        model::Opener::Both => Opening::DialAndListen,
    };
    peer.reach = match given.ttl_security {
        Some(hops) => Reach::Secured { hops },
        None if given.ebgp_multihop => Reach::MultiHop,
        None => Reach::Direct,
    };
    if given.graceful_restart {
        let restart_time = RESTART_TIME;
        peer.graceful_restart = Some(GracefulRestart { restart_time });
    }
    let key = planned
        .password
        .as_ref()
        .map(|key| Password::new(key.reveal().as_bytes()));
    peer.password = key.transpose()?;
    Ok(peer)
}

/// The configuration has them within 16 bits.
fn whole_seconds(time: Duration) -> u16 {
    u16::try_from(time.as_secs()).unwrap_or(u16::MAX)
}

/// Over several hops if that is said in either way, and towards routers of our own AS that are in none of our subnets, as FRR does.
fn path(given: &model::Peer, peer: &Peer, subnets: &[IpNet]) -> ferrolb_bfd::Path {
    let address = peer.address;
    let near = peer.interface.is_some() || subnets.iter().any(|subnet| subnet.contains(&address));
    let far = given.ebgp_multihop || given.ttl_security.is_some_and(|hops| hops > 1);
    ferrolb_bfd::Path {
        peer: address,
        local: given.source_address,
        interface: peer.interface.clone(),
        vrf: given.vrf.clone(),
        multi_hop: peer.interface.is_none() && far || !peer.is_external() && !near,
    }
}

fn routes(planned: &PlannedRoutes) -> Routes {
    let wishes = planned
        .iter()
        .flat_map(|(prefix, wishes)| wishes.iter().map(|wish| (*prefix, attributes(wish))));
    wishes.collect()
}

fn attributes(planned: &RouteAttributes) -> Attributes {
    let mut attributes = Attributes {
        next_hop: NextHop::Session,
        local_pref: planned.local_pref,
        med: planned.med,
        prepend: planned.prepend,
        extended_communities: planned.extended_communities.iter().map(extended).collect(),
        link_bandwidth: planned.link_bandwidth,
        ..Attributes::default()
    };
    for community in &planned.communities {
        match *community {
            model::Community::Standard(asn, value) => {
                attributes.communities.insert(Community::new(asn, value));
            }
            model::Community::Large(a, b, c) => {
                attributes.large_communities.insert(LargeCommunity(a, b, c));
            }
        }
    }
    attributes
}

/// RFC 4360 section 3, RFC 5668 section 2: type, subtype, administrator and number.
fn extended(community: &model::ExtendedCommunity) -> ExtendedCommunity {
    let subtype: u64 = match community.kind {
        ExtendedKind::RouteTarget => 2,
        ExtendedKind::SiteOfOrigin => 3,
    };
    let (kind, value): (u64, u64) = match community.administrator {
        Administrator::As2(asn, number) => (0, u64::from(asn) << 32 | u64::from(number)),
        Administrator::Ipv4(address, number) => (1, u64::from(address.to_bits()) << 16 | u64::from(number)),
        Administrator::As4(asn, number) => (2, u64::from(asn) << 16 | u64::from(number)),
    };
    ExtendedCommunity(kind << 56 | subtype << 48 | value)
}

#[cfg(test)]
pub(crate) mod tests;
