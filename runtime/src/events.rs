//! Kubernetes events, as `kubectl describe` shows them: best effort, and never in the way of the work.
//!
//! The queue is bounded; what does not fit is counted and dropped. Events are posted one after the other, so a burst of
//! them cannot crowd out the writes that matter. While the API server cannot be reached they wait, because an outage is when
//! much happens that is worth telling; what it refuses, or goes on to forbid, is dropped. Repetitions are for the caller to avoid. What keeps
//! events from being recorded is logged when it begins, changes and ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::apply::{Failure, within};
use crate::backoff::Backoff;
use crate::text::shortened;

/// Events that may wait.
const QUEUE: usize = 1024;

/// Between two tries while the API server cannot be reached: at first, and at most.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// So many times an event may be forbidden before it is dropped.
const FORBIDDEN_MAX: u32 = 4;

/// The API server takes messages of at most 1024 bytes.
const MAX_MESSAGE: usize = 1024;

/// Where events about cluster-scoped objects live.
const DEFAULT_NAMESPACE: &str = "default";

/// Takes events; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<(Timestamp, Note)>,
    dropped: Counter,
}

/// An event to record.
#[derive(Clone, Debug)]
pub struct Note {
    /// What it is about: kind, apiVersion, namespace, name, uid.
    pub about: ObjectReference,
    /// Warning instead of Normal.
    pub warning: bool,
    /// CamelCase, stable.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

impl Note {
    /// An event on the Service `namespace`/`name` with this `uid`.
    pub fn on_service(
        (namespace, name): (String, String),
        uid: String,
        warning: bool,
        reason: &'static str,
        message: String,
    ) -> Self {
        Note {
            about: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Service".to_owned()),
                namespace: Some(namespace),
                name: Some(name),
                uid: Some(uid),
                ..ObjectReference::default()
            },
            warning,
            reason,
            message,
        }
    }
}

impl Recorder {
    /// Records an event, if there is room for it.
    pub fn record(&self, note: Note) {
        if self.queue.try_send((Timestamp::now(), note)).is_err() {
            self.dropped.inc();
        }
    }
}

/// Posts what a [`Recorder`] takes; run it as a task.
pub struct Poster {
    queue: mpsc::Receiver<(Timestamp, Note)>,
    client: Client,
    component: &'static str,
    host: String,
    dropped: Counter,
    /// What keeps events from being recorded, in a word.
    trouble: Option<&'static str>,
}

/// A recorder whose events carry `component` as their source, and `host` as the node (empty: none). Dropped events are
/// counted in `ferrolb_events_dropped_total`.
pub fn recorder(
    client: Client,
    component: &'static str,
    host: impl Into<String>,
    registry: &mut Registry,
) -> (Recorder, Poster) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let dropped = Counter::default();
    registry.register(
        "ferrolb_events_dropped",
        "Kubernetes events that were not recorded: too many at once, or refused",
        dropped.clone(),
    );
    let poster = Poster {
        queue,
        client,
        component,
        host: host.into(),
        dropped: dropped.clone(),
        trouble: None,
    };
    let recorder = Recorder { queue: sender, dropped };
    (recorder, poster)
}

impl Poster {
    /// Posts events until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        let work = async {
            // When every recorder is gone there is nothing left to do but wait for the end.
            while let Some((at, note)) = self.queue.recv().await {
                self.post(event(note, self.component, &self.host, at)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = work => Ok(()),
        }
    }

    /// Tries until the API server has answered; one that starts may say for a moment that it is forbidden.
    async fn post(&mut self, event: Event) {
        let namespace = event.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        let mut pause = Backoff::new(RETRY, RETRY_MAX);
        let mut forbidden = 0;
        loop {
            let failure = match within(api.create(&PostParams::default(), &event)).await {
                // Nothing can be said in a namespace that is on its way out. One that is there already was posted by a
                // request whose answer got lost: nobody else has its name.
                Ok(_) | Err(Failure::Gone | Failure::Conflict) => {
                    if self.trouble.take().is_some() {
                        info!("events are recorded again");
                    }
                    return;
                }
                Err(failure) => failure,
            };
            let known = self.trouble.replace(failure.as_str());
            if known != self.trouble {
                warn!(reason = event.reason, "cannot create events: {failure}");
            }
            forbidden += u32::from(matches!(failure, Failure::Forbidden(_)));
            let may_work = matches!(failure, Failure::Unavailable(_) | Failure::Forbidden(_));
            if !may_work || forbidden == FORBIDDEN_MAX {
                self.dropped.inc();
                return;
            }
            tokio::time::sleep(pause.delay()).await;
        }
    }
}

/// Creates one event, tried once: for a program that does nothing else yet.
///
/// # Errors
/// When the API server does not take it.
pub async fn post_now(client: &Client, component: &'static str, host: &str, note: Note) -> Result<(), Failure> {
    let event = event(note, component, host, Timestamp::now());
    let namespace = event.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let api = Api::<Event>::namespaced(client.clone(), namespace);
    within(api.create(&PostParams::default(), &event)).await.map(drop)
}

