//! Group `metallb.io`: the API that users already have. All kinds are namespaced and honoured in FerroLB's own namespace.

pub mod bfd_profile;
pub mod bgp_advertisement;
pub mod bgp_peer;
pub mod community;
pub mod configuration_state;
pub mod ip_address_pool;
pub mod l2_advertisement;
pub mod service_bgp_status;
pub mod service_l2_status;
