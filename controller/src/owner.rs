//! The one task that owns the core: news in, effects out, outcomes back in.
//!
//! Nothing is decided before every stream has told its first complete list and this replica leads; until then the core
//! takes everything in and asks for nothing, so that a replica that takes over need not list anything. A leader whose
//! lease has run out stands still until it leads again or ends. Writes run beside each other, at most [`WRITES`] at
//! once, as futures of this task. When the channel of news is full the watches wait; when the API server is slow the
//! core simply asks for no more.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Instant;

use ferrolb_api::{IpAddressPoolStatus, names};
use ferrolb_config::Object;
use ferrolb_controller_core::{Controller, Effect, EventKind, Input, RebalanceRequest, ServiceEvent, Write, WriteKey};
use ferrolb_runtime::apply::Failure;
use ferrolb_runtime::events::{Note, Recorder};
use ferrolb_runtime::leader::Leadership;
use ferrolb_runtime::readiness::{Heartbeat, Readiness};
use ferrolb_runtime::write_health::WriteHealth;
use ferrolb_runtime::writer::{Turn, Writer};
use jiff::Timestamp;
use kube::Client;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::admission::Admission;
use crate::configuration::Configuration;
use crate::metrics::Metrics;
use crate::news::{News, Stream};
use crate::pools;
use crate::pools::{PACE, PoolStatuses};
use crate::verdict::{self, Verdict};
use crate::writes::{self, WriteKind, WrittenConditions};

/// Writes under way at once. Enough to keep an API server busy, few enough not to crowd out others.
pub(crate) const WRITES: usize = 32;

/// News taken in before anything else gets its turn.
const BATCH: usize = 256;

/// What a write was for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Job {
    Core(WriteKey),
    Pool(String),
    Verdict,
}

/// How a write ended.
struct Outcome {
    kind: WriteKind,
    result: Result<(), Failure>,
    /// The counters that were written, for [`Job::Pool`].
    counters: IpAddressPoolStatus,
}

/// What the owner task is made of.
pub(crate) struct Owner {
    controller: Controller,
    configuration: Configuration,
    pools: PoolStatuses,
    verdict: Verdict,
    written: BTreeMap<IpAddr, WrittenConditions>,
    unsynced: BTreeSet<Stream>,
    /// When the figures are counted again; `None` while nothing changed.
    count_at: Option<Instant>,
    health: BTreeMap<WriteKind, WriteHealth>,
    admission: Admission,
    writer: Writer<Job, Outcome>,
    client: Client,
    namespace: String,
    recorder: Recorder,
    metrics: Metrics,
    heartbeat: Heartbeat,
    leadership: Leadership,
    start: Instant,
}

impl Owner {
    /// An owner that knows nothing yet and acts only while `leadership` says so.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the program, made in one place")]
    pub(crate) fn new(
        controller: Controller,
        client: Client,
        namespace: String,
        recorder: Recorder,
        metrics: Metrics,
        readiness: Readiness,
        heartbeat: Heartbeat,
        leadership: Leadership,
    ) -> Self {
        Owner {
            controller,
            configuration: Configuration::new(namespace.clone()),
            pools: PoolStatuses::default(),
            verdict: Verdict::default(),
            written: BTreeMap::new(),
            unsynced: Stream::all().collect(),
            count_at: None,
            health: WriteKind::ALL
                .map(|kind| (kind, WriteHealth::new(&readiness, kind.rule())))
                .into(),
            admission: Admission::new(&readiness, &namespace),
            writer: Writer::new(WRITES),
            client,
            namespace,
            recorder,
            metrics,
            heartbeat,
            leadership,
            start: Instant::now(),
        }
    }

