//! `kubectl ferrolb`: says why, and does the few things that are asked for by annotation.
//!
//! What is told is a pure function of objects: [`world::World`] holds them, from the API server or from a file;
//! [`replay`] lets the controller's own core decide about them, so that no rule stands here a second time; [`why`],
//! [`status`] and [`migrate`] make reports; [`answer`] writes them. `cluster`, [`act`] and [`shadow`] alone
//! talk to an API server.

pub mod act;
pub mod answer;
pub mod args;
pub mod cluster;
pub mod migrate;
pub mod replay;
pub mod shadow;
pub mod status;
mod table;
pub mod why;
pub mod world;
