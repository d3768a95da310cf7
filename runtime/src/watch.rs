//! One kind of object, listed and watched, as news in a bounded channel.
//!
//! Guarantees, whatever the network and the API server do:
//! - every object that exists is told by [`Event::Applied`] (or [`Event::Invalid`]) and told again when it changed;
//!   one that vanished is told by [`Event::Gone`], also when it vanished while nobody was watching;
//! - [`Event::Synced`] comes once, right after the first complete list;
//! - one object that cannot be read does not stop the others;
//! - a lost API server is tried again at most 2 s after it is back; nothing needs a restart, be it a missing rule, a
//!   missing CustomResourceDefinition or an expired resource version;
//! - trouble is logged when it begins, changes and ends, not on every attempt, and `/readyz` names resource and verb.
//!
//! The protocol is list, then watch from the list's resource version, with bookmarks, over and over
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>). It is spelled out
//! here rather than taken from `kube::runtime::watcher`, which does not tell when a watch is established again.

mod cutter;
mod health;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::{self, Debug};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{AsyncReadExt, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{ListParams, VersionMatch, WatchEvent, WatchParams};
use kube::core::{DeserializeGuard, ListMeta, Request, Status};
use kube::{Api, Client, Error, Resource, ResourceExt};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::cutter::Cutter;
use self::health::{Health, Problem, ProblemKind};
use crate::apply::chain;
use crate::backoff::{Backoff, random_fraction};
use crate::readiness::Readiness;

/// Objects per list request: large enough to be quick, small enough that the API server answers in one breath.
const PAGE: u32 = 500;

/// How long a list may be silent before its head and between two pieces: a server may begin an answer and never finish.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a list that are read at once.
const PIECE: usize = 16 << 10;

/// A watch ends after this long, plus up to [`WATCH_JITTER_SECS`]; a server that went silent without the kernel
/// noticing (a proxy in between) is found out then.
const WATCH_SECS: u32 = 50;
const WATCH_JITTER_SECS: f64 = 20.0;

/// How much longer than asked for a watch may stay silent before it counts as dead.
const WATCH_MARGIN: Duration = Duration::from_secs(5);

/// A watch shorter than this is no success, and the next attempt waits.
const TOO_SHORT: Duration = Duration::from_secs(1);

/// Refusals in a row after which the resource version is given up: a server restored from a backup never reaches it.
const REFUSALS_BEFORE_RELIST: u32 = 5;

/// Delays between attempts.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(2);

/// News of one kind of object. `managedFields` are gone from every object.
#[derive(Clone, Debug)]
pub enum Event<K> {
    /// It exists like this; it may have been told before.
    Applied(K),
    /// It exists, but cannot be read.
    Invalid {
        /// Which.
        key: ObjectKey,
        /// What is wrong with it.
        error: String,
    },
    /// It does not exist any more.
    Gone(ObjectKey),
    /// The first complete list has been told.
    Synced,
}

/// Namespace (empty for cluster-scoped objects) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace, or nothing.
    pub namespace: Box<str>,
    /// The name.
    pub name: Box<str>,
}

impl ObjectKey {
    /// The key of `object`.
    pub fn of(object: &impl ResourceExt) -> Self {
        ObjectKey {
            namespace: object.meta().namespace.as_deref().unwrap_or_default().into(),
            name: object.meta().name.as_deref().unwrap_or_default().into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Counters of all watches: `ferrolb_watch_restarts_total{resource}`.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    restarts: Family<ResourceLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabel {
    resource: String,
}

impl Metrics {
    /// Counters, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "ferrolb_watch_restarts",
            "Lists and watches that failed or were cut off and had to be started again",
            metrics.restarts.clone(),
        );
        metrics
    }
}

/// What to watch: all objects of a kind, or those of one namespace, or those that selectors admit.
#[derive(Clone, Debug)]
pub struct Source<K> {
    api: Api<DeserializeGuard<K>>,
    resource: String,
    labels: Option<String>,
    fields: Option<String>,
    cached: bool,
    /// How often to look whether the resource has come, if it may be missing.
    absent: Option<Duration>,
}

impl<K: Resource<DynamicType = ()>> Source<K> {
    /// Every object of the kind.
    pub fn all(client: &Client) -> Self {
        Self::of(Api::all(client.clone()))
    }

