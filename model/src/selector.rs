//! Label selectors with the meaning of `metav1.LabelSelector`.

use std::collections::{BTreeMap, BTreeSet};

/// The labels of an object.
pub type Labels = BTreeMap<String, String>;

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
