//! Group `ferrolb.io`: what FerroLB adds.

pub mod allocation_policy;
pub mod announcement_policy;
pub mod speaker_state;
pub mod virtual_ip;
