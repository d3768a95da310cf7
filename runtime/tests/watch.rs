//! A watch against an API server that answers from a script: what a real one does seldom, done on purpose.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Request, Response, StatusCode};
use ferrolb_runtime::readiness::Readiness;
use ferrolb_runtime::watch::{Event, Metrics, ObjectKey, Source, watch};
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One answer: the query it is for must contain `asks`, and `lacks` nothing of what is named there. Without a status it
/// never comes.
struct Answer {
    asks: &'static [&'static str],
    lacks: &'static [&'static str],
    status: u16,
    body: String,
}

fn list(
    asks: &'static [&'static str],
    lacks: &'static [&'static str],
    version: &str,
    token: &str,
    items: Value,
) -> Answer {
    let body = json!({
        "apiVersion": "v1",
        "kind": "ServiceList",
        "metadata": { "resourceVersion": version, "continue": token },
        "items": items,
    });
    Answer {
        asks,
        lacks,
        status: 200,
        body: body.to_string(),
    }
}

fn events(asks: &'static [&'static str], events: &[Value]) -> Answer {
    Answer {
        asks,
        lacks: &[],
        status: 200,
        body: events.iter().map(|event| format!("{event}\n")).collect(),
    }
}

fn refusal(status: u16, reason: &str, message: &str) -> Answer {
    let body = json!({ "kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": message });
    Answer {
        asks: &[],
        lacks: &["watch="],
        status,
        body: body.to_string(),
    }
}

fn service(name: &str, version: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "resourceVersion": version,
            "managedFields": [{ "manager": "somebody" }],
        },
    })
}

fn event(kind: &str, object: Value) -> Value {
    json!({ "type": kind, "object": object })
}

/// Runs a watch against the script and gives what it tells until `last` comes, and what `/readyz` lacked at each request.
async fn told(script: Vec<Answer>, last: &str) -> (Vec<String>, Vec<Vec<(String, String)>>) {
    told_of(|source| source, script, last).await
}

async fn told_of(
    choose: impl FnOnce(Source<Service>) -> Source<Service>,
    script: Vec<Answer>,
    last: &str,
) -> (Vec<String>, Vec<Vec<(String, String)>>) {
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    let readiness = Readiness::default();
    let lacking = Arc::new(Mutex::new(Vec::new()));
    let (checks, log) = (readiness.clone(), Arc::clone(&lacking));
    let server = tower::service_fn(move |request: Request<Body>| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let answer = script.lock().unwrap().pop_front();
        log.lock().unwrap().push(checks.missing());
        async move {
            let Some(answer) = answer.filter(|answer| answer.status != 0) else {
                // The script is over, or wants it so: this one stays open for ever.
                return std::future::pending::<Result<Response<Body>, std::io::Error>>().await;
            };
            for part in answer.asks {
                assert!(query.contains(part), "{query} lacks {part}");
            }
            for part in answer.lacks {
                assert!(!query.contains(part), "{query} has {part}");
            }
            let mut response = Response::new(Body::from(answer.body.into_bytes()));
            *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
            Ok(response)
        }
    });
    let client = Client::new(server, "default");
    let (sender, mut inputs) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let watching = tokio::spawn(watch(
        choose(Source::<Service>::all(&client)),
        readiness,
        Metrics::default(),
        sender,
        |event| {
            Some(match event {
                Event::Applied(object) => {
                    assert_eq!(object.metadata.managed_fields, None);
                    let version = object.metadata.resource_version.clone().unwrap_or_default();
                    format!("{} at {version}", ObjectKey::of(&object))
                }
                Event::Invalid { key, .. } => format!("{key} invalid"),
                Event::Gone(key) => format!("{key} gone"),
                Event::Synced => "synced".to_owned(),
            })
        },
        stop.clone(),
    ));
    let mut all = Vec::new();
    while all.last().is_none_or(|text| text != last) {
        all.push(inputs.recv().await.unwrap());
    }
    stop.cancel();
    watching.await.unwrap().unwrap();
    let lacking = std::mem::take(&mut *lacking.lock().unwrap());
    (all, lacking)
}

