//! Whether the API server knows every field that this version reads and writes. A CustomResourceDefinition that is older
//! than the program drops the others without a word: what is written there is never seen by anybody.
//!
//! The fields that the API server knows stand in its OpenAPI documents, which every program may read. They are looked at when
//! the program starts and when they have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use ferrolb_runtime::apply::Failure;
use ferrolb_runtime::readiness::{Check, Readiness};
use kube::Client;
use kube::api::ListParams;
use kube::core::Request;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// The fields of this version, one per line: group and version, kind, path. Written by `xtask gen`.
const FIELDS: &str = include_str!("definitions/fields.txt");

/// Kinds of this group are FerroLB's own: it cannot work without one of their fields. Those of the other group can be those
/// of an older MetalLB.
const OWN: &str = "ferrolb.io/";

/// Between two looks while something is missing, and while nothing is.
const SOON: Duration = Duration::from_secs(5);
const LATER: Duration = Duration::from_secs(60);

/// The index of the documents.
#[derive(Deserialize)]
struct Index {
    paths: BTreeMap<String, Document>,
}

/// Where a document is: another one in another place.
#[derive(Deserialize)]
struct Document {
    #[serde(rename = "serverRelativeURL")]
    url: String,
}

/// A document of one group and version, as far as it is of interest.
#[derive(Deserialize)]
struct Api {
    components: Components,
}

#[derive(Deserialize)]
struct Components {
    #[serde(default)]
    schemas: BTreeMap<String, Schema>,
}

#[derive(Deserialize)]
struct Schema {
    #[serde(default)]
    properties: BTreeMap<String, Schema>,
    items: Option<Box<Schema>>,
    #[serde(default, rename = "x-kubernetes-group-version-kind")]
    kinds: Vec<GroupVersionKind>,
}

#[derive(Deserialize)]
struct GroupVersionKind {
    kind: String,
}

