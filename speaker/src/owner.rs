//! The one task that owns the core: news in, effects out.
//!
//! | channel | when it is full |
//! | --- | --- |
//! | news from the watches | the watches wait, and the API server keeps what it has to say |
//! | reports of the engine | the engine keeps the latest of each and goes on answering |
//! | outcomes of the guard | wait in the guard, in order |
//! | duties, the ground, the picture | always the latest only; a slow reader misses but the steps between |
//! | writes | one of each kind per address at most, a few at a time, the rest waits in order |
//! | events on Services | dropped and counted |

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ferrolb_config::Kind;
use ferrolb_l2::interfaces::suitable;
use ferrolb_l2::{Fault, InterfaceChoice, InterfaceState, NamePattern, Report};
use ferrolb_liveness::Outcome;
use ferrolb_model::{ServiceId, Stranger};
use ferrolb_runtime::apply::Failure;
use ferrolb_runtime::backoff::Backoff;
use ferrolb_runtime::readiness::{Check, Heartbeat};
use ferrolb_runtime::write_health::WriteHealth;
use ferrolb_runtime::writer::{Turn, Writer};
use ferrolb_speaker_core::{DataPath, Effect, Finding, Ids, Input, Late, NotReady, Ownership, Subnets};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::Api;
use crate::bgp::Decider;
use crate::configuration::Configuration;
use crate::guard::{self, Briefing};
use crate::kube_proxy::{Answers, Asks, Clock};
use crate::metrics::{Board, Published};
use crate::news::{News, Stream};
use crate::picture::{self, Picture, Trouble};
use crate::prober::{Found, Prober};
use crate::takeovers::Takeovers;

/// News taken from the channel in one go: a burst becomes one new set for the engine, not one per object.
const BATCH: usize = 256;

/// Writes under way at once.
const WRITES: usize = 8;

/// Delays between attempts to repeat writes that failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));

/// What `/metrics` says is this old at most: in a burst it is not counted anew for every object.
const PUBLISH: Duration = Duration::from_millis(250);

/// A fault of the engine that comes and goes is logged this often.
const FAULT_AGAIN: Duration = Duration::from_secs(300);

/// Faults remembered for that; beyond, all are forgotten and logged anew.
const FAULTS: usize = 64;

/// The ends of the channels that the owner task holds.
pub(crate) struct Ends {
    /// From the watches and the engine's keeper.
    pub(crate) news: mpsc::Receiver<News>,
    /// From the engine.
    pub(crate) reports: mpsc::Receiver<Report>,
    /// From the guard.
    pub(crate) outcomes: mpsc::Receiver<Outcome>,
    /// To the guard, and to the snapshot.
    pub(crate) briefing: Briefing,
    /// To `/metrics`.
    pub(crate) board: Board,
    /// To whoever writes down what this speaker says about itself.
    pub(crate) picture: watch::Sender<Picture>,
    /// To BGP.
    pub(crate) bgp: Decider,
    /// What is known of kube-proxy.
    pub(crate) data_path: DataPath,
    /// Asks the segments whether other machines use addresses.
    pub(crate) prober: Prober,
    /// To the task that asks kube-proxy.
    pub(crate) asks: watch::Sender<Asks>,
    /// To `/readyz`: the engine runs.
    pub(crate) engine: Check,
    /// To `/readyz`: the API server takes what this speaker writes.
    pub(crate) writes: WriteHealth,
    /// To `/healthz`.
    pub(crate) heartbeat: Heartbeat,
}

/// What a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Job {
    /// `status.announcer`.
    Announcer(IpAddr),
    /// `status.placement`.
    Placement(IpAddr),
    /// `status.probe`.
    Probe(IpAddr),
}

/// The owner task.
pub(crate) struct Owner {
    ownership: Ownership,
    ids: Ids,
    ends: Ends,
    api: Api,
    configuration: Configuration,
    /// Streams that have not delivered their first complete list.
    missing: BTreeSet<Stream>,
    /// The configuration's objects changed since it was last read.
    stale: bool,
    config_errors: Option<u64>,
    writer: Writer<Job, Result<(), Failure>>,
    retry: Backoff,
    retry_at: Option<Instant>,
    publish_at: Option<Instant>,
    clock: Clock,
    /// When to look again at what waits for kube-proxy or for the segment.
    begin_at: Option<Instant>,
    /// Whether kube-proxy was there when it was last asked.
    proxy: Option<Result<(), String>>,
    takeovers: Takeovers,
    /// When each fault was last logged.
    logged: BTreeMap<Fault, Instant>,
    trouble: Trouble,
    interfaces: Vec<InterfaceState>,
    node_uid: Option<String>,
    exclude: Vec<NamePattern>,
}

