//! The custom resources as they stand on the wire, one file per kind.
//!
//! [`metallb`] holds the kinds that users of MetalLB already have, field for field; nothing is ever added to them.
//! [`ferrolb`] holds what is ours. [`names`] holds every string that is an interface to the outside: annotations,
//! labels, field managers, event reasons. The CRD files under `deploy/crds` are generated from these types ([`crds`]).
//!
//! Two guarantees. The schema is strict, so that a mistake is named when it is applied. Reading is lenient: whatever an
//! older schema let into the store, missing and null fields included, is read, and judged per object by
//! `ferrolb-config`, which alone turns these types into the model.

// Each `printcolumn` of a kind has a `type_` of its own, which the lint takes for a repetition.
#![allow(clippy::duplicated_attributes)]

mod crd;
pub mod ferrolb;
pub mod metallb;
pub mod names;
mod schema;
mod wire;

pub use crd::crds;
pub use ferrolb::allocation_policy::{AllocationPolicy, AllocationPolicySpec, SharingLimit};
pub use ferrolb::announcement_policy::{
    AnnouncementPolicy, AnnouncementPolicySpec, AntiAffinity, AntiAffinityGroup, BgpPolicy, ConflictDetection,
    DrainPolicy, DrainTrigger, EndpointCondition, EndpointPolicy, GatewayFamily, GracefulShutdown, Layer2Policy,
    LinkBandwidth, LivenessPolicy, NodeWeight, OnRequest, OpenedBy, PeerAddressSource, PeerAsnSource, PeerPolicy,
    PlacementPolicy,
};
pub use ferrolb::speaker_state::{
    AddressConflict, BfdSession, BfdState, BgpSession, BgpState, InterfaceState, Layer2State, Negotiated, SessionState,
    SpeakerState, SpeakerStateSpec, SpeakerStateStatus,
};
pub use ferrolb::virtual_ip::{
    Announcer, Claim, Placement, Probe, ProbeResult, ReclaimPolicy, VirtualIp, VirtualIpSpec, VirtualIpStatus,
};
pub use metallb::bfd_profile::{BfdProfile, BfdProfileSpec, BfdProfileStatus};
pub use metallb::bgp_advertisement::{BgpAdvertisement, BgpAdvertisementSpec, BgpAdvertisementStatus};
pub use metallb::bgp_peer::{BgpPeer, BgpPeerSpec, BgpPeerStatus, DynamicAsn, Password};
pub use metallb::community::{Community, CommunityAlias, CommunitySpec, CommunityStatus};
pub use metallb::configuration_state::{
    ConfigurationResult, ConfigurationState, ConfigurationStateSpec, ConfigurationStateStatus,
};
pub use metallb::ip_address_pool::{IpAddressPool, IpAddressPoolSpec, IpAddressPoolStatus, ServiceAllocation};
pub use metallb::l2_advertisement::{
    L2Advertisement, L2AdvertisementSpec, L2AdvertisementStatus, PreferredNodeSelector,
};
pub use metallb::service_bgp_status::{ServiceBgpStatus, ServiceBgpStatusSpec, ServiceBgpStatusStatus};
pub use metallb::service_l2_status::{InterfaceInfo, ServiceL2Status, ServiceL2StatusSpec, ServiceL2StatusStatus};
