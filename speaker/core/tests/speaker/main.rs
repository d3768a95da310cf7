//! The speaker's decisions from outside: inputs in, effects out.

mod behaviour;
mod bgp;
mod make;
mod ownership;
mod properties;
