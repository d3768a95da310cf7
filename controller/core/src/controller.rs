//! The controller: takes news in, notes what it touches, and settles exactly that.
//!
//! Level-triggered: an input changes the picture of the world and marks Services and addresses dirty; settling compares
//! what should be with what is and asks for the writes that close the gap, at most one per [`WriteKey`] at a time.
//! The same news twice is no news, and nothing is asked for twice in one state.
//!
//! Read on: `serve.rs` decides what a Service holds, `converge.rs` turns decisions into writes, `placement.rs` says who
//! announces, `written.rs` takes in how writes ended.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{
    AddressUse, Claim, Config, NetworkView, NodeView, Port, ServiceId, ServiceView, TrafficPolicy, VirtualIp,
};

use crate::allocator::{Allocator, Echo, Holder};
use crate::effect::{Effect, WriteKey};
use crate::input::Input;
use crate::line::{Line, Turn};
use crate::probe::Probes;
use crate::rebalance::Rebalance;
use crate::report::ServiceState;
use crate::rest::Rest;
use crate::standing::Coverage;
use crate::timers::{Backoff, Timer, Timers};
use crate::world::World;

/// What the installation is told once, at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Services of exactly this class are served; `None` serves those without a class.
    pub load_balancer_class: Option<String>,
    /// How long a released address is kept for the same namespace and name. The VirtualIP stays with its claim until
    /// then, so a restarted controller still sees the claim; it starts the cool-down anew, because nobody can tell
    /// when it began. The address is thus never handed to somebody else too early, at worst one cool-down too late.
    pub cool_down: Duration,
    /// How long a Service that is renumbered has both addresses.
    pub overlap: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            load_balancer_class: None,
            cool_down: Duration::from_secs(60),
            overlap: Duration::from_secs(30),
        }
    }
}

/// Everything that waits is looked at this often, whatever else happens.
const SWEEP: Duration = Duration::from_secs(120);

/// What has to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    /// Services whose addresses must be decided, in the order in which they are served.
    pub(crate) services: BTreeSet<Turn>,
    /// Addresses that whoever waits for them by name may get now.
    pub(crate) freed: BTreeSet<IpAddr>,
    /// Addresses that were left, and that any Service that waits may get now.
    pub(crate) offered: BTreeSet<IpAddr>,
    /// Namespaces that gave an address back and have Services that wait for just that.
    pub(crate) rooms: BTreeSet<String>,
    /// Addresses whose claim must be compared with the object.
    pub(crate) claims: BTreeSet<IpAddr>,
    /// Services whose status must be compared.
    pub(crate) statuses: BTreeSet<ServiceId>,
    /// Addresses whose placement and conditions must be compared.
    pub(crate) placements: BTreeSet<IpAddr>,
}

/// The controller's state; see the module.
#[derive(Debug)]
pub struct Controller {
    pub(crate) settings: Settings,
    pub(crate) synced: bool,
    pub(crate) world: World,
    pub(crate) allocator: Allocator,
    pub(crate) coverage: Coverage,
    pub(crate) states: BTreeMap<ServiceId, ServiceState>,
    /// Services that would change if an address came free.
    pub(crate) line: Line,
    /// Writes that met a conflict: news about their object lifts the wait.
    pub(crate) until_news: BTreeSet<WriteKey>,
    /// Services that show what another one may have; looked at again with the next claim.
    pub(crate) doubted: BTreeSet<ServiceId>,
    /// Claims that somebody was told cannot be written.
    pub(crate) refused: BTreeSet<IpAddr>,
    pub(crate) probes: Probes,
    pub(crate) timers: Timers,
    pub(crate) backoff: Backoff,
    pub(crate) rebalance: Option<Rebalance>,
    pub(crate) rest: Rest,
    pub(crate) dirty: Dirty,
}

