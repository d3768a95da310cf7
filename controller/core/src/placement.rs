//! Who announces an address at layer 2.
//!
//! The owner stays as long as it may announce, and a choice (`spread.rs`) is made only without one, or where a policy asks
//! for pre-emption and a node of a higher score is there. Standbys stay in the same way, so that a node that comes or goes
//! touches only the addresses it matters to.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ferrolb_model::{
    L2Advertisement, Labels, NodeRefusal, NodeView, Placement, Pool, PoolSelection, Reason, ServiceView, TrafficPolicy,
};

use crate::allocator::{Allocator, Record};
use crate::controller::Controller;
use crate::effect::{Effect, EventKind};
use crate::spread::{Candidate, Rules, STANDBYS, standbys};

/// How one node stands to a set of advertisements, endpoints aside.
#[derive(Clone, Copy, Debug)]
struct Standing {
    score: u32,
    /// A fault other than not being Ready.
    refusal: Option<NodeRefusal>,
    ready: bool,
}

/// How all nodes stand.
#[derive(Debug)]
struct Standings {
    nodes: BTreeMap<String, Standing>,
    /// Those without a fault, endpoints aside, by name.
    fit: Vec<Candidate>,
    /// The highest score of those.
    best: u32,
}

/// Standings by the names of advertisements and of policies with weights; valid until a node or the configuration changes.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    cache: BTreeMap<[Vec<String>; 2], Arc<Standings>>,
}

impl Coverage {
    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.cache.clear();
    }

    fn of(
        &mut self,
        ads: &[&L2Advertisement],
        rules: &Rules<'_>,
        nodes: &BTreeMap<String, NodeView>,
        allocator: &Allocator,
    ) -> Arc<Standings> {
        let names = ads.iter().map(|ad| ad.name.clone()).collect();
        let policies = rules.weights.iter().map(|p| p.name.clone()).collect();
        let compute = || {
            let nodes = nodes
                .iter()
                .map(|(name, node)| (name.clone(), standing(ads, rules, node)));
            let nodes = nodes.collect::<BTreeMap<_, _>>();
            let fit = nodes.iter().filter(|(_, s)| s.ready && s.refusal.is_none());
            let fit = fit.filter_map(|(name, s)| Candidate::new(name, s.score, allocator));
            let fit = fit.collect::<Vec<_>>();
            Arc::new(Standings {
                best: fit.iter().map(|c| c.score).max().unwrap_or(0),
                fit,
                nodes,
            })
        };
        self.cache.entry([names, policies]).or_insert_with(compute).clone()
    }
}

fn standing(ads: &[&L2Advertisement], rules: &Rules<'_>, node: &NodeView) -> Standing {
    let covered = ads.iter().any(|ad| ad.covers_node(&node.labels));
    let refusal = if !covered {
        Some(NodeRefusal::NotSelected)
    } else if node.excluded {
        Some(NodeRefusal::Excluded)
    } else if node.network_unavailable {
        Some(NodeRefusal::NetworkUnavailable)
    } else {
        None
    };
    let preferences = ads.iter().map(|ad| ad.score(&node.labels));
    let score = preferences.fold(rules.weight(&node.labels), u32::saturating_add);
    Standing {
        score,
        refusal,
        ready: node.ready,
    }
}

/// Where traffic for the address can be served.
struct Demand<'a> {
    /// Nodes with endpoints for every `Local` holder; `None` when any node will do.
    nodes: Option<BTreeSet<&'a str>>,
    /// Some endpoint of some holder can serve.
    anywhere: bool,
    /// The same, when all that is better than nothing is taken to serve.
    hopeful_nodes: Option<BTreeSet<&'a str>>,
    hopeful_anywhere: bool,
}

impl Demand<'_> {
    fn refusal(&self, node: &str) -> Option<NodeRefusal> {
        if !self.anywhere {
            Some(NodeRefusal::NoEndpoint)
        } else if self.nodes.as_ref().is_some_and(|nodes| !nodes.contains(node)) {
            Some(NodeRefusal::NoLocalEndpoint)
        } else {
            None
        }
    }

    fn may_serve(&self, node: &str) -> bool {
        self.hopeful_anywhere && self.hopeful_nodes.as_ref().is_none_or(|nodes| nodes.contains(node))
    }
}

