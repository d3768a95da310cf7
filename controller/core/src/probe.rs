//! Whether another machine uses an address: who is asked before it is handed out, what follows from the answer, and what
//! speakers say later (ADR 13).
//!
//! With the VirtualIP that is created for a Service a node is named whose speaker asks the wire. The Service's status and
//! the placement wait for what it says, and for [`PATIENCE`] at most. Nobody is asked, and nothing waits, where no speaker
//! is on the segment of the address, where no L2Advertisement covers it, where a policy does not want it, and for what
//! stands in a Service's status already. From a Service that has its address nothing is taken away.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_model::{
    Condition, ConflictDetection, NetworkView, NodeView, Probe, Reason, ServiceId, ServiceView, Stranger, VirtualIp,
};

use crate::allocator::{Echo, Record};
use crate::controller::Controller;
use crate::effect::{Effect, EventKind, Write};
use crate::line::Turn;
use crate::report::ServiceState;
use crate::standing::Coverage;
use crate::timers::Timer;

/// How long an answer is waited for, once the VirtualIP exists.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// A speaker that did not answer is not asked again for this long: it may be gone, and others are there.
const MUTE: Duration = Duration::from_secs(60);

/// An address that another machine uses is left alone for this long.
const HELD: Duration = Duration::from_secs(30);

/// While so many answers are awaited, the speaker of the node that is likely to announce is asked; beyond, all in turn.
const FEW: usize = 4;

/// The questions that are open, and what speakers say of other machines.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    /// Addresses whose VirtualIP is being created or was, each with the node that was asked.
    open: BTreeMap<IpAddr, String>,
    /// Nodes that did not answer, and until when they are left out.
    mute: BTreeMap<String, Duration>,
    unanswered: u64,
    /// Addresses of Services that other machines use, by the node that says so.
    conflicts: BTreeMap<IpAddr, BTreeMap<String, Stranger>>,
}

impl Probes {
    /// Whether an answer about the address is waited for.
    pub(crate) fn is_open(&self, address: IpAddr) -> bool {
        self.open.contains_key(&address)
    }
}

impl Controller {
    /// How many answers did not come in time; the addresses were handed out all the same.
    pub fn unanswered_probes(&self) -> u64 {
        self.probes.unanswered
    }

    /// How many addresses other machines use, as speakers say.
    pub fn conflicts(&self) -> usize {
        self.probes.conflicts.len()
    }

    /// The node whose speaker is to ask for an address that nobody has had yet.
    pub(crate) fn prober(&mut self, address: IpAddr, now: Duration) -> Option<String> {
        self.probes.mute.retain(|_, until| *until > now);
        let mut coverage = std::mem::take(&mut self.coverage);
        let node = self.choose_prober(address, &mut coverage, now);
        self.coverage = coverage;
        node
    }

    fn choose_prober(&self, address: IpAddr, coverage: &mut Coverage, now: Duration) -> Option<String> {
        let record = self.allocator.record(address)?;
        let views = self.views(record);
        if views.iter().any(|view| view.ingress.contains(&address))
            || self.advertisements(address, record, &views).is_empty()
        {
            return None;
        }
        let reach = |network: &&NetworkView| {
            let node = self.world.nodes().get(&network.node);
            let fit = |node: &NodeView| {
                node.ready && !self.probes.mute.contains_key(&node.name) && self.may_probe(address, &views, node)
            };
            reaches(network, address) && node.is_some_and(fit)
        };
        let all = self.world.networks();
        if self.probes.open.len() < FEW {
            let likely = self.place(address, coverage, now).placed;
            let network = likely.and_then(|placed| self.world.network(&placed.owner));
            if let Some(network) = network.filter(reach) {
                return Some(network.node.clone());
            }
        }
        let number = match address {
            IpAddr::V4(address) => u32::from(address) as usize,
            IpAddr::V6(address) => u128::from(address) as usize,
        };
        let first = number.checked_rem(all.len())?;
        let mut turn = all.values().skip(first).chain(all.values().take(first));
        turn.find(reach).map(|network| network.node.clone())
    }

