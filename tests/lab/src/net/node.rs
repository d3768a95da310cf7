//! What makes a host a cluster node: forwarding, the pod bridge `cni0`, and routes to the pods of the other nodes.

use std::path::Path;

use anyhow::Result;

use super::{Families, Host};

/// The pod addresses of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetwork {
    /// The node's place in the cluster, from 1.
    pub index: u8,
    /// The families in use.
    pub families: Families,
}

impl PodNetwork {
    /// The pod ranges, IPv4 first: 10.244.N.0/24 and fd00:244:N::/64.
    pub fn cidrs(&self) -> Vec<String> {
        let n = self.index;
        self.families
            .join(&format!("10.244.{n}.0/24"), &format!("fd00:244:{n}::/64"))
            .split(',')
            .map(str::to_owned)
            .collect()
    }

    /// The addresses of `cni0` with prefix length, IPv4 first: the pods' gateways.
    pub fn gateways(&self) -> Vec<String> {
        let n = self.index;
        self.families
            .join(&format!("10.244.{n}.1/24"), &format!("fd00:244:{n}::1/64"))
            .split(',')
            .map(str::to_owned)
            .collect()
    }
}

/// Sets `host` up as the node of `pods`, with routes to `others`, all other nodes of the cluster.
pub fn configure(host: &Host, pods: &PodNetwork, others: &[(&Host, &PodNetwork)]) -> Result<()> {
    host.namespace().sysctl(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/default/forwarding", "1"),
    ])?;
    // Pods of one node reach each other over the bridge; unless the bridge shows their packets to netfilter, an answer
    // from a backend on the same node would bypass kube-proxy's translation on its way back.
    if Path::new("/proc/sys/net/bridge").exists() {
        host.namespace().sysctl(&[
            ("net/bridge/bridge-nf-call-iptables", "1"),
            ("net/bridge/bridge-nf-call-ip6tables", "1"),
        ])?;
    }
    let mut batch = String::from("link add cni0 type bridge forward_delay 0 mcast_snooping 0\nlink set cni0 up\n");
    for gateway in pods.gateways() {
        let nodad = if gateway.contains(':') { " nodad" } else { "" };
        batch += &format!("addr add {gateway} dev cni0{nodad}\n");
    }
    batch += &routes(others);
    host.namespace().ip(&batch)
}

/// Gives a host that is no node routes to the pods of `nodes`.
pub fn add_routes(host: &Host, nodes: &[(&Host, &PodNetwork)]) -> Result<()> {
    host.namespace().ip(&routes(nodes))
}

fn routes(nodes: &[(&Host, &PodNetwork)]) -> String {
    let mut batch = String::new();
    for (node, network) in nodes {
        for (cidr, via) in network.cidrs().iter().zip(node.addresses()) {
            batch += &format!("route add {cidr} via {via}\n");
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_gateways_follow_the_families() {
        for (families, cidrs, gateways) in [
            (Families::V4, vec!["10.244.7.0/24"], vec!["10.244.7.1/24"]),
            (Families::V6, vec!["fd00:244:7::/64"], vec!["fd00:244:7::1/64"]),
            (
                Families::Dual,
                vec!["10.244.7.0/24", "fd00:244:7::/64"],
                vec!["10.244.7.1/24", "fd00:244:7::1/64"],
            ),
        ] {
            let network = PodNetwork { index: 7, families };
            assert_eq!(network.cidrs(), cidrs);
            assert_eq!(network.gateways(), gateways);
        }
    }
}
