//! Requests to one API server, and its answers as they can be compared.

use anyhow::{Context, Result};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::header::CONTENT_TYPE;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// What was said so far.
pub(crate) struct Transcript {
    client: Client,
    pub(crate) lines: Vec<String>,
}

/// One answer, unmasked.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn version(&self) -> String {
        self.body["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// What a server gives as it likes.
const MASKED: [&str; 9] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "continue",
    "clusterIP",
    "clusterIPs",
    "nodePort",
    "lastTransitionTime",
];

impl Transcript {
    pub(crate) async fn new(kubeconfig: &str) -> Result<Self> {
        Ok(Transcript {
            client: ferrolb_apiserver::client(kubeconfig).await?,
            lines: Vec::new(),
        })
    }

    /// Asks and writes down code and body.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, body: Value) -> Result<Answer> {
        let answer = self.quietly(method, path, body).await?;
        self.say(method, path, json!([answer.code, masked(&answer.body)]));
        Ok(answer)
    }

    /// Asks and writes down code and reason only, where the rest is the server's taste.
    pub(crate) async fn refused(&mut self, method: &str, path: &str, body: Value) -> Result<()> {
        let answer = self.quietly(method, path, body).await?;
        self.say(method, path, json!([answer.code, answer.body["reason"]]));
        Ok(())
    }

    /// Asks and writes nothing down.
    pub(crate) async fn quietly(&mut self, method: &str, path: &str, body: Value) -> Result<Answer> {
        let (method, media_type) = match method {
            "MERGE" => ("PATCH", "application/merge-patch+json"),
            "STRATEGIC" => ("PATCH", "application/strategic-merge-patch+json"),
            "APPLY" => ("PATCH", "application/apply-patch+yaml"),
            other => (other, "application/json"),
        };
        let bytes = if body.is_null() {
            Vec::new()
        } else {
            serde_json::to_vec(&body)?
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_TYPE, media_type);
        let response = self
            .client
            .send(request.body(Body::from(bytes))?)
            .await
            .context("send")?;
        let code = response.status().as_u16();
        let bytes = response
            .into_body()
            .collect()
            .await
            .context("read the answer")?
            .to_bytes();
        let text = String::from_utf8_lossy(&bytes);
        let body = serde_json::from_str(&text).unwrap_or_else(|_| json!(text));
        Ok(Answer { code, body })
    }

    /// Watches for a second and writes down what is told, bookmarks apart, which come when a server likes.
    pub(crate) async fn watch(&mut self, path: &str) -> Result<Vec<Value>> {
        let answer = self
            .quietly("GET", &format!("{path}&timeoutSeconds=1"), Value::Null)
            .await?;
        let lines = match &answer.body {
            Value::String(text) => text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?,
            Value::Null => Vec::new(),
            one => vec![one.clone()],
        };
        let events = lines
            .into_iter()
            .filter(|event: &Value| event["type"] != "BOOKMARK")
            .collect::<Vec<_>>();
        self.say(
            "WATCH",
            path,
            json!([answer.code, events.iter().map(masked).collect::<Vec<_>>()]),
        );
        Ok(events)
    }

    /// Writes down what was found out.
    pub(crate) fn note(&mut self, what: &str, value: impl Into<Value>) {
        self.lines.push(format!("{what}: {}", value.into()));
    }

    fn say(&mut self, method: &str, path: &str, said: Value) {
        // Versions and tokens in the question differ as well.
        let path = path
            .split('&')
            .filter(|part| !part.contains("esourceVersion=") && !part.contains("continue="));
        self.lines
            .push(format!("{method} {} -> {said}", path.collect::<Vec<_>>().join("&")));
    }
}

fn masked(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(key, _)| *key != "managedFields");
            fields
                .filter(|(key, value)| !(*key == "continue" && *value == ""))
                .map(|(key, value)| {
                    let value = if MASKED.contains(&key.as_str()) {
                        json!("*")
                    } else {
                        masked(value)
                    };
                    (key.clone(), value)
                })
                .collect()
        }
        Value::Array(items) => items.iter().map(masked).collect(),
        Value::String(text) => json!(masked_text(text)),
        other => other.clone(),
    }
}

/// Without what stands in parentheses and after the last colon, if that is a number or a uid.
fn masked_text(text: &str) -> String {
    let is_given = |word: &str| {
        let word = word.trim_matches(['(', ')', '.', ',']);
        word.len() == 36 || (!word.is_empty() && word.chars().all(|c| c.is_ascii_digit()))
    };
    let words = text.split(' ').map(|word| if is_given(word) { "*" } else { word });
    words.collect::<Vec<_>>().join(" ")
}
