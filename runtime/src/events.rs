//! Kubernetes events, as `kubectl describe` shows them: best effort, and never in the way of the work.
//!
//! The queue is bounded; what does not fit is counted and dropped. Events are posted one after the other, so a burst of
//! them cannot crowd out the writes that matter. Repetitions are for the caller to avoid. What keeps events from being
//! recorded is logged when it begins, changes and ends.

use std::sync::atomic::{AtomicU64, Ordering};

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
use crate::text::shortened;

/// Events that may wait.
const QUEUE: usize = 1024;

/// The API server takes messages of at most 1024 bytes.
const MAX_MESSAGE: usize = 1024;

/// Where events about cluster-scoped objects live.
const DEFAULT_NAMESPACE: &str = "default";

/// Takes events; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
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
        if self.queue.try_send(note).is_err() {
            self.dropped.inc();
        }
    }
}

/// Posts what a [`Recorder`] takes; run it as a task.
pub struct Poster {
    queue: mpsc::Receiver<Note>,
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
            while let Some(note) = self.queue.recv().await {
                self.post(note).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = work => Ok(()),
        }
    }

    async fn post(&mut self, note: Note) {
        let event = event(note, self.component, &self.host, Timestamp::now());
        let namespace = event.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        match within(api.create(&PostParams::default(), &event)).await {
            // Nothing can be said in a namespace that is on its way out.
            Ok(_) | Err(Failure::Gone) => {
                if self.trouble.take().is_some() {
                    info!("events are recorded again");
                }
            }
            Err(failure) => {
                self.dropped.inc();
                let known = self.trouble.replace(failure.as_str());
                if known != self.trouble {
                    warn!(reason = event.reason, "cannot create events: {failure}");
                }
            }
        }
    }
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
}
