//! The state machine of one connection, from the moment it is up (RFC 4271 section 8, states OpenSent to
//! Established). When to connect, and what follows a connection that failed, is the session's matter.
//!
//! Departs from the crate's machine where it has to: OPEN carries the restart bits of this node and only what we do
//! (no extended messages, no enhanced refresh); FSM errors carry the subcodes of RFC 6608; a NOTIFICATION that cannot
//! be read is not answered (RFC 4271 section 6.4).

use bytes::Bytes;
use ferrolb_model::{Family, FamilySet};
use rustbgpd_fsm::{Event, NegotiatedSession, PeerConfig, SessionState, TimerType};
use rustbgpd_wire::notification::{self, cease_subcode};
use rustbgpd_wire::{Afi, Capability, DecodeError, Message, NotificationCode, OpenMessage, Safi};

use super::update::{self, Judgement};
use super::{Cease, Decoder, Incoming, Negotiated, Notification, afi, encode, family};
use crate::settings::{GracefulRestart, RemoteAsn};

/// What we say in our OPEN message, and whom we accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Our AS.
    pub local_asn: u32,
    /// The peer's.
    pub remote_asn: RemoteAsn,
    /// Our BGP identifier.
    pub router_id: std::net::Ipv4Addr,
    /// Hold time in seconds.
    pub hold_time: u16,
    /// The families to exchange.
    pub families: FamilySet,
    /// Graceful restart.
    pub graceful_restart: Option<GracefulRestart>,
    /// This node restarted and kept forwarding (the R bit of RFC 4724).
    pub restarting: bool,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Over.
    Closed,
    /// Our OPEN is sent.
    OpenSent,
    /// Both OPEN messages are exchanged.
    OpenConfirm,
    /// UPDATE messages flow.
    Established,
}

/// A timer the machine wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The peer must be heard before it expires.
    Hold,
    /// A KEEPALIVE is due when it expires.
    Keepalive,
}

/// A message that was received, for those who count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// OPEN.
    Open,
    /// KEEPALIVE.
    Keepalive,
    /// UPDATE, and what became of it.
    Update(Judgement),
    /// ROUTE-REFRESH for a family.
    Refresh(Option<Family>),
    /// NOTIFICATION.
    Notification(Notification),
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes.
    Send(Bytes),
    /// Send this NOTIFICATION.
    Notify(Notification, Bytes),
    /// Start a timer anew; a duration in seconds.
    Start(Timer, u32),
    /// Stop a timer.
    Stop(Timer),
    /// The session is up.
    Established(Box<Negotiated>),
    /// A message arrived.
    Seen(Seen),
    /// Close the connection, once what is to be sent has been sent. The last action of a machine.
    Close,
}

/// The state machine of one connection.
#[derive(Debug)]
pub struct Machine {
    fsm: rustbgpd_fsm::Session,
    open: Open,
    /// Replaces the subcode of the next Cease; the crate knows only Administrative Shutdown.
    cease: Option<Cease>,
    /// The peer's OPEN message.
    peer_open: Bytes,
}

impl Machine {
    /// Starts with a connection that is up.
    pub fn start(open: Open) -> (Machine, Vec<Action>) {
        let mut config = PeerConfig::new(open.local_asn, 0, open.router_id);
        match open.remote_asn {
            RemoteAsn::Is(asn) => config.remote_asn = asn,
            RemoteAsn::Internal => config.remote_asn = open.local_asn,
            RemoteAsn::External => config.remote_asn_external = true,
        }
        config.hold_time = open.hold_time;
        config.families = open.families.iter().map(|f| (afi(f), Safi::Unicast)).collect();
        config.disable_ipv4_unicast = !open.families.v4;
        if let Some(GracefulRestart { restart_time }) = open.graceful_restart {
            config.graceful_restart = true;
            config.gr_restart_time = restart_time;
        }
        let fsm = rustbgpd_fsm::Session::new(config);
        let mut machine = Machine {
            fsm,
            open,
            cease: None,
            peer_open: Bytes::new(),
        };
        // Through the states before the connection, whose wishes are the session's to fulfil.
        machine.fsm.handle_event(Event::ManualStart);
        let actions = machine.event(Event::TcpConnectionConfirmed);
        (machine, actions)
    }

