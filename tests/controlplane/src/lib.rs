//! A real Kubernetes control plane: its programs, its certificates and tokens, its command lines.
//!
//! This crate knows what to run and with what; it starts nothing but the Go compiler, and helm to ask for its version. Whoever runs the programs (the
//! lab, in network namespaces) takes [`Invocation`]s from a [`ControlPlane`], which also writes every file they read.
//!
//! Guarantees:
//! - The programs are built once per state of their sources, whoever asks, and how many at once.
//! - Nothing is read from or written to the user's own Kubernetes configuration, and no `kubectl` but ours is used.

mod access;
mod control_plane;
mod helm;
mod metallb;
mod module;
mod pki;
mod programs;

pub use access::User;
pub use control_plane::{ControlPlane, Invocation, Plan, ProxyMode};
pub use helm::helm;
pub use metallb::{METALLB_VERSION, Metallb};
pub use pki::{Authority, Issued};
pub use programs::{Program, Programs};

/// The port on which the API server listens.
pub const API_PORT: u16 = 6443;
/// The port of etcd, on the loopback address of the control plane's host.
pub const ETCD_PORT: u16 = 2379;
/// The port on which every kube-proxy answers `/healthz`.
pub const PROXY_HEALTH_PORT: u16 = 10256;
/// The version of Kubernetes that is built.
pub const KUBERNETES_VERSION: &str = "v1.36.3";
