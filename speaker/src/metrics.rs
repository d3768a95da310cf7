//! What `/metrics` says, read at the moment of the scrape.
//!
//! Names that users of MetalLB have in their dashboards are kept to the letter. Its layer-2 counters carry no `_total`,
//! which the OpenMetrics format demands of a counter, so they are exported as of unknown type; `rate()` does not mind.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ferrolb_l2::{Counters, Family, KindCounts, Snapshot};
use ferrolb_model::{NodeRefusal, ServiceId};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// What the owner task last published about itself.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Every address that is answered for, with each Service that holds it.
    pub(crate) announced: Vec<(ServiceId, IpAddr)>,
    /// Every address that routers are told of, with each Service that holds it.
    pub(crate) announced_by_bgp: Vec<(ServiceId, IpAddr)>,
    /// How many addresses are placed here and not announced, by reason.
    pub(crate) withheld: BTreeMap<NodeRefusal, u64>,
    /// How many addresses an advertisement tells to routers and this node does not, by reason.
    pub(crate) withheld_by_bgp: BTreeMap<NodeRefusal, u64>,
    /// Writes that failed and wait for a retry.
    pub(crate) failed_writes: u64,
    /// Mistakes in objects of the configuration, which are left out or stand at an older version; `None` before the first
    /// reading.
    pub(crate) config_errors: Option<u64>,
    /// Whether kube-proxy was there when it was last asked; `None` before that.
    pub(crate) kube_proxy: Option<bool>,
}

/// The owner task's side: replaces what was published.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<Mutex<Arc<Published>>>);

impl Board {
    /// Replaces everything.
    pub(crate) fn publish(&self, published: Published) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(published);
    }

    fn read(&self) -> Arc<Published> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Adds the speaker's metrics to `registry`.
pub(crate) fn register(
    registry: &mut Registry,
    node: &str,
    board: Board,
    (counters, guard): (Arc<Counters>, Arc<ferrolb_liveness::Counters>),
) {
    registry.register_collector(Box::new(SpeakerMetrics {
        node: node.to_owned(),
        board,
        counters,
        guard,
    }));
}

#[derive(Debug)]
struct SpeakerMetrics {
    node: String,
    board: Board,
    counters: Arc<Counters>,
    guard: Arc<ferrolb_liveness::Counters>,
}

impl Collector for SpeakerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.decisions(&mut encoder)?;
        wire(&mut encoder, &self.counters.snapshot())?;
        liveness(&mut encoder, &self.guard)
    }
}

