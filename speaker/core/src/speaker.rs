//! The state of a speaker and everything that changes it.
//!
//! Guarantees: once in sync, what is announced is a function of the facts and not of their order, except that what is
//! announced stays so while an advertisement cannot be read; an address that the placement does not give to this node
//! is withdrawn with the very input that says so; repeated news has no effect.
//! Kept in memory is only what concerns this node: VirtualIPs that name it, and the labels of LoadBalancer Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ferrolb_model::{
    Claim, Config, EndpointSettings, Labels, NodeRefusal, Placement, ServiceId, ServiceType, ServiceView, VirtualIp,
};

use crate::announcer::{Writes, names};
use crate::claims::Claims;
use crate::decide::{Facts, HeldIp, Holder, Holders, claimants};
use crate::effect::{Announcement, Duties, Effect, Liveness};
use crate::input::Input;
use crate::interfaces::Interfaces;

/// Strangers remembered per address and interface. More than a few are one attack, and not worth an event each.
const STRANGERS: usize = 8;

/// Services that have an event about something, each with its uid.
type Told = Box<[(ServiceId, Arc<str>)]>;

/// An address that is wanted and answered nowhere.
#[derive(Debug)]
struct Failure {
    why: NodeRefusal,
    /// The interfaces that were wanted.
    interfaces: Option<BTreeSet<String>>,
    /// Services that were told of it.
    told: Told,
}

/// What the operator chose at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The `spec.loadBalancerClass` that is served; `None` serves exactly the Services without a class.
    pub load_balancer_class: Option<String>,
}

/// The speaker of one node.
#[derive(Debug)]
pub struct Speaker {
    node: String,
    settings: Settings,
    synced: bool,
    config: Option<Arc<Config>>,
    node_labels: Labels,
    holders: Holders,
    ips: BTreeMap<IpAddr, HeldIp>,
    /// Which addresses in `ips` a Service claims.
    claimed_by: Claims,
    /// What the engine was last asked for.
    wanted: BTreeMap<IpAddr, Announcement>,
    /// On which interfaces the engine last said it answers; an address it has said nothing about is absent.
    answering: BTreeMap<IpAddr, Arc<BTreeSet<String>>>,
    /// Those of most addresses are the same, and are kept once.
    interface_sets: BTreeSet<Arc<BTreeSet<String>>>,
    /// The interfaces that the engine could use, or why it does not run.
    engine: Result<Interfaces, String>,
    /// Why an address that is placed here is not announced.
    withheld: BTreeMap<IpAddr, NodeRefusal>,
    /// Wanted, and not begun yet, each with what is waited for.
    waiting: BTreeMap<IpAddr, NodeRefusal>,
    writes: Writes,
    /// Services that were told that their address is announced here.
    assigned: BTreeMap<IpAddr, Told>,
    failing: BTreeMap<IpAddr, Failure>,
    strangers: BTreeMap<(IpAddr, String), BTreeSet<[u8; 6]>>,
}

impl Speaker {
    /// The speaker of the node `node_name`, which knows nothing yet.
    pub fn new(node_name: impl Into<String>, settings: Settings) -> Self {
        Speaker {
            node: node_name.into(),
            settings,
            synced: false,
            config: None,
            node_labels: Labels::new(),
            holders: Holders::new(),
            ips: BTreeMap::new(),
            claimed_by: Claims::default(),
            wanted: BTreeMap::new(),
            answering: BTreeMap::new(),
            interface_sets: BTreeSet::new(),
            engine: Ok(Interfaces::default()),
            withheld: BTreeMap::new(),
            waiting: BTreeMap::new(),
            writes: Writes::default(),
            assigned: BTreeMap::new(),
            failing: BTreeMap::new(),
            strangers: BTreeMap::new(),
        }
    }

