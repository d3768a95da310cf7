//! `BGPPeer`, by itself and next to the older peers of the same nodes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_api::{BgpPeer, BgpPeerSpec, DynamicAsn};
use ferrolb_model::{
    BfdProfile, BgpTimers, Family, Opener, Password, PasswordSource, Peer, PeerEndpoint, RemoteAsn, is_interface_name,
};

use crate::duration::parse_duration;
use crate::error::{ObjectError, Outcome, Report};
use crate::nodes::SelectedNodes;
use crate::number::number;
use crate::objects::Kind;
use crate::problem::Problem;
use crate::selector::selectors;
use crate::service::parse_address;
use crate::settle::{Pass, Rules, Settled, settle};

/// The longest key that the kernel takes for TCP MD5.
const MAX_PASSWORD: usize = 80;

type Profiles = BTreeMap<String, Arc<BfdProfile>>;

/// All peers. Of two that cannot stand next to each other the newer is wrong.
pub(crate) fn peers(pass: &mut Pass<'_>, profiles: &Profiles, last: &BTreeMap<String, Peer>) -> Settled<Peer> {
    let surroundings = pass.surroundings;
    let nodes = |peer: &Peer| SelectedNodes::of(surroundings, |labels| peer.covers_node(labels));
    let rules = Rules {
        read: |object: &BgpPeer, report: &mut Report| peer(object, profiles, report),
        check: |older: &Vec<(Peer, SelectedNodes)>, peer: &Peer, _: Option<&BgpPeer>, report: &mut Report| {
            let own = nodes(peer);
            let beside = older.iter().filter(|(_, nodes)| nodes.meet(&own));
            beside.for_each(|(other, _)| conflicts(other, peer, report));
        },
        accept: |older: &mut Vec<_>, peer: &Peer| older.push((peer.clone(), nodes(peer))),
    };
    settle(pass, last, Vec::new(), rules)
}

/// What keeps a peer from standing next to an older one on the same node.
fn conflicts(older: &Peer, peer: &Peer, report: &mut Report) {
    let same_vrf = older.vrf == peer.vrf;
    if same_vrf && older.endpoint == peer.endpoint && peer.endpoint != PeerEndpoint::ByPolicy {
        let (field, value) = match &peer.endpoint {
            PeerEndpoint::Address(address) => ("spec.peerAddress", address.to_string()),
            PeerEndpoint::Interface(name) => ("spec.interface", name.clone()),
            PeerEndpoint::OnLink(..) | PeerEndpoint::ByPolicy => ("spec.peerAddress", older.endpoint.to_string()),
        };
        let problem = Problem::SamePeer {
            endpoint: value.clone(),
            other: older.name.clone(),
        };
        report.push(field, value, problem);
    }
    let mut differ = |field: &str, value: String, other_value: String| {
        if value != other_value {
            let problem = Problem::PeersDiffer {
                value: value.clone(),
                other_value,
                other: older.name.clone(),
            };
            report.push(field, value, problem);
        }
    };
    if same_vrf {
        differ("spec.myASN", peer.my_asn.to_string(), older.my_asn.to_string());
    }
    let router_id = |peer: &Peer| peer.router_id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    differ("spec.routerID", router_id(peer), router_id(older));
}

fn peer(object: &BgpPeer, profiles: &Profiles, report: &mut Report) -> Option<Peer> {
    let spec = &object.spec;
    let my_asn = number(report, "spec.myASN", spec.my_asn, 1..=u32::MAX);
    let local_asn = spec
        .local_asn
        .map(|asn| number(report, "spec.localASN", asn, 1..=u32::MAX));
    let remote_asn = remote_asn(spec, report);
    let endpoint = endpoint(spec, report);
    let source_address = source_address(spec, endpoint.as_ref(), report);
    let port = if spec.peer_port == 0 { 179 } else { spec.peer_port };
    let port = number(report, "spec.peerPort", port, 1..=16384);
    if spec.ebgp_multi_hop && spec.dynamic_asn.is_none() && spec.peer_asn == spec.my_asn {
        report.push("spec.ebgpMultiHop", "true", Problem::MultihopInternal);
    }
    Some(Peer {
        name: object.metadata.name.clone().unwrap_or_default(),
        timers: timers(spec, report),
        connect_time: connect_time(spec, report),
        router_id: router_id(spec, report),
        node_selectors: selectors(report, "spec.nodeSelectors", &spec.node_selectors),
        password: password(spec, report),
        bfd: bfd(spec, profiles, report),
        vrf: interface_name("spec.vrf", &spec.vrf, report),
        graceful_restart: spec.enable_graceful_restart,
        ebgp_multihop: spec.ebgp_multi_hop,
        dual_stack: spec.dual_stack_address_family,
        opener: Opener::default(),
        ttl_security: None,
        my_asn: my_asn?,
        local_asn: local_asn.flatten(),
        remote_asn: remote_asn?,
        endpoint: endpoint?,
        source_address,
        port: port?,
    })
}

