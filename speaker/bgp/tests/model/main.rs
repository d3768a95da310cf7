//! The pure parts against a router of our own making, which reads every octet with a decoder of its own.

mod adj_rib_out;
mod hand_over;
mod hostile;
mod house;
mod link;
mod make;
mod router;
mod session;
mod simulator;
mod wrong;
