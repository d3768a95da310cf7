//! Bidirectional Forwarding Detection (RFC 5880, 5881, 5883).
