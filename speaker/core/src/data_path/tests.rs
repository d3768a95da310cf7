//! What kube-proxy says, and what follows from it.

use std::time::Duration;

use ferrolb_model::Family;
use proptest::prelude::*;

use super::proxy::{Lag, Proxy, ProxyAnswer};
use super::scrape::{Progress, Reading, Scrape};

/// As kube-proxy 1.36 writes it, cut down to what matters and some that does not.
const BOTH: &str = r#"# HELP kubeproxy_sync_proxy_rules_duration_seconds [ALPHA] SyncProxyRules latency in seconds
# TYPE kubeproxy_sync_proxy_rules_duration_seconds histogram
kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="0.001"} 0
kubeproxy_sync_proxy_rules_duration_seconds_sum{ip_family="IPv4"} 0.25
kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"} 11
kubeproxy_sync_proxy_rules_endpoint_changes_pending 0
kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"} 1.764424e+09
kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv6"} 1.7644245e+09
kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 1.7644241255e+09
kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv6"} 0
process_start_time_seconds 1.76442381139e+09
"#;

fn read(text: &str, piece: usize) -> Reading {
    let mut scrape = Scrape::default();
    text.as_bytes().chunks(piece).for_each(|part| scrape.feed(part));
    scrape.end()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn the_figures_are_found_among_the_others() {
    let reading = read(BOTH, 7);
    assert!(reading.is_proxy);
    let v4 = Progress {
        queued: Some(Duration::from_secs(1_764_424_000)),
        synced: Some(ms(1_764_424_125_500)),
        syncs: 11,
        spent: ms(250),
    };
    assert_eq!(reading.progress.get(&Some(Family::V4)), Some(&v4));
    let v6 = Progress {
        queued: Some(ms(1_764_424_500_000)),
        ..Progress::default()
    };
    assert_eq!(reading.progress.get(&Some(Family::V6)), Some(&v6));
    let old = read("kubeproxy_sync_proxy_rules_last_timestamp_seconds 5.5", 100);
    assert_eq!(old.progress.get(&None).and_then(|p| p.synced), Some(ms(5500)));
}

#[test]
fn what_is_no_sample_means_nothing() {
    for text in [
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} NaN",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} -1",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} 1e300",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} +Inf",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_",
    ] {
        let reading = read(text, 1000);
        assert!(reading.is_proxy && reading.progress.is_empty(), "{text}: {reading:?}");
    }
    let long = format!("kubeproxy_{}\nup 1\n", "x".repeat(2000));
    assert_eq!(read(&long, 100), Reading::default(), "not even whose it is");
    assert_eq!(read("<html>404</html>", 3), Reading::default());
}

proptest! {
    #[test]
    fn whatever_comes_is_taken(text in "(kubeproxy_sync_proxy_rules_[a-z_]{0,20}[{} =\"a-zA-Z0-9.+-]{0,30}\n?|\\PC{0,50}\n?){0,8}", piece in 1..40usize) {
        prop_assert_eq!(read(&text, piece), read(&text, text.len().max(1)));
    }

    #[test]
    fn any_octets_do(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut scrape = Scrape::default();
        scrape.feed(&octets);
        scrape.end();
    }

    /// Whatever clock kube-proxy goes by, and whatever it says, there is an answer.
    #[test]
    fn any_figures_can_be_judged(
        figures in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 1..5),
        since: u64,
    ) {
        let mut proxy = Proxy::default();
        for (number, (queued, synced, syncs, spent, wall)) in figures.into_iter().enumerate() {
            let at = |s: u64| Some(Duration::from_secs(s >> 2));
            let progress = Progress { queued: at(queued), synced: at(synced), syncs, spent: Duration::from_secs(spent >> 2) };
            let reading = Reading { is_proxy: true, progress: [(None, progress)].into() };
            proxy.answered(ProxyAnswer::Reading { reading, wall: Duration::from_secs(wall >> 2), took: Duration::ZERO }, ms(number as u64));
            let _ = proxy.caught_up(Family::V4, Duration::from_secs(since >> 2), Duration::ZERO);
        }
    }
}

