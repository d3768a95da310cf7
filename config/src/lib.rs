//! Kubernetes objects in, `model` out: parsed once at the edge, so that nothing behind it validates again. No IO.
//!
//! - [`parse`] turns the objects of the configuration (`objects.rs`) into a [`ferrolb_model::Config`] and names every
//!   mistake, object by object ([`ObjectError`]). `settle.rs` has the rule by which one object yields to another; each
//!   kind has a file;
//! - [`LastGood`] carries what was in force over a restart;
//! - [`service_view`], [`node_view`], [`endpoints_view`] and [`virtual_ip`] reduce objects to what decisions need;
//! - [`request`], [`parse_address`], [`parse_address_list`] and [`parse_duration`] read the texts that users write.

mod advertise;
mod allocation;
mod announcement;
mod bfd;
mod bgp;
mod cluster;
mod community;
mod contains;
mod duration;
mod error;
mod last_good;
mod liveness;
mod nodes;
mod number;
mod objects;
mod overlap;
mod parse;
mod peer;
mod pool;
mod problem;
mod selector;
mod service;
mod settle;
mod surroundings;
mod virtual_ip;

pub use cluster::{endpoints_view, network_view, node_view};
pub use duration::parse_duration;
pub use error::{ObjectError, Outcome};
pub use last_good::{LastGood, LastGoodError};
pub use liveness::{LivenessKeysError, liveness_data, liveness_keys};
pub use objects::{Configures, Kind, Object, ObjectRef, Snapshot};
pub use parse::{Parsed, parse};
pub use problem::Problem;
pub use service::{parse_address, parse_address_list, request, service_view};
pub use surroundings::{NodeFacts, Surroundings, service_cidr};
pub use virtual_ip::virtual_ip;
