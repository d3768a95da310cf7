//! Which nodes announce which pools at layer 2, parsed.

use std::collections::BTreeSet;

use crate::pool::Pool;
use crate::selector::{LabelSelector, Labels};

/// An `L2Advertisement` in force. Selectors stay selectors: nodes and Services come and go without a new `Config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L2Advertisement {
    /// The object's name.
    pub name: String,
    /// The pools it speaks for.
    pub pools: PoolSelection,
    /// Any must match the node; empty matches all.
    pub node_selectors: Vec<LabelSelector>,
    /// Any must match the Service; empty matches all.
    pub service_selectors: Vec<LabelSelector>,
    /// Names of interfaces, literal; `None` means every interface.
    pub interfaces: Option<BTreeSet<String>>,
    /// Soft preferences among the nodes that `node_selectors` match.
    pub preferred_nodes: Vec<PreferredNode>,
}

/// The pools that an advertisement speaks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PoolSelection {
    /// Neither names nor selectors were given.
    #[default]
    All,
    /// Pools by name, or by label; a selection that matches nothing selects nothing.
    Some {
        /// By name; unknown names are no error, the pool may come later.
        names: BTreeSet<String>,
        /// By label.
        selectors: Vec<LabelSelector>,
    },
}

/// Weight added to the score of a node that the selector matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreferredNode {
    /// 1 to 100.
    pub weight: u32,
    /// Which nodes.
    pub selector: LabelSelector,
}

impl PoolSelection {
    /// Whether `pool` is one of them.
    pub fn selects(&self, pool: &Pool) -> bool {
        match self {
            PoolSelection::All => true,
            PoolSelection::Some { names, selectors } => {
                names.contains(&pool.name) || selectors.iter().any(|s| s.matches(&pool.labels))
            }
        }
    }
}

impl L2Advertisement {
    /// Whether it speaks for `pool`.
    pub fn covers_pool(&self, pool: &Pool) -> bool {
        self.pools.selects(pool)
    }

    /// Whether it speaks for a Service with these labels.
    pub fn covers_service(&self, labels: &Labels) -> bool {
        LabelSelector::any_or_all(&self.service_selectors, labels)
    }

    /// Whether a node with these labels may announce.
    pub fn covers_node(&self, labels: &Labels) -> bool {
        LabelSelector::any_or_all(&self.node_selectors, labels)
    }

    /// The node's preference score: sum of the matching weights, 0 for nodes it does not cover.
    pub fn score(&self, labels: &Labels) -> u32 {
        if !self.covers_node(labels) {
            return 0;
        }
        self.preferred_nodes
            .iter()
            .filter(|p| p.selector.matches(labels))
            .map(|p| p.weight)
            .sum()
    }
}
