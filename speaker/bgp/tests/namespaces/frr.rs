//! FRR: zebra and bgpd in the host's namespaces.

use serde_json::Value;

use ferrolb_netns::{Lab, NODE, Namespace, Process, eventually};

const LIBRARY: &str = "/usr/lib/frr";

/// Where bgpd writes what becomes of its neighbours, over its restarts too.
const LOG: &str = "/var/run/frr/bgpd.log";

/// A running FRR.
pub(crate) struct Frr<'a> {
    host: &'a Namespace,
    zebra: Option<Process>,
    bgpd: Option<Process>,
}

/// The configuration for one neighbour; `lines` are about it, with `@` for its address.
pub(crate) fn neighbour(address: &str, remote_as: &str, lines: &[&str]) -> String {
    let mut text = format!(" neighbor {address} remote-as {remote_as}\n neighbor {address} passive\n");
    for line in lines {
        text += &format!(" {}\n", line.replace('@', address));
    }
    for family in ["ipv4", "ipv6"] {
        text += &format!(" address-family {family} unicast\n  neighbor {address} activate\n exit-address-family\n");
    }
    text
}

/// The configuration for the neighbour at the other end of an interface. FRR dials it, and listens.
pub(crate) fn interface_neighbour(interface: &str, remote_as: &str) -> String {
    let mut text = format!(" neighbor {interface} interface remote-as {remote_as}\n");
    for family in ["ipv4", "ipv6"] {
        text += &format!(" address-family {family} unicast\n  neighbor {interface} activate\n exit-address-family\n");
    }
    text
}

impl<'a> Frr<'a> {
    /// FRR in AS 64512 with these neighbours.
    pub(crate) fn start(lab: &'a Lab, neighbours: &str) -> Frr<'a> {
        let host = &lab.host;
        host.write("/etc/frr/vtysh.conf", "no service integrated-vtysh-config\n");
        host.write("/etc/frr/zebra.conf", "");
        let bgpd = format!(
            "log file {LOG}\nrouter bgp 64512\n bgp router-id 10.0.0.9\n bgp log-neighbor-changes\n \
             no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n no bgp network import-check\n timers bgp 3 9\n\
             {neighbours}"
        );
        host.write("/etc/frr/bgpd.conf", &bgpd);
        let mut frr = Frr {
            host,
            zebra: None,
            bgpd: None,
        };
        frr.zebra = Some(host.start(&[&format!("{LIBRARY}/zebra"), "-A", "127.0.0.1", "-P", "0"]));
        frr.wait_for("zebra");
        frr.start_bgpd();
        frr
    }

    pub(crate) fn start_bgpd(&mut self) {
        self.bgpd = Some(
            self.host
                .start(&[&format!("{LIBRARY}/bgpd"), "-A", "127.0.0.1", "-P", "0"]),
        );
        self.wait_for("bgpd");
    }

    /// Ends bgpd at once.
    pub(crate) fn kill_bgpd(&mut self) {
        self.bgpd = None;
        self.host.run(|| {
            for end in ["vty", "pid"] {
                let _ = std::fs::remove_file(format!("/var/run/frr/bgpd.{end}"));
            }
        });
    }

    fn wait_for(&self, daemon: &str) {
        eventually(&format!("{daemon} answers"), || {
            self.host
                .command(&["vtysh", "-d", daemon, "-c", "show version"])
                .1
                .then_some(())
        });
    }

    /// Runs a command.
    pub(crate) fn vtysh(&self, command: &str) -> String {
        self.host.command(&["vtysh", "-d", "bgpd", "-c", command]).0
    }

    /// Changes the neighbour's configuration.
    pub(crate) fn configure(&self, line: &str) {
        let (output, success) = self.host.command(&[
            "vtysh",
            "-d",
            "bgpd",
            "-c",
            "configure terminal",
            "-c",
            "router bgp 64512",
            "-c",
            line,
        ]);
        assert!(success && output.is_empty(), "{line}: {output}");
    }

    fn json(&self, command: &str) -> Value {
        serde_json::from_str(&self.vtysh(command)).unwrap_or(Value::Null)
    }

    /// What it says about a neighbour.
    pub(crate) fn neighbour(&self, address: &str) -> Value {
        self.json(&format!("show bgp neighbors {address} json"))[address].take()
    }

    /// Whether it has ever been sent a NOTIFICATION with this reason. What it says of a neighbour is the last one alone.
    pub(crate) fn was_notified(&self, reason: &str) -> bool {
        let log = self.host.run(|| std::fs::read_to_string(LOG).unwrap_or_default());
        let mut lines = log.lines();
        lines.any(|line| {
            line.contains("%NOTIFICATION") && line.contains("received from neighbor") && line.contains(reason)
        })
    }

    /// How many prefixes of a family it has from a neighbour.
    pub(crate) fn prefixes(&self, address: &str, family: &str) -> u64 {
        let family = format!("{family}Unicast");
        self.neighbour(address)["addressFamilyInfo"][family]["acceptedPrefixCounter"]
            .as_u64()
            .unwrap_or(0)
    }

    /// Waits until it has so many prefixes of a family from a neighbour.
    pub(crate) fn has(&self, address: &str, family: &str, count: u64) {
        eventually(&format!("{count} {family} prefixes from {address}"), || {
            (self.prefixes(address, family) == count).then_some(())
        });
    }

    /// Its path to a prefix, from a neighbour.
    pub(crate) fn path(&self, prefix: &str, from: &str) -> Option<Value> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let found = self.json(&format!("show bgp {family} unicast {prefix} json"));
        let paths = found["paths"].as_array()?.clone();
        paths.into_iter().find(|path| path["peer"]["peerId"] == from)
    }
}

/// A neighbour of our own AS, reached over IPv4, with these lines.
pub(crate) fn internal(lines: &[&str]) -> String {
    neighbour(NODE[0], "64512", lines)
}
