//! The objects that configure the installation as they are now, and the configuration that follows from them.
//!
//! A mistake in an object is logged when it comes and when it goes; events and status about it are the
//! controller's. Namespaces are not watched: they only decide which Services a pool admits, which is decided where
//! addresses are handed out.

use std::collections::BTreeSet;
use std::sync::Arc;

use ferrolb_api::{
    AnnouncementPolicy, BfdProfile, BgpAdvertisement, BgpPeer, Community, IpAddressPool, L2Advertisement,
};
use ferrolb_config::{Configures, Kind, NodeFacts, Object, ObjectRef, Parsed, Snapshot, Surroundings, parse};
use ferrolb_model::{Config, Labels};
use ferrolb_runtime::watch::Event;
use tracing::{info, warn};

/// News of one of the objects.
pub(crate) enum Change {
    /// Of an IPAddressPool.
    Pool(Event<IpAddressPool>),
    /// Of an L2Advertisement.
    Advertisement(Event<L2Advertisement>),
    /// Of a BGPPeer.
    BgpPeer(Event<BgpPeer>),
    /// Of a BGPAdvertisement.
    BgpAdvertisement(Event<BgpAdvertisement>),
    /// Of a BFDProfile.
    BfdProfile(Event<BfdProfile>),
    /// Of a Community.
    Community(Event<Community>),
    /// Of an AnnouncementPolicy.
    AnnouncementPolicy(Event<AnnouncementPolicy>),
}

/// What layer 2 does without the rest.
const LAYER2: [Kind; 2] = [Kind::Pool, Kind::L2Advertisement];

/// The objects, and what was made of them last.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    snapshot: Snapshot,
    surroundings: Surroundings,
    parsed: Parsed,
    /// One line for each mistake.
    mistakes: BTreeSet<String>,
}

impl Configuration {
    /// Takes one change in; whether the configuration has to be read again.
    pub(crate) fn change(&mut self, change: Change) -> bool {
        match change {
            Change::Pool(event) => self.take(event),
            Change::Advertisement(event) => self.take(event),
            Change::BgpPeer(event) => self.take(event),
            Change::BgpAdvertisement(event) => self.take(event),
            Change::BfdProfile(event) => self.take(event),
            Change::Community(event) => self.take(event),
            Change::AnnouncementPolicy(event) => self.take(event),
        }
    }

    /// Objects are held against each other where they meet on this node alone, so that a mistake between peers of other
    /// nodes costs nothing here. Whether the configuration has to be read again.
    pub(crate) fn on_node(&mut self, name: &str, labels: &Labels) -> bool {
        let facts = NodeFacts {
            labels: labels.clone(),
            ..NodeFacts::default()
        };
        self.surroundings.nodes.insert(name.to_owned(), facts.clone()) != Some(facts)
    }

    /// The uid of an object that can be read.
    pub(crate) fn uid(&self, kind: Kind, name: &str) -> Option<String> {
        self.snapshot.get(&ObjectRef::new(kind, name))?.metadata()?.uid.clone()
    }

    fn take<K: Configures>(&mut self, event: Event<K>) -> bool {
        let named = |name: &str| ObjectRef::new(K::KIND, name);
        match event {
            Event::Applied(object) => {
                let of = named(object.metadata().name.as_deref().unwrap_or_default());
                self.put(of, object.into_object())
            }
            Event::Invalid { key, error } => self.put(named(&key.name), K::KIND.unreadable(&error)),
            Event::Gone(key) => self.snapshot.remove(&named(&key.name)).is_some(),
            Event::Synced => true,
        }
    }

    /// Puts an object in; whether it is another than before.
    fn put(&mut self, of: ObjectRef, object: Object) -> bool {
        match self.snapshot.get(&of) {
            Some(old) if *old == object => false,
            _ => {
                self.snapshot.insert(of, object);
                true
            }
        }
    }

    /// The configuration in force, and how many mistakes keep objects out of it. While some objects have not been heard
    /// of it is that of layer 2 `alone`: an object whose other half is yet to come would count as a mistake.
    pub(crate) fn read(&mut self, alone: bool) -> (Arc<Config>, u64) {
        self.parsed = match alone {
            true => {
                let layer2 = self.snapshot.iter().filter(|(of, _)| LAYER2.contains(&of.kind));
                let layer2 = layer2.map(|(of, object)| (of.clone(), object.clone())).collect();
                parse(&layer2, &self.surroundings, &self.parsed)
            }
            false => parse(&self.snapshot, &self.surroundings, &self.parsed),
        };
        let mistakes: BTreeSet<String> = self.parsed.errors.iter().map(ToString::to_string).collect();
        for new in mistakes.difference(&self.mistakes) {
            warn!("{new}");
        }
        for old in self.mistakes.difference(&mistakes) {
            info!("no longer so: {old}");
        }
        self.mistakes = mistakes;
        (
            Arc::clone(&self.parsed.config),
            u64::try_from(self.mistakes.len()).unwrap_or(u64::MAX),
        )
    }
}

