//! The interfaces of the node that are fit to announce on, and whether one of them suits an address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ferrolb_model::NodeRefusal;
use ipnet::IpNet;

use crate::effect::Announcement;

/// Interfaces by name, each with its addresses and their prefix lengths.
pub type Subnets = BTreeMap<String, BTreeSet<IpNet>>;

/// The interfaces of the node that are fit to announce on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Interfaces {
    /// Those that an advertisement without interfaces uses.
    pub(crate) usable: Subnets,
    /// Those that are used only where an advertisement names them.
    pub(crate) excluded: Subnets,
}

impl Interfaces {
    /// Whether one of them suits, as far as one can tell by names and subnets; if none does, why.
    pub(crate) fn suit(&self, address: IpAddr, announcement: &Announcement) -> Result<(), NodeRefusal> {
        let mut allowed = self.allowed(announcement).peekable();
        if allowed.peek().is_none() {
            return Err(NodeRefusal::NoInterface);
        }
        let checked = announcement.manner.subnet_check.unwrap_or(true);
        if checked && !allowed.any(|(_, subnets)| on_link(subnets, address)) {
            return Err(NodeRefusal::NoSubnet);
        }
        Ok(())
    }

    /// Why nothing answers, and what would help. `ads` are the advertisements that speak for the address.
    pub(crate) fn failure(&self, address: IpAddr, announcement: &Announcement, ads: &BTreeSet<String>) -> String {
        if self.suit(address, announcement) == Err(NodeRefusal::NoSubnet) {
            return format!(
                "it is in no subnet of {}; take it from an IPAddressPool in one of these subnets, or, if clients find it \
                 there all the same, set spec.layer2.subnetCheck: false in an AnnouncementPolicy",
                self.subnets(address, announcement),
            );
        }
        match &announcement.interfaces {
            None => format!(
                "it needs an interface that is up with carrier, no port of a bridge or bond, and not left out by \
                 --exclude-interfaces ({self})"
            ),
            Some(wanted) if ads.is_empty() => format!(
                "it was announced on {}, and no such interface of the node is up with carrier ({self}); correct the \
                 L2Advertisement that cannot be read",
                join(wanted),
            ),
            Some(wanted) => format!(
                "spec.interfaces of L2Advertisement {} is {}, and no such interface of the node is up with carrier; name \
                 another ({self}), or leave spec.interfaces out to use all",
                join(ads),
                join(wanted),
            ),
        }
    }

    /// Those that the announcement may use, each with its subnets of the address's family: `eth0 (192.0.2.0/24)`.
    fn subnets(&self, address: IpAddr, announcement: &Announcement) -> String {
        let told = self.allowed(announcement).map(|(name, subnets)| {
            let of_family = subnets
                .iter()
                .filter(|net| net.addr().is_ipv4() == address.is_ipv4() && !link_local(net.addr()))
                .map(|net| net.trunc().to_string())
                .collect::<BTreeSet<_>>();
            match of_family.is_empty() {
                true if address.is_ipv4() => format!("{name} (no IPv4 subnet)"),
                true => format!("{name} (no IPv6 subnet)"),
                false => format!("{name} ({})", join(&of_family)),
            }
        });
        join(&told.collect())
    }

    fn allowed(&self, announcement: &Announcement) -> impl Iterator<Item = (&String, &BTreeSet<IpNet>)> {
        let named = announcement.interfaces.as_ref();
        let excluded = self.excluded.iter().filter(move |_| named.is_some());
        let all = self.usable.iter().chain(excluded);
        all.filter(move |(name, _)| named.is_none_or(|names| names.contains(*name)))
    }
}

/// As layer 2 judges it.
fn on_link(subnets: &BTreeSet<IpNet>, address: IpAddr) -> bool {
    !link_local(address) && subnets.iter().any(|net| net.contains(&address))
}

fn link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

impl fmt::Display for Interfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |of: &Subnets| join(&of.keys().cloned().collect());
        match (self.usable.is_empty(), self.excluded.is_empty()) {
            (true, true) => f.write_str("there is none"),
            (false, true) => write!(f, "there is {}", names(&self.usable)),
            (true, false) => write!(f, "there is none but {}, which is left out", names(&self.excluded)),
            (false, false) => write!(
                f,
                "there is {}, and {}, which is left out unless named",
                names(&self.usable),
                names(&self.excluded)
            ),
        }
    }
}

/// Names in a sentence.
fn join(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
