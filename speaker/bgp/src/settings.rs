//! What a peer is, and what a change of it means.
//!
//! Owns [`Peer`], its rules ([`Peer::check`]) and the typed difference between two versions of it ([`Peer::diff`]):
//! what stands in our OPEN message, or was fixed when the connection was made, takes a new session; everything else
//! takes effect on the running one.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{Family, FamilySet};

/// The port of BGP.
pub const PORT: u16 = 179;
/// The longest TCP-MD5 key Linux takes, in octets.
pub const PASSWORD_MAX: usize = 80;

/// Everything about one session with one router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The router's address. A link-local address needs `interface`.
    pub address: IpAddr,
    /// The interface a link-local address is on.
    pub interface: Option<String>,
    /// The router's TCP port.
    pub port: u16,
    /// The AS we present to this router.
    pub local_asn: u32,
    /// The AS the router must present.
    pub remote_asn: RemoteAsn,
    /// Our BGP identifier; not 0.0.0.0.
    pub router_id: Ipv4Addr,
    /// The address we connect from; otherwise the kernel chooses.
    pub source: Option<IpAddr>,
    /// The VRF device to bind to.
    pub vrf: Option<String>,
    /// Address families to exchange; with both, IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub families: FamilySet,
    /// The hold time we offer, in seconds: 0 (no keepalives) or at least 3.
    pub hold_time: u16,
    /// How often to send keepalives, in seconds; otherwise a third of the hold time agreed upon. Never less often
    /// than that.
    pub keepalive: Option<u16>,
    /// The longest pause between two attempts to connect; not zero.
    pub connect_retry: Duration,
    /// The TCP-MD5 key (RFC 2385).
    pub password: Option<Password>,
    /// How far away the router may be.
    pub reach: Reach,
    /// Whether, and for how long, the router shall keep our routes while we restart (RFC 4724).
    pub graceful_restart: Option<GracefulRestart>,
    /// Who opens the connection.
    pub opening: Opening,
    /// The next hop of our routes of each family, where it is not the address we speak from.
    pub next_hops: NextHops,
}

/// The AS a router has to present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteAsn {
    /// This one.
    Is(u32),
    /// Any but ours.
    External,
    /// Ours.
    Internal,
}

/// How far away a router is, and how that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// On the same link if external (TTL 1), anywhere if internal.
    Direct,
    /// Anywhere (TTL 255).
    MultiHop,
    /// At most this many hops away, checked by the TTL of what arrives (GTSM, RFC 5082); not 0.
    Secured {
        /// 1 is the same link.
        hops: u8,
    },
}

/// Graceful restart as offered to a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracefulRestart {
    /// How long the router keeps our routes, in seconds, at most 4095.
    pub restart_time: u16,
}

/// Who opens the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Only we.
    Dial,
    /// Both; of two connections one is closed (RFC 4271 section 6.8).
    DialAndListen,
    /// Only the router.
    Listen,
}

/// Next hops that replace our own address, by family of the routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHops {
    /// Of IPv4 routes.
    pub v4: Option<IpAddr>,
    /// Of IPv6 routes.
    pub v6: Option<Ipv6Addr>,
}

/// A TCP-MD5 key. Never printed: its `Debug` form says only that there is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Arc<[u8]>);

impl Password {
    /// From 1 to [`PASSWORD_MAX`] octets.
    pub fn new(key: &[u8]) -> Result<Password, SettingsError> {
        match key.len() {
            1..=PASSWORD_MAX => Ok(Password(key.into())),
            length => Err(SettingsError::PasswordLength { length }),
        }
    }

