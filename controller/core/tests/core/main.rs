//! The core against a small API server in memory: every outcome is judged by what stands in the objects.

mod allocation;
mod faults;
mod fixtures;
mod lab;
mod lifecycle;
mod placement;
mod properties;
