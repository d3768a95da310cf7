//! `L2Advertisement`, and what advertisements and policies have in common.

use ferrolb_model::{L2Advertisement, PoolSelection, PreferredNode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::error::Report;
use crate::number::number;
use crate::selector::{once, selector, selectors};

/// One advertisement by itself.
pub(crate) fn l2_advertisement(object: &ferrolb_api::L2Advertisement, report: &mut Report) -> L2Advertisement {
    let spec = &object.spec;
    let mut preferred_nodes = Vec::new();
    let pools = pool_selection(report, &spec.ip_address_pools, &spec.ip_address_pool_selectors);
    let node_selectors = selectors(report, "spec.nodeSelectors", &spec.node_selectors);
    let service_selectors = selectors(report, "spec.serviceSelectors", &spec.service_selectors);
    for (n, preferred) in spec.preferred_node_selectors.iter().enumerate() {
        let field = format!("spec.preferredNodeSelectors[{n}]");
        let node = preferred_node(report, &field, preferred.weight, "preference", &preferred.preference);
        preferred_nodes.extend(node);
    }
    L2Advertisement {
        name: object.metadata.name.clone().unwrap_or_default(),
        pools,
        node_selectors,
        service_selectors,
        interfaces: (!spec.interfaces.is_empty()).then(|| spec.interfaces.iter().cloned().collect()),
        preferred_nodes,
    }
}

/// A weight and a selector; a weight outside 1 to 100 is reported.
pub(crate) fn preferred_node(
    report: &mut Report,
    field: &str,
    weight: i32,
    selector_field: &str,
    nodes: &LabelSelector,
) -> Option<PreferredNode> {
    let weight = number(report, format!("{field}.weight"), weight, 1..=100);
    let selector = selector(report, &format!("{field}.{selector_field}"), nodes);
    weight.map(|weight| PreferredNode { weight, selector })
}

/// `spec.ipAddressPools` and `spec.ipAddressPoolSelectors`.
pub(crate) fn pool_selection(report: &mut Report, names: &[String], by_label: &[LabelSelector]) -> PoolSelection {
    once(report, "spec.ipAddressPools", names.iter(), |n| format!("{n:?}"));
    let selectors = selectors(report, "spec.ipAddressPoolSelectors", by_label);
    if names.is_empty() && by_label.is_empty() {
        PoolSelection::All
    } else {
        PoolSelection::Some {
            names: names.iter().cloned().collect(),
            selectors,
        }
    }
}