    /// The key itself, for the kernel.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

/// A setting of a peer that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// RFC 4271 section 4.2.
    #[error("hold time {0} s: must be 0 or at least 3")]
    HoldTime(u16),
    /// Keepalives would come too late, or at all where there is no hold time.
    #[error("keepalive time {keepalive} s: must be from 1 s to the hold time, {hold_time} s")]
    Keepalive {
        /// As given, in seconds.
        keepalive: u16,
        /// In seconds.
        hold_time: u16,
    },
    /// The pause between attempts is zero.
    #[error("connect time 0 s: must be positive")]
    ConnectRetry,
    /// AS 0 is reserved (RFC 7607).
    #[error("{0} AS 0: must be from 1 to 4294967295")]
    Asn(&'static str),
    /// RFC 6286 section 2.1.
    #[error("router id 0.0.0.0: must be another address")]
    RouterId,
    /// Port 0 cannot be dialled.
    #[error("peer port 0: must be from 1 to 65535")]
    Port,
    /// A link-local address says nothing without its interface.
    #[error("peer address {0} is link-local: needs an interface")]
    LinkLocal(IpAddr),
    /// Multicast, broadcast and unspecified addresses have no router.
    #[error("peer address {0}: must be a unicast address")]
    Address(IpAddr),
    /// A connection has one family.
    #[error("source address {source_address}: must be of the same family as the peer address {peer}")]
    Source {
        /// As given.
        source_address: IpAddr,
        /// The peer's address.
        peer: IpAddr,
    },
    /// There is nothing to exchange.
    #[error("no address family: at least one of IPv4 and IPv6")]
    Families,
    /// The field has 12 bits (RFC 4724 section 3).
    #[error("restart time {0} s: must be at most 4095")]
    RestartTime(u16),
    /// No hop at all.
    #[error("TTL security over 0 hops: must be from 1 to 255")]
    Hops,
    /// Linux takes no such key.
    #[error("password of {length} octets: must be from 1 to {PASSWORD_MAX}")]
    PasswordLength {
        /// In octets.
        length: usize,
    },
}

/// A field of [`Peer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each names the field it stands for")]
pub enum Field {
    Address,
    Interface,
    Port,
    LocalAsn,
    RemoteAsn,
    RouterId,
    Source,
    Vrf,
    Families,
    HoldTime,
    Keepalive,
    ConnectRetry,
    Password,
    Reach,
    GracefulRestart,
    Opening,
    NextHops,
}

/// What changed between two versions of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Fields that take a new session.
    pub reset: BTreeSet<Field>,
    /// Fields that take effect on the running session.
    pub live: BTreeSet<Field>,
}

impl Diff {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.reset.is_empty() && self.live.is_empty()
    }
}

impl RemoteAsn {
    /// Whether a router with AS `asn` may be the peer of one with AS `local`.
    pub fn accepts(self, asn: u32, local: u32) -> bool {
        match self {
            RemoteAsn::Is(wanted) => asn == wanted,
            RemoteAsn::External => asn != local,
            RemoteAsn::Internal => asn == local,
        }
    }
}

impl Peer {
    /// A peer with the usual settings: both ends on one link, port 179, the address's family, 90 s hold time.
    pub fn new(address: IpAddr, local_asn: u32, remote_asn: RemoteAsn, router_id: Ipv4Addr) -> Peer {
        Peer {
            address,
            interface: None,
            port: PORT,
            local_asn,
            remote_asn,
            router_id,
            source: None,
            vrf: None,
            families: [Family::of(address)].into_iter().collect(),
            hold_time: 90,
            keepalive: None,
            connect_retry: Duration::from_secs(10),
            password: None,
            reach: Reach::Direct,
            graceful_restart: None,
            opening: Opening::Dial,
            next_hops: NextHops::default(),
        }
    }

    /// Whether the session is external: the two systems are different ones.
    pub fn is_external(&self) -> bool {
        match self.remote_asn {
            RemoteAsn::Is(asn) => asn != self.local_asn,
            RemoteAsn::External => true,
            RemoteAsn::Internal => false,
        }
    }

