//! What the work of a speaker is made of, as texts with descriptors. Reading them never panics.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_bfd::{LentPath, LentSession};
use ferrolb_bgp::Handed;
use ferrolb_handover::frame::Malformed;
use ferrolb_handover::{Error, Part, Share};
use ferrolb_liveness::Placement;
use ferrolb_speaker_core::BgpPlan;
use nix::sys::socket::{SockaddrStorage, getsockname};
use serde::{Deserialize, Serialize};

use crate::bgp;
use crate::guard;
use crate::snapshot::{self, Identity, Memory};

/// One piece. The snapshots are as on disk.
#[derive(Serialize, Deserialize)]
enum Piece {
    /// How long BGP has run, in microseconds.
    BgpClock(u64),
    /// The snapshot of the plan of BGP, with its keys.
    Plan(String),
    /// The router at the other end of a link.
    Router { link: String, address: Ipv6Addr },
    /// An established session; with its connection.
    Session { peer: String, session: Box<Handed> },
    /// How long BFD has run, in microseconds.
    BfdClock(u64),
    /// A socket that BFD receives by.
    Door(ferrolb_bfd::Door),
    /// A session of BFD; with the socket it sends from, if there is one.
    Path {
        path: Box<ferrolb_bfd::Path>,
        session: Box<LentSession>,
    },
    /// The snapshot of what this node has a part in.
    Memory(String),
    /// With the sockets of the heartbeats, IPv4 first.
    Heartbeats,
    /// With the socket of the admin server.
    Admin,
}

/// What a successor goes on with.
#[derive(Default)]
pub(crate) struct Work {
    plan: Option<String>,
    memory: Option<String>,
    lent: bgp::Lent,
    heartbeats: Option<(OwnedFd, Option<OwnedFd>)>,
    admin: Option<OwnedFd>,
}

impl Work {
    /// Adds a part of it.
    pub(super) fn add(&mut self, part: Part) -> Result<(), Error> {
        let piece = serde_json::from_str(&part.text).map_err(Malformed::from)?;
        let came = part.files.len();
        let mut files = part.files.into_iter();
        let mut file = || {
            let missing = Malformed::Files { said: 1, came };
            files.next().ok_or(Error::from(missing))
        };
        match piece {
            Piece::BgpClock(micros) => self.lent.sessions.clock = Duration::from_micros(micros),
            Piece::Plan(plan) => self.plan = Some(plan),
            Piece::Router { link, address } => drop(self.lent.routers.insert(link, address)),
            Piece::Session { peer, session } => {
                let lent = ferrolb_bgp::Lent {
                    session: *session,
                    connection: file()?,
                };
                self.lent.sessions.by_name.insert(peer, lent);
            }
            Piece::BfdClock(micros) => self.lent.paths.clock = Duration::from_micros(micros),
            Piece::Door(door) => drop(self.lent.paths.doors.insert(door, file()?)),
            Piece::Path { path, session } => {
                let (session, sender) = (*session, files.next());
                self.lent
                    .paths
                    .paths
                    .insert(Arc::new(*path), LentPath { session, sender });
            }
            Piece::Memory(memory) => self.memory = Some(memory),
            Piece::Heartbeats => self.heartbeats = Some((file()?, files.next())),
            Piece::Admin => self.admin = Some(file()?),
        }
        Ok(())
    }