    /// Whether the policies want the wire asked from this node.
    fn may_probe(&self, address: IpAddr, views: &[&ServiceView], node: &NodeView) -> bool {
        let pool = self.world.pool_of(address);
        let services = views.iter().map(|view| view.applicant()).collect::<Vec<_>>();
        let mut policies = self.world.config().policies_of(pool, &services);
        let found = policies.find_map(|policy| {
            let detection = policy.layer2.conflict_detection;
            detection.filter(|_| policy.covers_node(&node.labels))
        });
        found.unwrap_or(ConflictDetection::Probe) == ConflictDetection::Probe
    }

    /// A VirtualIP is about to be created with this question.
    pub(crate) fn probe_begins(&mut self, address: IpAddr, node: &str) {
        self.probes.open.insert(address, node.to_owned());
    }

    /// The creation has ended: from now on the answer is waited for, if there is to be one.
    pub(crate) fn probe_asked(&mut self, address: IpAddr, created: bool, now: Duration) {
        if !created {
            self.probe_ends(address);
        } else if self.probes.is_open(address) {
            self.timers.set(Timer::Probe(address), now + PATIENCE);
        }
    }

    /// Gives whether the question was open.
    fn probe_ends(&mut self, address: IpAddr) -> bool {
        if self.probes.open.remove(&address).is_none() {
            return false;
        }
        self.timers.clear(&Timer::Probe(address));
        self.dirty.statuses.extend(self.allocator.holders_of(address).cloned());
        self.mark_address(address);
        true
    }

    /// The answer has not come in time.
    pub(crate) fn probe_missed(&mut self, address: IpAddr, now: Duration) {
        let object = self.allocator.record(address).and_then(|record| record.object.as_ref());
        if let Some(Probe::Asked { node }) = object.and_then(|object| object.probe.as_deref()) {
            self.probes.unanswered += 1;
            self.probes.mute.insert(node.clone(), now + MUTE);
        }
        self.probe_ends(address);
    }

    /// What a VirtualIP says, or that it is gone.
    pub(crate) fn probe_heard(
        &mut self,
        address: IpAddr,
        object: Option<&VirtualIp>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let open = |o: &VirtualIp| o.announcer.is_none() && matches!(o.probe.as_deref(), Some(Probe::Asked { .. }));
        // That the object before is gone may be heard when the next one is on its way already.
        let created = |r: &Record| matches!(r.flight.as_deref(), Some(Write::CreateVirtualIp { .. }));
        let coming = |r: &Record| created(r) || matches!(r.echo, Echo::Created);
        let late = object.is_none() && self.allocator.record(address).is_some_and(coming);
        let awaited = !late && !object.is_some_and(open) && self.probe_ends(address);
        if let Some(Probe::Occupied { node, stranger }) = object.and_then(|object| object.probe.as_deref()) {
            let reason = Reason::AddressOccupied {
                address,
                node: node.clone(),
                stranger: stranger.clone(),
            };
            self.occupied(address, reason, awaited, now, effects);
        }
    }

    /// A status with these addresses was not written: what came as an answer meanwhile counts after all.
    pub(crate) fn look_at_answers(&mut self, addresses: &[IpAddr], now: Duration, effects: &mut Vec<Effect>) {
        for address in addresses {
            let object = self
                .allocator
                .record(*address)
                .and_then(|record| record.object.as_ref());
            let occupied = |o: &&VirtualIp| matches!(o.probe.as_deref(), Some(Probe::Occupied { .. }));
            if let Some(object) = object.filter(occupied).cloned() {
                self.probe_heard(*address, Some(&object), now, effects);
            }
        }
    }

    /// What the VirtualIPs said before the first pass.
    pub(crate) fn probes_found(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let asked = self.allocator.records().filter(|(_, record)| {
            let object = record.object.as_ref();
            object.is_some_and(|object| object.probe.is_some())
        });
        for address in asked.map(|(address, _)| address).collect::<Vec<_>>() {
            let object = self.allocator.record(address).and_then(|record| record.object.clone());
            self.probe_heard(address, object.as_ref(), now, effects);
        }
    }

