//! One link: who the router on it is, and when to say that we are there. Pure, with the time as an argument.
//!
//! The link is meant to have one router and this node on it. Where several are heard, the one that is known stays:
//!
//! | heard | effect |
//! | --- | --- |
//! | the router that is known | it stays |
//! | another address of the same card | the router has changed its address: at once |
//! | a default router, while the one that is known is none | at once: others like us may be on the link |
//! | anybody else | nothing, unless the one that is known has been silent for three of its intervals, 30 s at least |
//!
//! Silence alone changes nothing: whether the router lives is for BGP and BFD to find out.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::advertisement::{Advertisement, Mac};

/// Between the first advertisements (RFC 4861 section 10, MIN_DELAY_BETWEEN_RAS).
const FIRST_INTERVAL: Duration = Duration::from_secs(3);
/// How many those are (MAX_INITIAL_RTR_ADVERTISEMENTS).
const FIRST: u32 = 3;
/// Between later ones, shortened at random by up to a quarter. Routers that forget a silent neighbour take some times
/// as long.
const INTERVAL: Duration = Duration::from_secs(10);
/// A router that was not heard for this long may be replaced by another.
const SILENT: Duration = Duration::from_secs(30);
/// Advertisements that a router may miss before it counts as silent.
const MISSED: u32 = 3;

/// Something to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks routers to say that they are there.
    Solicitation,
    /// Says that we are there: to everybody, or to one router.
    Advertisement(Option<Ipv6Addr>),
}

#[derive(Clone, Copy, Debug)]
struct Router {
    address: Ipv6Addr,
    mac: Option<Mac>,
    /// It offers itself to hosts as a way out.
    default: bool,
    heard: Duration,
    /// The longest time between two advertisements of it.
    interval: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Link {
    router: Option<Router>,
    other: Option<Ipv6Addr>,
    next: Duration,
    told: u32,
    /// A solicitation was sent since.
    asked: bool,
    /// A router that was not told yet that we are there.
    greet: Option<Ipv6Addr>,
    random: u64,
}

impl Link {
    /// A link of which nothing is known. The seed decides the jitter.
    pub fn new(now: Duration, seed: u64) -> Link {
        Link {
            router: None,
            other: None,
            next: now,
            told: 0,
            asked: false,
            greet: None,
            random: seed,
        }
    }

    /// The router's address.
    pub fn router(&self) -> Option<Ipv6Addr> {
        self.router.map(|router| router.address)
    }

    /// Somebody else who was heard since that router is known: the link has more than two ends.
    pub fn other(&self) -> Option<Ipv6Addr> {
        self.other
    }

    /// The interface has come up, perhaps with another address: who is there is told of us anew.
    pub fn up(&mut self, now: Duration) {
        (self.next, self.told, self.asked) = (now, 0, false);
        self.greet = self.router();
    }

    /// An advertisement arrived that is not our own.
    pub fn heard(&mut self, now: Duration, source: Ipv6Addr, said: &Advertisement) {
        let default = said.lifetime > 0;
        let router = match self.router {
            Some(known) if known.address == source => Router {
                mac: said.mac.or(known.mac),
                default,
                heard: now,
                interval: known.interval.max(now.saturating_sub(known.heard)),
                ..known
            },
            Some(known) if !known.yields(now, said) => {
                self.other = Some(source);
                return;
            }
            known => {
                self.other = None;
                self.greet = Some(source);
                Router {
                    address: source,
                    mac: said.mac,
                    default,
                    heard: now,
                    interval: known.map_or(Duration::ZERO, |known| known.interval),
                }
            }
        };
        self.router = Some(router);
    }

    /// The next message to send now; ask until there is none.
    pub fn poll(&mut self, now: Duration) -> Option<Message> {
        if let Some(router) = self.greet.take() {
            return Some(Message::Advertisement(Some(router)));
        }
        if now < self.next {
            return None;
        }
        if self.router.is_none() && !std::mem::replace(&mut self.asked, true) {
            return Some(Message::Solicitation);
        }
        self.asked = false;
        self.told += 1;
        let pause = if self.told <= FIRST {
            FIRST_INTERVAL
        } else {
            INTERVAL.mul_f64(1.0 - 0.25 * self.draw())
        };
        self.next = now + pause;
        Some(Message::Advertisement(None))
    }

    /// When to ask for messages at the latest.
    pub fn deadline(&self) -> Duration {
        if self.greet.is_some() {
            Duration::ZERO
        } else {
            self.next
        }
    }

    /// A number from 0 up to 1. SplitMix64.
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 40) as f64 / (1u64 << 24) as f64
    }
}

impl Router {
    /// Whether another that said this takes its place.
    fn yields(&self, now: Duration, said: &Advertisement) -> bool {
        let moved = self.mac.is_some() && self.mac == said.mac;
        let better = said.lifetime > 0 && !self.default;
        let silent = now.saturating_sub(self.heard) >= SILENT.max(self.interval * MISSED);
        moved || better || silent
    }
}

#[cfg(test)]
mod tests;