    /// Goes on with a connection that is Established, of which another process had the machine: `open` is what that one
    /// said, `peer_open` its [`Machine::peer_open`]. `None` if the two would not agree upon a session.
    pub fn resume(open: Open, peer_open: &[u8]) -> Option<Machine> {
        let mut decoder = Decoder::default();
        decoder.push(peer_open);
        let (mut machine, _) = Machine::start(open);
        machine.receive(decoder.next_message()?);
        machine.event(Event::KeepaliveReceived);
        (machine.phase() == Phase::Established).then_some(machine)
    }

    /// The peer's OPEN message, with its header; empty before it came.
    pub fn peer_open(&self) -> &[u8] {
        &self.peer_open
    }

    /// How far the connection is.
    pub fn phase(&self) -> Phase {
        match self.fsm.state() {
            SessionState::OpenSent => Phase::OpenSent,
            SessionState::OpenConfirm => Phase::OpenConfirm,
            SessionState::Established => Phase::Established,
            _ => Phase::Closed,
        }
    }

    /// What was agreed upon, from OpenConfirm on.
    pub fn negotiated(&self) -> Option<Negotiated> {
        self.fsm.negotiated().map(|n| self.agreed(n))
    }

    /// Whether peer and we are in different systems, as far as that was told.
    pub fn is_external(&self) -> bool {
        self.fsm.negotiated().is_none_or(|n| n.peer_asn != self.open.local_asn)
    }

    /// Takes in a message.
    pub fn receive(&mut self, incoming: Incoming) -> Vec<Action> {
        let mut actions = Vec::new();
        let event = match incoming.0 {
            Ok(Message::Open(open)) => {
                actions.push(Action::Seen(Seen::Open));
                let message = Message::Open(open.clone());
                self.peer_open = encode(&message);
                Event::OpenReceived(open)
            }
            Ok(Message::Keepalive) => {
                actions.push(Action::Seen(Seen::Keepalive));
                Event::KeepaliveReceived
            }
            Ok(Message::Notification(message)) => {
                actions.push(Action::Seen(Seen::Notification(Notification::of(&message))));
                Event::NotificationReceived(message)
            }
            Ok(Message::Update(message)) => {
                let (judgement, event) = match self.fsm.negotiated() {
                    Some(n) if self.phase() == Phase::Established => {
                        update::judge(&message, n.four_octet_as, self.is_external())
                    }
                    _ => (Judgement::default(), Event::UpdateReceived),
                };
                actions.push(Action::Seen(Seen::Update(judgement)));
                event
            }
            Ok(Message::RouteRefresh(message)) => {
                let (afi, safi) = (message.afi(), message.safi());
                // Begin and End of an enhanced refresh (RFC 7313) are not requests, and were not offered.
                let request = afi.zip(safi).filter(|_| message.subtype_raw == 0);
                actions.push(Action::Seen(Seen::Refresh(request.and_then(|(a, s)| family(a, s)))));
                Event::RouteRefreshReceived {
                    afi: afi.unwrap_or(Afi::Ipv4),
                    safi: safi.unwrap_or(Safi::Unicast),
                }
            }
            Ok(_) => Event::UpdateReceived,
            Err(DecodeError::MalformedField {
                message_type: "NOTIFICATION",
                ..
            }) => Event::TcpConnectionFails,
            Err(error) => Event::DecodeError(error),
        };
        actions.extend(self.event(event));
        actions
    }

    /// A timer expired.
    pub fn expired(&mut self, timer: Timer) -> Vec<Action> {
        self.event(match timer {
            Timer::Hold => Event::HoldTimerExpires,
            Timer::Keepalive => Event::KeepaliveTimerExpires,
        })
    }

    /// Ends the connection on purpose, with a text for the peer's operator where Cease takes one (RFC 9003).
    pub fn cease(&mut self, cease: Cease, text: &str) -> Vec<Action> {
        self.cease = Some(cease);
        let reason = (cease == Cease::Shutdown).then(|| notification::encode_shutdown_communication(text));
        self.event(Event::ManualStop { reason })
    }