    /// Takes one piece of news and says what to do about it.
    pub fn handle(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Restored(duties) => self.restored(&duties, &mut effects),
            Input::Config(config) => {
                if self.config.as_ref() != Some(&config) {
                    self.config = Some(config);
                    self.reconsider_all(&mut effects);
                }
            }
            Input::Service(view) => self.service(view, &mut effects),
            Input::ServiceGone(id) => self.service_gone(&id, &mut effects),
            Input::OwnNode(view) => {
                if view.name == self.node && view.labels != self.node_labels {
                    self.node_labels = view.labels;
                    self.reconsider_all(&mut effects);
                }
            }
            Input::VirtualIp(ip) => {
                let placement = ip.placement.clone();
                self.virtual_ip(Arc::new(ip), placement, &mut effects);
            }
            Input::VirtualIpGone(address) => {
                self.keep(address, None);
                self.placed_elsewhere(address, true, &mut effects);
            }
            Input::Synced => self.synced(&mut effects),
            Input::Announcing { address, interfaces } => {
                if interfaces.is_empty() && !self.wanted.contains_key(&address) {
                    self.answering.remove(&address);
                } else {
                    let interfaces = self.shared(interfaces);
                    self.answering.insert(address, interfaces);
                }
                self.settle(address, &mut effects);
            }
            Input::Interfaces { usable, excluded } => self.interfaces(Interfaces { usable, excluded }, &mut effects),
            Input::EngineDown(why) => self.engine_down(why, &mut effects),
            Input::Conflict {
                address,
                interface,
                mac,
            } => self.conflict(address, interface, mac, &mut effects),
            Input::AnnouncerWritten { address, ok } => {
                self.writes.ended(address, ok);
                self.settle(address, &mut effects);
            }
            Input::OtherNode(_)
            | Input::OtherNodeGone(_)
            | Input::Endpoints(_)
            | Input::EndpointsGone(_)
            | Input::OwnAnnotations(_)
            | Input::Gateways(_)
            | Input::Password { .. }
            | Input::BgpSynced => {}
            Input::TookOver { .. } | Input::HandedOver(_) | Input::PlacementWritten { .. } => {}
            Input::Retry => {
                for address in self.writes.retry() {
                    self.settle(address, &mut effects);
                }
            }
        }
        effects
    }

    /// The addresses that are really answered for, with each Service that holds them.
    pub fn announced(&self) -> impl Iterator<Item = (&ServiceId, IpAddr)> {
        self.ips
            .iter()
            .filter(|(address, _)| {
                self.wanted.contains_key(address) && self.answering.get(address).is_some_and(|i| !i.is_empty())
            })
            .flat_map(|(address, ip)| claimants(&self.holders, ip).map(|(service, _)| (service, *address)))
    }

    /// The Services that are announced here, each with the interfaces that its advertisements name; `None` where they
    /// name none. Nothing is said while that is not known: before the first sync, and while the engine has yet to say
    /// what it does about an address.
    pub fn services(&self) -> Option<BTreeMap<&ServiceId, Option<BTreeSet<String>>>> {
        let said = |address| self.answering.contains_key(address) || self.waiting.contains_key(address);
        let said = self.engine.is_err() || self.wanted.keys().all(said);
        self.facts().filter(|_| said)?;
        let mut services: BTreeMap<&ServiceId, Option<BTreeSet<String>>> = BTreeMap::new();
        for (service, address) in self.announced() {
            let named = self.wanted.get(&address).is_some_and(|how| how.interfaces.is_some());
            let answering = self.answering.get(&address).filter(|_| named);
            let all = services.entry(service).or_insert_with(|| Some(BTreeSet::new()));
            match (all.as_mut(), answering) {
                (Some(all), Some(more)) => all.extend(more.iter().cloned()),
                _ => *all = None,
            }
        }
        Some(services)
    }

    /// The set with these names that other addresses have, if there are any.
    fn shared(&mut self, interfaces: BTreeSet<String>) -> Arc<BTreeSet<String>> {
        if let Some(same) = self.interface_sets.get(&interfaces) {
            return Arc::clone(same);
        }
        self.interface_sets.retain(|set| Arc::strong_count(set) > 1);
        let new = Arc::new(interfaces);
        self.interface_sets.insert(Arc::clone(&new));
        new
    }

    /// How many addresses are really answered for.
    pub fn answering(&self) -> usize {
        let answered = |address: &&IpAddr| self.answering.get(address).is_some_and(|i| !i.is_empty());
        self.wanted.keys().filter(answered).count()
    }

    /// Every interface that an announcement names.
    pub fn named_interfaces(&self) -> BTreeSet<&str> {
        let named = self.wanted.values().filter_map(|how| how.interfaces.as_ref());
        named.flatten().map(String::as_str).collect()
    }

    /// How the address is announced here, as far as the core wants it to be.
    pub(crate) fn wanted_as(&self, address: IpAddr) -> Option<&Announcement> {
        self.wanted.get(&address)
    }

    /// How the address would be announced here if the placement gave it to this node.
    pub(crate) fn would_announce(&self, ip: &Arc<VirtualIp>) -> Option<Announcement> {
        let held = HeldIp {
            ip: Arc::clone(ip),
            epoch: ip.placement.as_ref().map(|p| p.epoch),
        };
        self.facts()?.decide(ip.address, Some(&held), None).ok()
    }

    /// Whether a Service that is there claims the address.
    pub(crate) fn is_claimed(&self, ip: &VirtualIp) -> bool {
        ip.claims.iter().any(|claim| self.holders.contains_key(&claim.service))
    }

    /// How a failure of the address's owner is noticed and answered. Each setting is from the first policy, by name,
    /// that has it.
    pub(crate) fn liveness(&self, ip: &VirtualIp) -> Liveness {
        let Some(facts) = self.facts() else {
            return Liveness::default();
        };
        let policies = facts.policies(ip.address, ip.pool.as_deref(), &ip.claims);
        let settings = policies.map(|policy| &policy.layer2);
        let mut liveness = Liveness::default();
        for of in settings {
            liveness.interval = liveness.interval.or(of.liveness_interval);
            liveness.multiplier = liveness.multiplier.or(of.liveness_multiplier);
            liveness.grace = liveness.grace.or(of.grace);
            liveness.answer_for_owner = liveness.answer_for_owner.or(of.answer_for_owner);
        }
        liveness
    }

    /// Whether terminating endpoints count for the address, and how long kube-proxy is waited for, as far as a policy says
    /// it.
    pub(crate) fn endpoint_settings(&self, ip: &VirtualIp) -> EndpointSettings {
        let mut settings = EndpointSettings::default();
        let Some(facts) = self.facts() else {
            return settings;
        };
        let policies = facts.policies(ip.address, ip.pool.as_deref(), &ip.claims);
        for of in policies.map(|policy| policy.endpoints) {
            settings.serving = settings.serving.or(of.serving);
            settings.wait = settings.wait.or(of.wait);
        }
        settings
    }

    /// The Services that claim the address and are there, each with its uid.
    pub(crate) fn holders_of(&self, ip: &VirtualIp) -> Vec<(ServiceId, String)> {
        let held = |claim: &Claim| Some((claim.service.clone(), self.holders.get(&claim.service)?.uid.to_string()));
        ip.claims.iter().filter_map(held).collect()
    }

    /// What the address, if it is wanted, waits for.
    pub(crate) fn waits(&mut self, address: IpAddr, what: Option<NodeRefusal>) {
        match what {
            Some(what) => self.waiting.insert(address, what),
            None => self.waiting.remove(&address),
        };
    }

    /// How many addresses the engine is asked to answer for.
    pub fn wanted(&self) -> usize {
        self.wanted.len()
    }

    /// Addresses that the placement gives to this node and that are not announced, each with why.
    pub fn withheld(&self) -> impl Iterator<Item = (IpAddr, NodeRefusal)> {
        let unusable = self.failing.iter().map(|(address, failure)| (*address, failure.why));
        let waiting = self.waiting.iter();
        self.withheld
            .iter()
            .map(|(address, why)| (*address, *why))
            .chain(unusable)
            .chain(waiting.map(|(address, why)| (*address, *why)))
    }

    /// How many writes failed and wait for [`Input::Retry`].
    pub fn failed_writes(&self) -> usize {
        self.writes.failed()
    }

    /// What decisions are made from; `None` until every stream was heard in full and a configuration is in force.
    fn facts(&self) -> Option<Facts<'_>> {
        let config = self.config.as_deref().filter(|_| self.synced)?;
        Some(Facts {
            config,
            holders: &self.holders,
            node_labels: &self.node_labels,
        })
    }

    fn serves(&self, view: &ServiceView) -> bool {
        view.kind == ServiceType::LoadBalancer && view.class == self.settings.load_balancer_class
    }

    fn restored(&mut self, duties: &Duties, effects: &mut Vec<Effect>) {
        let owned = duties.iter().filter(|(_, duty)| duty.placement.owner == self.node);
        let announcements = owned.map(|(address, duty)| (*address, duty.announcement())).collect();
        if !self.synced && self.wanted != announcements {
            self.wanted = announcements;
            effects.push(Effect::Announce(self.wanted.clone()));
        }
    }

    fn synced(&mut self, effects: &mut Vec<Effect>) {
        if self.synced {
            return;
        }
        self.synced = true;
        // What this node announced before it restarted is no news to those Services.
        for (address, ip) in &self.ips {
            if ip.epoch.is_some() && names(ip.ip.announcer.as_ref(), &self.node) {
                self.assigned.insert(*address, holders(&self.holders, ip));
            }
        }
        self.reconsider_all(effects);
    }

    fn service(&mut self, view: ServiceView, effects: &mut Vec<Effect>) {
        if !self.serves(&view) {
            return self.service_gone(&view.id, effects);
        }
        let holder = Holder {
            uid: view.uid.into(),
            labels: view.labels,
            policy: view.announcement_policy.map(Into::into),
        };
        if self.holders.get(&view.id) != Some(&holder) {
            self.holders.insert(view.id.clone(), holder);
            self.reconsider_claims_of(&view.id, effects);
        }
    }

    fn service_gone(&mut self, id: &ServiceId, effects: &mut Vec<Effect>) {
        if self.holders.remove(id).is_some() {
            self.reconsider_claims_of(id, effects);
        }
    }

    /// Takes in a VirtualIP, and the placement that counts.
    pub(crate) fn virtual_ip(&mut self, ip: Arc<VirtualIp>, placement: Option<Placement>, effects: &mut Vec<Effect>) {
        let address = ip.address;
        let owned = placement.as_ref().is_some_and(|p| p.owner == self.node);
        // A restart may find that the address was moved meanwhile. Only a later epoch proves that: an earlier one is
        // what the API server knew before this node took over.
        let outdated = self.wanted.get(&address).is_some_and(|mine| {
            placement
                .as_ref()
                .is_some_and(|p| p.owner != self.node && p.epoch > mine.epoch)
        });
        let concerns = owned || names(ip.announcer.as_ref(), &self.node);
        let kept = concerns.then(|| HeldIp {
            ip,
            epoch: placement.filter(|_| owned).map(|p| p.epoch),
        });
        self.keep(address, kept);
        self.placed_elsewhere(address, outdated, effects);
    }

    /// Replaces what is known of a VirtualIP, and the index over its claims.
    fn keep(&mut self, address: IpAddr, ip: Option<HeldIp>) {
        if let Some(before) = self.ips.remove(&address) {
            for claim in &before.ip.claims {
                self.claimed_by.remove(claim.service.clone(), address);
            }
        }
        if let Some(ip) = ip {
            for claim in &ip.ip.claims {
                self.claimed_by.insert(claim.service.clone(), address);
            }
            self.ips.insert(address, ip);
        }
    }

    /// Decides anew after news of a VirtualIP. Before the first sync only what the VirtualIP itself `takes_away` goes.
    fn placed_elsewhere(&mut self, address: IpAddr, takes_away: bool, effects: &mut Vec<Effect>) {
        if self.facts().is_some() {
            self.reconsider([address], effects);
        } else if takes_away && self.wanted.remove(&address).is_some() {
            effects.push(Effect::Announce(self.wanted.clone()));
            effects.push(Effect::Withheld {
                address,
                why: NodeRefusal::NotOwner,
            });
        }
    }

    fn reconsider_claims_of(&mut self, id: &ServiceId, effects: &mut Vec<Effect>) {
        let addresses = self.claimed_by.of(id);
        self.reconsider(addresses, effects);
    }

    fn reconsider_all(&mut self, effects: &mut Vec<Effect>) {
        let all: BTreeSet<IpAddr> = self.ips.keys().chain(self.wanted.keys()).copied().collect();
        self.reconsider(all, effects);
    }

    /// Decides anew for `addresses`, then brings the records about them up to date.
    fn reconsider(&mut self, addresses: impl IntoIterator<Item = IpAddr>, effects: &mut Vec<Effect>) {
        let mut changed = false;
        let mut said = Vec::new();
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        for &address in &addresses {
            let ip = self.ips.get(&address);
            let placed = ip.is_some_and(|ip| ip.epoch.is_some());
            let Some(facts) = self.facts() else { return };
            match facts.decide(address, ip, self.wanted.get(&address)) {
                Ok(announcement) => {
                    self.withheld.remove(&address);
                    if self.wanted.get(&address) != Some(&announcement) {
                        changed = true;
                        self.want(address, announcement);
                    }
                }
                Err(why) => {
                    let withdrawn = self.wanted.remove(&address).is_some();
                    changed |= withdrawn;
                    let before = if placed {
                        self.withheld.insert(address, why)
                    } else {
                        self.withheld.remove(&address);
                        Some(why)
                    };
                    if withdrawn || before != Some(why) {
                        said.push(Effect::Withheld { address, why });
                    }
                }
            }
        }
        if changed {
            effects.push(Effect::Announce(self.wanted.clone()));
        }
        effects.extend(said);
        for address in addresses {
            self.settle(address, effects);
        }
    }

    /// Wants `address` announced so. Where the engine had no interface and may have one now, its next word is awaited
    /// before anybody is told.
    fn want(&mut self, address: IpAddr, announcement: Announcement) {
        if self.unsuited(address, &announcement).is_none()
            && self.answering.get(&address).is_some_and(|on| on.is_empty())
        {
            self.answering.remove(&address);
        }
        self.wanted.insert(address, announcement);
    }

    /// Makes `status.announcer` and the events on Services follow what is wanted and what the engine does about it.
    fn settle(&mut self, address: IpAddr, effects: &mut Vec<Effect>) {
        if self.facts().is_none() {
            return;
        }
        match self.wanted.get(&address).cloned() {
            Some(announcement) => self.settle_wanted(address, announcement, effects),
            None => self.settle_unwanted(address, effects),
        }
    }

    fn settle_unwanted(&mut self, address: IpAddr, effects: &mut Vec<Effect>) {
        self.assigned.remove(&address);
        self.failing.remove(&address);
        self.strangers.retain(|(of, _), _| *of != address);
        if self.answering.get(&address).is_some_and(|on| on.is_empty()) {
            self.answering.remove(&address);
        }
        match self.ips.get(&address) {
            Some(ip) => self.writes.converge(&self.node, address, ip, None, effects),
            None => self.writes.forget(address),
        }
    }

    fn settle_wanted(&mut self, address: IpAddr, announcement: Announcement, effects: &mut Vec<Effect>) {
        // An engine that does not run answers nowhere. One that has not come to the address yet says nothing, and what
        // stands in the object may still be true.
        let nowhere = Arc::default();
        let down = self.engine.is_err().then_some(&nowhere);
        let answers = self.answering.get(&address).or(down);
        let (Some(interfaces), Some(ip)) = (answers, self.ips.get(&address)) else {
            return;
        };
        let answering = Some(&**interfaces).filter(|i| !i.is_empty());
        self.writes.converge(&self.node, address, ip, answering, effects);
        let holders = holders(&self.holders, ip);
        if answering.is_some() {
            self.failing.remove(&address);
            let told = self.assigned.insert(address, holders.clone()).unwrap_or_default();
            for (service, uid) in untold(holders, &told) {
                effects.push(Effect::NodeAssigned { service, uid, address });
            }
            return;
        }
        self.assigned.remove(&address);
        let why = self
            .unsuited(address, &announcement)
            .unwrap_or(NodeRefusal::NoInterface);
        let told = match self.failing.remove(&address) {
            Some(before) if before.interfaces == announcement.interfaces && before.why == why => before.told,
            _ => Told::default(),
        };
        let message = self.failure(address, &announcement);
        let interfaces = announcement.interfaces;
        let failure = Failure {
            why,
            interfaces,
            told: holders.clone(),
        };
        self.failing.insert(address, failure);
        for (service, uid) in untold(holders, &told) {
            let message = message.clone();
            effects.push(Effect::AnnounceFailed { service, uid, message });
        }
    }

    /// Why the engine cannot answer for the address anywhere, as far as one can tell; `None` means that it should.
    fn unsuited(&self, address: IpAddr, announcement: &Announcement) -> Option<NodeRefusal> {
        match &self.engine {
            Err(_) => Some(NodeRefusal::NoLayer2),
            Ok(interfaces) => interfaces.suit(address, announcement).err(),
        }
    }

    /// What is answered nowhere may be so for another reason now. Where nothing stands against it any more, the engine's
    /// next word is awaited.
    fn interfaces(&mut self, interfaces: Interfaces, effects: &mut Vec<Effect>) {
        let interfaces = Ok(interfaces);
        if self.engine == interfaces {
            return;
        }
        self.engine = interfaces;
        for address in self.failing.keys().copied().collect::<Vec<_>>() {
            let wanted = self.wanted.get(&address);
            if wanted.is_some_and(|wanted| self.unsuited(address, wanted).is_some()) {
                self.settle(address, effects);
            }
        }
    }

    /// Why nothing answers, and what would help.
    fn failure(&self, address: IpAddr, announcement: &Announcement) -> String {
        let node = &self.node;
        let why = match &self.engine {
            Err(why) => why.clone(),
            Ok(interfaces) => {
                let ads = self.facts().zip(self.ips.get(&address));
                let ads = ads.map(|(facts, ip)| facts.advertisements(address, ip));
                let ads = ads.into_iter().flatten().map(|ad| ad.name.clone()).collect();
                interfaces.failure(address, announcement, &ads)
            }
        };
        format!("node {node:?} does not announce {address}: {why}")
    }

    fn engine_down(&mut self, why: String, effects: &mut Vec<Effect>) {
        if self.engine.as_ref() == Err(&why) {
            return;
        }
        self.engine = Err(why);
        self.answering.clear();
        for address in self.wanted.keys().copied().collect::<Vec<_>>() {
            self.settle(address, effects);
        }
    }

    pub(crate) fn conflict(&mut self, address: IpAddr, interface: String, mac: [u8; 6], effects: &mut Vec<Effect>) {
        if !self.wanted.contains_key(&address) {
            return;
        }
        let known = self.strangers.entry((address, interface.clone())).or_default();
        if known.len() < STRANGERS && known.insert(mac) {
            let services = self.ips.get(&address).map(|ip| {
                let holders = holders(&self.holders, ip);
                holders.iter().map(|(id, uid)| (id.clone(), uid.to_string())).collect()
            });
            effects.push(Effect::Conflict {
                address,
                interface,
                mac,
                services: services.unwrap_or_default(),
            });
        }
    }
}

/// The Services that hold the address and are there.
fn holders(all: &Holders, ip: &HeldIp) -> Told {
    let holders = claimants(all, ip).map(|(id, holder)| (id.clone(), Arc::clone(&holder.uid)));
    // One that claims it twice is told once.
    holders.collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// Those of `holders` that `told` does not have, under the same uid.
fn untold(holders: Told, told: &Told) -> impl Iterator<Item = (ServiceId, String)> {
    let untold = holders.into_iter().filter(|holder| !told.contains(holder));
    untold.map(|(service, uid)| (service, uid.to_string()))
}
