//! When this node gives up what it announces, and what keeps it from doing so.
//!
//! Policies say which triggers count and how long one has to last. The exclude label takes a node out whatever the others
//! do: it says that no load balancer shall use the node. A cordon and a taint are about pods, so the last node that can
//! carry an address keeps it. Of other nodes a speaker knows what the API server says: labels, conditions, triggers,
//! where endpoints are ready. Whether their speakers run and have sessions it does not know; a node that is Ready is
//! taken to have both. Nodes that are drained together see each other drained, and all of them keep what nobody
//! else can carry.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use ferrolb_model::{AnnouncementPolicy, BgpAdvertisement, DrainTrigger, Labels, NodeRefusal, NodeView, TrafficPolicy};

use super::Bgp;
use super::judge::Case;

/// What is kept of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Other {
    labels: Labels,
    /// Ready, with a network.
    fit: bool,
    triggers: BTreeSet<DrainTrigger>,
}

impl Other {
    pub(super) fn of(view: &NodeView) -> Self {
        Other {
            labels: view.labels.clone(),
            fit: view.ready && !view.network_unavailable,
            triggers: triggers(view).collect(),
        }
    }
}

/// The triggers that hold for a node.
fn triggers(node: &NodeView) -> impl Iterator<Item = DrainTrigger> {
    let all = [DrainTrigger::ExcludeLabel, DrainTrigger::Cordon, DrainTrigger::Taint];
    all.into_iter().filter(|trigger| trigger.holds(node))
}

/// The triggers that hold for this node, and since when.
#[derive(Debug, Default)]
pub(super) struct Drain(BTreeMap<DrainTrigger, Duration>);

impl Drain {
    /// Looks at the node. A process that starts knows of no earlier time than its own.
    pub(super) fn look(&mut self, node: &NodeView, now: Duration) {
        let holding: BTreeSet<_> = triggers(node).collect();
        self.0.retain(|trigger, _| holding.contains(trigger));
        for trigger in holding {
            self.0.entry(trigger).or_insert(now);
        }
    }

    /// Whether none holds.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the triggers mean for one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    No,
    /// Nothing before then.
    Later(Duration),
    /// The node gives the address up, for this reason.
    Now(NodeRefusal),
}

/// Which nodes could carry what these advertisements and policies are about, but for endpoints. Worked out once for all
/// addresses that one look is about.
#[derive(Debug, Default)]
pub(super) struct Candidates(RefCell<BTreeMap<Names, Rc<BTreeSet<String>>>>);

/// Of advertisements and of policies.
type Names = [Vec<String>; 2];

impl Case<'_> {
    /// Whether the node gives the address up. `policies` are those of the Service, whatever the node.
    pub(super) fn due(&self, policies: &[&AnnouncementPolicy], now: Duration) -> Due {
        let drain = &self.bgp.drain.0;
        if drain.is_empty() {
            return Due::No;
        }
        let node = &self.bgp.node.labels;
        let delay = policies.iter().filter(|policy| policy.covers_node(node));
        let delay = delay.clone().find_map(|policy| policy.drain.delay).unwrap_or_default();
        let mut later = None::<Duration>;
        let mut last = None;
        for trigger in wanted(policies, node) {
            let Some(since) = drain.get(&trigger) else { continue };
            let at = *since + delay;
            let why = match trigger {
                DrainTrigger::ExcludeLabel => NodeRefusal::Excluded,
                DrainTrigger::Cordon => NodeRefusal::Cordoned,
                DrainTrigger::Taint => NodeRefusal::Tainted,
            };
            if at > now {
                later = Some(later.map_or(at, |other| other.min(at)));
            } else if trigger == DrainTrigger::ExcludeLabel || !*last.get_or_insert_with(|| self.is_last(policies)) {
                return Due::Now(why);
            }
        }
        later.map_or(Due::No, Due::Later)
    }

    /// Whether no other node can carry the address.
    pub(super) fn is_last(&self, policies: &[&AnnouncementPolicy]) -> bool {
        let ads: Vec<_> = self.advertisements().collect();
        let names = [
            ads.iter().map(|ad| ad.name.clone()).collect(),
            policies.iter().map(|policy| policy.name.clone()).collect(),
        ];
        let mut known = self.candidates.0.borrow_mut();
        let candidates = known
            .entry(names)
            .or_insert_with(|| Rc::new(candidates(self.bgp, &ads, policies)));
        match self.holder.traffic_policy {
            TrafficPolicy::Cluster => candidates.is_empty(),
            TrafficPolicy::Local => {
                let mut nodes = self.endpoints.ready_elsewhere(self.service);
                !nodes.any(|node| candidates.contains(node))
            }
        }
    }
}

/// Other nodes that are fit, that one of the advertisements selects, with a peer to tell, and that are not drained.
fn candidates(bgp: &Bgp, ads: &[&BgpAdvertisement], policies: &[&AnnouncementPolicy]) -> BTreeSet<String> {
    let told = |ad: &BgpAdvertisement, labels: &Labels| {
        let mut peers = bgp.config.peers.values();
        ad.covers_node(labels) && peers.any(|peer| peer.covers_node(labels) && ad.covers_peer(&peer.name))
    };
    let can = |other: &Other| {
        let labels = &other.labels;
        other.fit && wanted(policies, labels).is_disjoint(&other.triggers) && ads.iter().any(|ad| told(ad, labels))
    };
    let able = bgp.others.iter().filter(|(_, other)| can(other));
    able.map(|(name, _)| name.clone()).collect()
}

/// The triggers that count for a node with these labels.
fn wanted(policies: &[&AnnouncementPolicy], labels: &Labels) -> BTreeSet<DrainTrigger> {
    let mut here = policies.iter().filter(|policy| policy.covers_node(labels));
    let said = here.find_map(|policy| policy.drain.triggers.clone());
    said.unwrap_or_else(|| [DrainTrigger::ExcludeLabel].into())
}
