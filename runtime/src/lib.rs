//! The kit that both programs stand on: flags, the Kubernetes client, watches, writes, leadership, events, the admin
//! server, logs and tasks. It knows no word of FerroLB's domain.
//!
//! A program is put together like this: [`args::parse`], [`logs::init`], [`client::connect`], a [`readiness::Readiness`]
//! and a metrics registry, one [`watch::Source`] per kind feeding one bounded channel, one owner task that reads that
//! channel and hands writes to a [`writer::Writer`], and [`tasks::Tasks`] that ends the process when one of them dies.

pub mod admin;
mod answers;
pub mod apply;
pub mod args;
pub mod backoff;
pub mod client;
mod credentials;
pub mod elector;
pub mod events;
pub mod footprint;
pub mod leader;
pub mod logs;
pub mod readiness;
pub mod tasks;
pub mod text;
pub mod troubles;
mod trust;
pub mod watch;
pub mod write_health;
pub mod writer;
