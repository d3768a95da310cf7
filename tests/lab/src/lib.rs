//! A real Kubernetes cluster on one machine, with a LAN around it, for scenarios that read like short stories.
//!
//! etcd, the API server, the controller manager, the scheduler and a kube-proxy per node are the real programs
//! (`ferrolb-controlplane` builds them); hosts are network namespaces on a bridge. What a lab makes lives in its
//! namespaces (`flb<id>-...`), in its run directory ([`run_dir`]) and in its log directory, and only the logs stay.
//!
//! Guarantees:
//! - Several labs run side by side without seeing each other.
//! - Nothing survives a lab: not after success, an error, a panic or Ctrl-C; what a `kill -9` of the lab leaves dies
//!   with it (processes) or is swept by the next lab (namespaces, directories).
//!
//! Read first: [`lab`], what scenarios use; then [`net`] and [`process`], the ground that everything stands on.

pub mod bird;
pub mod capture;
pub mod client;
pub mod forward;
pub mod frr;
pub mod gobgp;
pub mod harness;
pub mod interactive;
pub mod interrupt;
pub mod kubelet;
pub mod lab;
pub mod net;
pub mod privilege;
pub mod process;
pub mod realnode;
pub mod run_dir;

pub use ferrolb_controlplane::ProxyMode;
pub use harness::{Group, Harness, Story};
pub use lab::{Lab, Node, NodeKind, Program, Setup, wait_until};
pub use net::Families;
