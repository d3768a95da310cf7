//! How nodes stand to an address, endpoints aside: which may announce it, and why the others may not.
//!
//! Nodes come in grades. Who is drained by a cordon or a taint, or has no speaker, is left out as long as there is anybody
//! else, and does what nobody else can do. Everything else that speaks against a node rules it out. Where one node alone may
//! announce, others stand by that are drained or not Ready and have a speaker: better than nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{DrainTrigger, L2Advertisement, NetworkView, NodeRefusal, NodeView};
use ipnet::IpNet;

use crate::allocator::Allocator;
use crate::spread::{Candidate, Crowd, Rules};
use crate::world::World;

/// How much a node without a fault is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grade {
    /// Nothing speaks against it.
    Fit,
    /// It is drained, and may be the last.
    Draining,
    /// Nothing is heard of its speaker.
    Unheard,
}

impl Grade {
    const ALL: [Grade; 3] = [Grade::Fit, Grade::Draining, Grade::Unheard];
}

/// How one node stands to a set of advertisements, endpoints aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) score: u32,
    /// What rules it out, other than not being Ready.
    pub(crate) fault: Option<NodeRefusal>,
    /// It is Ready, or awaited.
    pub(crate) ready: bool,
    /// Kubernetes hears nothing of it, and not for long: it keeps what it has, and gets nothing new where there is another.
    pub(crate) awaited: bool,
    /// Why it is wanted less than others, and how much less.
    doubt: Option<NodeRefusal>,
    /// Its speaker tells of the network.
    heard: bool,
    /// Its speaker has told of itself.
    pub(crate) speaks: bool,
}

impl Standing {
    /// Why it does not announce as long as others can.
    pub(crate) fn doubt(&self) -> Option<NodeRefusal> {
        self.doubt
    }

    pub(crate) fn grade(&self) -> Grade {
        match self.doubt {
            None => Grade::Fit,
            Some(NodeRefusal::NoSpeaker) => Grade::Unheard,
            Some(_) => Grade::Draining,
        }
    }
}

/// How all nodes stand.
#[derive(Debug)]
pub(crate) struct Standings {
    pub(crate) nodes: BTreeMap<String, Standing>,
    /// Those that may announce, by grade.
    grades: [Crowd; 3],
    /// Those that stand by where nobody else does.
    spare: Crowd,
    /// The speaker of some node that may announce has told of itself.
    pub(crate) any_speaks: bool,
}

impl Standings {
    fn new(nodes: BTreeMap<String, Standing>, allocator: &Allocator) -> Self {
        let any_speaks = nodes.values().any(|s| s.ready && s.fault.is_none() && s.speaks);
        let grades = Grade::ALL.map(|grade| {
            let able = nodes
                .iter()
                .filter(|(_, s)| s.ready && s.fault.is_none() && s.grade() == grade);
            Crowd::new(able.filter_map(|(name, s)| Candidate::new(name, s.score, s.awaited, allocator)))
        });
        let spare = nodes.iter().filter(|(_, s)| {
            let reluctant = !s.ready || s.grade() == Grade::Draining;
            reluctant && s.heard && s.fault.is_none()
        });
        let spare = spare.filter_map(|(name, s)| Candidate::new(name, s.score, false, allocator));
        Standings {
            grades,
            spare: Crowd::new(spare),
            any_speaks,
            nodes,
        }
    }

    /// The best grade that any node has.
    pub(crate) fn best(&self) -> Option<Grade> {
        Grade::ALL
            .into_iter()
            .find(|grade| !self.of(*grade).candidates.is_empty())
    }

    /// The highest score of a node of this grade that is not awaited.
    pub(crate) fn score(&self, grade: Grade) -> u32 {
        self.of(grade).sure().first().map_or(0, |c| c.score)
    }

    /// Those that stand by where nobody else does.
    pub(crate) fn spare(&self) -> &[Candidate] {
        &self.spare.candidates
    }

    /// The nodes of this grade.
    pub(crate) fn of(&self, grade: Grade) -> &Crowd {
        &self.grades[grade as usize]
    }
}

/// What standings depend on besides nodes and time: the names of advertisements and policies, and the subnets that
/// contain the address.
type Case = ([Vec<String>; 2], Vec<IpNet>);

/// So many cases are remembered. With racks that have subnets of their own there may be many, each with every node.
const CASES: usize = 128;

/// Standings by case; valid until a node or the configuration changes, and no longer than [`Coverage::due`].
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    cases: BTreeMap<Case, Arc<Standings>>,
    /// When a delay is over.
    due: Option<Duration>,
    /// Some cases were forgotten.
    partial: bool,
}

