//! One other node: what it said last, when it has to say something again, and when it is to be spoken to. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::replay::Newest;
use crate::seam::{Link, PeerState, Timing};
use crate::wire::Place;

/// No silence shorter than this is one, whatever the interval.
const LEAST_DETECTION: Duration = Duration::from_millis(30);
/// An owner that has never been heard is given this long: it may be starting.
pub const UNHEARD: Duration = Duration::from_secs(10);
/// What was said longer ago than this, and nothing since, makes no datagram an old one. A machine that boots with its clock
/// put back has a smaller number for its run, and would otherwise not be heard for as long as that lasts.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// Claims sent at the pace of heartbeats; then once in [`CLAIM_SLOWLY`].
const CLAIMS: u32 = 10;
/// See [`CLAIMS`]. An owner that comes back with an old snapshot may have no pair, so that nothing else tells it.
const CLAIM_SLOWLY: Duration = Duration::from_millis(200);
/// To one that only claims are for they become as rare as this: one that has no part in the address any more never confirms them.
const CLAIM_SELDOM: Duration = Duration::from_secs(2);

/// When something was heard last.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// This is what others are told: what has lain in the socket is no news.
    came: Duration,
    /// Silence counts from here: a process that has stood still owes others the time in which it did not hear them.
    read: Duration,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The node's addresses, as the core knows them.
    pub addresses: BTreeSet<IpAddr>,
    /// Where its kernel can be asked, as it says itself.
    pub places: Vec<Place>,
    /// Own interfaces on the same segment as one of these places. They only grow: one that is gone matters.
    pub shared: BTreeSet<String>,
    /// What is thought of it.
    pub state: PeerState,
    /// Addresses it has to be told that this node owns.
    pub claims: BTreeSet<IpAddr>,
    newest: Newest,
    /// Where and when the last datagram came from.
    heard: Option<(IpAddr, Duration)>,
    /// It says that it answers for what it owns.
    healthy: Option<Heard>,
    /// How often it speaks, and how much of that may be missed.
    pace: Option<(Duration, u8)>,
    /// It and this node are owner and standby of something, and speak at least that often.
    pair: Option<Timing>,
    /// Since when it owns something that this node stands by for.
    watched: Option<Duration>,
    /// Judged not before, because this process stood still.
    excused: Duration,
    /// It is spoken to at the pace of heartbeats: it has a pair, or shall own what this node answers for.
    prompt: bool,
    /// When it is spoken to next.
    next: Option<Duration>,
    claimed: (u32, Duration),
}

impl Peer {
    /// A peer that was never heard.
    pub fn new() -> Peer {
        Peer {
            addresses: BTreeSet::new(),
            places: Vec::new(),
            shared: BTreeSet::new(),
            state: PeerState::Unheard,
            claims: BTreeSet::new(),
            newest: Newest::default(),
            heard: None,
            healthy: None,
            pace: None,
            pair: None,
            watched: None,
            excused: Duration::ZERO,
            prompt: false,
            next: None,
            claimed: (0, Duration::ZERO),
        }
    }

    /// Takes a datagram in, if it is a new one.
    pub fn admit(&mut self, boot: u64, sequence: u64, from: IpAddr, now: Duration) -> bool {
        if self.heard.is_some_and(|(_, at)| at + FORGOTTEN <= now) {
            self.newest = Newest::default();
        }
        let new = self.newest.admit(boot, sequence);
        if new {
            if self.silent(now) {
                // Whoever could not be reached until now may have missed what it was told.
                self.claimed.0 = 0;
            }
            self.heard = Some((from, now));
        }
        new
    }

    /// The run of its process that was heard last.
    pub fn boot(&self) -> Option<u64> {
        self.newest.boot()
    }

    /// It has said, then, that it answers, and is heard now.
    pub fn is_well(&mut self, pace: Option<(Duration, u8)>, at: Duration, now: Duration) {
        let before = self.healthy.map_or(at, |heard| heard.came);
        let came = before.max(at);
        self.healthy = Some(Heard { came, read: now });
        self.pace = pace.or(self.pace);
    }

    fn pace(&self) -> (Duration, u8) {
        let timing = self.pair.unwrap_or_default();
        self.pace.unwrap_or((timing.interval, timing.multiplier))
    }