    /// Whether the settings can work at all, by themselves.
    pub fn check(&self) -> Result<(), SettingsError> {
        let fail = |failed: bool, error: SettingsError| if failed { Err(error) } else { Ok(()) };
        fail(matches!(self.hold_time, 1 | 2), SettingsError::HoldTime(self.hold_time))?;
        if let Some(keepalive) = self.keepalive {
            let hold_time = self.hold_time;
            let allowed = 1..=hold_time;
            fail(
                !allowed.contains(&keepalive),
                SettingsError::Keepalive { keepalive, hold_time },
            )?;
        }
        fail(self.connect_retry.is_zero(), SettingsError::ConnectRetry)?;
        fail(self.local_asn == 0, SettingsError::Asn("local"))?;
        fail(self.remote_asn == RemoteAsn::Is(0), SettingsError::Asn("remote"))?;
        fail(self.router_id.is_unspecified(), SettingsError::RouterId)?;
        fail(self.port == 0, SettingsError::Port)?;
        fail(self.families.is_empty(), SettingsError::Families)?;
        fail(self.reach == Reach::Secured { hops: 0 }, SettingsError::Hops)?;
        if let Some(GracefulRestart { restart_time }) = self.graceful_restart {
            fail(restart_time > 4095, SettingsError::RestartTime(restart_time))?;
        }
        self.check_addresses()
    }

    fn check_addresses(&self) -> Result<(), SettingsError> {
        let peer = self.address;
        let (scoped, unicast) = match peer {
            IpAddr::V4(v4) => (false, !v4.is_broadcast()),
            IpAddr::V6(v6) => (v6.is_unicast_link_local(), true),
        };
        if !unicast || peer.is_multicast() || peer.is_unspecified() {
            return Err(SettingsError::Address(peer));
        }
        if scoped && self.interface.is_none() {
            return Err(SettingsError::LinkLocal(peer));
        }
        match self.source {
            Some(source_address) if source_address.is_ipv4() != peer.is_ipv4() => {
                Err(SettingsError::Source { source_address, peer })
            }
            _ => Ok(()),
        }
    }

    /// What changes when `self` becomes `next`.
    pub fn diff(&self, next: &Peer) -> Diff {
        // Taken apart by name, so that a new field cannot be forgotten here.
        let Peer {
            address,
            interface,
            port,
            local_asn,
            remote_asn,
            router_id,
            source,
            vrf,
            families,
            hold_time,
            keepalive,
            connect_retry,
            password,
            reach,
            graceful_restart,
            opening,
            next_hops,
        } = next;
        // A key can be exchanged on a connection that has one, but a connection cannot gain or lose it.
        let rekey = self.password.is_some() && password.is_some();
        let fields = [
            (Field::Address, self.address != *address, true),
            (Field::Interface, self.interface != *interface, true),
            (Field::Port, self.port != *port, true),
            (Field::LocalAsn, self.local_asn != *local_asn, true),
            (Field::RemoteAsn, self.remote_asn != *remote_asn, true),
            (Field::RouterId, self.router_id != *router_id, true),
            (Field::Source, self.source != *source, true),
            (Field::Vrf, self.vrf != *vrf, true),
            (Field::Families, self.families != *families, true),
            (Field::HoldTime, self.hold_time != *hold_time, true),
            (Field::Keepalive, self.keepalive != *keepalive, false),
            (Field::ConnectRetry, self.connect_retry != *connect_retry, false),
            (Field::Password, self.password != *password, !rekey),
            (Field::Reach, self.reach != *reach, false),
            (Field::GracefulRestart, self.graceful_restart != *graceful_restart, true),
            (Field::Opening, self.opening != *opening, false),
            (Field::NextHops, self.next_hops != *next_hops, false),
        ];
        let mut diff = Diff::default();
        for (field, _, resets) in fields.into_iter().filter(|(_, changed, _)| *changed) {
            if resets { &mut diff.reset } else { &mut diff.live }.insert(field);
        }
        diff
    }
}

#[cfg(test)]
#[path = "settings/tests.rs"]
mod tests;
