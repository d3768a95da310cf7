//! What the core asks the shell to do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ferrolb_model::ServiceId;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The whole set of addresses to answer for at layer 2, whenever it changed. Also what goes into the snapshot file.
    Announce(BTreeMap<IpAddr, Announcement>),
    /// Write `status.announcer` of the VirtualIP, or remove it if it names this node (`None`).
    SetAnnouncer {
        /// The address.
        address: IpAddr,
        /// The interfaces that this node answers on.
        interfaces: Option<BTreeSet<String>>,
        /// Precondition: the VirtualIP's resourceVersion.
        resource_version: String,
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
}

/// How one address is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The interfaces wanted; `None` means every suitable one.
    pub interfaces: Option<BTreeSet<String>>,
    /// The epoch of the placement that made this node the owner.
    pub epoch: u64,
}
