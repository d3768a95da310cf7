//! Objects from the YAML of their specs, and what becomes of them.

use std::collections::BTreeMap;

use ferrolb_config::{Configures, NodeFacts, Object, ObjectRef, Parsed, Snapshot, Surroundings, parse};
use ferrolb_model::Labels;
use serde::de::DeserializeOwned;

/// An object made on this day of January.
pub(crate) fn object<K: Configures + DeserializeOwned>(name: &str, day: u32, spec: &str) -> (ObjectRef, Object) {
    let meta = format!("name: {name}\n  creationTimestamp: 2026-01-{day:02}T00:00:00Z");
    with_metadata::<K>(name, &meta, spec)
}

pub(crate) fn with_metadata<K: Configures + DeserializeOwned>(
    name: &str,
    metadata: &str,
    spec: &str,
) -> (ObjectRef, Object) {
    // No spec at all is written by no text at all.
    let spec = match spec {
        "" => String::new(),
        spec => format!("spec:\n  {}\n", spec.replace('\n', "\n  ")),
    };
    let (version, kind) = (K::KIND.api_version(), K::KIND.name());
    let yaml = format!("apiVersion: {version}\nkind: {kind}\nmetadata:\n  {metadata}\n{spec}");
    let object = serde_saphyr::from_str::<K>(&yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"));
    (ObjectRef::new(K::KIND, name), object.into_object())
}

pub(crate) fn unreadable<K: Configures>(name: &str) -> (ObjectRef, Object) {
    let object = Object::Unreadable("invalid type: integer `7`".into());
    (ObjectRef::new(K::KIND, name), object)
}

pub(crate) fn addresses(list: &[&str]) -> String {
    let items = list.iter().map(|a| format!("\n- \"{a}\"")).collect::<String>();
    format!("addresses:{items}")
}

pub(crate) fn snapshot(objects: &[(ObjectRef, Object)]) -> Snapshot {
    objects.iter().cloned().collect()
}

/// Three namespaces with labels, and no node.
pub(crate) fn surroundings() -> Surroundings {
    let namespaces = [("red", "team", "a"), ("blue", "team", "b"), ("plain", "x", "y")];
    Surroundings {
        namespaces: namespaces.map(|(name, k, v)| (name.to_owned(), label(k, v))).into(),
        ..Surroundings::default()
    }
}

/// Nodes by name, with a label each: `zone`.
pub(crate) fn nodes(zones: &[(&str, &str)]) -> BTreeMap<String, NodeFacts> {
    let facts = |zone: &str| NodeFacts {
        labels: label("zone", zone),
        ..NodeFacts::default()
    };
    zones
        .iter()
        .map(|(name, zone)| ((*name).to_owned(), facts(zone)))
        .collect()
}

pub(crate) fn label(key: &str, value: &str) -> Labels {
    Labels::from([(key.to_owned(), value.to_owned())])
}

pub(crate) fn read(objects: &[(ObjectRef, Object)]) -> Parsed {
    read_after(objects, &Parsed::default())
}

pub(crate) fn read_after(objects: &[(ObjectRef, Object)], last: &Parsed) -> Parsed {
    parse(&snapshot(objects), &surroundings(), last)
}

pub(crate) fn messages(parsed: &Parsed) -> Vec<String> {
    parsed.errors.iter().map(ToString::to_string).collect()
}

/// The one mistake there is.
pub(crate) fn only_message(parsed: &Parsed) -> String {
    let [message] = &messages(parsed)[..] else {
        panic!("not one mistake: {:#?}", messages(parsed))
    };
    message.clone()
}

pub(crate) fn warnings(parsed: &Parsed) -> Vec<String> {
    parsed.warnings.iter().map(ToString::to_string).collect()
}
