//! The plan of BGP as bytes: sessions and what each router shall hold, so that a restart does not need the API server to
//! keep routes.
//!
//! The form is that of the other snapshot. Keys are part of it only where the file is kept in memory and can be read by
//! its owner alone ([`crate::store`]); elsewhere a session with a key waits for the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{BfdProfile, BgpTimers, Opener, Password, PasswordSource, Peer, PeerEndpoint, RemoteAsn};
use ferrolb_speaker_core::{BgpPlan, PeerRefusal, PlannedPeer, PlannedRoutes, RouteAttributes};
use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use super::{Form, Identity, SnapshotError, millis};

const FORM: Form = Form {
    magic: "ferrolb-speaker-bgp",
    version: "1",
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    node: String,
    boot: String,
    router_id: Ipv4Addr,
    peers: BTreeMap<String, Entry>,
    /// By prefix. Peers that shall hold the same share it.
    routes: Vec<BTreeMap<String, Vec<Wish>>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    my_asn: u32,
    local_asn: Option<u32>,
    remote_asn: Asn,
    endpoint: Endpoint,
    port: u16,
    source_address: Option<IpAddr>,
    /// Hold and keepalive time, milliseconds.
    timers: Option<(u64, u64)>,
    /// Milliseconds.
    connect_time: Option<u64>,
    router_id: Option<Ipv4Addr>,
    key: Key,
    bfd: Option<Bfd>,
    graceful_restart: bool,
    ebgp_multihop: bool,
    vrf: Option<String>,
    dual_stack: bool,
    #[serde(default)]
    opened_by: Opened,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl_security: Option<u8>,
    /// Index into the routes.
    routes: usize,
}

#[derive(Serialize, Deserialize)]
enum Asn {
    Number(u32),
    Internal,
    External,
}

#[derive(Serialize, Deserialize)]
enum Endpoint {
    Address(IpAddr),
    Interface(String),
    OnLink(Ipv6Addr, String),
    ByPolicy,
}

#[derive(Default, Serialize, Deserialize)]
enum Opened {
    #[default]
    Speaker,
    Router,
    Both,
}

#[derive(Serialize, Deserialize)]
enum Key {
    None,
    /// The session has one, which is not kept here. From this Secret, or from the peer itself.
    Elsewhere {
        secret: Option<String>,
    },
    Kept {
        secret: Option<String>,
        key: String,
    },
}

/// Times in milliseconds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bfd {
    name: String,
    receive: u64,
    transmit: u64,
    multiplier: u8,
    echo: Option<u64>,
    passive: bool,
    minimum_ttl: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    #[serde(skip_serializing_if = "Option::is_none")]
    local_pref: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    med: Option<u32>,
    #[serde(default, skip_serializing_if = "is_zero")]
    prepend: u8,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    communities: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    extended: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<u64>,
}

fn is_zero(n: &u8) -> bool {
    *n == 0
}

/// The snapshot of a plan, with its keys if they `may` be in it.
pub(crate) fn encode(identity: &Identity, plan: &BgpPlan, may: bool) -> Vec<u8> {
    let mut routes: Vec<&Arc<PlannedRoutes>> = Vec::new();
    let mut peers = BTreeMap::new();
    for (name, planned) in &plan.peers {
        let known = routes.iter().position(|known| Arc::ptr_eq(known, &planned.routes));
        let index = known.unwrap_or_else(|| {
            routes.push(&planned.routes);
            routes.len() - 1
        });
        peers.insert(name.clone(), entry(planned, index, may));
    }
    let wishes = |of: &BTreeSet<Arc<RouteAttributes>>| of.iter().map(|attributes| wish(attributes)).collect();
    let routes = routes.into_iter().map(|routes| {
        let each = routes.iter().map(|(prefix, of)| (prefix.to_string(), wishes(of)));
        each.collect()
    });
    FORM.seal(&Content {
        node: identity.node.clone(),
        boot: identity.boot.clone(),
        router_id: plan.router_id,
        routes: routes.collect(),
        peers,
    })
}