    /// The silence after which it is suspected.
    pub fn detection(&self) -> Duration {
        let (interval, multiplier) = self.pace();
        (interval * u32::from(multiplier.max(1))).max(LEAST_DETECTION)
    }

    /// Nothing at all is heard of it.
    pub fn silent(&self, now: Duration) -> bool {
        self.heard.is_none_or(|(_, at)| at + self.detection() < now)
    }

    /// When silence makes it a suspect, if it is watched.
    pub fn suspect_at(&self) -> Option<Duration> {
        let watched = self.watched?;
        let at = self
            .healthy
            .map_or(watched + UNHEARD, |heard| heard.read + self.detection());
        Some(at.max(self.excused))
    }

    /// Another node heard it so long `ago`: does that refute the silence that makes it a suspect here? What was sent before it
    /// went silent reaches one node up to an interval later than another. And what was heard once refutes nothing for ever: it
    /// says something for as long as others could follow it.
    pub fn refuted_by(&self, ago: Duration, now: Duration) -> bool {
        let (interval, _) = self.pace();
        let heard = now.checked_sub(ago);
        let since = heard.is_some_and(|heard| heard > self.silent_since() + interval + interval / 4);
        since && ago <= self.detection() + interval
    }

    /// How long ago it last said that it answers.
    pub fn well_ago(&self, now: Duration) -> Option<Duration> {
        self.healthy.map(|heard| now.saturating_sub(heard.came))
    }

    /// Since when it has been silent, or unheard.
    pub fn silent_since(&self) -> Duration {
        self.healthy
            .map(|heard| heard.read)
            .or(self.watched)
            .unwrap_or_default()
    }

    /// Says that it answers, and is heard.
    pub fn alive(&self, now: Duration) -> bool {
        self.healthy.is_some_and(|heard| now < heard.read + self.detection())
    }

    /// This process has stood still: one more interval before it is judged.
    pub fn excuse(&mut self, now: Duration) {
        self.excused = now + self.pair.unwrap_or_default().interval;
    }

    /// Makes it one that is spoken to (`pair`) and watched, or not. `heir`: it has to be told of what it shall own.
    pub fn engage(&mut self, pair: Option<Timing>, watched: bool, heir: bool, now: Duration) {
        let claims = !self.claims.is_empty();
        let prompt = pair.is_some() || heir;
        let news = (prompt && !self.prompt) || (claims && self.claimed.0 == 0);
        self.pair = pair;
        self.prompt = prompt;
        if !watched {
            self.watched = None;
        } else if self.watched.is_none() {
            self.watched = Some(now);
            if !self.alive(now) {
                self.healthy = None;
            }
        }
        if !prompt && !claims {
            self.next = None;
        } else if news || self.next.is_none() {
            self.next = Some(now);
        }
    }

    /// It owns something that this node stands by for.
    pub fn is_watched(&self) -> bool {
        self.watched.is_some()
    }

    /// Heartbeats go to it.
    pub fn paired(&self) -> Option<Timing> {
        self.pair
    }

    /// When it is spoken to next.
    pub fn next(&self) -> Option<Duration> {
        self.next
    }

    /// Speak to it at once.
    pub fn hurry(&mut self, now: Duration) {
        self.next = self.next.map(|_| now);
    }

    /// It was spoken to. A tenth of the interval at most is left out by `jitter`, so that nodes do not speak in step;
    /// never longer than the interval, which is what the other side counts on. One that only claims are for has no interval.
    pub fn spoken(&mut self, now: Duration, jitter: u8) {
        let interval = self.pair.unwrap_or_default().interval;
        let next = now + interval - interval * u32::from(jitter) / 2560;
        self.next = Some(match self.prompt {
            true => next,
            false => next.max(self.claim_at()),
        });
    }

    /// Is it time to tell it what is owned? At the pace of heartbeats first, then slowly.
    pub fn claim_now(&mut self, now: Duration) -> bool {
        let due = !self.claims.is_empty() && now >= self.claim_at();
        if due {
            self.claimed = (self.claimed.0.saturating_add(1), now);
        }
        due
    }

