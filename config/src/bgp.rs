//! `BGPAdvertisement`, by itself, against the pools, and next to older advertisements.

use std::collections::{BTreeMap, BTreeSet};

use ferrolb_api::BgpAdvertisement as Object;
use ferrolb_model::{BgpAdvertisement, Community, Family, Pool};

use crate::advertise::pool_selection;
use crate::community::resolve;
use crate::error::{Outcome, Report};
use crate::nodes::SelectedNodes;
use crate::number::number;
use crate::objects::Kind;
use crate::problem::Problem;
use crate::selector::{once, selectors};
use crate::settle::{Pass, Rules, Settled, settle};

type Pools = BTreeMap<String, Pool>;
type Ads = BTreeMap<String, BgpAdvertisement>;

/// An advertisement that is in force, and what it covers.
struct Older {
    ad: BgpAdvertisement,
    pools: BTreeSet<String>,
    nodes: SelectedNodes,
}

/// All BGP advertisements. Of two that contradict each other the newer is wrong.
pub(crate) fn advertisements(
    pass: &mut Pass<'_>,
    aliases: &BTreeMap<&str, Community>,
    pools: &Pools,
    last: &Ads,
) -> Settled<BgpAdvertisement> {
    let surroundings = pass.surroundings;
    let older = |ad: &BgpAdvertisement| Older {
        ad: ad.clone(),
        pools: covered(ad, pools).map(|pool| pool.name.clone()).collect(),
        nodes: SelectedNodes::of(surroundings, |labels| ad.covers_node(labels)),
    };
    let rules = Rules {
        read: |object: &Object, report: &mut Report| advertisement(object, aliases, report),
        check: |before: &Vec<Older>, ad: &BgpAdvertisement, _: Option<&Object>, report: &mut Report| {
            let changed = last.get(&ad.name).filter(|old| *old != ad);
            loses_pools(changed, ad, pools, report);
            // Which preference a Service gets that several match is decided per Service.
            if ad.service_selectors.is_empty() {
                let ad = older(ad);
                before.iter().for_each(|other| contradicts(other, &ad, pools, report));
            }
        },
        accept: |before: &mut Vec<Older>, ad: &BgpAdvertisement| {
            if ad.service_selectors.is_empty() {
                before.push(older(ad));
            }
        },
    };
    let settled = settle(pass, last, Vec::new(), rules);
    let of_kind = pass.errors.iter().filter(|e| e.kind == Kind::BgpAdvertisement.name());
    let wrong = of_kind.map(|e| &*e.name).collect::<BTreeSet<_>>();
    let right = settled.models.values().filter(|ad| !wrong.contains(&*ad.name));
    let in_part = right.flat_map(|ad| {
        let mut report = Report::new(Kind::BgpAdvertisement, &ad.name);
        pools.values().for_each(|pool| too_wide(ad, pool, &mut report));
        report.into_errors(Outcome::InPart)
    });
    let in_part = in_part.collect::<Vec<_>>();
    pass.errors.extend(in_part);
    settled
}

fn covered<'a>(ad: &'a BgpAdvertisement, pools: &'a Pools) -> impl Iterator<Item = &'a Pool> {
    pools.values().filter(|pool| ad.covers_pool(pool))
}

/// A new version may not take away a pool that the old one covers, by prefixes that are too wide for it. Where a pool
/// came later, or the advertisement is new, the rest of it is in force.
fn loses_pools(old: Option<&BgpAdvertisement>, ad: &BgpAdvertisement, pools: &Pools, report: &mut Report) {
    let lost = old.into_iter().flat_map(|old| covered(old, pools));
    lost.for_each(|pool| too_wide(ad, pool, report));
}

fn too_wide(ad: &BgpAdvertisement, pool: &Pool, report: &mut Report) {
    let Some(range) = ad.too_wide_for(pool).filter(|_| ad.pools.selects(pool)) else {
        return;
    };
    let range = &pool.ranges[range];
    let length = ad.aggregation(range.family());
    let problem = Problem::AggregateTooWide {
        length,
        pool: pool.name.clone(),
        range: range.to_string(),
        least: range.widest_block(),
    };
    report.push(aggregation_field(range.family()), length.to_string(), problem);
}