    /// Another machine uses the address: whoever was to have it chooses again, and the address rests. So it does when nobody
    /// is to have it any more, or yet: its claim may be that of a Service that is made anew, or another controller's. `awaited`:
    /// the answer to a question of this controller, which has therefore not handed the address out.
    fn occupied(&mut self, address: IpAddr, reason: Reason, awaited: bool, now: Duration, effects: &mut Vec<Effect>) {
        let (owners, losers): (Vec<_>, Vec<_>) = self
            .allocator
            .holders_of(address)
            .cloned()
            .partition(|id| self.has(id, address));
        if losers.is_empty() && !owners.is_empty() {
            return;
        }
        let message = format!("{}: {reason}", reason.as_str());
        self.allocator.occupy(address, reason);
        self.timers.set(Timer::Occupied(address), now + HELD);
        for id in losers {
            if let Some(record) = self.allocator.record_mut(address).filter(|_| awaited) {
                // It was never handed out, so nobody is used to it.
                record.cooling.insert(id.clone(), Duration::ZERO);
            }
            self.give_up(address, &id);
            self.event(&id, EventKind::Conflict, message.clone(), effects);
            self.dirty.services.extend(self.world.service(&id).map(Turn::of));
        }
    }

    /// Whether the Service's status shows the address, or is about to.
    fn has(&self, id: &ServiceId, address: IpAddr) -> bool {
        let shown = |view: &ServiceView| view.ingress.contains(&address);
        let written = |state: &ServiceState| {
            let write = state.flight.as_deref();
            matches!(write, Some(Write::SetServiceStatus { ingress, .. }) if ingress.contains(&address))
        };
        self.world.service(id).is_some_and(shown) || self.states.get(id).is_some_and(written)
    }

    /// The address may be tried again: with a new VirtualIP, which carries a new question. One that nobody has, and that could
    /// not be deleted yet, keeps it as it is.
    pub(crate) fn occupation_ends(&mut self, address: IpAddr, now: Duration) {
        let stays = |record: &Record| {
            let probe = record.object.as_ref().and_then(|object| object.probe.as_deref());
            record.holders.is_empty() && matches!(probe, Some(Probe::Occupied { .. }))
        };
        if self.allocator.record(address).is_some_and(stays) {
            self.timers.set(Timer::Occupied(address), now + HELD);
            return;
        }
        self.allocator.vacate(address);
        self.dirty.freed.insert(address);
    }

    /// Takes in which addresses other machines use, as the speaker of a node says.
    pub(crate) fn on_conflicts(&mut self, node: &str, old: Option<&NetworkView>, new: Option<&NetworkView>) {
        let told = |view: Option<&NetworkView>| view.map(|view| view.conflicts.clone()).unwrap_or_default();
        let (old, new) = (told(old), told(new));
        for address in old.keys().filter(|address| !new.contains_key(address)) {
            if let Some(nodes) = self.probes.conflicts.get_mut(address) {
                nodes.remove(node);
                if nodes.is_empty() {
                    self.probes.conflicts.remove(address);
                }
            }
            self.dirty.placements.insert(*address);
        }
        for (address, stranger) in new {
            if old.get(&address) != Some(&stranger) {
                let nodes = self.probes.conflicts.entry(address).or_default();
                nodes.insert(node.to_owned(), stranger);
                self.dirty.placements.insert(address);
            }
        }
    }

    /// The condition `Conflict`, while a machine uses the address as well.
    pub(crate) fn conflict(&self, address: IpAddr) -> Option<Condition> {
        let (node, stranger) = self.probes.conflicts.get(&address)?.first_key_value()?;
        let reason = Reason::AddressOccupied {
            address,
            node: node.clone(),
            stranger: stranger.clone(),
        };
        Some(Condition::told(true, &reason))
    }
}

/// Whether the node has a running interface on the segment of the address.
fn reaches(network: &NetworkView, address: IpAddr) -> bool {
    let mut links = network.links.iter();
    links.any(|link| link.running && link.subnets.iter().any(|subnet| subnet.contains(&address)))
}