/// A kube-proxy by the core's clock, and what is known of it.
#[derive(Default)]
struct Told {
    proxy: Proxy,
    progress: Progress,
}

/// Its clock is a while ahead.
const AHEAD: Duration = Duration::from_secs(1_764_424_000);

impl Told {
    fn queued(&mut self, at: u64) {
        self.progress.queued = Some(AHEAD + ms(at));
    }

    fn synced(&mut self, began: u64, ended: u64) {
        self.progress.synced = Some(AHEAD + ms(ended));
        self.progress.syncs += 1;
        self.progress.spent += ms(ended - began);
    }

    fn read(&mut self, now: u64) {
        self.read_slowly(now, Duration::ZERO);
    }

    /// It took so long to answer.
    fn read_slowly(&mut self, now: u64, took: Duration) {
        let reading = Reading {
            is_proxy: true,
            progress: [(Some(Family::V4), self.progress)].into(),
        };
        let wall = AHEAD + ms(now);
        self.proxy
            .answered(ProxyAnswer::Reading { reading, wall, took }, ms(now));
    }

    fn caught_up(&self, since: u64, asked: u64) -> Result<(), Lag> {
        self.proxy.caught_up(Family::V4, ms(since), ms(asked))
    }
}

/// Idle since a minute.
fn idle() -> Told {
    let mut told = Told::default();
    told.queued(40_000);
    told.synced(40_001, 40_030);
    told
}

#[test]
fn what_is_long_known_is_ready_with_the_first_answer() {
    let mut told = idle();
    assert_eq!(told.caught_up(0, 100_000), Err(Lag::Unasked));
    told.read(100_010);
    assert_eq!(told.caught_up(0, 100_000), Ok(()), "from before this speaker ran");
    assert_eq!(
        told.caught_up(40_005, 100_000),
        Ok(()),
        "kube-proxy heard of it first, and did it"
    );
    assert_eq!(
        told.caught_up(99_000, 100_000),
        Ok(()),
        "it concerned kube-proxy in nothing"
    );
    assert_eq!(told.caught_up(20_000, 200_000), Ok(()), "rules stay: nobody is asked");
    assert_eq!(told.caught_up(99_000, 200_000), Err(Lag::Unasked), "an old answer");
}

#[test]
fn a_new_address_waits_for_the_writing_that_has_it() {
    let mut told = idle();
    // The Service comes at 100,000 and is written at once; its address, 15 ms later, has to wait for its turn.
    told.queued(100_000);
    told.read(100_016);
    assert_eq!(told.caught_up(100_015, 100_015), Err(Lag::Behind), "queued");
    told.queued(100_014);
    told.synced(100_001, 100_030);
    told.read(100_066);
    assert_eq!(
        told.caught_up(100_015, 100_015),
        Err(Lag::Behind),
        "this had begun before"
    );
    told.read(100_900);
    assert_eq!(
        told.caught_up(100_015, 100_015),
        Err(Lag::Behind),
        "and nothing has begun since"
    );
    told.synced(101_001, 101_020);
    told.read(101_066);
    assert_eq!(told.caught_up(100_015, 100_015), Ok(()));
}

#[test]
fn a_kube_proxy_that_was_faster_is_believed_after_a_moment() {
    let mut told = idle();
    told.read(99_000);
    told.queued(100_000);
    told.synced(100_001, 100_018);
    told.read(100_021);
    assert_eq!(
        told.caught_up(100_010, 100_020),
        Err(Lag::Behind),
        "it may not have heard yet"
    );
    told.read(100_111);
    assert_eq!(
        told.caught_up(100_010, 100_020),
        Ok(()),
        "it heard of nothing after it began"
    );
}

