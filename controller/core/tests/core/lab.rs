//! A tiny API server for the core's tests: keeps objects and versions, applies writes, and hands the watch events out
//! when the test says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_controller_core::{
    Controller, Effect, EventKind, Input, ServiceEvent, Settings, Write, WriteError, WriteKey,
};
use ferrolb_model::{
    Announcer, Config, EndpointsView, NetworkView, NodeView, Pool, Probe, ServiceId, ServiceType, ServiceView,
    VirtualIp,
};

use crate::fixtures::{config, id, ip, node, virtual_ip};

/// What happens to the next writes.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Done, but the answer is lost.
    AnswerLost,
    /// Not done.
    Error(WriteError),
}

/// Objects, versions, undelivered events, and the controller in front of them.
pub(crate) struct Lab {
    pub(crate) controller: Controller,
    pub(crate) now: Duration,
    pub(crate) services: BTreeMap<ServiceId, ServiceView>,
    pub(crate) virtual_ips: BTreeMap<IpAddr, VirtualIp>,
    pub(crate) nodes: BTreeMap<String, NodeView>,
    pub(crate) networks: BTreeMap<String, NetworkView>,
    pub(crate) slices: BTreeMap<(String, String), EndpointsView>,
    pub(crate) config: Arc<Config>,
    pub(crate) events: Vec<ServiceEvent>,
    /// Requests to rebalance that were answered, with the answers.
    pub(crate) answers: Vec<(String, String)>,
    /// Every write that was asked for, in order.
    pub(crate) writes: Vec<Write>,
    pub(crate) faults: VecDeque<Fault>,
    /// The watch is faster than the answers to writes.
    pub(crate) answers_late: bool,
    /// Objects with somebody's finalizer: a deletion marks them and does no more.
    pub(crate) finalizers: BTreeSet<IpAddr>,
    /// Speakers that are asked about an address do not answer at once.
    pub(crate) speakers_think: bool,
    /// Owners confirm at once that they announce.
    pub(crate) owners_confirm: bool,
    settings: Settings,
    version: u64,
    /// One stream per kind: order holds inside a kind only.
    watch: [VecDeque<Input>; STREAMS],
    in_flight: VecDeque<Write>,
    keys_in_flight: BTreeSet<WriteKey>,
    /// Writes of a controller that is dead; they may still arrive.
    zombies: VecDeque<Write>,
    /// Somebody deleted VirtualIPs by hand: a status write under way may then be without its claim.
    meddled: bool,
    faulted: bool,
}

pub(crate) const STREAMS: usize = 5;

fn stream(input: &Input) -> usize {
    match input {
        Input::VirtualIp(_) | Input::VirtualIpGone(_) => 0,
        Input::Service(_) | Input::ServiceGone(_) => 1,
        Input::Node(_) | Input::NodeGone(_) => 2,
        Input::Endpoints(_) | Input::EndpointsGone(_) => 3,
        _ => 4,
    }
}

impl Lab {
    /// An empty cluster with these pools and three nodes; the controller has not started.
    pub(crate) fn new(config: Arc<Config>) -> Self {
        let settings = Settings::default();
        let nodes = ["n1", "n2", "n3"].map(|n| (n.to_owned(), node(n)));
        Lab {
            controller: Controller::new(settings.clone()),
            now: Duration::from_secs(1000),
            services: BTreeMap::new(),
            virtual_ips: BTreeMap::new(),
            nodes: nodes.into_iter().collect(),
            networks: BTreeMap::new(),
            slices: BTreeMap::new(),
            config,
            events: Vec::new(),
            answers: Vec::new(),
            writes: Vec::new(),
            faults: VecDeque::new(),
            answers_late: false,
            finalizers: BTreeSet::new(),
            speakers_think: false,
            owners_confirm: false,
            settings,
            version: 0,
            watch: Default::default(),
            in_flight: VecDeque::new(),
            keys_in_flight: BTreeSet::new(),
            zombies: VecDeque::new(),
            meddled: false,
            faulted: false,
        }
    }

