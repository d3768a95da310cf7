//! Services by the labels whose values keep their addresses apart, so that nobody looks at every Service for every address.

use std::collections::{BTreeMap, BTreeSet};

use ferrolb_model::{AntiAffinity, Config, ServiceId, ServiceView};

/// Those with the same value of a label, for each label that a policy names.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    by_label: BTreeMap<String, BTreeMap<String, BTreeSet<ServiceId>>>,
}

impl Groups {
    /// Goes by the labels that the policies of `config` name; what is known of `services` is found again where those change.
    pub(crate) fn set_config<'a>(&mut self, config: &Config, services: impl Iterator<Item = &'a ServiceView>) {
        let policies = config.announcement_policies.values();
        let labels = policies.filter_map(|policy| match &policy.layer2.anti_affinity {
            Some(AntiAffinity::Label(key)) => Some(key),
            _ => None,
        });
        let labels = labels.collect::<BTreeSet<_>>();
        if labels.iter().copied().eq(self.by_label.keys()) {
            return;
        }
        self.by_label = labels.into_iter().map(|key| (key.clone(), BTreeMap::new())).collect();
        for view in services {
            self.insert(view);
        }
    }

    /// A Service is there.
    pub(crate) fn insert(&mut self, view: &ServiceView) {
        for (key, groups) in &mut self.by_label {
            if let Some(value) = view.labels.get(key) {
                groups.entry(value.to_owned()).or_default().insert(view.id.clone());
            }
        }
    }

    /// A Service is gone, or not as it was.
    pub(crate) fn remove(&mut self, view: &ServiceView) {
        for (key, groups) in &mut self.by_label {
            let Some(value) = view.labels.get(key) else { continue };
            if let Some(group) = groups.get_mut(value) {
                group.remove(&view.id);
                if group.is_empty() {
                    groups.remove(value);
                }
            }
        }
    }

    /// The Services whose label `key` has this value.
    pub(crate) fn of(&self, key: &str, value: &str) -> impl Iterator<Item = &ServiceId> {
        let group = self.by_label.get(key).and_then(|groups| groups.get(value));
        group.into_iter().flatten()
    }
}
