//! `L2Advertisement`.

use ferrolb_model::{L2Advertisement, PoolSelection, PreferredNode};

use crate::error::{ObjectError, Problem, Report};
use crate::selector::{once, selector, selectors};

pub(crate) const KIND: &str = "L2Advertisement";

/// One advertisement, or everything that is wrong with it.
pub(crate) fn l2_advertisement(object: &ferrolb_api::L2Advertisement) -> Result<L2Advertisement, Vec<ObjectError>> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let mut report = Report::new(KIND, &name);
    let spec = &object.spec;
    once(&mut report, "spec.ipAddressPools", spec.ip_address_pools.iter(), |n| {
        format!("{n:?}")
    });
    let pool_selectors = selectors(
        &mut report,
        "spec.ipAddressPoolSelectors",
        &spec.ip_address_pool_selectors,
    );
    let node_selectors = selectors(&mut report, "spec.nodeSelectors", &spec.node_selectors);
    let service_selectors = selectors(&mut report, "spec.serviceSelectors", &spec.service_selectors);
    let mut preferred_nodes = Vec::new();
    for (n, preferred) in spec.preferred_node_selectors.iter().enumerate() {
        let field = format!("spec.preferredNodeSelectors[{n}]");
        let weight = u32::try_from(preferred.weight).ok().filter(|w| (1..=100).contains(w));
        if weight.is_none() {
            let problem = Problem::Weight(preferred.weight);
            report.push(format!("{field}.weight"), preferred.weight.to_string(), problem);
        }
        let selector = selector(&mut report, &format!("{field}.preference"), &preferred.preference);
        preferred_nodes.extend(weight.map(|weight| PreferredNode { weight, selector }));
    }
    let pools = if spec.ip_address_pools.is_empty() && pool_selectors.is_empty() {
        PoolSelection::All
    } else {
        PoolSelection::Some {
            names: spec.ip_address_pools.iter().cloned().collect(),
            selectors: pool_selectors,
        }
    };
    report.finish(L2Advertisement {
        name,
        pools,
        node_selectors,
        service_selectors,
        interfaces: (!spec.interfaces.is_empty()).then(|| spec.interfaces.iter().cloned().collect()),
        preferred_nodes,
    })
}
