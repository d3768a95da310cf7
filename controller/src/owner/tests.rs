//! The owner between its inputs and what the world sees of it; nobody answers its writes.

use std::io;
use std::time::Duration;

use axum::http::{Request, Response};
use ferrolb_controller_core::Settings;
use ferrolb_model::ServiceId;
use ferrolb_runtime::elector::Identity;
use ferrolb_runtime::events;
use ferrolb_runtime::leader::Candidate;
use kube::client::Body;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::*;

fn client() -> Client {
    let server = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, io::Error>>());
    Client::new(server, "default")
}

fn always() -> Leadership {
    let (grant, leadership) = Leadership::granted();
    grant.give();
    leadership
}

fn owner(readiness: &Readiness) -> Owner {
    owner_that(readiness, always())
}

fn owner_that(readiness: &Readiness, leadership: Leadership) -> Owner {
    let client = client();
    let (recorder, _) = events::recorder(client.clone(), "ferrolb-test", "", &mut Registry::default());
    Owner::new(
        Controller::new(Settings::default()),
        client,
        "ferrolb-system".to_owned(),
        recorder,
        Metrics::register(&mut Registry::default()),
        readiness.clone(),
        Heartbeat::new(Duration::from_secs(30)),
        leadership,
    )
}

fn service() -> ServiceId {
    ServiceId::new("shop", "web")
}

#[tokio::test]
async fn before_everything_is_known_there_is_nothing_to_wake_for() {
    let mut owner = owner(&Readiness::default());
    let start = Instant::now();
    owner.take(News::Core(Box::new(Input::ServiceGone(service()))));
    owner.settle();
    assert!(owner.wake_at() >= start + owner.heartbeat.period());

    for stream in Stream::all() {
        owner.take(News::Synced(stream));
    }
    owner.settle();
    assert!(owner.wake_at() <= Instant::now() + PACE, "now figures are due");
}

#[tokio::test]
async fn whoever_stands_by_knows_everything_and_does_nothing() {
    let readiness = Readiness::default();
    let identity = Identity::of_pod("controller-1", "1");
    let lease = ("ferrolb-system", "ferrolb-controller");
    let candidate = Candidate::new(client(), lease, identity, "ferrolb-test", &readiness, Gauge::default());
    for (leadership, leads) in [(candidate.leadership(), false), (always(), true)] {
        let mut owner = owner_that(&readiness, leadership);
        for stream in Stream::all() {
            owner.take(News::Synced(stream));
        }
        owner.settle();
        assert_eq!(owner.acts(), leads);
        assert_eq!(owner.writer.is_empty(), !leads, "the verdict is a write");
        assert_eq!(owner.wake_at() > Instant::now() + PACE, !leads);
    }
}

#[tokio::test]
async fn a_missing_rule_for_a_write_is_named() {
    let readiness = Readiness::default();
    let mut owner = owner(&readiness);
    let mut end = |result| {
        let outcome = Outcome {
            kind: WriteKind::ServiceStatus,
            result,
            counters: IpAddressPoolStatus::default(),
        };
        owner.written(Job::Core(WriteKey::ServiceStatus(service())), outcome);
        readiness.missing()
    };
    let why = "somebody cannot patch resource \"services/status\"";
    let missing = end(Err(Failure::Forbidden(why.to_owned())));
    assert_eq!(
        missing,
        [("patch services/status".to_owned(), format!("forbidden: {why}"))]
    );
    assert!(end(Ok(())).is_empty());
}
