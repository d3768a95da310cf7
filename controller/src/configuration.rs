//! The objects of the configuration as they are now, the configuration that follows from them, and what was said about
//! those that cannot be used: an event on the object and a line in the log when something is wrong with it for the first
//! time.
//!
//! The first reading goes on from the last good versions that an earlier process left in the ConfigurationState.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ferrolb_api::names::reasons;
use ferrolb_config::{LastGood, NodeFacts, Object, ObjectError, ObjectRef, Parsed, Snapshot, Surroundings, parse};
use ferrolb_model::{Config, IpRange, Labels};
use ferrolb_runtime::events::Note;
use k8s_openapi::api::core::v1::ObjectReference;
use tracing::{info, warn};

use crate::verdict::Findings;

/// The last good versions may take this much of the ConfigurationState, whose annotations hold 256 KiB in all.
const MAX_LAST_GOOD: usize = 128 * 1024;

/// The snapshot and what was made of it last.
#[derive(Debug)]
pub(crate) struct Configuration {
    namespace: String,
    snapshot: Snapshot,
    surroundings: Surroundings,
    dirty: bool,
    /// What an earlier process left, until the first reading.
    inherited: LastGood,
    parsed: Option<Parsed>,
    /// Last good versions that were too large to keep, as far as that was logged.
    dropped: BTreeSet<ObjectRef>,
}

/// What a new reading brought.
#[derive(Debug)]
pub(crate) struct Change {
    /// The configuration in force, if it is another than before.
    pub(crate) config: Option<Arc<Config>>,
    /// What is to be told in the ConfigurationState.
    pub(crate) findings: Findings,
    /// Events about what was not wrong before.
    pub(crate) notes: Vec<Note>,
}

impl Configuration {
    /// Nothing is known yet; the objects are expected in `namespace`.
    pub(crate) fn new(namespace: String) -> Self {
        Configuration {
            namespace,
            snapshot: Snapshot::new(),
            surroundings: Surroundings::default(),
            // Even without any object there is a first configuration: the empty one.
            dirty: true,
            inherited: LastGood::default(),
            parsed: None,
            dropped: BTreeSet::new(),
        }
    }

    /// An object is this now, or gone.
    pub(crate) fn object(&mut self, of: ObjectRef, object: Option<Object>) {
        self.dirty |= replace(&mut self.snapshot, of, object);
    }

    /// A namespace has these labels now, or is gone.
    pub(crate) fn namespace(&mut self, name: String, labels: Option<Labels>) {
        self.dirty |= replace(&mut self.surroundings.namespaces, name, labels);
    }

    /// A Node is this now, or gone.
    pub(crate) fn node(&mut self, name: String, facts: Option<NodeFacts>) {
        self.dirty |= replace(&mut self.surroundings.nodes, name, facts);
    }

    /// A ServiceCIDR has these ranges now, or is gone.
    pub(crate) fn service_cidr(&mut self, name: String, ranges: Option<Vec<IpRange>>) {
        self.dirty |= replace(&mut self.surroundings.service_cidrs, name, ranges);
    }

    /// The last good versions that stand in the ConfigurationState. After the first reading this process knows better.
    pub(crate) fn inherit(&mut self, text: Option<&str>) {
        if self.parsed.is_some() {
            return;
        }
        self.inherited = text
            .map(LastGood::read)
            .transpose()
            .unwrap_or_else(|error| {
                warn!("the last good versions in the ConfigurationState cannot be read and are ignored: {error}");
                None
            })
            .unwrap_or_default();
    }

    /// Reads again if anything changed.
    pub(crate) fn settle(&mut self) -> Option<Change> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let first = self.parsed.is_none();
        let inherited = std::mem::take(&mut self.inherited);
        let old = self
            .parsed
            .take()
            .unwrap_or_else(|| inherited.resume(&self.snapshot, &self.surroundings));
        let new = parse(&self.snapshot, &self.surroundings, &old);
        let told = match first {
            true => Parsed::default(),
            false => old,
        };
        log_healed(&told, &new);
        let change = Change {
            config: (first || told.config != new.config).then(|| Arc::clone(&new.config)),
            findings: Findings {
                errors: new.errors.iter().map(ToString::to_string).collect(),
                warnings: new.warnings.iter().map(ToString::to_string).collect(),
                last_good: self.last_good(&new),
            },
            notes: self.notes(&told, &new),
        };
        self.parsed = Some(new);
        Some(change)
    }

    fn last_good(&mut self, parsed: &Parsed) -> Option<String> {
        let (text, dropped) = LastGood::text(parsed, MAX_LAST_GOOD);
        let dropped = dropped.into_iter().collect::<BTreeSet<_>>();
        for of in dropped.difference(&self.dropped) {
            warn!(
                kind = of.kind.name(),
                name = of.name,
                "the last good version of {of} stays in force, but is too large to outlive this process"
            );
        }
        self.dropped = dropped;
        text
    }

    /// One for each object about which there is something new to say.
    fn notes(&self, old: &Parsed, new: &Parsed) -> Vec<Note> {
        let errors = fresh(&old.errors, &new.errors).map(|told| (reasons::CONFIGURATION_ERROR, told));
        let warnings = fresh(&old.warnings, &new.warnings).map(|told| (reasons::CONFIGURATION_WARNING, told));
        let notes = errors.chain(warnings).filter_map(|(reason, (first, more))| {
            let mut message = first.to_string();
            if more > 0 {
                message += &format!("; and {more} more, see ConfigurationState \"controller\"");
            }
            warn!(kind = first.kind, name = first.name, "{message}");
            self.note(first.object()?, reason, message)
        });
        notes.collect()
    }

    fn note(&self, of: ObjectRef, reason: &'static str, message: String) -> Option<Note> {
        let metadata = self.snapshot.get(&of)?.metadata();
        Some(Note {
            about: ObjectReference {
                api_version: Some(of.kind.api_version().to_owned()),
                kind: Some(of.kind.name().to_owned()),
                namespace: of.kind.is_namespaced().then(|| self.namespace.clone()),
                name: Some(of.name),
                uid: metadata.and_then(|m| m.uid.clone()),
                ..ObjectReference::default()
            },
            warning: true,
            reason,
            message,
        })
    }
}

/// What is said now and was not said before: the first about each object, and how many more there are.
fn fresh<'a>(old: &[ObjectError], new: &'a [ObjectError]) -> impl Iterator<Item = (&'a ObjectError, usize)> {
    let old = old.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let mut objects = BTreeMap::<_, (&ObjectError, usize)>::new();
    for error in new.iter().filter(|error| !old.contains(&error.to_string())) {
        let told = objects.entry((error.kind, &error.name));
        told.and_modify(|(_, more)| *more += 1).or_insert((error, 0));
    }
    objects.into_values()
}

fn log_healed(old: &Parsed, new: &Parsed) {
    let wrong = |parsed: &Parsed| {
        parsed
            .errors
            .iter()
            .map(|e| (e.kind, e.name.clone()))
            .collect::<BTreeSet<_>>()
    };
    for (kind, name) in wrong(old).difference(&wrong(new)) {
        info!(kind, name, "nothing is wrong with the object any more");
    }
}

/// Puts `value` in or takes the entry out; whether anything changed.
fn replace<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> bool {
    match value {
        Some(value) if map.get(&key) == Some(&value) => false,
        Some(value) => {
            map.insert(key, value);
            true
        }
        None => map.remove(&key).is_some(),
    }
}

#[cfg(test)]
mod tests;
