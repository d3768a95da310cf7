//! The task that writes down what this speaker says about itself: `SpeakerState` and `ServiceL2Status`. It follows the
//! owner task's [`Picture`] and watches the objects of its own node; announcing never waits for it.
//!
//! | channel | when it is full or slow |
//! | --- | --- |
//! | the picture (watch) | the latest only |
//! | what stands (from the watches) | the watches wait |
//! | writes | [`WRITES`] at once, the rest stays marked in the [`Mirror`]s |
//!
//! Both kinds are written by forced server-side apply, because they are this speaker's alone, and are owned by the Node,
//! so that they go with it. What another node left behind about a Service goes when this node begins to announce it.

use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use ferrolb_api::names::{SPEAKER_MANAGER, labels};
use ferrolb_api::{ServiceL2Status, ServiceL2StatusStatus, SpeakerState, SpeakerStateStatus};
use ferrolb_runtime::apply::{self, Failure};
use ferrolb_runtime::watch::Event;
use ferrolb_runtime::write_health::WriteHealth;
use ferrolb_runtime::writer::{Turn, Writer};
use kube::api::{DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::mirror::{Mirror, Write};
use crate::picture::Picture;
use crate::snapshot;

/// Writes under way at once.
const WRITES: usize = 4;

/// The value of a label ends at 63 characters.
const LONGEST_LABEL: usize = 63;

/// What stands in the API server.
pub(crate) enum Seen {
    /// A SpeakerState, or that there is none of this name.
    State(String, Option<Box<SpeakerStateStatus>>),
    /// All SpeakerStates are told.
    StatesSynced,
    /// A ServiceL2Status of this node, or that there is none of this name.
    Service(String, Option<ServiceL2StatusStatus>),
    /// All ServiceL2Statuses are told.
    ServicesSynced,
}

/// From the watch of the node's SpeakerState. One that cannot be read is written over.
pub(crate) fn state_seen(event: Event<SpeakerState>) -> Option<Seen> {
    Some(match event {
        Event::Applied(object) => Seen::State(
            object.metadata.name.unwrap_or_default(),
            Some(Box::new(object.status.unwrap_or_default())),
        ),
        Event::Invalid { key, .. } => Seen::State(key.name.into(), Some(Box::default())),
        Event::Gone(key) => Seen::State(key.name.into(), None),
        Event::Synced => Seen::StatesSynced,
    })
}

/// From the watch of the node's ServiceL2Statuses.
pub(crate) fn service_seen(event: Event<ServiceL2Status>) -> Option<Seen> {
    Some(match event {
        Event::Applied(object) => Seen::Service(
            object.metadata.name.unwrap_or_default(),
            Some(object.status.unwrap_or_default()),
        ),
        Event::Invalid { key, .. } => Seen::Service(key.name.into(), Some(ServiceL2StatusStatus::default())),
        Event::Gone(key) => Seen::Service(key.name.into(), None),
        Event::Synced => Seen::ServicesSynced,
    })
}

/// What admits the ServiceL2Statuses of `node`.
pub(crate) fn of_node(node: &str) -> String {
    format!("{}={}", labels::NODE, node_label(node))
}

/// The name of the node, or what represents it where that is too long for a label.
fn node_label(node: &str) -> String {
    if node.len() <= LONGEST_LABEL {
        return node.to_owned();
    }
    snapshot::sum(node.as_bytes()).split_off(1)
}

/// How the writes of each kind stand, for `/readyz`.
pub(crate) struct Health {
    /// Of SpeakerStates.
    pub(crate) states: WriteHealth,
    /// Of ServiceL2Statuses.
    pub(crate) services: WriteHealth,
}

/// The task.
pub(crate) struct Reporter {
    target: Target,
    picture: watch::Receiver<Picture>,
    seen: mpsc::Receiver<Seen>,
    health: Health,
    states: Mirror<SpeakerStateStatus>,
    services: Mirror<ServiceL2StatusStatus>,
    /// Of the pictures looked at so far: the uid of the Node, and whether one knew the Services.
    node_uid: Option<String>,
    services_known: bool,
    /// Whether all SpeakerStates, and all ServiceL2Statuses, are told.
    synced: (bool, bool),
    writer: Writer<String, (Done, Result<(), Failure>)>,
}

/// What a write was.
enum Done {
    State(Write<SpeakerStateStatus>),
    Service(Write<ServiceL2StatusStatus>),
}

impl Reporter {
    /// Reports for `node`; `namespace` is that of the installation.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        node: &str,
        picture: watch::Receiver<Picture>,
        seen: mpsc::Receiver<Seen>,
        health: Health,
    ) -> Self {
        Reporter {
            target: Target {
                node: node.into(),
                states: Api::all(client.clone()),
                services: Api::namespaced(client, namespace),
            },
            picture,
            seen,
            health,
            states: Mirror::new(),
            services: Mirror::new(),
            node_uid: None,
            services_known: false,
            synced: (false, false),
            writer: Writer::new(WRITES),
        }
    }

    /// Runs until `stop` is cancelled. What is written stays: a stop is not a goodbye.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        loop {
            let deadline = self.deadline();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Ok(()) = self.picture.changed() => self.want(),
                Some(seen) = self.seen.recv() => self.saw(seen),
                (name, (done, result)) = self.writer.next() => self.written(&name, done, &result),
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {}
            }
            self.write();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.writer.len() >= WRITES || self.node_uid.is_none() {
            return None;
        }
        let states = self.states.deadline().filter(|_| self.synced.0);
        let services = self
            .services
            .deadline()
            .filter(|_| self.synced.1 && self.services_known);
        states.into_iter().chain(services).min()
    }

    fn want(&mut self) {
        let picture = self.picture.borrow_and_update();
        self.node_uid.clone_from(&picture.node_uid);
        self.states
            .want([(self.target.node.to_string(), picture.state.clone())].into());
        if let Some(services) = &picture.services {
            self.services_known = true;
            self.services.want(services.clone());
        }
    }

    fn saw(&mut self, seen: Seen) {
        match seen {
            Seen::State(name, status) => self.states.seen(name, status.map(|status| *status)),
            Seen::Service(name, status) => self.services.seen(name, status),
            Seen::StatesSynced => self.synced.0 = true,
            Seen::ServicesSynced => self.synced.1 = true,
        }
    }

    /// Starts what is due, once it is known what stands and what is wanted.
    fn write(&mut self) {
        let Some(uid) = self.node_uid.as_deref() else { return };
        let now = Instant::now();
        if self.synced.0 {
            for (name, write) in self.states.due(now, WRITES.saturating_sub(self.writer.len())) {
                let target = self.target.clone();
                let (uid, what) = (uid.to_owned(), write.clone());
                self.writer.submit(name, Turn::InOrder, async move {
                    let result = target.state(&uid, &what).await;
                    (Done::State(what), result)
                });
            }
        }
        if self.synced.1 && self.services_known {
            for (name, write) in self.services.due(now, WRITES.saturating_sub(self.writer.len())) {
                let target = self.target.clone();
                let (uid, object, what) = (uid.to_owned(), name.clone(), write.clone());
                self.writer.submit(name, Turn::InOrder, async move {
                    let result = target.service(&object, &uid, &what).await;
                    (Done::Service(what), result)
                });
            }
        }
        if self.states.settled() {
            self.health.states.settled();
        }
        if self.services.settled() {
            self.health.services.settled();
        }
    }

    fn written(&mut self, name: &str, done: Done, result: &Result<(), Failure>) {
        let now = Instant::now();
        match done {
            Done::State(write) => {
                self.health.states.outcome(result, name, now);
                self.states.written(name, write, result, now);
            }
            Done::Service(write) => {
                self.health.services.outcome(result, name, now);
                self.services.written(name, write, result, now);
            }
        }
    }
}