impl Controller {
    /// Takes over a placement that counts more than the own decision: of a standby that took the address over, or of the
    /// controller before. Who stood by goes on to, and the owner of before comes last; whether they may is decided later.
    pub(crate) fn adopt_placement(&mut self, address: IpAddr, seen: Placement) {
        let Some(record) = self.allocator.record(address) else {
            return;
        };
        let own = record.placed.as_ref();
        let newer = seen.epoch > record.epoch || own.is_some_and(|own| seen.order() > own.order());
        if !newer {
            return;
        }
        let mut standbys = seen.standbys;
        let before = own.into_iter().flat_map(|p| p.standbys.iter().chain([&p.owner]));
        for node in before {
            if *node != seen.owner && !standbys.contains(node) {
                standbys.push(node.clone());
            }
        }
        let placed = Placement { standbys, ..seen };
        self.allocator.set_placed(address, Some(placed));
    }

    fn is_told_to_routers(&self, pool: &Pool, view: &ServiceView) -> bool {
        let mut ads = self.world.config().bgp_advertisements.values();
        ads.any(|ad| ad.covers_pool(pool) && ad.covers_service(&view.labels))
    }

    /// The placement an address should have, and why it has none.
    pub(crate) fn place(&self, address: IpAddr, coverage: &mut Coverage) -> (Option<Placement>, Option<Reason>) {
        let Some(record) = self.allocator.record(address) else {
            return (None, None);
        };
        let views = record
            .holders
            .keys()
            .filter_map(|id| self.world.service(id))
            .collect::<Vec<_>>();
        let ads = self.advertisements(address, record, &views);
        if ads.is_empty() {
            // The advertisement that put the address there may be the one that cannot be read.
            if self.world.config().advertisements_unknown && record.placed.is_some() {
                return (record.placed.clone(), None);
            }
            let lies_in = self.world.pool_of(address);
            let by_bgp = |view: &&ServiceView| lies_in.is_some_and(|pool| self.is_told_to_routers(pool, view));
            if views.iter().any(by_bgp) {
                // Every speaker decides about that by itself.
                return (None, None);
            }
            let pool = lies_in.map(|p| p.name.as_str());
            let pool = pool.or(record.recorded_pool()).unwrap_or_default().to_owned();
            return (None, Some(Reason::NoAdvertisement { pool }));
        }
        let rules = self.rules(address, &views);
        let standings = coverage.of(&ads, &rules, self.world.nodes(), &self.allocator);
        let demand = self.demand(address, &views);
        let refusal = |name: &str, s: &Standing| {
            let not_ready = (!s.ready).then_some(NodeRefusal::NotReady);
            s.refusal.or_else(|| demand.refusal(name)).or(not_ready)
        };
        if let Some(placed) = &record.placed {
            // Most looks end here, without one at every node.
            let may = |n: &String| standings.nodes.get(n).is_some_and(|s| refusal(n, s).is_none());
            let all = demand.nodes.is_none() && placed.standbys.len() + 1 == standings.fit.len();
            let complete = all || placed.standbys.len() == STANDBYS;
            let owner = standings.nodes.get(&placed.owner);
            let best = !rules.preemption || owner.is_some_and(|s| s.score >= standings.best);
            if complete && best && may(&placed.owner) && placed.standbys.iter().all(may) {
                return (Some(placed.clone()), None);
            }
        }
        // Who has no fault may announce, but for the endpoints.
        let may_serve = |c: &&Candidate| demand.refusal(&c.name).is_none();
        let some = || standings.fit.iter().filter(may_serve).cloned().collect::<Vec<_>>();
        let eligible = match demand.anywhere && demand.nodes.is_none() {
            true => Cow::Borrowed(&standings.fit[..]),
            false => Cow::Owned(some()),
        };
        let choice = || self.best_owner(address, record, rules.anti_affinity, &eligible);
        if let Some(placed) = &record.placed {
            let owner = placed.owner.as_str();
            let blind = |s: &Standing| s.refusal.is_none() && demand.may_serve(owner);
            let own = eligible.iter().find(|c| *c.name == *owner);
            let better = |own: &Candidate| rules.preemption && choice().is_some_and(|c| c.score > own.score);
            if own.is_some_and(|own| !better(own)) {
                let standbys = standbys(address, record, owner, &eligible);
                let placed = Placement {
                    standbys,
                    ..placed.clone()
                };
                return (Some(placed), None);
            }
            // Losing sight of nodes is no reason to withdraw the last candidate, nor are endpoints that still serve.
            if eligible.is_empty() && standings.nodes.get(owner).is_some_and(blind) {
                return (Some(placed.clone()), None);
            }
        }
        if let Some(owner) = choice() {
            let placed = Placement {
                owner: owner.name.to_string(),
                standbys: standbys(address, record, &owner.name, &eligible),
                epoch: record.epoch + 1,
            };
            return (Some(placed), None);
        }
        let reason = if demand.anywhere || standings.nodes.is_empty() {
            let nodes = standings
                .nodes
                .iter()
                .filter_map(|(n, s)| Some((n.clone(), refusal(n, s)?)));
            Reason::NoEligibleNode { nodes: nodes.collect() }
        } else {
            Reason::NoEndpoint {
                services: views.iter().map(|v| v.id.clone()).collect(),
            }
        };
        (None, Some(reason))
    }

