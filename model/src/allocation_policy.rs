//! What the Services of a namespace may have: limits that an administrator sets on top of the pools' own selectors.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::range::IpRange;

/// An `AllocationPolicy` in force. Policies only take away: where several speak for a namespace, each must allow.
///
/// A limit decides about what is handed out anew. A holder that a later policy would not allow keeps its address, as
/// it does when a pool changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocationPolicy {
    /// The object's name.
    pub name: String,
    /// The namespaces it speaks for, selectors resolved; `None` is every namespace.
    pub namespaces: Option<BTreeSet<String>>,
    /// The pools that may be used; `None` is every pool, empty is none.
    pub pools: Option<BTreeSet<String>>,
    /// How many addresses the Services of one namespace may hold together; a shared address counts once.
    pub max_addresses: Option<u32>,
    /// The addresses that a Service may ask for by name; `None` is any, empty is none.
    pub requestable: Option<Vec<IpRange>>,
    /// With which other namespaces an address may be shared, selectors resolved; `None` is any, empty is none. Inside
    /// its own namespace a Service may always share. Both sides must allow it.
    pub share_with: Option<BTreeSet<String>>,
}

impl AllocationPolicy {
    /// Whether it speaks for Services of `namespace`.
    pub fn covers(&self, namespace: &str) -> bool {
        self.namespaces.as_ref().is_none_or(|names| names.contains(namespace))
    }

    /// Whether an address of `pool` may be used.
    pub fn allows_pool(&self, pool: &str) -> bool {
        self.pools.as_ref().is_none_or(|pools| pools.contains(pool))
    }

    /// Whether `address` may be asked for by name.
    pub fn allows_request(&self, address: IpAddr) -> bool {
        let within = |ranges: &Vec<IpRange>| ranges.iter().any(|r| r.contains(address));
        self.requestable.as_ref().is_none_or(within)
    }

    /// Whether a Service of `own` may share an address with one of `other`, as far as this side is concerned.
    pub fn allows_sharing(&self, own: &str, other: &str) -> bool {
        own == other || self.share_with.as_ref().is_none_or(|names| names.contains(other))
    }
}

/// The limit of an [`AllocationPolicy`] that refuses something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyLimit {
    /// `spec.pools`: these pools may be chosen by their own rules, but not by this namespace.
    Pools {
        /// The pools that were wanted.
        wanted: Vec<String>,
    },
    /// `spec.maxAddresses`: the namespace has as many as it may have.
    MaxAddresses {
        /// The limit.
        limit: u32,
    },
    /// `spec.requestableAddresses`: the address may not be asked for by name.
    Requestable {
        /// The address asked for.
        address: IpAddr,
    },
    /// `spec.sharing`: the address is held from another namespace, with which this one may not share.
    Sharing {
        /// The address.
        address: IpAddr,
        /// The other namespace.
        with: String,
    },
}

impl fmt::Display for PolicyLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyLimit::Pools { wanted } => {
                write!(f, "spec.pools does not contain {}", wanted.join(", "))
            }
            PolicyLimit::MaxAddresses { limit } => {
                write!(f, "spec.maxAddresses is {limit}, and the namespace has as many")
            }
            PolicyLimit::Requestable { address } => {
                write!(f, "spec.requestableAddresses does not contain {address}")
            }
            PolicyLimit::Sharing { address, with } => {
                write!(
                    f,
                    "spec.sharing does not allow to share {address} with namespace {with:?}"
                )
            }
        }
    }
}