    /// The objects of one namespace.
    pub fn namespaced(client: &Client, namespace: &str) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        Self::of(Api::namespaced(client.clone(), namespace))
    }

    /// Only objects whose labels match.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = Some(selector.into());
        self
    }

    /// Only objects whose fields match.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = Some(selector.into());
        self
    }

    /// The first list may be answered from the API server's cache, whole and a little late: right for a program of which
    /// one runs on every node, and for objects of which a list without pages is not too large.
    #[must_use]
    pub fn cached(mut self) -> Self {
        self.cached = true;
        self
    }

    /// An API server that does not know the resource counts as one that has no object of it; whether it knows it now is
    /// looked at once per `period`.
    #[must_use]
    pub fn optional(mut self, period: Duration) -> Self {
        self.absent = Some(period);
        self
    }

    fn of(api: Api<DeserializeGuard<K>>) -> Self {
        let group = K::group(&());
        let plural = K::plural(&());
        let resource = if group.is_empty() {
            plural.into_owned()
        } else {
            format!("{plural}.{group}")
        };
        Source {
            api,
            resource,
            labels: None,
            fields: None,
            cached: false,
            absent: None,
        }
    }
}

/// Watches `source` until `stop` is cancelled or nobody reads `inputs` any more. What `to_input` turns into `None` is
/// dropped. When `inputs` is full the watch waits, and the API server keeps what it has to say.
pub async fn watch<K, I>(
    source: Source<K>,
    readiness: Readiness,
    metrics: Metrics,
    inputs: mpsc::Sender<I>,
    to_input: impl FnMut(Event<K>) -> Option<I>,
    stop: CancellationToken,
) -> Result<(), Infallible>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static,
{
    let restarts = metrics
        .restarts
        .get_or_create(&ResourceLabel {
            resource: source.resource.clone(),
        })
        .clone();
    let watcher = Watcher {
        health: Health::new(&readiness, source.resource.clone()),
        source,
        restarts,
        inputs,
        to_input,
        known: BTreeSet::new(),
        told_synced: false,
        established: None,
    };
    tokio::select! {
        () = stop.cancelled() => {}
        Err(Closed) = watcher.run() => debug!("nobody listens any more"),
    }
    Ok(())
}

struct Watcher<K, I, F> {
    source: Source<K>,
    health: Health,
    restarts: Counter,
    inputs: mpsc::Sender<I>,
    to_input: F,
    /// Every object told and not told gone.
    known: BTreeSet<ObjectKey>,
    told_synced: bool,
    /// When the watch that runs now was accepted.
    established: Option<Instant>,
}

/// Nobody reads the channel.
struct Closed;

/// Why a list or watch ended early.
enum Break {
    Closed,
    /// The connection broke off in the middle; that happens, and is trouble only if the next attempt fails.
    CutOff(String),
    /// The resource version is too old: list again.
    Expired,
    Problem(Problem),
}

impl From<Closed> for Break {
    fn from(Closed: Closed) -> Self {
        Break::Closed
    }
}

