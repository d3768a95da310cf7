//! Which of the nodes that may announce an address does, and which stand by.
//!
//! An owner is chosen by preference first, then by the number of addresses it announces already, the Service's other one
//! not counted, then beside that other one, then by a fixed hash: nodes stand on a ring, and the first one from the address' own
//! place on is taken. So the families of a Service share a node, and Services are spread. A policy's anti-affinity goes before
//! all of that, and keeps addresses apart as far as there are nodes.
//!
//! Standbys are chosen by preference and hash alone: were the number of addresses looked at, one empty node would stand by
//! for everybody. An owner says Hello to each of its standbys twenty times a second, so the standbys of all its addresses are
//! the same few partners, each address with an order of its own: what heartbeats cost depends neither on the number of
//! addresses nor on the size of the cluster, and the addresses of a node that dies still come to several others.
//!
//! Unless nodes are too few for anti-affinity, neither choice looks at every node: ten thousand addresses are placed on a
//! thousand nodes in one go.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{AnnouncementPolicy, AntiAffinity, DrainTrigger, Labels, ServiceId};

use crate::allocator::{Allocator, Record};
use crate::controller::Controller;

/// A placement names at most this many standbys.
pub(crate) const STANDBYS: usize = 4;

/// An owner's addresses have at most this many standbys between them, as long as none of them comes or goes.
const PARTNERS: usize = 8;

/// A node that may announce the address.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) name: Arc<str>,
    /// By the preferences of advertisements and policies.
    pub(crate) score: u32,
    /// It gets nothing new where there is another.
    pub(crate) awaited: bool,
    /// Its number.
    pub(crate) seat: usize,
    /// [`seed`] of its name, its place on the ring.
    pub(crate) seed: u64,
}

impl Candidate {
    /// A node that the allocator has counted.
    pub(crate) fn new(name: &str, score: u32, awaited: bool, allocator: &Allocator) -> Option<Self> {
        Some(Candidate {
            name: Arc::from(name),
            score,
            awaited,
            seat: allocator.seats.number(name)?,
            seed: seed(name),
        })
    }

    /// What goes before everything else.
    fn preference(&self) -> (bool, Reverse<u32>) {
        (self.awaited, Reverse(self.score))
    }
}

/// Candidates, those that are preferred first, then by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crowd {
    pub(crate) candidates: Vec<Candidate>,
    /// So many of them are not awaited; they come first.
    sure: usize,
    /// Where among them the holder of each seat is.
    places: Vec<Option<u32>>,
}

impl Crowd {
    /// A crowd of these.
    pub(crate) fn new(candidates: impl Iterator<Item = Candidate>) -> Self {
        let mut candidates = candidates.collect::<Vec<_>>();
        candidates.sort_by(|a, b| (a.preference(), &a.name).cmp(&(b.preference(), &b.name)));
        let seats = candidates.iter().map(|c| c.seat + 1).max().unwrap_or(0);
        let mut places = vec![None; seats];
        for (place, candidate) in (0..).zip(&candidates) {
            places[candidate.seat] = Some(place);
        }
        Crowd {
            sure: candidates.partition_point(|c| !c.awaited),
            candidates,
            places,
        }
    }

    /// Those that get something new.
    pub(crate) fn sure(&self) -> &[Candidate] {
        &self.candidates[..self.sure]
    }

    /// The place of who has this seat.
    fn place(&self, seat: usize) -> Option<usize> {
        let place = self.places.get(seat).copied().flatten()?;
        usize::try_from(place).ok()
    }
}

/// Those at the front that are preferred alike.
fn front(candidates: &[Candidate]) -> &[Candidate] {
    let Some(first) = candidates.first() else { return &[] };
    let end = candidates.partition_point(|c| c.preference() <= first.preference());
    &candidates[..end]
}

