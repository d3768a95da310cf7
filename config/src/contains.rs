//! Pools that have addresses of the cluster itself. They are in force all the same, as users of the API expect; it is
//! only said.

use std::collections::BTreeMap;

use ferrolb_api::IpAddressPool;
use ferrolb_model::{IpRange, Pool};

use crate::error::{ObjectError, Outcome, Report};
use crate::objects::{Configures, Kind, ObjectRef, Snapshot};
use crate::overlap::Ranges;
use crate::pool::insert;
use crate::problem::Problem;
use crate::surroundings::Surroundings;

/// What a pool should not contain, in the order in which it is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Nodes,
    Pods,
    Services,
}

/// One warning for each range and use, with one example: the lowest range, the first name.
/// The texts are from the objects that the pools were read from.
pub(crate) fn warn(
    pools: &BTreeMap<String, Pool>,
    sources: &Snapshot,
    surroundings: &Surroundings,
) -> Vec<ObjectError> {
    let mut ranges = Ranges::new();
    pools.values().for_each(|pool| insert(&mut ranges, pool));
    let mut examples = BTreeMap::<_, (IpRange, &str)>::new();
    for (range, used, by) in in_use(surroundings) {
        for (_, (pool, n)) in ranges.overlapping(&range) {
            let example = examples.entry((pool, *n, used)).or_insert((range, by));
            *example = (*example).min((range, by));
        }
    }
    let mut warnings = Vec::new();
    for ((pool, n, used), (range, by)) in examples {
        let mut report = Report::new(Kind::Pool, pool);
        let source = sources
            .get(&ObjectRef::new(Kind::Pool, pool))
            .and_then(IpAddressPool::of);
        let value = source
            .and_then(|o| o.spec.addresses.get(n))
            .cloned()
            .unwrap_or_default();
        let what = match used {
            Use::Nodes => format!("{}, an address of Node {by:?}", range.first()),
            Use::Pods => format!("addresses of {range}, which Node {by:?} gives to its pods"),
            Use::Services => format!("addresses of {range}, which ServiceCIDR {by:?} gives to Services as cluster IPs"),
        };
        report.push(
            format!("spec.addresses[{n}]"),
            &*value,
            Problem::Contains {
                value: value.clone(),
                what,
            },
        );
        warnings.extend(report.into_errors(Outcome::InForce));
    }
    warnings
}

fn in_use(surroundings: &Surroundings) -> impl Iterator<Item = (IpRange, Use, &str)> {
    let nodes = surroundings.nodes.iter().flat_map(|(name, node)| {
        let addresses = node.addresses.iter().map(|a| (IpRange::single(*a), Use::Nodes));
        let pods = node.pod_cidrs.iter().map(|range| (*range, Use::Pods));
        addresses.chain(pods).map(move |(range, used)| (range, used, &**name))
    });
    let services = surroundings.service_cidrs.iter();
    nodes.chain(services.flat_map(|(name, ranges)| ranges.iter().map(move |r| (*r, Use::Services, &**name))))
}
