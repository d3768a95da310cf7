//! A pod's network: a namespace of its own, joined to the node's bridge by a veth pair, and its addresses.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};

use super::Config;
use crate::net::Namespace;
use crate::net::node::PodNetwork;

/// Hosts .2 to .250 of the node's pod range; .1 is the gateway.
const NUMBERS: std::ops::RangeInclusive<u8> = 2..=250;

/// Hands out the host numbers of a node's pod range. Goes round, so that an address that was just given back rests as
/// long as possible: connections to its last owner must not reach another pod.
pub(super) struct Addresses {
    pods: PodNetwork,
    taken: BTreeSet<u8>,
    last: u8,
}

impl Addresses {
    pub(super) fn new(pods: &PodNetwork) -> Self {
        Self {
            pods: pods.clone(),
            taken: BTreeSet::new(),
            last: *NUMBERS.end(),
        }
    }

    fn take(&mut self) -> Option<u8> {
        let number = NUMBERS
            .filter(|n| *n > self.last)
            .chain(NUMBERS)
            .find(|n| !self.taken.contains(n))?;
        self.taken.insert(number);
        self.last = number;
        Some(number)
    }
}

/// Pins the bridge's MAC address. Left alone it would follow the lowest of its ports', and every pod that comes or goes
/// could make the gateway's address stale in all the others.
pub(super) fn pin_bridge(config: &Config) -> Result<()> {
    config.namespace.ip(&format!(
        "link set cni0 address 02:00:0a:f4:00:{:02x}\n",
        config.pods.index
    ))
}

/// A pod's network; dropping it removes it.
pub(super) struct Sandbox {
    /// Where the containers run.
    pub(super) namespace: Namespace,
    /// The pod's addresses, the preferred family first.
    pub(super) addresses: Vec<IpAddr>,
    lease: Option<Lease>,
}

struct Lease {
    number: u8,
    pool: Arc<Mutex<Addresses>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .taken
            .remove(&self.number);
    }
}

impl Sandbox {
    /// The network of a pod that uses the node's own.
    pub(super) fn host(config: &Config) -> Self {
        Self {
            namespace: config.namespace.clone(),
            addresses: config.addresses.clone(),
            lease: None,
        }
    }

    /// Makes the network of the pod `uid`. Blocks for some milliseconds.
    pub(super) fn create(config: &Config, pool: &Arc<Mutex<Addresses>>, uid: &str) -> Result<Self> {
        let mut guard = pool.lock().unwrap_or_else(PoisonError::into_inner);
        let number = guard.take().context("the node's pod range is used up")?;
        let gateways = guard.pods.gateways();
        drop(guard);
        let lease = Some(Lease {
            number,
            pool: pool.clone(),
        });
        let short: String = uid.chars().filter(char::is_ascii_hexdigit).take(10).collect();
        let name = format!("{}-{short}", config.namespace.name());
        let port = format!("v{short}");
        remove(&name);
        let namespace = Namespace::create(&name)?;
        let mut sandbox = Self {
            namespace,
            addresses: Vec::new(),
            lease,
        };
        let mut batch = String::from("link set eth0 up\n");
        for gateway in &gateways {
            let (address, length, gateway) = pod_address(gateway, number).context("the bridge's address")?;
            let nodad = if address.is_ipv6() { " nodad" } else { "" };
            batch += &format!("addr add {address}/{length} dev eth0{nodad}\nroute add default via {gateway}\n");
            sandbox.addresses.push(address);
        }
        // Without hairpin a pod could not reach itself through its own Service.
        config.namespace.ip(&format!(
            "link add {port} type veth peer name eth0 netns {name}\n\
             link set {port} master cni0 up\nlink set {port} type bridge_slave hairpin on\n"
        ))?;
        sandbox.namespace.ip(&batch)?;
        Ok(sandbox)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.lease.is_some() {
            remove(self.namespace.name());
        }
    }
}

/// Takes the name of a pod's namespace away; the namespace goes with the last process in it, its link with it.
fn remove(name: &str) {
    let path = Path::new("/run/netns").join(name);
    if path.exists() {
        // Busy is impossible with a detaching unmount, and a name without a mount is a plain file.
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&path);
    }
}

/// The address of host `number` in the range of `gateway` (`address/length`), the length, and the gateway's address.
fn pod_address(gateway: &str, number: u8) -> Option<(IpAddr, &str, &str)> {
    let (gateway, length) = gateway.split_once('/')?;
    let address = match gateway.parse().ok()? {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, number])
        }
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[15] = number;
            IpAddr::from(octets)
        }
    };
    Some((address, length, gateway))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Families;

    fn pool() -> Addresses {
        Addresses::new(&PodNetwork {
            index: 3,
            families: Families::Dual,
        })
    }

    #[test]
    fn a_number_given_back_is_not_given_out_next() {
        let mut pool = pool();
        assert_eq!((pool.take(), pool.take()), (Some(2), Some(3)));
        pool.taken.remove(&2);
        assert_eq!(pool.take(), Some(4));
    }

    #[test]
    fn a_full_range_gives_nothing_and_recovers() {
        let mut pool = pool();
        assert_eq!(std::iter::from_fn(|| pool.take()).count(), 249);
        pool.taken.remove(&77);
        assert_eq!(pool.take(), Some(77));
        assert_eq!(pool.take(), None);
    }

    #[test]
    fn addresses_lie_in_the_gateways_range() {
        let expect = |gateway, address: &str| {
            let (found, _, _) = pod_address(gateway, 16).unwrap();
            assert_eq!(found, address.parse::<IpAddr>().unwrap());
        };
        expect("10.244.3.1/24", "10.244.3.16");
        expect("fd00:244:3::1/64", "fd00:244:3::10");
    }
}