/// The warning that a peer in force deserves.
pub(crate) fn warn(peer: &Peer) -> Vec<ObjectError> {
    let mut report = Report::new(Kind::BgpPeer, &peer.name);
    if let Some(profile) = peer.bfd.as_ref().filter(|profile| profile.echo_interval.is_some()) {
        report.push("spec.bfdProfile", &profile.name, Problem::NoEcho(profile.name.clone()));
    }
    report.into_errors(Outcome::InForce).collect()
}

fn remote_asn(spec: &BgpPeerSpec, report: &mut Report) -> Option<RemoteAsn> {
    let fields = "spec.peerASN and spec.dynamicASN";
    match (spec.peer_asn, spec.dynamic_asn) {
        (0, None) => {
            let state = "neither is set";
            report.push("spec.peerASN", "", Problem::ExactlyOne { state, fields });
            None
        }
        (0, Some(DynamicAsn::Internal)) => Some(RemoteAsn::Internal),
        (0, Some(DynamicAsn::External)) => Some(RemoteAsn::External),
        (asn, None) => Some(RemoteAsn::Number(asn)),
        (asn, Some(_)) => {
            let state = "both are set";
            report.push("spec.peerASN", asn.to_string(), Problem::ExactlyOne { state, fields });
            None
        }
    }
}

fn endpoint(spec: &BgpPeerSpec, report: &mut Report) -> Option<PeerEndpoint> {
    let fields = "spec.peerAddress and spec.interface";
    match (&*spec.peer_address, &*spec.interface) {
        ("", "") => {
            let state = "neither is set";
            report.push("spec.peerAddress", "", Problem::ExactlyOne { state, fields });
            None
        }
        (text, "") if parse_address(text).is_some_and(|address| address.is_unspecified()) => {
            Some(PeerEndpoint::ByPolicy)
        }
        (text, "") => address("spec.peerAddress", text, report).map(PeerEndpoint::Address),
        ("", name) => interface_name("spec.interface", name, report).map(PeerEndpoint::Interface),
        (text, _) => {
            let state = "both are set";
            report.push("spec.peerAddress", text, Problem::ExactlyOne { state, fields });
            None
        }
    }
}

/// A unicast address.
fn address(field: &str, text: &str, report: &mut Report) -> Option<IpAddr> {
    let parsed = parse_address(text).ok_or_else(|| Problem::Address(text.to_owned()));
    let address = report.take(field, text, parsed)?;
    if address.is_unspecified() || address.is_multicast() {
        let why = "is not the address of one machine; write a unicast address";
        let value = address.to_string();
        report.push(field, text, Problem::AddressUse { value, why });
        return None;
    }
    Some(address)
}

fn source_address(spec: &BgpPeerSpec, endpoint: Option<&PeerEndpoint>, report: &mut Report) -> Option<IpAddr> {
    let (field, text) = ("spec.sourceAddress", &*spec.source_address);
    if text.is_empty() {
        return None;
    }
    let source = address(field, text, report)?;
    if let Some(PeerEndpoint::Address(peer)) = endpoint
        && Family::of(*peer) != Family::of(source)
    {
        let why = "is not of the family of spec.peerAddress; write one of the same family";
        let value = source.to_string();
        report.push(field, text, Problem::AddressUse { value, why });
    }
    Some(source)
}

/// `None` for an empty text, and for one that no interface can have as its name, which is reported.
fn interface_name(field: &str, name: &str, report: &mut Report) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    if !is_interface_name(name) {
        report.push(field, name, Problem::InterfaceName(name.to_owned()));
        return None;
    }
    Some(name.to_owned())
}