fn entry(planned: &PlannedPeer, routes: usize, may: bool) -> Entry {
    let peer = &planned.peer;
    let secret = || match &peer.password {
        Some(PasswordSource::Secret(secret)) => Some(secret.clone()),
        Some(PasswordSource::Text(_)) | None => None,
    };
    Entry {
        my_asn: peer.my_asn,
        local_asn: peer.local_asn,
        remote_asn: match peer.remote_asn {
            RemoteAsn::Number(asn) => Asn::Number(asn),
            RemoteAsn::Internal => Asn::Internal,
            RemoteAsn::External => Asn::External,
        },
        endpoint: match &peer.endpoint {
            PeerEndpoint::Address(address) => Endpoint::Address(*address),
            PeerEndpoint::Interface(name) => Endpoint::Interface(name.clone()),
            PeerEndpoint::OnLink(address, interface) => Endpoint::OnLink(*address, interface.clone()),
            PeerEndpoint::ByPolicy => Endpoint::ByPolicy,
        },
        port: peer.port,
        source_address: peer.source_address,
        timers: peer.timers.map(|t| (millis(t.hold), millis(t.keepalive))),
        connect_time: peer.connect_time.map(millis),
        router_id: peer.router_id,
        key: match &planned.password {
            None => Key::None,
            Some(_) if !may => Key::Elsewhere { secret: secret() },
            Some(key) => Key::Kept {
                secret: secret(),
                key: key.reveal().to_owned(),
            },
        },
        bfd: peer.bfd.as_deref().map(|profile| Bfd {
            name: profile.name.clone(),
            receive: millis(profile.receive_interval),
            transmit: millis(profile.transmit_interval),
            multiplier: profile.detect_multiplier,
            echo: profile.echo_interval.map(millis),
            passive: profile.passive,
            minimum_ttl: profile.minimum_ttl,
        }),
        graceful_restart: peer.graceful_restart,
        ebgp_multihop: peer.ebgp_multihop,
        vrf: peer.vrf.clone(),
        dual_stack: peer.dual_stack,
        opened_by: match peer.opener {
            Opener::Speaker => Opened::Speaker,
            Opener::Router => Opened::Router,
            Opener::Both => Opened::Both,
        },
        ttl_security: peer.ttl_security,
        routes,
    }
}

fn wish(attributes: &RouteAttributes) -> Wish {
    Wish {
        local_pref: attributes.local_pref,
        med: attributes.med,
        prepend: attributes.prepend,
        communities: attributes.communities.iter().map(ToString::to_string).collect(),
        extended: attributes
            .extended_communities
            .iter()
            .map(ToString::to_string)
            .collect(),
        bandwidth: attributes.link_bandwidth,
    }
}

/// The plan when `bytes` were written. Peers whose key is not in it are refused.
pub(crate) fn decode(identity: &Identity, bytes: &[u8]) -> Result<BgpPlan, SnapshotError> {
    let content: Content = FORM.open(bytes)?;
    identity.check(&content.node, &content.boot)?;
    let routes = content.routes.into_iter().map(planned_routes);
    let routes = routes
        .collect::<Result<Vec<_>, _>>()
        .map_err(SnapshotError::Unreadable)?;
    let mut plan = BgpPlan {
        router_id: content.router_id,
        ..BgpPlan::default()
    };
    for (name, entry) in content.peers {
        let routes = routes.get(entry.routes).cloned();
        let routes = routes.ok_or_else(|| SnapshotError::Unreadable(serde_json::Error::custom("no such routes")))?;
        match &entry.key {
            Key::Elsewhere { .. } => drop(plan.refused.insert(name, PeerRefusal::KeyNotKept)),
            Key::None | Key::Kept { .. } => drop(plan.peers.insert(name.clone(), planned(name, entry, routes))),
        }
    }
    Ok(plan)
}

