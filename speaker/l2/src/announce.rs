//! When to announce unasked, and what. Pure: time comes in, due frames go out.
//!
//! An address is announced on an interface when it starts to be owned there, and again when the interface's MAC
//! changes, its carrier comes back or the kernel asks for it: at once and after 0.1, 1.1, 2.2 and 5 s, because a single
//! frame may be lost and because older neighbours ignore a change within a second of the last. After that it is
//! refreshed at the interval set for it, give or take a tenth, so that addresses and nodes drift apart. With the first three of
//! these the neighbours that matter most are told directly as well ([`crate::neighbours`]).
//!
//! IPv4: a gratuitous request with target MAC 0 (RFC 5227 1.1) and a gratuitous reply whose target MAC is the sender's;
//! a reply with any other target MAC is ignored by neighbours that confirmed their entry less than a second ago.
//! IPv6: an unsolicited advertisement to all nodes, overriding, with the link-layer address (RFC 4861 7.2.6). Routers are
//! among all nodes: those that make an entry of it need not ask for the first packet (RFC 9131 6.1.1; that one does not
//! override, because who sends it may be wrong about its address; here the address has moved).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use crate::neighbours::Neighbours;
use crate::plan::Plan;
use crate::seam::Mac;
use crate::wire::{OwnedFrame, arp, ethernet, ndp};

/// When an address is announced after it started to be owned.
const BURST: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(1_100),
    Duration::from_millis(2_200),
    Duration::from_millis(5_000),
];

/// Until when in a burst neighbours are told directly, too.
const DIRECTLY: Duration = BURST[2];

/// An address on an interface.
type Key = (u32, IpAddr);

#[derive(Debug)]
struct Entry {
    mac: Mac,
    generation: u64,
    start: Duration,
    next: Option<Duration>,
    /// Between two refreshes; `None` is the usual interval.
    refresh: Option<Duration>,
}

impl Entry {
    /// Is the burst over, and a refresh next, if anything is?
    fn settled(&self) -> bool {
        let last = self.start + BURST[BURST.len() - 1];
        self.next.is_none_or(|next| next > last)
    }
}

/// One announcement to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The interface to send on.
    pub index: u32,
    /// The address announced.
    pub address: IpAddr,
    /// The frame.
    pub frame: OwnedFrame,
}

/// The schedule of all announcements. All times are durations since an arbitrary start.
#[derive(Debug)]
pub struct Announcer {
    refresh: Duration,
    random: u64,
    entries: HashMap<Key, Entry>,
    queue: BTreeSet<(Duration, Key)>,
    /// Who is told directly.
    pub neighbours: Neighbours,
}

impl Announcer {
    /// Refreshes at this interval, never if it is zero; the seed decides the jitter.
    pub fn new(refresh: Duration, seed: u64) -> Announcer {
        Announcer {
            refresh,
            random: seed,
            entries: HashMap::new(),
            queue: BTreeSet::new(),
            neighbours: Neighbours::default(),
        }
    }

    /// Takes in what is owned now. What is new, or must be heard again, is due at once; what is gone is forgotten.
    pub fn serve(&mut self, now: Duration, plan: &Plan) {
        self.neighbours.serve(plan);
        let queue = &mut self.queue;
        self.entries.retain(|key, entry| {
            let stays = plan.get(&key.0).is_some_and(|served| served.owns(key.1));
            if let (false, Some(next)) = (stays, entry.next) {
                queue.remove(&(next, *key));
            }
            stays
        });
        for (index, served) in plan {
            for address in served.owned() {
                let key = (*index, address);
                let fresh = Entry {
                    mac: served.mac,
                    generation: served.generation,
                    start: now,
                    next: Some(now),
                    refresh: None,
                };
                match self.entries.get_mut(&key) {
                    Some(entry) if entry.mac == fresh.mac && entry.generation == fresh.generation => continue,
                    Some(entry) => {
                        if let Some(next) = entry.next {
                            self.queue.remove(&(next, key));
                        }
                        *entry = fresh;
                    }
                    None => {
                        self.entries.insert(key, fresh);
                    }
                }
                self.queue.insert((now, key));
            }
        }
    }

