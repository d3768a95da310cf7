//! Since when nodes are to be drained, and since when their speakers or their kubelets tell nothing: what counts only after a while.
//!
//! A controller that starts knows of no earlier time than its own start, so that a delay may begin anew, and never ends
//! too early.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrolb_model::{DrainTrigger, NodeView};

/// So long a node has for its speaker to tell of interfaces, once another node's speaker has. Where speakers are rolled out,
/// they come one after the other, and the first shall not get everything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// So long a node of which Kubernetes hears nothing counts as before. After an outage of the API server all nodes are silent
/// until their kubelets report: every 10 s, after a request that has hung for 10 s at most. Where a node is gone, a standby
/// has taken over long before.
pub(crate) const SILENCE: Duration = Duration::from_secs(20);

/// The times.
#[derive(Debug, Default)]
pub(crate) struct Since {
    triggers: BTreeMap<String, BTreeMap<DrainTrigger, Duration>>,
    unheard: BTreeMap<String, Duration>,
    heard: BTreeMap<String, Duration>,
    silent: BTreeMap<String, Duration>,
}

impl Since {
    /// Looks at a Node.
    pub(crate) fn node(&mut self, node: &NodeView, now: Duration) {
        let holds = |trigger: &DrainTrigger| trigger.holds(node);
        let all = [DrainTrigger::ExcludeLabel, DrainTrigger::Cordon, DrainTrigger::Taint];
        let of = self.triggers.entry(node.name.clone()).or_default();
        of.retain(|trigger, _| holds(trigger));
        for trigger in all.into_iter().filter(holds) {
            of.entry(trigger).or_insert(now);
        }
        if node.silent {
            self.silent.entry(node.name.clone()).or_insert(now);
        } else {
            self.silent.remove(&node.name);
        }
        if !self.heard.contains_key(&node.name) {
            self.unheard.entry(node.name.clone()).or_insert(now);
        }
    }

    /// The Node is gone.
    pub(crate) fn node_gone(&mut self, node: &str) {
        self.triggers.remove(node);
        self.unheard.remove(node);
        self.silent.remove(node);
    }

    /// When the node is taken to be gone, if Kubernetes hears nothing of it.
    pub(crate) fn lost_at(&self, node: &str) -> Option<Duration> {
        Some(*self.silent.get(node)? + SILENCE)
    }

    /// Whether Kubernetes hears nothing of the node, and not for long.
    pub(crate) fn is_awaited(&self, node: &str, now: Duration) -> bool {
        self.lost_at(node).is_some_and(|at| now < at)
    }

    /// Whether the speaker of the node tells of any interface.
    pub(crate) fn speaker(&mut self, node: &str, tells: bool, now: Duration) {
        if tells {
            self.unheard.remove(node);
            self.heard.entry(node.to_owned()).or_insert(now);
        } else if self.heard.remove(node).is_some() && self.triggers.contains_key(node) {
            self.unheard.insert(node.to_owned(), now);
        }
    }

    /// Since when the trigger holds for the node.
    pub(crate) fn trigger(&self, node: &str, trigger: DrainTrigger) -> Option<Duration> {
        self.triggers.get(node)?.get(&trigger).copied()
    }

    /// When the node is taken to have no speaker, if nothing comes from it. Where nothing comes from any, nobody knows.
    pub(crate) fn has_none_at(&self, node: &str) -> Option<Duration> {
        let unheard = self.unheard.get(node)?;
        Some(self.first_heard()?.max(*unheard) + PATIENCE)
    }

    /// Since when any speaker tells of interfaces.
    pub(crate) fn first_heard(&self) -> Option<Duration> {
        self.heard.values().min().copied()
    }
}
