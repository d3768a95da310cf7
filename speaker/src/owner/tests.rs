//! The owner task between real channels and an API server that is a function: what it is asked, and what it answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use axum::body::{Body, to_bytes};
use axum::http::{Request, Response};
use ferrolb_liveness::Duties;
use ferrolb_runtime::events;
use ferrolb_runtime::readiness::Readiness;
use ferrolb_runtime::watch::Event;
use ferrolb_speaker_core::{Settings, Speaker};
use kube::{Client, Resource};
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::news;
use crate::snapshot::Memory;

const ADDRESS: &str = "192.0.2.7";
const WRITES_RULE: &str = "patch virtualips/status";

/// A request as the API server sees it.
struct Asked {
    method: String,
    path: String,
    body: Value,
}

struct Bench {
    news: mpsc::Sender<News>,
    reports: mpsc::Sender<Report>,
    outcomes: mpsc::Sender<Outcome>,
    duties: watch::Receiver<Arc<Duties>>,
    memory: watch::Receiver<Arc<Memory>>,
    readiness: Readiness,
    asked: mpsc::UnboundedReceiver<Asked>,
    /// What the API server answers.
    status: Arc<AtomicU16>,
    stop: CancellationToken,
    owner: JoinHandle<Result<(), Deaf>>,
}

impl Bench {
    fn new() -> Bench {
        let (asked_in, asked) = mpsc::unbounded_channel();
        let status = Arc::new(AtomicU16::new(200));
        let client = client(asked_in, Arc::clone(&status));
        let (news_in, news) = mpsc::channel(8);
        let (reports_in, reports) = mpsc::channel(8);
        let (outcomes_in, outcomes) = mpsc::channel(8);
        let (memory_in, memory) = watch::channel(Arc::default());
        let briefing = Briefing::new(("node-a", 1), watch::Sender::new(None), memory_in);
        let (duties, _) = briefing.subscribe();
        let readiness = Readiness::default();
        let writes = WriteHealth::new(&readiness, WRITES_RULE);
        let ends = Ends {
            news,
            reports,
            outcomes,
            briefing,
            board: Board::default(),
            picture: watch::Sender::new(Picture::default()),
            bgp: Decider::new(
                "node-a",
                Settings::default(),
                watch::Sender::new(None),
                watch::Sender::default(),
            ),
            data_path: DataPath::off("node-a"),
            prober: Prober::new("node-a", watch::Sender::new(Arc::default()).subscribe()),
            asks: watch::Sender::new(None),
            engine: readiness.check("layer 2", "starting"),
            writes,
            heartbeat: Heartbeat::new(Duration::from_secs(30)),
        };
        let stop = CancellationToken::new();
        let mut registry = Registry::default();
        let takeovers = Takeovers::register(&mut registry);
        let (recorder, poster) = events::recorder(client.clone(), "ferrolb-speaker", "node-a", &mut registry);
        tokio::spawn(poster.run(stop.clone()));
        let speaker = Speaker::new("node-a", Settings::default());
        let owner = Owner::new(
            Ownership::new("node-a", speaker),
            Api::new(client, "node-a", recorder),
            Vec::new(),
            Stream::followed(false),
            takeovers,
            ends,
        );
        Bench {
            news: news_in,
            reports: reports_in,
            outcomes: outcomes_in,
            duties,
            memory,
            readiness,
            asked,
            status,
            owner: tokio::spawn(owner.run(stop.clone())),
            stop,
        }
    }

    async fn tell(&self, news: Option<News>) {
        assert!(self.news.send(news.expect("news")).await.is_ok(), "the owner listens");
    }

    /// Everything that makes `ADDRESS` this node's, but the end of the stream of VirtualIPs.
    async fn tell_all_but_one_end(&self) {
        let pool = json!({"metadata": {"name": "lan"}, "spec": {"addresses": ["192.0.2.0/24"]}});
        let ad = json!({"metadata": {"name": "lan"}, "spec": {"interfaces": ["eth0"]}});
        let node = json!({"metadata": {"name": "node-a"}});
        let service = json!({
            "metadata": {"namespace": "shop", "name": "web", "uid": "u-web"},
            "spec": {"type": "LoadBalancer"},
        });
        self.tell(news::virtual_ip(Event::Applied(read(virtual_ip("1"))))).await;
        self.tell(news::pool(Event::Applied(read(pool)))).await;
        self.tell(news::pool(Event::Synced)).await;
        self.tell(news::service(Event::Applied(read(service)))).await;
        self.tell(news::service(Event::Synced)).await;
        self.tell(news::advertisement(Event::Applied(read(ad)))).await;
        self.tell(news::advertisement(Event::Synced)).await;
        self.tell(news::node(Event::Applied(read(node)))).await;
        self.tell(news::node(Event::Synced)).await;
    }

