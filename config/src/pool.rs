//! `IPAddressPool`, by itself and next to older pools.

use std::collections::{BTreeMap, BTreeSet};

use ferrolb_api::names::annotations;
use ferrolb_api::{IpAddressPool, ServiceAllocation};
use ferrolb_model::{IpRange, LabelSelector, Labels, OnShrink, Pool};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{self as meta, ObjectMeta};

use crate::error::Report;
use crate::overlap::Ranges;
use crate::problem::Problem;
use crate::selector::{once, selectors};
use crate::settle::{Pass, Rules, Settled, settle};

/// Every range in force, with its pool and its place there.
pub(crate) type PoolRanges = Ranges<(String, usize)>;

/// All pools. Of two that overlap the newer is wrong.
pub(crate) fn pools(pass: &mut Pass<'_>, last: &BTreeMap<String, Pool>) -> Settled<Pool> {
    let namespaces = &pass.surroundings.namespaces;
    let rules = Rules {
        read: |object: &IpAddressPool, report: &mut Report| Some(pool(object, namespaces, report)),
        check: overlaps,
        accept: insert,
    };
    settle(pass, last, PoolRanges::new(), rules)
}

/// Takes note of the ranges of `pool`.
pub(crate) fn insert(ranges: &mut PoolRanges, pool: &Pool) {
    for (n, range) in pool.ranges.iter().enumerate() {
        ranges.insert(*range, (pool.name.clone(), n));
    }
}

fn overlaps(older: &PoolRanges, pool: &Pool, object: Option<&IpAddressPool>, report: &mut Report) {
    for (n, range) in pool.ranges.iter().enumerate() {
        let Some((other, (owner, _))) = older.overlapping(range).last() else {
            continue;
        };
        // A pool that was read has one range per item.
        let text = object
            .and_then(|o| o.spec.addresses.get(n))
            .cloned()
            .unwrap_or_default();
        let problem = Problem::OverlapWith {
            value: text.clone(),
            other: other.to_string(),
            pool: owner.clone(),
        };
        report.push(format!("spec.addresses[{n}]"), text, problem);
    }
}

fn pool(object: &IpAddressPool, namespaces: &BTreeMap<String, Labels>, report: &mut Report) -> Pool {
    let spec = &object.spec;
    if spec.addresses.is_empty() {
        let right = "write at least one prefix like 192.0.2.0/24 or range like 192.0.2.10-192.0.2.20";
        report.push("spec.addresses", "", Problem::Empty(right));
    }
    let allocation = spec.service_allocation.as_ref();
    Pool {
        name: object.metadata.name.clone().unwrap_or_default(),
        labels: object.metadata.labels.clone().unwrap_or_default().into(),
        ranges: ranges(report, "spec.addresses", &spec.addresses),
        auto_assign: spec.auto_assign,
        avoid_buggy_ips: spec.avoid_buggy_ips,
        allocation: allocation.map(|a| service_allocation(report, a, namespaces)),
        on_shrink: on_shrink(report, &object.metadata),
    }
}

fn on_shrink(report: &mut Report, metadata: &ObjectMeta) -> OnShrink {
    let given = metadata.annotations.as_ref();
    match given
        .and_then(|given| given.get(annotations::ON_SHRINK))
        .map(String::as_str)
    {
        None => OnShrink::Keep,
        Some(annotations::ON_SHRINK_REASSIGN) => OnShrink::Reassign,
        Some(other) => {
            let problem = Problem::Word {
                value: other.to_owned(),
                right: "write reassign, or remove the annotation so that holders keep their addresses",
            };
            report.push(
                format!("metadata.annotations[{}]", annotations::ON_SHRINK),
                other,
                problem,
            );
            OnShrink::Keep
        }
    }
}

/// A list of prefixes and ranges, each address in one of them at most.
pub(crate) fn ranges(report: &mut Report, field: &str, items: &[String]) -> Vec<IpRange> {
    let mut seen = Ranges::<usize>::new();
    let mut parsed = Vec::new();
    for (n, text) in items.iter().enumerate() {
        let field_n = format!("{field}[{n}]");
        let Some(range) = report.take(&*field_n, text, text.parse::<IpRange>()) else {
            continue;
        };
        if let Some((_, other)) = seen.overlapping(&range).last() {
            let problem = Problem::OverlapWithin {
                value: text.clone(),
                other: items[*other].clone(),
                other_field: format!("{field}[{other}]"),
            };
            report.push(field_n, text, problem);
        }
        seen.insert(range, n);
        parsed.push(range);
    }
    parsed
}

fn service_allocation(
    report: &mut Report,
    object: &ServiceAllocation,
    namespaces: &BTreeMap<String, Labels>,
) -> ferrolb_model::ServiceAllocation {
    let field = "spec.serviceAllocation";
    let by_namespace = selected_namespaces(
        report,
        field,
        &object.namespaces,
        &object.namespace_selectors,
        namespaces,
    );
    let restricted = !object.namespaces.is_empty() || !object.namespace_selectors.is_empty();
    ferrolb_model::ServiceAllocation {
        priority: object.priority,
        namespaces: restricted.then_some(by_namespace),
        service_selectors: selectors(report, &format!("{field}.serviceSelectors"), &object.service_selectors),
    }
}

/// The namespaces that are named, and those that the selectors match now.
pub(crate) fn selected_namespaces(
    report: &mut Report,
    field: &str,
    names: &[String],
    by_label: &[meta::LabelSelector],
    namespaces: &BTreeMap<String, Labels>,
) -> BTreeSet<String> {
    once(report, &format!("{field}.namespaces"), names.iter(), |n| {
        format!("{n:?}")
    });
    let by_label = selectors(report, &format!("{field}.namespaceSelectors"), by_label);
    let matches = |labels: &Labels| by_label.iter().any(|s: &LabelSelector| s.matches(labels));
    let matching = namespaces.iter().filter(|(_, labels)| matches(labels));
    names.iter().chain(matching.map(|(name, _)| name)).cloned().collect()
}
