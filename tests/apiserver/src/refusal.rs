//! What the API server answers when it does not do what it was asked: a `Status`, worded as the real one words it.

use serde_json::{Value, json};

use crate::resource::Place;

/// A refusal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    /// Empty where the real server gives none.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Null where the real server gives none.
    pub(crate) details: Value,
    /// For the header `Retry-After`, in seconds.
    pub(crate) retry_after: Option<u32>,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>, details: Value) -> Self {
        Refusal {
            code,
            reason,
            message: message.into(),
            details,
            retry_after: None,
        }
    }

    /// 404: no object of that name.
    pub(crate) fn not_found(place: &Place) -> Self {
        let message = format!("{} {:?} not found", place.resource.qualified(), place.name);
        Self::new(404, "NotFound", message, details(place))
    }

    /// 404: the namespace of a new object does not exist.
    pub(crate) fn no_namespace(namespace: &str) -> Self {
        let details = json!({ "name": namespace, "kind": "namespaces" });
        Self::new(404, "NotFound", format!("namespaces {namespace:?} not found"), details)
    }

    /// 403: the namespace of a new object is on its way out.
    pub(crate) fn terminating(place: &Place) -> Self {
        let message = format!(
            "{} {:?} is forbidden: unable to create new content in namespace {} because it is being terminated",
            place.resource.qualified(),
            place.name,
            place.namespace
        );
        let mut details = details(place);
        details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {} is being terminated", place.namespace),
            "field": "metadata.namespace",
        }]);
        Self::new(403, "Forbidden", message, details)
    }

    /// 409: the name is taken.
    pub(crate) fn already_exists(place: &Place) -> Self {
        let message = format!("{} {:?} already exists", place.resource.qualified(), place.name);
        Self::new(409, "AlreadyExists", message, details(place))
    }

    /// 409: somebody wrote since.
    pub(crate) fn conflict(place: &Place) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        let message = format!(
            "Operation cannot be fulfilled on {} {:?}: {why}",
            place.resource.qualified(),
            place.name
        );
        Self::new(409, "Conflict", message, details(place))
    }

    /// 409: a precondition of a deletion does not hold. `field` is `UID` or `ResourceVersion`.
    pub(crate) fn precondition(place: &Place, field: &str, asked: &str, found: &str) -> Self {
        let kind = &place.resource.kind;
        let group = &place.resource.group;
        let subject = if group.is_empty() {
            kind.clone()
        } else {
            format!("{kind}.{group}")
        };
        let since = if field == "UID" {
            "deleted and then recreated"
        } else {
            "modified"
        };
        let message = format!(
            "Operation cannot be fulfilled on {subject} {:?}: the {field} in the precondition ({asked}) does not match \
             the {field} in record ({found}). The object might have been {since}",
            place.name
        );
        Self::new(409, "Conflict", message, details_of_kind(place))
    }

    /// 422: one field is wrong. `cause` is the reason of the cause.
    pub(crate) fn invalid(place: &Place, by_kind: bool, field: &str, cause: &str, message: &str) -> Self {
        let name = if by_kind {
            &place.resource.kind
        } else {
            &place.resource.plural
        };
        let subject = if place.resource.group.is_empty() {
            name.clone()
        } else {
            format!("{name}.{}", place.resource.group)
        };
        let mut details = if by_kind {
            details_of_kind(place)
        } else {
            details(place)
        };
        details["causes"] = json!([{ "reason": cause, "message": message, "field": field }]);
        let text = format!("{subject} {:?} is invalid: {field}: {message}", place.name);
        Self::new(422, "Invalid", text, details)
    }

    /// 400.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message, Value::Null)
    }

    /// 500 with a message and nothing else, as the real server gives for what it did not expect.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "", message, Value::Null)
    }

    /// 500 as a fault.
    pub(crate) fn internal_error() -> Self {
        let cause = "Internal error occurred: etcdserver: leader changed";
        let details = json!({ "causes": [{ "message": "etcdserver: leader changed" }] });
        Self::new(500, "InternalError", cause, details)
    }

    /// 403 of a missing rule, as a fault.
    pub(crate) fn forbidden(place: &Place, verb: &str) -> Self {
        let subresource = if place.status { "/status" } else { "" };
        let message = format!(
            "{} {:?} is forbidden: User \"double\" cannot {verb} resource \"{}{subresource}\" in API group {:?}",
            place.resource.qualified(),
            place.name,
            place.resource.plural,
            place.resource.group,
        );
        Self::new(403, "Forbidden", message, details(place))
    }

    /// 429 with `Retry-After`, as a fault.
    pub(crate) fn too_many_requests(retry_after: u32) -> Self {
        let details = json!({ "retryAfterSeconds": retry_after });
        let message = "too many requests, please try again later";
        Refusal {
            retry_after: Some(retry_after),
            ..Self::new(429, "TooManyRequests", message, details)
        }
    }

    /// 504 as a fault.
    pub(crate) fn timeout() -> Self {
        let message = "Timeout: request did not complete within requested timeout - context deadline exceeded";
        Self::new(504, "Timeout", message, json!({}))
    }

    /// 410: what happened since the version is forgotten.
    pub(crate) fn expired(asked: u64, oldest: u64) -> Self {
        let message = format!("too old resource version: {asked} ({oldest})");
        Self::new(410, "Expired", message, Value::Null)
    }

    /// 410: the list that the continue token goes on with is forgotten.
    pub(crate) fn expired_token() -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a \
                       new list without the continue parameter.";
        Self::new(410, "Expired", message, Value::Null)
    }

    /// 504: the version asked for does not exist yet.
    pub(crate) fn too_large(asked: u64, current: u64) -> Self {
        let details = json!({
            "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
            "retryAfterSeconds": 1,
        });
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        Refusal {
            retry_after: Some(1),
            ..Self::new(504, "Timeout", message, details)
        }
    }

    /// 415: a kind of patch that the resource does not take.
    pub(crate) fn media_type(accepted: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(415, "UnsupportedMediaType", message, Value::Null)
    }

    /// 405, also for what this double has not learned.
    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message, json!({}))
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

/// The details of a `Status` about an object.
pub(crate) fn details(place: &Place) -> Value {
    with_kind(place, &place.resource.plural)
}

fn details_of_kind(place: &Place) -> Value {
    with_kind(place, &place.resource.kind)
}

fn with_kind(place: &Place, kind: &str) -> Value {
    let mut details = json!({ "kind": kind });
    for (field, value) in [("name", &place.name), ("group", &place.resource.group)] {
        if !value.is_empty() {
            details[field] = json!(value);
        }
    }
    details
}