    /// How many sessions and paths there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.lent.sessions.by_name.len(), self.lent.paths.paths.len())
    }

    /// What this node has a part in.
    pub(crate) fn memory(&self, identity: &Identity) -> Option<Memory> {
        snapshot::decode(identity, self.memory.as_deref()?.as_bytes()).ok()
    }

    /// The plan of BGP, and what its engines had.
    pub(crate) fn bgp(&mut self, identity: &Identity) -> bgp::Before {
        let plan = self.plan.take();
        bgp::Before {
            plan: plan.and_then(|plan| snapshot::bgp::decode(identity, plan.as_bytes()).ok()),
            lent: std::mem::take(&mut self.lent),
        }
    }

    /// What the guard goes on with, if its port is still this one.
    pub(crate) fn heartbeats(&mut self, port: u16) -> Option<ferrolb_liveness::Lent> {
        let sockets = self.heartbeats.take().filter(|(v4, _)| is_at(v4, port))?;
        // A run of its own: it counts anew, and what the guard before it knew stands in the memory.
        Some(ferrolb_liveness::Lent {
            sockets,
            sequence: 0,
            beliefs: BTreeMap::new(),
        })
    }

    /// The socket of the admin server, if its port is still this one.
    pub(crate) fn admin(&mut self, port: u16) -> Option<OwnedFd> {
        self.admin.take().filter(|listener| is_at(listener, port))
    }
}

/// Whether a socket is bound to this port.
fn is_at(socket: &OwnedFd, port: u16) -> bool {
    let address = getsockname::<SockaddrStorage>(socket.as_raw_fd());
    let bound = address.ok().and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|address| address.port());
        v4.or_else(|| Some(address.as_sockaddr_in6()?.port()))
    });
    bound == Some(port)
}

fn share<'a>(piece: &Piece, files: impl IntoIterator<Item = &'a OwnedFd>) -> Share<'a> {
    Share {
        // Texts, numbers and maps with texts as keys: there is nothing in it that JSON cannot say.
        text: serde_json::to_string(piece).unwrap_or_default(),
        files: files.into_iter().map(AsFd::as_fd).collect(),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_default()
}

/// What takes time to read: BGP.
pub(super) fn slow<'a>(
    identity: &Identity,
    plan: Option<&BgpPlan>,
    lent: &'a bgp::Lent,
) -> impl Iterator<Item = Share<'a>> {
    // Keys as well: they do not come to a disk.
    let plan = plan.map(|plan| Piece::Plan(text(snapshot::bgp::encode(identity, plan, true))));
    let clock = Piece::BgpClock(micros(lent.sessions.clock));
    let routers = lent.routers.iter().map(|(link, address)| Piece::Router {
        link: link.clone(),
        address: *address,
    });
    let whole = plan
        .into_iter()
        .chain([clock])
        .chain(routers)
        .map(|piece| share(&piece, None));
    let each = lent.sessions.by_name.iter().map(|(peer, lent)| {
        let piece = Piece::Session {
            peer: peer.clone(),
            session: Box::new(lent.session.clone()),
        };
        share(&piece, [&lent.connection])
    });
    whole.chain(each)
}

