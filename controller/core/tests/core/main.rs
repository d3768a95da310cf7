//! The core against a small API server in memory: every outcome is judged by what stands in the objects.

mod allocation;
mod confirm;
mod eligible;
mod families;
mod faults;
mod fixtures;
mod follower;
mod lab;
mod lifecycle;
mod line;
mod moves;
mod placement;
mod probe;
mod properties;
mod rebalance;
mod renumber;
mod silence;
mod spread;
mod stale;
mod tenancy;
