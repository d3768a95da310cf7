//! Which of the nodes that may announce an address does, and which stand by.
//!
//! An owner is chosen by preference first, then by the number of addresses it announces already, the Service's other one
//! not counted, then beside that other one, then by a fixed hash. So the families of a Service share a node, and Services
//! are spread. A policy's anti-affinity goes before all of that, and keeps addresses apart as far as there are nodes.
//!
//! Standbys are chosen by preference and hash alone: were the number of addresses looked at, one empty node would stand by
//! for everybody. So the addresses of a node that dies come to many others.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{AnnouncementPolicy, AntiAffinity, DrainTrigger, Labels};

use crate::allocator::{Allocator, Record};
use crate::controller::Controller;

/// A placement names at most this many standbys.
pub(crate) const STANDBYS: usize = 4;

/// A node that may announce the address.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) name: Arc<str>,
    /// By the preferences of advertisements and policies.
    pub(crate) score: u32,
    /// The allocator's number for it.
    pub(crate) seat: usize,
    /// [`seed`] of its name.
    pub(crate) seed: u64,
}

impl Candidate {
    /// A node that the allocator has counted.
    pub(crate) fn new(name: &str, score: u32, allocator: &Allocator) -> Option<Self> {
        Some(Candidate {
            name: Arc::from(name),
            score,
            seat: allocator.seat(name)?,
            seed: seed(name),
        })
    }
}

/// What the policies that select an address say about its place.
#[derive(Debug, Default)]
pub(crate) struct Rules<'a> {
    /// All of them, in the order in which they decide.
    pub(crate) policies: Vec<&'a AnnouncementPolicy>,
    /// Which other addresses shall be elsewhere.
    pub(crate) anti_affinity: Option<&'a AntiAffinity>,
    /// A node of a higher score takes the address back.
    pub(crate) preemption: bool,
}

impl<'a> Rules<'a> {
    /// The rules of these policies, each from the first that has it.
    pub(crate) fn of(policies: impl Iterator<Item = &'a AnnouncementPolicy> + Clone) -> Self {
        Rules {
            policies: policies.clone().collect(),
            anti_affinity: policies.clone().find_map(|p| p.layer2.anti_affinity.as_ref()),
            preemption: policies.clone().find_map(|p| p.layer2.preemption).unwrap_or(false),
        }
    }

    /// What the weights of the first policy that has some for the node add to its score.
    pub(crate) fn weight(&self, labels: &Labels) -> u32 {
        let mut with = self.of_node(labels).filter(|p| !p.layer2.weights.is_empty());
        let weights = with.next().into_iter().flat_map(|p| &p.layer2.weights);
        let matching = weights.filter(|w| w.selector.matches(labels)).map(|w| w.weight);
        matching.fold(0, u32::saturating_add)
    }

    /// What makes a node with these labels give its addresses up, and how long it has to last.
    pub(crate) fn drain(&self, labels: &Labels) -> (Cow<'a, BTreeSet<DrainTrigger>>, Duration) {
        let triggers = self.of_node(labels).find_map(|p| p.drain.triggers.as_ref());
        let triggers = triggers.map_or_else(|| Cow::Owned([DrainTrigger::ExcludeLabel].into()), Cow::Borrowed);
        let delay = self.of_node(labels).find_map(|p| p.drain.delay);
        (triggers, delay.unwrap_or_default())
    }

    /// Whether a node with these labels has to be in a subnet of the address.
    pub(crate) fn checks_subnet(&self, labels: &Labels) -> bool {
        self.of_node(labels).find_map(|p| p.layer2.subnet_check).unwrap_or(true)
    }

    fn of_node(&self, labels: &Labels) -> impl Iterator<Item = &'a AnnouncementPolicy> {
        self.policies.iter().copied().filter(|p| p.covers_node(labels))
    }
}