    /// The advertisements for the address. One in no pool any more still has the name of the pool it was taken from,
    /// and no labels.
    fn advertisements(&self, address: IpAddr, record: &Record, views: &[&ServiceView]) -> Vec<&L2Advertisement> {
        let pool = self.world.pool_of(address);
        let covers_pool = |ad: &&L2Advertisement| match (pool, &ad.pools) {
            (Some(pool), _) => ad.covers_pool(pool),
            (None, PoolSelection::All) => true,
            (None, PoolSelection::Some { names, selectors }) => {
                let unlabelled = selectors.iter().any(|s| s.matches(&Labels::new()));
                unlabelled || record.recorded_pool().is_some_and(|p| names.contains(p))
            }
        };
        let ads = self.world.config().l2_advertisements.values();
        ads.filter(covers_pool)
            .filter(|ad| views.iter().any(|v| ad.covers_service(&v.labels)))
            .collect()
    }

    /// What the policies say about the place of the address.
    fn rules(&self, address: IpAddr, views: &[&ServiceView]) -> Rules<'_> {
        let pool = self.world.pool_of(address);
        let services = views.iter().map(|view| view.applicant()).collect::<Vec<_>>();
        Rules::of(self.world.config().policies_of(pool, &services))
    }

    fn demand(&self, address: IpAddr, views: &[&ServiceView]) -> Demand<'_> {
        let pool = self.world.pool_of(address);
        let mut demand = Demand {
            nodes: None,
            anywhere: false,
            hopeful_nodes: None,
            hopeful_anywhere: false,
        };
        let narrow = |all: &mut Option<BTreeSet<_>>, nodes: BTreeSet<_>| match all {
            Some(all) => all.retain(|n| nodes.contains(n)),
            None => *all = Some(nodes),
        };
        for view in views {
            let mut policies = self.world.config().policies_of(pool, &[view.applicant()]);
            let terminating = policies.find_map(|policy| policy.endpoints.serving).unwrap_or(true);
            let serving = self.world.serving(&view.id, terminating);
            let hopeful = serving
                .nodes
                .union(&serving.to_the_last)
                .copied()
                .collect::<BTreeSet<_>>();
            let local = view.traffic_policy == TrafficPolicy::Local;
            // A Local Service without any endpoint has nothing to lose, and must not take the address from others.
            demand.anywhere |= if local {
                !serving.nodes.is_empty()
            } else {
                serving.anywhere
            };
            demand.hopeful_anywhere |= serving.anywhere || !hopeful.is_empty();
            if local && !hopeful.is_empty() {
                narrow(&mut demand.hopeful_nodes, hopeful);
            }
            if local && !serving.nodes.is_empty() {
                narrow(&mut demand.nodes, serving.nodes);
            }
        }
        demand
    }

    /// Tells the holders that nobody announces their address, when it is news. A new Service whose endpoints are still
    /// to come is no failure.
    pub(crate) fn report_silence(&mut self, address: IpAddr, silent: Option<&Reason>, effects: &mut Vec<Effect>) {
        let Some(record) = self.allocator.record_mut(address) else {
            return;
        };
        let name = silent.map(Reason::as_str);
        if record.silent == name {
            return;
        }
        record.silent = name;
        let was_announced = record.epoch > 0;
        let holders = record.holders.keys().cloned().collect::<Vec<_>>();
        if let Some(reason) = silent
            && (was_announced || !matches!(reason, Reason::NoEndpoint { .. }))
        {
            for id in holders {
                let message = format!("Nobody announces {address}. {}: {reason}", reason.as_str());
                self.event(&id, EventKind::AnnounceFailed, message, effects);
            }
        }
    }
}