/// Looks, and tells `/readyz` and the log, until `stop` is cancelled.
pub(crate) async fn keep(client: Client, readiness: Readiness, stop: CancellationToken) -> Result<(), Infallible> {
    let mut definitions = Definitions {
        client,
        check: readiness.sound_check("custom resources"),
        looked_at: BTreeMap::new(),
        lacking: BTreeSet::new(),
        told: BTreeSet::new(),
    };
    let work = async {
        loop {
            if let Err(failure) = definitions.look().await {
                debug!("cannot read which fields the API server knows: {failure}");
            }
            let pause = if definitions.lacking.is_empty() { LATER } else { SOON };
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        never = work => never,
    }
}

struct Definitions {
    client: Client,
    check: Check,
    /// Of each document, where it was when it was read last.
    looked_at: BTreeMap<&'static str, String>,
    /// The lines of [`FIELDS`] that the API server does not know.
    lacking: BTreeSet<&'static str>,
    /// What of it was told.
    told: BTreeSet<&'static str>,
}

impl Definitions {
    async fn look(&mut self) -> Result<(), Failure> {
        let index: Index = self.get("/openapi/v3").await?;
        let versions: BTreeSet<&str> = FIELDS.lines().filter_map(|line| line.split(' ').next()).collect();
        for version in versions {
            // What is not served at all is said by the watches.
            let Some(document) = index.paths.get(&format!("apis/{version}")) else {
                continue;
            };
            // The index lags behind the documents, up to a minute.
            let lacks = self.lacking.iter().any(|line| is_of(line, version));
            if !lacks && self.looked_at.get(version) == Some(&document.url) {
                continue;
            }
            // What follows is the document's hash, which need not be named to get it.
            let path = document.url.split('?').next().unwrap_or_default();
            let api: Api = self.get(path).await?;
            self.lacking.retain(|line| !is_of(line, version));
            self.lacking.extend(lacking(&api, version));
            self.looked_at.insert(version, document.url.clone());
        }
        let lacking = self.lacking.clone();
        if std::mem::replace(&mut self.told, lacking) != self.lacking {
            self.tell();
        }
        Ok(())
    }

    fn tell(&self) {
        let Some(why) = message(&self.lacking) else {
            info!("the API server knows every field that this version needs");
            self.check.ready();
            return;
        };
        warn!("{why}");
        if self.lacking.iter().any(|line| line.starts_with(OWN)) {
            self.check.not_ready(why);
        } else {
            self.check.warn(why);
        }
    }

    async fn get<T: for<'a> Deserialize<'a>>(&self, path: &str) -> Result<T, Failure> {
        let request = Request::new(path).list(&ListParams::default());
        let request = request.map_err(|error| Failure::Refused(error.to_string()))?;
        let text = self.client.request_text(request).await?;
        serde_json::from_str(&text).map_err(|error| Failure::Refused(error.to_string()))
    }
}

fn is_of(line: &str, version: &str) -> bool {
    line.strip_prefix(version).is_some_and(|rest| rest.starts_with(' '))
}

/// The lines of [`FIELDS`] about `version` whose field is not in its document. A kind that is not there is said by its watch.
fn lacking(api: &Api, version: &str) -> BTreeSet<&'static str> {
    let schemas = api.components.schemas.values();
    let kinds: BTreeMap<&str, &Schema> = schemas
        .flat_map(|schema| schema.kinds.iter().map(move |of| (of.kind.as_str(), schema)))
        .collect();
    let of_version = FIELDS.lines().filter(|line| is_of(line, version));
    of_version
        .filter(|line| {
            let mut words = line.split(' ').skip(1);
            let (kind, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            kinds.get(kind).is_some_and(|schema| !has(schema, path))
        })
        .collect()
}

fn has(schema: &Schema, path: &str) -> bool {
    let mut schema = schema;
    for name in path.split('.') {
        while let Some(items) = &schema.items {
            schema = items;
        }
        match schema.properties.get(name) {
            Some(next) => schema = next,
            None => return false,
        }
    }
    true
}

fn message(lacking: &BTreeSet<&str>) -> Option<String> {
    let first = lacking.first()?;
    let (version, field) = first.split_once(' ')?;
    let more = match lacking.len() - 1 {
        0 => String::new(),
        more => format!(", nor {more} more"),
    };
    Some(format!(
        "the API server does not know {field} of {version}{more}: a CustomResourceDefinition is older than this program and drops \
         what is written there. Apply those of this version, which come with its manifest and its chart"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// The document of a version, made of the fields of this version.
    fn document(version: &str) -> Value {
        let mut schemas = serde_json::Map::new();
        for line in FIELDS.lines().filter(|line| is_of(line, version)) {
            let words: Vec<&str> = line.split(' ').collect();
            let kind = schemas.entry(words[1]).or_insert_with(|| json!({}));
            kind["x-kubernetes-group-version-kind"] = json!([{ "kind": words[1] }]);
            let mut at = kind;
            for name in words[2].split('.') {
                at = &mut at["properties"][name];
            }
            if at.is_null() {
                *at = json!({ "description": "more than is looked at" });
            }
        }
        json!({ "components": { "schemas": schemas } })
    }

    #[test]
    fn what_an_older_definition_lacks_is_named() {
        let version = "ferrolb.io/v1alpha1";
        let mut document = document(version);
        let read = |document: &Value| serde_json::from_value::<Api>(document.clone()).unwrap();
        assert_eq!(message(&lacking(&read(&document), version)), None);

        let status = &mut document["components"]["schemas"]["VirtualIP"]["properties"]["status"]["properties"];
        status.as_object_mut().unwrap().remove("placement");
        let found = lacking(&read(&document), version);
        assert!(
            found.contains("ferrolb.io/v1alpha1 VirtualIP status.placement"),
            "{found:?}"
        );
        assert!(
            found.contains("ferrolb.io/v1alpha1 VirtualIP status.placement.owner"),
            "{found:?}"
        );
        let text = message(&found).unwrap();
        assert!(
            text.contains("VirtualIP status.placement of ferrolb.io/v1alpha1"),
            "{text}"
        );

        document["components"]["schemas"] = json!({});
        assert!(
            lacking(&read(&document), version).is_empty(),
            "the watch says that it is missing"
        );
    }

    #[test]
    fn the_items_of_a_list_are_looked_into() {
        let schema = json!({ "properties": { "a": { "items": { "properties": { "b": {} } } } } });
        let schema: Schema = serde_json::from_value(schema).unwrap();
        assert!(has(&schema, "a.b") && !has(&schema, "a.c"));
    }

    proptest! {
        #[test]
        fn any_document_is_taken(text in "\\PC{0,80}") {
            let _ = (serde_json::from_str::<Api>(&text).is_ok(), serde_json::from_str::<Index>(&text).is_ok());
        }
    }
}
