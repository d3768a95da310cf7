//! Defends announced addresses against strangers that claim them (RFC 5227 2.4 c). Pure: time comes in, what is to be
//! defended goes out.
//!
//! An address on an interface is defended at most once in [`INTERVAL`], however many claim it, by one announcement to
//! everybody: two hosts that both defend cannot drive each other into a storm. A claim gets no answer of its own.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// Between two defences of an address on an interface: DEFEND_INTERVAL of RFC 5227 1.1.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// Between a claim and its defence. The claim may be the first word of the node that owns the address now: within this
/// time the news that it moved is likely to be here, and it is not fought.
pub const DELAY: Duration = Duration::from_millis(50);

/// An address on an interface.
type Key = (u32, IpAddr);

/// When what was defended last, and what is to be defended. All times are durations since an arbitrary start.
#[derive(Debug, Default)]
pub struct Defence {
    last: HashMap<Key, Duration>,
    /// In the order of their deadlines, because the delay is always the same.
    queue: VecDeque<(Duration, Key)>,
}

impl Defence {
    /// Somebody claims `address` on the interface `index`.
    pub fn claimed(&mut self, now: Duration, index: u32, address: IpAddr) {
        let key = (index, address);
        let at = now + DELAY;
        if self.last.get(&key).is_none_or(|last| at >= *last + INTERVAL) {
            self.last.insert(key, at);
            self.queue.push_back((at, key));
        }
    }

    /// When [`Defence::due`] has something to defend next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.queue.front().map(|(at, _)| *at)
    }

    /// What is to be defended now, by interface and address. Whoever asks leaves out what is no longer announced.
    pub fn due(&mut self, now: Duration) -> Vec<(u32, IpAddr)> {
        let count = self.queue.partition_point(|(at, _)| *at <= now);
        let due = self.queue.drain(..count).map(|(_, key)| key).collect();
        if count > 0 {
            self.last.retain(|_, last| now < *last + INTERVAL);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn ip(host: u8) -> IpAddr {
        [192, 0, 2, host].into()
    }

    #[test]
    fn a_claim_is_defended_once_and_another_within_the_interval_is_not() {
        let mut defence = Defence::default();
        let start = Duration::from_secs(3);
        defence.claimed(start, 1, ip(1));
        defence.claimed(start, 1, ip(1));
        assert!(defence.due(start).is_empty(), "the owner may have changed");
        assert_eq!(defence.next_deadline(), Some(start + DELAY));
        assert_eq!(defence.due(start + DELAY), [(1, ip(1))]);
        defence.claimed(start + INTERVAL / 2, 1, ip(1));
        assert_eq!(defence.next_deadline(), None);
        defence.claimed(start + INTERVAL / 2, 2, ip(1));
        defence.claimed(start + INTERVAL, 1, ip(1));
        assert_eq!(defence.due(start + INTERVAL * 2), [(2, ip(1)), (1, ip(1))]);
    }

    proptest! {
        /// Whatever is claimed when, and however late the engine looks: no two defences of an address on an interface
        /// are due within an interval, and a claim after a quiet interval is defended.
        #[test]
        fn defences_are_an_interval_apart(
            claims in prop::collection::vec((0u64..4_000, 1u32..3, 1u8..4), 1..200),
        ) {
            let (mut defence, mut now) = (Defence::default(), Duration::ZERO);
            let mut defended: BTreeMap<(u32, IpAddr), Vec<Duration>> = BTreeMap::new();
            for (wait, index, host) in claims {
                now += Duration::from_millis(wait);
                let key = (index, ip(host));
                let quiet = defended.get(&key).and_then(|at| at.last()).is_none_or(|last| now >= *last + INTERVAL);
                defence.claimed(now, index, ip(host));
                while let Some(at) = defence.next_deadline() {
                    for key in defence.due(at) {
                        defended.entry(key).or_default().push(at);
                    }
                }
                let just = defended.get(&key).and_then(|at| at.last()) == Some(&(now + DELAY));
                prop_assert!(just || !quiet);
            }
            for times in defended.values() {
                prop_assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= INTERVAL), "{times:?}");
            }
        }
    }
}
