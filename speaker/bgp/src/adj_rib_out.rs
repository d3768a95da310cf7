//! Adj-RIB-Out: what a peer shall hold, what it was told, and the fewest messages from one to the other.
//!
//! Guarantees: once [`AdjRibOut::next_message`] has no message left, a peer that took in all of them holds exactly the wanted
//! routes that can be sent; a route whose attributes did not change is not sent again; routes with equal attributes
//! share messages; no message is longer than 4096 octets. Withdrawals go first, so that a router with a limit on
//! prefixes never sees more of them than before and after. Memory is what was told and what is wanted: messages are
//! made one at a time, when the caller has room for one.
//!
//! The end of the routes is told once all of them are, and not before what is wanted is known in full.
//!
//! Routes that cannot be sent are left out with a [`Refusal`]; if the peer holds an older one, it is withdrawn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use bytes::Bytes;
use ferrolb_model::{Family, FamilySet};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::hand_over::{Prefix, Told};
use crate::proto::update::{self, Encoding, Prepared};
use crate::route::{Attributes, NextHop, Routes};

/// What the messages of one session depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// How attributes are written.
    pub encoding: Encoding,
    /// Families that were agreed upon.
    pub families: FamilySet,
    /// The peer takes IPv6 next hops for IPv4 routes (RFC 8950).
    pub extended_next_hop: bool,
    /// This node's next hops.
    pub own: OwnHops,
}

/// This node as a next hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnHops {
    /// Of IPv4 routes; an IPv6 address where RFC 8950 has to serve.
    pub v4: Option<IpAddr>,
    /// Of IPv6 routes.
    pub v6: Option<Ipv6Addr>,
}

/// Why a wanted route is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// The peer did not offer the family.
    #[error("the peer does not exchange routes of this family")]
    FamilyNotNegotiated,
    /// This node has no address of the family on the interface of the session, and the peer takes none of the other.
    #[error("no next hop of this family")]
    NoNextHop,
    /// The attributes fill a whole message.
    #[error("the attributes do not fit into a message")]
    TooLong,
}

/// See the module.
#[derive(Debug, Default)]
pub struct AdjRibOut {
    wanted: Arc<Routes>,
    context: Option<Context>,
    /// What the peer was told in this session; `None` where it has to be told again.
    told: BTreeMap<IpNet, Option<Arc<Attributes>>>,
    /// What is left to say, if nothing changed since it was worked out.
    plan: Option<Plan>,
    end_of_rib: BTreeSet<Family>,
    refused: BTreeMap<Refusal, usize>,
}

#[derive(Debug, Default)]
struct Plan {
    withdraw_v4: Vec<IpNet>,
    withdraw_v6: Vec<IpNet>,
    announce: VecDeque<Group>,
}

/// Prefixes with equal attributes; those before `next` are told.
#[derive(Debug)]
struct Group {
    attributes: Arc<Attributes>,
    prepared: Prepared,
    prefixes: Vec<IpNet>,
    next: usize,
}

fn family(prefix: &IpNet) -> Family {
    Family::of(prefix.addr())
}

impl AdjRibOut {
    /// Wants the peer to hold exactly these routes.
    pub fn want(&mut self, routes: Arc<Routes>) {
        if !Arc::ptr_eq(&self.wanted, &routes) {
            self.wanted = routes;
            self.plan = None;
        }
    }

    /// A session is up: the peer holds nothing yet and wants to know when it has everything.
    pub fn open(&mut self, context: Context) {
        self.close();
        self.end_of_rib = context.families.iter().collect();
        self.context = Some(context);
    }

    /// Goes on where another process stopped: this was told, the end of the routes of these families was not.
    pub fn adopt(&mut self, context: Context, told: &[Told], end_of_rib: FamilySet) {
        self.close();
        self.context = Some(context);
        self.end_of_rib = end_of_rib.iter().collect();
        let each = told.iter().flat_map(|Told { said, prefixes }| {
            let said = said.clone().map(Arc::new);
            prefixes.iter().map(move |prefix| (prefix.0, said.clone()))
        });
        self.told = each.collect();
    }

    /// What the peer was told, and of which families the end was not.
    pub fn hand_over(&self) -> (Vec<Told>, FamilySet) {
        let mut by_said: BTreeMap<Option<&Arc<Attributes>>, Vec<Prefix>> = BTreeMap::new();
        for (prefix, said) in &self.told {
            by_said.entry(said.as_ref()).or_default().push(Prefix(*prefix));
        }
        let told = by_said.into_iter().map(|(said, prefixes)| Told {
            said: said.map(|said| said.as_ref().clone()),
            prefixes,
        });
        (told.collect(), self.end_of_rib.iter().copied().collect())
    }

    /// This node's next hops as they were told.
    pub fn own(&self) -> OwnHops {
        self.context.map(|context| context.own).unwrap_or_default()
    }

    /// The session is over; what the peer holds of it is its own affair.
    pub fn close(&mut self) {
        self.context = None;
        self.told.clear();
        self.plan = None;
        self.end_of_rib.clear();
        self.refused.clear();
    }

    /// Next hops of this node changed while the session goes on: routes are told again.
    pub fn rehop(&mut self, own: OwnHops) {
        let Some(context) = self.context.as_mut().filter(|c| c.own != own) else {
            return;
        };
        context.own = own;
        [Family::V4, Family::V6]
            .into_iter()
            .for_each(|family| self.refresh(family));
    }

