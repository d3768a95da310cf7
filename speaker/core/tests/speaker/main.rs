//! The speaker's decisions from outside: inputs in, effects out.

mod behaviour;
mod bgp;
mod bgp_bench;
mod bgp_drain;
mod bgp_peers;
mod data_path;
mod interfaces;
mod make;
mod ownership;
mod properties;