/// Where to write.
#[derive(Clone)]
struct Target {
    node: Arc<str>,
    states: Api<PartialObjectMeta<SpeakerState>>,
    services: Api<PartialObjectMeta<ServiceL2Status>>,
}

impl Target {
    async fn state(&self, uid: &str, write: &Write<SpeakerStateStatus>) -> Result<(), Failure> {
        let Write::Put { status, make, .. } = write else {
            return Ok(());
        };
        if *make {
            let object = json!({
                "apiVersion": "ferrolb.io/v1alpha1",
                "kind": "SpeakerState",
                "metadata": {"name": &*self.node, "ownerReferences": [self.owner(uid)]},
            });
            make_object(&self.states, &self.node, object).await?;
        }
        let body = json!({"apiVersion": "ferrolb.io/v1alpha1", "kind": "SpeakerState", "status": status});
        apply::apply_status(&self.states, &self.node, SPEAKER_MANAGER, body)
            .await
            .map(drop)
    }

    async fn service(&self, name: &str, uid: &str, write: &Write<ServiceL2StatusStatus>) -> Result<(), Failure> {
        let Write::Put { status, make, first } = write else {
            return apply::within(self.services.delete(name, &DeleteParams::default()))
                .await
                .map(drop);
        };
        let (service, namespace) = (&status.service_name, &status.service_namespace);
        let node = node_label(&self.node);
        if *first {
            // Of nodes that announced the Service before and did not live to take this back.
            let theirs = format!(
                "{}={service},{}={namespace},{}!={node}",
                labels::SERVICE,
                labels::SERVICE_NAMESPACE,
                labels::NODE
            );
            let list = ListParams::default().labels(&theirs);
            apply::within(self.services.delete_collection(&DeleteParams::default(), &list)).await?;
        }
        if *make {
            let object = json!({
                "apiVersion": "metallb.io/v1beta1",
                "kind": "ServiceL2Status",
                "metadata": {
                    "name": name,
                    "labels": {
                        labels::NODE: node,
                        labels::SERVICE: service,
                        labels::SERVICE_NAMESPACE: namespace,
                    },
                    "ownerReferences": [self.owner(uid)],
                },
            });
            make_object(&self.services, name, object).await?;
        }
        let body = json!({"apiVersion": "metallb.io/v1beta1", "kind": "ServiceL2Status", "status": status});
        apply::apply_status(&self.services, name, SPEAKER_MANAGER, body)
            .await
            .map(drop)
    }

