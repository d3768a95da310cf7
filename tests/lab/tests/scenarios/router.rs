//! A router with FRR on the LAN, and a client behind it.

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::client::Client;
use ferrolb_lab::frr::Frr;
use ferrolb_lab::net::{Host, Namespace};
use ferrolb_lab::wait_until;
use serde_json::Value;

use crate::scene::{PATIENCE, Scene};

/// The router's AS.
pub(crate) const ASN: u32 = 64512;

/// Its number on the LAN, less that of the scenario.
pub(crate) const FIRST: u8 = 200;

/// A running FRR.
pub(crate) struct Router {
    frr: Frr,
    behind: Namespace,
}

impl Router {
    /// A router that waits for the nodes in AS `asn` to connect; `lines` are about each of them, with `@` for its
    /// address.
    pub(crate) async fn start(s: &Scene, asn: u32, lines: &[&str]) -> Result<Self> {
        let [_, _, number, _] = s.v4(0).octets();
        let mut frr = Frr::add(s, &format!("rt{number}"), FIRST + number)?;
        let behind = frr.behind(s, number)?;
        let neighbours = s
            .node_addresses()
            .into_iter()
            .map(|node| neighbour(&node.to_string(), asn, lines));
        let id = frr.host().address();
        let bgpd = format!(
            "router bgp {ASN}\n bgp router-id {id}\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n \
             no bgp network import-check\n timers bgp 3 9\n{}",
            neighbours.collect::<String>()
        );
        for (daemon, config) in [("zebra", ""), ("bfdd", ""), ("bgpd", &*bgpd)] {
            frr.start(s, daemon, config, &[], PATIENCE).await?;
        }
        Ok(Router { frr, behind })
    }

    /// What bgpd says to a command whose answer is JSON.
    pub(crate) fn bgp(&self, command: &str) -> Result<Value> {
        self.frr.json("bgpd", &format!("{command} json"))
    }

    /// Tells bgpd to do something.
    pub(crate) fn command(&self, command: &str) -> Result<()> {
        self.frr.vtysh("bgpd", &[command]).map(drop)
    }

