//! Rebalancing, when somebody asks for it: addresses go from the nodes that have most to those that have fewest.
//!
//! A request says how many addresses may move. Each move is one that makes the spread more even by itself, so that as few as
//! possible move, and each is confirmed by its new owner before more than [`AT_ONCE`] are under way. Weights and
//! anti-affinity hold as when an owner is chosen. Nothing is ever rebalanced unasked.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_model::Placement;

use crate::controller::Controller;
use crate::effect::{Effect, EventKind};
use crate::placement::Round;
use crate::timers::Timer;

/// So many moves are under way at once.
const AT_ONCE: usize = 4;

/// A new owner that has not confirmed within this time is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(15);

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebalanceRequest {
    /// The request as it stands in the object; another text is another request.
    pub text: String,
    /// So many addresses may move; `None`: that cannot be read.
    pub budget: Option<usize>,
}

/// A request, and how far it is.
#[derive(Debug)]
pub(crate) struct Rebalance {
    request: RebalanceRequest,
    moved: usize,
    /// Addresses whose new owners have not confirmed, and until when they are waited for.
    waiting: BTreeMap<IpAddr, Duration>,
    answered: bool,
}

impl Controller {
    /// The request is this now. One that is taken away ends; what is under way is not taken back.
    pub(crate) fn on_rebalance(&mut self, request: Option<RebalanceRequest>) {
        let same = self.rebalance.as_ref().map(|r| &r.request) == request.as_ref();
        if !same {
            self.rebalance = request.map(|request| Rebalance {
                request,
                moved: 0,
                waiting: BTreeMap::new(),
                answered: false,
            });
        }
    }

    /// Moves what may move now, and answers when nothing is left to do.
    pub(crate) fn rebalance(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.timers.clear(&Timer::Rebalance);
        let Some(mut state) = self.rebalance.take() else { return };
        if !state.answered {
            state
                .waiting
                .retain(|address, until| *until > now && !self.is_confirmed(*address));
            let answer = self.step(&mut state, now, effects);
            state.answered = answer.is_some();
            effects.extend(answer.map(|message| Effect::Rebalanced {
                request: state.request.text.clone(),
                message,
            }));
            if let Some(until) = state.waiting.values().min() {
                self.timers.set(Timer::Rebalance, *until);
            }
        }
        self.rebalance = Some(state);
    }

    fn step(&mut self, state: &mut Rebalance, now: Duration, effects: &mut Vec<Effect>) -> Option<String> {
        let Some(budget) = state.request.budget else {
            return Some("cannot be read; write how many addresses may move at most, 1 to 100000".to_owned());
        };
        while state.waiting.len() < AT_ONCE && state.moved < budget {
            let Some((address, placed)) = self.next_relief(state, now) else {
                break;
            };
            state.moved += 1;
            state.waiting.insert(address, now + PATIENCE);
            let message = format!("{address} is given to node {}, to balance", placed.owner);
            for id in self.allocator.holders_of(address) {
                self.event(id, EventKind::Moved, message.clone(), effects);
            }
            self.allocator.set_placed(address, Some(placed));
            self.settle_placement(address, now, effects);
        }
        let moved = state.moved;
        state.waiting.is_empty().then(|| match moved == budget {
            true => format!("moved {moved} addresses, as many as it may"),
            false => format!("moved {moved} addresses; no other move makes the spread more even"),
        })
    }

    /// Whether the address is announced by its owner, or has none.
    fn is_confirmed(&self, address: IpAddr) -> bool {
        let record = self.allocator.record(address);
        record.is_none_or(|record| record.placed.is_none() || record.is_confirmed())
    }

    /// The move from the fullest node that can be relieved, to the emptiest that takes anything from it.
    fn next_relief(&mut self, state: &Rebalance, now: Duration) -> Option<(IpAddr, Placement)> {
        let mut owned = BTreeMap::<&str, Vec<IpAddr>>::new();
        for (address, record) in self.allocator.records() {
            let movable = !state.waiting.contains_key(&address) && self.is_confirmed(address);
            if let Some(placed) = record.placed.as_ref().filter(|_| movable && !record.holders.is_empty()) {
                owned.entry(&placed.owner).or_default().push(address);
            }
        }
        let mut fullest = owned.into_iter().collect::<Vec<_>>();
        fullest.sort_by_key(|(owner, _)| Reverse(self.allocator.seats.owned().get(*owner).copied()));
        // Of others nobody can take anything, so that a look at a spread that is even is short.
        let least = self.allocator.seats.fewest() + 2;
        let full = |owner: &str| self.allocator.seats.owned().get(owner) >= Some(&least);
        let addresses = fullest.into_iter().take_while(|(owner, _)| full(owner));
        let addresses = addresses.map(|(_, addresses)| addresses).collect::<Vec<_>>();
        let mut coverage = std::mem::take(&mut self.coverage);
        let found = addresses.into_iter().find_map(|addresses| {
            let reliefs = addresses.into_iter().filter_map(|address| {
                let (_, relief) = self.look(address, &mut coverage, now, |round| self.relief(round))?;
                relief.flatten().map(|(fill, placed)| (fill, address, placed))
            });
            reliefs.min_by_key(|(fill, address, _)| (*fill, *address))
        });
        self.coverage = coverage;
        found.map(|(_, address, placed)| (address, placed))
    }

    /// Where the address could go, and how many that node has.
    fn relief(&self, round: &Round<'_>) -> Option<(usize, Placement)> {
        let eligible = round.eligible();
        let owner = &*round.record.placed.as_ref()?.owner;
        let own = eligible.candidates.iter().find(|c| *c.name == *owner)?;
        let target = self.emptier(
            round.address,
            round.record,
            round.rules.anti_affinity,
            own,
            &eligible.candidates,
        )?;
        let placed = Placement {
            owner: target.name.to_string(),
            standbys: round.standbys(&target.name, &eligible),
            epoch: round.record.epoch + 1,
        };
        Some((self.allocator.seats.load(target.seat), placed))
    }
}
