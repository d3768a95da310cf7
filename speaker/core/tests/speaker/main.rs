//! The speaker's decisions from outside: inputs in, effects out.

mod behaviour;
mod make;
mod ownership;
mod properties;
