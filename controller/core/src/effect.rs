//! What the core asks the shell to do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ferrolb_model::{Claim, Condition, ConditionType, Placement, ServiceId};

/// One thing to do. Writes with different keys may run side by side; order is by key only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write to the API server and report back with [`crate::Input::Written`].
    Write(Write),
    /// Record an event on a Service. Best effort, nothing is reported back.
    Event(ServiceEvent),
    /// A request to rebalance is answered: keep that, so that nobody answers it again.
    Rebalanced {
        /// The request, as it came.
        request: String,
        /// What became of it.
        message: String,
    },
}

/// What a write is about; at most one write per key is under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WriteKey {
    /// The VirtualIP object and its spec: the claim.
    Claim(IpAddr),
    /// The controller's part of a VirtualIP's status.
    VirtualIpStatus(IpAddr),
    /// A Service's `status.loadBalancer` and pool annotation.
    ServiceStatus(ServiceId),
}

/// A write, complete: the shell needs nothing else to do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Create the VirtualIP of an address. Fails with `Conflict` when somebody was faster.
    CreateVirtualIp {
        /// The address.
        address: IpAddr,
        /// The pool it is taken from; `None` for an adopted address outside every pool.
        pool: Option<String>,
        /// Who gets it.
        claims: Vec<Claim>,
        /// The sharing key of its holders.
        sharing_key: Option<String>,
        /// The node whose speaker is to ask whether another machine uses the address.
        prober: Option<String>,
    },
    /// Replace what a claim says, if the object is still the one that was read.
    UpdateVirtualIp {
        /// The address.
        address: IpAddr,
        /// The pool.
        pool: Option<String>,
        /// Who holds it now.
        claims: Vec<Claim>,
        /// The sharing key of its holders.
        sharing_key: Option<String>,
        /// Precondition.
        resource_version: String,
    },
    /// Change nothing, and learn from the precondition whether the VirtualIP is still the one that was read: of a claim that
    /// this process has not written, the watch may be the last to hear that it is gone.
    ConfirmVirtualIp {
        /// The address.
        address: IpAddr,
        /// Precondition.
        resource_version: String,
    },
    /// Delete the VirtualIP, if it is still the one that was read.
    DeleteVirtualIp {
        /// The address.
        address: IpAddr,
        /// Precondition.
        uid: String,
        /// Precondition.
        resource_version: String,
    },
    /// Write `status.placement`, `status.answeredMove` and `status.conditions`; `None` removes what it stands for.
    SetVirtualIpStatus {
        /// The address.
        address: IpAddr,
        /// Where it is announced.
        placement: Option<Placement>,
        /// The request to move it that is answered.
        answered_move: Option<String>,
        /// All conditions of the controller.
        conditions: BTreeMap<ConditionType, Condition>,
        /// Precondition.
        resource_version: String,
    },
    /// Write `status.loadBalancer.ingress` and the pool annotation; empty removes both.
    SetServiceStatus {
        /// The Service.
        service: ServiceId,
        /// Precondition: the Service's uid.
        uid: String,
        /// Precondition.
        resource_version: String,
        /// The addresses, IPv4 first.
        ingress: Vec<IpAddr>,
        /// Value of the annotation `metallb.io/ip-allocated-from-pool`.
        pool: Option<String>,
    },
}

impl Write {
    /// What this write is about.
    pub fn key(&self) -> WriteKey {
        match self {
            Write::CreateVirtualIp { address, .. }
            | Write::UpdateVirtualIp { address, .. }
            | Write::ConfirmVirtualIp { address, .. }
            | Write::DeleteVirtualIp { address, .. } => WriteKey::Claim(*address),
            Write::SetVirtualIpStatus { address, .. } => WriteKey::VirtualIpStatus(*address),
            Write::SetServiceStatus { service, .. } => WriteKey::ServiceStatus(service.clone()),
        }
    }
}

/// An event on a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEvent {
    /// The Service.
    pub service: ServiceId,
    /// Its uid.
    pub uid: String,
    /// Normal or Warning, and the reason.
    pub kind: EventKind,
    /// For a person; names object, field, value and what would be right.
    pub message: String,
}

/// The events on Services, under the names that users of the `metallb.io` API know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Warning `addressConflict`: another machine uses the address that the Service was to have.
    Conflict,
    /// Normal `IPAllocated`: the Service has its address.
    Allocated,
    /// Warning `ClearAssignment`: an address was taken away, and why.
    Cleared,
    /// Warning `AllocationFailed`: no address could be given.
    AllocationFailed,
    /// Warning `LoadBalancerFailed`: the request cannot be read or met as written.
    LoadBalancerFailed,
    /// Warning `deprecatedAnnotation`: an annotation under the old prefix is in use.
    DeprecatedAnnotation,
    /// Warning `PoolChanged`: the Service keeps an address that would not be chosen for it today.
    PoolChanged,
    /// Warning `policyNotGranted`: the Service does not have the AnnouncementPolicy that it asks for, and why.
    PolicyNotGranted,
    /// Normal `Renumbering`: the Service has a new address beside the one that its pool would not give any more.
    Renumbering,
    /// Normal `Renumbered`: the old address is gone.
    Renumbered,
    /// Warning `announceFailed`: the address is allocated, but no node may announce it.
    AnnounceFailed,
    /// Normal `addressMoved`: another node announces the address from now on, as somebody asked.
    Moved,
    /// Warning `moveFailed`: the address cannot be moved as asked.
    MoveFailed,
}
