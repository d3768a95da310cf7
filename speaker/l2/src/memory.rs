//! The requests of the last second that got no answer, because this node only listens for their addresses. When it
//! starts to answer, they are answered at once: a client that has just asked does not wait for its own next try, which
//! comes after a second on Linux. Pure, and bounded: what is oldest gives way.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use crate::responder::Request;

/// Who asked longer ago has asked again, or given up.
pub const MEMORY: Duration = Duration::from_secs(1);
/// Requests remembered.
pub const CAPACITY: usize = 512;

/// The requests of one interface. All times are durations since an arbitrary start.
#[derive(Debug, Default)]
pub struct Memory {
    /// The oldest first; the same request once.
    requests: VecDeque<(Duration, Request)>,
}

impl Memory {
    /// Remembers a request; the same from before is forgotten.
    pub fn remember(&mut self, now: Duration, request: Request) {
        self.forget(now);
        if let Some(same) = self.requests.iter().position(|(_, known)| *known == request) {
            self.requests.remove(same);
        } else if self.requests.len() >= CAPACITY {
            self.requests.pop_front();
        }
        self.requests.push_back((now, request));
    }

    /// Takes out the requests for addresses that are answered for now, the oldest first.
    pub fn recall(&mut self, now: Duration, answered: impl Fn(IpAddr) -> bool) -> Vec<Request> {
        self.forget(now);
        let mut recalled = Vec::new();
        self.requests.retain(|(_, request)| {
            let take = answered(request.address());
            if take {
                recalled.push(*request);
            }
            !take
        });
        recalled
    }

    fn forget(&mut self, now: Duration) {
        let old = self.requests.partition_point(|(at, _)| *at + MEMORY < now);
        self.requests.drain(..old);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn request(host: u8, asker: u16) -> Request {
        let [high, low] = asker.to_be_bytes();
        Request::Arp {
            target: Ipv4Addr::new(192, 0, 2, host),
            sender: Ipv4Addr::new(10, 0, high, low),
            mac: [2, 0, 0, 0, high, low],
        }
    }

    #[test]
    fn the_newest_requests_stay_when_there_is_no_room() {
        let mut memory = Memory::default();
        let asked = |n: usize| Duration::from_micros(n as u64);
        for n in 0..CAPACITY + 3 {
            memory.remember(asked(n), request(1, n as u16));
        }
        memory.remember(asked(CAPACITY + 3), request(1, 4));
        let recalled = memory.recall(asked(CAPACITY + 3), |_| true);
        assert_eq!(recalled.len(), CAPACITY);
        assert_eq!(recalled.first(), Some(&request(1, 3)));
        assert_eq!(recalled.last(), Some(&request(1, 4)), "asked again last");
    }

    proptest! {
        /// Exactly the requests of the last second for the addresses in question come back, once.
        #[test]
        fn what_was_asked_within_a_second_is_recalled(
            asked in prop::collection::vec((0u64..300, 1u8..4, 0u16..4), 0..60), answered in 1u8..4, wait in 0u64..1_500,
        ) {
            let (mut memory, mut now, mut last) = (Memory::default(), Duration::ZERO, BTreeMap::new());
            for (wait, host, asker) in asked {
                now += Duration::from_millis(wait);
                memory.remember(now, request(host, asker));
                last.insert((host, asker), now);
            }
            now += Duration::from_millis(wait);
            let is_answered = |host: u8| move |address| address == IpAddr::from([192, 0, 2, host]);
            for host in [answered, answered, 1, 2, 3] {
                let mut expected: Vec<_> = last
                    .extract_if(.., |(of, _), at| *of == host && now <= *at + MEMORY)
                    .map(|((host, asker), at)| (at, request(host, asker)))
                    .collect();
                expected.sort_by_key(|(at, _)| *at);
                let mut recalled = memory.recall(now, is_answered(host));
                prop_assert_eq!(recalled.len(), expected.len());
                recalled.retain(|request| !expected.iter().any(|(_, known)| known == request));
                prop_assert_eq!(recalled, []);
            }
        }
    }
}
