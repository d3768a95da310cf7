//! Objects as users write them, and what becomes of them.

mod bgp;
mod hostile;
mod last_good;
mod make;
mod order;
mod parse;
mod policies;
mod views;
