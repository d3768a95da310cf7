//! Selectors of lists and watches.

use serde_json::Value;

use crate::refusal::Refusal;

/// What a field selector may name: what every kind has, and the type of Services and of Secrets.
const FIELDS: [&str; 4] = ["metadata.name", "metadata.namespace", "spec.type", "type"];

/// Which objects somebody wants to see.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    namespace: String,
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
}

impl Selection {
    /// Those of `namespace` (empty: all) that both selectors admit.
    pub(crate) fn new(namespace: &str, labels: &str, fields: &str) -> Result<Self, Refusal> {
        let labels = requirements(labels)?;
        let fields = requirements(fields)?;
        for requirement in &fields {
            let (Requirement::In(field, _)
            | Requirement::NotIn(field, _)
            | Requirement::Exists(field)
            | Requirement::DoesNotExist(field)) = requirement;
            if !FIELDS.contains(&field.as_str()) {
                return Err(Refusal::bad_request(format!("field label not supported: {field}")));
            }
        }
        Ok(Selection {
            namespace: namespace.to_owned(),
            labels,
            fields,
        })
    }

    /// Whether there is any selector.
    pub(crate) fn selects(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    /// Whether it wants `object`.
    pub(crate) fn admits(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let field = |path: &str| path.split('.').fold(object, |at, step| &at[step]).as_str();
        (self.namespace.is_empty() || metadata["namespace"] == self.namespace.as_str())
            && self
                .labels
                .iter()
                .all(|r| r.holds(|key| metadata["labels"][key].as_str()))
            && self
                .fields
                .iter()
                .all(|r| r.holds(|path| Some(field(path).unwrap_or_default())))
    }
}

impl Requirement {
    fn holds<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        let among = |values: &[String], key| value(key).is_some_and(|v| values.iter().any(|one| one == v));
        match self {
            Requirement::In(key, values) => among(values, key),
            Requirement::NotIn(key, values) => !among(values, key),
            Requirement::Exists(key) => value(key).is_some(),
            Requirement::DoesNotExist(key) => value(key).is_none(),
        }
    }
}

/// `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
fn requirements(text: &str) -> Result<Vec<Requirement>, Refusal> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let depth_zero_comma = rest
            .char_indices()
            .scan(0_i32, |depth, (at, c)| {
                *depth += i32::from(c == '(') - i32::from(c == ')');
                Some((at, c, *depth))
            })
            .find(|(_, c, depth)| *c == ',' && *depth == 0)
            .map(|(at, _, _)| at);
        let (item, next) = depth_zero_comma.map_or((rest, ""), |at| (&rest[..at], &rest[at + 1..]));
        found.push(
            requirement(item.trim())
                .ok_or_else(|| Refusal::bad_request(format!("unable to parse requirement: {item:?}")))?,
        );
        rest = next.trim();
    }
    Ok(found)
}

fn requirement(text: &str) -> Option<Requirement> {
    let owned = |text: &str| text.trim().to_owned();
    if let Some((key, value)) = text.split_once("!=") {
        return Some(Requirement::NotIn(owned(key), vec![owned(value)]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Some(Requirement::In(owned(key), vec![owned(value)]));
    }
    if let Some((head, values)) = text.split_once('(') {
        let values = values.strip_suffix(')')?.split(',').map(owned).collect();
        let (key, operator) = head.trim().rsplit_once(' ')?;
        return match operator {
            "in" => Some(Requirement::In(owned(key), values)),
            "notin" => Some(Requirement::NotIn(owned(key), values)),
            _ => None,
        };
    }
    let (negated, key) = text.strip_prefix('!').map_or((false, text), |key| (true, key));
    if key.is_empty() || key.contains(char::is_whitespace) {
        return None;
    }
    let key = key.to_owned();
    Some(if negated {
        Requirement::DoesNotExist(key)
    } else {
        Requirement::Exists(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_selectors_admit() {
        let object = json!({"metadata": {"name": "web", "namespace": "shop", "labels": {"a": "b", "tier": "front"}}});
        for (labels, fields, admits) in [
            ("", "", true),
            ("a=b", "", true),
            ("a==c", "", false),
            ("a!=c,tier in (front, back)", "", true),
            ("a notin (b)", "", false),
            ("x notin (b)", "", true),
            ("a,!x", "", true),
            ("!a", "", false),
            ("", "metadata.name=web", true),
            ("", "metadata.name!=web", false),
            ("a=b", "metadata.name=web,metadata.namespace=shop", true),
            ("a=b", "metadata.namespace=other", false),
        ] {
            let selection = Selection::new("", labels, fields).unwrap();
            assert_eq!(selection.admits(&object), admits, "{labels} {fields}");
        }
        assert!(!Selection::new("other", "", "").unwrap().admits(&object));
        assert!(Selection::new("", "", "spec.nodeName=x").is_err());
        assert!(Selection::new("", "a like b", "").is_err());
    }
}
