//! Bidirectional Forwarding Detection (RFC 5880): how a session of a BGP peer is watched.

use std::time::Duration;

/// A `BFDProfile` in force. What the object leaves open has the value that FRR uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BfdProfile {
    /// The object's name.
    pub name: String,
    /// The shortest time between packets that this side can take in, 10 ms to 60 s; 300 ms if not set.
    pub receive_interval: Duration,
    /// The shortest time between packets that this side wants to send, 10 ms to 60 s; 300 ms if not set.
    pub transmit_interval: Duration,
    /// Packets that may be missed in a row, 2 to 255; 3 if not set.
    pub detect_multiplier: u8,
    /// Time between echo packets, both ways, 10 ms to 60 s; `None` without echo mode, 50 ms if not set.
    pub echo_interval: Option<Duration>,
    /// Wait for the peer's first packet instead of sending one.
    pub passive: bool,
    /// On a session over several hops: packets with a lower TTL are dropped, 1 to 254; 254 if not set.
    pub minimum_ttl: u8,
}
