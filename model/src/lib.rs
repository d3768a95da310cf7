//! The words of FerroLB's domain.
//!
//! Plain data and the few rules that belong to one value alone: what an address range contains, what a selector
//! matches, why something was refused. Nothing here knows Kubernetes' wire types, does IO, or reads a clock, so every
//! crate that decides something can be tested in milliseconds. Conversion from Kubernetes objects lives in
//! `ferrolb-config`, and only there.

mod advertise;
mod allocation_policy;
mod announcement_policy;
mod bfd;
mod bgp;
mod cluster;
mod community;
mod config;
mod ip;
mod liveness;
mod peer;
mod pool;
mod range;
mod reason;
mod selector;
mod service;
mod virtual_ip;

pub use advertise::{L2Advertisement, PoolSelection, PreferredNode};
pub use allocation_policy::{AllocationPolicy, PolicyLimit};
pub use announcement_policy::{
    AnnouncementPolicy, AntiAffinity, Applicant, BgpSettings, ConflictDetection, DrainSettings, DrainTrigger,
    EndpointSettings, Layer2Settings, OnRequest, PolicyDenial,
};
pub use bfd::BfdProfile;
pub use bgp::BgpAdvertisement;
pub use cluster::{AddressUse, Endpoint, EndpointsView, LinkView, NetworkView, NodeView};
pub use community::{Administrator, Community, CommunityError, ExtendedCommunity, ExtendedKind};
pub use config::Config;
pub use ip::{Family, FamilySet, canonical};
pub use liveness::{LIVENESS_KEY, LivenessKeys};
pub use peer::{
    AddressSource, BgpTimers, NodeValue, Opener, Password, PasswordSource, Peer, PeerEndpoint, PeerSettings, RemoteAsn,
    is_interface_name,
};
pub use pool::{OnShrink, Pool, ServiceAllocation};
pub use range::{IpRange, RangeError};
pub use reason::{Explanation, NodeRefusal, Reason};
pub use selector::{LabelSelector, Labels, Operator, Requirement};
pub use service::{
    AddressRequest, FamilyPolicy, Port, Protocol, RequestError, ServiceId, ServiceType, ServiceView, TrafficPolicy,
};
pub use virtual_ip::{
    Announcer, Claim, Condition, ConditionType, Placement, Probe, ReclaimPolicy, Stranger, VirtualIp, VirtualIpName,
};
