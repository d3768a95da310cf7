//! On which nodes two objects meet.

use std::collections::BTreeSet;

use ferrolb_model::Labels;

use crate::surroundings::Surroundings;

/// The nodes that an object selects.
pub(crate) enum SelectedNodes {
    /// No node is known, so it may be any.
    Unknown,
    /// These, by name.
    Known(BTreeSet<String>),
}

impl SelectedNodes {
    pub(crate) fn of(surroundings: &Surroundings, covers: impl Fn(&Labels) -> bool) -> Self {
        if surroundings.nodes.is_empty() {
            return SelectedNodes::Unknown;
        }
        let nodes = surroundings.nodes.iter().filter(|(_, facts)| covers(&facts.labels));
        SelectedNodes::Known(nodes.map(|(name, _)| name.clone()).collect())
    }

    /// Whether some node is selected by both.
    pub(crate) fn meet(&self, other: &SelectedNodes) -> bool {
        match (self, other) {
            (SelectedNodes::Known(these), SelectedNodes::Known(others)) => !these.is_disjoint(others),
            _ => true,
        }
    }
}
