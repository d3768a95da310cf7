//! What is done where: a function of the addresses wanted, the interfaces there are, and what was done where before.
//! Pure.
//!
//! An address is on every interface that suits it, but only on one of each broadcast domain: two answers to one question
//! would make neighbours change between two MACs, and switches learn both. Interfaces are in one domain when they are in
//! one subnet (and VRF). The one that has the address keeps it for as long as it suits; otherwise it is the one with the
//! lowest index. Interfaces without a subnet in common cannot be told from those of different segments.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::counters::Family;
use crate::interfaces::{Link, NamePattern, capable, excluded};
use crate::seam::{InterfaceChoice, Mac, Role, Want, Wanted};

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

/// An interface that could serve some family, with what depends on it alone asked once: a node can have hundreds of
/// interfaces of pods.
struct Site<'a> {
    link: &'a Link,
    mac: Mac,
    arp: bool,
    ndp: bool,
    open_to_all: bool,
    /// Sites of one broadcast domain have the same number.
    domain: usize,
}

impl Site<'_> {
    fn fits(&self, address: IpAddr, want: &Want) -> bool {
        let capable = if address.is_ipv4() { self.arp } else { self.ndp };
        let chosen = match &want.interfaces {
            InterfaceChoice::All => self.open_to_all,
            InterfaceChoice::Named(names) => names.contains(&self.link.state.name),
        };
        capable && chosen && (!want.manner.subnet_check || self.link.state.has_on_link(address))
    }

    fn has(&self, address: IpAddr, plan: &Plan) -> bool {
        plan.get(&self.link.state.index).is_some_and(|served| {
            served.addresses.contains_key(&address) && served.incarnation == self.link.incarnation
        })
    }
}

/// Puts every address on the interfaces that suit it, one of each broadcast domain; `before` is the plan in force.
pub fn plan<'a>(
    wanted: &Wanted,
    links: impl IntoIterator<Item = &'a Link>,
    exclude: &[NamePattern],
    before: &Plan,
) -> Plan {
    let sites = sites(links, exclude);
    let mut plan = Plan::new();
    for (address, want) in &wanted.addresses {
        let fitting: Vec<&Site> = sites.iter().filter(|site| site.fits(*address, want)).collect();
        for domain in fitting.chunk_by(|a, b| a.domain == b.domain) {
            let site = domain
                .iter()
                .find(|site| site.has(*address, before))
                .unwrap_or(&domain[0]);
            let Link {
                state,
                incarnation,
                generation,
            } = site.link;
            let served = plan.entry(state.index).or_insert_with(|| Served {
                name: state.name.clone(),
                mac: site.mac,
                incarnation: *incarnation,
                generation: *generation,
                addresses: BTreeMap::new(),
                gateways: state.gateways.clone(),
            });
            served.addresses.insert(*address, Stance::of(&want.role, &state.name));
        }
    }
    plan
}

/// Ordered by broadcast domain, then by index.
fn sites<'a>(links: impl IntoIterator<Item = &'a Link>, exclude: &[NamePattern]) -> Vec<Site<'a>> {
    let mut sites: Vec<Site> = Vec::new();
    for link in links {
        let Some(mac) = link.state.mac else { continue };
        let [arp, ndp] = [Family::Arp, Family::Ndp].map(|family| capable(&link.state, family).is_ok());
        if arp || ndp {
            sites.push(Site {
                link,
                mac,
                arp,
                ndp,
                open_to_all: !excluded(&link.state, exclude),
                domain: sites.len(),
            });
        }
    }
    let mut first_in: HashMap<(Option<u32>, IpNet), usize> = HashMap::new();
    for position in 0..sites.len() {
        let state = &sites[position].link.state;
        for subnet in state.subnets() {
            match first_in.entry((state.vrf, subnet)) {
                Entry::Vacant(entry) => drop(entry.insert(position)),
                Entry::Occupied(entry) => {
                    let (one, other) = (sites[*entry.get()].domain, sites[position].domain);
                    let of_both = sites.iter_mut().filter(|site| site.domain == one.max(other));
                    of_both.for_each(|site| site.domain = one.min(other));
                }
            }
        }
    }
    sites.sort_by_key(|site| (site.domain, site.link.state.index));
    sites
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
mod tests;
