//! `IPAddressPool`.

use std::collections::{BTreeMap, BTreeSet};

use ferrolb_api::{IpAddressPool, ServiceAllocation};
use ferrolb_model::{IpRange, LabelSelector, Labels, OnShrink, Pool};

use crate::error::{ObjectError, Problem, Report};
use crate::selector::{once, selectors};

pub(crate) const KIND: &str = "IPAddressPool";

/// One pool by itself, or everything that is wrong with it.
pub(crate) fn pool(object: &IpAddressPool, namespaces: &BTreeMap<String, Labels>) -> Result<Pool, Vec<ObjectError>> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let mut report = Report::new(KIND, &name);
    let ranges = ranges(&mut report, &object.spec.addresses);
    let allocation = object.spec.service_allocation.as_ref();
    let allocation = allocation.map(|a| service_allocation(&mut report, a, namespaces));
    report.finish(Pool {
        name,
        labels: object.metadata.labels.clone().unwrap_or_default(),
        ranges,
        auto_assign: object.spec.auto_assign,
        avoid_buggy_ips: object.spec.avoid_buggy_ips,
        allocation,
        on_shrink: OnShrink::default(),
    })
}

fn ranges(report: &mut Report, addresses: &[String]) -> Vec<IpRange> {
    if addresses.is_empty() {
        let right = "write at least one prefix like 192.0.2.0/24 or range like 192.0.2.10-192.0.2.20";
        report.push("spec.addresses", "", Problem::Empty(right));
    }
    let mut ranges = Vec::<(usize, IpRange)>::new();
    for (n, text) in addresses.iter().enumerate() {
        let field = format!("spec.addresses[{n}]");
        let range = match text.parse::<IpRange>() {
            Ok(range) => range,
            Err(error) => {
                report.push(field, text, Problem::Range(error));
                continue;
            }
        };
        if let Some((other, _)) = ranges.iter().find(|(_, r)| r.overlaps(&range)) {
            let problem = Problem::OverlapWithin {
                value: text.clone(),
                other: addresses[*other].clone(),
                other_field: format!("spec.addresses[{other}]"),
            };
            report.push(field, text, problem);
        }
        ranges.push((n, range));
    }
    ranges.into_iter().map(|(_, r)| r).collect()
}

fn service_allocation(
    report: &mut Report,
    object: &ServiceAllocation,
    namespaces: &BTreeMap<String, Labels>,
) -> ferrolb_model::ServiceAllocation {
    let field = "spec.serviceAllocation";
    once(report, &format!("{field}.namespaces"), object.namespaces.iter(), |n| {
        format!("{n:?}")
    });
    let by_label = selectors(
        report,
        &format!("{field}.namespaceSelectors"),
        &object.namespace_selectors,
    );
    let service_selectors = selectors(report, &format!("{field}.serviceSelectors"), &object.service_selectors);
    let selected = |labels: &Labels| by_label.iter().any(|s: &LabelSelector| s.matches(labels));
    let restricted = !object.namespaces.is_empty() || !by_label.is_empty();
    ferrolb_model::ServiceAllocation {
        priority: object.priority,
        namespaces: restricted.then(|| {
            let matching = namespaces
                .iter()
                .filter(|(_, labels)| selected(labels))
                .map(|(name, _)| name);
            object
                .namespaces
                .iter()
                .chain(matching)
                .cloned()
                .collect::<BTreeSet<_>>()
        }),
        service_selectors,
    }
}