    /// The peer asks for all routes of a family again (RFC 2918).
    pub fn refresh(&mut self, of: Family) {
        for (_, told) in self.told.iter_mut().filter(|(prefix, _)| family(prefix) == of) {
            *told = None;
        }
        self.plan = None;
    }

    /// How many prefixes the peer was told.
    pub fn told(&self) -> usize {
        self.told.len()
    }

    /// How many prefixes are wanted.
    pub fn wanted(&self) -> usize {
        self.wanted.len()
    }

    /// How many of them are not sent, by reason, as of the last message.
    pub fn refused(&self) -> &BTreeMap<Refusal, usize> {
        &self.refused
    }

    /// The next message, or `None` when there is nothing to say. Whoever takes it must send it.
    pub fn next_message(&mut self) -> Option<Bytes> {
        let context = self.context?;
        let mut plan = self.plan.take().unwrap_or_else(|| self.work_out(context));
        let message = self.say(&mut plan, context);
        self.plan = Some(plan);
        if message.is_some() || self.wanted.is_partial() {
            return message;
        }
        let end = self.end_of_rib.pop_first()?;
        if self.end_of_rib.is_empty() {
            // One that was filled in ascending order is half empty.
            self.told = mem::take(&mut self.told).into_iter().collect();
        }
        Some(update::end_of_rib(end))
    }

    /// Makes one message of the plan and notes what it tells.
    fn say(&mut self, plan: &mut Plan, context: Context) -> Option<Bytes> {
        for (of, prefixes) in [(Family::V4, &mut plan.withdraw_v4), (Family::V6, &mut plan.withdraw_v6)] {
            if !prefixes.is_empty() {
                let in_body = !matches!(context.own.v4, Some(IpAddr::V6(_)));
                let (message, count) = update::withdraw(of, in_body, prefixes);
                for prefix in prefixes.drain(..count) {
                    self.told.remove(&prefix);
                }
                return Some(message);
            }
        }
        let group = plan.announce.front_mut()?;
        let (message, count) = group.prepared.announce(&group.prefixes[group.next..]);
        let end = group.next + count;
        for prefix in &group.prefixes[group.next..end] {
            self.told.insert(*prefix, Some(Arc::clone(&group.attributes)));
        }
        group.next = end;
        if group.next == group.prefixes.len() {
            plan.announce.pop_front();
        }
        Some(message)
    }

    /// Compares what is wanted with what was told, both in the order of prefixes. What was told as it is wanted needs no
    /// second look: it could be sent then, and nothing that decides that changes without everything being told again.
    fn work_out(&mut self, context: Context) -> Plan {
        let mut groups: BTreeMap<(Family, &Arc<Attributes>), Result<Group, Refusal>> = BTreeMap::new();
        let mut plan = Plan::default();
        self.refused.clear();
        let mut told = self.told.iter().peekable();
        for (prefix, attributes) in self.wanted.iter() {
            while let Some((gone, _)) = told.next_if(|(told, _)| *told < prefix) {
                plan.withdraw(*gone);
            }
            let before = told
                .next_if(|(told, _)| *told == prefix)
                .map(|(_, attributes)| attributes);
            if before.and_then(Option::as_ref) == Some(attributes) {
                continue;
            }
            let group = groups
                .entry((family(prefix), attributes))
                .or_insert_with(|| prepare(context, family(prefix), attributes));
            match group {
                Ok(group) => group.prefixes.push(*prefix),
                Err(refusal) => {
                    *self.refused.entry(*refusal).or_default() += 1;
                    before.into_iter().for_each(|_| plan.withdraw(*prefix));
                }
            }
        }
        told.for_each(|(gone, _)| plan.withdraw(*gone));
        plan.announce = groups.into_values().flatten().collect();
        plan
    }
}

impl Plan {
    fn withdraw(&mut self, prefix: IpNet) {
        match prefix {
            IpNet::V4(_) => self.withdraw_v4.push(prefix),
            IpNet::V6(_) => self.withdraw_v6.push(prefix),
        }
    }
}

fn prepare(context: Context, family: Family, attributes: &Arc<Attributes>) -> Result<Group, Refusal> {
    if !context.families.contains(family) {
        return Err(Refusal::FamilyNotNegotiated);
    }
    let next_hop = next_hop(context, family, attributes).ok_or(Refusal::NoNextHop)?;
    let prepared = Prepared::new(context.encoding, family, next_hop, attributes).map_err(|_| Refusal::TooLong)?;
    Ok(Group {
        attributes: Arc::clone(attributes),
        prepared,
        prefixes: Vec::new(),
        next: 0,
    })
}

fn next_hop(context: Context, family: Family, attributes: &Attributes) -> Option<IpAddr> {
    let address = match (attributes.next_hop, family) {
        (NextHop::Address(address), _) => address,
        (NextHop::Session, Family::V4) => context.own.v4?,
        (NextHop::Session, Family::V6) => IpAddr::V6(context.own.v6?),
    };
    let allowed = match (family, address) {
        (Family::V4, IpAddr::V4(_)) | (Family::V6, IpAddr::V6(_)) => true,
        (Family::V4, IpAddr::V6(_)) => context.extended_next_hop,
        (Family::V6, IpAddr::V4(_)) => false,
    };
    allowed.then_some(address)
}
