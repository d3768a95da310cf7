//! What kind of cluster a lab is to be.

use std::time::Duration;

use ferrolb_controlplane::ProxyMode;

use crate::net::Families;

/// What runs the pods of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodeKind {
    /// The stand-in for the kubelet ([`crate::kubelet`]): processes in place of containers, everywhere and at once.
    #[default]
    Light,
    /// A kubelet with a container runtime ([`crate::realnode`]), where the machine can run them. FerroLB runs in pods, from the
    /// images of `xtask image`.
    Real,
}

/// A cluster's shape; `Setup { nodes: 2, ..Setup::default() }` changes what matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// The lab's name: of its log directory, and in messages.
    pub name: String,
    /// How many nodes, called `node-1`, `node-2` and so on; at most 80.
    pub nodes: u8,
    /// What runs their pods.
    pub kind: NodeKind,
    /// What kube-proxy uses.
    pub proxy: ProxyMode,
    /// The families of nodes, pods and Services.
    pub families: Families,
    /// How long a silent node stays Ready.
    pub node_monitor_grace: Duration,
    /// Whether FerroLB is installed and running.
    pub ferrolb: bool,
    /// How many controllers run on the control plane's host, of which one leads. On real nodes the manifest says how many
    /// there are, and with which arguments.
    pub controllers: u16,
    /// Arguments of each controller beyond the lab's own, on light nodes.
    pub controller_args: Vec<String>,
    /// Arguments of each speaker beyond the lab's own, on light nodes.
    pub speaker_args: Vec<String>,
}

impl Default for Setup {
    /// Three light nodes, nftables, both families, FerroLB running with one controller.
    fn default() -> Self {
        Self {
            name: "lab".to_owned(),
            nodes: 3,
            kind: NodeKind::Light,
            proxy: ProxyMode::Nftables,
            families: Families::Dual,
            node_monitor_grace: Duration::from_secs(4),
            ferrolb: true,
            controllers: 1,
            controller_args: Vec::new(),
            speaker_args: Vec::new(),
        }
    }
}

impl Setup {
    /// The default cluster under a name.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}
