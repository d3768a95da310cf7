//! What is said about BGP in the API server: pure functions from the [`View`] to the statuses of `SpeakerState` and
//! `ServiceBGPStatus`.
//!
//! Times are whole seconds, as the API server keeps them; otherwise nothing that was written would ever stand there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ferrolb_api::{BfdSession, BfdState, BgpSession, BgpState, Negotiated, ServiceBgpStatusStatus, SessionState};
use ferrolb_bgp::{State, Status};
use ferrolb_model::ServiceId;
use ferrolb_runtime::text::shortened;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::View;
use crate::snapshot;

/// `lastError` of a session holds this much.
const MAX_ERROR: usize = 512;

/// What is to stand in the API server about BGP.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BgpPicture {
    /// About the speaker; `None` where the node has no peer.
    pub(crate) state: Option<BgpState>,
    /// About each Service that routers are told of, by the name of its object; `None` while that is not known.
    pub(crate) services: Option<BTreeMap<String, ServiceBgpStatusStatus>>,
}

impl BgpPicture {
    /// As seen from `node`.
    pub(crate) fn of(view: &View, node: &str) -> Self {
        let services = view.planned.as_ref().map(|planned| {
            let services = planned.plan.services.iter();
            let status = |(id, peers): (&ServiceId, &BTreeSet<String>)| {
                let status = ServiceBgpStatusStatus {
                    node: node.to_owned(),
                    service_name: id.name.clone(),
                    service_namespace: id.namespace.clone(),
                    peers: peers.iter().cloned().collect(),
                };
                (object_name(node, id), status)
            };
            services.map(status).collect()
        });
        BgpPicture {
            state: state(view),
            services,
        }
    }
}

/// The same name each time, so that no Service ever has two objects of one node.
fn object_name(node: &str, service: &ServiceId) -> String {
    let sum = snapshot::sum(format!("{node}\0{service}").as_bytes());
    format!("bgp-{}", &sum[..20])
}

fn state(view: &View) -> Option<BgpState> {
    let plan = &view.planned.as_ref()?.plan;
    let mut names: Vec<&String> = plan.peers.keys().chain(plan.refused.keys()).collect();
    names.sort();
    names.dedup();
    let sessions: Vec<BgpSession> = names.into_iter().map(|name| session(view, name)).collect();
    let established = sessions.iter().filter(|s| s.state == SessionState::Established);
    let established = count(established.count());
    (!sessions.is_empty()).then_some(BgpState { established, sessions })
}

fn session(view: &View, name: &str) -> BgpSession {
    let plan = view.planned.as_ref().map(|planned| &planned.plan);
    let planned = plan.and_then(|plan| plan.peers.get(name));
    let refused = plan.and_then(|plan| plan.refused.get(name)).map(ToString::to_string);
    let fault = refused.or_else(|| view.faults.get(name).cloned());
    let status = view.sessions.get(name);
    let last_error = |status: &Status| status.last_error.as_ref().map(|(_, fault)| fault.to_string());
    let error = fault.or_else(|| status.and_then(|status| last_error(status)));
    BgpSession {
        peer: name.to_owned(),
        address: planned
            .map(|planned| planned.peer.endpoint.to_string())
            .unwrap_or_default(),
        state: status.map_or(SessionState::Idle, |status| session_state(status.state)),
        since: status.and_then(|status| at(view, status.since)),
        negotiated: status.and_then(|status| {
            let keepalive = view.wanted.peers.get(name).and_then(|wanted| wanted.peer.keepalive);
            status.negotiated.as_ref().map(|agreed| negotiated(agreed, keepalive))
        }),
        prefixes_sent: status.map_or(0, |status| count(status.told)),
        last_error: shortened(error.unwrap_or_default(), MAX_ERROR),
        bfd: view.paths.get(name).map(|path| bfd(view, path)),
    }
}

/// A moment of the sessions' clock.
fn at(view: &View, since: Duration) -> Option<Time> {
    let (start, _) = view.start?;
    let moment = start.as_second().checked_add(i64::try_from(since.as_secs()).ok()?)?;
    Timestamp::from_second(moment).ok().map(Time)
}

fn bfd(view: &View, path: &ferrolb_bfd::Path) -> BfdSession {
    let Some(report) = view.bfd.get(path) else {
        return BfdSession::default();
    };
    let state = match report.status.state {
        ferrolb_bfd::State::AdminDown => BfdState::AdminDown,
        ferrolb_bfd::State::Down => BfdState::Down,
        ferrolb_bfd::State::Init => BfdState::Init,
        ferrolb_bfd::State::Up => BfdState::Up,
    };
    let since = view
        .start
        .map(|(_, start)| report.status.since.saturating_duration_since(start));
    BfdSession {
        state,
        since: since.and_then(|since| at(view, since)),
    }
}

fn session_state(state: State) -> SessionState {
    match state {
        State::Idle => SessionState::Idle,
        State::Connect => SessionState::Connect,
        State::Active => SessionState::Active,
        State::OpenSent => SessionState::OpenSent,
        State::OpenConfirm => SessionState::OpenConfirm,
        State::Established => SessionState::Established,
    }
}

/// `keepalive` is what the peer's settings ask for, in seconds.
fn negotiated(agreed: &ferrolb_bgp::proto::Negotiated, keepalive: Option<u16>) -> Negotiated {
    let third = agreed.hold_time / 3;
    let capabilities = [
        ("ipv4-unicast", agreed.families.v4),
        ("ipv6-unicast", agreed.families.v6),
        ("four-octet-as", agreed.four_octet_asn),
        ("extended-next-hop", agreed.extended_next_hop),
        ("route-refresh", agreed.route_refresh),
        ("graceful-restart", agreed.graceful_restart),
        ("notification-restart", agreed.notification_restart),
    ];
    Negotiated {
        peer_asn: agreed.asn,
        router_id: agreed.router_id.to_string(),
        hold_seconds: agreed.hold_time.into(),
        keepalive_seconds: keepalive.map_or(third, |keepalive| keepalive.min(third)).into(),
        capabilities: capabilities
            .into_iter()
            .filter(|(_, both)| *both)
            .map(|(name, _)| name.to_owned())
            .collect(),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
