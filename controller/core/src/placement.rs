//! Who announces an address at layer 2.
//!
//! The owner stays as long as it may announce (`standing.rs`), and a choice (`spread.rs`) is made only without one, or where
//! a policy asks for pre-emption and a node of a higher score is there. Standbys stay in the same way, so that a node that comes or goes
//! touches only the addresses it matters to.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_model::{
    L2Advertisement, Labels, NodeRefusal, Placement, Pool, PoolSelection, Reason, ServiceView, TrafficPolicy,
};

use crate::allocator::Record;
use crate::controller::Controller;
use crate::effect::{Effect, EventKind};
use crate::moves::Answer;
use crate::spread::{Candidate, Crowd, Rules, STANDBYS, standbys};
use crate::standing::{Coverage, Grade, Standing, Standings};
use crate::timers::Timer;

/// What was decided about an address.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// Who announces it, and who stands by.
    pub(crate) placed: Option<Placement>,
    /// Why nobody does.
    pub(crate) silent: Option<Reason>,
    /// Why its owner would give it up if another node could have it.
    pub(crate) last: Option<NodeRefusal>,
    /// What becomes of a request that is not answered yet.
    pub(crate) answer: Option<Answer>,
    /// The speaker of some node that could announce it has told of itself.
    pub(crate) speaks: bool,
    /// How long the owner may wait for its kube-proxy by a policy.
    pub(crate) wait: Duration,
}

impl Decision {
    fn stays(placed: &Placement) -> Self {
        Decision {
            placed: Some(placed.clone()),
            ..Decision::default()
        }
    }

    fn silent(reason: Reason) -> Self {
        Decision {
            silent: Some(reason),
            ..Decision::default()
        }
    }
}

/// What the place of one address depends on.
pub(crate) struct Round<'a> {
    pub(crate) address: IpAddr,
    pub(crate) record: &'a Record,
    pub(crate) rules: &'a Rules<'a>,
    pub(crate) standings: &'a Standings,
    pub(crate) demand: &'a Demand<'a>,
    /// The owner has taken the address over not long ago.
    believed: bool,
}

/// So long a standby that took an address over has it, although it would not be chosen: until then Kubernetes has noticed that
/// a node is gone, which takes it 50 s, and its silence was waited out.
const BELIEF: Duration = Duration::from_secs(90);

