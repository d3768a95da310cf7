//! How long to wait before the next attempt; see the table in [`super`].

use std::time::Duration;

use super::{Dial, Session};
use crate::proto::Notification;
use crate::status::Fault;

/// Before the second attempt to connect.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// After a NOTIFICATION.
const IDLE: Duration = Duration::from_secs(5);
/// The longest pause after a NOTIFICATION.
const IDLE_MAX: Duration = Duration::from_secs(60);
impl Session {
    pub(super) fn pause_after(&mut self, fault: &Fault) -> (Duration, bool) {
        let longest = self.peer.connect_retry;
        match fault {
            Fault::Sent(notification) | Fault::Received(notification) => {
                self.erred += 1;
                let cease = notification.code == Notification::CEASE;
                let most = if cease { IDLE_MAX.min(longest) } else { IDLE_MAX };
                (doubled(IDLE, self.erred, most.max(IDLE)), true)
            }
            _ => {
                self.failed += 1;
                (doubled(RETRY, self.failed, longest), false)
            }
        }
    }

    pub(super) fn pause(&mut self, now: Duration, pause: Duration, idle: bool) {
        let shortened = pause.mul_f64(1.0 - 0.25 * self.draw());
        self.dial = Dial::Wait {
            until: now + shortened,
            idle,
        };
    }

    /// A number from 0 up to 1. SplitMix64.
    pub(super) fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 40) as f64 / (1u64 << 24) as f64
    }
}

/// `first`, doubled for every further time, up to `most`.
pub(super) fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    let factor = 1u32 << times.saturating_sub(1).min(16);
    first.saturating_mul(factor).min(most)
}
