//! Which subnets the nodes are in, so that the nodes that are in the subnet of an address are found without asking each.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ferrolb_model::{Family, NetworkView};
use ipnet::IpNet;

/// The subnets of all running interfaces, each with the number of those.
#[derive(Debug, Default)]
pub(crate) struct Subnets {
    nets: BTreeMap<IpNet, usize>,
    /// How many of them have this family and prefix length.
    lengths: BTreeMap<(Family, u8), usize>,
    changes: u64,
}

impl Subnets {
    /// A speaker tells something else than before.
    pub(crate) fn replace(&mut self, old: Option<&NetworkView>, new: Option<&NetworkView>) {
        for net in running(new) {
            let count = self.nets.entry(net).or_insert(0);
            *count += 1;
            if *count == 1 {
                *self.lengths.entry(kind(net)).or_insert(0) += 1;
                self.changes += 1;
            }
        }
        for net in running(old) {
            if take_one(&mut self.nets, net) {
                take_one(&mut self.lengths, kind(net));
                self.changes += 1;
            }
        }
    }

    /// Those that contain the address.
    pub(crate) fn of(&self, address: IpAddr) -> Vec<IpNet> {
        let lengths = self.lengths.keys().filter(|(family, _)| *family == Family::of(address));
        let nets = lengths.filter_map(|(_, length)| Some(IpNet::new(address, *length).ok()?.trunc()));
        nets.filter(|net| self.nets.contains_key(net)).collect()
    }

    /// Grows when a subnet is new, or on no interface any more.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }
}

fn running(view: Option<&NetworkView>) -> impl Iterator<Item = IpNet> {
    let links = view.into_iter().flat_map(|v| &v.links).filter(|link| link.running);
    links.flat_map(|link| &link.subnets).map(IpNet::trunc)
}

fn kind(net: IpNet) -> (Family, u8) {
    (Family::of(net.network()), net.prefix_len())
}

/// Counts one less; gives whether it was the last.
fn take_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) -> bool {
    let Some(count) = counts.get_mut(&key) else {
        return false;
    };
    *count -= 1;
    let last = *count == 0;
    if last {
        counts.remove(&key);
    }
    last
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ferrolb_model::LinkView;

    use super::*;

    fn view(running: bool, subnets: &[&str]) -> NetworkView {
        let subnets = subnets.iter().map(|net| net.parse().unwrap()).collect::<BTreeSet<_>>();
        NetworkView {
            node: "n".to_owned(),
            addresses: BTreeMap::new(),
            links: vec![LinkView {
                name: "eth0".to_owned(),
                running,
                subnets,
            }],
            conflicts: BTreeMap::new(),
        }
    }

    #[test]
    fn subnets_are_there_while_any_running_interface_has_them() {
        let mut subnets = Subnets::default();
        let of = |subnets: &Subnets, address: &str| {
            let nets = subnets.of(address.parse().unwrap());
            nets.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (a, b) = (
            view(true, &["10.0.0.1/8", "10.1.2.3/16", "fd00::1/64"]),
            view(true, &["10.0.0.2/8"]),
        );
        subnets.replace(None, Some(&a));
        subnets.replace(None, Some(&b));
        assert_eq!(of(&subnets, "10.1.9.9"), ["10.0.0.0/8", "10.1.0.0/16"]);
        assert_eq!(of(&subnets, "fd00::9"), ["fd00::/64"]);
        assert_eq!(of(&subnets, "11.0.0.1"), [""; 0]);
        let changes = subnets.changes();
        subnets.replace(Some(&b), Some(&b));
        assert_eq!(subnets.changes(), changes);
        subnets.replace(Some(&a), Some(&view(false, &["10.1.2.3/16"])));
        assert_eq!(of(&subnets, "10.1.9.9"), ["10.0.0.0/8"]);
        assert!(subnets.changes() > changes);
        subnets.replace(Some(&b), None);
        assert_eq!(of(&subnets, "10.1.9.9"), [""; 0]);
    }
}
