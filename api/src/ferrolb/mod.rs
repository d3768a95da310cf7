//! Group `ferrolb.io`: what FerroLB adds.

pub mod virtual_ip;