impl Controller {
    /// A controller that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Controller {
            world: World::new(settings.load_balancer_class.clone()),
            settings,
            synced: false,
            allocator: Allocator::default(),
            coverage: Coverage::default(),
            states: BTreeMap::new(),
            line: Line::default(),
            until_news: BTreeSet::new(),
            doubted: BTreeSet::new(),
            refused: BTreeSet::new(),
            probes: Probes::default(),
            timers: Timers::default(),
            backoff: Backoff::default(),
            rebalance: None,
            rest: Rest::default(),
            dirty: Dirty::default(),
        }
    }

    /// Takes one piece of news and says what to do about it. `now` is the time since an arbitrary start that never
    /// goes back.
    pub fn handle(&mut self, input: Input, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Config(config) => self.on_config(config),
            Input::Service(view) => self.on_service(view),
            Input::ServiceGone(id) => self.on_service_gone(&id),
            Input::Node(view) => {
                let old = self.world.set_node(view.clone(), now);
                self.on_node(old.as_ref(), Some(&view), now);
            }
            Input::NodeGone(name) => {
                let old = self.world.remove_node(&name);
                self.on_node(old.as_ref(), None, now);
            }
            Input::Network(view) => {
                let before = self.network_news();
                let old = self.world.set_network(view.clone(), now);
                self.on_network(old.as_ref(), Some(&view), before, now);
            }
            Input::NetworkGone(node) => {
                let before = self.network_news();
                let old = self.world.remove_network(&node, now);
                self.on_network(old.as_ref(), None, before, now);
            }
            Input::Endpoints(view) => {
                let touched = self.world.set_slice(view);
                self.on_endpoints(&touched);
            }
            Input::EndpointsGone(slice) => {
                let touched = self.world.remove_slice(&slice);
                self.on_endpoints(&touched);
            }
            Input::VirtualIp(object) => self.on_virtual_ip(object, now, &mut effects),
            Input::VirtualIpGone(address) => {
                self.on_virtual_ip_gone(address);
                self.probe_heard(address, None, now, &mut effects);
            }
            Input::Synced if !self.synced => {
                self.synced = true;
                self.first_pass(&mut effects);
                self.probes_found(now, &mut effects);
            }
            Input::Written { key, result } => self.on_written(key, result, now, &mut effects),
            Input::Rebalance(request) => self.on_rebalance(request),
            Input::Synced | Input::Tick => {}
        }
        if self.synced {
            self.fire(now, &mut effects);
            self.settle(now, &mut effects);
            let restless = self.put_off(now, &mut effects);
            debug_assert!(restless.is_none(), "{}", restless.unwrap_or_default());
        } else {
            // The first pass looks at everything. Until then, perhaps for months, nothing may pile up.
            self.dirty = Dirty::default();
            self.rest.begin_anew();
        }
        effects
    }

    /// When [`Input::Tick`] is due if nothing else comes before.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.timers.next()
    }

    fn on_config(&mut self, config: Arc<Config>) {
        self.world.set_config(config);
        self.coverage.clear();
        if self.synced {
            self.look_at_everything();
        }
    }

    /// Marks all Services and addresses.
    pub(crate) fn look_at_everything(&mut self) {
        let services = self
            .world
            .services()
            .filter(|v| self.world.is_ours(v) || self.states.contains_key(&v.id));
        self.dirty.services.extend(services.map(Turn::of));
        let addresses = self.allocator.records().map(|(a, _)| a).collect::<Vec<_>>();
        self.dirty.claims.extend(&addresses);
        self.dirty.placements.extend(&addresses);
    }

    fn on_service(&mut self, view: ServiceView) {
        let id = view.id.clone();
        let known = self.world.service(&id).map(|v| v.uid == view.uid);
        if let Some(state) = self.states.get_mut(&id) {
            if known == Some(true) && state.echo_of.as_deref() == Some(view.resource_version.as_str()) {
                return;
            }
            state.echo_of = None;
        }
        self.news(&WriteKey::ServiceStatus(id.clone()));
        if known == Some(false) {
            self.on_service_gone(&id);
        }
        self.dirty.services.insert(Turn::of(&view));
        self.dirty.statuses.insert(id.clone());
        if let Some(old) = self.world.set_service(view)
            && let Some(new) = self.world.service(&id)
        {
            let (before, now) = (Turn::of(&old), Turn::of(new));
            if before != now {
                self.dirty.services.remove(&before);
            }
            if sharing_identity(&old) != sharing_identity(new) {
                // Somebody who waits to share may fit beside it now.
                self.dirty.freed.extend(self.allocator.held(&id));
            }
        }
        self.touch_addresses(&id);
    }

    fn on_service_gone(&mut self, id: &ServiceId) {
        let old = self.world.remove_service(id);
        if let Some(old) = &old {
            self.line.leave(id);
            self.dirty.services.remove(&Turn::of(old));
        }
        self.forget_failures(&WriteKey::ServiceStatus(id.clone()));
        self.timers.clear(&Timer::Overlap(id.clone()));
        self.timers.clear(&Timer::Restless(id.clone()));
        self.rest.forget(id);
        self.touch_addresses(id);
        if let Some(old) = &old {
            for address in self.allocator.named(id) {
                self.allocator.forget_sharer(address, id, &old.uid);
            }
        }
        for address in self.allocator.held(id) {
            self.give_up(address, id);
        }
        if let Some(state) = self.states.remove(id)
            && let Some(flight) = state.flight
        {
            self.states.entry(id.clone()).or_default().flight = Some(flight);
        }
    }

    /// Marks the addresses that the Service holds or is named by.
    fn touch_addresses(&mut self, id: &ServiceId) {
        let mut addresses = self.allocator.held(id);
        addresses.extend(self.allocator.named(id));
        self.dirty.claims.extend(&addresses);
        self.dirty.placements.extend(&addresses);
    }

    fn on_node(&mut self, old: Option<&NodeView>, new: Option<&NodeView>, now: Duration) {
        if old == new {
            return;
        }
        let of = |view: Option<&NodeView>| {
            let addresses = view.into_iter().flat_map(|v| &v.addresses);
            addresses.map(|a| (*a, AddressUse::Node)).collect()
        };
        let Some(name) = old.or(new).map(|view| &view.name) else {
            return;
        };
        match new {
            Some(_) => self.allocator.seats.add(name),
            None => self.allocator.seats.remove(name),
        }
        let freed = self.allocator.set_uses(name, &of(old), &of(new));
        match (old, new) {
            (Some(_), Some(view)) if !self.coverage.is_changed_by(view, &self.world, now) => {}
            _ => self.look_at_placements(),
        }
        if self.synced {
            self.dirty.freed.extend(freed);
        }
    }

    /// What says that the networks have changed for all nodes, and not for one alone.
    fn network_news(&self) -> (u64, Option<Duration>) {
        (self.world.subnets().changes(), self.world.since().first_heard())
    }

    /// What a speaker tells has changed; `before` is [`Self::network_news`] before that.
    fn on_network(
        &mut self,
        old: Option<&NetworkView>,
        new: Option<&NetworkView>,
        before: (u64, Option<Duration>),
        now: Duration,
    ) {
        let of = |view: Option<&NetworkView>| view.map(|v| v.addresses.clone()).unwrap_or_default();
        let Some(name) = old.or(new).map(|view| &view.node).filter(|_| old != new) else {
            return;
        };
        let freed = self.allocator.set_uses(name, &of(old), &of(new));
        let node = self.world.nodes().get(name);
        let differs = node.is_some_and(|node| self.coverage.is_changed_by(node, &self.world, now));
        if differs || self.network_news() != before {
            self.look_at_placements();
        }
        if self.synced {
            self.dirty.freed.extend(freed);
        }
        self.on_conflicts(name, old, new);
    }

    /// How nodes stand has changed.
    fn look_at_placements(&mut self) {
        self.coverage.clear();
        if self.synced {
            self.dirty.placements.extend(self.allocator.records().map(|(a, _)| a));
        }
    }

    fn on_endpoints(&mut self, services: &BTreeSet<ServiceId>) {
        for id in services {
            self.dirty.placements.extend(self.allocator.held(id));
        }
    }

    fn on_virtual_ip(&mut self, object: VirtualIp, now: Duration, effects: &mut Vec<Effect>) {
        let address = object.address;
        if let Some(record) = self.allocator.record_mut(address) {
            match &mut record.echo {
                Echo::Changed(version) if *version == object.resource_version => return,
                Echo::Deleted(old) if old.uid == object.uid => {
                    **old = object;
                    return;
                }
                _ => record.echo = Echo::None,
            }
        }
        let seen = object.placement.clone();
        let asked = object.probe.is_some() || self.probes.is_open(address);
        let heard = (self.synced && asked).then(|| object.clone());
        self.replace_object(address, Some(object));
        if let Some(seen) = seen {
            self.adopt_placement(address, seen, now);
        }
        if self.synced {
            self.evict_strangers(address);
        }
        if let Some(object) = heard {
            self.probe_heard(address, Some(&object), now, effects);
        }
    }

    fn on_virtual_ip_gone(&mut self, address: IpAddr) {
        if let Some(record) = self.allocator.record_mut(address) {
            record.echo = Echo::None;
            record.cooling.clear();
            record.expected = None;
            self.replace_object(address, None);
        }
    }

    /// Puts the object into its record, and marks whom it concerns: whose claim went may look elsewhere, others may join.
    /// By the pool that it names its holders may have to leave, or to stay.
    pub(crate) fn set_object(&mut self, address: IpAddr, object: Option<VirtualIp>) {
        let known = self.allocator.record(address).and_then(|r| r.object.as_ref());
        let claims = |o: Option<&VirtualIp>, c: &Claim| o.is_some_and(|o| o.claims.contains(c));
        let gained = object.iter().flat_map(|o| &o.claims).filter(|c| !claims(known, c));
        // By its claim a status is known to be ours.
        self.dirty.statuses.extend(gained.map(|c| c.service.clone()));
        let lost = known.into_iter().flat_map(|o| &o.claims);
        let lost = lost.filter(|c| !claims(object.as_ref(), c));
        for claim in lost {
            self.dirty.freed.insert(address);
            self.dirty
                .services
                .extend(self.world.service(&claim.service).map(Turn::of));
        }
        if self.allocator.set_object(address, object) {
            let holders = self.allocator.holders_of(address);
            let views = holders.filter_map(|id| self.world.service(id));
            self.dirty.services.extend(views.map(Turn::of));
        }
    }

    /// Takes in what the watch says of an object, and marks whom it concerns.
    fn replace_object(&mut self, address: IpAddr, object: Option<VirtualIp>) {
        self.news(&WriteKey::Claim(address));
        self.news(&WriteKey::VirtualIpStatus(address));
        let claims = |o: Option<&VirtualIp>| o.map(|o| o.claims.clone()).unwrap_or_default();
        let old = claims(self.allocator.record(address).and_then(|r| r.object.as_ref()));
        let new = claims(object.as_ref());
        let gone = object.is_none();
        self.set_object(address, object);
        if old != new || gone {
            let named = old.iter().chain(&new).filter_map(|c| self.world.service(&c.service));
            self.dirty.services.extend(named.map(Turn::of));
            self.dirty.freed.insert(address);
        }
        self.allocator.tidy(address);
        if let Some(record) = self.allocator.record(address) {
            self.dirty.statuses.extend(record.holders.keys().cloned());
        }
        self.dirty.claims.insert(address);
        self.dirty.placements.insert(address);
    }

    /// Somebody else's claim was faster: holders that the object never named yield and choose again. To a reservation that
    /// a person made meanwhile yields whoever it does not name now.
    fn evict_strangers(&mut self, address: IpAddr) {
        let Some(record) = self.allocator.record(address) else {
            return;
        };
        let mut claims = record.object.iter().flat_map(|o| &o.claims);
        let reserved = claims.any(|c| record.is_reservation(c) && !record.holders.contains_key(&c.service));
        let unnamed = |id: &ServiceId, h: &Holder| !h.confirmed || reserved && !record.claims(id, &h.uid);
        let unnamed = record.holders.iter().filter(|(id, h)| unnamed(id, h));
        let strangers = unnamed
            .filter_map(|(id, _)| self.world.service(id))
            .filter(|view| self.allocator.may_hold(&self.world, address, view).is_err())
            .map(Turn::of)
            .collect::<Vec<_>>();
        for turn in strangers {
            self.give_up(address, &turn.id);
            self.dirty.services.insert(turn);
        }
    }

    /// The object of these writes is gone: a new one starts without a past.
    pub(crate) fn forget_failures(&mut self, key: &WriteKey) {
        self.backoff.succeed(key);
        self.until_news.remove(key);
        self.timers.clear_retry(key);
    }

    /// News about an object lifts the wait after a conflict.
    fn news(&mut self, key: &WriteKey) {
        if self.until_news.remove(key) {
            self.timers.clear_retry(key);
        }
    }

    fn fire(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Address(address) => self.mark_address(address),
                Timer::Retry(WriteKey::Claim(address) | WriteKey::VirtualIpStatus(address)) => {
                    self.mark_address(address);
                }
                Timer::Retry(WriteKey::ServiceStatus(id)) => {
                    self.dirty.statuses.insert(id);
                }
                Timer::Overlap(id) => self.end_overlap(&id, effects),
                Timer::Restless(id) => self.take_up(&id),
                Timer::Probe(address) => self.probe_missed(address, now),
                Timer::Occupied(address) => self.occupation_ends(address, now),
                Timer::Belief(address) | Timer::Owner(address) => {
                    self.dirty.placements.insert(address);
                }
                Timer::Sweep => self.dirty.services.extend(self.line.turns().cloned()),
                Timer::Nodes => self.look_at_placements(),
                // Looked at after every piece of news.
                Timer::Rebalance => {}
            }
        }
    }

    pub(crate) fn mark_address(&mut self, address: IpAddr) {
        self.dirty.claims.insert(address);
        self.dirty.placements.insert(address);
    }

    fn settle(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        loop {
            if let Some(address) = self.dirty.freed.pop_first() {
                self.call(address);
            } else if let Some(turn) = self.dirty.services.pop_first() {
                self.evaluate(&turn.id, effects);
            } else if let Some(address) = self.dirty.offered.pop_first() {
                self.offer(address, effects);
            } else if let Some(namespace) = self.dirty.rooms.pop_first() {
                self.refill(&namespace, effects);
            } else if let Some(address) = self.dirty.claims.pop_first() {
                // May free an address, which is then offered.
                self.settle_claim(address, now, effects);
            } else {
                break;
            }
        }
        while let Some(id) = self.dirty.statuses.pop_first() {
            if !self.rest.is_put_off(&id) {
                self.settle_service_status(&id, now, effects);
            }
        }
        while let Some(address) = self.dirty.placements.pop_first() {
            self.settle_placement(address, now, effects);
        }
        self.rebalance(now, effects);
        match self.coverage.due() {
            Some(due) => self.timers.set(Timer::Nodes, due),
            None => self.timers.clear(&Timer::Nodes),
        }
        if self.line.is_empty() {
            self.timers.clear(&Timer::Sweep);
        } else {
            self.timers.set_earlier(Timer::Sweep, now + SWEEP);
        }
    }
}

/// What others look at when they ask to share with the Service.
fn sharing_identity(view: &ServiceView) -> (Option<&str>, TrafficPolicy, &str, &BTreeSet<Port>) {
    let key = view.sharing_key.as_deref();
    (key, view.traffic_policy, &view.selector, &view.ports)
}