/// Among so few each is looked at.
const FEW: usize = 16;

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

    /// How much longer than without a policy a node may take to begin.
    pub(crate) fn wait(&self) -> Duration {
        let waits = self.policies.iter().filter_map(|p| p.endpoints.wait);
        waits.max().unwrap_or_default()
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
        crowd: &'a Crowd,
    ) -> Option<&'a Candidate> {
        let neighbours = self.neighbours(address, record, anti_affinity);
        let beside = |node: &Candidate| match neighbours.is_empty() {
            true => 0,
            false => neighbours.get(&*node.name).copied().unwrap_or(0),
        };
        let turn = salt(address);
        let after = |node: &Candidate| node.seed.wrapping_sub(turn);
        let owned = |node: &Candidate| self.allocator.seats.load(node.seat);
        if anti_affinity.is_some() {
            let mut begin = 0;
            while begin < crowd.sure().len() {
                let end = begin + front(&crowd.sure()[begin..]).len();
                let alone = |seat| {
                    let place = crowd.place(seat).filter(|place| (begin..end).contains(place))?;
                    crowd.candidates.get(place).filter(|c| beside(c) == 0)
                };
                let emptiest = self.allocator.seats.emptiest(turn, |seat| alone(seat).is_some());
                if let Some(best) = emptiest.and_then(alone) {
                    return Some(best);
                }
                begin = end;
            }
            // There is no node for itself.
            let rank = |node: &&Candidate| {
                let (awaited, score) = node.preference();
                (awaited, beside(node), score, owned(node), after(node))
            };
            return crowd.candidates.iter().min_by_key(rank);
        }
        let rank = |node: &&Candidate| {
            let beside = beside(node);
            (owned(node).saturating_sub(beside.min(1)), beside == 0, after(node))
        };
        let front = front(&crowd.candidates);
        if front.len() <= FEW {
            return front.iter().min_by_key(rank);
        }
        let of_seat = |seat| front.get(crowd.place(seat)?);
        let emptiest = self.allocator.seats.emptiest(turn, |seat| of_seat(seat).is_some());
        let seats = neighbours.keys().filter_map(|node| self.allocator.seats.number(node));
        emptiest.into_iter().chain(seats).filter_map(of_seat).min_by_key(rank)
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
        let (own, fill, salt) = (beside(&owner), self.allocator.seats.load(owner.seat), salt(address));
        let better = |node: &&Candidate| {
            !node.awaited
                && node.score >= owner.score
                && beside(node) <= own
                && self.allocator.seats.load(node.seat) + 2 <= fill
        };
        let rank = |node: &&Candidate| (self.allocator.seats.load(node.seat), mix(node.seed ^ salt));
        candidates.iter().filter(better).min_by_key(rank)
    }

    /// How many addresses each node has that this one's place depends on: without a rule the Service's other one.
    fn neighbours(
        &self,
        address: IpAddr,
        record: &Record,
        anti_affinity: Option<&AntiAffinity>,
    ) -> BTreeMap<&str, usize> {
        let held = |id: &ServiceId| self.allocator.held(id);
        let addresses = match anti_affinity {
            Some(AntiAffinity::None) => BTreeSet::new(),
            Some(AntiAffinity::Label(key)) => {
                let holders = record.holders.keys().filter_map(|id| self.world.service(id));
                let values = holders.filter_map(|v| v.labels.get(key)).collect::<BTreeSet<_>>();
                let group = values.into_iter().flat_map(|value| self.world.group(key, value));
                group.flat_map(held).collect()
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

/// Standbys for an owner: those that `stay`, then the best of the others.
pub(crate) fn standbys<'a>(
    address: IpAddr,
    stay: impl Iterator<Item = &'a str>,
    owner: &str,
    crowd: &'a Crowd,
) -> Vec<String> {
    let mut standbys = stay.take(STANDBYS).collect::<Vec<_>>();
    let (salt, mut rest) = (salt(address), crowd.sure());
    while standbys.len() < STANDBYS && !rest.is_empty() {
        let front = front(rest);
        rest = &rest[front.len()..];
        let mut partners = partners(owner, front);
        partners.retain(|node| !standbys.contains(&&*node.name));
        partners.sort_unstable_by_key(|node| mix(node.seed ^ salt));
        let wanted = STANDBYS - standbys.len();
        standbys.extend(partners.into_iter().take(wanted).map(|node| &*node.name));
    }
    standbys.into_iter().map(str::to_owned).collect()
}

/// Those that stand by for the owner, whatever the address. Rendezvous hashing: a node that comes or goes changes one of
/// them at most. The distance is the same seen from both ends, so most partners have each other.
fn partners<'a>(owner: &str, front: &'a [Candidate]) -> Vec<&'a Candidate> {
    let home = seed(owner);
    let mut nearest = Vec::<(u64, &Candidate)>::with_capacity(PARTNERS + 1);
    for node in front {
        let distance = mix(node.seed ^ home);
        let is_near = nearest.len() < PARTNERS || nearest.last().is_some_and(|(farthest, _)| distance < *farthest);
        if is_near && *node.name != *owner {
            let place = nearest.partition_point(|(d, _)| *d < distance);
            nearest.insert(place, (distance, node));
            nearest.truncate(PARTNERS);
        }
    }
    nearest.into_iter().map(|(_, node)| node).collect()
}

