//! What the core asks the shell to do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{ConflictDetection, NodeRefusal, Placement, ServiceId};

use crate::data_path::NotReady;
use crate::probes::Finding;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The whole set of addresses that this node owns, whenever it changed. Comes before every other effect of the same
    /// input. [`crate::Ownership`] keeps it to itself and tells [`Effect::Duties`].
    Announce(BTreeMap<IpAddr, Announcement>),
    /// The whole of this node's part in addresses at layer 2, whenever it changed. Also what goes into the snapshot
    /// file. Comes before every other effect of the same input.
    Duties(Duties),
    /// Write `status.placement` of the VirtualIP: this node has taken the address over.
    SetPlacement {
        /// The address.
        address: IpAddr,
        /// With this node as the owner.
        placement: Placement,
        /// Precondition: the VirtualIP's resourceVersion.
        resource_version: String,
    },
    /// For the log: an address is withdrawn, or the placement gives it to this node and it is not announced. Once for
    /// each change of the reason.
    Withheld {
        /// The address.
        address: IpAddr,
        /// Why this node does not announce it.
        why: NodeRefusal,
    },
    /// Write `status.announcer` of the VirtualIP, or remove it if it names this node (`None`).
    SetAnnouncer {
        /// The address.
        address: IpAddr,
        /// The interfaces that this node answers on.
        interfaces: Option<BTreeSet<String>>,
        /// Precondition: the VirtualIP's resourceVersion.
        resource_version: String,
    },
    /// Write `status.probe` of the VirtualIP with this uid: what the controller has asked this node.
    SetProbe {
        /// The address.
        address: IpAddr,
        /// Precondition.
        uid: String,
        /// What was found.
        finding: Finding,
    },
    /// Normal event `nodeAssigned` on a Service: this node announces its address.
    NodeAssigned {
        /// The Service.
        service: ServiceId,
        /// Its uid.
        uid: String,
        /// The address.
        address: IpAddr,
    },
    /// Warning event `announceFailed` on a Service: this node should announce its address and cannot.
    AnnounceFailed {
        /// The Service.
        service: ServiceId,
        /// Its uid.
        uid: String,
        /// Names the object, the field, the value and what would be right.
        message: String,
    },
    /// Warning event `dataPathNotReady` on each Service: this node announces the address although its kube-proxy is not
    /// known to serve it, because it has waited for long enough.
    DataPathNotReady {
        /// The address.
        address: IpAddr,
        /// How long it has waited.
        waited: Duration,
        /// What is missing.
        why: NotReady,
        /// The Services that hold the address, each with its uid.
        services: Vec<(ServiceId, String)>,
    },
    /// For the log, and as a Warning event on each Service: a stranger uses the address. Once for each MAC address.
    Conflict {
        /// The address.
        address: IpAddr,
        /// The interface it was heard on.
        interface: String,
        /// The stranger's MAC address.
        mac: [u8; 6],
        /// The Services that hold the address, each with its uid.
        services: Vec<(ServiceId, String)>,
    },
}

/// This node's part in each address; kept once for all who go by it.
pub type Duties = Arc<BTreeMap<IpAddr, Arc<Duty>>>;

/// This node's part in one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duty {
    /// The VirtualIP's uid.
    pub uid: String,
    /// The interfaces wanted; `None` means every suitable one.
    pub interfaces: Option<BTreeSet<String>>,
    /// Who owns the address and who stands by. A node that is neither has handed the address over, and answers until
    /// the owner is heard.
    pub placement: Placement,
    /// Who announced the address before, if that is known: it is told that the new owner is in place.
    pub previous_owner: Option<String>,
    /// This node can announce it. An owner that no longer can goes on until the address is placed elsewhere.
    pub able: bool,
    /// How a failure of the owner is noticed and answered.
    pub liveness: Liveness,
    /// How it is announced and kept.
    pub manner: Manner,
}

/// How a failure of an owner is noticed and answered, as far as a policy says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Liveness {
    /// Between two heartbeats.
    pub interval: Option<Duration>,
    /// Heartbeats missed before the wire is asked.
    pub multiplier: Option<u32>,
    /// How long the address stays with an owner whose node lives while its speaker does not.
    pub grace: Option<Duration>,
    /// Whether a standby may answer in the owner's name meanwhile.
    pub answer_for_owner: Option<bool>,
}

/// How an address is announced and kept, as far as a policy says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Between two unasked announcements; zero is never.
    pub refresh: Option<Duration>,
    /// How use of the address by another machine is noticed.
    pub conflicts: Option<ConflictDetection>,
    /// Only interfaces with a subnet that contains the address.
    pub subnet_check: Option<bool>,
}

impl Duty {
    /// What its owner announces.
    pub fn announcement(&self) -> Announcement {
        Announcement {
            interfaces: self.interfaces.clone(),
            epoch: self.placement.epoch,
            manner: self.manner,
        }
    }
}

/// How one address is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The interfaces wanted; `None` means every suitable one.
    pub interfaces: Option<BTreeSet<String>>,
    /// The epoch of the placement that made this node the owner.
    pub epoch: u64,
    /// How it is announced and kept.
    pub manner: Manner,
}
