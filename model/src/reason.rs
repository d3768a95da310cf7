//! Every "no", in one place: why an address was not given, or a node does not announce.
//!
//! A [`Reason`] has a stable name (`as_str`) for conditions, metric labels, logs and scripts, and a message (`Display`)
//! that names object, value and what would be right. What each name means stands in `explained`.

mod explained;

use std::fmt;
use std::net::IpAddr;

use crate::allocation_policy::PolicyLimit;
use crate::announcement_policy::PolicyDenial;
use crate::cluster::AddressUse;
use crate::ip::Family;
use crate::service::{RequestError, ServiceId};
use crate::virtual_ip::{Stranger, VirtualIpName};

pub use explained::Explanation;

/// Why a Service has no address, or not the one it asks for, or an address has no announcer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No pool is in force at all.
    NoPools,
    /// The pool asked for is not in force.
    PoolNotFound {
        /// The name asked for.
        pool: String,
    },
    /// Pools exist, but none may be chosen for this Service (autoAssign off, or selectors do not match).
    NoPoolForService {
        /// Every pool in force, each with why not.
        refused: Vec<(String, &'static str)>,
    },
    /// The pool's selectors do not admit the Service.
    PoolExcludesService {
        /// The pool.
        pool: String,
    },
    /// Every address of the family is taken in each pool that may be used.
    PoolExhausted {
        /// The pools tried, in order.
        pools: Vec<String>,
        /// The family that is missing.
        family: Family,
    },
    /// No pool that may be used has addresses of the family.
    NoAddressOfFamily {
        /// The pools tried, in order.
        pools: Vec<String>,
        /// The family that is missing.
        family: Family,
    },
    /// The requested address is in no pool.
    AddressOutsidePools {
        /// The address.
        address: IpAddr,
    },
    /// The requested address is in another pool than the one asked for.
    AddressOutsidePool {
        /// The address.
        address: IpAddr,
        /// The pool asked for.
        pool: String,
    },
    /// The requested address is held by somebody else.
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// Who holds it; nobody when its VirtualIP exists, but cannot be read.
        by: Vec<ServiceId>,
    },
    /// The address could be shared but for this.
    CannotShare {
        /// The address.
        address: IpAddr,
        /// The Service that holds it.
        with: ServiceId,
        /// What does not fit, in words.
        why: &'static str,
    },
    /// An administrator blocked the address by a VirtualIP without a claim.
    AddressBlocked {
        /// The address.
        address: IpAddr,
    },
    /// The address ends in .0 or .255 and its pool sets avoidBuggyIPs.
    AddressAvoided {
        /// The address.
        address: IpAddr,
        /// The pool.
        pool: String,
    },
    /// The address belongs to a node.
    AddressOfNode {
        /// The address.
        address: IpAddr,
        /// The node.
        node: String,
    },
    /// The address means something to the network around a node.
    AddressOfNetwork {
        /// The address.
        address: IpAddr,
        /// The node.
        node: String,
        /// What it means.
        role: AddressUse,
    },
    /// A machine that is no node uses the address.
    AddressOccupied {
        /// The address.
        address: IpAddr,
        /// The node whose speaker found it.
        node: String,
        /// Who uses it.
        stranger: Stranger,
    },
    /// An administrator limits what the Services of this namespace may have.
    PolicyRefuses {
        /// The AllocationPolicy.
        policy: String,
        /// Which of its limits.
        limit: PolicyLimit,
    },
    /// The families asked for are not those of the Service.
    RequestFamilies {
        /// The addresses asked for.
        addresses: Vec<IpAddr>,
        /// What the Service has, in words.
        service: &'static str,
    },
    /// The request itself cannot be read.
    BadRequest(RequestError),
    /// RequireDualStack, but the Service has cluster addresses of one family only.
    NotDualStack,
    /// The Service has no cluster address, so there is nothing to send traffic to.
    NoClusterIp,
    /// No L2Advertisement covers the address.
    NoAdvertisement {
        /// The pool of the address.
        pool: String,
    },
    /// Advertisements exist, but no node may announce.
    NoEligibleNode {
        /// Every node with its refusal.
        nodes: Vec<(String, NodeRefusal)>,
    },
    /// No endpoint of any Service that holds the address can serve.
    NoEndpoint {
        /// The Services that hold the address.
        services: Vec<ServiceId>,
    },
    /// The address has an owner, and no speaker is known on any node that could announce it.
    NoSpeaker,
    /// The owner has not confirmed in time that it announces the address.
    NotConfirmed {
        /// The owner.
        node: String,
    },
    /// An address cannot be moved as asked.
    CannotMove {
        /// The node asked for.
        node: String,
        /// Why it may not announce the address; `None`: there is no such node.
        why: Option<NodeRefusal>,
    },
    /// The Service keeps an address that would not be chosen for it today.
    PoolChanged {
        /// The address.
        address: IpAddr,
        /// What no longer holds, in words.
        why: String,
    },
    /// The Service does not have the AnnouncementPolicy that it asks for.
    PolicyNotGranted {
        /// The policy.
        policy: String,
        /// Why not.
        why: PolicyDenial,
    },
    /// The rules led in a circle, in which the Service lost and took an address again and again: a fault of FerroLB.
    Unsettled {
        /// The address.
        address: IpAddr,
    },
    /// Another writer keeps changing what FerroLB wrote.
    ForeignWriter {
        /// The field manager's name.
        manager: String,
    },
    /// The API server refused a write.
    ApiRefused {
        /// Its message.
        message: String,
    },
}

