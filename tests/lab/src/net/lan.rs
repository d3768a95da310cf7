//! The LAN: one bridge in a namespace of its own, and hosts on it.
//!
//! Addresses are 172.30.0.0/16 and fd00:30::/64; a host with number N has 172.30.0.N and fd00:30::N (N written in
//! decimal digits in both). Numbers 100 to 199 stay free for pools: 172.30.0.100-172.30.0.199, fd00:30::100-fd00:30::1ff;
//! so do 172.30.1.0 and above, and fd00:30::1:0 and above. Number 1 is the bridge itself, everybody's default gateway,
//! which forwards nothing: it is there so that hosts have a route to everything, as kube-proxy's translation of Service
//! addresses needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use super::Namespace;

/// Which address families a cluster and its LAN use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both, IPv4 first.
    #[default]
    Dual,
}

impl Families {
    /// Whether IPv4 is among them.
    pub fn v4(self) -> bool {
        self != Self::V6
    }

    /// Whether IPv6 is among them.
    pub fn v6(self) -> bool {
        self != Self::V4
    }

    /// `v4` and `v6`, those that are in use, joined by a comma: the form of command line lists.
    pub fn join(self, v4: &str, v6: &str) -> String {
        match self {
            Self::V4 => v4.to_owned(),
            Self::V6 => v6.to_owned(),
            Self::Dual => format!("{v4},{v6}"),
        }
    }
}

/// A host on the LAN, with the interface `eth0`.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    namespace: Namespace,
    number: u8,
    families: Families,
}

impl Host {
    /// The name without the lab's prefix; also the name of its port on the bridge.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its IPv4 address on the LAN, if the lab has IPv4.
    pub fn v4(&self) -> Option<Ipv4Addr> {
        self.families.v4().then(|| Ipv4Addr::new(172, 30, 0, self.number))
    }

    /// Its IPv6 address on the LAN, if the lab has IPv6.
    pub fn v6(&self) -> Option<Ipv6Addr> {
        let digits = format!("fd00:30::{}", self.number);
        self.families
            .v6()
            .then(|| digits.parse().expect("decimal digits are hexadecimal digits"))
    }

    /// All its addresses on the LAN, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.v4()
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.v6().map(IpAddr::V6))
            .collect()
    }

    /// The first of its addresses.
    pub fn address(&self) -> IpAddr {
        self.addresses()[0]
    }

    /// The MAC address of `eth0`: 02:00:ac:1e:00:NN.
    pub fn mac(&self) -> String {
        format!("02:00:ac:1e:00:{:02x}", self.number)
    }
}

/// The segment that joins the hosts of a lab.
#[derive(Debug)]
pub struct Lan {
    prefix: String,
    namespace: Namespace,
    families: Families,
}

impl Lan {
    /// Makes the bridge in the namespace `<prefix>lan`.
    pub fn create(prefix: &str, families: Families) -> Result<Self> {
        let namespace = Namespace::create(&format!("{prefix}lan"))?;
        let mut batch = String::from("link add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up\n");
        if families.v4() {
            batch += "addr add 172.30.0.1/16 dev br0\n";
        }
        if families.v6() {
            batch += "addr add fd00:30::1/64 dev br0 nodad\n";
        }
        namespace.ip(&batch)?;
        Ok(Self {
            prefix: prefix.to_owned(),
            namespace,
            families,
        })
    }

    /// The bridge's namespace: a tap on it sees the whole segment.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The families of its addresses.
    pub fn families(&self) -> Families {
        self.families
    }

    /// Adds a host per (name, number), each in the namespace `<prefix><name>`.
    ///
    /// # Errors
    /// When a name or number is taken already.
    pub fn add_hosts(&self, hosts: &[(&str, u8)]) -> Result<Vec<Host>> {
        let names: Vec<String> = hosts.iter().map(|(name, _)| format!("{}{name}", self.prefix)).collect();
        let hosts: Vec<Host> = Namespace::create_all(&names)?
            .into_iter()
            .zip(hosts)
            .map(|(namespace, (name, number))| Host {
                name: (*name).to_owned(),
                namespace,
                number: *number,
                families: self.families,
            })
            .collect();
        let ports: String = hosts
            .iter()
            .map(|host| {
                let (port, mac, namespace) = (&host.name, host.mac(), host.namespace.name());
                format!(
                    "link add {port} type veth peer name eth0 address {mac} netns {namespace}\n\
                     link set {port} master br0 up\n"
                )
            })
            .collect();
        self.namespace.ip(&ports)?;
        for host in &hosts {
            let mut batch = String::from("link set eth0 up\n");
            if let Some(v4) = host.v4() {
                batch += &format!("addr add {v4}/16 dev eth0\nroute add default via 172.30.0.1\n");
            }
            if let Some(v6) = host.v6() {
                batch += &format!("addr add {v6}/64 dev eth0 nodad\nroute add default via fd00:30::1\n");
            }
            host.namespace.ip(&batch)?;
        }
        Ok(hosts)
    }

    /// Adds one host; see [`Lan::add_hosts`].
    pub fn add_host(&self, name: &str, number: u8) -> Result<Host> {
        Ok(self.add_hosts(&[(name, number)])?.remove(0))
    }

    /// Takes the host's cable out: its `eth0` loses its carrier.
    pub fn unplug(&self, host: &Host) -> Result<()> {
        self.namespace
            .ip(&format!("link set {} down\n", host.name))
            .context("unplug")
    }

    /// Cuts the host off without its noticing: the carrier stays, the bridge no longer forwards.
    pub fn isolate(&self, host: &Host) -> Result<()> {
        self.namespace
            .ip(&format!("link set {} nomaster\n", host.name))
            .context("isolate")
    }

    /// Undoes [`Lan::unplug`] and [`Lan::isolate`].
    pub fn plug(&self, host: &Host) -> Result<()> {
        self.namespace
            .ip(&format!("link set {} master br0 up\n", host.name))
            .context("plug")
    }

    /// Puts these hosts on a segment of their own, without their noticing: they hear each other, and nobody else.
    pub fn split(&self, hosts: &[&Host]) -> Result<()> {
        let ports = hosts.iter().map(|host| format!("link set {} master br1\n", host.name));
        let bridge = "link add br1 type bridge forward_delay 0 mcast_snooping 0\nlink set br1 up\n".to_owned();
        let batch = std::iter::once(bridge).chain(ports).collect::<String>();
        self.namespace.ip(&batch).context("split")
    }

    /// Undoes [`Lan::split`], all at once.
    pub fn join(&self, hosts: &[&Host]) -> Result<()> {
        let ports = hosts.iter().map(|host| format!("link set {} master br0\n", host.name));
        let batch = ports.collect::<String>() + "link del br1\n";
        self.namespace.ip(&batch).context("join")
    }
}