    async fn report(&self, interfaces: &[&str]) {
        let report = Report::Announcing {
            address: ADDRESS.parse().unwrap(),
            interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert!(self.reports.send(report).await.is_ok(), "the owner listens");
    }

    /// The next request whose path ends so.
    async fn asked(&mut self, path: &str) -> Asked {
        loop {
            let asked = self.asked.recv().await.expect("the client is there");
            if asked.path.ends_with(path) {
                return asked;
            }
        }
    }
}

fn virtual_ip(version: &str) -> Value {
    placed("node-a", version)
}

fn placed(owner: &str, version: &str) -> Value {
    json!({
        "metadata": {"name": ADDRESS, "resourceVersion": version},
        "spec": {"address": ADDRESS, "pool": "lan", "claims": [{"namespace": "shop", "name": "web"}]},
        "status": {"placement": {"owner": owner, "standbys": ["node-a", "node-b"], "epoch": 1}},
    })
}

fn key() -> ferrolb_runtime::watch::ObjectKey {
    ferrolb_runtime::watch::ObjectKey::of(&read::<ferrolb_api::VirtualIp>(virtual_ip("1")))
}

/// An object of its kind.
fn read<K: Resource<DynamicType = ()> + DeserializeOwned>(mut object: Value) -> K {
    object["apiVersion"] = json!(K::api_version(&()));
    object["kind"] = json!(K::kind(&()));
    serde_json::from_value(object).unwrap()
}

/// An API server that takes note of what it is asked, and answers with the object at `status` 200, else with a refusal.
fn client(asked: mpsc::UnboundedSender<Asked>, status: Arc<AtomicU16>) -> Client {
    let server = tower::service_fn(move |request: Request<kube::client::Body>| {
        let (asked, status) = (asked.clone(), status.load(Ordering::SeqCst));
        async move {
            let (head, body) = request.into_parts();
            let body = to_bytes(Body::new(body), usize::MAX).await.unwrap();
            // Nobody reads at the end of a test.
            let _ = asked.send(Asked {
                method: head.method.to_string(),
                path: head.uri.path().to_owned(),
                body: serde_json::from_slice(&body).unwrap(),
            });
            let answer = match status {
                200 if head.uri.path().ends_with("/events") => json!({"involvedObject": {}, "metadata": {}}),
                200 => serde_json::to_value(read::<ferrolb_api::VirtualIp>(virtual_ip("2"))).unwrap(),
                code => {
                    json!({"code": code, "message": "no rule allows it", "reason": "Forbidden", "status": "Failure"})
                }
            };
            let response = Response::builder().status(status).body(Body::from(answer.to_string()));
            Ok::<_, Infallible>(response.unwrap())
        }
    });
    Client::new(server, "default")
}

#[tokio::test]
async fn nothing_is_wanted_before_every_stream_has_been_heard() {
    let mut bench = Bench::new();
    bench.tell_all_but_one_end().await;
    assert!(bench.duties.borrow_and_update().addresses.is_empty());
    bench.tell(news::virtual_ip(Event::Synced)).await;
    bench.duties.changed().await.unwrap();
    let address: IpAddr = ADDRESS.parse().unwrap();
    let duty = bench.duties.borrow().addresses[&address].clone();
    let named = ferrolb_liveness::InterfaceChoice::Named(["eth0".to_owned()].into());
    assert_eq!((&*duty.placement.owner, duty.interfaces.clone()), ("node-a", named));
    assert_eq!(bench.memory.borrow().duties.len(), 1);

    // What the engine does about it is written, and told to the Service.
    bench.report(&["eth0"]).await;
    let write = bench
        .asked("/apis/ferrolb.io/v1alpha1/virtualips/192.0.2.7/status")
        .await;
    assert_eq!(write.method, "PATCH");
    assert_eq!(
        write.body,
        json!({
            "metadata": {"resourceVersion": "1"},
            "status": {"announcer": {"node": "node-a", "interfaces": ["eth0"]}},
        })
    );
    let event = bench.asked("/api/v1/namespaces/shop/events").await;
    assert_eq!(event.body["reason"], "nodeAssigned");
    assert_eq!(event.body["involvedObject"]["uid"], "u-web");

    // A stop withdraws nothing: the snapshot is left for the next start.
    bench.stop.cancel();
    bench.owner.await.unwrap().unwrap();
    assert_eq!(bench.memory.borrow().duties.len(), 1);
    assert_eq!(bench.duties.borrow().addresses.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_refused_is_said_and_tried_again() {
    let mut bench = Bench::new();
    bench.status.store(403, Ordering::SeqCst);
    bench.tell_all_but_one_end().await;
    bench.tell(news::virtual_ip(Event::Synced)).await;
    bench.duties.changed().await.unwrap();
    bench.report(&["eth0"]).await;
    let start = Instant::now();
    for _ in 0..3 {
        assert_eq!(bench.asked("/status").await.body["metadata"]["resourceVersion"], "1");
    }
    assert!(start.elapsed() >= Duration::from_millis(750), "with a back-off");
    let missing = bench.readiness.missing();
    assert!(
        missing
            .iter()
            .any(|(name, why)| name == WRITES_RULE && why.contains("no rule allows it")),
        "{missing:?}"
    );
    bench.status.store(200, Ordering::SeqCst);
    bench.asked("/status").await;
    bench
        .tell(news::virtual_ip(Event::Applied(read(virtual_ip("2")))))
        .await;
    bench.asked("/status").await;
    assert!(bench.readiness.missing().iter().all(|(name, _)| name != WRITES_RULE));
    bench.stop.cancel();
    bench.owner.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_and_not_wanted_any_more_is_forgotten() {
    let mut bench = Bench::new();
    bench.status.store(403, Ordering::SeqCst);
    bench.tell_all_but_one_end().await;
    bench.tell(news::virtual_ip(Event::Synced)).await;
    bench.duties.changed().await.unwrap();
    bench.report(&["eth0"]).await;
    for _ in 0..2 {
        bench.asked("/status").await;
    }
    let refused = |bench: &Bench| bench.readiness.missing().iter().any(|(name, _)| name == WRITES_RULE);
    assert!(refused(&bench));
    bench.tell(news::virtual_ip(Event::Gone(key()))).await;
    // No time passes while the owner has something to do.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!refused(&bench));
    bench.stop.cancel();
    bench.owner.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_virtual_ip_that_cannot_be_read_stays_as_it_was() {
    let mut broken = virtual_ip("2");
    broken["spec"]["address"] = json!("192.0.2.8");
    assert!(news::virtual_ip(Event::Applied(read(broken))).is_none());
}

#[tokio::test]
async fn an_engine_that_runs_is_ready() {
    let bench = Bench::new();
    assert_eq!(bench.readiness.missing().len(), 1);
    bench.reports.send(Report::Interfaces(Vec::new())).await.unwrap();
    // The owner takes reports in order: once the second is taken, the first has been handled.
    while !bench.readiness.missing().is_empty() {
        tokio::task::yield_now().await;
    }
    bench.stop.cancel();
    bench.owner.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_takeover_is_written() {
    let mut bench = Bench::new();
    bench.tell_all_but_one_end().await;
    bench
        .tell(news::virtual_ip(Event::Applied(read(placed("node-c", "2")))))
        .await;
    bench.tell(news::virtual_ip(Event::Synced)).await;
    let peer = json!({
        "metadata": {"name": "node-c"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.203"}]},
    });
    bench.tell(news::node(Event::Applied(read(peer)))).await;
    let address: IpAddr = ADDRESS.parse().unwrap();
    let ready = |duties: &Arc<Duties>| duties.addresses.contains_key(&address) && duties.peers.len() == 1;
    bench.duties.wait_for(ready).await.unwrap();
    assert_eq!(bench.memory.borrow().peers["node-c"].len(), 1);
    let outcome = Outcome::TookOver {
        address,
        placement: ferrolb_liveness::Placement {
            owner: "node-a".into(),
            standbys: vec!["node-b".into(), "node-c".into()],
            epoch: 2,
        },
        from: "node-c".into(),
        reason: ferrolb_liveness::Takeover::NodeGone,
        after: Duration::from_millis(130),
    };
    bench.outcomes.send(outcome).await.unwrap();
    let write = bench.asked("/virtualips/192.0.2.7/status").await;
    assert_eq!(
        write.body,
        json!({
            "metadata": {"resourceVersion": "2"},
            "status": {"placement": {"owner": "node-a", "standbys": ["node-b", "node-c"], "epoch": 2}},
        })
    );
    bench.stop.cancel();
    bench.owner.await.unwrap().unwrap();
}