    /// Refreshes each address at the interval told for it, never if that is zero, and at the usual one if none is told.
    /// Where that is news, the next refresh is one interval away.
    pub fn refresh(&mut self, now: Duration, told: impl Fn(IpAddr) -> Option<Duration>) {
        let random = &mut self.random;
        for (key, entry) in &mut self.entries {
            let refresh = told(key.1);
            if entry.refresh == refresh {
                continue;
            }
            entry.refresh = refresh;
            if entry.settled() {
                if let Some(next) = entry.next.take() {
                    self.queue.remove(&(next, *key));
                }
                entry.next = jitter(random, refresh.unwrap_or(self.refresh)).map(|interval| now + interval);
                self.queue.extend(entry.next.map(|next| (next, *key)));
            }
        }
    }

    /// Begins anew with these: others may have heard otherwise meanwhile.
    pub fn again(&mut self, now: Duration, addresses: &BTreeSet<IpAddr>) {
        for (key, entry) in self.entries.iter_mut().filter(|(key, _)| addresses.contains(&key.1)) {
            if let Some(next) = entry.next.replace(now) {
                self.queue.remove(&(next, *key));
            }
            entry.start = now;
            self.queue.insert((now, *key));
        }
    }

    /// When [`Announcer::due`] has something to send next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }

    /// The announcements due by now, of at most `limit` addresses, oldest first; what is left over stays due.
    pub fn due(&mut self, now: Duration, limit: usize) -> Vec<Due> {
        let mut due = Vec::new();
        for _ in 0..limit {
            let Some((at, key)) = self.queue.first().copied().filter(|(deadline, _)| *deadline <= now) else {
                break;
            };
            self.queue.pop_first();
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            // A step that was slept through is not made up for: the frames would all say the same.
            let step = BURST.iter().map(|offset| entry.start + *offset).find(|at| *at > now);
            let refresh = entry.refresh.unwrap_or(self.refresh);
            entry.next = step.or_else(|| jitter(&mut self.random, refresh).map(|interval| now + interval));
            self.queue.extend(entry.next.map(|next| (next, key)));
            let (index, address) = key;
            let directly = at <= entry.start + DIRECTLY;
            let told = directly.then(|| self.neighbours.frames(index, address, entry.mac));
            let frames = frames(address, entry.mac).into_iter().flatten();
            due.extend(
                frames
                    .chain(told.into_iter().flatten())
                    .map(|frame| Due { index, address, frame }),
            );
        }
        due
    }
}

/// 90 to 110 % of an interval; `None` for zero, which is never.
fn jitter(random: &mut u64, interval: Duration) -> Option<Duration> {
    // SplitMix64: spreads any seed, one included that differs from the next node's by one bit.
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let fraction = (mixed >> 40) as f64 / (1u64 << 24) as f64;
    (!interval.is_zero()).then(|| interval.mul_f64(0.9 + 0.2 * fraction))
}

/// The one announcement to everybody that is heard the farthest: a request for IPv4 (RFC 5227 1.1).
pub(crate) fn announcement(address: IpAddr, mac: Mac) -> Option<OwnedFrame> {
    frames(address, mac)[0]
}

/// What announces `address` at `mac`.
fn frames(address: IpAddr, mac: Mac) -> [Option<OwnedFrame>; 2] {
    match address {
        IpAddr::V4(ip) => {
            let packet = |operation, target_mac| {
                let packet = arp::Repr {
                    operation,
                    sender_mac: mac,
                    sender_ip: ip,
                    target_mac,
                    target_ip: ip,
                };
                Some(OwnedFrame::arp(mac, ethernet::BROADCAST, &packet))
            };
            [
                packet(arp::Operation::Request, [0; 6]),
                packet(arp::Operation::Reply, mac),
            ]
        }
        IpAddr::V6(target) => {
            let message = ndp::Message::Advertisement {
                target,
                target_mac: Some(mac),
                router: false,
                solicited: false,
                overriding: true,
            };
            let packet = ndp::Repr {
                source: target,
                destination: ndp::ALL_NODES,
                message,
            };
            [
                Some(OwnedFrame::ndp(mac, ethernet::multicast(ndp::ALL_NODES), &packet)),
                None,
            ]
        }
    }
}

#[cfg(test)]
mod tests;