    /// BFD saw the path fail (RFC 9384).
    pub fn bfd_down(&mut self) -> Vec<Action> {
        self.event(Event::BfdDown)
    }

    fn event(&mut self, event: Event) -> Vec<Action> {
        let before = self.phase();
        let mut actions = Vec::new();
        for action in self.fsm.handle_event(event) {
            use rustbgpd_fsm::Action as Fsm;
            match action {
                Fsm::SendOpen(open) => actions.push(Action::Send(encode(&Message::Open(self.amend(open))))),
                Fsm::SendKeepalive => actions.push(Action::Send(encode(&Message::Keepalive))),
                Fsm::SendNotification(mut message) => {
                    match (message.code, message.subcode) {
                        (NotificationCode::FsmError, 0) => message.subcode = unexpected_in(before),
                        (NotificationCode::Cease, cease_subcode::ADMINISTRATIVE_SHUTDOWN) => {
                            message.subcode = self.cease.map_or(message.subcode, Cease::subcode);
                        }
                        _ => {}
                    }
                    let notification = Notification::of(&message);
                    actions.push(Action::Notify(notification, encode(&Message::Notification(message))));
                }
                Fsm::StartTimer(TimerType::Hold, seconds) => actions.push(Action::Start(Timer::Hold, seconds)),
                Fsm::StartTimer(TimerType::Keepalive, seconds) => {
                    actions.push(Action::Start(Timer::Keepalive, seconds));
                }
                Fsm::StopTimer(TimerType::Hold) => actions.push(Action::Stop(Timer::Hold)),
                Fsm::StopTimer(TimerType::Keepalive) => actions.push(Action::Stop(Timer::Keepalive)),
                Fsm::SessionEstablished(n) => actions.push(Action::Established(Box::new(self.agreed(&n)))),
                // Connecting is the session's; so is what follows the end, which shows in the phase.
                _ => {}
            }
        }
        if before != Phase::Closed && self.phase() == Phase::Closed {
            actions.push(Action::Close);
        }
        actions
    }

    /// Our OPEN as this node wants it. The F bit tells that forwarding went on while we were gone: it always does,
    /// the data path is not in this process.
    fn amend(&self, mut open: OpenMessage) -> OpenMessage {
        open.capabilities
            .retain(|c| !matches!(c, Capability::ExtendedMessage | Capability::EnhancedRouteRefresh));
        for capability in &mut open.capabilities {
            if let Capability::GracefulRestart {
                restart_state,
                families,
                ..
            } = capability
            {
                *restart_state = self.open.restarting;
                families.iter_mut().for_each(|f| f.forwarding_preserved = true);
            }
        }
        open
    }

    fn agreed(&self, n: &NegotiatedSession) -> Negotiated {
        let offered = self.open.graceful_restart.is_some();
        let answered = n
            .peer_capabilities
            .iter()
            .any(|c| matches!(c, Capability::GracefulRestart { .. }));
        Negotiated {
            asn: n.peer_asn,
            router_id: n.peer_router_id,
            hold_time: n.hold_time,
            families: n
                .negotiated_families
                .iter()
                .filter_map(|(a, s)| family(*a, *s))
                .collect(),
            four_octet_asn: n.four_octet_as,
            extended_next_hop: n.extended_nexthop_families.contains_key(&(Afi::Ipv4, Safi::Unicast)),
            route_refresh: n.peer_route_refresh,
            graceful_restart: offered && answered,
            notification_restart: offered && n.peer_notification_gr,
            capabilities: n.peer_capabilities.iter().map(Capability::code).collect(),
        }
    }
}

/// The subcode of an FSM error by the state it happened in (RFC 6608).
fn unexpected_in(phase: Phase) -> u8 {
    match phase {
        Phase::Closed => 0,
        Phase::OpenSent => 1,
        Phase::OpenConfirm => 2,
        Phase::Established => 3,
    }
}