/// Nobody is left to send news.
#[derive(Debug, Error)]
#[error("all watches have ended")]
pub(crate) struct Deaf;

impl Owner {
    /// An owner of a core that may know a snapshot and nothing else, and is going to hear the streams `followed`.
    pub(crate) fn new(
        ownership: Ownership,
        api: Api,
        exclude: Vec<NamePattern>,
        followed: BTreeSet<Stream>,
        takeovers: Takeovers,
        ends: Ends,
    ) -> Self {
        Owner {
            ownership,
            ids: Ids::default(),
            ends,
            api,
            configuration: Configuration::default(),
            missing: followed,
            stale: false,
            config_errors: None,
            writer: Writer::new(WRITES),
            retry: Backoff::new(RETRY.0, RETRY.1),
            retry_at: None,
            publish_at: None,
            clock: Clock::start(),
            begin_at: None,
            proxy: None,
            takeovers,
            logged: BTreeMap::new(),
            trouble: Trouble::default(),
            interfaces: Vec::new(),
            node_uid: None,
            exclude,
        }
    }

    /// Runs until `stop` is cancelled. What is announced stays in the snapshot and in the API: a stop is not a goodbye.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Deaf> {
        let mut pulse = tokio::time::interval(self.ends.heartbeat.period());
        let mut batch = Vec::new();
        loop {
            self.ends.heartbeat.beat();
            let (retry_at, publish_at, begin_at) = (self.retry_at, self.publish_at, self.begin_at);
            let bgp_at = self.ends.bgp.deadline(self.clock);
            let told_at = self.takeovers.deadline().map(|at| self.clock.instant(at));
            let mut effects = Vec::new();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(report) = self.ends.reports.recv() => {
                    self.report(report, &mut effects);
                    while let Ok(report) = self.ends.reports.try_recv() {
                        self.report(report, &mut effects);
                    }
                }
                count = self.ends.news.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return if stop.is_cancelled() { Ok(()) } else { Err(Deaf) };
                    }
                    self.hear(&mut batch, &mut effects);
                }
                answers = self.ends.prober.next() => effects = self.probed(answers),
                Some(outcome) = self.ends.outcomes.recv() => self.outcome(outcome, &mut effects),
                (job, outcome) = self.writer.next() => self.written(job, outcome, &mut effects),
                () = sleep_until(retry_at) => {
                    self.retry_at = None;
                    effects = self.ownership.handle(Input::Retry);
                }
                () = sleep_until(bgp_at) => {}
                () = sleep_until(begin_at) => {}
                () = sleep_until(publish_at) => {
                    self.publish_at = None;
                    self.publish();
                    self.draw();
                    continue;
                }
                () = sleep_until(told_at) => {
                    self.takeovers.due(self.clock.now()).iter().for_each(|notice| self.api.took_over(notice));
                    continue;
                }
                _ = pulse.tick() => continue,
            }
            self.begin(&mut effects);
            self.run_effects(effects);
            self.settle_bgp();
            self.ask();
            self.plan_retry();
            let soon = Instant::now() + PUBLISH;
            self.publish_at = Some(self.publish_at.map_or(soon, |at| at.min(soon)));
        }
    }

    fn hear(&mut self, batch: &mut Vec<News>, effects: &mut Vec<Effect>) {
        for news in batch.drain(..) {
            match news {
                News::Input(input) => add(effects, self.take(*input)),
                News::Node(view, _) if view.name != self.api.node() => {
                    self.ends.briefing.peer(view.name.clone(), Some(view.addresses.clone()));
                    add(effects, self.take(Input::OtherNode(*view)));
                }
                News::Node(view, own) => {
                    self.node_uid = Some(own.uid);
                    self.ends.bgp.hear(&Input::OwnAnnotations(own.annotations));
                    self.stale |= self.configuration.on_node(&view.name, &view.labels);
                    add(effects, self.take(Input::OwnNode(*view)));
                }
                // The last labels of this one stay in force.
                News::NodeGone(name) => {
                    self.ends.briefing.peer(name.clone(), None);
                    add(effects, self.take(Input::OtherNodeGone(name)));
                }
                News::LivenessKeys(keys) => self.ends.briefing.keys(keys),
                News::Configuration(change) => self.stale |= self.configuration.change(*change),
                News::Synced(stream) => {
                    self.missing.remove(&stream);
                    // An empty configuration is one, too.
                    self.stale |= stream.configures();
                }
                News::KubeProxy(answers) => self.kube_proxy(answers),
                News::EngineDown(why) => {
                    self.trouble.engine = Some(why.clone());
                    self.trouble.faults.clear();
                    add(effects, self.ownership.handle(Input::EngineDown(why)));
                    self.survey();
                }
            }
        }
        let layer2 = |stream: &&Stream| stream.is_of_layer2();
        if self.stale && !self.missing.iter().filter(layer2).any(|stream| stream.configures()) {
            self.stale = false;
            let alone = self.missing.iter().any(|stream| stream.configures());
            let (config, errors) = self.configuration.read(alone);
            self.config_errors = Some(errors);
            add(effects, self.take(Input::Config(config)));
        }
        if !self.missing.iter().any(|stream| stream.is_of_layer2()) {
            add(effects, self.take(Input::Synced));
        }
        if self.missing.is_empty() {
            add(effects, self.take(Input::BgpSynced));
        }
    }

    /// What waits for kube-proxy or for the segment, as far as it need not any more; and what the segment is to be asked.
    fn begin(&mut self, effects: &mut Vec<Effect>) {
        let probes = &mut self.ends.prober.probes;
        let (begun, again) = self.ownership.begin(&self.ends.data_path, probes, self.clock.now());
        effects.extend(begun);
        self.begin_at = again.map(|at| self.clock.instant(at));
        self.ends.prober.ask(&self.interfaces, &self.exclude);
    }

    /// What the segments have said.
    fn probed(&mut self, answers: Found) -> Vec<Effect> {
        let now = self.clock.now();
        let mut effects = Vec::new();
        for (address, (on, finding)) in answers {
            if let Finding::Occupied(stranger) = &finding
                && self.ownership.owns(address)
            {
                self.trouble
                    .conflict(address, stranger.clone(), Instant::now().into_std());
            }
            effects.extend(self.ends.prober.probes.answered(address, on, finding, now));
        }
        effects
    }

    /// Has kube-proxy asked as long as something waits.
    fn ask(&self) {
        let path = &self.ends.data_path;
        let waits = self.ownership.is_waiting() || self.ends.bgp.is_waiting();
        let checks = waits.then(|| &self.ownership.checks(path) | &self.ends.bgp.checks(path));
        self.ends.asks.send_if_modified(|asks| {
            let changed = *asks != checks;
            *asks = checks;
            changed
        });
    }

    fn settle_bgp(&mut self) {
        let uid = |peer: &str| self.configuration.uid(Kind::BgpPeer, peer);
        for late in self.ends.bgp.settle(&self.ends.data_path, self.clock.now(), uid) {
            let Late {
                address,
                service,
                uid,
                waited,
                why,
            } = late;
            self.late(address, waited, why, vec![(service, uid)]);
        }
    }

    fn late(&self, address: IpAddr, waited: Duration, why: NotReady, services: Vec<(ServiceId, String)>) {
        warn!(%address, "announced although kube-proxy is not known to serve it: {why}");
        self.api.data_path_not_ready(address, waited, why, services);
    }

    /// Whether it is there is told when that changes.
    fn kube_proxy(&mut self, answers: Answers) {
        let at = self.clock.at(answers.at);
        self.ends.data_path.checked(answers.checks, at);
        self.ends.data_path.answered(answers.proxy, at);
        let Some(now) = self.ends.data_path.is_asked() else {
            return;
        };
        let now = now.map_err(str::to_owned);
        match (&self.proxy, &now) {
            (Some(Err(before)), Err(why)) if before == why => {}
            (_, Err(why)) => info!("announcing without asking kube-proxy whether it is ready: {why}"),
            (Some(Err(_)), Ok(())) => info!("kube-proxy is asked before addresses are announced"),
            (None | Some(Ok(())), Ok(())) => {}
        }
        self.proxy = Some(now);
    }

    /// Both cores hear it.
    fn take(&mut self, input: Input) -> Vec<Effect> {
        let input = self.ids.shared(input);
        let endpoints = self.ends.data_path.hear(&input, self.clock.now());
        self.ends.prober.probes.hear(&input, self.clock.now());
        self.ends.bgp.hear(&input);
        self.ends.bgp.endpoints_changed(&endpoints);
        self.ownership.handle(input)
    }

    /// Tells the guard how this node stands.
    fn survey(&self) {
        let answering = self.trouble.engine.is_none() && !self.interfaces.is_empty();
        self.ends.briefing.ground(answering, &self.interfaces, &self.exclude);
    }

    /// What the guard has done.
    fn outcome(&mut self, outcome: Outcome, effects: &mut Vec<Effect>) {
        guard::log(&outcome);
        self.takeovers.hear(&outcome, self.clock.now());
        if let Some(input) = guard::input(outcome) {
            effects.extend(self.ownership.handle(input));
        }
    }

    fn report(&mut self, report: Report, effects: &mut Vec<Effect>) {
        let input = match report {
            Report::Announcing { address, interfaces } => Input::Announcing { address, interfaces },
            Report::Interfaces(states) => {
                self.ends.engine.ready();
                self.trouble.engine = None;
                let input = self.fit(&states);
                self.ends.bgp.hear(&gateways(&states));
                self.interfaces = states;
                self.survey();
                input
            }
            Report::Conflict {
                address,
                interface,
                mac,
            } => {
                let stranger = Stranger {
                    mac,
                    interface: interface.clone(),
                };
                self.trouble.conflict(address, stranger, Instant::now().into_std());
                Input::Conflict {
                    address,
                    interface,
                    mac,
                }
            }
            Report::Faults(faults) => return self.faults(faults),
        };
        effects.extend(self.ownership.handle(input));
    }

    /// The interfaces that are fit for at least one family.
    fn fit(&self, states: &[InterfaceState]) -> Input {
        const FAMILIES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let fit = |exclude: &[NamePattern]| -> Subnets {
            let fits = |state: &&InterfaceState| {
                FAMILIES
                    .iter()
                    .any(|family| suitable(state, *family, &InterfaceChoice::All, exclude).is_ok())
            };
            let fit = states.iter().filter(fits);
            fit.map(|state| (state.name.clone(), state.addresses.clone())).collect()
        };
        let usable = fit(&self.exclude);
        let mut excluded = fit(&[]);
        excluded.retain(|name, _| !usable.contains_key(name));
        Input::Interfaces { usable, excluded }
    }

    /// Logs faults that are new. One that comes and goes is logged now and then.
    fn faults(&mut self, faults: BTreeSet<Fault>) {
        let now = Instant::now();
        for fault in faults.difference(&self.trouble.faults) {
            if self.logged.get(fault).is_some_and(|last| now - *last < FAULT_AGAIN) {
                continue;
            }
            if self.logged.len() >= FAULTS {
                self.logged.clear();
            }
            warn!("layer 2: {fault}");
            self.logged.insert(fault.clone(), now);
        }
        self.trouble.faults = faults;
    }

    /// Does what the core asks for. Of several sets for the engine only the last one counts.
    fn run_effects(&mut self, effects: Vec<Effect>) {
        let mut duties = None;
        for effect in effects {
            match effect {
                Effect::Duties(all) => duties = Some(all),
                // The core keeps it to itself.
                Effect::Announce(_) => {}
                Effect::SetPlacement {
                    address,
                    placement,
                    resource_version,
                } => {
                    let write = self.api.set_placement(address, &placement, resource_version);
                    self.writer.submit(Job::Placement(address), Turn::First, write);
                }
                Effect::SetProbe { address, uid, finding } => {
                    let write = self.api.set_probe(address, uid, finding);
                    self.writer.submit(Job::Probe(address), Turn::First, write);
                }
                Effect::Withheld { address, why } => info!(%address, reason = why.as_str(), "not announced"),
                Effect::SetAnnouncer {
                    address,
                    interfaces,
                    resource_version,
                } => {
                    let write = self.api.set_announcer(address, interfaces, resource_version);
                    self.writer.submit(Job::Announcer(address), Turn::InOrder, write);
                }
                Effect::NodeAssigned { service, uid, address } => {
                    info!(%service, %address, "announced");
                    self.api.assigned(service, uid, address);
                }
                Effect::AnnounceFailed { service, uid, message } => {
                    warn!(%service, "{message}");
                    self.api.announce_failed(service, uid, message);
                }
                Effect::DataPathNotReady {
                    address,
                    waited,
                    why,
                    services,
                } => self.late(address, waited, why, services),
                Effect::Conflict {
                    address,
                    interface,
                    mac,
                    services,
                } => {
                    let mac = Stranger::text_of(mac);
                    warn!(%address, %interface, %mac, "another machine uses an address of this node");
                    self.api.conflict(address, &interface, &mac, services);
                }
            }
        }
        if let Some(all) = duties {
            self.ends.briefing.duties(all);
            // Interfaces that are left out but for those that an advertisement names.
            self.survey();
        }
    }

    fn written(&mut self, job: Job, outcome: Result<(), Failure>, effects: &mut Vec<Effect>) {
        let ok = outcome.is_ok();
        let (address, input) = match job {
            Job::Announcer(address) => (address, Some(Input::AnnouncerWritten { address, ok })),
            Job::Placement(address) => (address, Some(Input::PlacementWritten { address, ok })),
            // The controller waits for a second and not longer: there is nothing to repeat.
            Job::Probe(address) => (address, None),
        };
        self.ends.writes.outcome(&outcome, address, Instant::now().into_std());
        effects.extend(input.into_iter().flat_map(|input| self.ownership.handle(input)));
    }

    /// Failed writes are asked for again after a while, longer each time; once there are none, it starts over.
    fn plan_retry(&mut self) {
        if self.ownership.failed_writes() == 0 {
            self.retry_at = None;
            if self.writer.is_empty() {
                self.retry.reset();
                self.ends.writes.settled();
            }
        } else if self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + self.retry.delay());
        }
    }

    /// Draws the picture anew; when part of it changes by itself, it is drawn again then.
    fn draw(&mut self) {
        let now = Instant::now().into_std();
        let picture = Picture {
            node_uid: self.node_uid.clone(),
            state: picture::state(
                self.ownership.speaker(),
                &self.interfaces,
                &self.exclude,
                &self.trouble,
                now,
            ),
            services: picture::services(self.ownership.speaker(), self.api.node()),
        };
        self.ends.picture.send_if_modified(|old| {
            let changed = *old != picture;
            // What stayed the same is shared with whoever has it.
            if changed {
                *old = picture;
            }
            changed
        });
        self.publish_at = self.trouble.deadline(now).map(Instant::from_std);
    }

    fn publish(&self) {
        let announced = self.ownership.speaker().announced();
        let mut withheld = BTreeMap::new();
        for (_, why) in self.ownership.speaker().withheld() {
            *withheld.entry(why).or_default() += 1;
        }
        self.ends.board.publish(Published {
            announced: announced.map(|(service, ip)| (service.clone(), ip)).collect(),
            announced_by_bgp: self
                .ends
                .bgp
                .announced()
                .map(|(service, ip)| (service.clone(), ip))
                .collect(),
            withheld,
            withheld_by_bgp: self.ends.bgp.withheld(),
            failed_writes: u64::try_from(self.ownership.failed_writes()).unwrap_or(u64::MAX),
            config_errors: self.config_errors,
            kube_proxy: self.proxy.as_ref().map(Result::is_ok),
        });
    }
}

/// Of several sets of duties only the last one counts, and a batch of news can make one for each.
fn add(effects: &mut Vec<Effect>, more: Vec<Effect>) {
    let duties = |effect: &Effect| matches!(effect, Effect::Duties(_));
    if more.iter().any(duties) {
        effects.retain(|effect| !duties(effect));
    }
    effects.extend(more);
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The default gateways of this node.
fn gateways(states: &[InterfaceState]) -> Input {
    let with = states.iter().filter(|state| !state.gateways.is_empty());
    Input::Gateways(with.map(|state| (state.name.clone(), state.gateways.clone())).collect())
}

#[cfg(test)]
mod tests;