fn event(note: Note, component: &'static str, host: &str, now: Timestamp) -> Event {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let name = note.about.name.as_deref().unwrap_or_default();
    let host = Some(host.to_owned()).filter(|host| !host.is_empty());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}.{serial:x}", now.as_nanosecond())),
            namespace: Some(
                note.about
                    .namespace
                    .clone()
                    .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            ),
            ..ObjectMeta::default()
        },
        involved_object: note.about,
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(note.reason.to_owned()),
        message: Some(shortened(note.message, MAX_MESSAGE)),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some(component.to_owned()),
            host: host.clone(),
        }),
        reporting_component: Some(component.to_owned()),
        reporting_instance: host,
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use axum::body::{Body, to_bytes};
    use axum::http::{Request, Response};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_event_stands_where_describe_looks() {
        let note = |namespace: Option<&str>| Note {
            about: ObjectReference {
                kind: Some("Service".into()),
                namespace: namespace.map(str::to_owned),
                name: Some("web".into()),
                ..ObjectReference::default()
            },
            warning: true,
            reason: "AllocationFailed",
            message: "ä".repeat(600),
        };
        let one = event(note(Some("shop")), "ferrolb-test", "", Timestamp::UNIX_EPOCH);
        assert_eq!(one.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(one.type_.as_deref(), Some("Warning"));
        assert!(one.message.as_ref().unwrap().len() <= MAX_MESSAGE);
        assert_eq!(one.reporting_instance, None);
        let two = event(note(None), "ferrolb-test", "n1", Timestamp::UNIX_EPOCH);
        assert_eq!(two.metadata.namespace.as_deref(), Some("default"));
        assert_ne!(one.metadata.name, two.metadata.name);
    }

    /// An API server that answers with these codes, one after the other, and what it was asked to create.
    fn server(codes: &[u16]) -> (Client, mpsc::UnboundedReceiver<Value>) {
        let (asked, bodies) = mpsc::unbounded_channel();
        let codes = Arc::new(Mutex::new(VecDeque::from(codes.to_vec())));
        let serve = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (asked, code) = (asked.clone(), codes.lock().unwrap().pop_front());
            async move {
                let bytes = to_bytes(Body::new(request.into_body()), usize::MAX).await.unwrap();
                let body: Value = serde_json::from_slice(&bytes).unwrap();
                asked.send(body.clone()).unwrap();
                let code = code.expect("it is asked no more often");
                let answer = match code {
                    201 => body,
                    code => json!({"code": code, "message": "not now", "reason": "", "status": "Failure"}),
                };
                let response = Response::builder().status(code).body(Body::from(answer.to_string()));
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        (Client::new(serve, "default"), bodies)
    }

    /// The reasons of the events that a server which answers so is asked to create, of two that are recorded; and how many
    /// were dropped.
    async fn posted(codes: &[u16]) -> (Vec<String>, u64) {
        let (client, mut bodies) = server(codes);
        let (recorder, poster) = recorder(client, "ferrolb-test", "n1", &mut Registry::default());
        for reason in ["first", "second"] {
            recorder.record(Note::on_service(
                ("shop".to_owned(), "web".to_owned()),
                "u".to_owned(),
                false,
                reason,
                String::new(),
            ));
        }
        let stop = CancellationToken::new();
        let task = tokio::spawn(poster.run(stop.clone()));
        let mut reasons = Vec::new();
        let mut names = BTreeSet::new();
        for _ in codes {
            let body = bodies.recv().await.unwrap();
            names.insert(body["metadata"]["name"].to_string());
            reasons.push(body["reason"].as_str().unwrap().to_owned());
        }
        tokio::time::sleep(RETRY_MAX).await;
        stop.cancel();
        task.await.unwrap().unwrap();
        assert_eq!(names.len(), 2, "an event keeps its name");
        (reasons, recorder.dropped.get())
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_waits_for_the_api_server_and_keeps_its_place() {
        let (reasons, dropped) = posted(&[503, 429, 500, 201, 201]).await;
        assert_eq!(reasons, ["first", "first", "first", "first", "second"]);
        assert_eq!(dropped, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_whose_answer_got_lost_is_there_already() {
        assert_eq!(
            posted(&[504, 409, 201]).await,
            (["first", "first", "second"].map(str::to_owned).to_vec(), 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_forbidden_for_a_moment_is_recorded() {
        let (reasons, dropped) = posted(&[403, 503, 403, 201, 201]).await;
        assert_eq!(reasons, ["first", "first", "first", "first", "second"]);
        assert_eq!(dropped, 0);
        let (reasons, dropped) = posted(&[403, 403, 403, 403, 201]).await;
        assert_eq!(reasons, ["first", "first", "first", "first", "second"]);
        assert_eq!(dropped, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_refused_is_dropped_and_counted() {
        assert_eq!(
            posted(&[422, 201]).await,
            (["first", "second"].map(str::to_owned).to_vec(), 1)
        );
    }
}
