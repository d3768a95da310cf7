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
//! What depends on the kind is one function that reads its objects ([`Tell`]); the rest is in the program once, however many
//! kinds it watches.
//!
//! The protocol is list, then watch from the list's resource version, with bookmarks, over and over
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>). It is spelled out
//! here rather than taken from `kube::runtime::watcher`, which does not tell when a watch is established again.

mod cutter;
mod health;
mod read;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{ListParams, VersionMatch, WatchParams};
use kube::core::request::Error as RequestError;
use kube::core::{ListMeta, Request, Status};
use kube::{Client, Error, Resource, ResourceExt};
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
use self::read::{Line, Named, Tell, Text, Told, tell};
use crate::apply::chain;
use crate::backoff::{Backoff, random_fraction};
use crate::readiness::Readiness;
use crate::trust::is_distrust;

/// Objects per list request: large enough to be quick, small enough that the API server answers in one breath.
const PAGE: u32 = 500;

/// How long a list may be silent before its head and between two pieces: a server may begin an answer and never finish.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a list that are read at once.
const PIECE: usize = 16 << 10;

/// What a watch keeps room for between two changes, in bytes.
const LINE: usize = 1 << 10;

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

/// Keys of objects. They are kept for each of thousands of objects, so each is one text: neither part has a slash in it.
#[derive(Debug, Default)]
struct Keys(BTreeSet<Box<str>>);

impl Keys {
    fn text(key: &ObjectKey) -> Box<str> {
        format!("{}/{}", key.namespace, key.name).into()
    }

    fn insert(&mut self, key: &ObjectKey) {
        self.0.insert(Keys::text(key));
    }

    fn remove(&mut self, key: &ObjectKey) {
        self.0.remove(&Keys::text(key));
    }

    /// Those that are not in `others`.
    fn without(&self, others: &Keys) -> Vec<ObjectKey> {
        let gone = self.0.difference(&others.0);
        gone.filter_map(|text| {
            let (namespace, name) = text.split_once('/')?;
            Some(ObjectKey {
                namespace: namespace.into(),
                name: name.into(),
            })
        })
        .collect()
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
#[derive(Clone)]
pub struct Source<K> {
    at: At,
    of: PhantomData<fn() -> K>,
}

/// Where objects are listed, and which of them.
#[derive(Clone)]
struct At {
    client: Client,
    url: String,
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
        Self::of(client, None)
    }

    /// The objects of one namespace.
    pub fn namespaced(client: &Client, namespace: &str) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        Self::of(client, Some(namespace))
    }

    /// Only objects whose labels match.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.at.labels = Some(selector.into());
        self
    }

    /// Only objects whose fields match.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.at.fields = Some(selector.into());
        self
    }

    /// The first list may be answered from the API server's cache, whole and a little late: right for a program of which
    /// one runs on every node, and for objects of which a list without pages is not too large.
    #[must_use]
    pub fn cached(mut self) -> Self {
        self.at.cached = true;
        self
    }

    /// An API server that does not know the resource counts as one that has no object of it; whether it knows it now is
    /// looked at once per `period`.
    #[must_use]
    pub fn optional(mut self, period: Duration) -> Self {
        self.at.absent = Some(period);
        self
    }

    fn of(client: &Client, namespace: Option<&str>) -> Self {
        let group = K::group(&());
        let plural = K::plural(&());
        let resource = if group.is_empty() {
            plural.into_owned()
        } else {
            format!("{plural}.{group}")
        };
        Source {
            at: At {
                client: client.clone(),
                url: K::url_path(&(), namespace),
                resource,
                labels: None,
                fields: None,
                cached: false,
                absent: None,
            },
            of: PhantomData,
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
    to_input: impl FnMut(Event<K>) -> Option<I> + Send + 'static,
    stop: CancellationToken,
) -> Result<(), Infallible>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + 'static,
    I: 'static,
{
    follow(source.at, readiness, metrics, inputs, tell(to_input), stop).await
}

async fn follow<I>(
    source: At,
    readiness: Readiness,
    metrics: Metrics,
    inputs: mpsc::Sender<I>,
    tell: Tell<I>,
    stop: CancellationToken,
) -> Result<(), Infallible> {
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
        tell,
        known: Keys::default(),
        told_synced: false,
        established: None,
    };
    tokio::select! {
        () = stop.cancelled() => {}
        Err(Closed) = watcher.run() => debug!("nobody listens any more"),
    }
    Ok(())
}

impl At {
    fn request(&self) -> Request {
        Request::new(self.url.as_str())
    }