    /// Works until `stop` is cancelled or no watch is left.
    pub(crate) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<News>,
        stop: CancellationToken,
    ) -> Result<(), Infallible> {
        loop {
            let wake = tokio::time::Instant::from_std(self.wake_at());
            let acts = self.acts();
            let known = self.unsynced.is_empty();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.leadership.lapsed(), if acts => {
                    self.stand_still(&stop).await;
                    continue;
                }
                () = self.leadership.gained(), if known && !acts => {}
                (job, outcome) = self.writer.next() => self.written(job, outcome),
                news = inputs.recv() => match news {
                    Some(news) => self.take(news),
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(wake) => {}
            }
            for _ in 0..BATCH {
                let Ok(news) = inputs.try_recv() else { break };
                self.take(news);
            }
            self.settle();
            self.heartbeat.beat();
        }
    }

    /// Whether this replica has led already. Before that nothing is decided, counted, written or told.
    fn acts(&self) -> bool {
        self.controller.is_synced()
    }

    /// Takes nothing in and lets no write go on until this replica leads again, or has to stop.
    async fn stand_still(&mut self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.leadership.gained() => return,
                () = tokio::time::sleep(self.heartbeat.period()) => self.heartbeat.beat(),
            }
        }
    }

    /// The next moment at which something is due although nothing happened.
    fn wake_at(&self) -> Instant {
        let idle = Instant::now() + self.heartbeat.period();
        if !self.acts() {
            return idle;
        }
        [
            self.controller.next_deadline().map(|at| self.start + at),
            self.pools.deadline(),
            self.verdict.deadline(),
            self.count_at,
        ]
        .into_iter()
        .flatten()
        .fold(idle, Instant::min)
    }

    fn take(&mut self, news: News) {
        self.metrics.input();
        match news {
            News::Core(input) => {
                if let Input::VirtualIpGone(address) = &*input {
                    self.written.remove(address);
                }
                self.handle(*input);
            }
            News::VirtualIp(object, written) => {
                self.written.insert(object.address, written);
                self.handle(Input::VirtualIp(*object));
            }
            News::Node(node) => {
                let (view, facts) = *node;
                self.configuration.node(view.name.clone(), Some(facts));
                self.handle(Input::Node(view));
            }
            News::NodeGone(name) => {
                self.configuration.node(name.clone(), None);
                self.handle(Input::NodeGone(name));
            }
            News::Pool(of, pool, counters) => {
                match &pool {
                    Some(Object::Unreadable(_)) => {}
                    Some(_) => self.pools.seen(&of.name, counters, Instant::now()),
                    None => self.pools.gone(&of.name),
                }
                self.configuration.object(of, pool);
            }
            News::Object(of, object) => self.configuration.object(of, object),
            News::Namespace(name, labels) => {
                if name == self.namespace {
                    self.admission.labelled(labels.as_ref());
                }
                self.configuration.namespace(name, labels);
            }
            News::ServiceCidr(name, ranges) => self.configuration.service_cidr(name, ranges),
            News::Verdict {
                last_good,
                rebalance,
                rebalanced,
            } => {
                self.configuration.inherit(last_good.as_deref());
                self.verdict.inherit(rebalanced);
                let request = rebalance.filter(|text| !self.verdict.has_answered(text));
                self.handle(Input::Rebalance(request.map(rebalance_request)));
            }
            News::VerdictGone => self.verdict.gone(Instant::now()),
            News::Unreadable(what, error) => warn!(object = %what, "cannot be read and is ignored: {error}"),
            News::Synced(stream) => {
                self.unsynced.remove(&stream);
            }
        }
    }

    /// What is left to do after a batch of news.
    fn settle(&mut self) {
        if self.unsynced.is_empty() {
            if let Some(change) = self.configuration.settle() {
                // What a replica that stands by finds wrong, the one that leads has told.
                if self.leadership.leads() {
                    for note in change.notes {
                        self.recorder.record(note);
                    }
                }
                self.verdict.want(change.findings, Instant::now(), Timestamp::now());
                if let Some(config) = change.config {
                    self.handle(Input::Config(config));
                }
            }
            if !self.acts() && self.leadership.leads() {
                info!("leading, and every watch has its first complete list: deciding from here on");
                self.handle(Input::Synced);
            }
        }
        if !self.acts() {
            return;
        }
        let deadline = self.controller.next_deadline();
        if deadline.is_some_and(|at| at <= self.start.elapsed()) {
            self.handle(Input::Tick);
        }
        let now = Instant::now();
        if self.count_at.is_some_and(|at| at <= now) {
            self.count_at = None;
            let usage = self.controller.pool_usage();
            self.metrics.pools(&usage);
            self.metrics.pending(&self.controller.pending_by_reason());
            let unanswered = self.controller.unanswered_probes();
            self.metrics.probes(unanswered, self.controller.conflicts());
            self.pools.want(&usage);
            self.pools.wake(now);
        }
        for health in self.health.values_mut() {
            health.lapse(now);
        }
        self.report(now);
    }

    /// Starts the writes that are the shell's own: counters and verdict.
    fn report(&mut self, now: Instant) {
        for (pool, counters) in self.pools.due(now) {
            let write = pools::write(self.client.clone(), self.namespace.clone(), pool.clone(), counters);
            self.writer.submit(Job::Pool(pool), Turn::InOrder, async move {
                Outcome {
                    kind: WriteKind::PoolStatus,
                    result: write.await,
                    counters,
                }
            });
        }
        if let Some((state, rebalanced)) = self.verdict.due(now) {
            let write = verdict::write(self.client.clone(), self.namespace.clone(), state, rebalanced);
            self.writer.submit(Job::Verdict, Turn::InOrder, async move {
                Outcome {
                    kind: WriteKind::ConfigurationState,
                    result: write.await,
                    counters: IpAddressPoolStatus::default(),
                }
            });
        }
    }

    /// Tells the core and does what it asks for.
    fn handle(&mut self, input: Input) {
        for effect in self.controller.handle(input, self.start.elapsed()) {
            match effect {
                Effect::Write(write) => self.write(write),
                Effect::Event(event) => self.event(event),
                Effect::Rebalanced { request, message } => {
                    info!(%request, "rebalanced: {message}");
                    self.verdict.answer(&request, &message, Instant::now());
                }
            }
        }
        // Figures are for people: counted a little later, once for many changes.
        self.count_at.get_or_insert_with(|| Instant::now() + PACE);
    }

    fn write(&mut self, write: Write) {
        let kind = WriteKind::of(&write);
        debug!(?write, "writing");
        let written = match &write {
            Write::SetVirtualIpStatus { address, .. } => self.written.get(address).cloned().unwrap_or_default(),
            _ => WrittenConditions::default(),
        };
        let key = write.key();
        // In a burst the first Service shall not wait for the claim of the last.
        let turn = match key {
            WriteKey::Claim(_) => Turn::InOrder,
            WriteKey::VirtualIpStatus(_) | WriteKey::ServiceStatus(_) => Turn::First,
        };
        let client = self.client.clone();
        self.writer.submit(Job::Core(key), turn, async move {
            // Boxed when it starts, so that a write that waits takes no more than what it says.
            let request = Box::pin(writes::perform(client, write, written, Timestamp::now()));
            Outcome {
                kind,
                result: request.await,
                counters: IpAddressPoolStatus::default(),
            }
        });
    }

    fn written(&mut self, job: Job, outcome: Outcome) {
        let Outcome { kind, result, counters } = outcome;
        let now = Instant::now();
        self.metrics.write(kind, &result);
        if let Some(health) = self.health.get_mut(&kind) {
            health.outcome(&result, &job, now);
        }
        match job {
            Job::Core(key) => {
                let result = result.map_err(writes::core_error);
                self.handle(Input::Written { key, result });
            }
            Job::Pool(pool) => self.pools.written(&pool, result.as_ref().map(|()| counters), now),
            Job::Verdict => self.verdict.written(&result, now),
        }
    }

    fn event(&self, event: ServiceEvent) {
        let ServiceEvent {
            service,
            uid,
            kind,
            message,
        } = event;
        let (warning, reason) = event_words(kind);
        if warning {
            warn!(%service, reason, "{message}");
        } else {
            info!(%service, reason, "{message}");
        }
        let about = (service.namespace.clone(), service.name.clone());
        self.recorder
            .record(Note::on_service(about, uid, warning, reason, message));
    }
}

