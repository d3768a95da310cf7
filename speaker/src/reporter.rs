//! The task that writes down what this speaker says about itself: `SpeakerState`, `ServiceL2Status` and
//! `ServiceBGPStatus`. It follows the owner task's [`Picture`] and that of BGP, and watches the objects of its own node;
//! announcing never waits for it.
//!
//! | channel | when it is full or slow |
//! | --- | --- |
//! | the pictures (watch) | the latest only |
//! | what stands (from the watches) | the watches wait |
//! | writes | [`WRITES`] at once, the rest stays marked in the desks |
//!
//! All are written by forced server-side apply, because they are this speaker's alone, and are owned by the Node, so that
//! they go with it. What another node left behind about a Service at layer 2 goes when this node begins to announce it.

mod desk;
mod target;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use ferrolb_api::names::labels;
use ferrolb_api::{
    ServiceBgpStatus, ServiceBgpStatusStatus, ServiceL2Status, ServiceL2StatusStatus, SpeakerState, SpeakerStateStatus,
};
use ferrolb_runtime::apply::Failure;
use ferrolb_runtime::watch::Event;
use ferrolb_runtime::write_health::WriteHealth;
use ferrolb_runtime::writer::{Turn, Writer};
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::bgp::{BgpPicture, Services};
use crate::mirror::Write;
use crate::picture::Picture;
use crate::snapshot;

use desk::Desk;
pub(crate) use desk::Told;
use target::Target;

/// Writes under way at once.
const WRITES: usize = 4;

/// The value of a label ends at 63 characters.
const LONGEST_LABEL: usize = 63;

/// What stands in the API server, of the objects of this node.
pub(crate) enum Seen {
    /// The SpeakerState.
    State(Told<Box<SpeakerStateStatus>>),
    /// A ServiceL2Status.
    Layer2(Told<Arc<ServiceL2StatusStatus>>),
    /// A ServiceBGPStatus.
    Bgp(Told<Arc<ServiceBgpStatusStatus>>),
}

/// From a watch; `read` takes name and status out of an object. One that cannot be read is written over.
fn told<K, S: Default>(event: Event<K>, read: impl Fn(K) -> (Option<String>, Option<S>)) -> Told<S> {
    match event {
        Event::Applied(object) => {
            let (name, status) = read(object);
            Told::Object(name.unwrap_or_default(), Some(status.unwrap_or_default()))
        }
        Event::Invalid { key, .. } => Told::Object(key.name.into(), Some(S::default())),
        Event::Gone(key) => Told::Object(key.name.into(), None),
        Event::Synced => Told::Synced,
    }
}

/// From the watch of the node's SpeakerState.
pub(crate) fn state_seen(event: Event<SpeakerState>) -> Option<Seen> {
    let read = |object: SpeakerState| (object.metadata.name, object.status.map(Box::new));
    Some(Seen::State(told(event, read)))
}

/// From the watch of the node's ServiceL2Statuses.
pub(crate) fn layer2_seen(event: Event<ServiceL2Status>) -> Option<Seen> {
    let read = |object: ServiceL2Status| (object.metadata.name, object.status.map(Arc::new));
    Some(Seen::Layer2(told(event, read)))
}

/// From the watch of the node's ServiceBGPStatuses.
pub(crate) fn bgp_seen(event: Event<ServiceBgpStatus>) -> Option<Seen> {
    let read = |object: ServiceBgpStatus| (object.metadata.name, object.status.map(Arc::new));
    Some(Seen::Bgp(told(event, read)))
}

/// What admits the objects about Services that `node` writes.
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
    pub(crate) layer2: WriteHealth,
    /// Of ServiceBGPStatuses.
    pub(crate) bgp: WriteHealth,
}

/// What is to stand in the API server.
pub(crate) struct Pictures {
    /// As the owner task sees it.
    pub(crate) owner: watch::Receiver<Picture>,
    /// As BGP sees it.
    pub(crate) bgp: watch::Receiver<BgpPicture>,
}

