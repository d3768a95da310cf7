//! A session that another process goes on with.

use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::FamilySet;

use super::{Connection, Local, Session, Slot, context, open, own_hops};
use crate::hand_over::{Handed, MadeWith};
use crate::proto::Machine;
use crate::route::Routes;
use crate::settings::Peer;

impl Session {
    /// What another process needs to go on with the session, and the connection it runs on. `None` unless it is
    /// established and stays. Nothing may happen to the session afterwards.
    pub fn hand_over(&self) -> Option<(Slot, Handed)> {
        let slot = self.established().filter(|_| self.leaving.is_none())?;
        let connection = self.slots[slot].as_ref()?;
        let (told, FamilySet { v4, v6 }) = self.rib.hand_over();
        let mut handed = Handed {
            made_with: MadeWith::of(&self.peer),
            dialled: false,
            peer_open: Vec::new(),
            since: self.status.since.into(),
            established: self.status.established,
            hold: None,
            keepalive: None,
            waiting_since: None,
            input: Vec::new(),
            output: Vec::new(),
            own: self.rib.own(),
            told,
            end_of_rib: (v4, v6),
        };
        connection.hand_over(&mut handed);
        Some((slot, handed))
    }

    /// Goes on with the session of another process; `local` is this end of its connection, which is in the returned
    /// place. As [`Session::new`] otherwise. `None` if the session was made with other settings.
    pub fn adopt(
        now: Duration,
        (peer, routes): (Arc<Peer>, Arc<Routes>),
        restarting_until: Duration,
        seed: u64,
        (handed, local): (&Handed, Local),
    ) -> Option<(Session, Slot)> {
        if handed.made_with != MadeWith::of(&peer) {
            return None;
        }
        let machine = Machine::resume(open(&peer, false), &handed.peer_open)?;
        let negotiated = machine.negotiated()?;
        let mut session = Session::idle(now, peer, restarting_until, seed);
        let (v4, v6) = handed.end_of_rib;
        let context = context(&session.peer, &negotiated, handed.own);
        session.rib.adopt(context, &handed.told, FamilySet { v4, v6 });
        session.rib.rehop(own_hops(&session.peer, &local, &negotiated));
        session.status.local = Some(local.address);
        session.status.negotiated = Some(negotiated);
        // It goes on counting, whatever is said.
        session.status.established = handed.established.min(u32::MAX.into());
        let slot = 0;
        let connection = Connection::resume(machine, local, handed, session.peer.keepalive);
        session.status.state = connection.state();
        session.status.since = handed.since.into();
        session.slots[slot] = Some(connection);
        session.want(now, routes);
        Some((session, slot))
    }
}
