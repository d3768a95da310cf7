//! BGP routers to talk to, parsed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::bfd::BfdProfile;
use crate::ip::Family;
use crate::selector::{LabelSelector, Labels};

/// A `BGPPeer` in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The object's name.
    pub name: String,
    /// Our AS number, never 0.
    pub my_asn: u32,
    /// The AS number that this peer is shown instead of [`Peer::my_asn`].
    pub local_asn: Option<u32>,
    /// The AS number that the peer must have.
    pub remote_asn: RemoteAsn,
    /// Where the peer is.
    pub endpoint: PeerEndpoint,
    /// TCP port, never 0.
    pub port: u16,
    /// The local address of the connection; of the family of the peer's address.
    pub source_address: Option<IpAddr>,
    /// `None`: the speaker's defaults.
    pub timers: Option<BgpTimers>,
    /// Time between attempts to connect, 1 s to 65,535 s; `None`: the speaker's default.
    pub connect_time: Option<Duration>,
    /// The BGP identifier (RFC 6286), never 0.0.0.0; `None`: chosen by the speaker.
    pub router_id: Option<Ipv4Addr>,
    /// Any must match the node that talks to the peer; empty matches all.
    pub node_selectors: Vec<LabelSelector>,
    /// The key of TCP-MD5 (RFC 2385).
    pub password: Option<PasswordSource>,
    /// The session is watched by BFD; one profile, shared by the peers that name it.
    pub bfd: Option<Arc<BfdProfile>>,
    /// Routes survive a restart of either side (RFC 4724).
    pub graceful_restart: bool,
    /// The peer of another AS is more than one hop away.
    pub ebgp_multihop: bool,
    /// The VRF in which the peer is; `None` is the default one.
    pub vrf: Option<String>,
    /// Both address families over this session, whatever family its transport has.
    pub dual_stack: bool,
    /// Who opens the connection. A BGPPeer does not say it.
    pub opener: Opener,
    /// How many hops away the peer may be at most, checked by the TTL of what arrives (RFC 5082), 1 to 254; `None`: it is not
    /// checked. A BGPPeer does not say it.
    pub ttl_security: Option<u8>,
}

/// Who opens the connection to a router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opener {
    /// The speaker.
    #[default]
    Speaker,
    /// The router.
    Router,
    /// Either, or both.
    Both,
}

/// What an `AnnouncementPolicy` says of a peer on the nodes it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSettings {
    /// Where the peer's address is found, in place of [`Peer::endpoint`].
    pub address: Option<AddressSource>,
    /// Where its AS number is found, in place of [`Peer::remote_asn`].
    pub asn: Option<NodeValue>,
    /// Who opens the connection.
    pub opener: Option<Opener>,
    /// See [`Peer::ttl_security`].
    pub ttl_security: Option<u8>,
}

/// Where the address of a peer is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// The node says it.
    Node(NodeValue),
    /// It is the node's default gateway of this family.
    DefaultGateway(Family),
}

/// Something that is written on a node, by its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeValue {
    /// A label.
    Label(String),
    /// An annotation.
    Annotation(String),
}

impl fmt::Display for NodeValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodeValue::Label(key) => write!(f, "label {key:?}"),
            NodeValue::Annotation(key) => write!(f, "annotation {key:?}"),
        }
    }
}

/// Which AS a peer may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteAsn {
    /// This one, never 0.
    Number(u32),
    /// Ours.
    Internal,
    /// Any but ours.
    External,
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerEndpoint {
    /// At this address.
    Address(IpAddr),
    /// On the link of this interface; its link-local address is found out (unnumbered).
    Interface(String),
    /// At this link-local address on the link of this interface.
    OnLink(Ipv6Addr, String),
    /// Wherever an `AnnouncementPolicy` says; the BGPPeer has the unspecified address.
    ByPolicy,
}

/// Whether an interface can be called so: in up to 15 bytes, without blanks and slashes.
pub fn is_interface_name(name: &str) -> bool {
    let bad = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    (1..=15).contains(&name.len()) && !name.contains(bad) && !matches!(name, "." | "..")
}

/// Hold and keepalive time, whole seconds. Hold is 0 (none) or at least 3 s, keepalive is not longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BgpTimers {
    /// Silence after which the peer is gone.
    pub hold: Duration,
    /// Time between two keepalives.
    pub keepalive: Duration,
}

/// Where the key of TCP-MD5 is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordSource {
    /// In the object itself.
    Text(Password),
    /// Under the key `password` of the Secret of this name, in FerroLB's namespace.
    Secret(String),
}

/// A key that no log, status or debug dump ever shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Keeps `text` to itself.
    pub fn new(text: String) -> Self {
        Password(text)
    }

    /// The key, for the socket alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Peer {
    /// Whether a node with these labels talks to the peer.
    pub fn covers_node(&self, labels: &Labels) -> bool {
        LabelSelector::any_or_all(&self.node_selectors, labels)
    }

    /// The AS number that the peer sees.
    pub fn shown_asn(&self) -> u32 {
        self.local_asn.unwrap_or(self.my_asn)
    }
}

impl fmt::Display for PeerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerEndpoint::Address(address) => address.fmt(f),
            PeerEndpoint::Interface(name) => f.write_str(name),
            PeerEndpoint::OnLink(address, interface) => write!(f, "{address}%{interface}"),
            PeerEndpoint::ByPolicy => f.write_str("as a policy says"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_printed() {
        let source = PasswordSource::Text(Password::new("s3cret".to_owned()));
        assert_eq!(format!("{source:?} {source:#?}").matches("s3cret").count(), 0);
        let PasswordSource::Text(password) = source else {
            panic!("a text")
        };
        assert_eq!(password.reveal(), "s3cret");
    }
}