/// The rest: what rests only for the moment that it takes.
pub(super) fn quick<'a>(
    (identity, memory): (&Identity, &Memory),
    heartbeats: Option<&'a ferrolb_liveness::Lent>,
    paths: &'a ferrolb_bfd::Lent,
    admin: BorrowedFd<'a>,
) -> Vec<Share<'a>> {
    let none = BTreeMap::<IpAddr, Placement>::new();
    let beliefs = heartbeats.map_or(&none, |lent| &lent.beliefs);
    let memory = guard::remembered(memory, beliefs);
    let memory = Piece::Memory(text(snapshot::encode(identity, &memory)));
    let clock = Piece::BfdClock(micros(paths.clock));
    let mut shares = vec![share(&memory, None), share(&clock, None)];
    shares
        .extend(heartbeats.map(|lent| share(&Piece::Heartbeats, [&lent.sockets.0].into_iter().chain(&lent.sockets.1))));
    shares.extend(
        paths
            .doors
            .iter()
            .map(|(door, file)| share(&Piece::Door(door.clone()), [file])),
    );
    shares.extend(paths.paths.iter().map(|(path, lent)| {
        let piece = Piece::Path {
            path: Box::new(path.as_ref().clone()),
            session: Box::new(lent.session.clone()),
        };
        share(&piece, &lent.sender)
    }));
    shares.push(Share {
        files: vec![admin],
        ..share(&Piece::Admin, None)
    });
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrolb_model::Placement as Placed;
    use ferrolb_speaker_core::{Duty, Liveness, Manner};
    use std::net::UdpSocket;

    fn identity() -> Identity {
        Identity {
            node: "node-a".to_owned(),
            boot: "b1".to_owned(),
        }
    }

    /// As if it had come over a socket.
    fn part(share: Share<'_>) -> Part {
        let files = share.files.iter().map(|file| file.try_clone_to_owned().unwrap());
        Part {
            files: files.collect(),
            text: share.text,
        }
    }

    fn taken(shares: impl IntoIterator<Item = Part>) -> Work {
        let mut work = Work::default();
        shares.into_iter().for_each(|part| work.add(part).unwrap());
        work
    }

    #[test]
    fn what_is_put_down_is_taken_up() {
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let placement = Placed {
            owner: "node-b".to_owned(),
            standbys: vec!["node-a".to_owned()],
            epoch: 3,
        };
        let duty = Duty {
            uid: "u".to_owned(),
            interfaces: None,
            placement,
            previous_owner: None,
            able: true,
            liveness: Liveness::default(),
            manner: Manner::default(),
        };
        let memory = Memory {
            duties: BTreeMap::from([(address, Arc::new(duty))]).into(),
            peers: BTreeMap::new(),
        };
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        // A takeover that the core has not heard of.
        let belief = Placement {
            owner: "node-a".into(),
            standbys: vec!["node-b".into()],
            epoch: 4,
        };
        let heartbeats = ferrolb_liveness::Lent {
            sockets: (socket.into(), None),
            sequence: 7,
            beliefs: BTreeMap::from([(address, belief)]),
        };
        let paths = ferrolb_bfd::Lent {
            clock: Duration::from_secs(5),
            ..ferrolb_bfd::Lent::default()
        };
        let admin = heartbeats.sockets.0.as_fd();
        let lent = bgp::Lent {
            routers: BTreeMap::from([("eth1".to_owned(), "fe80::9".parse().unwrap())]),
            ..bgp::Lent::default()
        };
        let plan = BgpPlan::default();
        let identity = identity();
        let first = slow(&identity, Some(&plan), &lent).map(part);
        let second = quick((&identity, &memory), Some(&heartbeats), &paths, admin);
        let mut work = taken(first.chain(second.into_iter().map(part)));

        let placed = &work.memory(&identity).unwrap().duties[&address].placement;
        assert_eq!((placed.owner.as_str(), placed.epoch), ("node-a", 4));
        let before = work.bgp(&identity);
        assert_eq!(before.plan, Some(plan));
        assert_eq!(before.lent.routers, lent.routers);
        assert_eq!(before.lent.paths.clock, paths.clock);
        assert!(work.admin(port).is_some());
        assert_eq!(work.heartbeats(port).map(|lent| lent.sequence), Some(0));
        // Another port is another socket, and there is nothing twice.
        let admin = heartbeats.sockets.0.as_fd();
        let mut work = taken(
            quick((&identity, &memory), Some(&heartbeats), &paths, admin)
                .into_iter()
                .map(part),
        );
        assert!(work.admin(port ^ 1).is_none() && work.heartbeats(port ^ 1).is_none());
        let other = Identity {
            node: "node-b".to_owned(),
            ..identity
        };
        assert!(work.memory(&other).is_none());
    }

    #[test]
    fn what_is_no_part_is_refused() {
        for text in [
            "",
            "{}",
            r#""Admin""#,
            r#""Heartbeats""#,
            r#"{"Session":{}}"#,
            r#"{"BgpClock":-1}"#,
        ] {
            let part = Part {
                text: text.to_owned(),
                files: Vec::new(),
            };
            assert!(Work::default().add(part).is_err(), "{text}");
        }
    }
}
