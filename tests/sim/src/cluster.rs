//! The administrators and the machines: pools, namespaces, policies, nodes. Every configuration is valid: a block of
//! addresses belongs to one pool at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use fastrand::Rng;
use ferrolb_controller_core::RebalanceRequest;
use ferrolb_model::{
    AllocationPolicy, Config, IpRange, L2Advertisement, LabelSelector, Labels, NodeView, OnShrink, Operator, Pool,
    PoolSelection, Requirement, ServiceAllocation,
};

use crate::history::{Action, Scenario};
use crate::users::NAMESPACES;

const POOLS: [&str; 4] = ["a", "b", "c", "d"];
pub(crate) const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const TEAMS: [&str; 2] = ["x", "y"];

/// The first and the last address of each block; small ones, so that they run out, and two that never do.
const BLOCKS: [(IpAddr, IpAddr); 5] = [
    (v4(10, 0, 0, 254), v4(10, 0, 1, 1)),
    (v4(10, 0, 2, 1), v4(10, 0, 2, 3)),
    (v6(0, 1), v6(0, 3)),
    (v6(1, 0), v6(1, 0xffff)),
    (v4(10, 1, 0, 0), v4(10, 1, 0, 255)),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(block: u16, last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, block, last))
}

/// An address that a request, a reservation or a hand may name: mostly one of a pool.
pub(crate) fn any_address(rng: &mut Rng) -> IpAddr {
    match rng.u8(..12) {
        0 => v4(203, 0, 113, 1),
        1 => v4(10, 9, 0, rng.u8(1..3)),
        n => {
            let (first, last) = BLOCKS[usize::from(n % 5)];
            nth(first, rng.u128(..4)).filter(|a| *a <= last).unwrap_or(first)
        }
    }
}

fn nth(first: IpAddr, n: u128) -> Option<IpAddr> {
    match first {
        IpAddr::V4(a) => u32::try_from(n)
            .ok()
            .and_then(|n| u32::from(a).checked_add(n))
            .map(|a| IpAddr::V4(a.into())),
        IpAddr::V6(a) => u128::from(a).checked_add(n).map(|a| IpAddr::V6(a.into())),
    }
}

/// The label `key=value`.
pub(crate) fn selector(key: &str, value: &str) -> LabelSelector {
    LabelSelector {
        requirements: vec![Requirement {
            key: key.to_owned(),
            operator: Operator::In([value.to_owned()].into()),
        }],
    }
}

/// A pool as its administrator wrote it.
#[derive(Clone, Debug)]
struct PoolSpec {
    pool: Pool,
    /// The team whose namespaces it is kept for.
    team: Option<&'static str>,
}

/// A policy as its administrator wrote it: `None` is every namespace.
#[derive(Clone, Debug)]
struct PolicySpec {
    policy: AllocationPolicy,
    team: Option<&'static str>,
}

/// What administrators decided so far.
#[derive(Debug)]
pub(crate) struct Cluster {
    pools: BTreeMap<&'static str, PoolSpec>,
    teams: BTreeMap<&'static str, &'static str>,
    policy: Option<PolicySpec>,
    nodes: BTreeMap<&'static str, NodeView>,
}

impl Cluster {
    /// The cluster at its start.
    pub(crate) fn draw(rng: &mut Rng, scenario: &Scenario) -> Self {
        let mut cluster = Cluster {
            pools: BTreeMap::new(),
            teams: BTreeMap::from([(NAMESPACES[0], TEAMS[0]), (NAMESPACES[1], TEAMS[1])]),
            policy: None,
            nodes: NODES[..3].iter().map(|n| (*n, node(n))).collect(),
        };
        let pools = rng.usize(1..=3);
        for name in &POOLS[..pools] {
            cluster.edit_pool(rng, name);
        }
        if scenario.policies {
            cluster.policy = Some(policy(rng));
        }
        cluster
    }