/// A hash over the name, FNV-1a and then mixed: the same in every process, unlike the hashers of the standard library.
pub(crate) fn seed(name: &str) -> u64 {
    mix(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
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

#[cfg(test)]
mod tests {
    use ferrolb_model::ServiceView;
    use proptest::prelude::*;

    use super::*;
    use crate::controller::Settings;

    /// Nodes with so many addresses each.
    fn loaded(loads: &[usize]) -> Controller {
        let mut controller = Controller::new(Settings::default());
        let placed = |node: usize| ferrolb_model::Placement {
            owner: format!("n{node}"),
            standbys: Vec::new(),
            epoch: 1,
        };
        let mut last = 0_u32;
        for (node, load) in loads.iter().enumerate() {
            controller.allocator.seats.add(&format!("n{node}"));
            for _ in 0..*load {
                last += 1;
                let address = IpAddr::from(last.to_be_bytes());
                controller.allocator.set_object(address, None);
                controller.allocator.set_placed(address, Some(placed(node)));
            }
        }
        controller
    }

    proptest! {
        /// What is looked up is what a look at every node finds; most are of the same preference.
        #[test]
        fn the_best_owner_is_the_best_of_all(
            nodes in prop::collection::vec((0..4_usize, prop::option::weighted(0.8, (0..9_u32, any::<bool>()))), 0..80),
            host in any::<u8>(),
        ) {
            let address = IpAddr::from([192, 0, 2, host]);
            let loads = nodes.iter().map(|(load, _)| *load).collect::<Vec<_>>();
            let controller = loaded(&loads);
            let candidates = nodes.iter().enumerate().filter_map(|(n, (_, may))| {
                let (score, awaited) = (*may)?;
                Candidate::new(&format!("n{n}"), score / 8, awaited && score == 0, &controller.allocator)
            });
            let crowd = Crowd::new(candidates);
            let rank = |c: &&Candidate| {
                let owned = controller.allocator.seats.load(c.seat);
                (c.preference(), owned, c.seed.wrapping_sub(salt(address)))
            };
            let best = crowd.candidates.iter().min_by_key(rank).map(|c| &c.name);
            for anti_affinity in [None, Some(&AntiAffinity::None)] {
                let found = controller.best_owner(address, &Record::default(), anti_affinity, &crowd);
                prop_assert_eq!(found.map(|c| &c.name), best);
            }
        }

        /// The same with other addresses of the Service on some of them.
        #[test]
        fn the_best_owner_is_apart_from_others(
            nodes in prop::collection::vec((0..4_usize, 0..9_u32), 1..80),
            host in any::<u8>(),
            every in 1..6_usize,
        ) {
            let address = IpAddr::from([192, 0, 2, host]);
            let loads = nodes.iter().map(|(load, _)| *load).collect::<Vec<_>>();
            let mut controller = loaded(&loads);
            let view = ServiceView::load_balancer(ServiceId::new("a", "b"));
            let mut beside = BTreeMap::<String, usize>::new();
            let placed = controller.allocator.records().filter_map(|(a, r)| Some((a, r.placed.as_ref()?.owner.clone())));
            for (other, owner) in placed.step_by(every).collect::<Vec<_>>() {
                controller.allocator.hold(other, &view);
                *beside.entry(owner).or_default() += 1;
            }
            controller.allocator.hold(address, &view);
            let candidates = nodes.iter().enumerate().filter_map(|(n, (_, score))| {
                Candidate::new(&format!("n{n}"), score / 4, *score == 8, &controller.allocator)
            });
            let crowd = Crowd::new(candidates);
            let rank = |c: &&Candidate| {
                let owned = controller.allocator.seats.load(c.seat);
                let beside = beside.get(&*c.name).copied().unwrap_or(0);
                (c.awaited, beside, Reverse(c.score), owned, c.seed.wrapping_sub(salt(address)))
            };
            let best = crowd.candidates.iter().min_by_key(rank).map(|c| &c.name);
            let record = controller.allocator.record(address).expect("a record");
            let found = controller.best_owner(address, record, Some(&AntiAffinity::Service), &crowd);
            prop_assert_eq!(found.map(|c| &c.name), best);
        }

        /// What is found is what sorting all of them finds; a node that goes makes room for one other.
        #[test]
        fn partners_are_the_nearest(count in 1..70_usize, gone in 1..70_usize) {
            let controller = loaded(&vec![0; count]);
            let candidate = |n| Candidate::new(&format!("n{n}"), 0, false, &controller.allocator);
            let names = |nodes: &[Candidate]| partners("n0", nodes).iter().map(|c| Arc::clone(&c.name)).collect::<Vec<_>>();
            let mut all = (0..count).filter_map(candidate).collect::<Vec<_>>();
            let found = names(&all);
            all.retain(|c| *c.name != *format!("n{gone}"));
            let stay = found.iter().filter(|name| ***name != *format!("n{gone}"));
            prop_assert!(names(&all).starts_with(&stay.cloned().collect::<Vec<_>>()));
            all = (1..count).filter_map(candidate).collect();
            all.sort_by_key(|c| mix(c.seed ^ seed("n0")));
            all.truncate(PARTNERS);
            prop_assert_eq!(found, all.iter().map(|c| Arc::clone(&c.name)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_count_follows_every_placement() {
        let mut controller = loaded(&[2, 1, 0]);
        let seat = |c: &Controller, node: &str| c.allocator.seats.number(node).expect("a seat");
        let emptiest = |c: &Controller| c.allocator.seats.emptiest(7, |_| true);
        assert_eq!(emptiest(&controller), Some(seat(&controller, "n2")));
        let first = IpAddr::from(1_u32.to_be_bytes());
        let second = IpAddr::from(2_u32.to_be_bytes());
        for address in [first, second] {
            controller.allocator.set_placed(address, None);
        }
        controller.allocator.seats.remove("n2");
        assert_eq!(emptiest(&controller), Some(seat(&controller, "n0")));
    }
}
