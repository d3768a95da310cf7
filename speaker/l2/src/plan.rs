//! What is done where: a function of the addresses wanted and the interfaces there are. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::counters::Family;
use crate::interfaces::{Link, NamePattern, capable, excluded};
use crate::seam::{InterfaceChoice, Mac, Role, Wanted};

/// What is done about an address on an interface: its [`Role`] there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// Announced, answered, defended.
    Own,
    /// Answered in the name of its owner, who has this MAC.
    StandIn(Mac),
    /// Listened for.
    Listen,
}

impl Stance {
    fn of(role: &Role, interface: &str) -> Stance {
        match role {
            Role::Own => Stance::Own,
            Role::StandIn(owner) => owner.get(interface).map_or(Stance::Listen, |mac| Stance::StandIn(*mac)),
            Role::Listen => Stance::Listen,
        }
    }

    /// The MAC that answers tell, on an interface that has `own`; `None` if nothing is answered.
    pub fn told(self, own: Mac) -> Option<Mac> {
        match self {
            Stance::Own => Some(own),
            Stance::StandIn(owner) => Some(owner),
            Stance::Listen => None,
        }
    }
}

/// An interface on which this node has a part in addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Its name.
    pub name: String,
    /// Its MAC.
    pub mac: Mac,
    /// See [`Link::incarnation`].
    pub incarnation: u64,
    /// See [`Link::generation`].
    pub generation: u64,
    /// The addresses, with the part in each; never empty.
    pub addresses: BTreeMap<IpAddr, Stance>,
    /// The default gateways behind it.
    pub gateways: BTreeSet<IpAddr>,
}

impl Served {
    /// The addresses announced there.
    pub fn owned(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let own = self.addresses.iter().filter(|(_, stance)| **stance == Stance::Own);
        own.map(|(address, _)| *address)
    }

    /// Is this address announced there?
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.get(&address) == Some(&Stance::Own)
    }
}

/// The interfaces that have something to do, by index.
pub type Plan = BTreeMap<u32, Served>;

/// Puts every address on every interface that suits it: [`crate::interfaces::suitable`] for each pair, with what depends
/// on the interface alone asked once, because a node can have hundreds of interfaces of pods.
pub fn plan<'a>(wanted: &Wanted, links: impl IntoIterator<Item = &'a Link>, exclude: &[NamePattern]) -> Plan {
    let mut plan = Plan::new();
    for link in links {
        let Some(mac) = link.state.mac else { continue };
        let [arp, ndp] = [Family::Arp, Family::Ndp].map(|family| capable(&link.state, family).is_ok());
        if !arp && !ndp {
            continue;
        }
        let open_to_all = !excluded(&link.state, exclude);
        let fits = |address: &IpAddr, choice: &InterfaceChoice| {
            let capable = if address.is_ipv4() { arp } else { ndp };
            capable
                && match choice {
                    InterfaceChoice::All => open_to_all,
                    InterfaceChoice::Named(names) => names.contains(&link.state.name),
                }
        };
        let addresses: BTreeMap<IpAddr, Stance> = wanted
            .addresses
            .iter()
            .filter(|(address, want)| fits(address, &want.interfaces))
            .map(|(address, want)| (*address, Stance::of(&want.role, &link.state.name)))
            .collect();
        if !addresses.is_empty() {
            let (name, incarnation, generation) = (link.state.name.clone(), link.incarnation, link.generation);
            plan.insert(
                link.state.index,
                Served {
                    name,
                    mac,
                    incarnation,
                    generation,
                    addresses,
                    gateways: link.state.gateways.clone(),
                },
            );
        }
    }
    plan
}

