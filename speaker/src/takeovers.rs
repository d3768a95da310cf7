//! Changes of owner that the guard has made: what `/metrics` counts of them, and which become events.
//!
//! Metrics count addresses. An event on the Node that lost them tells of all that were taken within [`GATHER`], because a
//! node with hundreds of them is lost once; then nothing more is told about it for [`PAUSE`], so that a node that fails
//! again and again costs one event in that time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_liveness::{Outcome, Takeover};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Takeovers from one node within this time are one event.
const GATHER: Duration = Duration::from_secs(1);
/// Time between two events about one node.
const PAUSE: Duration = Duration::from_secs(60);

/// Upper bounds in seconds: around the promise for a lost node, the ranks behind it, and the grace time.
const BUCKETS: [f64; 10] = [0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 5.0, 12.0, 30.0];

type Reason = [(&'static str, &'static str); 1];

/// An event to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// The node that owned the addresses.
    pub(crate) from: Arc<str>,
    /// Why they were taken.
    pub(crate) reason: Takeover,
    /// How many.
    pub(crate) addresses: u64,
    /// The longest time from the owner's last word to a takeover.
    pub(crate) after: Duration,
}

/// What is gathered, or was told last, about one node.
#[derive(Debug)]
struct Gathered {
    addresses: u64,
    after: Duration,
    /// Told then, if there is something to tell; not before, if there is not.
    at: Duration,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Takeovers {
    nodes: BTreeMap<(Arc<str>, Takeover), Gathered>,
    seconds: Family<Reason, Histogram, fn() -> Histogram>,
    releases: Family<Reason, Counter>,
}

impl Takeovers {
    /// Adds its metrics to `registry`, every reason at zero.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let seconds = Family::new_with_constructor(histogram);
        let releases = Family::<Reason, Counter>::default();
        for reason in [Takeover::NodeGone, Takeover::GraceOver, Takeover::OwnerUnable] {
            drop(seconds.get_or_create(&[("reason", reason.as_str())]));
        }
        for reason in ["HandedOver", "Unconfirmed", "Yielded"] {
            drop(releases.get_or_create(&[("reason", reason)]));
        }
        registry.register(
            "ferrolb_takeover_seconds",
            "Addresses that this node took over: time since their owner was last heard",
            seconds.clone(),
        );
        registry.register(
            "ferrolb_releases",
            "Addresses that this node owned and another one owns now",
            releases.clone(),
        );
        Takeovers {
            nodes: BTreeMap::new(),
            seconds,
            releases,
        }
    }

    /// Takes in what the guard has done.
    pub(crate) fn hear(&mut self, outcome: &Outcome, now: Duration) {
        let released = match outcome {
            Outcome::TookOver {
                from, reason, after, ..
            } => return self.took_over(Arc::clone(from), *reason, *after, now),
            Outcome::Yielded { .. } => "Yielded",
            Outcome::HandedOver { unconfirmed: true, .. } => "Unconfirmed",
            Outcome::HandedOver { .. } => "HandedOver",
            Outcome::StandingIn { .. } | Outcome::StoodDown { .. } | Outcome::Peer { .. } => return,
        };
        self.releases.get_or_create(&[("reason", released)]).inc();
    }

    fn took_over(&mut self, from: Arc<str>, reason: Takeover, after: Duration, now: Duration) {
        let label = [("reason", reason.as_str())];
        self.seconds.get_or_create(&label).observe(after.as_secs_f64());
        let gathered = self.nodes.entry((from, reason)).or_insert(Gathered {
            addresses: 0,
            after: Duration::ZERO,
            at: now + GATHER,
        });
        if gathered.addresses == 0 && gathered.at <= now {
            gathered.at = now + GATHER;
        }
        gathered.addresses += 1;
        gathered.after = gathered.after.max(after);
    }

