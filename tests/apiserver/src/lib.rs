//! An API server in memory, with faults on request, and beside it a real one to check it against.
//!
//! [`ApiServer`] speaks as much of the Kubernetes API as FerroLB's programs use, over HTTP on a port of the loopback
//! interface. It keeps the rules that these programs rely on: versions that only grow, creation that collides, writes
//! with preconditions, a status that only its subresource changes, finalizers, lists in pages, watches that go on from a
//! version or say that it is too old. It does not validate, authenticate or authorize.
//!
//! [`Rule`]s make it misbehave as real clusters do; [`ApiServer::log`] tells what was asked of it.
//!
//! [`RealApiServer`] is etcd and kube-apiserver as child processes. `tests/conformance` does the same to both and compares
//! what they say; so do the tests of the programs. `tests/crds` tries FerroLB's kinds on the real one.

mod client;
mod faults;
mod http;
mod patch;
mod real;
mod refusal;
mod resource;
mod schema;
mod select;
mod server;
mod store;
mod watch;
mod writes;

pub use client::client;
pub use faults::{Ending, Fault, Rule, Verb};
pub use real::RealApiServer;
pub use resource::Resource;
pub use server::{ApiServer, Record};
