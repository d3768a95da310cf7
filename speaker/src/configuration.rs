//! The objects that configure the installation as they are now, and the configuration that follows from them.
//!
//! A mistake in an object is logged when it comes and when it goes; events and status about it are the
//! controller's. Namespaces are not watched: they only decide which Services a pool admits, which is decided where
//! addresses are handed out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ferrolb_api::{IpAddressPool, L2Advertisement};
use ferrolb_config::{Snapshot, parse};
use ferrolb_model::Config;
use ferrolb_runtime::watch::{Event, ObjectKey};
use tracing::{info, warn};

/// News of one of the objects.
pub(crate) enum Change {
    /// Of an IPAddressPool.
    Pool(Event<IpAddressPool>),
    /// Of an L2Advertisement.
    Advertisement(Event<L2Advertisement>),
}

/// The objects, and what was made of them last.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    pools: BTreeMap<ObjectKey, IpAddressPool>,
    advertisements: BTreeMap<ObjectKey, L2Advertisement>,
    config: Arc<Config>,
    /// One line for each mistake.
    mistakes: BTreeSet<String>,
}

impl Configuration {
    /// Takes one change in; whether the configuration has to be read again.
    pub(crate) fn change(&mut self, change: Change) -> bool {
        match change {
            Change::Pool(Event::Applied(mut pool)) => {
                // Counters of addresses in use, written by the controller all the time.
                pool.status = None;
                pool.metadata.resource_version = None;
                put(&mut self.pools, ObjectKey::of(&pool), pool)
            }
            Change::Advertisement(Event::Applied(mut advertisement)) => {
                advertisement.metadata.resource_version = None;
                put(&mut self.advertisements, ObjectKey::of(&advertisement), advertisement)
            }
            Change::Pool(Event::Gone(key)) => self.pools.remove(&key).is_some(),
            Change::Advertisement(Event::Gone(key)) => self.advertisements.remove(&key).is_some(),
            Change::Pool(Event::Invalid { key, error }) => unreadable("IPAddressPool", &key, &error),
            Change::Advertisement(Event::Invalid { key, error }) => unreadable("L2Advertisement", &key, &error),
            Change::Pool(Event::Synced) | Change::Advertisement(Event::Synced) => true,
        }
    }

    /// The configuration in force, and how many mistakes keep objects out of it.
    pub(crate) fn read(&mut self) -> (Arc<Config>, u64) {
        let snapshot = Snapshot {
            pools: self.pools.values().collect(),
            l2_advertisements: self.advertisements.values().collect(),
            namespaces: &BTreeMap::new(),
        };
        let parsed = parse(&snapshot, &self.config);
        let mistakes: BTreeSet<String> = parsed.errors.iter().map(ToString::to_string).collect();
        for new in mistakes.difference(&self.mistakes) {
            warn!("{new}");
        }
        for old in self.mistakes.difference(&mistakes) {
            info!("no longer so: {old}");
        }
        self.mistakes = mistakes;
        if *self.config != parsed.config {
            self.config = Arc::new(parsed.config);
        }
        (
            Arc::clone(&self.config),
            u64::try_from(self.mistakes.len()).unwrap_or(u64::MAX),
        )
    }
}

/// Puts an object in; whether it is another than before.
fn put<T: PartialEq>(objects: &mut BTreeMap<ObjectKey, T>, key: ObjectKey, object: T) -> bool {
    match objects.get(&key) {
        Some(old) if *old == object => false,
        _ => {
            objects.insert(key, object);
            true
        }
    }
}

/// An object that cannot be read stays as it was last read.
fn unreadable(kind: &str, key: &ObjectKey, error: &str) -> bool {
    warn!("{kind} {key} cannot be read and stays as it was: {error}");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(addresses: &str) -> Change {
        let text = format!(
            r#"{{"apiVersion":"metallb.io/v1beta1","kind":"IPAddressPool",
                 "metadata":{{"namespace":"ferrolb-system","name":"lan","resourceVersion":"7"}},
                 "spec":{{"addresses":["{addresses}"]}}}}"#
        );
        Change::Pool(Event::Applied(serde_json::from_str(&text).unwrap()))
    }

    #[test]
    fn only_what_matters_is_a_change_and_the_last_good_stays() {
        let mut configuration = Configuration::default();
        assert!(configuration.change(pool("192.0.2.0/24")));
        let (good, errors) = configuration.read();
        assert_eq!((good.pools.len(), errors), (1, 0));

        let Change::Pool(Event::Applied(mut same)) = pool("192.0.2.0/24") else {
            unreachable!("a pool");
        };
        same.metadata.resource_version = Some("8".to_owned());
        same.status = Some(ferrolb_api::IpAddressPoolStatus::default());
        assert!(!configuration.change(Change::Pool(Event::Applied(same))));

        assert!(configuration.change(pool("192.0.2.0/33")));
        let (kept, errors) = configuration.read();
        assert!(Arc::ptr_eq(&good, &kept));
        assert_eq!(errors, 1);

        let key = ObjectKey {
            namespace: "ferrolb-system".into(),
            name: "lan".into(),
        };
        assert!(configuration.change(Change::Pool(Event::Gone(key.clone()))));
        assert!(!configuration.change(Change::Pool(Event::Gone(key))));
        let (empty, errors) = configuration.read();
        assert_eq!((empty.pools.len(), errors), (0, 0));
    }
}
