//! One controller process: the core, its watches, and what it has been told so far.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use ferrolb_controller_core::{Controller, Input, Settings, Write, WriteKey};
use ferrolb_model::{Claim, Config, NodeView, Placement, Probe, ServiceId, ServiceView, VirtualIp};

use crate::law;
use crate::store::{KINDS, Key, Store, claims, is_good};

/// How long an old word of a watch counts as an excuse: a decision may wait that long for its write.
const RECENT: Duration = Duration::from_secs(40);

/// How long an answer about an address is waited for, from the creation of its VirtualIP (ADR 13).
const PATIENCE: Duration = Duration::from_secs(1);

/// A speaker that did not answer is not asked for so long.
const MUTE: Duration = Duration::from_secs(60);

/// What the watches have told a core: the picture that its decisions can be judged by.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) objects: BTreeSet<Key>,
    pub(crate) services: BTreeMap<ServiceId, Vec<(Duration, ServiceView)>>,
    pub(crate) configs: Vec<(Duration, Arc<Config>)>,
    pub(crate) nodes: BTreeMap<String, NodeView>,
    pub(crate) virtual_ips: BTreeMap<IpAddr, VirtualIp>,
    pub(crate) networks: BTreeSet<String>,
}

impl Told {
    fn note(&mut self, key: &Key, input: &Input, now: Duration) {
        let fresh = |end: &mut Duration| {
            if *end == Duration::MAX {
                *end = now + RECENT;
            }
            *end >= now
        };
        match input {
            Input::Config(config) => {
                self.configs.retain_mut(|(end, _)| fresh(end));
                self.configs.push((Duration::MAX, Arc::clone(config)));
            }
            Input::Service(view) => {
                let views = self.services.entry(view.id.clone()).or_default();
                views.retain_mut(|(end, old)| fresh(end) && old.uid == view.uid);
                views.push((Duration::MAX, view.clone()));
            }
            Input::ServiceGone(id) => {
                self.services.remove(id);
            }
            Input::Node(view) => {
                self.nodes.insert(view.name.clone(), view.clone());
            }
            Input::NodeGone(name) => {
                self.nodes.remove(name);
            }
            Input::VirtualIp(object) => {
                self.virtual_ips.insert(object.address, object.clone());
            }
            Input::VirtualIpGone(address) => {
                self.virtual_ips.remove(address);
            }
            Input::Network(view) => {
                self.networks.insert(view.node.clone());
            }
            Input::NetworkGone(node) => {
                self.networks.remove(node);
            }
            _ => {}
        }
        if is_gone(input) {
            self.objects.remove(key);
        } else {
            self.objects.insert(key.clone());
        }
    }

    /// The Service as it was told last, and before that not long ago.
    pub(crate) fn views(&self, id: &ServiceId) -> impl Iterator<Item = &ServiceView> {
        self.services.get(id).into_iter().flatten().rev().map(|(_, view)| view)
    }
}

fn is_gone(input: &Input) -> bool {
    matches!(
        input,
        Input::NodeGone(_)
            | Input::EndpointsGone(_)
            | Input::ServiceGone(_)
            | Input::VirtualIpGone(_)
            | Input::NetworkGone(_)
    )
}