    /// Three nodes, started.
    pub(crate) fn started(pools: impl IntoIterator<Item = Pool>) -> Self {
        let mut lab = Lab::new(config(pools));
        lab.restart();
        lab.settle();
        lab
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    pub(crate) fn watched(&mut self, input: Input) {
        self.watch[stream(&input)].push_back(input);
    }

    // --- what users do

    pub(crate) fn set_config(&mut self, config: Arc<Config>) {
        self.config = Arc::clone(&config);
        self.watched(Input::Config(config));
    }

    /// Creates or replaces a Service; its status is the server's own.
    pub(crate) fn apply(&mut self, mut view: ServiceView) {
        if let Some(old) = self.services.get(&view.id) {
            view.ingress.clone_from(&old.ingress);
            view.pool_annotation.clone_from(&old.pool_annotation);
            view.uid.clone_from(&old.uid);
            view.created = old.created;
        }
        // The API server drops the status with the type.
        if view.kind != ServiceType::LoadBalancer {
            view.ingress.clear();
        }
        self.put(view);
    }

    /// Writes a Service as it is, status included.
    pub(crate) fn put(&mut self, mut view: ServiceView) {
        view.resource_version = self.next_version();
        self.services.insert(view.id.clone(), view.clone());
        self.watched(Input::Service(view));
    }

    pub(crate) fn delete(&mut self, name: &str) {
        self.delete_service(&id(name));
    }

    pub(crate) fn delete_service(&mut self, id: &ServiceId) {
        if self.services.remove(id).is_some() {
            self.watched(Input::ServiceGone(id.clone()));
        }
    }

    pub(crate) fn put_virtual_ip(&mut self, mut object: VirtualIp) {
        object.resource_version = self.next_version();
        if object.uid.is_empty() {
            object.uid = format!("vip-{}", object.resource_version);
        }
        self.virtual_ips.insert(object.address, object.clone());
        self.watched(Input::VirtualIp(object));
    }

    pub(crate) fn delete_virtual_ip(&mut self, address: &str) {
        self.meddled = true;
        self.remove_virtual_ip(address);
    }

    fn remove_virtual_ip(&mut self, address: &str) {
        if self.virtual_ips.remove(&ip(address)).is_some() {
            self.watched(Input::VirtualIpGone(ip(address)));
        }
    }

    pub(crate) fn set_node(&mut self, view: NodeView) {
        self.nodes.insert(view.name.clone(), view.clone());
        self.watched(Input::Node(view));
    }

    pub(crate) fn delete_node(&mut self, name: &str) {
        self.nodes.remove(name);
        self.watched(Input::NodeGone(name.to_owned()));
    }

    pub(crate) fn set_network(&mut self, view: NetworkView) {
        self.networks.insert(view.node.clone(), view.clone());
        self.watched(Input::Network(view));
    }

    pub(crate) fn set_endpoints(&mut self, view: EndpointsView) {
        self.slices.insert(view.slice.clone(), view.clone());
        self.watched(Input::Endpoints(view));
    }

    // --- running

    /// A stream that broke is listed anew: everything is told again as it is now.
    pub(crate) fn relist(&mut self) {
        for input in self.lists() {
            self.watched(input);
        }
    }

    /// A new controller process: everything in memory is gone and all lists come anew. Writes that were under way are
    /// lost, unless [`Lab::zombie_writes`] lets them arrive.
    pub(crate) fn restart(&mut self) {
        let lists = self.lists();
        self.restart_with(lists);
    }

    /// The complete lists as inputs, without the closing `Synced`.
    pub(crate) fn lists(&self) -> Vec<Input> {
        let mut inputs = vec![Input::Config(Arc::clone(&self.config))];
        inputs.extend(self.nodes.values().cloned().map(Input::Node));
        inputs.extend(self.networks.values().cloned().map(Input::Network));
        inputs.extend(self.slices.values().cloned().map(Input::Endpoints));
        inputs.extend(self.services.values().cloned().map(Input::Service));
        inputs.extend(self.virtual_ips.values().cloned().map(Input::VirtualIp));
        inputs
    }

    /// Restarts with the lists in a given order.
    pub(crate) fn restart_with(&mut self, lists: Vec<Input>) {
        self.controller = Controller::new(self.settings.clone());
        self.watch = Default::default();
        self.zombies.append(&mut self.in_flight);
        self.keys_in_flight.clear();
        for input in lists {
            assert_eq!(
                self.controller.handle(input, self.now),
                [],
                "nothing is decided before Synced"
            );
        }
        self.feed(Input::Synced);
    }

    pub(crate) fn feed(&mut self, input: Input) {
        let effects = self.controller.handle(input, self.now);
        self.take(effects);
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Event(event) => self.events.push(event),
                Effect::Rebalanced { request, message } => self.answers.push((request, message)),
                Effect::Write(write) => {
                    let new = self.keys_in_flight.insert(write.key());
                    assert!(new, "two writes under way for {:?}", write.key());
                    self.writes.push(write.clone());
                    self.in_flight.push_back(write);
                }
            }
        }
    }

    /// Delivers one watch event; whether there was one.
    pub(crate) fn step_watch(&mut self) -> bool {
        (0..STREAMS).any(|n| self.step_stream(n))
    }

    /// Delivers one watch event of one kind; whether there was one.
    pub(crate) fn step_stream(&mut self, stream: usize) -> bool {
        let Some(input) = self.watch[stream].pop_front() else {
            return false;
        };
        self.feed(input);
        true
    }

    /// Lets the last writes of a controller that is gone arrive after all.
    pub(crate) fn zombie_writes(&mut self, count: usize) {
        for write in self.zombies.drain(..count.min(self.zombies.len())).collect::<Vec<_>>() {
            let _ = self.serve(write);
        }
    }

    /// Ends one write; whether there was one.
    pub(crate) fn step_write(&mut self) -> bool {
        let Some(write) = self.in_flight.pop_front() else {
            return false;
        };
        let key = write.key();
        self.faulted |= !self.faults.is_empty();
        let result = match self.faults.pop_front() {
            Some(Fault::Error(error)) => Err(error),
            Some(Fault::AnswerLost) => {
                let _ = self.serve(write);
                Err(WriteError::Unavailable("answer lost".to_owned()))
            }
            None => self.serve(write),
        };
        while self.answers_late && self.step_watch() {}
        self.keys_in_flight.remove(&key);
        self.feed(Input::Written { key, result });
        true
    }

    /// Runs until nothing is left to deliver. Panics when that does not come.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.step_write() && !self.step_watch() {
                // A write that failed may have to wait for its turn.
                if !self.faulted {
                    self.check_sharing();
                }
                return;
            }
        }
        panic!(
            "never settles; last writes: {:#?}",
            &self.writes[self.writes.len().saturating_sub(6)..]
        );
    }

    /// Lets time pass, with every deadline met.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..100_000 {
            self.settle();
            match self.controller.next_deadline().filter(|at| *at <= end) {
                Some(at) => {
                    self.now = self.now.max(at);
                    self.feed(Input::Tick);
                }
                None => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("deadlines never end");
    }

    fn serve(&mut self, write: Write) -> Result<(), WriteError> {
        match write {
            Write::CreateVirtualIp {
                address,
                pool,
                claims,
                sharing_key,
                prober,
            } => {
                if self.virtual_ips.contains_key(&address) {
                    return Err(WriteError::Conflict);
                }
                let (object, asks) = (virtual_ip(&address.to_string(), &[]), self.speakers_think);
                self.put_virtual_ip(VirtualIp {
                    pool,
                    claims,
                    sharing_key,
                    probe: prober.filter(|_| asks).map(|node| Box::new(Probe::Asked { node })),
                    ..object
                });
            }
            Write::UpdateVirtualIp {
                address,
                pool,
                claims,
                sharing_key,
                resource_version,
            } => {
                let object = self.at(address, &resource_version)?;
                let shows = |v: &&ServiceView| v.ingress.contains(&address) && self.claimed(address, v);
                for view in self.services.values().filter(shows) {
                    assert!(
                        claims.iter().any(|c| c.service == view.id),
                        "the claim on {address} goes while {} shows it",
                        view.id
                    );
                }
                self.put_virtual_ip(VirtualIp {
                    pool,
                    claims,
                    sharing_key,
                    ..object
                });
            }
            Write::ConfirmVirtualIp {
                address,
                resource_version,
            } => drop(self.at(address, &resource_version)?),
            Write::DeleteVirtualIp {
                address,
                uid,
                resource_version,
            } => {
                let object = self.at(address, &resource_version)?;
                assert_eq!(object.uid, uid);
                let shows = |v: &&ServiceView| v.class.is_none() && v.ingress.contains(&address);
                for view in self.services.values().filter(shows) {
                    assert!(
                        !self.claimed(address, view),
                        "{address} is freed while {} shows it",
                        view.id
                    );
                }
                if self.finalizers.contains(&address) {
                    self.put_virtual_ip(object);
                } else {
                    self.remove_virtual_ip(&address.to_string());
                }
            }
            Write::SetVirtualIpStatus {
                address,
                placement,
                answered_move,
                conditions,
                resource_version,
            } => {
                let mut object = self.at(address, &resource_version)?;
                if let Some(placed) = placement.as_ref().filter(|_| self.owners_confirm) {
                    object.announcer = Some(Announcer {
                        node: placed.owner.clone(),
                        interfaces: Box::default(),
                    });
                }
                self.put_virtual_ip(VirtualIp {
                    placement,
                    answered_move,
                    conditions,
                    ..object
                });
            }
            Write::SetServiceStatus {
                service,
                uid,
                resource_version,
                ingress,
                pool,
            } => {
                let view = self.services.get(&service).cloned().ok_or(WriteError::Gone)?;
                if view.uid != uid || view.resource_version != resource_version {
                    return Err(WriteError::Conflict);
                }
                for address in &ingress {
                    assert!(
                        self.meddled || self.claimed(*address, &view),
                        "{service} shows {address} without a claim"
                    );
                }
                self.put(ServiceView {
                    ingress,
                    pool_annotation: pool,
                    ingress_foreign: false,
                    ..view
                });
            }
        }
        Ok(())
    }

    fn at(&self, address: IpAddr, version: &str) -> Result<VirtualIp, WriteError> {
        let object = self.virtual_ips.get(&address).ok_or(WriteError::Gone)?;
        if object.resource_version == version {
            Ok(object.clone())
        } else {
            Err(WriteError::Conflict)
        }
    }

    // --- what is seen

    fn claimed(&self, address: IpAddr, view: &ServiceView) -> bool {
        let claims = self
            .virtual_ips
            .get(&address)
            .map(|v| v.claims.as_slice())
            .unwrap_or_default();
        claims
            .iter()
            .any(|c| c.service == view.id && c.uid.as_ref().is_none_or(|u| *u == view.uid))
    }

    /// The addresses in a Service's status, as texts.
    pub(crate) fn shown(&self, name: &str) -> Vec<String> {
        let ingress = self
            .services
            .get(&id(name))
            .map(|s| s.ingress.as_slice())
            .unwrap_or_default();
        ingress.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn owner(&self, address: &str) -> Option<&str> {
        let placement = self.virtual_ips.get(&ip(address))?.placement.as_ref()?;
        Some(&placement.owner)
    }

    pub(crate) fn kinds(&self, name: &str) -> Vec<EventKind> {
        self.events
            .iter()
            .filter(|e| e.service == id(name))
            .map(|e| e.kind)
            .collect()
    }

    pub(crate) fn last_message(&self, name: &str) -> &str {
        self.events
            .iter()
            .rfind(|e| e.service == id(name))
            .map(|e| e.message.as_str())
            .unwrap_or_default()
    }

    /// Asserts that nothing more is written, whatever is told again.
    pub(crate) fn assert_quiet(&mut self) {
        let before = self.writes.len();
        let events = self.events.len();
        for input in self.lists() {
            self.feed(input);
        }
        self.feed(Input::Tick);
        self.settle();
        assert_eq!(self.writes[before..], [], "written again in the same state");
        assert_eq!(self.events[events..], [], "said again in the same state");
    }

    /// What must hold when everything is written: no address is shown by two Services that may not share it.
    pub(crate) fn check_sharing(&self) {
        let mut shown = BTreeMap::<IpAddr, Vec<&ServiceView>>::new();
        let ours = |v: &&ServiceView| v.kind == ServiceType::LoadBalancer && v.class.is_none();
        for view in self.services.values().filter(ours) {
            for address in &view.ingress {
                shown.entry(*address).or_default().push(view);
            }
        }
        for (address, views) in shown {
            for (n, a) in views.iter().enumerate() {
                for b in &views[n + 1..] {
                    let same_key = a.sharing_key.is_some() && a.sharing_key == b.sharing_key;
                    let apart = a.ports.is_disjoint(&b.ports);
                    assert!(same_key && apart, "{address} shown by {} and {}", a.id, b.id);
                }
            }
        }
    }
}