    fn claim_at(&self) -> Duration {
        let (times, last) = self.claimed;
        last + match times.checked_sub(CLAIMS) {
            None => Duration::ZERO,
            Some(_) if self.prompt => CLAIM_SLOWLY,
            Some(more) => (CLAIM_SLOWLY * 2u32.saturating_pow(more)).min(CLAIM_SELDOM),
        }
    }

    /// There is something new to claim.
    pub fn claim(&mut self, address: IpAddr) {
        self.claims.insert(address);
        self.claimed.0 = 0;
    }

    /// Where to send to: where it was last heard from, all its addresses if it is not heard.
    pub fn targets(&self, now: Duration) -> Vec<IpAddr> {
        match self.heard {
            Some((from, _)) if !self.silent(now) && self.addresses.contains(&from) => vec![from],
            _ => self.addresses.iter().copied().collect(),
        }
    }

    /// Where its kernel can be asked.
    pub fn kernel(&self) -> BTreeSet<IpAddr> {
        if self.places.is_empty() {
            self.addresses.clone()
        } else {
            self.places.iter().map(|place| place.address).collect()
        }
    }

    /// Takes in where it can be asked; says whether that is news.
    pub fn at(&mut self, places: Vec<Place>, links: &[Link]) -> bool {
        let shared = links
            .iter()
            .filter(|link| places.iter().any(|place| on_link(link, place.address)));
        self.shared.extend(shared.map(|link| link.interface.clone()));
        let news = self.places != places;
        self.places = places;
        news
    }
}

impl Default for Peer {
    fn default() -> Peer {
        Peer::new()
    }
}

