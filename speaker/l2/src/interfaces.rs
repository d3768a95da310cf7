//! The node's interfaces: a table kept true by netlink events, and the rules which of them an address may be
//! announced on. Pure; `netlink` feeds it.
//!
//! The table takes events and whole dumps. Events heard since before a dump are applied after it: every later change
//! has its own event, so the table ends where the kernel is, whatever the two overlapped on.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::counters::Family;
use crate::seam::{InterfaceChoice, Mac};

/// One interface as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceState {
    /// The kernel's index, unique while the interface exists.
    pub index: u32,
    /// The name; may change while the index stays.
    pub name: String,
    /// The Ethernet address, if it has one of six octets.
    pub mac: Option<Mac>,
    /// Is an Ethernet link (ARPHRD_ETHER).
    pub ethernet: bool,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// Has a carrier (IFF_LOWER_UP).
    pub carrier: bool,
    /// IFF_LOOPBACK.
    pub loopback: bool,
    /// IFF_NOARP: the link does no address resolution.
    pub noarp: bool,
    /// IFF_BROADCAST.
    pub broadcast: bool,
    /// IFF_MULTICAST.
    pub multicast: bool,
    /// Index of the bridge, bond or team this interface is a port of: what comes in by the port is the master's.
    pub master: Option<u32>,
    /// Index of the VRF it is in. A VRF has routes and no segment: its members answer for themselves.
    pub vrf: Option<u32>,
    /// The addresses it has, with their prefix lengths.
    pub addresses: BTreeSet<IpNet>,
    /// The gateways of the default routes that lead through it.
    pub gateways: BTreeSet<IpAddr>,
}

impl InterfaceState {
    /// Up, and connected.
    pub fn running(&self) -> bool {
        self.up && self.carrier
    }

    /// Is the address in a subnet of the interface? An interface address without a subnet, of 32 or 128 bits, contains
    /// itself alone. A link-local IPv6 subnet is on every link and says nothing.
    pub fn has_on_link(&self, address: IpAddr) -> bool {
        let local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        !local && self.addresses.iter().any(|net| net.contains(&address))
    }

    /// What tells its broadcast domain from others: its subnets, without those that are on every link or hold one
    /// address only.
    pub(crate) fn subnets(&self) -> impl Iterator<Item = IpNet> + '_ {
        let tells = |net: &IpNet| {
            let local = match net.addr() {
                IpAddr::V4(v4) => v4.is_link_local(),
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            };
            !local && net.prefix_len() < net.max_prefix_len()
        };
        self.addresses.iter().filter(move |net| tells(net)).map(IpNet::trunc)
    }
}

/// Why an address is not announced on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Unsuitable {
    /// The advertisement names other interfaces.
    #[error("not among the interfaces named")]
    NotNamed,
    /// Its name is on the exclusion list, and no advertisement names it.
    #[error("its name is excluded")]
    Excluded,
    /// It is the loopback interface.
    #[error("is a loopback interface")]
    Loopback,
    /// It is no Ethernet link, or has no Ethernet address.
    #[error("is no Ethernet link")]
    NotEthernet,
    /// It does no address resolution (IFF_NOARP).
    #[error("does no address resolution (NOARP)")]
    NoArp,
    /// It is a port of a bridge, bond or team; the master is used in its stead.
    #[error("is a port of another interface")]
    Enslaved,
    /// It cannot broadcast (IPv4) or multicast (IPv6).
    #[error("cannot broadcast or multicast")]
    NoBroadcast,
    /// It is administratively down.
    #[error("is down")]
    Down,
    /// It is up but not connected.
    #[error("has no carrier")]
    NoCarrier,
}

/// May this address be announced on this interface?
pub fn suitable(
    interface: &InterfaceState,
    address: IpAddr,
    choice: &InterfaceChoice,
    exclude: &[NamePattern],
) -> Result<(), Unsuitable> {
    match choice {
        InterfaceChoice::Named(names) if !names.contains(&interface.name) => Err(Unsuitable::NotNamed),
        InterfaceChoice::All if excluded(interface, exclude) => Err(Unsuitable::Excluded),
        InterfaceChoice::All | InterfaceChoice::Named(_) => capable(interface, Family::of(address)),
    }
}

/// Is it of a kind that addresses can be announced on, whatever its state is now?
pub fn could_announce(interface: &InterfaceState) -> bool {
    let running = InterfaceState {
        up: true,
        carrier: true,
        ..interface.clone()
    };
    [Family::Arp, Family::Ndp]
        .iter()
        .any(|family| capable(&running, *family).is_ok())
}

/// Is it left out unless named?
pub(crate) fn excluded(interface: &InterfaceState, exclude: &[NamePattern]) -> bool {
    exclude.iter().any(|pattern| pattern.matches(&interface.name))
}

/// Can addresses of this family be announced on it at all?
pub(crate) fn capable(interface: &InterfaceState, family: Family) -> Result<(), Unsuitable> {
    let reaches_all = match family {
        Family::Arp => interface.broadcast,
        Family::Ndp => interface.multicast,
    };
    let rules = [
        (interface.loopback, Unsuitable::Loopback),
        (!interface.ethernet || interface.mac.is_none(), Unsuitable::NotEthernet),
        (interface.noarp, Unsuitable::NoArp),
        (interface.master.is_some(), Unsuitable::Enslaved),
        (!reaches_all, Unsuitable::NoBroadcast),
        (!interface.up, Unsuitable::Down),
        (!interface.carrier, Unsuitable::NoCarrier),
    ];
    match rules.iter().find(|(broken, _)| *broken) {
        Some((_, reason)) => Err(*reason),
        None => Ok(()),
    }
}