impl Coverage {
    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Coverage::default();
    }

    /// When standings change without news.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// The standings for an address in `subnets` that `ads` cover and about which `rules` speak.
    pub(crate) fn of(
        &mut self,
        ads: &[&L2Advertisement],
        rules: &Rules<'_>,
        subnets: Vec<IpNet>,
        world: &World,
        allocator: &Allocator,
        now: Duration,
    ) -> Arc<Standings> {
        let names = ads.iter().map(|ad| ad.name.clone()).collect();
        let policies = rules.policies.iter().map(|p| p.name.clone()).collect();
        let case = ([names, policies], subnets);
        if let Some(known) = self.cases.get(&case) {
            return Arc::clone(known);
        }
        let judge = Judge {
            ads,
            rules,
            subnets: &case.1,
            world,
            now,
        };
        let nodes = world.nodes();
        let nodes = nodes
            .iter()
            .map(|(name, node)| (name.clone(), judge.standing(node, &mut self.due)));
        let standings = Arc::new(Standings::new(nodes.collect(), allocator));
        if self.cases.len() == CASES {
            self.cases.clear();
            self.partial = true;
        }
        self.cases.insert(case, Arc::clone(&standings));
        standings
    }

    /// Whether a node that was there before stands differently to any address than it did.
    pub(crate) fn is_changed_by(&mut self, node: &NodeView, world: &World, now: Duration) -> bool {
        let config = world.config();
        let differs = |(case, standings): (&Case, &Arc<Standings>)| {
            let ([ads, policies], subnets) = case;
            let ads = ads.iter().filter_map(|name| config.l2_advertisements.get(name));
            let ads = ads.collect::<Vec<_>>();
            let policies = policies
                .iter()
                .filter_map(|name| config.announcement_policies.get(name));
            let rules = &Rules::of(policies);
            let judge = Judge {
                ads: &ads,
                rules,
                subnets,
                world,
                now,
            };
            standings.nodes.get(&node.name) != Some(&judge.standing(node, &mut self.due))
        };
        self.partial || self.cases.iter().any(differs)
    }
}

/// What one case is judged by.
struct Judge<'a> {
    ads: &'a [&'a L2Advertisement],
    rules: &'a Rules<'a>,
    subnets: &'a [IpNet],
    world: &'a World,
    now: Duration,
}

impl Judge<'_> {
    /// Sets `due` when there is an earlier moment at which it may be otherwise.
    fn standing(&self, node: &NodeView, due: &mut Option<Duration>) -> Standing {
        let covering = || self.ads.iter().filter(|ad| ad.covers_node(&node.labels));
        let (triggers, delay) = self.rules.drain(&node.labels);
        let mut is_over = |at: Option<Duration>| {
            if let Some(at) = at.filter(|at| *at > self.now) {
                *due = Some(due.map_or(at, |other| other.min(at)));
            }
            at.is_some_and(|at| at <= self.now)
        };
        let since = self.world.since();
        let mut drained = |trigger| {
            let holds = since
                .trigger(&node.name, trigger)
                .filter(|_| triggers.contains(&trigger));
            is_over(holds.map(|at| at + delay))
        };
        let excluded = drained(DrainTrigger::ExcludeLabel);
        let draining = if drained(DrainTrigger::Taint) {
            Some(NodeRefusal::Tainted)
        } else {
            drained(DrainTrigger::Cordon).then_some(NodeRefusal::Cordoned)
        };
        let network = self.world.network(&node.name);
        let fault = if covering().next().is_none() {
            Some(NodeRefusal::NotSelected)
        } else if excluded {
            Some(NodeRefusal::Excluded)
        } else if node.network_unavailable {
            Some(NodeRefusal::NetworkUnavailable)
        } else {
            network.and_then(|network| self.unconnected(node, network))
        };
        let unheard = network.is_none() && is_over(since.has_none_at(&node.name));
        let doubt = unheard.then_some(NodeRefusal::NoSpeaker);
        let lost_at = since.lost_at(&node.name);
        let awaited = lost_at.is_some() && !is_over(lost_at);
        let preferences = self.ads.iter().map(|ad| ad.score(&node.labels));
        Standing {
            score: preferences.fold(self.rules.weight(&node.labels), u32::saturating_add),
            fault,
            ready: node.ready || awaited,
            awaited,
            doubt: doubt.or(draining),
            heard: network.is_some(),
            speaks: self.world.networks().contains_key(&node.name),
        }
    }

    /// Why no interface of the node will do: each has to be up, and one that an advertisement names if all that cover the
    /// node name some.
    fn unconnected(&self, node: &NodeView, network: &NetworkView) -> Option<NodeRefusal> {
        let covering = || self.ads.iter().filter(|ad| ad.covers_node(&node.labels));
        let wanted = |name: &str| {
            let mut allowed = covering().map(|ad| ad.interfaces.as_ref());
            allowed.any(|names| names.is_none_or(|names| names.contains(name)))
        };
        let mut links = network.links.iter().filter(|l| l.running && wanted(&l.name)).peekable();
        if links.peek().is_none() {
            return Some(NodeRefusal::NoInterface);
        }
        let mut nets = links.flat_map(|link| &link.subnets).map(IpNet::trunc);
        let inside = !self.rules.checks_subnet(&node.labels) || nets.any(|net| self.subnets.contains(&net));
        (!inside).then_some(NodeRefusal::NoSubnet)
    }
}
