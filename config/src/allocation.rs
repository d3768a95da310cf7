//! `AllocationPolicy`.

use std::collections::BTreeMap;

use ferrolb_model::{AllocationPolicy, Labels, Pool};

use crate::error::{ObjectError, Outcome, Report};
use crate::objects::Kind;
use crate::pool::{ranges, selected_namespaces};
use crate::problem::Problem;
use crate::selector::once;

/// One policy, with its namespaces resolved.
pub(crate) fn policy(
    object: &ferrolb_api::AllocationPolicy,
    namespaces: &BTreeMap<String, Labels>,
    report: &mut Report,
) -> AllocationPolicy {
    let spec = &object.spec;
    let limited = selected_namespaces(report, "spec", &spec.namespaces, &spec.namespace_selectors, namespaces);
    let everybody = spec.namespaces.is_empty() && spec.namespace_selectors.is_empty();
    once(report, "spec.pools", spec.pools.iter().flatten(), |p| format!("{p:?}"));
    let requestable = spec.requestable_addresses.as_ref();
    let sharing = spec.sharing.as_ref();
    AllocationPolicy {
        name: object.metadata.name.clone().unwrap_or_default(),
        namespaces: (!everybody).then_some(limited),
        pools: spec.pools.as_ref().map(|pools| pools.iter().cloned().collect()),
        max_addresses: spec.max_addresses,
        requestable: requestable.map(|items| ranges(report, "spec.requestableAddresses", items)),
        share_with: sharing.map(|limit| {
            let (names, by_label) = (&limit.namespaces, &limit.namespace_selectors);
            selected_namespaces(report, "spec.sharing", names, by_label, namespaces)
        }),
    }
}

/// Pools that a policy in force names and that are not there.
pub(crate) fn warn(policy: &AllocationPolicy, pools: &BTreeMap<String, Pool>) -> Vec<ObjectError> {
    let mut report = Report::new(Kind::AllocationPolicy, &policy.name);
    let named = policy.pools.iter().flatten();
    for name in named.filter(|name| !pools.contains_key(*name)) {
        let kind = Kind::Pool.name();
        report.push(
            "spec.pools",
            name,
            Problem::Missing {
                kind,
                name: name.clone(),
            },
        );
    }
    report.into_errors(Outcome::InForce).collect()
}