#[test]
fn without_knowing_when_it_began_quiet_has_to_do() {
    let mut told = idle();
    told.queued(100_000);
    told.synced(100_001, 100_018);
    for (now, expected) in [
        (100_021, Err(Lag::Behind)),
        (100_900, Err(Lag::Behind)),
        (101_201, Ok(())),
    ] {
        told.read(now);
        assert_eq!(told.caught_up(100_010, 100_020), expected, "{now}");
    }
}

#[test]
fn a_busy_kube_proxy_is_ready_for_what_it_has_done() {
    let mut told = idle();
    told.read(100_000);
    for turn in 0..3 {
        let at = 100_500 + turn * 1_000;
        told.queued(at);
        told.synced(at, at + 400);
        told.queued(at + 200);
    }
    told.read(103_000);
    assert_eq!(
        told.caught_up(99_000, 102_950),
        Ok(()),
        "begun twice since the last answer"
    );
    assert_eq!(told.caught_up(102_950, 102_950), Err(Lag::Behind));
}

#[test]
fn one_that_hung_has_to_hear_first() {
    let mut told = idle();
    told.read(99_000);
    told.proxy.answered(ProxyAnswer::Silence, ms(101_000));
    assert_eq!(told.caught_up(100_000, 100_000), Err(Lag::Silent));
    told.read(103_000);
    assert_eq!(told.caught_up(100_000, 100_000), Err(Lag::Behind), "as it was before");
    told.queued(103_010);
    told.synced(103_011, 103_030);
    told.read(103_050);
    assert_eq!(told.caught_up(100_000, 100_000), Ok(()));
}

/// It stood still for less than a question is waited for.
#[test]
fn one_that_was_slow_has_to_hear_first() {
    let mut told = idle();
    told.read(99_000);
    told.read_slowly(100_000, ms(600));
    told.read(100_650);
    assert_eq!(
        told.caught_up(100_000, 100_000),
        Err(Lag::Behind),
        "it has run for 50 ms"
    );
    told.read(100_700);
    assert_eq!(told.caught_up(100_000, 100_000), Ok(()));
}

#[test]
fn a_new_kube_proxy_has_to_write_once() {
    let mut told = Told::default();
    told.proxy.answered(
        ProxyAnswer::Reading {
            reading: Reading {
                is_proxy: true,
                ..Reading::default()
            },
            wall: AHEAD,
            took: Duration::ZERO,
        },
        ms(1_000),
    );
    assert_eq!(told.caught_up(0, 1_000), Err(Lag::NeverSynced));
    told.queued(1_500);
    told.read(1_600);
    assert_eq!(told.caught_up(0, 1_000), Err(Lag::NeverSynced));
    told.synced(1_600, 1_700);
    told.read(1_750);
    assert_eq!(told.caught_up(0, 1_000), Ok(()));
    // And another one in its place, with smaller figures.
    told.progress = Progress::default();
    told.queued(9_000);
    told.synced(9_001, 9_100);
    told.read(9_150);
    assert_eq!(told.caught_up(9_050, 9_050), Err(Lag::Behind));
}

#[test]
fn nobody_to_ask_is_nobody_to_wait_for() {
    let mut told = Told::default();
    let refused = ProxyAnswer::Nobody("connection refused".to_owned());
    told.proxy.answered(refused, ms(1_000));
    assert_eq!(told.caught_up(900, 900), Ok(()));
    assert_eq!(told.caught_up(900, 1_100), Err(Lag::Unasked), "it may have come since");
    let foreign = Reading::default();
    told.proxy.answered(
        ProxyAnswer::Reading {
            reading: foreign,
            wall: AHEAD,
            took: Duration::ZERO,
        },
        ms(1_200),
    );
    assert_eq!(told.caught_up(900, 1_100), Ok(()));
    assert_eq!(told.proxy.nobody(), Some("what answers there is not kube-proxy"));
    // It does IPv4 alone.
    told.queued(1_300);
    told.synced(1_300, 1_400);
    told.read(1_450);
    assert_eq!(told.proxy.caught_up(Family::V6, ms(1_440), ms(1_440)), Ok(()));
}