    /// Its paths to a prefix.
    pub(crate) fn paths(&self, prefix: &str) -> Result<Vec<Value>> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let found = self.bgp(&format!("show bgp {family} unicast {prefix}"))?;
        Ok(found["paths"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until its kernel sends packets for `prefix` to exactly these nodes.
    pub(crate) async fn forwards(&self, s: &Scene, prefix: &str, nodes: &[&str]) -> Result<()> {
        let mut wanted = Vec::new();
        for node in nodes {
            let addresses = s.node(node)?.host().addresses();
            let of_family = addresses.iter().find(|a| a.is_ipv6() == prefix.contains(':'));
            wanted.push(of_family.context("the node has both families")?.to_string());
        }
        wanted.sort();
        wait_until(
            &format!("the router to forward {prefix} to {nodes:?}"),
            PATIENCE,
            async || {
                let hops = self.hops(prefix)?;
                ensure!(hops == wanted, "it forwards to {hops:?}");
                Ok(())
            },
        )
        .await
    }

    /// The next hops of a prefix in its kernel, in order.
    pub(crate) fn hops(&self, prefix: &str) -> Result<Vec<String>> {
        hops(self.host(), prefix, "bgp")
    }

    /// Where it runs.
    pub(crate) fn host(&self) -> &Host {
        self.frr.host()
    }

    /// What it says about its session with a node.
    pub(crate) fn session(&self, s: &Scene, node: &str) -> Result<Value> {
        let address = s.node(node)?.host().address().to_string();
        Ok(self.bgp(&format!("show bgp neighbors {address}"))?[&address].take())
    }

    /// Waits until the route by way of a node is marked as about to go.
    pub(crate) async fn leaving(&self, s: &Scene, node: &str, prefix: &str) -> Result<()> {
        let address = s.node(node)?.host().address().to_string();
        wait_until(
            &format!("the route of {node} to be marked as leaving"),
            PATIENCE,
            async || {
                let paths = self.paths(prefix)?;
                let path = paths.iter().find(|path| path["peer"]["peerId"] == address);
                let community = path.context("the route is gone")?["community"]["string"].to_string();
                ensure!(community.contains("graceful-shutdown"), "it carries {community}");
                Ok(())
            },
        )
        .await
    }

    /// Waits until its session with each node stands.
    pub(crate) async fn established(&self, s: &Scene) -> Result<()> {
        for node in s.nodes() {
            wait_until(&format!("the session with {}", node.name()), PATIENCE, async || {
                let session = self.session(s, node.name())?;
                ensure!(session["bgpState"] == "Established", "it is {}", session["bgpState"]);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// How often its sessions were established, all together.
    pub(crate) fn establishments(&self, s: &Scene) -> Result<u64> {
        let mut sum = 0;
        for node in s.nodes() {
            let session = self.session(s, node.name())?;
            sum += session["connectionsEstablished"].as_u64().context("a number")?;
        }
        Ok(sum)
    }

    /// What bfdd has counted for each of its sessions.
    pub(crate) fn bfd_counters(&self) -> Result<Vec<Value>> {
        let counters = self.frr.json("bfdd", "show bfd peers counters json")?;
        Ok(counters.as_array().cloned().unwrap_or_default())
    }

    /// Shuts its session with a node down, with a text (RFC 9003).
    pub(crate) fn shut_down(&self, s: &Scene, node: &str, text: &str) -> Result<()> {
        self.configure(s, node, &format!("shutdown message {text}"))
    }

    /// Says the same about each neighbour.
    pub(crate) fn each_neighbour(&self, s: &Scene, words: &str) -> Result<()> {
        s.nodes()
            .iter()
            .try_for_each(|node| self.configure(s, node.name(), words))
    }

    fn configure(&self, s: &Scene, node: &str, words: &str) -> Result<()> {
        self.configure_bgp(&[format!("neighbor {} {words}", s.node(node)?.host().address())])
    }

    /// Adds lines below `router bgp`.
    pub(crate) fn configure_bgp(&self, lines: &[String]) -> Result<()> {
        let router = format!("router bgp {ASN}");
        let lines = lines.iter().map(String::as_str);
        let commands = ["configure terminal", &router]
            .into_iter()
            .chain(lines)
            .collect::<Vec<_>>();
        let said = self.frr.vtysh("bgpd", &commands)?;
        ensure!(said.trim().is_empty(), "{commands:?}: {said}");
        Ok(())
    }

    /// A link of their own between it and a node, called `link` at the node, with the addresses that the kernel gives it and
    /// no others; the neighbour at its end, in AS `asn`, is known by the interface.
    pub(crate) fn link(&self, node: &Host, link: &str, asn: u32) -> Result<()> {
        let own = format!("{link}-{}", node.name());
        let (ours, theirs) = (self.frr.host().namespace(), node.namespace());
        ours.ip(&format!(
            "link add {own} type veth peer name {link} netns {}\nlink set {own} up\n",
            theirs.name()
        ))?;
        theirs.ip(&format!("link set {link} up\n"))?;
        let interface = format!("neighbor {own} interface remote-as {asn}");
        let activate = format!("neighbor {own} activate");
        self.configure_bgp(&[interface, "address-family ipv4 unicast".to_owned(), activate])
    }

    /// Its address for peers.
    pub(crate) fn address(&self) -> String {
        self.frr.host().address().to_string()
    }

    /// Somebody on the other side of it.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.behind)
    }
}

/// The next hops of a prefix in a host's kernel, in order, of routes that `by` has made, by the name of rtnetlink(7).
pub(crate) fn hops(host: &Host, prefix: &str, by: &str) -> Result<Vec<String>> {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    let args = [family, "-j", "route", "show", prefix, "proto", by];
    let text = host.namespace().output("ip", &args)?;
    let routes: Value = serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text })?;
    let mut hops = Vec::new();
    for route in routes.as_array().into_iter().flatten() {
        let several = route["nexthops"].as_array().cloned().unwrap_or_default();
        let all = several.iter().chain([route]);
        hops.extend(all.filter_map(|hop| Some(hop["gateway"].as_str()?.to_owned())));
    }
    hops.sort();
    Ok(hops)
}

/// The configuration for one neighbour.
fn neighbour(address: &str, asn: u32, lines: &[&str]) -> String {
    let mut text = format!(" neighbor {address} remote-as {asn}\n neighbor {address} passive\n");
    for line in lines {
        text += &format!(" {}\n", line.replace('@', address));
    }
    for family in ["ipv4", "ipv6"] {
        text += &format!(
            " address-family {family} unicast\n  neighbor {address} activate\n  maximum-paths 8\n  \
             maximum-paths ibgp 8\n exit-address-family\n"
        );
    }
    text
}