/// The task.
pub(crate) struct Reporter {
    target: Target,
    pictures: Pictures,
    seen: mpsc::Receiver<Seen>,
    states: Desk<SpeakerStateStatus>,
    layer2: Desk<Arc<ServiceL2StatusStatus>>,
    bgp: Desk<Arc<ServiceBgpStatusStatus>>,
    /// What the last one was asked for.
    services: Option<Services>,
    /// The uid of the Node, once it is known.
    node_uid: Option<String>,
    writer: Writer<String, (Done, Result<(), Failure>)>,
}

/// What a write was.
enum Done {
    State(Write<SpeakerStateStatus>),
    Layer2(Write<Arc<ServiceL2StatusStatus>>),
    Bgp(Write<Arc<ServiceBgpStatusStatus>>),
}

impl Reporter {
    /// Reports for `node`; `namespace` is that of the installation.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        node: &str,
        pictures: Pictures,
        seen: mpsc::Receiver<Seen>,
        health: Health,
    ) -> Self {
        Reporter {
            target: Target::new(client, namespace, node),
            pictures,
            seen,
            states: Desk::new(health.states),
            layer2: Desk::new(health.layer2),
            bgp: Desk::new(health.bgp),
            services: None,
            node_uid: None,
            writer: Writer::new(WRITES),
        }
    }

    /// Runs until `stop` is cancelled. What is written stays: a stop is not a goodbye.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        loop {
            let deadline = self.deadline();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Ok(()) = self.pictures.owner.changed() => self.want_layer2(),
                Ok(()) = self.pictures.bgp.changed() => self.want_bgp(),
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
        let deadlines = [self.states.deadline(), self.layer2.deadline(), self.bgp.deadline()];
        deadlines.into_iter().flatten().min()
    }

    fn want_layer2(&mut self) {
        let picture = self.pictures.owner.borrow_and_update();
        self.node_uid.clone_from(&picture.node_uid);
        self.layer2.want(picture.services.clone());
        drop(picture);
        self.want_state();
    }

    /// Sessions change much more often than what is said about Services.
    fn want_bgp(&mut self) {
        let services = self.pictures.bgp.borrow_and_update().services.clone();
        let same = self.services.as_ref().zip(services.as_ref());
        if !same.is_some_and(|(old, new)| Arc::ptr_eq(old, new)) {
            self.bgp.want(services.as_deref().cloned());
            self.services = services;
        }
        self.want_state();
    }

    /// Both pictures have a part in the SpeakerState, which is not written before the owner task has drawn its own.
    fn want_state(&mut self) {
        if self.node_uid.is_some() {
            let mut state = self.pictures.owner.borrow().state.clone();
            state.bgp.clone_from(&self.pictures.bgp.borrow().state);
            self.states.want(Some([(self.target.node.to_string(), state)].into()));
        }
    }

    fn saw(&mut self, seen: Seen) {
        match seen {
            Seen::State(Told::Object(name, status)) => {
                self.states.saw(Told::Object(name, status.map(|status| *status)));
            }
            Seen::State(Told::Synced) => self.states.saw(Told::Synced),
            Seen::Layer2(told) => self.layer2.saw(told),
            Seen::Bgp(told) => self.bgp.saw(told),
        }
    }

    /// Starts what is due.
    fn write(&mut self) {
        let Some(uid) = self.node_uid.clone() else { return };
        let now = Instant::now();
        for (name, write) in self.states.due(now, WRITES.saturating_sub(self.writer.len())) {
            let (target, uid) = (self.target.clone(), uid.clone());
            self.writer.submit(name, Turn::InOrder, async move {
                let result = target.state(&uid, &write).await;
                (Done::State(write), result)
            });
        }
        for (name, write) in self.layer2.due(now, WRITES.saturating_sub(self.writer.len())) {
            let (target, uid, object) = (self.target.clone(), uid.clone(), name.clone());
            self.writer.submit(name, Turn::InOrder, async move {
                let result = target.layer2(&object, &uid, &write).await;
                (Done::Layer2(write), result)
            });
        }
        for (name, write) in self.bgp.due(now, WRITES.saturating_sub(self.writer.len())) {
            let (target, uid, object) = (self.target.clone(), uid.clone(), name.clone());
            self.writer.submit(name, Turn::InOrder, async move {
                let result = target.bgp(&object, &uid, &write).await;
                (Done::Bgp(write), result)
            });
        }
    }

    fn written(&mut self, name: &str, done: Done, result: &Result<(), Failure>) {
        let now = Instant::now();
        match done {
            Done::State(write) => self.states.written(name, write, result, now),
            Done::Layer2(write) => self.layer2.written(name, write, result, now),
            Done::Bgp(write) => self.bgp.written(name, write, result, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::body::Body;
    use axum::http::{Request, Response};
    use ferrolb_runtime::readiness::Readiness;
    use serde_json::json;

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
        let (bgp, bgp_out) = watch::channel(BgpPicture::default());
        let health = Health {
            states: WriteHealth::new(&readiness, "patch speakerstates"),
            layer2: WriteHealth::new(&readiness, "patch servicel2statuses"),
            bgp: WriteHealth::new(&readiness, "patch servicebgpstatuses"),
        };
        let pictures = Pictures {
            owner: picture_out,
            bgp: bgp_out,
        };
        let stop = CancellationToken::new();
        let reporter = Reporter::new(client(asked_in), "ferrolb-system", "node-a", pictures, seen_out, health);
        let task = tokio::spawn(reporter.run(stop.clone()));

        let web = Arc::new(ServiceL2StatusStatus {
            node: "node-a".to_owned(),
            service_name: "web".to_owned(),
            ..ServiceL2StatusStatus::default()
        });
        let wanted = |services: &[&str]| Picture {
            node_uid: Some("u-1".to_owned()),
            state: SpeakerStateStatus::default(),
            services: Some(services.iter().map(|name| ((*name).to_owned(), web.clone())).collect()),
        };
        let old = || Arc::new(ServiceBgpStatusStatus::default());
        for news in [
            Seen::State(Told::Object("node-a".to_owned(), Some(Box::default()))),
            Seen::State(Told::Synced),
            Seen::Layer2(Told::Object("l2-old".to_owned(), Some(web.clone()))),
            Seen::Bgp(Told::Object("bgp-old".to_owned(), Some(old()))),
            Seen::Bgp(Told::Synced),
        ] {
            assert!(seen.send(news).await.is_ok());
        }
        picture.send_replace(wanted(&["l2-web"]));
        assert!(seen.send(Seen::Layer2(Told::Synced)).await.is_ok());
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

        // Nothing is known of BGP until now. Other nodes tell the same Service too, and keep their objects.
        let told = ServiceBgpStatusStatus {
            node: "node-a".to_owned(),
            service_name: "web".to_owned(),
            peers: vec!["router".to_owned()],
            ..ServiceBgpStatusStatus::default()
        };
        bgp.send_replace(BgpPicture {
            state: None,
            services: Some(Arc::new([("bgp-web".to_owned(), Arc::new(told))].into())),
        });
        let mut said = BTreeMap::new();
        for order in 0..3 {
            said.insert(asked.recv().await.unwrap(), order);
        }
        let made = ["PATCH servicebgpstatuses/bgp-web", "PATCH bgp-web/status"];
        assert!(made.map(|name| said[name]).is_sorted(), "{said:?}");
        assert!(said.contains_key("DELETE servicebgpstatuses/bgp-old"), "{said:?}");
        assert!(asked.try_recv().is_err(), "a state that stands is not written");
        stop.cancel();
        task.await.unwrap().unwrap();
    }
}