    /// What stands before the first controller starts.
    pub(crate) fn start(&self) -> Vec<Action> {
        let nodes = self.nodes.values().cloned().map(Action::Node);
        nodes.chain([self.config("start")]).collect()
    }

    /// Something happens; `None` where the scenario has nothing of it.
    pub(crate) fn act(&mut self, rng: &mut Rng, scenario: &Scenario) -> Option<Action> {
        let kind = rng.u8(..4);
        match kind {
            0 | 1 if scenario.admin => Some(self.administer(rng, scenario)),
            2 if scenario.nodes => Some(self.change_node(rng)),
            3 if scenario.hands => Some(hand(rng)),
            _ => None,
        }
    }

    fn administer(&mut self, rng: &mut Rng, scenario: &Scenario) -> Action {
        let name = POOLS[rng.usize(..POOLS.len())];
        let why = match rng.u8(..10) {
            0 | 1 if self.pools.len() > 1 => {
                self.pools.remove(name);
                format!("pool {name} is deleted")
            }
            2 => {
                let to = POOLS[rng.usize(..POOLS.len())];
                if let Some(mut spec) = self.pools.remove(name) {
                    to.clone_into(&mut spec.pool.name);
                    self.pools.insert(to, spec);
                }
                format!("pool {name} is renamed to {to}")
            }
            3 => {
                let namespace = NAMESPACES[rng.usize(..NAMESPACES.len())];
                let team = TEAMS[rng.usize(..TEAMS.len())];
                self.teams.insert(namespace, team);
                format!("namespace {namespace} belongs to team {team}")
            }
            4 if scenario.policies => {
                self.policy = rng.bool().then(|| policy(rng));
                "the policy changes".to_owned()
            }
            _ => {
                self.edit_pool(rng, name);
                format!("pool {name} is edited")
            }
        };
        self.config(&why)
    }

    fn edit_pool(&mut self, rng: &mut Rng, name: &'static str) {
        let taken = |block: usize, pools: &BTreeMap<&str, PoolSpec>| {
            let (first, last) = BLOCKS[block];
            let mut others = pools.iter().filter(|(n, _)| **n != name);
            others.any(|(_, s)| s.pool.ranges.iter().any(|r| first <= r.last() && r.first() <= last))
        };
        let mut ranges = Vec::new();
        for (block, (first, last)) in BLOCKS.into_iter().enumerate() {
            // The big blocks are rare: who never has to wait shows little.
            if rng.u8(..if block < 3 { 2 } else { 6 }) != 0 || taken(block, &self.pools) {
                continue;
            }
            let from = nth(first, rng.u128(..2)).unwrap_or(first);
            let to = nth(first, rng.u128(1..5))
                .filter(|a| *a <= last && block < 3)
                .unwrap_or(last);
            ranges.extend(IpRange::new(from.min(to), to));
        }
        if rng.bool() {
            ranges.reverse();
        }
        let team = (rng.u8(..6) == 0).then(|| TEAMS[rng.usize(..TEAMS.len())]);
        let pinned = team.is_some() || rng.u8(..5) == 0;
        let allocation = pinned.then(|| ServiceAllocation {
            priority: rng.i32(0..3),
            namespaces: None,
            service_selectors: if rng.u8(..3) == 0 {
                vec![selector("tier", "front")]
            } else {
                Vec::new()
            },
        });
        let pool = Pool {
            name: name.to_owned(),
            labels: Labels::new(),
            ranges,
            auto_assign: rng.u8(..5) != 0,
            avoid_buggy_ips: rng.u8(..4) == 0,
            allocation,
            on_shrink: if rng.u8(..5) == 0 {
                OnShrink::Reassign
            } else {
                OnShrink::Keep
            },
        };
        self.pools.insert(name, PoolSpec { pool, team });
    }