impl<K, I, F> Watcher<K, I, F>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static,
    F: FnMut(Event<K>) -> Option<I>,
{
    async fn run(mut self) -> Result<Infallible, Closed> {
        let mut backoff = Backoff::new(FIRST_DELAY, LAST_DELAY);
        let mut cached = self.source.cached;
        let mut version = None;
        let mut refusals = 0;
        loop {
            let broken = match &mut version {
                None => match self.list(cached).await {
                    Ok(listed) => {
                        version = Some(listed);
                        continue;
                    }
                    Err(broken) => broken,
                },
                Some(version) => {
                    let ended = self.watch(version).await;
                    let worked = self.established.take().is_some_and(|at| at.elapsed() >= TOO_SHORT);
                    if worked {
                        backoff.reset();
                        refusals = 0;
                    }
                    match ended {
                        Ok(()) if worked => continue,
                        Ok(()) => Break::CutOff("ended at once".to_owned()),
                        Err(broken) => broken,
                    }
                }
            };
            match broken {
                Break::Closed => return Err(Closed),
                Break::CutOff(message) => debug!(resource = self.source.resource, message, "watch cut off"),
                Break::Expired => {
                    debug!(
                        resource = self.source.resource,
                        "resource version expired, listing again"
                    );
                    version = None;
                    cached = false;
                }
                Break::Problem(problem) => {
                    if let (Some(period), ProblemKind::Missing) = (self.source.absent, problem.kind) {
                        version = None;
                        self.complete(BTreeSet::new()).await?;
                        tokio::time::sleep(period).await;
                        continue;
                    }
                    refusals += u32::from(problem.kind != ProblemKind::Unreachable);
                    if refusals >= REFUSALS_BEFORE_RELIST {
                        refusals = 0;
                        version = None;
                    }
                    self.health.trouble(problem);
                }
            }
            self.restarts.inc();
            tokio::time::sleep(backoff.delay()).await;
        }
    }

    /// Tells every object, then which of those known have vanished. Gives the resource version to watch from.
    async fn list(&mut self, cached: bool) -> Result<String, Break> {
        let mut params = ListParams {
            label_selector: self.source.labels.clone(),
            field_selector: self.source.fields.clone(),
            // A list with a limit is never taken from the cache.
            limit: (!cached).then_some(PAGE),
            ..ListParams::default()
        };
        if cached {
            params.resource_version = Some("0".to_owned());
            params.version_match = Some(VersionMatch::NotOlderThan);
        }
        let mut seen = BTreeSet::new();
        let version = loop {
            let page = self.page(&params, &mut seen).await?;
            params.continue_token = page.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                break page.resource_version.unwrap_or_default();
            }
        };
        self.complete(seen).await?;
        Ok(version)
    }

    /// The list is complete: these objects exist and no other.
    async fn complete(&mut self, seen: BTreeSet<ObjectKey>) -> Result<(), Closed> {
        for key in self.known.difference(&seen).cloned().collect::<Vec<_>>() {
            self.tell(Event::Gone(key)).await?;
        }
        self.known = seen;
        if !self.told_synced {
            self.told_synced = true;
            self.tell(Event::Synced).await?;
        }
        self.health.listed();
        Ok(())
    }

    /// Tells every object of a page as it arrives, so that no more than one of them weighs in memory.
    async fn page(&mut self, params: &ListParams, seen: &mut BTreeSet<ObjectKey>) -> Result<ListMeta, Break> {
        let failed = |error| Break::of("list", error);
        let request = Request::new(self.source.api.resource_url()).list(params);
        let request = request.map_err(|error| failed(Error::BuildRequest(error)))?;
        let client = self.source.api.clone().into_client();
        let answer = in_time(client.request_stream(request)).await?.map_err(failed)?;
        let mut answer = pin!(answer);
        let mut cutter = Cutter::default();
        let mut piece = vec![0; PIECE];
        loop {
            let read = in_time(answer.read(&mut piece)).await?;
            let read = read.map_err(|error| unreachable_list(chain(&error)))?;
            if read == 0 {
                break;
            }
            for item in cutter.feed(&piece[..read]) {
                let object = guarded(&item).map_err(|error| failed(Error::SerdeError(error)))?;
                let key = ObjectKey::of(&object);
                seen.insert(key.clone());
                self.apply(key, object).await?;
            }
        }
        cutter.finish().map_err(|error| failed(Error::SerdeError(error)))
    }

    /// Tells changes from `version` on, which it keeps up to date, until the server ends the watch in its time.
    async fn watch(&mut self, version: &mut String) -> Result<(), Break> {
        let seconds = WATCH_SECS + (WATCH_JITTER_SECS * random_fraction()) as u32;
        let params = WatchParams {
            label_selector: self.source.labels.clone(),
            field_selector: self.source.fields.clone(),
            timeout: Some(seconds),
            bookmarks: true,
            send_initial_events: false,
        };
        let api = self.source.api.clone();
        let events = api
            .watch(&params, version)
            .await
            .map_err(|error| Break::of("watch", error))?;
        self.established = Some(Instant::now());
        self.health.established();
        let mut events = pin!(events);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds.into()) + WATCH_MARGIN;
        loop {
            let event = match tokio::time::timeout_at(deadline, events.next()).await {
                Err(_) => return Err(Break::CutOff("silent for too long".to_owned())),
                Ok(None) => return Ok(()),
                Ok(Some(Err(error))) => return Err(Break::CutOff(chain(&error))),
                Ok(Some(Ok(event))) => event,
            };
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let next = object.resource_version();
                    self.apply(ObjectKey::of(&object), object).await?;
                    version.clone_from(&next.unwrap_or_default());
                }
                WatchEvent::Deleted(object) => {
                    let key = ObjectKey::of(&object);
                    self.known.remove(&key);
                    self.tell(Event::Gone(key)).await?;
                    version.clone_from(&object.resource_version().unwrap_or_default());
                }
                WatchEvent::Bookmark(mark) => *version = mark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(Break::of("watch", Error::Api(status))),
            }
        }
    }

    async fn apply(&mut self, key: ObjectKey, object: DeserializeGuard<K>) -> Result<(), Closed> {
        self.known.insert(key.clone());
        let event = match object.0 {
            Ok(mut object) => {
                object.meta_mut().managed_fields = None;
                Event::Applied(object)
            }
            Err(invalid) => Event::Invalid {
                key,
                error: invalid.error,
            },
        };
        self.tell(event).await
    }

    async fn tell(&mut self, event: Event<K>) -> Result<(), Closed> {
        match (self.to_input)(event) {
            Some(input) => self.inputs.send(input).await.map_err(|_| Closed),
            None => Ok(()),
        }
    }
}