impl Round<'_> {
    /// The grade of a node that may announce.
    fn grade(&self, node: &str) -> Option<Grade> {
        let standing = self.standings.nodes.get(node)?;
        let able = standing.ready && standing.fault.is_none() && self.demand.refusal(node).is_none();
        able.then(|| standing.grade())
    }

    /// The best grade among those that may.
    fn best(&self) -> Option<Grade> {
        match &self.demand.nodes {
            _ if !self.demand.anywhere => None,
            None => self.standings.best(),
            Some(nodes) => nodes.iter().filter_map(|node| self.grade(node)).min(),
        }
    }

    /// Those of the best grade.
    pub(crate) fn eligible(&self) -> Cow<'_, Crowd> {
        let Some(best) = self.best() else {
            return Cow::Owned(Crowd::default());
        };
        let all = self.standings.of(best);
        match &self.demand.nodes {
            None => Cow::Borrowed(all),
            Some(nodes) => {
                let some = all.candidates.iter().filter(|c| nodes.contains(&*c.name));
                Cow::Owned(Crowd::new(some.cloned()))
            }
        }
    }

    /// The nodes that stand by for an owner: those there are, as far as they may announce, then others.
    pub(crate) fn standbys(&self, owner: &str, eligible: &Crowd) -> Vec<String> {
        let best = self.best();
        let old = self.record.placed.iter().flat_map(|p| &p.standbys);
        let stay = old.filter(|node| *node != owner && best.is_some() && self.grade(node) == best);
        let found = standbys(self.address, stay.map(String::as_str), owner, eligible);
        if !found.is_empty() {
            return found;
        }
        let spare = Crowd::new(self.spare().cloned());
        standbys(self.address, std::iter::empty(), owner, &spare)
    }

    /// Those that are better than nobody.
    fn spare(&self) -> impl Iterator<Item = &Candidate> {
        let spare = self.standings.spare().iter();
        spare.filter(|candidate| self.demand.may_serve(&candidate.name))
    }

    /// The placement there is, where nothing of it changes. Most looks end here, without one at every node.
    fn stays(&self) -> Option<Placement> {
        let (placed, best) = (self.record.placed.as_ref()?, self.best()?);
        let is_sure = |node: &&String| self.standings.nodes.get(*node).is_some_and(|s| !s.awaited);
        let named = placed.standbys.iter().chain([&placed.owner]);
        let all =
            || self.demand.nodes.is_none() && named.filter(is_sure).count() == self.standings.of(best).sure().len();
        let complete = placed.standbys.len() == STANDBYS || all();
        let may = |node: &String| self.grade(node) == Some(best);
        let score = self.standings.nodes.get(&placed.owner).map(|s| s.score);
        let contested = || self.rules.preemption && score < Some(self.standings.score(best));
        let stays = complete && may(&placed.owner) && placed.standbys.iter().all(may) && !contested();
        stays.then(|| placed.clone())
    }

    /// Whether a node that may not announce goes on nevertheless, when nobody may. Losing sight of nodes, or of the network
    /// around them, is no reason to withdraw, nor are endpoints that still serve.
    fn is_last(&self, owner: &str) -> bool {
        let fault = self.standings.nodes.get(owner).map(|standing| standing.fault);
        let blind = matches!(
            fault,
            Some(None | Some(NodeRefusal::NoInterface | NodeRefusal::NoSubnet))
        );
        blind && self.demand.may_serve(owner)
    }

    /// Why the node may not.
    fn refusal(&self, node: &str, standing: &Standing) -> Option<NodeRefusal> {
        let not_ready =
            (!standing.ready || standing.awaited && self.record.placed.is_none()).then_some(NodeRefusal::NotReady);
        standing.fault.or_else(|| self.demand.refusal(node)).or(not_ready)
    }

    /// Why nobody announces the address.
    fn silence(&self) -> Reason {
        if self.demand.anywhere || self.standings.nodes.is_empty() {
            let nodes = self.refusals();
            return Reason::NoEligibleNode { nodes };
        }
        let services = self.record.holders.keys().cloned().collect();
        Reason::NoEndpoint { services }
    }

    /// Why each node may not.
    fn refusals(&self) -> Vec<(String, NodeRefusal)> {
        let nodes = self.standings.nodes.iter();
        nodes
            .filter_map(|(name, s)| Some((name.clone(), self.refusal(name, s)?)))
            .collect()
    }

    /// Whether the speaker of some node that may announce has told of itself.
    fn speaks(&self) -> bool {
        let speaks = |node: &&&str| self.standings.nodes.get(**node).is_some_and(|s| s.speaks);
        match &self.demand.nodes {
            None => self.standings.any_speaks,
            Some(nodes) => nodes.iter().filter(speaks).any(|node| self.grade(node).is_some()),
        }
    }

    /// Why the owner would give the address up.
    pub(crate) fn reluctance(&self, owner: &str) -> Option<NodeRefusal> {
        let standing = self.standings.nodes.get(owner)?;
        self.refusal(owner, standing).or(standing.doubt())
    }
}