    fn change_node(&mut self, rng: &mut Rng) -> Action {
        let name = NODES[rng.usize(..NODES.len())];
        if rng.u8(..5) == 0 {
            self.nodes.remove(name);
            return Action::NodeGone(name.to_owned());
        }
        let view = self.nodes.entry(name).or_insert_with(|| node(name));
        match rng.u8(..5) {
            0 | 1 => view.ready = !view.ready,
            2 => view.excluded = !view.excluded,
            3 => view.network_unavailable = !view.network_unavailable,
            _ => {
                let address = any_address(rng);
                if !view.addresses.remove(&address) {
                    view.addresses.insert(address);
                }
            }
        }
        Action::Node(view.clone())
    }

    fn config(&self, why: &str) -> Action {
        let members = |team: Option<&'static str>| {
            let team = team?;
            let names = self
                .teams
                .iter()
                .filter(|(_, t)| **t == team)
                .map(|(n, _)| (*n).to_owned());
            Some(names.collect::<BTreeSet<_>>())
        };
        let pools = self.pools.values().map(|spec| {
            let mut pool = spec.pool.clone();
            if let Some(allocation) = &mut pool.allocation {
                allocation.namespaces = members(spec.team);
            }
            (pool.name.clone(), pool)
        });
        let policies = self.policy.iter().map(|spec| {
            let mut policy = spec.policy.clone();
            policy.namespaces = members(spec.team);
            (policy.name.clone(), policy)
        });
        let ad = L2Advertisement {
            name: "all".to_owned(),
            pools: PoolSelection::All,
            node_selectors: Vec::new(),
            service_selectors: Vec::new(),
            interfaces: None,
            preferred_nodes: Vec::new(),
        };
        let config = Config {
            pools: pools.collect(),
            l2_advertisements: BTreeMap::from([(ad.name.clone(), ad)]),
            allocation_policies: policies.collect(),
            ..Config::default()
        };
        Action::Config(Arc::new(config), why.to_owned())
    }
}

fn node(name: &str) -> NodeView {
    NodeView {
        name: name.to_owned(),
        labels: Labels::from([("kubernetes.io/hostname".to_owned(), name.to_owned())]),
        ready: true,
        silent: false,
        network_unavailable: false,
        excluded: false,
        cordoned: false,
        evicting: false,
        addresses: BTreeSet::new(),
    }
}

fn policy(rng: &mut Rng) -> PolicySpec {
    let some = |rng: &mut Rng| rng.u8(..3) == 0;
    let policy = AllocationPolicy {
        name: "limits".to_owned(),
        namespaces: None,
        pools: some(rng).then(|| POOLS.iter().filter(|_| rng.bool()).map(|p| (*p).to_owned()).collect()),
        max_addresses: some(rng).then(|| rng.u32(0..4)),
        requestable: some(rng).then(|| BLOCKS[..1].iter().flat_map(|(a, b)| IpRange::new(*a, *b)).collect()),
        share_with: some(rng).then(BTreeSet::new),
    };
    PolicySpec {
        policy,
        team: rng.bool().then(|| TEAMS[rng.usize(..TEAMS.len())]),
    }
}

fn hand(rng: &mut Rng) -> Action {
    let address = any_address(rng);
    match rng.u8(..12) {
        0 | 1 => Action::DeleteVirtualIp(address),
        2 | 3 => Action::Reserve {
            address,
            service: rng.bool().then(|| crate::users::any_service(rng)),
            retain: rng.bool(),
        },
        4 => Action::Retain {
            address,
            retain: rng.bool(),
        },
        5 => Action::TakeOver(address),
        8 | 9 => Action::Move {
            address,
            request: format!("{} {}", rng.choice(NODES).unwrap_or("nowhere"), rng.u8(..)),
        },
        10 | 11 => Action::Rebalance(RebalanceRequest {
            text: rng.u8(..).to_string(),
            budget: (rng.u8(..8) != 0).then(|| rng.usize(1..5)),
        }),
        _ => Action::WriteStatus {
            service: crate::users::any_service(rng),
            ingress: (0..rng.usize(..3)).map(|_| any_address(rng)).collect(),
            foreign: rng.u8(..4) == 0,
        },
    }
}