/// Why one node does not announce one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeRefusal {
    /// No advertisement's node selector matches it.
    NotSelected,
    /// The Node is not Ready.
    NotReady,
    /// The Node carries the exclude-from-external-load-balancers label.
    Excluded,
    /// The Node is cordoned, and a policy takes that for a drain.
    Cordoned,
    /// The Node has a taint with the effect NoExecute, and a policy takes that for a drain.
    Tainted,
    /// The Node's network is reported unavailable.
    NetworkUnavailable,
    /// externalTrafficPolicy Local, and no endpoint on this node can serve.
    NoLocalEndpoint,
    /// No endpoint anywhere can serve.
    NoEndpoint,
    /// The address' VirtualIP does not name it as the owner.
    NotOwner,
    /// No Service that holds a claim on the address is there as a LoadBalancer of a class that is served.
    NoClaim,
    /// None of the interfaces that may be used is up with carrier.
    NoInterface,
    /// None of those is in a subnet that contains the address.
    NoSubnet,
    /// Its speaker has told of no interface yet, while others have.
    NoSpeaker,
    /// A policy asks for pre-emption, and a node of a higher score is there.
    Outweighed,
    /// Layer 2 does not run on it, for want of a capability or of netlink.
    NoLayer2,
    /// No BGPPeer that an advertisement speaks to is there for it.
    NoPeer,
    /// Its kube-proxy has yet to write the rules for the address.
    DataPathNotReady,
    /// Another machine on its segment uses the address.
    AddressOccupied,
}