/// A process.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) core: Controller,
    /// Its clock starts with it.
    pub(crate) started: Duration,
    /// Which process of this replica it is; what belongs to an earlier one finds nobody.
    pub(crate) life: u64,
    pub(crate) told: Told,
    queues: [VecDeque<(Key, Input)>; KINDS],
    /// How many entries of the queue belong to the first list.
    listing: [usize; KINDS],
    /// A stream says nothing before this time.
    pub(crate) stalled: [Duration; KINDS],
    /// The process does nothing before this time.
    pub(crate) paused: Duration,
    /// It believes to be the leader.
    pub(crate) leads: bool,
    pub(crate) synced: bool,
    pub(crate) writing: BTreeSet<WriteKey>,
    pub(crate) tick_at: Option<Duration>,
    /// Claims that it wrote and that the watch has not shown yet.
    written: BTreeMap<IpAddr, Write>,
    /// What it asked to show since the watch told of the Service last, and the version that it knew.
    showing: BTreeMap<ServiceId, (String, Vec<IpAddr>)>,
    /// Addresses that it has had asked about and has not been told of since; and since when the VirtualIP with the question
    /// is known to stand.
    probing: BTreeMap<IpAddr, Option<Duration>>,
    /// Addresses that it was told in time to be used by another machine.
    occupied: BTreeSet<IpAddr>,
    /// Since when it knows the owner of an address.
    owners: BTreeMap<IpAddr, (Placement, Duration)>,
    /// The versions on which its placements were based.
    placed: BTreeMap<IpAddr, String>,
    /// When a speaker last did not answer in time.
    missed: Option<Duration>,
    /// Claims that it asked for since the watch told of the object last.
    asked: BTreeMap<IpAddr, Vec<Claim>>,
    /// The Services (by uid) that it claimed an address for: doing so again needs no new reason.
    pub(crate) claimed: BTreeSet<(String, IpAddr)>,
}

impl Replica {
    /// A process that starts now.
    pub(crate) fn start(now: Duration, life: u64) -> Self {
        Replica {
            core: Controller::new(Settings::default()),
            started: now,
            life,
            told: Told::default(),
            queues: Default::default(),
            listing: [0; KINDS],
            stalled: [now; KINDS],
            paused: now,
            leads: false,
            synced: false,
            writing: BTreeSet::new(),
            tick_at: None,
            written: BTreeMap::new(),
            showing: BTreeMap::new(),
            probing: BTreeMap::new(),
            occupied: BTreeSet::new(),
            owners: BTreeMap::new(),
            placed: BTreeMap::new(),
            missed: None,
            asked: BTreeMap::new(),
            claimed: BTreeSet::new(),
        }
    }

    /// Has a speaker asked whether an address is free, with the VirtualIP that it asks for.
    pub(crate) fn probes(&mut self, address: IpAddr) {
        self.probing.insert(address, None);
        self.occupied.remove(&address);
    }

    /// Asks for these claims on an address.
    pub(crate) fn asked(&mut self, address: IpAddr, claims: &[Claim]) {
        self.asked.insert(address, claims.to_vec());
    }

    /// Asks for a status.
    pub(crate) fn shows(&mut self, id: &ServiceId, version: &str, ingress: &[IpAddr]) {
        self.showing.insert(id.clone(), (version.to_owned(), ingress.to_vec()));
    }

    /// Whether the status that it asked for shows the address, as far as it can know.
    pub(crate) fn is_showing(&self, id: &ServiceId, address: IpAddr) -> bool {
        self.showing.get(id).is_some_and(|(_, shown)| shown.contains(&address))
    }

    /// Learns that a write did not go through.
    pub(crate) fn failed(&mut self, write: &Write) {
        match write {
            Write::SetServiceStatus { service, .. } => drop(self.showing.remove(service)),
            Write::CreateVirtualIp { address, .. } => drop(self.probing.remove(address)),
            _ => {}
        }
    }

    /// Learns that a write went through.
    pub(crate) fn wrote(&mut self, write: &Write, now: Duration) {
        if let Write::CreateVirtualIp {
            address,
            prober: Some(_),
            ..
        } = write
        {
            // The answer may have been faster.
            if let Some(since) = self.probing.get_mut(address) {
                *since = Some(now);
            }
        }
        match write {
            Write::CreateVirtualIp { address, .. } | Write::UpdateVirtualIp { address, .. } => {
                self.written.insert(*address, write.clone());
            }
            Write::DeleteVirtualIp { address, .. } => {
                self.written.remove(address);
            }
            Write::SetVirtualIpStatus {
                address,
                placement,
                resource_version,
                ..
            } => {
                // The watch may have told of a newer one.
                let told = self.told.virtual_ips.get(address);
                if told.is_some_and(|object| object.resource_version == *resource_version) {
                    self.note_owner(*address, placement.as_ref(), now);
                    self.placed.insert(*address, resource_version.clone());
                }
            }
            Write::ConfirmVirtualIp { .. } | Write::SetServiceStatus { .. } => {}
        }
    }

