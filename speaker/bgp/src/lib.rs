//! BGP sessions and what they announce.