/// A message names this many nodes; a condition's message is bounded, a cluster is not.
const NODES_NAMED: usize = 8;

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoPools => f.write_str("no IPAddressPool is in force; create one"),
            Reason::PoolNotFound { pool } => write!(f, "there is no IPAddressPool {pool:?} in force"),
            Reason::NoPoolForService { refused } => {
                let why = refused
                    .iter()
                    .map(|(pool, why)| format!("{pool}: {why}"))
                    .collect::<Vec<_>>();
                write!(
                    f,
                    "no IPAddressPool may be chosen for this Service ({})",
                    why.join("; ")
                )
            }
            Reason::PoolExcludesService { pool } => {
                write!(
                    f,
                    "IPAddressPool {pool:?} is kept for other Services: its serviceAllocation does not select this one"
                )
            }
            Reason::PoolExhausted { pools, family } => {
                write!(
                    f,
                    "every {family} address is in use in IPAddressPool {}; add addresses or free some",
                    list(pools)
                )
            }
            Reason::NoAddressOfFamily { pools, family } => {
                write!(
                    f,
                    "IPAddressPool {} has no {family} addresses; add an {family} range",
                    list(pools)
                )
            }
            Reason::AddressOutsidePools { address } => {
                write!(f, "requested address {address} is in no IPAddressPool in force")
            }
            Reason::AddressOutsidePool { address, pool } => {
                write!(
                    f,
                    "requested address {address} is not in the requested IPAddressPool {pool:?}"
                )
            }
            Reason::AddressInUse { address, by } if by.is_empty() => {
                let name = VirtualIpName::of(*address).to_string();
                write!(
                    f,
                    "VirtualIP {name:?} exists already and cannot be read; correct or delete it"
                )
            }
            Reason::AddressInUse { address, by } => write!(f, "address {address} is in use by {}", list(by)),
            Reason::CannotShare { address, with, why } => {
                write!(f, "address {address} is held by {with} and cannot be shared: {why}")
            }
            Reason::AddressBlocked { address } => {
                write!(f, "address {address} is blocked by a VirtualIP without a claim")
            }
            Reason::AddressAvoided { address, pool } => {
                write!(
                    f,
                    "address {address} ends in .0 or .255, which IPAddressPool {pool:?} avoids (avoidBuggyIPs)"
                )
            }
            Reason::AddressOfNode { address, node } => write!(f, "address {address} belongs to node {node}"),
            Reason::AddressOfNetwork { address, node, role } => {
                write!(f, "address {address} is {role} of node {node}")
            }
            Reason::AddressOccupied {
                address,
                node,
                stranger,
            } => {
                write!(
                    f,
                    "address {address} is used by the machine with MAC address {} on the segment of interface {} of node \
                     {node}; give that machine another address, or take {address} out of its IPAddressPool",
                    stranger.mac_text(),
                    stranger.interface
                )
            }
            Reason::PolicyRefuses { policy, limit } => {
                write!(f, "AllocationPolicy {policy:?} does not allow it: {limit}")
            }
            Reason::RequestFamilies { addresses, service } => {
                write!(
                    f,
                    "requested addresses {} do not fit the Service, which is {service}",
                    list(addresses)
                )
            }
            Reason::BadRequest(error) => error.fmt(f),
            Reason::NotDualStack => f.write_str(
                "ipFamilyPolicy is RequireDualStack, but the Service has cluster addresses of one family only",
            ),
            Reason::NoClusterIp => f.write_str("the Service has no cluster IP"),
            Reason::NoAdvertisement { pool } => {
                write!(f, "no L2Advertisement covers IPAddressPool {pool:?} and this Service")
            }
            Reason::NoEligibleNode { nodes } => {
                let why = nodes
                    .iter()
                    .take(NODES_NAMED)
                    .map(|(node, why)| format!("{node}: {}", why.as_str()))
                    .collect::<Vec<_>>();
                write!(f, "no node may announce ({}", why.join(", "))?;
                match nodes.len().saturating_sub(NODES_NAMED) {
                    0 => f.write_str(")"),
                    more => write!(f, " and {more} more)"),
                }
            }
            Reason::NoEndpoint { services } => {
                write!(f, "no endpoint of {} can serve", list(services))
            }
            Reason::NoSpeaker => {
                f.write_str("no speaker answers on any node that could announce it; see DaemonSet ferrolb-speaker")
            }
            Reason::NotConfirmed { node } => {
                write!(
                    f,
                    "node {node} is to announce it and does not confirm; see the pod of DaemonSet ferrolb-speaker on {node}, and \
                     the events of the Service"
                )
            }
            Reason::CannotMove { node, why: None } => write!(f, "there is no node {node:?}"),
            Reason::CannotMove { node, why: Some(why) } => {
                write!(f, "node {node} may not announce the address: {}", why.as_str())
            }
            Reason::PoolChanged { address, why } => {
                write!(f, "{address} is kept although it would not be chosen today: {why}")
            }
            Reason::PolicyNotGranted { policy, why } => {
                write!(
                    f,
                    "annotation ferrolb.io/announcement-policy: {policy:?}: {why}; the Service is announced as without it"
                )
            }
            Reason::Unsettled { address } => {
                write!(
                    f,
                    "what to do about {address} led in a circle, which is a fault of FerroLB: please report it with the objects \
                     involved; the Service is left as it is, and looked at again within 64 s"
                )
            }
            Reason::ForeignWriter { manager } => {
                write!(
                    f,
                    "{manager:?} keeps overwriting the Service's status; stop one of the two load balancers"
                )
            }
            Reason::ApiRefused { message } => write!(f, "the API server refused the write: {message}"),
        }
    }
}
