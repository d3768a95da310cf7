//! Kubernetes objects in, `model` out: parsed once at the edge, so that nothing behind it validates again. No IO.
//!
//! - [`parse`] turns the objects of the configuration into a [`ferrolb_model::Config`] and names every mistake, object
//!   by object ([`ObjectError`]);
//! - [`service_view`], [`node_view`], [`endpoints_view`] and [`virtual_ip`] reduce objects to what decisions need;
//! - [`request`], [`parse_address`] and [`parse_address_list`] read the texts that users put into Services.

mod advertise;
mod cluster;
mod error;
mod parse;
mod pool;
mod selector;
mod service;
mod virtual_ip;

pub use cluster::{endpoints_view, node_view};
pub use error::{ObjectError, Problem};
pub use parse::{Parsed, Snapshot, parse};
pub use service::{parse_address, parse_address_list, request, service_view};
pub use virtual_ip::virtual_ip;
