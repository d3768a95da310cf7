//! Kubernetes objects in, `ferrolb-model` out: parse, don't validate.
//!
//! Two kinds of input, two shapes of outcome:
//! - the objects of the cluster ([`service_view`], [`node_view`], [`endpoints_view`], [`virtual_ip`]) become views. What
//!   a user wrote into a Service and cannot be read becomes a part of the view, for the core to refuse by name;
//! - the objects that configure FerroLB ([`parse`]) become one [`ferrolb_model::Config`] and a [`ConfigError`] for each
//!   object that cannot be used. A bad object is left out, its last good version stays in force, and what does not
//!   depend on it works.
//!
//! Nothing here does IO or reads a clock, nothing panics on any input, and the order of objects changes no outcome.

mod advertisement;
mod cluster;
mod error;
mod parse;
mod pool;
mod request;
mod selector;
mod service;
mod virtual_ip;

pub use cluster::{endpoints_view, node_view};
pub use error::{ConfigError, Problem};
pub use parse::{Parsed, Snapshot, parse};
pub use request::{Texts, request};
pub use service::service_view;
pub use virtual_ip::{BadVirtualIp, virtual_ip};