/// Where each owned address is announced; an address without an interface has an empty set.
pub fn announcing(wanted: &Wanted, plan: &Plan) -> BTreeMap<IpAddr, BTreeSet<String>> {
    let mut announcing: BTreeMap<IpAddr, BTreeSet<String>> = wanted
        .addresses
        .iter()
        .filter(|(_, want)| want.role == Role::Own)
        .map(|(address, _)| (*address, BTreeSet::new()))
        .collect();
    for served in plan.values() {
        for address in served.owned() {
            announcing.entry(address).or_default().insert(served.name.clone());
        }
    }
    announcing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interfaces::{Event, InterfaceState, Table, suitable};
    use crate::seam::Want;

    fn table(names: &[&str]) -> Table {
        let mut table = Table::default();
        for (index, name) in (1u32..).zip(names) {
            let state = InterfaceState {
                index,
                name: (*name).to_owned(),
                mac: Some([2, 0, 0, 0, 0, index as u8]),
                ethernet: true,
                up: true,
                carrier: true,
                broadcast: true,
                multicast: true,
                ..InterfaceState::default()
            };
            table.apply(Event::Link {
                state,
                notify_peers: false,
            });
        }
        table
    }

    #[test]
    fn every_address_is_on_every_interface_that_suits_it() {
        let named = |name: &str| InterfaceChoice::Named(BTreeSet::from([name.to_owned()]));
        let want = |interfaces| Want {
            interfaces,
            ..Want::default()
        };
        let (everywhere, one, nowhere): (IpAddr, IpAddr, IpAddr) = (
            "192.0.2.1".parse().unwrap(),
            "2001:db8::2".parse().unwrap(),
            "192.0.2.3".parse().unwrap(),
        );
        let wanted = Wanted {
            addresses: BTreeMap::from([
                (everywhere, want(InterfaceChoice::All)),
                (one, want(named("veth1"))),
                (nowhere, want(named("eth9"))),
            ]),
            ..Wanted::default()
        };
        let table = table(&["eth0", "veth1", "eth2", "cni0"]);
        let plan = plan(&wanted, table.links(), &NamePattern::defaults());

        let placed: Vec<(u32, Vec<IpAddr>)> = plan
            .iter()
            .map(|(index, served)| (*index, served.owned().collect()))
            .collect();
        assert_eq!(placed, [(1, vec![everywhere]), (2, vec![one]), (3, vec![everywhere])]);

        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(
            announcing(&wanted, &plan),
            BTreeMap::from([
                (everywhere, names(&["eth0", "eth2"])),
                (one, names(&["veth1"])),
                (nowhere, names(&[]))
            ])
        );
        for link in table.links() {
            for (address, want) in &wanted.addresses {
                let planned = plan.get(&link.state.index).is_some_and(|served| served.owns(*address));
                let suits = suitable(&link.state, *address, &want.interfaces, &NamePattern::defaults()).is_ok();
                assert_eq!(planned, suits, "{address} on {}", link.state.name);
            }
        }
    }
    #[test]
    fn a_role_holds_where_it_can_and_only_what_is_owned_is_announced() {
        let owner = [2, 0, 0, 0, 0, 0x99];
        let roles = [
            Role::Own,
            Role::StandIn(BTreeMap::from([("eth0".to_owned(), owner)])),
            Role::Listen,
        ];
        let addresses = [1, 2, 3].map(|host| IpAddr::from([192, 0, 2, host]));
        let wants = roles.map(|role| Want {
            role,
            ..Want::default()
        });
        let wanted = Wanted {
            addresses: addresses.into_iter().zip(wants).collect(),
            ..Wanted::default()
        };
        let plan = plan(&wanted, table(&["eth0", "eth1"]).links(), &[]);
        let stances = |index: u32| addresses.map(|address| plan[&index].addresses[&address]);
        assert_eq!(stances(1), [Stance::Own, Stance::StandIn(owner), Stance::Listen]);
        assert_eq!(
            stances(2),
            [Stance::Own, Stance::Listen, Stance::Listen],
            "the owner's MAC on this segment is not known"
        );
        assert_eq!(
            announcing(&wanted, &plan).into_keys().collect::<Vec<_>>(),
            addresses[..1]
        );
    }
}
