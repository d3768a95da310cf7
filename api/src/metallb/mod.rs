//! Group `metallb.io`: the API that users already have. All kinds are namespaced and honoured in FerroLB's own namespace.

pub mod configuration_state;
pub mod ip_address_pool;
pub mod l2_advertisement;