/// The number that a request begins with.
fn rebalance_request(text: String) -> RebalanceRequest {
    let number = text.split_whitespace().next().and_then(|word| word.parse().ok());
    let budget = number.filter(|n| (1..=100_000).contains(n));
    RebalanceRequest { text, budget }
}

/// Whether it is a warning, and its reason.
fn event_words(kind: EventKind) -> (bool, &'static str) {
    match kind {
        EventKind::Conflict => (true, names::reasons::ADDRESS_CONFLICT),
        EventKind::Allocated => (false, names::reasons::ALLOCATED),
        EventKind::Cleared => (true, names::reasons::CLEARED),
        EventKind::AllocationFailed => (true, names::reasons::ALLOCATION_FAILED),
        EventKind::LoadBalancerFailed => (true, names::reasons::LOAD_BALANCER_FAILED),
        EventKind::DeprecatedAnnotation => (true, names::reasons::DEPRECATED_ANNOTATION),
        EventKind::PoolChanged => (true, names::reasons::POOL_CHANGED),
        EventKind::PolicyNotGranted => (true, names::reasons::POLICY_NOT_GRANTED),
        EventKind::Renumbering => (false, names::reasons::RENUMBERING),
        EventKind::Renumbered => (false, names::reasons::RENUMBERED),
        EventKind::AnnounceFailed => (true, names::reasons::ANNOUNCE_FAILED),
        EventKind::Moved => (false, names::reasons::MOVED),
        EventKind::MoveFailed => (true, names::reasons::MOVE_FAILED),
    }
}

#[cfg(test)]
mod tests;
