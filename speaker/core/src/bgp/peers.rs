//! Peers as this node has them: what its BGPPeers say, with what policies take from the node itself.
//!
//! An address or an AS number that cannot be found costs its peer alone, and not a session that stands: a value that was
//! found before stays while the node gives none that can be used, until somebody else is asked for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ferrolb_model::{
    AddressSource, Config, Family, Labels, NodeValue, Opener, Peer, PeerEndpoint, RemoteAsn, is_interface_name,
};
use thiserror::Error;

/// What is looked for on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// An address.
    Address,
    /// An AS number.
    Asn,
}

impl fmt::Display for Sought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sought::Address => {
                "the address of a router, like 192.0.2.1 or 2001:db8::1, or fe80::1%eth0 where it is link-local"
            }
            Sought::Asn => "an AS number from 1 to 4294967295",
        })
    }
}

/// What policies say about a peer that the node does not have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotOnNode {
    /// The peer has no address of its own, and no policy gives it one.
    #[error(
        "spec.peerAddress is left to an AnnouncementPolicy, and none with an address for this peer in spec.bgp.peers selects \
         node {node:?}"
    )]
    NoPolicy {
        /// The node.
        node: String,
    },
    /// There is no such label or annotation.
    #[error("node {node:?} has no {of}, which an AnnouncementPolicy names; write {sought} there")]
    NoValue {
        /// The node.
        node: String,
        /// The label or annotation.
        of: NodeValue,
        /// What it is for.
        sought: Sought,
    },
    /// It has a value that cannot be used.
    #[error("node {node:?}: {of} is {value:?}, which cannot be used; write {sought}")]
    BadValue {
        /// The node.
        node: String,
        /// The label or annotation.
        of: NodeValue,
        /// What stands there.
        value: String,
        /// What it is for.
        sought: Sought,
    },
    /// There is no default gateway, or there are several.
    #[error("node {node:?} has {} default gateways of {family}{}; there must be one", gateways.len(), listed(gateways))]
    Gateways {
        /// The node.
        node: String,
        /// The family.
        family: Family,
        /// Those that there are.
        gateways: Vec<String>,
    },
}

fn listed(gateways: &[String]) -> String {
    if gateways.is_empty() {
        String::new()
    } else {
        format!(" ({})", gateways.join(", "))
    }
}

/// What is known of the node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'a> {
    pub(super) name: &'a str,
    pub(super) labels: &'a Labels,
    pub(super) annotations: &'a Labels,
    /// Its default gateways, by interface.
    pub(super) gateways: &'a BTreeMap<String, BTreeSet<IpAddr>>,
}

/// What was found on the node, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    address: Option<(AddressSource, PeerEndpoint)>,
    asn: Option<(NodeValue, u32)>,
}

/// What policies say about a peer on a node: each setting from the first of them, by name, that has it.
#[derive(Clone, Copy, Debug, Default)]
struct Said<'a> {
    address: Option<&'a AddressSource>,
    asn: Option<&'a NodeValue>,
    opener: Option<Opener>,
    ttl_security: Option<u8>,
}

