//! FRR on a host of the lab: what FerroLB talks to, and what tells how many prefixes it holds.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use ferrolb_lab::Lab;
use ferrolb_lab::frr::Frr;
use ferrolb_lab::net::{Host, Namespace};
use serde_json::Value;

use super::{ASN, NODES, PATIENCE};

/// The number of the network behind it.
const BEHIND: u8 = 1;
/// The client there.
const CLIENT: &str = "10.99.1.2";

pub(super) struct Router {
    frr: Frr,
}

impl Router {
    /// Waits for sessions from each node, about which `lines` are, and from `others`. `forwards`: with zebra and bfdd, into the kernel; else routes stay in bgpd.
    pub(super) async fn start(
        lab: &Lab,
        number: u8,
        forwards: bool,
        (others, lines): (&[IpAddr], &[&str]),
    ) -> Result<Self> {
        let mut frr = Frr::add(lab, &format!("frr{number}"), number)?;
        let mut text = format!(
            "router bgp {ASN}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
             timers bgp 3 9\n",
            frr.host().address()
        );
        for node in lab.nodes() {
            let address = node.host().address();
            text += &format!(" neighbor {address} remote-as {NODES}\n neighbor {address} passive\n");
            for line in lines {
                text += &format!(" neighbor {address} {line}\n");
            }
        }
        for address in others {
            text += &format!(" neighbor {address} remote-as {NODES}\n neighbor {address} passive\n");
        }
        text += " address-family ipv4 unicast\n  maximum-paths 8\n exit-address-family\n";
        if forwards {
            frr.start(lab, "zebra", "", &[], PATIENCE).await?;
            frr.start(lab, "bfdd", "", &[], PATIENCE).await?;
        }
        // -n: not into the kernel.
        let args: &[&str] = if forwards { &[] } else { &["-n"] };
        frr.start(lab, "bgpd", &text, args, PATIENCE).await?;
        Ok(Router { frr })
    }

    pub(super) fn host(&self) -> &Host {
        self.frr.host()
    }

    /// How many prefixes it holds from a node.
    pub(super) fn prefixes(&self, node: IpAddr) -> Result<u64> {
        let summary = self.frr.json("bgpd", "show bgp ipv4 unicast summary json")?;
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

    /// What any disturbance of its session with a node, of BGP or BFD, or of its table would change.
    pub(super) fn undisturbed(&self, node: IpAddr) -> Result<Value> {
        let node = node.to_string();
        let session = self.frr.json("bgpd", &format!("show bgp neighbors {node} json"))?;
        let summary = self.frr.json("bgpd", "show bgp ipv4 unicast summary json")?;
        let counters = self.frr.json("bfdd", "show bfd peers counters json")?;
        let downs = counters.as_array().into_iter().flatten();
        let downs: Vec<_> = downs.map(|counters| &counters["session-down"]).collect();
        let session = &session[&node];
        Ok(serde_json::json!({
            "state": session["bgpState"],
            "established": session["connectionsEstablished"],
            "table": summary["tableVersion"],
            "downs": downs,
        }))
    }

    /// How many sessions of BFD are up.
    pub(super) fn watched(&self) -> Result<usize> {
        let peers = self.frr.json("bfdd", "show bfd peers json")?;
        let peers = peers.as_array().context("a list")?;
        Ok(peers.iter().filter(|peer| peer["status"] == "up").count())
    }

    /// From now on packets of the client behind it for one address all take one of the next hops: by addresses alone.
    pub(super) fn hash_by_addresses(&self) -> Result<()> {
        self.host()
            .namespace()
            .sysctl(&[("net/ipv4/fib_multipath_hash_policy", "0")])
    }

    /// The next hop that the client's packets for an address take.
    pub(super) fn next_hop(&self, address: IpAddr) -> Result<IpAddr> {
        let address = address.to_string();
        let args = ["-j", "route", "get", &address, "from", CLIENT, "iif", "eth1"];
        let found: Value = serde_json::from_str(&self.host().namespace().output("ip", &args)?)?;
        let gateway = found[0]["gateway"].as_str().context("the route has a gateway")?;
        Ok(gateway.parse()?)
    }

    /// A network behind it with one client in it, and the nodes' way there.
    pub(super) fn behind(&self, lab: &Lab) -> Result<Namespace> {
        self.frr.behind(lab, BEHIND)
    }
}