    fn note_owner(&mut self, address: IpAddr, placement: Option<&Placement>, now: Duration) {
        let same = |a: &Placement, b: &Placement| a.order() == b.order();
        match (placement, self.owners.get(&address)) {
            (Some(new), Some((old, _))) if same(new, old) => {}
            (Some(new), _) => drop(self.owners.insert(address, (new.clone(), now))),
            (None, _) => drop(self.owners.remove(&address)),
        }
    }

    /// Whether it may say that the owner of an address has not confirmed: for long enough it has known who that is, or
    /// another one has said so, and it was not told otherwise.
    pub(crate) fn may_call_overdue(&self, address: IpAddr, placement: &Placement, now: Duration) -> bool {
        let Some(told) = self.told.virtual_ips.get(&address) else {
            return false;
        };
        let confirmed = told.announcer.as_ref().is_some_and(|a| a.node == placement.owner);
        let since = self
            .owners
            .get(&address)
            .filter(|(known, _)| known.order() == placement.order());
        let long = since.is_some_and(|(_, since)| *since + law::CONFIRMS_WITHIN <= now);
        !confirmed && (long || law::overdue(&told.conditions).is_some())
    }

    /// The pool that it wrote into an object.
    pub(crate) fn written_pool(&self, address: IpAddr) -> Option<&String> {
        match self.written.get(&address)? {
            Write::CreateVirtualIp { pool, .. } | Write::UpdateVirtualIp { pool, .. } => pool.as_ref(),
            _ => None,
        }
    }

    /// Whether it has been told of a claim of the Service on the address, or has made one.
    pub(crate) fn knows_claim(&self, address: IpAddr, view: &ServiceView) -> bool {
        let written = match self.written.get(&address) {
            Some(Write::CreateVirtualIp { claims, .. } | Write::UpdateVirtualIp { claims, .. }) => &claims[..],
            _ => &[],
        };
        written.iter().any(|c| is_good(c, view)) || claims(self.told.virtual_ips.get(&address), view)
    }

    /// Whether it has asked since to take the claim off.
    pub(crate) fn drops_claim(&self, address: IpAddr, view: &ServiceView) -> bool {
        let asked = self.asked.get(&address);
        asked.is_some_and(|all| all.iter().all(|c| !is_good(c, view)))
    }

    /// Puts the first lists into the queues; gives how many entries each has.
    pub(crate) fn list_first(&mut self, store: &Store, rng: &mut Rng) -> [usize; KINDS] {
        for kind in 0..KINDS {
            self.relist(store, kind, rng);
            self.listing[kind] = self.queues[kind].len();
        }
        self.listing
    }

    /// A stream that broke starts over with a list: what was still to come is gone, what is gone is told as gone.
    /// Gives how many entries the list has.
    pub(crate) fn relist(&mut self, store: &Store, kind: usize, rng: &mut Rng) -> usize {
        let mut keys = store.list(kind);
        let gone = self
            .told
            .objects
            .iter()
            .filter(|k| k.kind() == kind && !keys.contains(k));
        let gone = gone.cloned().collect::<Vec<_>>();
        keys.extend(gone);
        rng.shuffle(&mut keys);
        self.queues[kind] = keys.into_iter().map(|k| (k.clone(), store.tell(&k))).collect();
        self.queues[kind].len()
    }

    /// Whether the first lists are still being told.
    pub(crate) fn is_listing(&self) -> bool {
        self.listing.iter().any(|left| *left > 0)
    }

    /// Whether the stream's first list is still being told.
    pub(crate) fn is_listing_kind(&self, kind: usize) -> bool {
        self.listing[kind] > 0
    }

    pub(crate) fn enqueue(&mut self, key: Key, input: Input) {
        self.queues[key.kind()].push_back((key, input));
    }

