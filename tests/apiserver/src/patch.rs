//! Changes to JSON values: merge patches and applied fields.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// A JSON merge patch (RFC 7396).
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// A field, by the keys that lead to it.
pub(crate) type FieldPath = Vec<String>;

/// The leaves of what somebody applies. A list is one leaf.
pub(crate) fn leaves(value: &Value) -> BTreeSet<FieldPath> {
    fn walk(value: &Value, path: &mut FieldPath, found: &mut BTreeSet<FieldPath>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (key, value) in fields {
                    path.push(key.clone());
                    walk(value, path, found);
                    path.pop();
                }
            }
            _ => {
                found.insert(path.clone());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(value, &mut Vec::new(), &mut found);
    found
}

/// Takes a field away, and what is empty without it.
pub(crate) fn remove(value: &mut Value, path: &[String]) {
    let (Value::Object(fields), Some((key, rest))) = (value, path.split_first()) else {
        return;
    };
    if rest.is_empty() {
        fields.remove(key);
    } else if let Some(inner) = fields.get_mut(key) {
        remove(inner, rest);
        if inner.as_object().is_some_and(Map::is_empty) {
            fields.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patches() {
        // The examples of RFC 7396, appendix A, that differ in kind.
        for (mut target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
        ] {
            let text = format!("{target} <- {patch}");
            merge(&mut target, &patch);
            assert_eq!(target, result, "{text}");
        }
    }

    #[test]
    fn fields_come_and_go() {
        let mut value = json!({"a": {"b": 1, "c": [1]}, "d": {"e": {"f": 1}}});
        let paths = leaves(&value);
        assert_eq!(paths.len(), 3);
        remove(&mut value, &["d".into(), "e".into(), "f".into()]);
        assert_eq!(value, json!({"a": {"b": 1, "c": [1]}}));
        remove(&mut value, &["a".into(), "c".into()]);
        remove(&mut value, &["x".into(), "y".into()]);
        assert_eq!(value, json!({"a": {"b": 1}}));
    }
}