    fn owner(&self, uid: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "name": &*self.node, "uid": uid})
    }
}

async fn make_object<K>(api: &Api<PartialObjectMeta<K>>, name: &str, object: Value) -> Result<(), Failure>
where
    K: Clone + Debug,
{
    let params = PatchParams::apply(SPEAKER_MANAGER).force();
    apply::within(api.patch(name, &params, &Patch::Apply(object)))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::body::Body;
    use axum::http::{Request, Response};
    use ferrolb_runtime::readiness::Readiness;

    use super::*;

    #[test]
    fn a_long_name_of_a_node_is_represented_in_the_label() {
        assert_eq!(of_node("node-a"), "metallb.io/node=node-a");
        let long = "n".repeat(64);
        assert_eq!(node_label(&long).len(), LONGEST_LABEL);
        assert_ne!(node_label(&long), node_label(&"n".repeat(65)));
    }

    /// An API server that takes note of methods and paths and says yes.
    fn client(asked: mpsc::UnboundedSender<String>) -> Client {
        let server = tower::service_fn(move |request: Request<kube::client::Body>| {
            let path = request.uri().path().rsplit('/').take(2).collect::<Vec<_>>();
            let (last, before) = (path[0], path[1]);
            // Nobody reads at the end of a test.
            let _ = asked.send(format!("{} {before}/{last}", request.method()));
            let answer = if request.method() == "DELETE" {
                json!({"apiVersion": "v1", "kind": "Status", "status": "Success"})
            } else {
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "x"}})
            };
            async move { Ok::<_, Infallible>(Response::new(Body::from(answer.to_string()))) }
        });
        Client::new(server, "default")
    }

    #[tokio::test]
    async fn objects_are_made_written_and_taken_back() {
        let (asked_in, mut asked) = mpsc::unbounded_channel();
        let (picture, picture_out) = watch::channel(Picture::default());
        let (seen, seen_out) = mpsc::channel(8);
        let readiness = Readiness::default();
        let health = Health {
            states: WriteHealth::new(&readiness, "patch speakerstates"),
            services: WriteHealth::new(&readiness, "patch servicel2statuses"),
        };
        let stop = CancellationToken::new();
        let reporter = Reporter::new(
            client(asked_in),
            "ferrolb-system",
            "node-a",
            picture_out,
            seen_out,
            health,
        );
        let task = tokio::spawn(reporter.run(stop.clone()));

        let web = ServiceL2StatusStatus {
            node: "node-a".to_owned(),
            service_name: "web".to_owned(),
            ..ServiceL2StatusStatus::default()
        };
        let wanted = |services: &[&str]| Picture {
            node_uid: Some("u-1".to_owned()),
            state: SpeakerStateStatus::default(),
            services: Some(services.iter().map(|name| ((*name).to_owned(), web.clone())).collect()),
        };
        let stands = Seen::State("node-a".to_owned(), Some(Box::default()));
        for news in [
            stands,
            Seen::StatesSynced,
            Seen::Service("l2-old".to_owned(), Some(web.clone())),
        ] {
            assert!(seen.send(news).await.is_ok());
        }
        picture.send_replace(wanted(&["l2-web"]));
        assert!(seen.send(Seen::ServicesSynced).await.is_ok());
        let mut said = BTreeMap::new();
        for order in 0..4 {
            said.insert(asked.recv().await.unwrap(), order);
        }
        let first = [
            "DELETE ferrolb-system/servicel2statuses",
            "PATCH servicel2statuses/l2-web",
            "PATCH l2-web/status",
        ];
        assert!(first.map(|name| said[name]).is_sorted(), "{said:?}");
        assert!(said.contains_key("DELETE servicel2statuses/l2-old"), "{said:?}");

        picture.send_replace(Picture {
            services: None,
            ..wanted(&[])
        });
        picture.send_replace(wanted(&[]));
        assert_eq!(asked.recv().await.unwrap(), "DELETE servicel2statuses/l2-web");
        assert!(asked.try_recv().is_err(), "a state that stands is not written");
        stop.cancel();
        task.await.unwrap().unwrap();
    }
}