    /// When [`Takeovers::due`] has something to say.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let open = self.nodes.values().filter(|gathered| gathered.addresses > 0);
        open.map(|gathered| gathered.at).min()
    }

    /// The events to write now.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<Notice> {
        let mut notices = Vec::new();
        self.nodes.retain(|(from, reason), gathered| {
            if gathered.at > now {
                return true;
            }
            let told = gathered.addresses > 0;
            if told {
                notices.push(Notice {
                    from: Arc::clone(from),
                    reason: *reason,
                    addresses: gathered.addresses,
                    after: gathered.after,
                });
                *gathered = Gathered {
                    addresses: 0,
                    after: Duration::ZERO,
                    at: now + PAUSE,
                };
            }
            told
        });
        notices
    }
}

#[cfg(test)]
mod tests {
    use ferrolb_liveness::Placement;
    use prometheus_client::encoding::text::encode;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn placement() -> Placement {
        Placement {
            owner: "node-c".into(),
            standbys: Vec::new(),
            epoch: 2,
        }
    }

    fn took(from: &str, after: u64) -> Outcome {
        Outcome::TookOver {
            address: "192.0.2.7".parse().unwrap(),
            placement: placement(),
            from: from.into(),
            reason: Takeover::NodeGone,
            after: ms(after),
        }
    }

    fn notice(from: &str, addresses: u64, after: u64) -> Notice {
        Notice {
            from: from.into(),
            reason: Takeover::NodeGone,
            addresses,
            after: ms(after),
        }
    }

    #[test]
    fn a_lost_node_is_one_event_and_one_that_fails_again_is_told_later() {
        let mut takeovers = Takeovers::register(&mut Registry::default());
        assert_eq!(takeovers.deadline(), None);
        for (at, from, after) in [(0, "node-a", 120), (5, "node-b", 90), (10, "node-a", 130)] {
            takeovers.hear(&took(from, after), ms(at));
        }
        assert_eq!(takeovers.deadline(), Some(ms(1_000)));
        assert_eq!(takeovers.due(ms(999)), []);
        assert_eq!(takeovers.due(ms(1_000)), [notice("node-a", 2, 130)]);
        assert_eq!(takeovers.deadline(), Some(ms(1_005)));
        assert_eq!(takeovers.due(ms(1_005)), [notice("node-b", 1, 90)]);
        assert_eq!(takeovers.deadline(), None);

        for at in [10_000, 20_000] {
            takeovers.hear(&took("node-a", 110), ms(at));
        }
        assert_eq!(takeovers.deadline(), Some(ms(61_000)), "not every time");
        assert_eq!(takeovers.due(ms(60_999)), []);
        assert_eq!(takeovers.due(ms(61_000)), [notice("node-a", 2, 110)]);

        assert_eq!(takeovers.due(ms(200_000)), []);
        takeovers.hear(&took("node-a", 100), ms(200_000));
        assert_eq!(takeovers.deadline(), Some(ms(201_000)), "long ago");
    }

    #[test]
    fn addresses_are_counted() {
        let mut registry = Registry::default();
        let mut takeovers = Takeovers::register(&mut registry);
        let address = "192.0.2.7".parse().unwrap();
        let handed = |unconfirmed| Outcome::HandedOver {
            address,
            to: "node-b".into(),
            unconfirmed,
        };
        let yielded = Outcome::Yielded {
            address,
            placement: placement(),
        };
        for outcome in [
            took("node-a", 120),
            took("node-a", 130),
            handed(false),
            handed(true),
            handed(true),
            yielded,
        ] {
            takeovers.hear(&outcome, ms(0));
        }
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            r#"ferrolb_takeover_seconds_count{reason="NodeGone"} 2"#,
            r#"ferrolb_takeover_seconds_sum{reason="NodeGone"} 0.25"#,
            r#"ferrolb_takeover_seconds_bucket{le="0.1",reason="NodeGone"} 0"#,
            r#"ferrolb_takeover_seconds_bucket{le="0.15",reason="NodeGone"} 2"#,
            r#"ferrolb_takeover_seconds_count{reason="OwnerUnable"} 0"#,
            r#"ferrolb_releases_total{reason="HandedOver"} 1"#,
            r#"ferrolb_releases_total{reason="Unconfirmed"} 2"#,
            r#"ferrolb_releases_total{reason="Yielded"} 1"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
