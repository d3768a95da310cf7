//! Writes to the API server: each is one request with a precondition, tried once, and its failure is one of few.
//!
//! Whether to try again is for the owner of the state to decide: it may know better by then.

use std::error::Error as StdError;
use std::fmt::Debug;
use std::time::Duration;

use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::Status;
use kube::{Error, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thiserror::Error as ThisError;

/// How long a write may take altogether.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a write failed.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum Failure {
    /// The object exists already, or changed since it was read.
    #[error("conflict: the object changed")]
    Conflict,
    /// Another field manager owns the field.
    #[error("{0:?} owns the field")]
    ForeignManager(String),
    /// The object does not exist any more.
    #[error("the object is gone")]
    Gone,
    /// A rule is missing, or not loaded yet by an API server that starts: later it may work. The text is its message.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// The API server refuses it, and would again; the text is its message.
    #[error("refused: {0}")]
    Refused(String),
    /// The API server could not be reached, is overloaded or not ready; later it may work.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl Failure {
    /// One word, for metric labels.
    pub fn as_str(&self) -> &'static str {
        match self {
            Failure::Conflict => "conflict",
            Failure::ForeignManager(_) => "foreign_manager",
            Failure::Gone => "gone",
            Failure::Forbidden(_) => "forbidden",
            Failure::Refused(_) => "refused",
            Failure::Unavailable(_) => "unavailable",
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::Api(status) => of_status(status),
            Error::BuildRequest(_) | Error::SerdeError(_) | Error::HttpError(_) => Failure::Refused(chain(&error)),
            _ => Failure::Unavailable(chain(&error)),
        }
    }
}

fn of_status(status: &Status) -> Failure {
    let message = || status.message.clone();
    match status.code {
        409 => foreign_manager(status).map_or(Failure::Conflict, Failure::ForeignManager),
        // Without a name it is the resource that is missing, not the object: its definition may yet come.
        404 if status.details.as_ref().is_some_and(|d| !d.name.is_empty()) => Failure::Gone,
        // A namespace on its way out takes nothing new, which no rule would change.
        403 if has_cause(status, "NamespaceTerminating") => Failure::Gone,
        403 => Failure::Forbidden(message()),
        401 | 404 | 408 | 410 | 429 | 500.. => Failure::Unavailable(message()),
        _ => Failure::Refused(message()),
    }
}

fn has_cause(status: &Status, reason: &str) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == reason)
}

/// The manager named by a server-side apply conflict: `conflict with "manager" using v1 at ...`.
fn foreign_manager(status: &Status) -> Option<String> {
    let cause = status
        .details
        .as_ref()?
        .causes
        .iter()
        .find(|cause| cause.reason == "FieldManagerConflict")?;
    Some(cause.message.split('"').nth(1).unwrap_or("unknown").to_owned())
}

/// Changes parts of an object by a JSON merge patch (RFC 7396), if its resource version is still the one given: what
/// `body` sets to null is removed, what it does not name stays.
pub async fn merge<K>(api: &Api<K>, name: &str, version: &str, manager: &str, body: Value) -> Result<K, Failure>
where
    K: Clone + DeserializeOwned + Debug,
{
    let (params, patch) = conditional(version, manager, body);
    within(api.patch(name, &params, &patch)).await
}

/// Like [`merge`], through the status subresource.
pub async fn merge_status<K>(api: &Api<K>, name: &str, version: &str, manager: &str, body: Value) -> Result<K, Failure>
where
    K: Clone + DeserializeOwned + Debug,
{
    let (params, patch) = conditional(version, manager, body);
    within(api.patch_status(name, &params, &patch)).await
}

/// Like [`merge_status`], for a part of the status that nobody else writes: whatever the version, as long as it is the object
/// with this uid.
pub async fn merge_status_of<K>(
    api: &Api<K>,
    name: &str,
    uid: &str,
    manager: &str,
    mut body: Value,
) -> Result<K, Failure>
where
    K: Clone + DeserializeOwned + Debug,
{
    body["metadata"] = json!({ "uid": uid });
    within(api.patch_status(name, &by(manager), &Patch::Merge(body))).await
}