impl Controller {
    /// The best owner among the candidates.
    pub(crate) fn best_owner<'a>(
        &self,
        address: IpAddr,
        record: &Record,
        anti_affinity: Option<&AntiAffinity>,
        candidates: &'a [Candidate],
    ) -> Option<&'a Candidate> {
        let neighbours = self.neighbours(address, record, anti_affinity);
        let salt = salt(address);
        let rank = |node: &&Candidate| {
            let beside = match neighbours.is_empty() {
                true => 0,
                false => neighbours.get(&*node.name).copied().unwrap_or(0),
            };
            let (owned, hash) = (self.allocator.seated(node.seat), mix(node.seed ^ salt));
            match anti_affinity {
                Some(_) => (beside, Reverse(node.score), owned, false, hash),
                None => (
                    0,
                    Reverse(node.score),
                    owned.saturating_sub(beside.min(1)),
                    beside == 0,
                    hash,
                ),
            }
        };
        candidates.iter().min_by_key(rank)
    }

    /// The node that is emptier than the owner even with the address, and no worse a place for it.
    pub(crate) fn emptier<'a>(
        &self,
        address: IpAddr,
        record: &Record,
        anti_affinity: Option<&AntiAffinity>,
        owner: &Candidate,
        candidates: &'a [Candidate],
    ) -> Option<&'a Candidate> {
        let neighbours = match anti_affinity {
            Some(_) => self.neighbours(address, record, anti_affinity),
            None => BTreeMap::new(),
        };
        let beside = |node: &&Candidate| neighbours.get(&*node.name).copied().unwrap_or(0);
        let (own, fill, salt) = (beside(&owner), self.allocator.seated(owner.seat), salt(address));
        let better = |node: &&Candidate| {
            node.score >= owner.score && beside(node) <= own && self.allocator.seated(node.seat) + 2 <= fill
        };
        let rank = |node: &&Candidate| (self.allocator.seated(node.seat), mix(node.seed ^ salt));
        candidates.iter().filter(better).min_by_key(rank)
    }

    /// How many addresses each node has that this one's place depends on: without a rule the Service's other one.
    fn neighbours(
        &self,
        address: IpAddr,
        record: &Record,
        anti_affinity: Option<&AntiAffinity>,
    ) -> BTreeMap<&str, usize> {
        let held = |id| self.allocator.held(id);
        let addresses = match anti_affinity {
            Some(AntiAffinity::None) => BTreeSet::new(),
            Some(AntiAffinity::Label(key)) => {
                let holders = record.holders.keys().filter_map(|id| self.world.service(id));
                let values = holders.filter_map(|v| v.labels.get(key)).collect::<BTreeSet<_>>();
                let alike = |labels: &Labels| labels.get(key).is_some_and(|value| values.contains(value));
                let group = self.world.services().filter(|v| alike(&v.labels));
                group.flat_map(|v| held(&v.id)).collect()
            }
            Some(AntiAffinity::Service) | None => record.holders.keys().flat_map(held).collect(),
        };
        let others = addresses.into_iter().filter(|a| *a != address);
        let placed = others.filter_map(|a| self.allocator.record(a)?.placed.as_ref());
        let mut nodes = BTreeMap::new();
        for placed in placed {
            *nodes.entry(placed.owner.as_str()).or_insert(0) += 1;
        }
        nodes
    }
}

/// The standbys: those there are, as far as they may announce, then the best of the others. The candidates are in the order
/// of their names.
pub(crate) fn standbys(address: IpAddr, record: &Record, owner: &str, candidates: &[Candidate]) -> Vec<String> {
    let may = |name: &str| candidates.binary_search_by_key(&name, |c| &c.name).is_ok();
    let old = record.placed.iter().flat_map(|p| &p.standbys);
    let old = old.filter(|n| *n != owner && may(n)).take(STANDBYS);
    let mut standbys = old.map(String::as_str).collect::<Vec<_>>();
    let room = STANDBYS - standbys.len();
    let salt = salt(address);
    let mut best = Vec::with_capacity(room + 1);
    for node in candidates {
        let rank = (Reverse(node.score), mix(node.seed ^ salt));
        let full = best.len() == room && best.last().is_none_or(|(last, _)| *last <= rank);
        if !full && *node.name != *owner && !standbys.contains(&&*node.name) {
            let place = best.partition_point(|(other, _)| *other < rank);
            best.insert(place, (rank, &*node.name));
            best.truncate(room);
        }
    }
    standbys.extend(best.into_iter().map(|(_, name)| name));
    standbys.into_iter().map(str::to_owned).collect()
}

/// FNV-1a over the name: the same in every process, unlike the hashers of the standard library.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn salt(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(a) => mix(u64::from(u32::from(a))),
        IpAddr::V6(a) => {
            let bits = u128::from(a);
            mix((bits >> 64) as u64).wrapping_add(mix(bits as u64))
        }
    }
}

/// The finalizer of SplitMix64: every bit of the input moves every bit of the result.
fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