#[cfg(test)]
mod tests {
    use ferrolb_runtime::watch::ObjectKey;

    use super::*;

    fn pool(addresses: &str) -> Change {
        let text = format!(
            r#"{{"apiVersion":"metallb.io/v1beta1","kind":"IPAddressPool",
                 "metadata":{{"namespace":"ferrolb-system","name":"lan","resourceVersion":"7"}},
                 "spec":{{"addresses":["{addresses}"]}}}}"#
        );
        Change::Pool(Event::Applied(serde_json::from_str(&text).unwrap()))
    }

    fn peer(name: &str, rack: &str, rest: &str) -> Change {
        let text = format!(
            r#"{{"apiVersion":"metallb.io/v1beta2","kind":"BGPPeer",
                 "metadata":{{"namespace":"ferrolb-system","name":"{name}","uid":"u-{name}"}},
                 "spec":{{"myASN":64600,"peerASN":64512,"peerAddress":"10.0.0.1",
                          "nodeSelectors":[{{"matchLabels":{{"rack":"{rack}"}}}}]{rest}}}}}"#
        );
        Change::BgpPeer(Event::Applied(serde_json::from_str(&text).unwrap()))
    }

    #[test]
    fn what_waits_for_its_other_half_is_no_mistake_yet() {
        let mut configuration = Configuration::default();
        configuration.change(pool("192.0.2.0/24"));
        configuration.change(peer("a", "a", r#","bfdProfile":"fast""#));
        let (config, errors) = configuration.read(true);
        assert_eq!((config.pools.len(), config.peers.len(), errors), (1, 0, 0));
        let (config, errors) = configuration.read(false);
        assert_eq!((config.pools.len(), config.peers.len(), errors), (1, 0, 1));
        assert_eq!(configuration.uid(Kind::BgpPeer, "a").as_deref(), Some("u-a"));
    }

    #[test]
    fn peers_are_held_against_each_other_on_this_node_alone() {
        let mut configuration = Configuration::default();
        let rack = |rack: &str| Labels::from([("rack".to_owned(), rack.to_owned())]);
        assert!(configuration.on_node("node-a", &rack("a")));
        assert!(!configuration.on_node("node-a", &rack("a")), "the same again");
        configuration.change(peer("a", "a", ""));
        configuration.change(peer("b", "b", ""));
        let (config, errors) = configuration.read(false);
        assert_eq!(
            (config.peers.len(), errors),
            (2, 0),
            "the same router, from different nodes"
        );
        configuration.change(peer("c", "a", ""));
        let (config, errors) = configuration.read(false);
        assert_eq!((config.peers.len(), errors), (2, 1));
    }

    #[test]
    fn only_what_matters_is_a_change_and_the_last_good_stays() {
        let mut configuration = Configuration::default();
        assert!(configuration.change(pool("192.0.2.0/24")));
        let (good, errors) = configuration.read(false);
        assert_eq!((good.pools.len(), errors), (1, 0));

        let Change::Pool(Event::Applied(mut same)) = pool("192.0.2.0/24") else {
            unreachable!("a pool");
        };
        same.metadata.resource_version = Some("8".to_owned());
        same.status = Some(ferrolb_api::IpAddressPoolStatus::default());
        assert!(!configuration.change(Change::Pool(Event::Applied(same))));

        assert!(configuration.change(pool("192.0.2.0/33")));
        let (kept, errors) = configuration.read(false);
        assert!(Arc::ptr_eq(&good, &kept));
        assert_eq!(errors, 1);

        let key = ObjectKey {
            namespace: "ferrolb-system".into(),
            name: "lan".into(),
        };
        let garbage = |error: &str| {
            Change::Pool(Event::Invalid {
                key: key.clone(),
                error: error.to_owned(),
            })
        };
        assert!(configuration.change(garbage("no spec")));
        assert!(!configuration.change(garbage("no spec")), "the same again");
        let (kept, errors) = configuration.read(false);
        assert!(Arc::ptr_eq(&good, &kept), "what cannot be read stays as it was");
        assert_eq!(errors, 1);

        assert!(configuration.change(Change::Pool(Event::Gone(key.clone()))));
        assert!(!configuration.change(Change::Pool(Event::Gone(key))));
        let (empty, errors) = configuration.read(false);
        assert_eq!((empty.pools.len(), errors), (0, 0));
    }
}
