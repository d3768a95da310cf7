//! The whole configuration: every object by itself, then the rules across objects.
//!
//! A mistake costs the object it stands in, and nothing else; what was in force of that object stays, if there was
//! anything. The outcome depends on the objects and on what was in force, never on the order in which they are given.

use std::collections::BTreeMap;

use ferrolb_api::{IpAddressPool, L2Advertisement};
use ferrolb_model::{Config, IpRange, L2Advertisement as Advertisement, Labels, Pool, PoolSelection};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::error::{ObjectError, Problem};
use crate::{advertise, pool};

/// The objects as they are now, in any order.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    /// Every IPAddressPool of FerroLB's namespace.
    pub pools: Vec<&'a IpAddressPool>,
    /// Every L2Advertisement of FerroLB's namespace.
    pub l2_advertisements: Vec<&'a L2Advertisement>,
    /// The labels of every namespace, by its name.
    pub namespaces: &'a BTreeMap<String, Labels>,
}

/// What a snapshot comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// What is in force.
    pub config: Config,
    /// Every mistake, by kind and name, then in the order of the fields.
    pub errors: Vec<ObjectError>,
}

/// Reads a snapshot. `last_good` is the configuration in force until now.
pub fn parse(snapshot: &Snapshot<'_>, last_good: &Config) -> Parsed {
    let mut parsed = Parsed::default();
    let pools_missing = pools(snapshot, last_good, &mut parsed);
    let mut advertisements_missing = false;
    for object in &snapshot.l2_advertisements {
        let name = object.metadata.name.clone().unwrap_or_default();
        match advertise::l2_advertisement(object) {
            Ok(ad) => {
                parsed.config.l2_advertisements.insert(name, ad);
            }
            Err(errors) => {
                let old = last_good.l2_advertisements.get(&name);
                advertisements_missing |= old.is_none();
                parsed.errors.extend(errors.into_iter().map(|e| ObjectError {
                    last_good: old.is_some(),
                    ..e
                }));
                parsed.config.l2_advertisements.extend(old.map(|ad| (name, ad.clone())));
            }
        }
    }
    let by_label =
        |ad: &Advertisement| matches!(&ad.pools, PoolSelection::Some { selectors, .. } if !selectors.is_empty());
    let by_label = parsed.config.l2_advertisements.values().any(by_label);
    parsed.config.advertisements_unknown = advertisements_missing || pools_missing && by_label;
    // Stable: the mistakes of one object keep the order of its fields.
    parsed.errors.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    parsed
}

/// Pools, oldest first: one that overlaps an older one yields to it. Whether any is left out.
fn pools(snapshot: &Snapshot<'_>, last_good: &Config, parsed: &mut Parsed) -> bool {
    let mut missing = false;
    let mut objects = snapshot.pools.clone();
    objects.sort_by_key(|o| age(&o.metadata));
    for object in objects {
        let name = object.metadata.name.clone().unwrap_or_default();
        let result = pool::pool(object, snapshot.namespaces).and_then(|pool| {
            let errors = overlaps(&parsed.config, object, &pool);
            if errors.is_empty() { Ok(pool) } else { Err(errors) }
        });
        let pool = result.or_else(|errors| {
            let old = last_good.pools.get(&name).filter(|old| is_apart(&parsed.config, old));
            parsed.errors.extend(errors.into_iter().map(|e| ObjectError {
                last_good: old.is_some(),
                ..e
            }));
            old.cloned().ok_or(())
        });
        missing |= pool.is_err();
        parsed.config.pools.extend(pool.map(|p| (name, p)));
    }
    missing
}

fn age(metadata: &ObjectMeta) -> (i64, String) {
    let created = metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
    (created, metadata.name.clone().unwrap_or_default())
}

fn is_apart(config: &Config, pool: &Pool) -> bool {
    pool.ranges.iter().all(|r| overlap(config, r).is_none())
}

fn overlap<'a>(config: &'a Config, range: &IpRange) -> Option<(&'a Pool, &'a IpRange)> {
    let ranges = config.pools.values().flat_map(|p| p.ranges.iter().map(move |r| (p, r)));
    ranges.into_iter().find(|(_, r)| r.overlaps(range))
}

fn overlaps(config: &Config, object: &IpAddressPool, pool: &Pool) -> Vec<ObjectError> {
    // A pool that was read has one range per item.
    let items = object.spec.addresses.iter().zip(&pool.ranges).enumerate();
    items
        .filter_map(|(n, (text, range))| {
            let (older, other) = overlap(config, range)?;
            Some(ObjectError {
                kind: pool::KIND,
                name: pool.name.clone(),
                field: format!("spec.addresses[{n}]"),
                value: text.clone(),
                problem: Box::new(Problem::OverlapWith {
                    value: text.clone(),
                    other: other.to_string(),
                    pool: older.name.clone(),
                }),
                last_good: false,
            })
        })
        .collect()
}
