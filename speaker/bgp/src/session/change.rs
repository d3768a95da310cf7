//! Changed settings: what resets a session, and what takes effect on a running one.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Dial, Local, Output, RETRY, SLOTS, Session};
use crate::adj_rib_out::OwnHops;
use crate::proto::{Cease, Negotiated};
use crate::settings::{Diff, Field, Peer};
use crate::status::Fault;

impl Session {
    /// Changes the settings. Returns what changed; the owner applies to the sockets what is live there.
    pub fn reconfigure(&mut self, now: Duration, peer: Arc<Peer>) -> Diff {
        let mut diff = self.peer.diff(&peer);
        if diff.is_empty() {
            return diff;
        }
        // Who the peer may be is looked at once per session: if it still is one of those, nothing has to be said.
        let still = |n: &Negotiated| peer.remote_asn.accepts(n.asn, peer.local_asn);
        if self.status.negotiated.as_ref().is_some_and(still) && diff.reset.remove(&Field::RemoteAsn) {
            diff.live.insert(Field::RemoteAsn);
        }
        self.peer = peer;
        if !diff.reset.is_empty() {
            for slot in 0..SLOTS {
                self.cease(now, slot, Cease::ConfigurationChanged, "");
            }
            let fields = diff.reset.iter().copied().collect();
            self.status.last_error = Some((now, Fault::Reconfigured(fields)));
        }
        if let Dial::Dialling { .. } = self.dial {
            self.outputs.push_back(Output::AbortDial);
        }
        (self.failed, self.erred) = (0, 0);
        self.pause(now, if diff.reset.is_empty() { Duration::ZERO } else { RETRY }, false);
        self.retune(now);
        self.settle(now);
        diff
    }

    /// Takes over what can change while a session is up.
    fn retune(&mut self, now: Duration) {
        let random = self.draw();
        for connection in self.slots.iter_mut().flatten() {
            connection.keep_alive_every(now, self.peer.keepalive, random);
        }
        let established = self.established().and_then(|slot| self.slots[slot].as_ref());
        if let (Some(connection), Some(negotiated)) = (established, &self.status.negotiated) {
            self.rib.rehop(own_hops(&self.peer, &connection.local, negotiated));
        }
    }
}

/// This node as next hop on a session. Over link-local addresses it is the link-local one alone, as on links without any other:
/// of two that are told (RFC 2545 section 3) BIRD takes the global one, which is on no link that it knows.
pub(super) fn own_hops(peer: &Peer, local: &Local, negotiated: &Negotiated) -> OwnHops {
    let own_v4 = match local.address {
        IpAddr::V4(_) => Some(local.address),
        IpAddr::V6(_) if negotiated.extended_next_hop => Some(local.address),
        IpAddr::V6(_) => local.v4.map(IpAddr::V4),
    };
    let own_v6 = match local.address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => local.v6,
    };
    OwnHops {
        v4: peer.next_hops.v4.or(own_v4),
        v6: peer.next_hops.v6.or(own_v6),
    }
}