/// Where traffic for the address can be served.
pub(crate) struct Demand<'a> {
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
    pub(crate) fn adopt_placement(&mut self, address: IpAddr, seen: Placement, now: Duration) {
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
        // Before the first pass no time is kept.
        let taken = self.synced && own.is_some_and(|own| own.owner != placed.owner);
        self.allocator.set_placed(address, Some(placed));
        if let Some(record) = self.allocator.record_mut(address).filter(|_| taken) {
            record.believed_until = now + BELIEF;
            self.timers.set(Timer::Belief(address), now + BELIEF);
        }
    }

    fn is_told_to_routers(&self, pool: &Pool, view: &ServiceView) -> bool {
        let mut ads = self.world.config().bgp_advertisements.values();
        ads.any(|ad| ad.covers_pool(pool) && ad.covers_service(&view.labels))
    }

    /// The placement an address should have, and why it has none.
    pub(crate) fn place(&self, address: IpAddr, coverage: &mut Coverage, now: Duration) -> Decision {
        let decide = |round: &Round<'_>| {
            let Some(placed) = round.stays().or_else(|| self.choose(round)) else {
                return Decision::silent(round.silence());
            };
            let answer = self.answer(round, &placed);
            let placed = match &answer {
                Some(Answer { outcome: Ok(moved), .. }) => moved.clone(),
                _ => placed,
            };
            Decision {
                last: round.reluctance(&placed.owner),
                placed: Some(placed),
                silent: None,
                answer,
                speaks: round.speaks(),
                wait: round.rules.wait(),
            }
        };
        match self.look(address, coverage, now, decide) {
            Some((_, Some(decision))) => decision,
            Some((record, None)) => self.unadvertised(address, record),
            None => Decision::default(),
        }
    }

    /// Lets `judge` look at all that the place of the address depends on; it is not asked where no layer-2 advertisement
    /// covers the address.
    pub(crate) fn look<T>(
        &self,
        address: IpAddr,
        coverage: &mut Coverage,
        now: Duration,
        judge: impl FnOnce(&Round<'_>) -> T,
    ) -> Option<(&Record, Option<T>)> {
        let record = self.allocator.record(address)?;
        let views = self.views(record);
        let ads = self.advertisements(address, record, &views);
        if ads.is_empty() {
            return Some((record, None));
        }
        let rules = self.rules(address, &views);
        let subnets = self.world.subnets().of(address);
        let standings = coverage.of(&ads, &rules, subnets, &self.world, &self.allocator, now);
        let demand = self.demand(address, &views, now);
        let round = Round {
            address,
            record,
            rules: &rules,
            standings: &standings,
            demand: &demand,
            believed: now < record.believed_until,
        };
        Some((record, Some(judge(&round))))
    }

    /// The Services that hold the address.
    pub(crate) fn views(&self, record: &Record) -> Vec<&ServiceView> {
        let holders = record.holders.keys();
        holders.filter_map(|id| self.world.service(id)).collect()
    }

    /// What becomes of an address that no layer-2 advertisement covers.
    fn unadvertised(&self, address: IpAddr, record: &Record) -> Decision {
        // The advertisement that put the address there may be the one that cannot be read.
        let unknown = self.world.config().advertisements_unknown;
        if let Some(placed) = record.placed.as_ref().filter(|_| unknown) {
            return Decision::stays(placed);
        }
        let lies_in = self.world.pool_of(address);
        let by_bgp = |view: &&ServiceView| lies_in.is_some_and(|pool| self.is_told_to_routers(pool, view));
        if self.views(record).iter().any(by_bgp) {
            // Every speaker decides about that by itself.
            return Decision::default();
        }
        let pool = lies_in.map(|p| p.name.as_str());
        let pool = pool.or(record.recorded_pool()).unwrap_or_default().to_owned();
        Decision::silent(Reason::NoAdvertisement { pool })
    }

    /// The placement where something changes: other standbys, another owner, or nobody.
    fn choose(&self, round: &Round<'_>) -> Option<Placement> {
        let (address, record) = (round.address, round.record);
        let eligible = round.eligible();
        let choice = || {
            let best = self.best_owner(address, record, round.rules.anti_affinity, &eligible);
            // Nobody knows whether an awaited node is there: better than to withdraw, and no place to begin.
            best.filter(|c| !c.awaited || record.placed.is_some())
        };
        if let Some(placed) = &record.placed {
            let own = eligible.candidates.iter().find(|c| *c.name == *placed.owner);
            let better = |own: &Candidate| round.rules.preemption && choice().is_some_and(|c| c.score > own.score);
            if own.is_some_and(|own| !better(own)) {
                return Some(Placement {
                    standbys: round.standbys(&placed.owner, &eligible),
                    ..placed.clone()
                });
            }
            if eligible.candidates.is_empty() && round.is_last(&placed.owner) {
                return Some(placed.clone());
            }
            if round.believed && round.spare().any(|c| *c.name == *placed.owner) {
                return Some(Placement {
                    standbys: round.standbys(&placed.owner, &eligible),
                    ..placed.clone()
                });
            }
        }
        choice().map(|owner| Placement {
            owner: owner.name.to_string(),
            standbys: round.standbys(&owner.name, &eligible),
            epoch: record.epoch + 1,
        })
    }

    /// The advertisements for the address. One in no pool any more still has the name of the pool it was taken from,
    /// and no labels.
    pub(crate) fn advertisements(
        &self,
        address: IpAddr,
        record: &Record,
        views: &[&ServiceView],
    ) -> Vec<&L2Advertisement> {
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

    fn demand(&self, address: IpAddr, views: &[&ServiceView], now: Duration) -> Demand<'_> {
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
            let serving = self.world.serving(&view.id, terminating, now);
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
        // What a write of ours says is told when its answer comes, which the watch may outrun.
        let told = |name: &&str| record.flight.is_none() || record.silent == Some(*name);
        let name = silent.map(Reason::as_str).or_else(|| record.overdue().filter(told));
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