impl<'a> Said<'a> {
    fn of(config: &'a Config, labels: &Labels, peer: &str) -> Said<'a> {
        let policies = config.announcement_policies.values();
        let here = policies.filter(|policy| policy.on_request.is_none() && policy.covers_node(labels));
        here.filter_map(|policy| policy.bgp.peers.get(peer))
            .fold(Said::default(), |said, settings| Said {
                address: said.address.or(settings.address.as_ref()),
                asn: said.asn.or(settings.asn.as_ref()),
                opener: said.opener.or(settings.opener),
                ttl_security: said.ttl_security.or(settings.ttl_security),
            })
    }
}

/// The peer as `node` has it, or `None`; and what is wrong with it. `found` is what was found for it before.
pub(super) fn on_node(
    config: &Config,
    peer: &Peer,
    node: Node<'_>,
    found: &mut Found,
) -> (Option<Peer>, Option<NotOnNode>) {
    let said = Said::of(config, node.labels, &peer.name);
    let mut peer = peer.clone();
    peer.opener = said.opener.unwrap_or_default();
    peer.ttl_security = said.ttl_security;
    let mut wrong = None;
    look(
        &mut found.address,
        said.address,
        |source| node.address(source),
        &mut wrong,
    );
    look(&mut found.asn, said.asn, |source| node.asn(source), &mut wrong);
    let missing = said.address.is_some() && found.address.is_none() || said.asn.is_some() && found.asn.is_none();
    if missing {
        return (None, wrong);
    }
    if let Some((_, endpoint)) = &found.address {
        peer.endpoint = endpoint.clone();
    }
    if let Some((_, asn)) = found.asn {
        peer.remote_asn = RemoteAsn::Number(asn);
    }
    if peer.endpoint == PeerEndpoint::ByPolicy {
        let node = node.name.to_owned();
        return (None, Some(NotOnNode::NoPolicy { node }));
    }
    (Some(peer), wrong)
}

/// Looks for a value at its source. What was found there before stays while there is none that can be used; the first thing
/// that is `wrong` is kept.
fn look<S: Clone + PartialEq, T>(
    found: &mut Option<(S, T)>,
    source: Option<&S>,
    read: impl FnOnce(&S) -> Result<T, NotOnNode>,
    wrong: &mut Option<NotOnNode>,
) {
    let before = found.take();
    let Some(source) = source else { return };
    *found = match read(source) {
        Ok(value) => Some((source.clone(), value)),
        Err(error) => {
            wrong.get_or_insert(error);
            before.filter(|(of, _)| of == source)
        }
    };
}

/// The annotations that policies name.
pub(super) fn named_annotations(config: &Config) -> impl Iterator<Item = &str> {
    let policies = config.announcement_policies.values();
    let settings = policies.flat_map(|policy| policy.bgp.peers.values());
    let values = settings.flat_map(|settings| {
        let address = match &settings.address {
            Some(AddressSource::Node(value)) => Some(value),
            _ => None,
        };
        address.into_iter().chain(&settings.asn)
    });
    values.filter_map(|value| match value {
        NodeValue::Annotation(key) => Some(key.as_str()),
        NodeValue::Label(_) => None,
    })
}

impl Node<'_> {
    fn value<T>(&self, of: &NodeValue, sought: Sought, read: fn(&str) -> Option<T>) -> Result<T, NotOnNode> {
        let value = match of {
            NodeValue::Label(key) => self.labels.get(key),
            NodeValue::Annotation(key) => self.annotations.get(key),
        };
        let (node, of) = (self.name.to_owned(), of.clone());
        let Some(value) = value else {
            return Err(NotOnNode::NoValue { node, of, sought });
        };
        read(value.trim()).ok_or_else(|| NotOnNode::BadValue {
            node,
            of,
            value: value.to_owned(),
            sought,
        })
    }

    fn asn(&self, of: &NodeValue) -> Result<u32, NotOnNode> {
        self.value(of, Sought::Asn, |text| text.parse().ok().filter(|asn| *asn != 0))
    }

    fn address(&self, source: &AddressSource) -> Result<PeerEndpoint, NotOnNode> {
        let family = match source {
            AddressSource::Node(of) => return self.value(of, Sought::Address, endpoint),
            AddressSource::DefaultGateway(family) => *family,
        };
        let gateways = self.gateways.iter().flat_map(|(interface, gateways)| {
            let of_family = gateways.iter().filter(|gateway| Family::of(**gateway) == family);
            of_family.filter_map(|gateway| place(*gateway, Some(interface)))
        });
        let gateways: BTreeSet<PeerEndpoint> = gateways.collect();
        let mut each = gateways.iter();
        match (each.next(), each.next()) {
            (Some(only), None) => Ok(only.clone()),
            _ => Err(NotOnNode::Gateways {
                node: self.name.to_owned(),
                family,
                gateways: gateways.iter().map(ToString::to_string).collect(),
            }),
        }
    }
}

/// An address, with its interface if it is link-local.
fn endpoint(text: &str) -> Option<PeerEndpoint> {
    match text.split_once('%') {
        Some((address, interface)) => {
            let address: Ipv6Addr = address.parse().ok().filter(Ipv6Addr::is_unicast_link_local)?;
            place(address.into(), Some(interface).filter(|name| is_interface_name(name)))
        }
        None => place(text.parse().ok()?, None),
    }
}

fn place(address: IpAddr, interface: Option<&str>) -> Option<PeerEndpoint> {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(PeerEndpoint::OnLink(v6, interface?.to_owned())),
        _ if address.is_unspecified() || address.is_multicast() || address.is_loopback() => None,
        _ => Some(PeerEndpoint::Address(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_of_a_single_machine() {
        let address = |text: &str| Some(PeerEndpoint::Address(text.parse().unwrap()));
        assert_eq!(endpoint("192.0.2.1"), address("192.0.2.1"));
        assert_eq!(endpoint("2001:db8::1"), address("2001:db8::1"));
        let on_link = PeerEndpoint::OnLink("fe80::1".parse().unwrap(), "eth0".to_owned());
        assert_eq!(endpoint("fe80::1%eth0"), Some(on_link));
        for text in [
            "",
            "tor-1",
            "192.0.2",
            "192.0.2.1/24",
            "0.0.0.0",
            "::",
            "224.0.0.5",
            "127.0.0.1",
            "fe80::1",
            "fe80::1%",
            "2001:db8::1%eth0",
            "fe80::1%a/b",
            "fe80::1%..",
            "fe80::1%0123456789abcdef",
        ] {
            assert_eq!(endpoint(text), None, "{text}");
        }
    }
}