fn router_id(spec: &BgpPeerSpec, report: &mut Report) -> Option<Ipv4Addr> {
    let text = &*spec.router_id;
    if text.is_empty() {
        return None;
    }
    let id = text.parse().ok().filter(|id: &Ipv4Addr| !id.is_unspecified());
    report.take(
        "spec.routerID",
        text,
        id.ok_or_else(|| Problem::RouterId(text.to_owned())),
    )
}

/// A reference without a name is what some clients write in place of nothing.
fn password(spec: &BgpPeerSpec, report: &mut Report) -> Option<PasswordSource> {
    let reference = spec.password_secret.as_ref().and_then(|s| s.name.as_ref());
    let secret = reference.filter(|name| !name.is_empty());
    let text = spec.password.expose();
    // A key is never part of a message.
    match (secret, text.is_empty()) {
        (None, true) => return None,
        (Some(name), false) => {
            let (state, fields) = ("both are set", "spec.password and spec.passwordSecret");
            report.push("spec.passwordSecret.name", name, Problem::ExactlyOne { state, fields });
        }
        (None, false) if text.len() > MAX_PASSWORD => report.push("spec.password", "", Problem::PasswordTooLong),
        _ => {}
    }
    Some(match secret {
        Some(name) => PasswordSource::Secret(name.clone()),
        None => PasswordSource::Text(Password::new(text.to_owned())),
    })
}

fn bfd(spec: &BgpPeerSpec, profiles: &Profiles, report: &mut Report) -> Option<Arc<BfdProfile>> {
    let name = &*spec.bfd_profile;
    if name.is_empty() {
        return None;
    }
    let missing = || Problem::Missing {
        kind: Kind::BfdProfile.name(),
        name: name.to_owned(),
    };
    report.take("spec.bfdProfile", name, profiles.get(name).cloned().ok_or_else(missing))
}

/// A duration in whole seconds, the rest dropped.
fn whole_seconds(field: &str, text: Option<&String>, report: &mut Report) -> Option<Duration> {
    let text = text?;
    let parsed = parse_duration(text).ok_or_else(|| Problem::Duration(text.clone()));
    report
        .take(field, text, parsed)
        .map(|d| Duration::from_secs(d.as_secs()))
}

/// Hold and keepalive time: each follows from the other when only one is set, a keepalive of 0 counting as not set.
fn timers(spec: &BgpPeerSpec, report: &mut Report) -> Option<BgpTimers> {
    let hold = whole_seconds("spec.holdTime", spec.hold_time.as_ref(), report);
    let keepalive = whole_seconds("spec.keepaliveTime", spec.keepalive_time.as_ref(), report);
    let (hold, keepalive) = match (hold, keepalive.filter(|k| !k.is_zero())) {
        (None, None) => return None,
        (None, Some(keepalive)) => (keepalive.saturating_mul(3), keepalive),
        (Some(hold), None) => (hold, Duration::from_secs(hold.as_secs() / 3)),
        (Some(hold), Some(keepalive)) => (hold, keepalive),
    };
    let texts = [&spec.hold_time, &spec.keepalive_time].map(|t| t.clone().unwrap_or_default());
    let [hold_text, keepalive_text] = texts;
    if !(hold.is_zero() || (3..=65535).contains(&hold.as_secs())) {
        let (field, value, right) = match spec.hold_time {
            Some(_) => ("spec.holdTime", hold_text, "0s, which is never, or 3s to 65535s"),
            None => (
                "spec.keepaliveTime",
                keepalive_text,
                "1s to 21845s, a third of the hold time",
            ),
        };
        report.push(
            field,
            &*value,
            Problem::DurationRange {
                value: value.clone(),
                right,
            },
        );
    } else if !hold.is_zero() && keepalive > hold {
        let problem = Problem::KeepaliveTooLong {
            keepalive: keepalive_text.clone(),
            hold: hold_text,
        };
        report.push("spec.keepaliveTime", keepalive_text, problem);
    }
    Some(BgpTimers { hold, keepalive })
}

fn connect_time(spec: &BgpPeerSpec, report: &mut Report) -> Option<Duration> {
    let (field, text) = ("spec.connectTime", spec.connect_time.as_ref()?);
    let parsed = parse_duration(text).ok_or_else(|| Problem::Duration(text.clone()));
    let time = report.take(field, text, parsed)?;
    if time.subsec_nanos() != 0 || !(1..=65535).contains(&time.as_secs()) {
        let right = "1s to 65535s, whole seconds";
        let value = text.clone();
        report.push(field, text, Problem::DurationRange { value, right });
    }
    Some(time)
}