/// A set of interface names: one name, or all that start alike. Written `eth0` or `veth*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamePattern {
    /// This name.
    Exact(String),
    /// Names that start so.
    Prefix(String),
}

impl NamePattern {
    /// The names MetalLB leaves out as shipped: container and overlay links, bridges of container runtimes, loopback.
    pub fn defaults() -> Vec<NamePattern> {
        const PREFIXES: [&str; 13] = [
            "docker",
            "cbr",
            "dummy",
            "virbr",
            "lxcbr",
            "veth",
            "cali",
            "tunl",
            "flannel",
            "kube-ipvs",
            "cni",
            "nodelocaldns",
            "lxc",
        ];
        let prefixes = PREFIXES.iter().map(|prefix| NamePattern::Prefix((*prefix).to_owned()));
        prefixes.chain([NamePattern::Exact("lo".to_owned())]).collect()
    }

    /// Is `name` in the set?
    pub fn matches(&self, name: &str) -> bool {
        match self {
            NamePattern::Exact(exact) => exact == name,
            NamePattern::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }
}

impl FromStr for NamePattern {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.strip_suffix('*') {
            Some(prefix) => NamePattern::Prefix(prefix.to_owned()),
            None => NamePattern::Exact(text.to_owned()),
        })
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamePattern::Exact(name) => f.write_str(name),
            NamePattern::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// A change the kernel told of, or an entry of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The interface exists and looks like this; `addresses` is not looked at.
    Link {
        /// Its state.
        state: InterfaceState,
        /// The kernel asks to announce again what is behind this interface: a bond changed ports, a machine migrated.
        notify_peers: bool,
    },
    /// The interface is gone.
    LinkGone {
        /// Its index.
        index: u32,
    },
    /// The interface has this address.
    Address {
        /// The interface.
        index: u32,
        /// The address and its prefix length.
        address: IpNet,
    },
    /// The interface lost this address.
    AddressGone {
        /// The interface.
        index: u32,
        /// The address and its prefix length.
        address: IpNet,
    },
    /// These are all default gateways, by interface.
    Gateways(BTreeMap<u32, BTreeSet<IpAddr>>),
}

/// An interface in the [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What the kernel says of it.
    pub state: InterfaceState,
    /// Changes when the interface was deleted and made anew, even under the same index: its sockets are dead then.
    pub incarnation: u64,
    /// Changes whenever neighbours must hear again what is here: the interface is new, got its carrier back, or the
    /// kernel asked for it.
    pub generation: u64,
}

/// All interfaces, by index.
#[derive(Debug, Default)]
pub struct Table {
    links: BTreeMap<u32, Link>,
    /// Kept apart from the links, because an address may be heard of before its interface.
    addresses: BTreeMap<u32, BTreeSet<IpNet>>,
    gateways: BTreeMap<u32, BTreeSet<IpAddr>>,
    last_number: u64,
}

impl Table {
    /// The interfaces, ordered by index.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The interfaces as they are told to others, ordered by index.
    #[cfg(test)]
    fn states(&self) -> Vec<InterfaceState> {
        self.links.values().map(|link| link.state.clone()).collect()
    }

    /// Takes in one change.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Link { state, notify_peers } => self.link(state, notify_peers),
            Event::LinkGone { index } => {
                self.links.remove(&index);
                self.addresses.remove(&index);
            }
            Event::Address { index, address } => {
                self.addresses.entry(index).or_default().insert(address);
                self.copy_addresses(index);
            }
            Event::AddressGone { index, address } => {
                if let Some(addresses) = self.addresses.get_mut(&index) {
                    addresses.remove(&address);
                }
                self.copy_addresses(index);
            }
            Event::Gateways(gateways) => {
                self.gateways = gateways;
                for (index, link) in &mut self.links {
                    link.state.gateways = self.gateways.get(index).cloned().unwrap_or_default();
                }
            }
        }
    }

    /// Takes in a dump: what it does not hold is gone. An interface that stays keeps its incarnation.
    pub fn replace(&mut self, dump: Vec<Event>) {
        let alive: BTreeSet<u32> = dump
            .iter()
            .filter_map(|event| match event {
                Event::Link { state, .. } => Some(state.index),
                _ => None,
            })
            .collect();
        self.links.retain(|index, _| alive.contains(index));
        self.addresses.clear();
        for event in dump {
            self.apply(event);
        }
        let indices: Vec<u32> = self.links.keys().copied().collect();
        for index in indices {
            self.copy_addresses(index);
        }
    }

    fn link(&mut self, mut state: InterfaceState, notify_peers: bool) {
        state.addresses = self.addresses.get(&state.index).cloned().unwrap_or_default();
        if !state.up {
            // The kernel drops the routes of an interface that is switched off without a word.
            self.gateways.remove(&state.index);
        }
        state.gateways = self.gateways.get(&state.index).cloned().unwrap_or_default();
        self.last_number += 1;
        let number = self.last_number;
        match self.links.get_mut(&state.index) {
            Some(link) => {
                let revived = state.running() && !link.state.running();
                if revived || notify_peers {
                    link.generation = number;
                }
                link.state = state;
            }
            None => {
                let index = state.index;
                self.links.insert(
                    index,
                    Link {
                        state,
                        incarnation: number,
                        generation: number,
                    },
                );
            }
        }
    }

    fn copy_addresses(&mut self, index: u32) {
        if let Some(link) = self.links.get_mut(&index) {
            link.state.addresses = self.addresses.get(&index).cloned().unwrap_or_default();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