    /// Asks the API server for objects; the answer is read as it comes.
    async fn ask(
        &self,
        verb: &'static str,
        asked: Result<Asked, RequestError>,
    ) -> Result<impl AsyncBufRead + use<>, Break> {
        let failed = |error| Break::of(verb, error);
        let asked = asked.map_err(|error| failed(Error::BuildRequest(error)))?;
        self.client.request_stream(asked).await.map_err(failed)
    }
}

/// A request without a body.
type Asked = axum::http::Request<Vec<u8>>;

struct Watcher<I> {
    source: At,
    health: Health,
    restarts: Counter,
    inputs: mpsc::Sender<I>,
    tell: Tell<I>,
    /// Every object told and not told gone.
    known: Keys,
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

impl<I> Watcher<I> {
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
                        self.complete(Keys::default()).await?;
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
        let mut seen = Vec::new();
        let version = loop {
            let page = self.page(&params, &mut seen).await?;
            params.continue_token = page.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                break page.resource_version.unwrap_or_default();
            }
        };
        self.complete(Keys(seen.into_iter().collect())).await?;
        Ok(version)
    }

    /// The list is complete: these objects exist and no other.
    async fn complete(&mut self, seen: Keys) -> Result<(), Closed> {
        for key in self.known.without(&seen) {
            self.tell(Told::Gone(key)).await?;
        }
        self.known = seen;
        if !self.told_synced {
            self.told_synced = true;
            self.tell(Told::Synced).await?;
        }
        self.health.listed();
        Ok(())
    }

    /// Tells every object of a page as it arrives, so that no more than one of them weighs in memory.
    async fn page(&mut self, params: &ListParams, seen: &mut Vec<Box<str>>) -> Result<ListMeta, Break> {
        let unreadable = |error| Break::of("list", Error::SerdeError(error));
        let answer = in_time(self.source.ask("list", self.source.request().list(params))).await??;
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
                let key = Named::of_object(&item).map_err(unreadable)?.metadata.key();
                seen.push(Keys::text(&key));
                self.apply(key, Text::Object(&item)).await?;
            }
        }
        cutter.finish().map_err(unreadable)
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
        let asked = self.source.request().watch(&params, version);
        let answer = self.source.ask("watch", asked).await?;
        self.established = Some(Instant::now());
        self.health.established();
        let mut answer = pin!(answer);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds.into()) + WATCH_MARGIN;
        let mut line = Vec::new();
        loop {
            match tokio::time::timeout_at(deadline, answer.read_until(b'\n', &mut line)).await {
                Err(_) => return Err(Break::CutOff("silent for too long".to_owned())),
                Ok(Ok(0)) => return Ok(()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(Break::CutOff(chain(&error))),
            }
            match Line::of(&line) {
                Ok(news) => self.change(news, &line, version).await?,
                // The last one, which did not arrive whole.
                Err(error) if error.is_eof() => return Ok(()),
                Err(error) => return Err(Break::CutOff(chain(&error))),
            }
            line.clear();
            line.shrink_to(LINE);
        }
    }

    /// Tells what a line of a watch says, and keeps its resource version.
    async fn change(&mut self, news: Line, line: &[u8], version: &mut String) -> Result<(), Break> {
        let named = match news {
            Line::Exists(named) => {
                self.apply(named.key(), Text::Change(line)).await?;
                named
            }
            Line::Gone(named) => {
                let key = named.key();
                self.known.remove(&key);
                self.tell(Told::Gone(key)).await?;
                named
            }
            Line::Bookmark(named) => named,
            Line::Error(status) => return Err(Break::of("watch", Error::Api(status))),
        };
        *version = named.resource_version;
        Ok(())
    }

    async fn apply(&mut self, key: ObjectKey, text: Text<'_>) -> Result<(), Closed> {
        self.known.insert(&key);
        self.tell(Told::Exists(key, text)).await
    }

    async fn tell(&mut self, told: Told<'_>) -> Result<(), Closed> {
        match (self.tell)(told) {
            Some(input) => self.inputs.send(input).await.map_err(|_| Closed),
            None => Ok(()),
        }
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
            other if is_distrust(other) => (ProblemKind::Failing, chain(other)),
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
            (r#"{"code":401,"reason":"Unauthorized"}"#, ProblemKind::Failing),
        ] {
            let Break::Problem(problem) = answer(text) else {
                panic!("{text}")
            };
            assert_eq!(problem.kind, kind, "{text}");
        }
    }
}
