//! Which changes of sessions become events on the BGPPeer. Pure.
//!
//! A session that comes or goes is told at once, and then nothing more about it for [`PAUSE`]: one that flaps costs one
//! event in that time, which tells how it stands then. A session that was never established is told after as long.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrolb_bgp::State;

use super::View;

/// Time between two events about one session.
const PAUSE: Duration = Duration::from_secs(60);

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// The peer.
    pub(super) peer: String,
    /// The uid of the BGPPeer.
    pub(super) uid: String,
    /// The session stands.
    pub(super) up: bool,
    /// What is wrong, if it does not.
    pub(super) error: String,
}

/// What was told last.
#[derive(Debug)]
struct Told {
    up: Option<bool>,
    not_before: Duration,
}

/// What was told last of each session.
#[derive(Debug, Default)]
pub(super) struct Notices(BTreeMap<String, Told>);

impl Notices {
    /// What is to be told now, and when to ask again although nothing has changed.
    pub(super) fn look(&mut self, view: &View, now: Duration) -> (Vec<Notice>, Option<Duration>) {
        let uids = view.planned.as_ref().map(|planned| &planned.uids);
        self.0.retain(|peer, _| view.wanted.peers.contains_key(peer));
        let (mut notices, mut again) = (Vec::new(), None::<Duration>);
        for peer in view.wanted.peers.keys() {
            let Some(uid) = uids.and_then(|uids| uids.get(peer)) else {
                continue;
            };
            let status = view.sessions.get(peer);
            let up = status.is_some_and(|status| status.state == State::Established);
            let told = self.0.entry(peer.clone()).or_insert(Told {
                up: None,
                // Coming up for the first time is told at once, see below.
                not_before: now + PAUSE,
            });
            if told.up == Some(up) {
                continue;
            }
            let first = told.up.is_none() && up;
            if !first && now < told.not_before {
                again = Some(again.map_or(told.not_before, |at| at.min(told.not_before)));
                continue;
            }
            *told = Told {
                up: Some(up),
                not_before: now + PAUSE,
            };
            // Another speaker has told of a session that this one goes on with.
            if first && status.is_some_and(|status| status.is_adopted()) {
                continue;
            }
            let error = status.and_then(|status| status.last_error.as_ref());
            notices.push(Notice {
                peer: peer.clone(),
                uid: uid.clone(),
                up,
                error: error
                    .filter(|_| !up)
                    .map(|(_, fault)| fault.to_string())
                    .unwrap_or_default(),
            });
        }
        (notices, again)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use ferrolb_bgp::{Peer, RemoteAsn, Routes, Status, WantedPeer};

    use super::*;
    use crate::bgp::Planned;

    fn view(up: bool) -> View {
        let address = "10.0.0.1".parse().unwrap();
        let peer = Peer::new(address, 64600, RemoteAsn::Is(64512), Ipv4Addr::LOCALHOST);
        let mut wanted = ferrolb_bgp::Wanted::default();
        let (peer, routes) = (Arc::new(peer), Arc::<Routes>::default());
        wanted.peers.insert("one".to_owned(), WantedPeer { peer, routes });
        let status = Status {
            state: if up { State::Established } else { State::Active },
            sent: ferrolb_bgp::status::Messages {
                open: 1,
                ..Default::default()
            },
            last_error: Some((Duration::ZERO, ferrolb_bgp::status::Fault::ConnectTimeout)),
            ..Status::default()
        };
        View {
            planned: Some(Planned {
                uids: [("one".to_owned(), "u-1".to_owned())].into(),
                ..Planned::default()
            }),
            wanted: Arc::new(wanted),
            sessions: [("one".to_owned(), Arc::new(status))].into(),
            ..View::default()
        }
    }

    /// At each second, whether the session stands, what is told, and when to look again.
    #[test]
    fn a_flapping_session_is_told_once_a_minute() {
        let mut notices = Notices::default();
        for (second, up, told, again) in [
            (0, false, None, Some(60)),
            (5, true, Some(true), None),
            (6, false, None, Some(65)),
            (7, true, None, None),
            (8, false, None, Some(65)),
            (65, false, Some(false), None),
            (66, true, None, Some(125)),
            (125, true, Some(true), None),
            (500, false, Some(false), None),
        ] {
            let (said, next) = notices.look(&view(up), Duration::from_secs(second));
            assert_eq!(said.first().map(|notice| notice.up), told, "at {second} s");
            assert_eq!(next, again.map(Duration::from_secs), "at {second} s");
            if let [notice] = &said[..] {
                assert_eq!((notice.uid.as_str(), notice.error.is_empty()), ("u-1", notice.up));
            }
        }
        let mut never = Notices::default();
        assert!(never.look(&view(false), Duration::ZERO).0.is_empty());
        let (said, _) = never.look(&view(false), PAUSE);
        assert_eq!(said[0].error, "cannot connect: no answer");
    }
}
