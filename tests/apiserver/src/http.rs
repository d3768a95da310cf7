//! Requests in, answers out: HTTP/1.1 without TLS, one task per connection, all of which end with the listener.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::poll_fn;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::faults::{Fault, Verb};
use crate::refusal::Refusal;
use crate::resource::Place;
use crate::select::Selection;
use crate::server::{Record, Shared};
use crate::watch::Watch;
use crate::writes::{Answer, Update};

/// Pieces of a watch that may wait for a slow client.
const LINES: usize = 64;

/// How long a watch lasts that does not say.
const WATCH_TIME: Duration = Duration::from_secs(1800);

type Body = BoxBody<Bytes, io::Error>;

/// Takes connections until it is dropped.
pub(crate) async fn serve(listener: TcpListener, shared: Shared) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                // An answer in two small segments would wait for the acknowledgement of the first.
                let _ = stream.set_nodelay(true);
                let shared = shared.clone();
                let service = service_fn(move |request| answer(shared.clone(), request));
                // An error is a client that left, or a fault that was asked for.
                connections.spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// What was asked for.
struct Asked {
    verb: Verb,
    place: Place,
    query: BTreeMap<String, String>,
    media_type: String,
    body: Value,
}

/// Answers one request. An error closes the connection instead.
async fn answer(shared: Shared, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
    let path = request.uri().path().to_owned();
    if matches!(path.as_str(), "/readyz" | "/livez" | "/healthz") {
        return Ok(text(200, "ok"));
    }
    let Some(place) = shared.parse(&path) else {
        return Ok(text(404, "404 page not found\n"));
    };
    let asked = match read(place, request).await? {
        Ok(asked) => asked,
        Err(refusal) => return Ok(refused(&refusal)),
    };
    let fault = shared.draw(asked.verb, &asked.place, false);
    if let Some(Fault::Delay(delay)) = fault {
        tokio::time::sleep(delay).await;
    }
    let record = |code| Record {
        verb: asked.verb,
        resource: asked.place.target(),
        namespace: asked.place.namespace.clone(),
        name: asked.place.name.clone(),
        code,
        fault,
    };
    let refusal = fault.and_then(|fault| fault.refusal(asked.verb, &asked.place, &asked.body));
    if asked.verb == Verb::Watch && refusal.is_none() {
        return Ok(match watch(&shared, &asked) {
            Ok(response) => {
                shared.record(record(200));
                response
            }
            Err(refusal) => {
                shared.record(record(refusal.code));
                refused(&refusal)
            }
        });
    }
    let done = match refusal {
        Some(refusal) => Err(refusal),
        None => work(&shared, &asked),
    };
    let code = done.as_ref().map_or_else(|refusal| refusal.code, |(code, _)| *code);
    // A creation under a generated name is known by the name it got.
    let mut record = record(code);
    if let Ok((_, object)) = &done
        && asked.verb == Verb::Create
    {
        record.name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    }
    shared.record(record);
    match (fault, done) {
        (Some(Fault::AppliedThenClosed), _) => Err(io::ErrorKind::ConnectionAborted.into()),
        (Some(Fault::AppliedThenTimeout), _) => Ok(refused(&Refusal::timeout())),
        (_, Ok((code, object))) => Ok(json_response(code, &object)),
        (_, Err(refusal)) => Ok(refused(&refusal)),
    }
}

async fn read(place: Place, request: Request<Incoming>) -> io::Result<Result<Asked, Refusal>> {
    let query = request.uri().query().map(pairs).unwrap_or_default();
    let watching = query.get("watch").is_some_and(|on| on == "true" || on == "1");
    let verb = match (request.method(), place.name.is_empty()) {
        (&Method::GET, true) if watching => Verb::Watch,
        (&Method::GET, true) => Verb::List,
        (&Method::GET, false) => Verb::Get,
        (&Method::POST, true) => Verb::Create,
        (&Method::PUT, false) => Verb::Update,
        (&Method::PATCH, false) => Verb::Patch,
        (&Method::DELETE, false) if !place.status => Verb::Delete,
        _ => return Ok(Err(Refusal::method_not_allowed())),
    };
    let header = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = header.unwrap_or_default().to_owned();
    let bytes = request
        .into_body()
        .collect()
        .await
        .map_err(io::Error::other)?
        .to_bytes();
    let body = if bytes.is_empty() {
        Value::Null
    } else {
        match serde_json::from_slice(&bytes) {
            Ok(body) => body,
            Err(error) => return Ok(Err(Refusal::bad_request(format!("json parse error: {error}")))),
        }
    };
    Ok(Ok(Asked {
        verb,
        place,
        query,
        media_type,
        body,
    }))
}

fn work(shared: &Shared, asked: &Asked) -> Answer {
    let Asked { place, body, .. } = asked;
    let (code, object) = shared.store(|store| match asked.verb {
        Verb::Get => match store.get(place) {
            Some(object) => Ok((200, object.as_ref().clone())),
            None => Err(Refusal::not_found(place)),
        },
        Verb::List | Verb::Watch => list(store, asked),
        Verb::Create if place.resource.namespaced && place.namespace.is_empty() => Err(Refusal::method_not_allowed()),
        Verb::Create => store.create(place, body.clone()),
        Verb::Update => store.update(place, Update::Put(body.clone())),
        Verb::Patch => store.update(place, patch(asked)?),
        Verb::Delete => store.delete(place, body),
    })?;
    Ok((code, of_version(place, object)))
}

