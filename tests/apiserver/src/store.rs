//! Objects, the history of their changes, and pages of lists. Versions are global and only grow.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::patch::FieldPath;
use crate::refusal::Refusal;
use crate::resource::{Place, Resource};
use crate::select::Selection;

/// Where versions start: a client that asks for what happened before its time is told that it is forgotten.
const FIRST_VERSION: u64 = 100;

/// Resource, namespace and name.
pub(crate) type Key = (String, String, String);

/// One change of one object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) resource: String,
    pub(crate) old: Option<Arc<Value>>,
    /// `None`: it was deleted.
    pub(crate) new: Option<Arc<Value>>,
}

/// Everything that is stored.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) resources: Vec<Arc<Resource>>,
    /// The version of the newest change.
    pub(crate) version: u64,
    /// Changes up to this version are forgotten.
    pub(crate) compacted: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
    pages: BTreeMap<String, (u64, Vec<Arc<Value>>)>,
    /// What a manager applied last, by uid, manager and whether to the status.
    pub(crate) applied: BTreeMap<(String, String, bool), BTreeSet<FieldPath>>,
    serial: u64,
}

/// A list, or a page of it.
pub(crate) struct Page {
    pub(crate) version: u64,
    pub(crate) items: Vec<Arc<Value>>,
    /// The token of the rest.
    pub(crate) rest: Option<String>,
    /// How many follow, where that is told.
    pub(crate) remaining: Option<usize>,
}

impl Store {
    pub(crate) fn new(resources: Vec<Resource>) -> Self {
        Store {
            resources: resources.into_iter().map(Arc::new).collect(),
            version: FIRST_VERSION,
            compacted: FIRST_VERSION,
            ..Store::default()
        }
    }

    pub(crate) fn get(&self, place: &Place) -> Option<Arc<Value>> {
        self.objects.get(&key(place)).cloned()
    }

    /// A number that was not given before.
    pub(crate) fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Stores `object` under the next version, or deletes what is there; gives what was stored, or what was deleted with
    /// the version of its deletion.
    pub(crate) fn commit(&mut self, place: &Place, object: Option<Value>) -> Arc<Value> {
        self.version += 1;
        let key = key(place);
        let old = self.objects.remove(&key);
        let versioned = |mut object: Value, version: u64| {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            Arc::new(object)
        };
        let new = object.map(|object| versioned(object, self.version));
        if let Some(new) = &new {
            self.objects.insert(key.clone(), Arc::clone(new));
        }
        self.history.push_back(Change {
            version: self.version,
            resource: key.0,
            old: old.clone(),
            new: new.clone(),
        });
        new.unwrap_or_else(|| versioned(old.as_deref().cloned().unwrap_or_default(), self.version))
    }

    /// All objects of the resource that `selection` admits, in the order of their keys.
    pub(crate) fn all(&self, resource: &str, selection: &Selection) -> Vec<Arc<Value>> {
        self.objects
            .range((resource.to_owned(), String::new(), String::new())..)
            .take_while(|((of, ..), _)| of == resource)
            .filter(|(_, object)| selection.admits(object))
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// The first `limit` objects, or all without one. The rest can be asked for as it was at this moment.
    pub(crate) fn list(&mut self, resource: &str, selection: &Selection, limit: Option<usize>) -> Page {
        let items = self.all(resource, selection);
        let mut page = self.page(self.version, items, limit);
        if selection.selects() {
            page.remaining = None;
        }
        page
    }

    /// What follows a page.
    pub(crate) fn more(&mut self, token: &str, limit: Option<usize>) -> Result<Page, Refusal> {
        if !token.starts_with("page-") {
            return Err(Refusal::bad_request(
                "invalid continue token: continue key is not valid",
            ));
        }
        let (version, items) = self.pages.get(token).cloned().ok_or_else(Refusal::expired_token)?;
        Ok(self.page(version, items, limit))
    }

    fn page(&mut self, version: u64, mut items: Vec<Arc<Value>>, limit: Option<usize>) -> Page {
        let rest = items.split_off(limit.filter(|limit| *limit > 0).unwrap_or(items.len()).min(items.len()));
        let remaining = Some(rest.len()).filter(|count| *count > 0);
        let token = remaining.map(|_| format!("page-{}", self.serial()));
        if let Some(token) = &token {
            self.pages.insert(token.clone(), (version, rest));
        }
        Page {
            version,
            items,
            rest: token,
            remaining,
        }
    }

    /// Forgets every change and every page: who did not follow has to list again.
    pub(crate) fn compact(&mut self) {
        self.history.clear();
        self.pages.clear();
        self.compacted = self.version;
    }

    /// The changes of a resource after `version`, or that they are forgotten.
    pub(crate) fn since(&self, resource: &str, version: u64) -> Result<Vec<Change>, Refusal> {
        if version < self.compacted {
            return Err(Refusal::expired(version, self.compacted));
        }
        let first = self.history.partition_point(|change| change.version <= version);
        let news = self.history.range(first..);
        Ok(news.filter(|change| change.resource == resource).cloned().collect())
    }
}

fn key(place: &Place) -> Key {
    (place.resource.qualified(), place.namespace.clone(), place.name.clone())
}