impl SpeakerMetrics {
    fn decisions(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let now = self.board.read();
        let layer2 = now.announced.iter().map(|of| ("layer2", of));
        let bgp = now.announced_by_bgp.iter().map(|of| ("bgp", of));
        let announced = layer2.chain(bgp).map(|(protocol, (service, ip))| {
            let labels = [
                ("service", service.to_string()),
                ("protocol", protocol.to_owned()),
                ("node", self.node.clone()),
                ("ip", ip.to_string()),
            ];
            (labels, 1)
        });
        gauges(
            encoder,
            "metallb_speaker_announced",
            "Addresses of Services that this node announces",
            announced,
        )?;
        let withheld = now
            .withheld
            .iter()
            .map(|(why, count)| ([("reason", why.as_str())], *count));
        gauges(
            encoder,
            "ferrolb_speaker_withheld",
            "Addresses that are placed on this node and not announced, by reason",
            withheld,
        )?;
        let withheld = now
            .withheld_by_bgp
            .iter()
            .map(|(why, count)| ([("reason", why.as_str())], *count));
        gauges(
            encoder,
            "ferrolb_bgp_withheld",
            "Addresses of Services that a BGPAdvertisement speaks for and that this node tells no router of, by reason",
            withheld,
        )?;
        if let Some(there) = now.kube_proxy {
            let name = "ferrolb_kube_proxy_readable";
            let help = "1 if kube-proxy said how far it is when it was last asked, 0 if nobody was there";
            let readable = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(u64::from(there)).encode(readable)?;
        }
        for (name, help, value) in [
            (
                "ferrolb_speaker_failed_writes",
                "Writes to the API server that failed and wait for a retry",
                now.failed_writes,
            ),
            (
                "metallb_k8s_client_config_loaded_bool",
                "1 once a configuration is in force",
                u64::from(now.config_errors.is_some()),
            ),
            (
                "metallb_k8s_client_config_stale_bool",
                "1 while an object of the configuration is left out or stands at an older version",
                u64::from(now.config_errors.is_some_and(|errors| errors > 0)),
            ),
        ] {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

fn wire(encoder: &mut DescriptorEncoder, now: &Snapshot) -> fmt::Result {
    type Figure = fn(&ferrolb_l2::AddressCounts) -> u64;
    let figures: [(&str, &str, Figure); 3] = [
        (
            "metallb_layer2_requests_received",
            "ARP requests and Neighbor Solicitations for an announced address",
            |counts| counts.requests,
        ),
        ("metallb_layer2_responses_sent", "Answers to them", |counts| {
            counts.replies
        }),
        (
            "metallb_layer2_gratuitous_sent",
            "ARP and Neighbor Advertisement frames sent unasked",
            |counts| counts.gratuitous,
        ),
    ];
    for (name, help, figure) in figures {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Unknown)?;
        for (address, counts) in &now.addresses {
            let labels = [("ip", address.to_string())];
            ConstGauge::new(figure(counts)).encode(family.encode_family(&labels)?)?;
        }
    }
    let dropped = now
        .drops
        .iter()
        .map(|(reason, count)| ([("reason", reason.label())], *count));
    counters(
        encoder,
        "ferrolb_l2_drops",
        "Frames that were not answered, by reason",
        dropped,
    )?;
    type Count = fn(&KindCounts) -> u64;
    let kinds: [(&str, &str, Count); 6] = [
        (
            "ferrolb_conflicts",
            "Frames in which somebody else claimed an announced address",
            |counts| counts.conflicts,
        ),
        (
            "ferrolb_l2_defences",
            "Announcements that defended an address against such a claim",
            |counts| counts.defences,
        ),
        (
            "ferrolb_l2_answers_for_owner",
            "Answers in the name of a node whose speaker is silent",
            |counts| counts.for_owner,
        ),
        (
            "ferrolb_l2_answers_from_memory",
            "Answers to requests that had come before this node was the one to answer",
            |counts| counts.from_memory,
        ),
        ("ferrolb_l2_questions", "Questions to the network", |counts| {
            counts.questions
        }),
        ("ferrolb_l2_question_answers", "Answers to them", |counts| {
            counts.answers
        }),
    ];
    for (name, help, count) in kinds {
        let both = [(Family::Arp, now.arp), (Family::Ndp, now.ndp)];
        let both = both.map(|(family, counts)| ([("protocol", family.name())], count(&counts)));
        counters(encoder, name, help, both)?;
    }
    let help = "Things heard on the network that the guard had no room for";
    let lost = encoder.encode_descriptor("ferrolb_l2_notes_dropped", help, None, MetricType::Counter)?;
    ConstCounter::new(now.notes_dropped).encode(lost)
}

fn liveness(encoder: &mut DescriptorEncoder, now: &ferrolb_liveness::Counters) -> fmt::Result {
    counters(
        encoder,
        "ferrolb_liveness_drops",
        "Datagrams of other speakers that were not believed, by reason",
        now.drops().map(|(reason, count)| ([("reason", reason)], count)),
    )?;
    gauges(
        encoder,
        "ferrolb_liveness_peers",
        "Owners that this node stands by for, by what it thinks of them",
        now.peers().map(|(state, count)| ([("state", state.as_str())], count)),
    )?;
    for (name, help, count) in [
        ("ferrolb_liveness_sent", "Datagrams sent to other speakers", &now.sent),
        (
            "ferrolb_liveness_unsent",
            "Datagrams to other speakers that could not be sent",
            &now.unsent,
        ),
        (
            "ferrolb_liveness_received",
            "Datagrams of other speakers that were believed",
            &now.received,
        ),
        (
            "ferrolb_liveness_silences",
            "Times at which an owner was silent for the detection time",
            &now.missed,
        ),
        (
            "ferrolb_liveness_stalls",
            "Times at which this speaker had not run for so long that it judged nobody",
            &now.stalls,
        ),
        (
            "ferrolb_liveness_questions",
            "Questions asked on the wire",
            &now.questions,
        ),
        (
            "ferrolb_liveness_vouched",
            "Answers of other nodes that heard an owner that this one did not",
            &now.vouched,
        ),
    ] {
        ConstCounter::new(count.get()).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
    }
    Ok(())
}

fn gauges<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn counters<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    #[test]
    fn names_and_labels_are_those_of_dashboards() {
        let board = Board::default();
        board.publish(Published {
            announced: vec![(ServiceId::new("shop", "web"), "192.0.2.7".parse().unwrap())],
            announced_by_bgp: vec![(ServiceId::new("shop", "web"), "192.0.2.8".parse().unwrap())],
            withheld: BTreeMap::from([(NodeRefusal::NoInterface, 2)]),
            withheld_by_bgp: BTreeMap::from([(NodeRefusal::NoPeer, 1)]),
            failed_writes: 0,
            config_errors: Some(1),
            kube_proxy: Some(true),
        });
        let mut registry = Registry::default();
        register(&mut registry, "node-a", board, Default::default());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            r#"metallb_speaker_announced{service="shop/web",protocol="layer2",node="node-a",ip="192.0.2.7"} 1"#,
            r#"metallb_speaker_announced{service="shop/web",protocol="bgp",node="node-a",ip="192.0.2.8"} 1"#,
            r#"ferrolb_speaker_withheld{reason="NoInterface"} 2"#,
            r#"ferrolb_bgp_withheld{reason="NoPeer"} 1"#,
            "# TYPE metallb_layer2_requests_received unknown",
            "# TYPE metallb_layer2_responses_sent unknown",
            "# TYPE metallb_layer2_gratuitous_sent unknown",
            r#"ferrolb_conflicts_total{protocol="ARP"} 0"#,
            r#"ferrolb_l2_defences_total{protocol="NDP"} 0"#,
            r#"ferrolb_l2_drops_total{reason="truncated"} 0"#,
            "ferrolb_liveness_sent_total 0",
            r#"ferrolb_liveness_peers{state="OwnerHeardByOthers"} 0"#,
            "ferrolb_kube_proxy_readable 1",
            "metallb_k8s_client_config_loaded_bool 1",
            "metallb_k8s_client_config_stale_bool 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
