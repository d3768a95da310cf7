//! Label selectors, checked: operators and values as Kubernetes defines them, and no duplicates, which are always a
//! slip of the pen.

use std::collections::BTreeSet;

use ferrolb_model::{LabelSelector, Operator, Requirement};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as Wire, LabelSelectorRequirement};

use crate::error::Problem;

/// A list of selectors; problems go to `problems` under `field`.
pub(crate) fn list(wire: &[Wire], field: &str, problems: &mut Vec<Problem>) -> Vec<LabelSelector> {
    let mut selectors = Vec::<LabelSelector>::with_capacity(wire.len());
    for (index, item) in wire.iter().enumerate() {
        let here = format!("{field}[{index}]");
        let selector = one(item, &here, problems);
        if selectors.contains(&selector) {
            problems.push(Problem::new(
                &here,
                "the same selector stands in the list twice; remove one",
            ));
        }
        selectors.push(selector);
    }
    selectors
}

/// One selector.
pub(crate) fn one(wire: &Wire, field: &str, problems: &mut Vec<Problem>) -> LabelSelector {
    let labels = wire.match_labels.iter().flatten().map(|(key, value)| Requirement {
        key: key.clone(),
        operator: Operator::In(BTreeSet::from([value.clone()])),
    });
    let mut requirements = labels.collect::<Vec<_>>();
    let mut expressions = Vec::new();
    for (index, item) in wire.match_expressions.iter().flatten().enumerate() {
        let here = format!("{field}.matchExpressions[{index}]");
        match expression(item) {
            Ok(requirement) if expressions.contains(&requirement) => {
                problems.push(Problem::new(
                    here,
                    "the same expression stands in the selector twice; remove one",
                ));
            }
            Ok(requirement) => expressions.push(requirement),
            Err(message) => problems.push(Problem::new(here, message)),
        }
    }
    requirements.append(&mut expressions);
    LabelSelector { requirements }
}

fn expression(wire: &LabelSelectorRequirement) -> Result<Requirement, String> {
    let list = wire.values.as_deref().unwrap_or_default();
    let values = list.iter().cloned().collect::<BTreeSet<_>>();
    if values.len() < list.len() {
        return Err(format!("values {list:?} has one of them twice; remove one"));
    }
    let operator = match (wire.operator.as_str(), values.is_empty()) {
        ("In", false) => Operator::In(values),
        ("NotIn", false) => Operator::NotIn(values),
        ("Exists", true) => Operator::Exists,
        ("DoesNotExist", true) => Operator::DoesNotExist,
        (operator @ ("In" | "NotIn"), true) => return Err(format!("operator {operator:?} needs at least one value")),
        (operator @ ("Exists" | "DoesNotExist"), false) => {
            return Err(format!("operator {operator:?} takes no values, got {list:?}"));
        }
        (operator, _) => {
            return Err(format!(
                "operator {operator:?} is none of In, NotIn, Exists, DoesNotExist"
            ));
        }
    };
    Ok(Requirement {
        key: wire.key.clone(),
        operator,
    })
}

/// Names in a list, each at most once.
pub(crate) fn names(list: &[String], field: &str, problems: &mut Vec<Problem>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, name) in list.iter().enumerate() {
        if !names.insert(name.clone()) {
            problems.push(Problem::new(
                format!("{field}[{index}]"),
                format!("{name:?} stands in the list twice; remove one"),
            ));
        }
    }
    names
}
