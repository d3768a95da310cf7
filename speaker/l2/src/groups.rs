//! Solicited-node groups: which are to be joined (pure), and the sockets that hold the memberships.
//!
//! The groups are a function of what is served, compared with what is joined. Several addresses can share a group; it
//! is left when the last of them goes, by construction. A membership on a plain UDP socket makes the kernel report it
//! (MLD, for switches that snoop; RFC 4861 7.2.1), answer queries about it for as long as the socket is there, and open
//! the card's multicast filter; a packet socket's own membership does only the latter. Nothing is ever received on these
//! sockets. An interface that loses its carrier is left; when it is back it is joined, and so reported, again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use socket2::{Domain, Socket, Type};

use crate::plan::Plan;
use crate::seam::Fault;
use crate::wire::ndp;

/// A group on an interface.
pub type Group = (u32, Ipv6Addr);

/// The groups in which solicitations for the addresses of the plan arrive.
pub fn groups(plan: &Plan) -> BTreeSet<Group> {
    let v6 = |address: &IpAddr| match address {
        IpAddr::V6(address) => Some(ndp::solicited_node(*address)),
        IpAddr::V4(_) => None,
    };
    plan.iter()
        .flat_map(|(index, served)| served.addresses.keys().filter_map(v6).map(|group| (*index, group)))
        .collect()
}

/// What to do to get from one set of groups to the other.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    leave: Vec<Group>,
    join: Vec<Group>,
}

fn difference(joined: &BTreeMap<Group, usize>, wanted: &BTreeSet<Group>) -> Difference {
    Difference {
        leave: joined.keys().filter(|group| !wanted.contains(group)).copied().collect(),
        join: wanted
            .iter()
            .filter(|group| !joined.contains_key(group))
            .copied()
            .collect(),
    }
}

/// Memberships one socket holds; beyond some 2,300 the kernel's option memory of a socket is spent.
const GROUPS_PER_SOCKET: usize = 1000;

struct GroupSocket {
    socket: Socket,
    members: usize,
}

/// The memberships this process has.
#[derive(Default)]
pub(crate) struct Membership {
    sockets: Vec<GroupSocket>,
    /// Which socket holds a group.
    joined: BTreeMap<Group, usize>,
}

impl Membership {
    /// Leaves and joins until exactly `wanted` is joined. What cannot be joined is told, and tried again next time.
    pub(crate) fn set(&mut self, wanted: &BTreeSet<Group>, plan: &Plan) -> Vec<Fault> {
        let difference = difference(&self.joined, wanted);
        for group in difference.leave {
            self.leave(group);
        }
        let mut faults = Vec::new();
        for group in difference.join {
            if let Err(error) = self.join(group) {
                let interface = plan.get(&group.0).map(|served| served.name.clone()).unwrap_or_default();
                faults.push(Fault::Group {
                    interface,
                    group: group.1,
                    error: error.to_string(),
                });
            }
        }
        faults
    }

    /// Forgets what was joined on an interface that is gone: its index may come back as another one.
    pub(crate) fn forget(&mut self, index: u32) {
        let groups: Vec<Group> = self.joined.keys().filter(|(of, _)| *of == index).copied().collect();
        for group in groups {
            self.leave(group);
        }
    }

    fn leave(&mut self, group: Group) {
        let Some(slot) = self.joined.remove(&group) else { return };
        self.sockets[slot].members -= 1;
        // Fails only when the interface is gone, and the membership with it.
        let _ = self.sockets[slot].socket.leave_multicast_v6(&group.1, group.0);
    }

    fn join(&mut self, group: Group) -> io::Result<()> {
        let slot = self.slot()?;
        match self.sockets[slot].socket.join_multicast_v6(&group.1, group.0) {
            Ok(()) => {}
            // Left over from an interface that had this index before; then it is joined.
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {}
            Err(error) => return Err(error),
        }
        self.sockets[slot].members += 1;
        self.joined.insert(group, slot);
        Ok(())
    }

    fn slot(&mut self) -> io::Result<usize> {
        if let Some(slot) = self
            .sockets
            .iter()
            .position(|socket| socket.members < GROUPS_PER_SOCKET)
        {
            return Ok(slot);
        }
        self.sockets.push(GroupSocket {
            socket: Socket::new(Domain::IPV6, Type::DGRAM, None)?,
            members: 0,
        });
        Ok(self.sockets.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Served, Stance};

    fn plan(interfaces: &[(u32, &[&str])]) -> Plan {
        let served = |addresses: &[&str]| Served {
            name: String::new(),
            mac: [2, 0, 0, 0, 0, 1],
            incarnation: 1,
            generation: 1,
            addresses: (addresses
                .iter()
                .zip([Stance::Own, Stance::Listen, Stance::StandIn([2; 6])].iter().cycle()))
            .map(|(address, stance)| (address.parse().unwrap(), *stance))
            .collect(),
            gateways: BTreeSet::new(),
        };
        interfaces
            .iter()
            .map(|(index, addresses)| (*index, served(addresses)))
            .collect()
    }

    fn group(index: u32, text: &str) -> Group {
        (index, text.parse().unwrap())
    }

    #[test]
    fn addresses_that_share_a_group_join_it_once_and_leave_it_last() {
        let both = groups(&plan(&[
            (1, &["2001:db8::aa:1", "2001:db8:1::aa:1", "192.0.2.1"]),
            (2, &["2001:db8::aa:1"]),
        ]));
        assert_eq!(
            both,
            BTreeSet::from([group(1, "ff02::1:ffaa:1"), group(2, "ff02::1:ffaa:1")])
        );

        let one = groups(&plan(&[(1, &["2001:db8:1::aa:1"])]));
        let joined = both.iter().map(|group| (*group, 0)).collect();
        assert_eq!(
            difference(&joined, &one),
            Difference {
                leave: vec![group(2, "ff02::1:ffaa:1")],
                join: vec![]
            }
        );
    }

    #[test]
    fn a_late_interface_joins_for_addresses_that_were_there_before() {
        let joined = BTreeMap::from([(group(1, "ff02::1:ff00:1"), 0)]);
        let wanted = groups(&plan(&[(1, &["2001:db8::1"]), (7, &["2001:db8::1"])]));
        assert_eq!(
            difference(&joined, &wanted),
            Difference {
                leave: vec![],
                join: vec![group(7, "ff02::1:ff00:1")]
            }
        );
    }

    /// On the loopback interface, where joining needs no permission.
    #[test]
    fn a_thousand_groups_and_one_take_two_sockets() {
        let mut membership = Membership::default();
        let wanted: BTreeSet<Group> = (0..1_001u128)
            .map(|n| (1, ndp::solicited_node(Ipv6Addr::from_bits(n))))
            .collect();
        assert_eq!(membership.set(&wanted, &Plan::new()), []);
        assert_eq!(
            membership
                .sockets
                .iter()
                .map(|socket| socket.members)
                .collect::<Vec<_>>(),
            [1_000, 1]
        );
        membership.forget(1);
        assert_eq!(membership.sockets.iter().map(|socket| socket.members).sum::<usize>(), 0);
        assert_eq!(membership.set(&wanted, &Plan::new()), []);
        assert_eq!(membership.set(&BTreeSet::new(), &Plan::new()), []);
        assert_eq!(membership.sockets.len(), 2);
        assert!(membership.joined.is_empty());
    }
}