fn planned_routes(wishes: BTreeMap<String, Vec<Wish>>) -> Result<Arc<PlannedRoutes>, serde_json::Error> {
    let mut routes = PlannedRoutes::new();
    for (prefix, wishes) in wishes {
        let prefix: IpNet = prefix.parse().map_err(serde_json::Error::custom)?;
        let wishes = wishes.into_iter().map(|wish| Ok(Arc::new(attributes(wish)?)));
        routes.insert(prefix, wishes.collect::<Result<_, serde_json::Error>>()?);
    }
    Ok(Arc::new(routes))
}

fn attributes(wish: Wish) -> Result<RouteAttributes, serde_json::Error> {
    Ok(RouteAttributes {
        local_pref: wish.local_pref,
        med: wish.med,
        prepend: wish.prepend,
        communities: read(&wish.communities)?,
        extended_communities: read(&wish.extended)?,
        link_bandwidth: wish.bandwidth,
    })
}

fn read<T: Ord + std::str::FromStr<Err: std::fmt::Display>>(
    texts: &[String],
) -> Result<BTreeSet<T>, serde_json::Error> {
    let each = texts.iter().map(|text| text.parse().map_err(serde_json::Error::custom));
    each.collect()
}

fn planned(name: String, entry: Entry, routes: Arc<PlannedRoutes>) -> PlannedPeer {
    let time = Duration::from_millis;
    let (password, source) = match entry.key {
        Key::None | Key::Elsewhere { .. } => (None, None),
        Key::Kept { secret, key } => {
            let key = Password::new(key);
            let source = secret.map_or_else(|| PasswordSource::Text(key.clone()), PasswordSource::Secret);
            (Some(key), Some(source))
        }
    };
    let peer = Peer {
        name,
        my_asn: entry.my_asn,
        local_asn: entry.local_asn,
        remote_asn: match entry.remote_asn {
            Asn::Number(asn) => RemoteAsn::Number(asn),
            Asn::Internal => RemoteAsn::Internal,
            Asn::External => RemoteAsn::External,
        },
        endpoint: match entry.endpoint {
            Endpoint::Address(address) => PeerEndpoint::Address(address),
            Endpoint::Interface(name) => PeerEndpoint::Interface(name),
            Endpoint::OnLink(address, interface) => PeerEndpoint::OnLink(address, interface),
            Endpoint::ByPolicy => PeerEndpoint::ByPolicy,
        },
        port: entry.port,
        source_address: entry.source_address,
        timers: entry.timers.map(|(hold, keepalive)| BgpTimers {
            hold: time(hold),
            keepalive: time(keepalive),
        }),
        connect_time: entry.connect_time.map(time),
        router_id: entry.router_id,
        // It was selected.
        node_selectors: Vec::new(),
        password: source,
        bfd: entry.bfd.map(|bfd| {
            Arc::new(BfdProfile {
                name: bfd.name,
                receive_interval: time(bfd.receive),
                transmit_interval: time(bfd.transmit),
                detect_multiplier: bfd.multiplier,
                echo_interval: bfd.echo.map(time),
                passive: bfd.passive,
                minimum_ttl: bfd.minimum_ttl,
            })
        }),
        graceful_restart: entry.graceful_restart,
        ebgp_multihop: entry.ebgp_multihop,
        vrf: entry.vrf,
        dual_stack: entry.dual_stack,
        opener: match entry.opened_by {
            Opened::Speaker => Opener::Speaker,
            Opened::Router => Opener::Router,
            Opened::Both => Opener::Both,
        },
        ttl_security: entry.ttl_security.filter(|hops| (1..=254).contains(hops)),
    };
    PlannedPeer { peer, password, routes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrolb_model::{Administrator, Community, ExtendedCommunity, ExtendedKind};
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity {
            node: "node-a".to_owned(),
            boot: "b1".to_owned(),
        }
    }

    fn any_attributes() -> impl Strategy<Value = RouteAttributes> {
        let communities = prop_oneof![
            any::<(u16, u16)>().prop_map(|(a, b)| Community::Standard(a, b)),
            any::<(u32, u32, u32)>().prop_map(|(a, b, c)| Community::Large(a, b, c)),
        ];
        let administrator = prop_oneof![
            any::<(u16, u32)>().prop_map(|(a, b)| Administrator::As2(a, b)),
            (65_536..u32::MAX, any::<u16>()).prop_map(|(a, b)| Administrator::As4(a, b)),
            any::<(Ipv4Addr, u16)>().prop_map(|(a, b)| Administrator::Ipv4(a, b)),
        ];
        let kind = prop::sample::select(&[ExtendedKind::RouteTarget, ExtendedKind::SiteOfOrigin]);
        let extended =
            (kind, administrator).prop_map(|(kind, administrator)| ExtendedCommunity { kind, administrator });
        let numbers = any::<(Option<u32>, Option<u32>, u8, Option<u64>)>();
        let communities = prop::collection::btree_set(communities, 0..3);
        let extended = prop::collection::btree_set(extended, 0..3);
        (numbers, communities, extended).prop_map(
            |((local_pref, med, prepend, link_bandwidth), communities, extended_communities)| RouteAttributes {
                local_pref,
                med,
                prepend,
                communities,
                extended_communities,
                link_bandwidth,
            },
        )
    }

    fn any_peer() -> impl Strategy<Value = Peer> {
        let asn = prop_oneof![
            any::<u32>().prop_map(RemoteAsn::Number),
            Just(RemoteAsn::Internal),
            Just(RemoteAsn::External)
        ];
        let endpoint = prop_oneof![
            any::<IpAddr>().prop_map(PeerEndpoint::Address),
            ".{0,15}".prop_map(PeerEndpoint::Interface),
            (any::<Ipv6Addr>(), ".{0,15}").prop_map(|(address, name)| PeerEndpoint::OnLink(address, name)),
        ];
        let opener = prop_oneof![Just(Opener::Speaker), Just(Opener::Router), Just(Opener::Both)];
        let time = || (0..1u64 << 40).prop_map(Duration::from_millis);
        let timers = (time(), time()).prop_map(|(hold, keepalive)| BgpTimers { hold, keepalive });
        let bfd = (time(), time(), any::<(u8, bool, u8)>(), prop::option::of(time()));
        let bfd = bfd.prop_map(
            |(receive, transmit, (multiplier, passive, minimum_ttl), echo)| BfdProfile {
                name: "fast".to_owned(),
                receive_interval: receive,
                transmit_interval: transmit,
                detect_multiplier: multiplier,
                echo_interval: echo,
                passive,
                minimum_ttl,
            },
        );
        let first = (any::<(u32, Option<u32>, u16)>(), asn, endpoint, any::<Option<IpAddr>>());
        let flags = (
            any::<(bool, bool, bool, Option<Ipv4Addr>)>(),
            opener,
            prop::option::of(1..=254_u8),
        );
        let rest = (
            prop::option::of(timers),
            prop::option::of(time()),
            prop::option::of(bfd),
        );
        (first, flags, rest, prop::option::of(".{0,15}")).prop_map(
            |(first, (flags, opener, ttl_security), rest, vrf)| Peer {
                name: String::new(),
                my_asn: first.0.0,
                local_asn: first.0.1,
                port: first.0.2,
                remote_asn: first.1,
                endpoint: first.2,
                source_address: first.3,
                timers: rest.0,
                connect_time: rest.1,
                router_id: flags.3,
                node_selectors: Vec::new(),
                password: None,
                bfd: rest.2.map(Arc::new),
                graceful_restart: flags.0,
                ebgp_multihop: flags.1,
                vrf,
                dual_stack: flags.2,
                opener,
                ttl_security,
            },
        )
    }

    fn any_plan() -> impl Strategy<Value = BgpPlan> {
        let prefix = any::<(IpAddr, u8)>().prop_map(|(address, length)| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, length % (most + 1)).unwrap().trunc()
        });
        let wishes = prop::collection::btree_set(any_attributes().prop_map(Arc::new), 1..3);
        let routes = prop::collection::btree_map(prefix, wishes, 0..5).prop_map(Arc::new);
        let routes = prop::collection::vec(routes, 1..3);
        // A Secret's name, or none, and a key.
        let key = prop::option::of((prop::option::of("[a-z]{1,9}"), "[!-~]{1,80}"));
        let peers = prop::collection::btree_map("[a-z]{1,9}", (any_peer(), key, any::<prop::sample::Index>()), 0..4);
        (any::<Ipv4Addr>(), routes, peers).prop_map(|(router_id, routes, peers)| {
            let planned = |(name, (peer, key, index)): (String, (Peer, Option<_>, prop::sample::Index))| {
                let (source, password) = match key {
                    None => (None, None),
                    Some((secret, key)) => {
                        let (secret, key): (Option<String>, _) = (secret, Password::new(key));
                        let text = PasswordSource::Text(key.clone());
                        (Some(secret.map_or(text, PasswordSource::Secret)), Some(key))
                    }
                };
                let peer = Peer {
                    name: name.clone(),
                    password: source,
                    ..peer
                };
                let routes = Arc::clone(index.get(&routes));
                (name, PlannedPeer { peer, password, routes })
            };
            BgpPlan {
                router_id,
                peers: peers.into_iter().map(planned).collect(),
                ..BgpPlan::default()
            }
        })
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(plan in any_plan()) {
            let bytes = encode(&identity(), &plan, true);
            prop_assert_eq!(decode(&identity(), &bytes).unwrap(), plan);
        }

        #[test]
        fn without_leave_no_key_is_written(plan in any_plan()) {
            let text = String::from_utf8(encode(&identity(), &plan, false)).unwrap();
            let read = decode(&identity(), text.as_bytes()).unwrap();
            for (name, planned) in &plan.peers {
                let keyless = planned.password.is_none();
                prop_assert_eq!(read.peers.contains_key(name), keyless);
                prop_assert_eq!(read.refused.get(name) == Some(&PeerRefusal::KeyNotKept), !keyless);
                if let Some(key) = planned.password.as_ref().filter(|key| key.reveal().len() > 20) {
                    prop_assert!(!text.contains(key.reveal()));
                }
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&identity(), &bytes).is_err());
        }

        #[test]
        fn any_single_change_is_noticed(plan in any_plan(), at: prop::sample::Index, bit in 0..8u8) {
            let mut bytes = encode(&identity(), &plan, true);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&identity(), &bytes).is_err());
        }
    }

    #[test]
    fn a_sound_form_with_wrong_content_is_refused() {
        let say = |json: serde_json::Value| decode(&identity(), &FORM.seal(&json)).unwrap_err().to_string();
        let with = |peers: serde_json::Value, routes: serde_json::Value| {
            serde_json::json!({
                "node": "node-a", "boot": "b1", "router_id": "10.0.0.1", "peers": peers, "routes": routes,
            })
        };
        assert!(say(serde_json::json!({})).contains("cannot be read"));
        let community = serde_json::json!([{ "10.0.0.1/32": [{ "communities": ["x"] }] }]);
        assert!(say(with(serde_json::json!({}), community)).contains("cannot be read"));
        let entry = serde_json::json!({ "one": {
            "my_asn": 1, "local_asn": null, "remote_asn": "Internal", "endpoint": { "Address": "10.0.0.1" }, "port": 179,
            "source_address": null, "timers": null, "connect_time": null, "router_id": null, "key": "None", "bfd": null,
            "graceful_restart": true, "ebgp_multihop": false, "vrf": null, "dual_stack": false, "routes": 1,
        } });
        assert!(say(with(entry, serde_json::json!([]))).contains("no such routes"));
        let plan = encode(&identity(), &BgpPlan::default(), true);
        for (node, boot, says) in [("node-b", "b1", "\"node-a\""), ("node-a", "b2", "booted")] {
            let other = Identity {
                node: node.to_owned(),
                boot: boot.to_owned(),
            };
            assert!(decode(&other, &plan).unwrap_err().to_string().contains(says));
        }
    }
}
