//! What `/metrics` says about BGP and BFD, read at the moment of the scrape.
//!
//! Names and labels are those that users of MetalLB have in their dashboards; `peer` is the router's address and port. Its
//! counters carry no `_total`, which the OpenMetrics format demands of a counter, so those are exported as of unknown
//! type, and two gauges do carry it.

use std::fmt;
use std::sync::Arc;

use ferrolb_bfd::Report;
use ferrolb_bgp::{State, Status};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::View;

/// Adds the metrics of what `view` shows to `registry`.
pub(super) fn register(registry: &mut Registry, view: watch::Receiver<Arc<View>>) {
    registry.register_collector(Box::new(Metrics(view)));
}

#[derive(Debug)]
struct Metrics(watch::Receiver<Arc<View>>);

type Figure<T> = (&'static str, &'static str, MetricType, fn(&T) -> u64);

/// Of a session.
const SESSION: [Figure<Status>; 14] = [
    (
        "metallb_bgp_session_up",
        "1 while the session is established",
        MetricType::Gauge,
        |s| u64::from(s.state == State::Established),
    ),
    (
        "metallb_bgp_announced_prefixes_total",
        "Prefixes that the router has from this node",
        MetricType::Gauge,
        |s| number(s.told),
    ),
    (
        "metallb_bgp_pending_prefixes_total",
        "Prefixes that the router should have",
        MetricType::Gauge,
        |s| number(s.wanted),
    ),
    (
        "metallb_bgp_updates",
        "UPDATE messages sent",
        MetricType::Counter,
        |s| s.sent.update,
    ),
    (
        "metallb_bgp_updates_total_received",
        "UPDATE messages received",
        MetricType::Unknown,
        |s| s.received.update,
    ),
    (
        "metallb_bgp_opens_sent",
        "OPEN messages sent",
        MetricType::Unknown,
        |s| s.sent.open,
    ),
    (
        "metallb_bgp_opens_received",
        "OPEN messages received",
        MetricType::Unknown,
        |s| s.received.open,
    ),
    (
        "metallb_bgp_notifications_sent",
        "NOTIFICATION messages sent",
        MetricType::Unknown,
        |s| s.sent.notification,
    ),
    (
        "metallb_bgp_keepalives_sent",
        "KEEPALIVE messages sent",
        MetricType::Unknown,
        |s| s.sent.keepalive,
    ),
    (
        "metallb_bgp_keepalives_received",
        "KEEPALIVE messages received",
        MetricType::Unknown,
        |s| s.received.keepalive,
    ),
    (
        "metallb_bgp_route_refresh_sent",
        "ROUTE-REFRESH messages sent",
        MetricType::Unknown,
        |s| s.sent.refresh,
    ),
    ("metallb_bgp_total_sent", "Messages sent", MetricType::Unknown, |s| {
        s.sent.total()
    }),
    (
        "metallb_bgp_total_received",
        "Messages received",
        MetricType::Unknown,
        |s| s.received.total(),
    ),
    (
        "ferrolb_bgp_sessions_established",
        "How often the session was established",
        MetricType::Counter,
        |s| s.established,
    ),
];

/// Of a path.
const PATH: [Figure<Report>; 5] = [
    (
        "metallb_bfd_session_up",
        "1 while the BFD session is up",
        MetricType::Gauge,
        |r| u64::from(r.status.state == ferrolb_bfd::State::Up),
    ),
    (
        "metallb_bfd_control_packet_input",
        "Control packets received",
        MetricType::Unknown,
        |r| r.counters.received(),
    ),
    (
        "metallb_bfd_control_packet_output",
        "Control packets sent",
        MetricType::Unknown,
        |r| r.counters.sent(),
    ),
    (
        "metallb_bfd_session_up_events",
        "How often the session came up",
        MetricType::Unknown,
        |r| r.status.ups,
    ),
    (
        "metallb_bfd_session_down_events",
        "How often the session went down",
        MetricType::Unknown,
        |r| r.status.downs,
    ),
];

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// What identifies a session.
type Labels = [(&'static str, String); 2];

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let view = Arc::clone(&self.0.borrow());
        let labels = |name: &String| -> Option<Labels> {
            let peer = &view.wanted.peers.get(name)?.peer;
            let at = match &peer.interface {
                Some(interface) => format!("[{}%{interface}]:{}", peer.address, peer.port),
                None => std::net::SocketAddr::new(peer.address, peer.port).to_string(),
            };
            let vrf = peer.vrf.clone().unwrap_or_else(|| "default".to_owned());
            Some([("peer", at), ("vrf", vrf)])
        };
        let sessions = view.sessions.iter();
        let sessions: Vec<(Labels, &Status)> = sessions
            .filter_map(|(name, status)| Some((labels(name)?, status.as_ref())))
            .collect();
        let paths = view.paths.iter();
        let paths: Vec<(Labels, &Report)> = paths
            .filter_map(|(name, path)| Some((labels(name)?, view.bfd.get(path)?)))
            .collect();
        figures(&mut encoder, &SESSION, &sessions)?;
        figures(&mut encoder, &PATH, &paths)
    }
}

fn figures<T>(encoder: &mut DescriptorEncoder, figures: &[Figure<T>], of: &[(Labels, &T)]) -> fmt::Result {
    for (name, help, kind, figure) in figures {
        let mut family = encoder.encode_descriptor(name, help, None, *kind)?;
        for (labels, of) in of {
            let value = figure(of);
            match kind {
                MetricType::Counter => ConstCounter::new(value).encode(family.encode_family(labels)?)?,
                _ => ConstGauge::new(value).encode(family.encode_family(labels)?)?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ferrolb_bgp::{Peer, RemoteAsn, Routes, WantedPeer};
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn names_and_labels_are_those_of_dashboards() {
        let address = "10.0.0.1".parse().unwrap();
        let peer = Peer::new(address, 64600, RemoteAsn::Is(64512), Ipv4Addr::LOCALHOST);
        let mut wanted = ferrolb_bgp::Wanted::default();
        let (peer, routes) = (Arc::new(peer), Arc::<Routes>::default());
        wanted.peers.insert("one".to_owned(), WantedPeer { peer, routes });
        let mut status = Status {
            state: State::Established,
            told: 3,
            established: 2,
            ..Status::default()
        };
        status.sent.update = 5;
        let view = View {
            wanted: Arc::new(wanted),
            sessions: [("one".to_owned(), Arc::new(status))].into(),
            ..View::default()
        };
        let mut registry = Registry::default();
        let (_view, shown) = watch::channel(Arc::new(view));
        register(&mut registry, shown);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            r#"metallb_bgp_session_up{peer="10.0.0.1:179",vrf="default"} 1"#,
            r#"metallb_bgp_announced_prefixes_total{peer="10.0.0.1:179",vrf="default"} 3"#,
            r#"metallb_bgp_updates_total{peer="10.0.0.1:179",vrf="default"} 5"#,
            r#"ferrolb_bgp_sessions_established_total{peer="10.0.0.1:179",vrf="default"} 2"#,
            "# TYPE metallb_bgp_total_sent unknown",
            "# TYPE metallb_bfd_session_up gauge",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
