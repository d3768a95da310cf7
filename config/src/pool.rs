//! An IPAddressPool, parsed on its own; what it means beside other pools is `parse`'s part.

use std::collections::BTreeMap;

use ferrolb_api::IpAddressPool;
use ferrolb_model::{IpRange, Labels, Pool, ServiceAllocation};
use kube::ResourceExt as _;

use crate::error::Problem;
use crate::selector;

/// The pool, or all that is wrong with it. `namespaces` are the labels of every namespace, for `namespaceSelectors`.
pub(crate) fn pool(object: &IpAddressPool, namespaces: &BTreeMap<String, Labels>) -> Result<Pool, Vec<Problem>> {
    let mut problems = Vec::new();
    let ranges = ranges(&object.spec.addresses, &mut problems);
    let allocation = object
        .spec
        .service_allocation
        .as_ref()
        .map(|a| allocation(a, namespaces, &mut problems));
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Pool {
        name: object.name_any(),
        labels: object.labels().clone(),
        ranges,
        auto_assign: object.spec.auto_assign,
        avoid_buggy_ips: object.spec.avoid_buggy_ips,
        allocation,
    })
}

fn ranges(addresses: &[String], problems: &mut Vec<Problem>) -> Vec<IpRange> {
    if addresses.is_empty() {
        problems.push(Problem::new(
            "spec.addresses",
            "the list is empty; write at least one prefix or range",
        ));
    }
    let mut ranges = Vec::<IpRange>::with_capacity(addresses.len());
    for (index, text) in addresses.iter().enumerate() {
        let field = format!("spec.addresses[{index}]");
        match text.parse::<IpRange>() {
            Err(error) => problems.push(Problem::new(field, error)),
            Ok(range) => match ranges.iter().position(|other| other.overlaps(&range)) {
                Some(other) => problems.push(Problem::new(
                    field,
                    format!(
                        "{text:?} overlaps {:?} of the same pool; remove one of them",
                        addresses[other]
                    ),
                )),
                None => ranges.push(range),
            },
        }
    }
    ranges
}

fn allocation(
    wire: &ferrolb_api::ServiceAllocation,
    all_namespaces: &BTreeMap<String, Labels>,
    problems: &mut Vec<Problem>,
) -> ServiceAllocation {
    let path = |field| format!("spec.serviceAllocation.{field}");
    let named = selector::names(&wire.namespaces, &path("namespaces"), problems);
    let selectors = selector::list(&wire.namespace_selectors, &path("namespaceSelectors"), problems);
    let service_selectors = selector::list(&wire.service_selectors, &path("serviceSelectors"), problems);
    let namespaces = (!named.is_empty() || !selectors.is_empty()).then(|| {
        let selected = all_namespaces
            .iter()
            .filter(|(_, labels)| selectors.iter().any(|s| s.matches(labels)));
        named
            .into_iter()
            .chain(selected.map(|(name, _)| name.clone()))
            .collect()
    });
    ServiceAllocation {
        priority: wire.priority,
        namespaces,
        service_selectors,
    }
}
