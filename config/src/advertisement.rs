//! An L2Advertisement, parsed.

use ferrolb_api::L2Advertisement as Wire;
use ferrolb_model::{L2Advertisement, PoolSelection, PreferredNode};
use kube::ResourceExt as _;

use crate::error::Problem;
use crate::selector;

/// The advertisement, or all that is wrong with it.
pub(crate) fn l2_advertisement(object: &Wire) -> Result<L2Advertisement, Vec<Problem>> {
    let mut problems = Vec::new();
    let spec = &object.spec;
    let names = selector::names(&spec.ip_address_pools, "spec.ipAddressPools", &mut problems);
    let selectors = selector::list(
        &spec.ip_address_pool_selectors,
        "spec.ipAddressPoolSelectors",
        &mut problems,
    );
    let pools = match names.is_empty() && selectors.is_empty() {
        true => PoolSelection::All,
        false => PoolSelection::Some { names, selectors },
    };
    let node_selectors = selector::list(&spec.node_selectors, "spec.nodeSelectors", &mut problems);
    let service_selectors = selector::list(&spec.service_selectors, "spec.serviceSelectors", &mut problems);
    let interfaces = (!spec.interfaces.is_empty()).then(|| spec.interfaces.iter().cloned().collect());
    let mut preferred_nodes = Vec::with_capacity(spec.preferred_node_selectors.len());
    for (index, wire) in spec.preferred_node_selectors.iter().enumerate() {
        let field = format!("spec.preferredNodeSelectors[{index}]");
        let selector = selector::one(&wire.preference, &format!("{field}.preference"), &mut problems);
        match u32::try_from(wire.weight) {
            Ok(weight @ 1..=100) => preferred_nodes.push(PreferredNode { weight, selector }),
            _ => problems.push(Problem::new(
                format!("{field}.weight"),
                format!("{} is not a weight; write 1 to 100", wire.weight),
            )),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(L2Advertisement {
        name: object.name_any(),
        pools,
        node_selectors,
        service_selectors,
        interfaces,
        preferred_nodes,
    })
}