/// Objects are told in the version that was asked for; what they hold is the same in all.
fn of_version(place: &Place, mut object: Value) -> Value {
    if object["kind"] == place.resource.kind.as_str() {
        object["apiVersion"] = json!(place.api_version());
    }
    object
}

fn patch(asked: &Asked) -> Result<Update, Refusal> {
    match asked.media_type.as_str() {
        "application/merge-patch+json" => Ok(Update::Merge(asked.body.clone())),
        "application/apply-patch+yaml" if asked.query.get("force").is_some_and(|force| force == "true") => {
            Ok(Update::Apply {
                manager: asked.query.get("fieldManager").cloned().unwrap_or_default(),
                fields: asked.body.clone(),
            })
        }
        "application/apply-patch+yaml" => Err(Refusal::bad_request("the double applies only with force=true")),
        _ => Err(Refusal::media_type(
            "application/merge-patch+json, application/apply-patch+yaml",
        )),
    }
}

fn selection(asked: &Asked) -> Result<Selection, Refusal> {
    let of = |key: &str| asked.query.get(key).map(String::as_str).unwrap_or_default();
    Selection::new(&asked.place.namespace, of("labelSelector"), of("fieldSelector"))
}

/// The version asked for; 0 stands for none and for any.
fn version(asked: &Asked, field: &str) -> Result<u64, Refusal> {
    let text = asked.query.get(field).map(String::as_str).unwrap_or_default();
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        Refusal::internal(format!(
            "{field}: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

fn list(store: &mut crate::store::Store, asked: &Asked) -> Answer {
    let place = &asked.place;
    let selection = selection(asked)?;
    let wanted = version(asked, "resourceVersion")?;
    if wanted > store.version {
        return Err(Refusal::too_large(wanted, store.version));
    }
    // Version 0 asks for what the cache holds, and the cache gives all it holds.
    let whole = asked.query.get("resourceVersion").is_some_and(|version| version == "0");
    let limit = asked
        .query
        .get("limit")
        .and_then(|limit| limit.parse().ok())
        .filter(|_| !whole);
    let page = match asked.query.get("continue").filter(|token| !token.is_empty()) {
        Some(token) => store.more(token, limit)?,
        None => store.list(&place.resource.qualified(), &selection, limit),
    };
    let mut metadata = json!({ "resourceVersion": page.version.to_string() });
    if let Some(token) = page.rest {
        metadata["continue"] = json!(token);
    }
    if let Some(count) = page.remaining.filter(|_| !selection.selects()) {
        metadata["remainingItemCount"] = json!(count);
    }
    let items = page.items.iter().map(|object| item(place, object)).collect::<Vec<_>>();
    let list = json!({
        "kind": format!("{}List", place.resource.kind),
        "apiVersion": place.api_version(),
        "metadata": metadata,
        "items": items,
    });
    Ok((200, list))
}

/// An object in a list: only custom resources say there what they are.
fn item(place: &Place, object: &Arc<Value>) -> Value {
    let mut object = of_version(place, object.as_ref().clone());
    if !place.resource.is_custom()
        && let Some(fields) = object.as_object_mut()
    {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    object
}

fn watch(shared: &Shared, asked: &Asked) -> Result<Response<Body>, Refusal> {
    let seconds = asked
        .query
        .get("timeoutSeconds")
        .and_then(|seconds| seconds.parse().ok());
    let watch = Watch {
        place: asked.place.clone(),
        selection: selection(asked)?,
        version: version(asked, "resourceVersion")?,
        bookmarks: asked
            .query
            .get("allowWatchBookmarks")
            .is_some_and(|on| on == "true" || on == "1"),
        timeout: seconds.map_or(WATCH_TIME, Duration::from_secs),
    };
    let (sender, mut lines) = mpsc::channel(LINES);
    // Ends when the connection does, because then nobody takes its lines.
    tokio::spawn(watch.run(shared.clone(), sender));
    let frames = poll_fn(move |context| {
        lines
            .poll_recv(context)
            .map(|line| line.map(|line| line.map(Frame::data)))
    });
    Ok(response(200, "application/json", StreamBody::new(frames).boxed()))
}

fn response(code: u16, media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = hyper::StatusCode::from_u16(code).expect("a code of HTTP");
    response
        .headers_mut()
        .insert(CONTENT_TYPE, media_type.parse().expect("a constant"));
    response
}

fn text(code: u16, text: &'static str) -> Response<Body> {
    response(code, "text/plain; charset=utf-8", full(text.into()))
}

fn json_response(code: u16, body: &Value) -> Response<Body> {
    response(code, "application/json", full(body.to_string().into()))
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let mut response = json_response(refusal.code, &refusal.status());
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// The pairs of a query, decoded.
fn pairs(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = hex
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .filter(|_| *first == b'%');
        bytes.push(match (escaped, first) {
            (Some(byte), _) => byte,
            (None, b'+') => b' ',
            (None, other) => *other,
        });
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let found = pairs("watch=true&labelSelector=a%21%3Db%2Cc+in+%28d%29&limit&x=%zz%");
        let expected = [
            ("watch", "true"),
            ("labelSelector", "a!=b,c in (d)"),
            ("limit", ""),
            ("x", "%zz%"),
        ];
        assert_eq!(
            found,
            expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
        );
    }
}
