//! FRR on a host of the lab: what FerroLB talks to, and what tells how many prefixes it holds.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ferrolb_lab::net::{Host, Namespace};
use ferrolb_lab::{Lab, wait_until};
use nix::unistd::{User, chown};
use serde_json::Value;

use super::{ASN, NODES, PATIENCE};

const LIBRARY: &str = "/usr/lib/frr";
/// The client behind it.
const CLIENT: &str = "10.99.1.2";

pub(super) struct Frr {
    pub(super) host: Host,
    folder: PathBuf,
}

impl Frr {
    /// Waits for sessions from each node. `forwards`: with zebra and bfdd, into the kernel; else routes stay in bgpd.
    pub(super) async fn start(lab: &Lab, number: u8, forwards: bool, lines: &[&str]) -> Result<Self> {
        let name = format!("frr{number}");
        let host = lab.add_host(&name, number)?;
        let folder = lab.run_dir().join(&name);
        std::fs::create_dir(&folder)?;
        let user = User::from_name("frr")?.context("there is no user frr (Debian package frr)")?;
        chown(&folder, Some(user.uid), Some(user.gid))?;
        let frr = Frr { host, folder };
        let mut text = format!(
            "router bgp {ASN}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
             timers bgp 3 9\n",
            frr.host.address()
        );
        for node in lab.nodes() {
            let address = node.host().address();
            text += &format!(" neighbor {address} remote-as {NODES}\n neighbor {address} passive\n");
            for line in lines {
                text += &format!(" neighbor {address} {line}\n");
            }
        }
        text += " address-family ipv4 unicast\n  maximum-paths 8\n exit-address-family\n";
        let daemons: &[&str] = if forwards {
            &["zebra", "bfdd", "bgpd"]
        } else {
            &["bgpd"]
        };
        for daemon in daemons {
            frr.daemon(lab, daemon, if *daemon == "bgpd" { &text } else { "" }, forwards)
                .await?;
        }
        Ok(frr)
    }

    async fn daemon(&self, lab: &Lab, daemon: &str, config: &str, forwards: bool) -> Result<()> {
        let file = |end: &str| self.folder.join(format!("{daemon}.{end}")).into_os_string();
        std::fs::write(file("conf"), config)?;
        let mut spec = lab
            .spec(
                &format!("{}-{daemon}", self.host.name()),
                format!("{LIBRARY}/{daemon}"),
                &self.host,
            )
            .args(["-A", "127.0.0.1", "-P", "0", "--log", "stdout", "--vty_socket"])
            .args([&self.folder])
            .args(["-f".into(), file("conf"), "-i".into(), file("pid"), "-z".into()])
            .args([self.folder.join("zserv.api")]);
        if daemon == "bfdd" {
            spec = spec.args(["--bfdctl".into(), self.folder.join("bfdd.sock")]);
        }
        if daemon == "bgpd" && !forwards {
            spec = spec.args(["-n"]);
        }
        lab.start_process(spec)?;
        wait_until(
            &format!("{daemon} to answer (Debian package frr)"),
            PATIENCE,
            async || self.vtysh(daemon, "show version").map(drop),
        )
        .await
    }

    fn vtysh(&self, daemon: &str, command: &str) -> Result<String> {
        let folder = self.folder.to_str().context("the lab's directory is UTF-8")?;
        let args = ["--vty_socket", folder, "-d", daemon, "-c", command];
        self.host.namespace().output("vtysh", &args)
    }

    /// How many prefixes it holds from a node.
    pub(super) fn prefixes(&self, node: IpAddr) -> Result<u64> {
        let text = self.vtysh("bgpd", "show bgp ipv4 unicast summary json")?;
        let summary: Value = serde_json::from_str(&text)?;
        Ok(summary["peers"][node.to_string()]["pfxRcd"].as_u64().unwrap_or(0))
    }

    /// Waits until it holds so many.
    pub(super) fn holds(&self, node: IpAddr, count: u64) -> Result<()> {
        let start = std::time::Instant::now();
        loop {
            let held = self.prefixes(node)?;
            if held == count {
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE, "{held} prefixes instead of {count}");
        }
    }

    /// How many sessions of BFD are up.
    pub(super) fn watched(&self) -> Result<usize> {
        let peers: Value = serde_json::from_str(&self.vtysh("bfdd", "show bfd peers json")?)?;
        let peers = peers.as_array().context("a list")?;
        Ok(peers.iter().filter(|peer| peer["status"] == "up").count())
    }

    /// From now on packets of the client behind it for one address all take one of the next hops: by addresses alone.
    pub(super) fn hash_by_addresses(&self) -> Result<()> {
        self.host
            .namespace()
            .sysctl(&[("net/ipv4/fib_multipath_hash_policy", "0")])
    }

    /// The next hop that the client's packets for an address take.
    pub(super) fn next_hop(&self, address: IpAddr) -> Result<IpAddr> {
        let address = address.to_string();
        let args = ["-j", "route", "get", &address, "from", CLIENT, "iif", "eth1"];
        let found: Value = serde_json::from_str(&self.host.namespace().output("ip", &args)?)?;
        let gateway = found[0]["gateway"].as_str().context("the route has a gateway")?;
        Ok(gateway.parse()?)
    }

    /// A network behind it with one client in it, and the nodes' way there.
    pub(super) fn behind(&self, lab: &Lab) -> Result<Namespace> {
        self.host.namespace().sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/fib_multipath_hash_policy", "1"),
        ])?;
        let behind = Namespace::create(&format!("flb{}-behind", lab.id()))?;
        self.host.namespace().ip(&format!(
            "link add eth1 type veth peer name eth0 netns {}\naddr add 10.99.1.1/24 dev eth1\nlink set eth1 up\n",
            behind.name()
        ))?;
        behind.ip(&format!(
            "addr add {CLIENT}/24 dev eth0\nlink set eth0 up\nroute add default via 10.99.1.1\n"
        ))?;
        for node in lab.nodes() {
            let via = self.host.address();
            node.host()
                .namespace()
                .ip(&format!("route add 10.99.1.0/24 via {via}\n"))?;
        }
        Ok(behind)
    }
}
