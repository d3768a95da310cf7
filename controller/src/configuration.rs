//! The custom resources as they are now, the configuration that follows from them, and what was said about those that
//! cannot be used: an event on the object and a line in the log when something is wrong with it for the first time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ferrolb_api::names::{METALLB_GROUP, reasons};
use ferrolb_api::{IpAddressPool, L2Advertisement};
use ferrolb_config::{ObjectError, Parsed, Snapshot, parse};
use ferrolb_model::{Config, Labels};
use ferrolb_runtime::events::Note;
use ferrolb_runtime::watch::ObjectKey;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use tracing::{info, warn};

/// The snapshot and what was made of it last.
#[derive(Debug)]
pub(crate) struct Configuration {
    namespace: String,
    pools: BTreeMap<ObjectKey, IpAddressPool>,
    advertisements: BTreeMap<ObjectKey, L2Advertisement>,
    namespaces: BTreeMap<String, Labels>,
    dirty: bool,
    config: Arc<Config>,
    errors: Vec<ObjectError>,
}

/// What a new parse brought.
#[derive(Debug)]
pub(crate) struct Change {
    /// The configuration in force now.
    pub(crate) config: Arc<Config>,
    /// One line per mistake.
    pub(crate) lines: Vec<String>,
    /// Events about mistakes that were not there before.
    pub(crate) notes: Vec<Note>,
}

impl Configuration {
    /// Nothing is known yet; the objects are expected in `namespace`.
    pub(crate) fn new(namespace: String) -> Self {
        Configuration {
            namespace,
            pools: BTreeMap::new(),
            advertisements: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            // Even without any object there is a first configuration: the empty one.
            dirty: true,
            config: Arc::default(),
            errors: Vec::new(),
        }
    }

    /// An IPAddressPool is this now, or gone. Its status, which is ours, is no news.
    pub(crate) fn pool(&mut self, key: ObjectKey, pool: Option<IpAddressPool>) {
        let pool = pool.map(|mut pool| {
            pool.status = None;
            pool.metadata.resource_version = None;
            pool
        });
        self.dirty |= replace(&mut self.pools, key, pool);
    }

    /// An L2Advertisement is this now, or gone.
    pub(crate) fn advertisement(&mut self, key: ObjectKey, advertisement: Option<L2Advertisement>) {
        let advertisement = advertisement.map(|mut advertisement| {
            advertisement.metadata.resource_version = None;
            advertisement
        });
        self.dirty |= replace(&mut self.advertisements, key, advertisement);
    }

    /// A namespace has these labels now, or is gone.
    pub(crate) fn namespace(&mut self, name: String, labels: Option<Labels>) {
        self.dirty |= replace(&mut self.namespaces, name, labels);
    }

    /// Parses again if anything changed.
    pub(crate) fn settle(&mut self) -> Option<Change> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let snapshot = Snapshot {
            pools: self.pools.values().collect(),
            l2_advertisements: self.advertisements.values().collect(),
            namespaces: &self.namespaces,
        };
        let Parsed { config, errors } = parse(&snapshot, &self.config);
        self.config = Arc::new(config);
        let old = std::mem::replace(&mut self.errors, errors);
        let healed = old
            .iter()
            .filter(|error| !self.errors.iter().any(|e| same_object(e, error)));
        for (kind, name) in healed.map(|error| (error.kind, &error.name)).collect::<BTreeSet<_>>() {
            info!(kind, name, "nothing is wrong with the object any more");
        }
        let news = self.errors.iter().filter(|error| !old.contains(error));
        Some(Change {
            config: Arc::clone(&self.config),
            lines: self.errors.iter().map(ToString::to_string).collect(),
            notes: news.map(|error| self.note(error)).collect(),
        })
    }

    fn note(&self, error: &ObjectError) -> Note {
        let message = error.to_string();
        warn!(kind = error.kind, name = error.name, "{message}");
        Note {
            about: ObjectReference {
                api_version: Some(format!("{METALLB_GROUP}/v1beta1")),
                kind: Some(error.kind.to_owned()),
                namespace: Some(self.namespace.clone()),
                name: Some(error.name.clone()),
                uid: self.uid(error.kind, &error.name),
                ..ObjectReference::default()
            },
            warning: true,
            reason: reasons::CONFIGURATION_ERROR,
            message,
        }
    }

    fn uid(&self, kind: &str, name: &str) -> Option<String> {
        let pools = self
            .pools
            .values()
            .map(|object| (IpAddressPool::kind(&()), &object.metadata));
        let advertisements = self
            .advertisements
            .values()
            .map(|object| (L2Advertisement::kind(&()), &object.metadata));
        pools
            .chain(advertisements)
            .find(|(of, metadata)| of == kind && metadata.name.as_deref() == Some(name))
            .and_then(|(_, metadata)| metadata.uid.clone())
    }
}

fn same_object(one: &ObjectError, other: &ObjectError) -> bool {
    (one.kind, &one.name) == (other.kind, &other.name)
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
mod tests {
    use super::*;
    use ferrolb_api::IpAddressPoolSpec;

    fn pool(name: &str, addresses: &str) -> (ObjectKey, Option<IpAddressPool>) {
        let spec = IpAddressPoolSpec {
            addresses: vec![addresses.to_owned()],
            ..IpAddressPoolSpec::default()
        };
        let object = IpAddressPool::new(name, spec);
        (ObjectKey::of(&object), Some(object))
    }

    #[test]
    fn a_fault_is_told_once_and_the_last_good_version_stays() {
        let mut configuration = Configuration::new("ferrolb-system".to_owned());
        assert_eq!(*configuration.settle().unwrap().config, Config::default());
        assert!(configuration.settle().is_none(), "nothing changed");

        let (key, good) = pool("lan", "192.0.2.0/24");
        configuration.pool(key.clone(), good);
        let change = configuration.settle().unwrap();
        assert!(change.lines.is_empty() && change.notes.is_empty());
        let in_force = change.config;

        let (_, bad) = pool("lan", "192.0.2.0/33");
        configuration.pool(key.clone(), bad.clone());
        let change = configuration.settle().unwrap();
        assert_eq!(change.config, in_force);
        assert_eq!(change.lines.len(), 1);
        assert_eq!(change.notes[0].about.name.as_deref(), Some("lan"));
        configuration.pool(key.clone(), bad);
        assert!(configuration.settle().is_none(), "the same again");
        configuration.namespace("shop".to_owned(), Some(Labels::new()));
        assert!(configuration.settle().unwrap().notes.is_empty(), "told already");

        configuration.pool(key, None);
        let change = configuration.settle().unwrap();
        assert!(change.lines.is_empty() && change.config.pools.is_empty());
    }
}