/// Is the address in a subnet of the link? Link-local ones are on every link, so they say nothing.
pub fn on_link(link: &Link, address: IpAddr) -> bool {
    let local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    !local && link.addresses.iter().any(|net| net.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn watched(now: Duration) -> Peer {
        let mut peer = Peer::new();
        peer.engage(Some(Timing::default()), true, false, now);
        peer
    }

    #[test]
    fn silence_counts_from_the_last_good_word() {
        let mut peer = watched(ms(1_000));
        assert_eq!(peer.suspect_at(), Some(ms(11_000)), "never heard");
        peer.is_well(Some((ms(80), 3)), ms(2_000), ms(2_000));
        assert_eq!(peer.suspect_at(), Some(ms(2_240)), "the sender's own pace");
        peer.is_well(Some((ms(5), 2)), ms(3_000), ms(3_000));
        assert_eq!(peer.suspect_at(), Some(ms(3_030)), "not below the least");
        peer.excuse(ms(3_100));
        assert_eq!(peer.suspect_at(), Some(ms(3_150)), "this process stood still");
        peer.engage(Some(Timing::default()), false, false, ms(3_200));
        assert_eq!(peer.suspect_at(), None, "owns nothing of interest");
        peer.engage(Some(Timing::default()), true, false, ms(9_000));
        assert_eq!(
            peer.suspect_at(),
            Some(ms(19_000)),
            "what it said long ago does not count"
        );
    }

    #[test]
    fn an_alive_peer_that_becomes_an_owner_is_known() {
        let mut peer = Peer::new();
        peer.is_well(Some((ms(50), 2)), ms(990), ms(990));
        peer.engage(Some(Timing::default()), true, false, ms(1_000));
        assert_eq!(peer.suspect_at(), Some(ms(1_090)));
    }

    #[test]
    fn another_node_refutes_silence_while_it_hears_more() {
        let mut peer = watched(ms(0));
        peer.is_well(Some((ms(50), 2)), ms(1_000), ms(1_000));
        assert!(!peer.refuted_by(ms(10), ms(1_072)), "on its way when it went silent");
        assert!(peer.refuted_by(ms(10), ms(1_073)));
        assert!(peer.refuted_by(ms(150), ms(9_000)), "one of its words was lost there");
        assert!(!peer.refuted_by(ms(151), ms(9_000)), "not heard there either, by now");
        assert!(!peer.refuted_by(ms(9_001), ms(9_000)));
    }

    #[test]
    fn what_lay_in_the_socket_is_no_news_to_others() {
        let mut peer = watched(ms(0));
        assert_eq!(peer.well_ago(ms(10)), None);
        peer.is_well(None, ms(1_000), ms(1_001));
        assert_eq!(peer.well_ago(ms(1_011)), Some(ms(11)));
        // This process stands still for three seconds.
        peer.is_well(None, ms(1_050), ms(4_000));
        assert_eq!(peer.well_ago(ms(4_000)), Some(ms(2_950)));
        assert_eq!(
            peer.suspect_at(),
            Some(ms(4_100)),
            "while it is judged as if it had come just now"
        );
        peer.is_well(None, ms(1_000), ms(4_001));
        assert_eq!(peer.well_ago(ms(4_050)), Some(ms(3_000)), "an older one adds nothing");
    }

    #[test]
    fn claims_slow_down_until_it_is_heard() {
        let mut peer = watched(ms(0));
        let from: IpAddr = [10, 0, 0, 1].into();
        assert!(!peer.claim_now(ms(0)));
        peer.claim(from);
        let times = (0..3_000).filter(|at| peer.claim_now(ms(*at))).count();
        assert_eq!(times, 10 + 14);
        assert!(peer.admit(1, 1, from, ms(3_100)));
        assert!(peer.claim_now(ms(3_101)));
    }

    #[test]
    fn who_has_no_part_any_more_is_seldom_spoken_to() {
        let mut peer = Peer::new();
        let from: IpAddr = [10, 0, 0, 1].into();
        let speak = |from: u64, to: u64, peer: &mut Peer| {
            let mut spoken = 0;
            for at in (from..to).map(ms) {
                if peer.next().is_some_and(|next| next <= at) {
                    assert!(peer.claim_now(at), "there is nothing else to say");
                    peer.spoken(at, u8::MAX);
                    spoken += 1;
                }
            }
            spoken
        };
        peer.claim(from);
        peer.engage(None, false, false, ms(0));
        assert_eq!(speak(0, 500, &mut peer), 10);
        // After 0.2, 0.4, 0.8 and 1.6 s, then every 2 s.
        assert_eq!(speak(500, 20_500, &mut peer), 12);
        // Who has a part again is spoken to at once.
        peer.engage(Some(Timing::default()), false, false, ms(20_500));
        assert_eq!(peer.next(), Some(ms(20_500)));
        peer.engage(None, false, false, ms(20_500));
        // Something new is said at once.
        peer.claim([10, 0, 0, 2].into());
        peer.engage(None, false, false, ms(20_500));
        assert_eq!(speak(20_500, 20_501, &mut peer), 1);
        peer.claims.clear();
        peer.engage(None, false, false, ms(20_600));
        assert_eq!(peer.next(), None);
    }

    #[test]
    fn speaks_a_little_early_and_never_late() {
        let mut peer = watched(ms(0));
        assert_eq!(peer.next(), Some(ms(0)));
        peer.spoken(ms(0), 0);
        assert_eq!(peer.next(), Some(ms(50)));
        peer.spoken(ms(0), u8::MAX);
        let next = peer.next().unwrap();
        assert!(next > ms(45) && next < ms(46), "{next:?}");
    }

    #[test]
    fn a_clock_put_back_over_a_reboot_silences_nobody_for_long() {
        let mut peer = watched(ms(0));
        let from: IpAddr = [10, 0, 0, 1].into();
        assert!(peer.admit(1_000, 7, from, ms(100)));
        assert!(!peer.admit(1, 1, from, ms(10_099)), "an old one, as far as can be told");
        assert!(peer.admit(1, 2, from, ms(10_100)));
        assert!(!peer.admit(1, 2, from, ms(10_200)), "each counts once");
        assert!(peer.admit(1, 3, from, ms(10_200)));
        assert!(peer.admit(1_001, 1, from, ms(10_300)), "the clock is right again");
    }

    #[test]
    fn goes_where_it_was_heard_from() {
        let mut peer = watched(ms(0));
        let (one, two): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        peer.addresses = BTreeSet::from([one, two]);
        assert_eq!(peer.targets(ms(0)), [one, two]);
        assert!(peer.admit(1, 1, two, ms(10)));
        assert_eq!(peer.targets(ms(20)), [two]);
        assert_eq!(peer.targets(ms(200)), [one, two]);
    }
}
