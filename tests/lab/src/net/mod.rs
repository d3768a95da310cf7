//! Network namespaces and what connects them.
//!
//! [`Namespace`] is one host's network; [`Lan`] is the segment that joins hosts; [`node`] turns a host into a cluster
//! node with a pod bridge and routes. Links and addresses are set by the `ip` program in batches: one short process per
//! host is quicker to read than netlink code and costs a few milliseconds.

mod http;
mod lan;
mod namespace;
pub mod node;

pub use http::http_get;
pub use lan::{Families, Host, Lan};
pub use namespace::Namespace;
