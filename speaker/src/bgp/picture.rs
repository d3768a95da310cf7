//! What is said about BGP in the API server: pure functions from the [`View`] to the statuses of `SpeakerState` and
//! `ServiceBGPStatus`.
//!
//! Times are whole seconds, as the API server keeps them; otherwise nothing that was written would ever stand there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_api::{BfdSession, BfdState, BgpSession, BgpState, Negotiated, ServiceBgpStatusStatus, SessionState};
use ferrolb_bgp::{State, Status};
use ferrolb_model::{PeerEndpoint, ServiceId};
use ferrolb_runtime::text::shortened;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Planned, View};
use crate::snapshot;

/// `lastError` of a session holds this much.
const MAX_ERROR: usize = 512;

/// What is to stand in the API server about BGP.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BgpPicture {
    /// About the speaker; `None` where the node has no peer.
    pub(crate) state: Option<BgpState>,
    /// About each Service that routers are told of, by the name of its object; `None` while that is not known.
    pub(crate) services: Option<Services>,
}

/// Statuses by the names of their objects; the same object while nothing has changed.
pub(crate) type Services = Arc<BTreeMap<String, Arc<ServiceBgpStatusStatus>>>;

/// The statuses of the Services that `planned` tells routers of, by the names of their objects.
pub(super) fn services(planned: &Planned, node: &str) -> Services {
    let status = |(id, peers): (&ServiceId, &Arc<BTreeSet<String>>)| {
        let status = ServiceBgpStatusStatus {
            node: node.to_owned(),
            service_name: id.name.clone(),
            service_namespace: id.namespace.clone(),
            peers: peers.iter().cloned().collect(),
        };
        (object_name(node, id), Arc::new(status))
    };
    Arc::new(planned.plan.services.iter().map(status).collect())
}

/// The same name each time, so that no Service ever has two objects of one node.
fn object_name(node: &str, service: &ServiceId) -> String {
    let sum = snapshot::sum(format!("{node}\0{service}").as_bytes());
    format!("bgp-{}", &sum[..20])
}