/// Server-side apply through the status subresource, without a precondition. It takes fields from other managers: only
/// for objects that are ours alone.
pub async fn apply_status<K>(api: &Api<K>, name: &str, manager: &str, body: Value) -> Result<K, Failure>
where
    K: Clone + DeserializeOwned + Debug,
{
    let params = PatchParams::apply(manager).force();
    within(api.patch_status(name, &params, &Patch::Apply(body))).await
}

/// Deletes an object if it is still the one that was read.
pub async fn delete<K>(api: &Api<K>, name: &str, uid: &str, version: &str) -> Result<(), Failure>
where
    K: Clone + DeserializeOwned + Debug + Resource,
{
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            resource_version: Some(version.to_owned()),
            uid: Some(uid.to_owned()),
        }),
        ..DeleteParams::default()
    };
    within(api.delete(name, &params)).await.map(|_| ())
}

/// Awaits a request for at most [`WRITE_TIMEOUT`].
pub async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(WRITE_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => Err(Failure::Unavailable(format!(
            "no answer within {} s",
            WRITE_TIMEOUT.as_secs()
        ))),
    }
}

fn conditional(version: &str, manager: &str, body: Value) -> (PatchParams, Patch<Value>) {
    (by(manager), Patch::Merge(with_version(body, version)))
}

fn by(manager: &str) -> PatchParams {
    PatchParams {
        field_manager: Some(manager.to_owned()),
        ..PatchParams::default()
    }
}

fn with_version(mut body: Value, version: &str) -> Value {
    if !body["metadata"].is_object() {
        body["metadata"] = json!({});
    }
    body["metadata"]["resourceVersion"] = json!(version);
    body
}

/// An error with its sources, outermost first, each said once.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> Failure {
        let status = serde_json::from_str::<Status>(text).unwrap();
        Failure::from(Error::Api(Box::new(status)))
    }

    #[test]
    fn answers_of_the_api_server() {
        for (answer, failure) in [
            (
                r#"{"code":409,"reason":"AlreadyExists","message":"m"}"#,
                Failure::Conflict,
            ),
            (r#"{"code":409,"reason":"Conflict","message":"m"}"#, Failure::Conflict),
            (
                r#"{"code":409,"reason":"Conflict","message":"m","details":{"causes":[{"reason":"FieldManagerConflict",
                    "message":"conflict with \"controller\" with subresource \"status\" using v1",
                    "field":".status.loadBalancer.ingress"}]}}"#,
                Failure::ForeignManager("controller".into()),
            ),
            (
                r#"{"code":404,"reason":"NotFound","message":"m","details":{"name":"192.0.2.1"}}"#,
                Failure::Gone,
            ),
            (
                r#"{"code":404,"reason":"NotFound","message":"no such resource","details":{}}"#,
                Failure::Unavailable("no such resource".into()),
            ),
            (
                r#"{"code":403,"reason":"Forbidden","message":"m"}"#,
                Failure::Forbidden("m".into()),
            ),
            (
                r#"{"code":403,"reason":"Forbidden","message":"m","details":{"causes":[{"reason":"NamespaceTerminating",
                    "message":"namespace shop is being terminated","field":"metadata.namespace"}]}}"#,
                Failure::Gone,
            ),
            (
                r#"{"code":422,"reason":"Invalid","message":"m"}"#,
                Failure::Refused("m".into()),
            ),
            (
                r#"{"code":429,"reason":"TooManyRequests","message":"m"}"#,
                Failure::Unavailable("m".into()),
            ),
            (
                r#"{"code":503,"reason":"ServiceUnavailable","message":"m"}"#,
                Failure::Unavailable("m".into()),
            ),
        ] {
            assert_eq!(status(answer), failure, "{answer}");
        }
    }

    #[test]
    fn the_precondition_joins_the_metadata() {
        assert_eq!(
            with_version(json!({"metadata": {"annotations": {"a": null}}}), "7"),
            json!({"metadata": {"annotations": {"a": null}, "resourceVersion": "7"}})
        );
        assert_eq!(
            with_version(json!({"spec": 1}), "7"),
            json!({"spec": 1, "metadata": {"resourceVersion": "7"}})
        );
    }
}
