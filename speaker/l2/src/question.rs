//! What is asked on the wire, when, and which answers are told. Pure: time comes in, frames go out.

use std::time::Duration;

/// How long answers are heard after the last try should have been answered.
pub const LATE: Duration = Duration::from_millis(100);
