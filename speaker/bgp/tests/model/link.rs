//! A session and a router with wires between them, under a clock that is turned by hand.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_bgp::session::{Local, Origin, Output, SLOTS, Session, Slot};
use ferrolb_bgp::{Peer, RemoteAsn, Routes, State};

use crate::make::{BOTH, ip};
use crate::router::Router;
use crate::wrong::{ROUTER_ID, capabilities, message, open_message};

/// An internal peer for both families, hold time 9 s.
pub(crate) fn peer() -> Peer {
    let mut peer = Peer::new(
        ip("192.0.2.99"),
        64512,
        RemoteAsn::Is(64512),
        Ipv4Addr::new(10, 0, 0, 1),
    );
    peer.families = BOTH;
    peer.hold_time = 9;
    peer
}

pub(crate) fn local() -> Local {
    Local {
        address: ip("192.0.2.1"),
        v4: None,
        v6: Some("2001:db8::1".parse().unwrap()),
    }
}

/// See the module.
pub(crate) struct Link {
    pub(crate) session: Session,
    pub(crate) now: Duration,
    /// One router per connection; what it holds goes with it.
    pub(crate) routers: [Option<Router>; SLOTS],
    /// Routers whose connection was closed, with the last words, in order.
    pub(crate) closed: Vec<Router>,
    /// What a router answers to our OPEN.
    pub(crate) open: Vec<u8>,
    /// Whether connections can be made.
    pub(crate) reachable: bool,
    pub(crate) dials: Vec<Duration>,
    pub(crate) done: bool,
}

impl Link {
    pub(crate) fn new(peer: Peer, routes: Arc<Routes>) -> Link {
        Link::restarted(peer, routes, Duration::ZERO)
    }

    pub(crate) fn restarted(peer: Peer, routes: Arc<Routes>, until: Duration) -> Link {
        peer.check().unwrap();
        let now = Duration::from_secs(1);
        Link {
            session: Session::new(now, Arc::new(peer), routes, until, 7),
            now,
            routers: [None, None],
            closed: Vec::new(),
            open: open_message(64512, 9, ROUTER_ID, &capabilities(64512)),
            reachable: true,
            dials: Vec::new(),
            done: false,
        }
    }

    /// One that is up, with everything told.
    pub(crate) fn up(peer: Peer, routes: Arc<Routes>) -> Link {
        let mut link = Link::new(peer, routes);
        link.settle();
        assert_eq!(link.state(), State::Established, "{:?}", link.session.status());
        link
    }

    pub(crate) fn state(&self) -> State {
        self.session.status().state
    }

    /// The router of the only connection.
    pub(crate) fn router(&mut self) -> &mut Router {
        self.routers.iter_mut().flatten().next().expect("there is a connection")
    }

    /// The NOTIFICATIONs that the last closed router got.
    pub(crate) fn last_words(&self) -> &[(u8, u8, Vec<u8>)] {
        &self.closed.last().expect("a connection was closed").notifications
    }

    /// Does what the session wants.
    pub(crate) fn perform(&mut self) {
        while let Some(output) = self.session.poll() {
            match output {
                Output::Dial => {
                    self.dials.push(self.now);
                    if self.reachable {
                        self.connect(Origin::Dialled);
                    } else {
                        self.session.connect_failed(self.now, "refused".to_owned());
                    }
                }
                Output::AbortDial => {}
                Output::Close { slot, last, abort } => {
                    let mut router = self.routers[slot].take().expect("it was open");
                    if !abort {
                        router.take(&last, &[]);
                    }
                    self.closed.push(router);
                }
                Output::Done => self.done = true,
            }
        }
    }

    pub(crate) fn connect(&mut self, origin: Origin) -> Option<Slot> {
        let slot = self.session.connected(self.now, origin, local());
        // Closed in favour of the new one.
        if let Some(slot) = slot
            && self.routers[slot].is_some()
        {
            self.perform();
        }
        self.routers[slot?] = Some(Router::default());
        slot
    }

    /// Another process goes on with the session, if it is established. Whether it does.
    pub(crate) fn hand_over(&mut self, routes: &Arc<Routes>) -> bool {
        let Some((slot, handed)) = self.session.hand_over() else {
            return false;
        };
        let handed = serde_json::from_str(&serde_json::to_string(&handed).unwrap()).unwrap();
        let wanted = (Arc::clone(self.session.peer()), Arc::clone(routes));
        let adopted = Session::adopt(self.now, wanted, Duration::ZERO, 8, (&handed, local()));
        let (session, place) = adopted.expect("the settings are the same");
        self.session = session;
        let router = self.routers[slot].take();
        self.closed.extend(self.routers[1 - slot].take());
        self.routers[place] = router;
        true
    }

    /// Carries up to so many octets to the router, and its answer back. Whether there was anything.
    pub(crate) fn carry(&mut self, slot: Slot, most: usize) -> bool {
        let bytes = self.session.outgoing(slot);
        let bytes = bytes[..bytes.len().min(most)].to_vec();
        let Some(router) = self.routers[slot].as_mut().filter(|_| !bytes.is_empty()) else {
            return false;
        };
        let answer = router.take(&bytes, &self.open);
        self.session.sent(self.now, slot, bytes.len());
        self.perform();
        self.say(slot, &answer);
        true
    }

    /// The router says something.
    pub(crate) fn say(&mut self, slot: Slot, bytes: &[u8]) {
        if self.routers[slot].is_some() && !bytes.is_empty() {
            self.session.received(self.now, slot, bytes);
            self.perform();
        }
    }

    /// Until nothing moves any more.
    pub(crate) fn settle(&mut self) {
        self.perform();
        while (0..SLOTS).any(|slot| self.carry(slot, usize::MAX)) {
            self.perform();
        }
    }

    /// Lets time pass, with the session's deadlines kept and everything carried. The router is silent or not.
    pub(crate) fn pass(&mut self, seconds: f64, silent: bool) {
        let end = self.now + Duration::from_secs_f64(seconds);
        let mut beat = self.now + Duration::from_secs(2);
        loop {
            let next = self.session.deadline().unwrap_or(end).min(beat).min(end);
            self.now = self.now.max(next);
            if self.now >= beat {
                beat += Duration::from_secs(2);
                let keepalive = message(4, &[]);
                (0..SLOTS)
                    .filter(|_| !silent)
                    .for_each(|slot| self.say(slot, &keepalive));
            }
            self.session.tick(self.now);
            self.settle();
            if self.now >= end {
                return;
            }
        }
    }
}