#[tokio::test(start_paused = true)]
async fn an_optional_resource_that_is_missing_is_an_empty_list_until_it_comes() {
    let script = vec![
        refusal(404, "NotFound", "the server could not find the requested resource"),
        refusal(404, "NotFound", "the server could not find the requested resource"),
        list(&[], &["watch="], "1", "", json!([service("a", "1")])),
    ];
    let (told, lacking) = told_of(
        |source| source.optional(Duration::from_millis(50)),
        script,
        "shop/a at 1",
    )
    .await;
    assert_eq!(told, ["synced", "shop/a at 1"]);
    assert_eq!(lacking.last().map(Vec::len), Some(0), "nothing is missing: {lacking:?}");
}

#[tokio::test]
async fn pages_changes_and_what_vanished_unseen() {
    let mut broken = service("broken", "3");
    broken["spec"] = json!({ "ports": "not a list" });
    let script = vec![
        list(
            &["limit="],
            &["continue=", "watch="],
            "9",
            "more",
            json!([service("a", "1"), service("b", "2")]),
        ),
        list(&["continue=more"], &[], "9", "", json!([broken, service("c", "4")])),
        events(
            &["watch=", "resourceVersion=9"],
            &[
                event("MODIFIED", service("a", "10")),
                event("DELETED", service("b", "11")),
                event(
                    "ERROR",
                    json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "too old" }),
                ),
            ],
        ),
        list(
            &["limit="],
            &["resourceVersion=", "watch="],
            "20",
            "",
            json!([service("a", "10"), service("d", "12")]),
        ),
        events(&["watch=", "resourceVersion=20"], &[event("ADDED", service("e", "21"))]),
    ];
    let (told, lacking) = told(script, "shop/e at 21").await;
    assert_eq!(
        told,
        [
            "shop/a at 1",
            "shop/b at 2",
            "shop/broken invalid",
            "shop/c at 4",
            "synced",
            "shop/a at 10",
            "shop/b gone",
            "shop/a at 10",
            "shop/d at 12",
            "shop/broken gone",
            "shop/c gone",
            "shop/e at 21",
        ]
    );
    assert_eq!(lacking[2..], [vec![], vec![], vec![]]);
}

#[tokio::test]
async fn a_watch_that_is_cut_off_goes_on_where_it_was() {
    let bookmark = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "resourceVersion": "15", "creationTimestamp": null },
    });
    let script = vec![
        list(&[], &[], "9", "", json!([])),
        events(
            &["watch=", "resourceVersion=9"],
            &[event("ADDED", service("a", "12")), event("BOOKMARK", bookmark)],
        ),
        events(
            &["watch=", "resourceVersion=15"],
            &[event("DELETED", service("a", "16"))],
        ),
    ];
    let (told, _) = told(script, "shop/a gone").await;
    assert_eq!(told, ["synced", "shop/a at 12", "shop/a gone"]);
}

#[tokio::test]
async fn a_missing_rule_is_named_and_heals_by_itself() {
    let message = "services is forbidden: somebody cannot list resource \"services\"";
    let script = vec![
        refusal(403, "Forbidden", message),
        list(&[], &[], "9", "", json!([])),
        events(&["watch="], &[event("ADDED", service("a", "12"))]),
    ];
    let (_, lacking) = told(script, "shop/a at 12").await;
    let missing = |why: &str| vec![("watch services".to_owned(), why.to_owned())];
    assert_eq!(
        lacking[..3],
        [
            missing("not listed yet"),
            missing(&format!("list services: {message}")),
            vec![]
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_that_never_comes_is_given_up() {
    let never = Answer {
        asks: &["limit="],
        lacks: &["watch="],
        status: 0,
        body: String::new(),
    };
    let script = vec![
        never,
        list(&["limit="], &["watch="], "9", "", json!([service("a", "1")])),
        events(&["watch="], &[]),
    ];
    let patience = std::time::Duration::from_secs(60);
    let (_, lacking) = tokio::time::timeout(patience, told(script, "synced")).await.unwrap();
    assert!(
        lacking[1][0].1.contains("no complete answer within 30 s"),
        "{lacking:?}"
    );
}

#[tokio::test]
async fn only_the_first_list_is_taken_from_the_cache() {
    let expired = json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "too old" });
    let script = vec![
        list(&["resourceVersion=0"], &["limit=", "watch="], "9", "", json!([])),
        events(&["watch=", "resourceVersion=9"], &[event("ERROR", expired)]),
        list(
            &["limit="],
            &["resourceVersion=", "watch="],
            "20",
            "",
            json!([service("a", "10")]),
        ),
    ];
    let (told, _) = told_of(Source::cached, script, "shop/a at 10").await;
    assert_eq!(told, ["synced", "shop/a at 10"]);
}
