//! Objects as users write them, and what becomes of them.

mod parse;
mod views;