    fn note_probe(&mut self, address: IpAddr, input: &Input, now: Duration) {
        let probe = match input {
            // Whoever announces it has asked.
            Input::VirtualIp(object) if object.announcer.is_none() => object.probe.as_deref(),
            _ => None,
        };
        self.look_at_probes(now);
        match probe {
            Some(Probe::Asked { .. }) => {}
            Some(Probe::Occupied { .. }) => {
                if self.probing.remove(&address).is_some() {
                    self.occupied.insert(address);
                }
            }
            // That an object is gone is no answer to the question in the next one.
            None if is_gone(input) => drop(self.occupied.remove(&address)),
            None => {
                self.probing.remove(&address);
                self.occupied.remove(&address);
            }
        }
    }

    /// Why the address may not be shown yet, or not at all: the wire is asked first, and what it says counts.
    pub(crate) fn why_not_yet(&self, address: IpAddr, now: Duration) -> Option<&'static str> {
        let open = |since: &Option<Duration>| since.is_none_or(|since| now < since + PATIENCE);
        if self.probing.get(&address).is_some_and(open) {
            Some("nobody has said yet whether it is free")
        } else if self.occupied.contains(&address) {
            Some("another machine uses it")
        } else {
            None
        }
    }

    /// Whether some speaker can be asked about an address, as far as it was told, and none has been mute not long ago. Of an
    /// address of no pool nobody is asked.
    pub(crate) fn has_prober(&self, address: IpAddr, now: Duration) -> bool {
        let told = |view: &NodeView| view.ready && self.told.networks.contains(&view.name);
        let config = self.told.configs.last();
        self.missed.is_none_or(|at| at + MUTE <= now)
            && config.is_some_and(|(_, config)| config.pool_of(address).is_some())
            && self.told.nodes.values().any(told)
    }

    /// Forgets the questions whose time is over, and notes that there were some.
    pub(crate) fn look_at_probes(&mut self, now: Duration) {
        let open = self.probing.len();
        self.probing
            .retain(|_, since| since.is_none_or(|since| now < since + PATIENCE));
        if self.probing.len() < open {
            self.missed = Some(now);
        }
    }

    /// The next word of a stream. At times one about another object overtakes; about one object the order holds.
    pub(crate) fn next(&mut self, kind: usize, rng: &mut Rng, now: Duration) -> Option<Input> {
        let queue = &mut self.queues[kind];
        if queue.is_empty() {
            return None;
        }
        let mut index = 0;
        if self.listing[kind] > 0 {
            self.listing[kind] -= 1;
        } else if rng.u8(..4) == 0 {
            index = rng.usize(..queue.len());
            let key = &queue[index].0;
            index = queue.iter().position(|(k, _)| k == key).unwrap_or(0);
        }
        let (key, input) = queue.remove(index)?;
        self.told.note(&key, &input, now);
        if let Key::Service(id) = &key {
            let same = |v: &ServiceView| {
                self.showing
                    .get(id)
                    .is_some_and(|(base, _)| *base == v.resource_version)
            };
            if !matches!(&input, Input::Service(view) if same(view)) {
                self.showing.remove(id);
            }
        }
        if let Key::VirtualIp(address) = key {
            self.note_probe(address, &input, now);
            self.asked.remove(&address);
            // The word on which the write was based may be repeated.
            let base = match self.written.get(&address) {
                Some(Write::UpdateVirtualIp { resource_version, .. }) => Some(resource_version),
                _ => None,
            };
            if !matches!(&input, Input::VirtualIp(object) if Some(&object.resource_version) == base) {
                self.written.remove(&address);
            }
            let (placement, version) = match &input {
                Input::VirtualIp(object) => (object.placement.as_ref(), Some(&object.resource_version)),
                _ => (None, None),
            };
            // The same holds here.
            if version.is_none() || self.placed.get(&address) != version {
                self.note_owner(address, placement, now);
            }
        }
        Some(input)
    }
}