/// The part of the SpeakerState.
pub(super) fn state(view: &View) -> Option<BgpState> {
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
    let refused = plan.and_then(|plan| plan.refused.get(name)).map(ToString::to_string);
    let fault = refused.or_else(|| view.faults.get(name).cloned());
    let status = view.sessions.get(name);
    let last_error = |status: &Status| status.last_error.as_ref().map(|(_, fault)| fault.to_string());
    let error = fault.or_else(|| status.and_then(|status| last_error(status)));
    BgpSession {
        peer: name.to_owned(),
        address: address(view, name).unwrap_or_default(),
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

/// Where the router is; that of a link once it was found.
fn address(view: &View, name: &str) -> Option<String> {
    let planned = view.planned.as_ref()?.plan.peers.get(name)?;
    let peer = view.wanted.peers.get(name).map(|wanted| &wanted.peer);
    Some(match (&planned.peer.endpoint, peer) {
        (PeerEndpoint::Interface(interface), Some(peer)) => format!("{}%{interface}", peer.address),
        (endpoint, _) => endpoint.to_string(),
    })
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::num::NonZeroU32;
    use std::time::Instant;

    use ferrolb_bfd::{Diagnostic, Path, Report};
    use ferrolb_bgp::proto::Notification;
    use ferrolb_bgp::status::Fault;
    use ferrolb_bgp::{Peer, RemoteAsn, Routes, WantedPeer};
    use ferrolb_model::FamilySet;
    use ferrolb_speaker_core::{BgpPlan, PeerRefusal, PlannedPeer};

    use super::*;

    const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    /// A plan with a peer `one`, and `two` that has no key.
    fn planned() -> Planned {
        let peer = crate::bgp::convert::tests::peer(&ROUTER.to_string());
        let planned = PlannedPeer {
            peer,
            password: None,
            routes: Arc::default(),
        };
        let secret = "key".to_owned();
        let plan = BgpPlan {
            peers: [("one".to_owned(), planned)].into(),
            refused: [("two".to_owned(), PeerRefusal::NoPassword { secret })].into(),
            services: [(ServiceId::new("shop", "web"), Arc::new(["one".to_owned()].into()))].into(),
            ..BgpPlan::default()
        };
        Planned {
            plan: Arc::new(plan),
            ..Planned::default()
        }
    }

    /// One second and a half after the start the session was established; it has had an error before.
    fn view() -> View {
        let mut peer = Peer::new(ROUTER, 64600, RemoteAsn::Is(64512), Ipv4Addr::LOCALHOST);
        peer.keepalive = Some(2);
        let mut wanted = ferrolb_bgp::Wanted::default();
        let (peer, routes) = (Arc::new(peer), Arc::<Routes>::default());
        wanted.peers.insert("one".to_owned(), WantedPeer { peer, routes });
        let agreed = ferrolb_bgp::proto::Negotiated {
            asn: 64512,
            router_id: Ipv4Addr::new(10, 0, 0, 9),
            hold_time: 9,
            families: FamilySet { v4: true, v6: false },
            four_octet_asn: true,
            extended_next_hop: false,
            route_refresh: true,
            graceful_restart: false,
            notification_restart: false,
            capabilities: Vec::new(),
        };
        let goodbye = Notification {
            code: 6,
            subcode: 2,
            text: Some("maintenance tonight".to_owned()),
        };
        let status = Status {
            state: State::Established,
            since: Duration::from_millis(1500),
            negotiated: Some(agreed),
            told: 3,
            last_error: Some((Duration::ZERO, Fault::Received(goodbye))),
            ..Status::default()
        };
        View {
            planned: Some(planned()),
            wanted: Arc::new(wanted),
            start: Some((Timestamp::from_millisecond(1_000_700).unwrap(), Instant::now())),
            sessions: [("one".to_owned(), Arc::new(status))].into(),
            ..View::default()
        }
    }

    #[test]
    fn a_session_tells_how_it_stands_in_whole_seconds() {
        let mut view = view();
        let told = state(&view).unwrap();
        let [one, two] = &told.sessions[..] else {
            panic!("{told:?}")
        };
        assert_eq!(
            (told.established, one.state, one.prefixes_sent),
            (1, SessionState::Established, 3)
        );
        assert_eq!(one.since, Some(Time(Timestamp::from_second(1001).unwrap())));
        let agreed = one.negotiated.as_ref().unwrap();
        assert_eq!((agreed.hold_seconds, agreed.keepalive_seconds), (9, 2));
        assert_eq!(agreed.capabilities, ["ipv4-unicast", "four-octet-as", "route-refresh"]);
        assert!(one.last_error.contains("maintenance tonight"), "{}", one.last_error);
        assert_eq!((one.address.as_str(), &one.bfd), ("10.0.0.1", &None));
        assert_eq!((two.peer.as_str(), two.state), ("two", SessionState::Idle));
        assert!(two.last_error.contains("\"key\""), "{}", two.last_error);

        let path = Arc::new(Path::new(ROUTER));
        view.paths.insert("one".to_owned(), Arc::clone(&path));
        let bfd = |view: &View| state(view).unwrap().sessions[0].bfd.clone().unwrap();
        assert_eq!(
            (bfd(&view).state, bfd(&view).since),
            (BfdState::Down, None),
            "not heard of yet"
        );
        let (_, start) = view.start.unwrap();
        let status = ferrolb_bfd::Status {
            state: ferrolb_bfd::State::Up,
            since: start + Duration::from_secs(2),
            last_change: None,
            ups: 1,
            downs: 0,
            failures: 0,
            diagnostic: Diagnostic::NONE,
            remote_state: ferrolb_bfd::State::Up,
            remote_diagnostic: Diagnostic::NONE,
            discriminator: NonZeroU32::MIN,
            remote_discriminator: None,
            transmit_interval: Duration::ZERO,
            detection_time: Duration::ZERO,
            fault: None,
        };
        let counters = Arc::default();
        view.bfd.insert(Arc::clone(&path), Report { path, status, counters });
        assert_eq!(bfd(&view).since, Some(Time(Timestamp::from_second(1002).unwrap())));
        assert_eq!(bfd(&view).state, BfdState::Up);
    }

    #[test]
    fn an_unnumbered_session_tells_the_address_that_was_found() {
        let mut view = view();
        let mut plan = BgpPlan::clone(&view.planned.as_ref().unwrap().plan);
        let endpoint = &mut plan.peers.get_mut("one").unwrap().peer.endpoint;
        *endpoint = PeerEndpoint::Interface("eth0".to_owned());
        view.planned.as_mut().unwrap().plan = Arc::new(plan);
        let told = |view: &View| state(view).unwrap().sessions[0].address.clone();
        assert_eq!(told(&view), "10.0.0.1%eth0");
        view.wanted = Arc::default();
        assert_eq!(told(&view), "eth0");
    }

    #[test]
    fn a_node_without_peers_has_nothing_to_tell() {
        let nothing = View {
            planned: Some(Planned::default()),
            ..View::default()
        };
        assert_eq!(state(&View::default()), None);
        assert_eq!(state(&nothing), None);
    }

    #[test]
    fn a_service_has_one_object_for_each_node() {
        let of = |node| services(&planned(), node);
        let (name, status) = of("node-a").iter().next().map(|(n, s)| (n.clone(), s.clone())).unwrap();
        assert_eq!((name.len(), name.starts_with("bgp-")), (24, true));
        assert_eq!(
            (status.node.as_str(), &status.peers),
            ("node-a", &vec!["one".to_owned()])
        );
        assert!(!of("node-b").contains_key(&name));
    }
}
