//! Label selectors: checked as the API server checks them, and for repetitions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use ferrolb_model::{LabelSelector, Operator, Requirement};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{self as meta, LabelSelectorRequirement};

use crate::error::Report;
use crate::problem::Problem;

/// A list of selectors of which any may match. The same selector twice is a mistake.
pub(crate) fn selectors(report: &mut Report, field: &str, list: &[meta::LabelSelector]) -> Vec<LabelSelector> {
    let parsed = list
        .iter()
        .enumerate()
        .map(|(n, s)| selector(report, &format!("{field}[{n}]"), s))
        .collect::<Vec<_>>();
    // Order means nothing inside a selector.
    let sorted = parsed.iter().map(|s| {
        let mut requirements = s.requirements.clone();
        requirements.sort_unstable();
        requirements
    });
    once(report, field, sorted, |_| "the same selector".to_owned());
    parsed
}

/// One selector.
pub(crate) fn selector(report: &mut Report, field: &str, selector: &meta::LabelSelector) -> LabelSelector {
    let mut requirements = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        check_key(report, &format!("{field}.matchLabels"), key);
        check_value(report, &format!("{field}.matchLabels[{key}]"), value);
        requirements.push(Requirement {
            key: key.clone(),
            operator: Operator::In(BTreeSet::from([value.clone()])),
        });
    }
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    let parsed = expressions
        .iter()
        .enumerate()
        .filter_map(|(n, e)| requirement(report, &format!("{field}.matchExpressions[{n}]"), e))
        .collect::<Vec<_>>();
    once(report, &format!("{field}.matchExpressions"), parsed.iter(), |_| {
        "the same expression".to_owned()
    });
    requirements.extend(parsed);
    LabelSelector { requirements }
}

fn requirement(report: &mut Report, field: &str, expression: &LabelSelectorRequirement) -> Option<Requirement> {
    check_key(report, &format!("{field}.key"), &expression.key);
    let values = expression.values.as_deref().unwrap_or_default();
    let values_field = format!("{field}.values");
    once(report, &values_field, values.iter(), |v| format!("{v:?}"));
    for (n, value) in values.iter().enumerate() {
        check_value(report, &format!("{values_field}[{n}]"), value);
    }
    let set = || values.iter().cloned().collect::<BTreeSet<_>>();
    let (name, operator) = match expression.operator.as_str() {
        "In" => ("In", Operator::In(set())),
        "NotIn" => ("NotIn", Operator::NotIn(set())),
        "Exists" => ("Exists", Operator::Exists),
        "DoesNotExist" => ("DoesNotExist", Operator::DoesNotExist),
        other => {
            let problem = Problem::Operator(other.to_owned());
            report.push(format!("{field}.operator"), other, problem);
            return None;
        }
    };
    match (&operator, values.is_empty()) {
        (Operator::In(_) | Operator::NotIn(_), true) => {
            report.push(values_field, "", Problem::ValuesMissing(name));
        }
        (Operator::Exists | Operator::DoesNotExist, false) => {
            report.push(values_field, values.join(", "), Problem::ValuesNotAllowed(name));
        }
        _ => {}
    }
    Some(Requirement {
        key: expression.key.clone(),
        operator,
    })
}

/// Reports every item that stands in the list before.
pub(crate) fn once<T: Ord + Debug>(
    report: &mut Report,
    field: &str,
    items: impl Iterator<Item = T>,
    show: impl Fn(&T) -> String,
) {
    let mut seen = BTreeMap::new();
    for (n, item) in items.enumerate() {
        let value = show(&item);
        if let Some(first) = seen.get(&item) {
            let problem = Problem::Duplicate {
                value: value.clone(),
                other_field: format!("{field}[{first}]"),
            };
            report.push(format!("{field}[{n}]"), value, problem);
        } else {
            seen.insert(item, n);
        }
    }
}

/// Reports a text that is no label key.
pub(crate) fn check_key(report: &mut Report, field: &str, key: &str) {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    let prefix_good = prefix.is_none_or(|p| {
        let label = |l: &str| {
            let inner = l
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            !l.is_empty() && inner && !l.starts_with('-') && !l.ends_with('-')
        };
        p.len() <= 253 && p.split('.').all(label)
    });
    if !prefix_good || name.is_empty() || !is_label_text(name) {
        report.push(field, key, Problem::LabelKey(key.to_owned()));
    }
}

fn check_value(report: &mut Report, field: &str, value: &str) {
    if !is_label_text(value) {
        report.push(field, value, Problem::LabelValue(value.to_owned()));
    }
}

/// Empty, or up to 63 of the characters that labels are made of.
fn is_label_text(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && edge(text.chars().next())
        && edge(text.chars().next_back())
}