/// An object, or what is wrong with it. The detour by way of a tree is for those alone that cannot be read.
fn guarded<K: Resource + DeserializeOwned>(text: &[u8]) -> Result<DeserializeGuard<K>, serde_json::Error> {
    match serde_json::from_slice::<K>(text) {
        Ok(object) => Ok(DeserializeGuard(Ok(object))),
        Err(_) => serde_json::from_slice(text),
    }
}

async fn in_time<T>(step: impl Future<Output = T>) -> Result<T, Break> {
    let silent = |_| unreachable_list(format!("no complete answer within {} s", PAGE_TIMEOUT.as_secs()));
    tokio::time::timeout(PAGE_TIMEOUT, step).await.map_err(silent)
}

fn unreachable_list(message: String) -> Break {
    Break::Problem(Problem {
        kind: ProblemKind::Unreachable,
        verb: "list",
        message,
    })
}

impl Break {
    fn of(verb: &'static str, error: Error) -> Self {
        let (kind, message) = match &error {
            Error::Api(status) if is_expired(status) => return Break::Expired,
            Error::Api(status) if status.code == 403 => (ProblemKind::Forbidden, status.message.clone()),
            Error::Api(status) if status.code == 404 => (
                ProblemKind::Missing,
                "the API server does not know this resource; is its CustomResourceDefinition applied?".to_owned(),
            ),
            Error::Api(status) => (
                ProblemKind::Failing,
                format!("{} {}: {}", status.code, status.reason, status.message),
            ),
            other => (ProblemKind::Unreachable, chain(other)),
        };
        Break::Problem(Problem { kind, verb, message })
    }
}

fn is_expired(status: &Status) -> bool {
    status.code == 410 || status.reason == "Expired" || status.reason == "Gone"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_break_a_watch() {
        let answer = |text: &str| {
            let status = serde_json::from_str::<Status>(text).unwrap();
            Break::of("list", Error::Api(Box::new(status)))
        };
        assert!(matches!(answer(r#"{"code":410,"reason":"Expired"}"#), Break::Expired));
        for (text, kind) in [
            (r#"{"code":403,"reason":"Forbidden"}"#, ProblemKind::Forbidden),
            (r#"{"code":404,"reason":"NotFound"}"#, ProblemKind::Missing),
            (r#"{"code":504,"reason":"Timeout"}"#, ProblemKind::Failing),
        ] {
            let Break::Problem(problem) = answer(text) else {
                panic!("{text}")
            };
            assert_eq!(problem.kind, kind, "{text}");
        }
    }
}
