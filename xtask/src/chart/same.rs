//! Whether two sets of objects install the same.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

/// Labels and annotations by which Helm knows its own.
const OF_HELM: [&str; 5] = [
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
    "helm.sh/resource-policy",
];

/// Fails with the first places that differ.
pub(super) fn assert(what: &str, expected: &[Value], actual: &[Value]) -> Result<()> {
    let (expected, actual) = (by_name(expected)?, by_name(actual)?);
    let mut found = Vec::new();
    for name in expected.keys().filter(|name| !actual.contains_key(*name)) {
        found.push(format!("{name} is missing"));
    }
    for (name, object) in &actual {
        match expected.get(name) {
            None => found.push(format!("{name} is more than the manifest has")),
            Some(other) => differences(name, other, object, &mut found),
        }
    }
    if !found.is_empty() {
        found.truncate(20);
        bail!("{what} would not install the manifest:\n  {}", found.join("\n  "));
    }
    Ok(())
}

/// Objects by kind, namespace and name, without what is Helm's.
pub(super) fn by_name(documents: &[Value]) -> Result<BTreeMap<String, Value>> {
    let mut objects = BTreeMap::new();
    for document in documents {
        let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let metadata = &document["metadata"];
        let name = [&document["kind"], &metadata["namespace"], &metadata["name"]]
            .map(word)
            .join(" ");
        let mut object = document.clone();
        strip(&mut object);
        ensure!(objects.insert(name.clone(), object).is_none(), "{name} is there twice");
    }
    Ok(objects)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in OF_HELM {
                fields.remove(name);
            }
            fields.values_mut().for_each(strip);
            fields.retain(|_, value| !value.as_object().is_some_and(serde_json::Map::is_empty));
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

fn differences(at: &str, expected: &Value, actual: &Value, found: &mut Vec<String>) {
    match (expected, actual) {
        (Value::Object(one), Value::Object(other)) => {
            let mut names: Vec<&String> = one.keys().chain(other.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let at = format!("{at} {name}");
                differences(&at, &expected[name], &actual[name], found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                differences(&format!("{at}[{index}]"), one, other, found);
            }
        }
        // Some writers put a point into whole numbers.
        (Value::Number(one), Value::Number(other)) if one.as_f64() == other.as_f64() => {}
        (one, other) if one == other => {}
        (one, other) => found.push(format!("{at} is {other} instead of {one}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, replicas: u32, labels: &Value) -> Value {
        json!({
            "kind": "Deployment", "metadata": {"name": name, "labels": labels},
            "spec": {"replicas": replicas, "ports": [{"port": 1}]},
        })
    }

    #[test]
    fn what_is_helms_does_not_count() {
        let plain = object("a", 2, &json!({"app.kubernetes.io/name": "ferrolb"}));
        let helms = object(
            "a",
            2,
            &json!({"app.kubernetes.io/name": "ferrolb", "helm.sh/chart": "ferrolb-1"}),
        );
        assert("it", &[plain], &[helms]).unwrap();
        assert("it", &[object("a", 2, &json!({}))], &[object("a", 2, &Value::Null)]).unwrap();
        let other = object("a", 2, &json!({"app.kubernetes.io/name": "other"}));
        assert("it", &[object("a", 2, &json!({}))], &[other]).unwrap_err();
    }

    #[test]
    fn every_difference_is_named() {
        let says = |expected: &[Value], actual: &[Value], says: &str| {
            let error = assert("it", expected, actual).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        let one = object("a", 2, &json!({}));
        says(
            std::slice::from_ref(&one),
            &[object("a", 3, &json!({}))],
            "spec replicas is 3 instead of 2",
        );
        says(std::slice::from_ref(&one), &[], "Deployment - a is missing");
        says(&[], std::slice::from_ref(&one), "more than the manifest");
        says(&[one.clone(), one.clone()], &[], "twice");
        let mut more = one.clone();
        more["spec"]["ports"] = json!([{"port": 1}, {"port": 2}]);
        says(&[one], &[more], "spec ports");
    }
}