fn aggregation_field(family: Family) -> &'static str {
    match family {
        Family::V4 => "spec.aggregationLength",
        Family::V6 => "spec.aggregationLengthV6",
    }
}

/// Two values of an attribute for one prefix, to one peer, from one node.
fn contradicts(older: &Older, newer: &Older, pools: &Pools, report: &mut Report) {
    let (old, new) = (&older.ad, &newer.ad);
    let prepend = |ad: &BgpAdvertisement| ad.as_path_prepend.map(u32::from);
    let attributes = [
        ("spec.localPref", old.local_pref, new.local_pref),
        ("spec.asPathPrepend", prepend(old), prepend(new)),
    ];
    let differ = attributes.into_iter().find(|(_, old, new)| old != new);
    let Some((field, other_value, value)) = differ else {
        return;
    };
    let share_peer = match (&old.peers, &new.peers) {
        (Some(these), Some(others)) => !these.is_disjoint(others),
        _ => true,
    };
    if !share_peer || !older.nodes.meet(&newer.nodes) {
        return;
    }
    let same_prefixes = |pool: &&Pool| {
        let mut families = pool.families().iter();
        families.any(|family| old.aggregation(family) == new.aggregation(family))
    };
    let common = older
        .pools
        .intersection(&newer.pools)
        .filter_map(|name| pools.get(name));
    if let Some(pool) = common.into_iter().find(same_prefixes) {
        let value = value.unwrap_or_default();
        let problem = Problem::AdvertisementsDiffer {
            value,
            other_value: other_value.unwrap_or_default(),
            other: old.name.clone(),
            pool: pool.name.clone(),
        };
        report.push(field, value.to_string(), problem);
    }
}

fn advertisement(
    object: &Object,
    aliases: &BTreeMap<&str, Community>,
    report: &mut Report,
) -> Option<BgpAdvertisement> {
    let spec = &object.spec;
    let v4 = number(
        report,
        "spec.aggregationLength",
        spec.aggregation_length.unwrap_or(32),
        1..=32,
    );
    let v6 = number(
        report,
        "spec.aggregationLengthV6",
        spec.aggregation_length_v6.unwrap_or(128),
        0..=128,
    );
    if !spec.service_selectors.is_empty() {
        for (family, length) in [(Family::V4, v4), (Family::V6, v6)] {
            let most = family.bits();
            if let Some(length) = length.filter(|length| *length != most) {
                let problem = Problem::AggregateOfSome { length, most };
                report.push(aggregation_field(family), length.to_string(), problem);
            }
        }
    }
    once(report, "spec.communities", spec.communities.iter(), |c| {
        format!("{c:?}")
    });
    let mut communities = BTreeSet::new();
    for (n, text) in spec.communities.iter().enumerate() {
        communities.extend(report.take(format!("spec.communities[{n}]"), text, resolve(text, aliases)));
    }
    once(report, "spec.peers", spec.peers.iter(), |p| format!("{p:?}"));
    Some(BgpAdvertisement {
        name: object.metadata.name.clone().unwrap_or_default(),
        pools: pool_selection(report, &spec.ip_address_pools, &spec.ip_address_pool_selectors),
        node_selectors: selectors(report, "spec.nodeSelectors", &spec.node_selectors),
        service_selectors: selectors(report, "spec.serviceSelectors", &spec.service_selectors),
        peers: (!spec.peers.is_empty()).then(|| spec.peers.iter().cloned().collect()),
        aggregation_v4: v4?,
        aggregation_v6: v6?,
        local_pref: Some(spec.local_pref).filter(|preference| *preference != 0),
        as_path_prepend: spec
            .as_path_prepend
            .and_then(|times| number(report, "spec.asPathPrepend", times, 1..=10)),
        communities,
    })
}
