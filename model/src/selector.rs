//! Label selectors with the meaning of `metav1.LabelSelector`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The labels of an object, or its annotations. They are kept for each of thousands of objects and by several that decide: a
/// map of two entries would take six times the memory, and a copy here takes none.
#[derive(Clone, PartialEq, Eq)]
pub struct Labels(Arc<[(Box<str>, Box<str>)]>);

impl Labels {
    /// None.
    pub fn new() -> Self {
        Labels(Arc::from([]))
    }

    /// The value of the label `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// Whether there is a label `key`.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Sets the label `key`.
    pub fn insert(&mut self, key: String, value: String) {
        let kept = self.iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        *self = kept.chain([(key, value)]).collect();
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl Default for Labels {
    fn default() -> Self {
        Labels::new()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(map: BTreeMap<String, String>) -> Self {
        // In order, and each key once.
        Labels(map.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl<const N: usize> From<[(String, String); N]> for Labels {
    fn from(pairs: [(String, String); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        pairs.into_iter().collect::<BTreeMap<_, _>>().into()
    }
}

/// All requirements must hold; none at all matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelSelector {
    /// `matchLabels` and `matchExpressions` alike, in the order they were written.
    pub requirements: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What is asked of it.
    pub operator: Operator,
}

/// What a [`Requirement`] asks of its label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// Present, with one of these values.
    In(BTreeSet<String>),
    /// Absent, or present with none of these values.
    NotIn(BTreeSet<String>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether `labels` meet every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| {
            let value = labels.get(&r.key);
            match &r.operator {
                Operator::In(values) => value.is_some_and(|v| values.contains(v)),
                Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }

    /// Whether any of `selectors` matches; an empty list matches everything, as everywhere in the API.
    pub fn any_or_all(selectors: &[LabelSelector], labels: &Labels) -> bool {
        selectors.is_empty() || selectors.iter().any(|s| s.matches(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_a_map() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut labels = Labels::from([pair("b", "1"), pair("a", "2"), pair("b", "3")]);
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "3")]);
        assert_eq!((labels.get("b"), labels.get("c")), (Some("3"), None));
        let before = labels.clone();
        labels.insert("a".to_owned(), "4".to_owned());
        labels.insert("c".to_owned(), String::new());
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "4"), ("b", "3"), ("c", "")]);
        assert_eq!((before.get("a"), before.contains_key("c")), (Some("2"), false));
        assert_eq!(format!("{before:?}"), r#"{"a": "2", "b": "3"}"#);
    }

    #[test]
    fn operators_mean_what_kubernetes_means() {
        let set = |v: &[&str]| v.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
        let with = |value: Option<&str>| {
            value
                .map(|v| ("k".to_owned(), v.to_owned()))
                .into_iter()
                .collect::<Labels>()
        };
        for (operator, a, b, none) in [
            (Operator::In(set(&["a"])), true, false, false),
            (Operator::NotIn(set(&["a"])), false, true, true),
            (Operator::Exists, true, true, false),
            (Operator::DoesNotExist, false, false, true),
        ] {
            let selector = LabelSelector {
                requirements: vec![Requirement {
                    key: "k".into(),
                    operator,
                }],
            };
            assert_eq!(
                [Some("a"), Some("b"), None].map(|v| selector.matches(&with(v))),
                [a, b, none],
                "{selector:?}"
            );
        }
        assert!(LabelSelector::default().matches(&Labels::new()));
    }
}
