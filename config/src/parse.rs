//! All configuration objects together: the configuration in force and what is wrong with each object left out.

use std::collections::BTreeMap;

use ferrolb_api::{IpAddressPool, L2Advertisement};
use ferrolb_model::{Config, IpRange, Labels, Pool};
use kube::{Resource, ResourceExt as _};

use crate::error::{ConfigError, Problem};
use crate::{advertisement, pool};

/// Every object that configures FerroLB, as the watches have it now; the order means nothing.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    /// The IPAddressPools of FerroLB's namespace.
    pub pools: Vec<&'a IpAddressPool>,
    /// The L2Advertisements of FerroLB's namespace.
    pub l2_advertisements: Vec<&'a L2Advertisement>,
    /// The labels of every namespace of the cluster, by name.
    pub namespaces: &'a BTreeMap<String, Labels>,
}

/// What a [`Snapshot`] means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// What is in force.
    pub config: Config,
    /// What is not, and why, by kind and name.
    pub errors: Vec<ConfigError>,
}

/// Parses `snapshot`. `last_good` is the configuration in force until now: an object that cannot be used keeps the
/// version it has there. Of two pools that overlap, the newer (by creation, then name) cannot be used.
pub fn parse(snapshot: &Snapshot<'_>, last_good: &Config) -> Parsed {
    let mut parsed = Parsed::default();
    let mut pools = snapshot.pools.clone();
    pools.sort_by_cached_key(|p| (created(*p), p.name_any()));
    for object in pools {
        add_pool(object, snapshot.namespaces, last_good, &mut parsed);
    }
    for object in &snapshot.l2_advertisements {
        let name = object.name_any();
        match advertisement::l2_advertisement(object) {
            Ok(ad) => drop(parsed.config.l2_advertisements.insert(name, ad)),
            Err(problems) => {
                let kept = last_good.l2_advertisements.get(&name);
                parsed
                    .errors
                    .push(error("L2Advertisement", *object, problems, kept.is_some()));
                parsed
                    .config
                    .l2_advertisements
                    .extend(kept.map(|ad| (name, ad.clone())));
            }
        }
    }
    parsed.errors.sort();
    parsed
}

fn add_pool(object: &IpAddressPool, namespaces: &BTreeMap<String, Labels>, last_good: &Config, parsed: &mut Parsed) {
    let in_force = &parsed.config.pools;
    let outcome = pool::pool(object, namespaces).and_then(|pool| match overlaps(&pool, in_force) {
        problems if problems.is_empty() => Ok(pool),
        problems => Err(problems),
    });
    let name = object.name_any();
    match outcome {
        Ok(pool) => drop(parsed.config.pools.insert(name, pool)),
        Err(problems) => {
            let kept = last_good
                .pools
                .get(&name)
                .filter(|pool| overlaps(pool, in_force).is_empty())
                .cloned();
            parsed
                .errors
                .push(error("IPAddressPool", object, problems, kept.is_some()));
            parsed.config.pools.extend(kept.map(|pool| (name, pool)));
        }
    }
}

/// Where `pool` overlaps a pool that is in force already.
fn overlaps(pool: &Pool, in_force: &BTreeMap<String, Pool>) -> Vec<Problem> {
    let clash = |range: &IpRange, other: &Pool| other.ranges.iter().copied().find(|r| r.overlaps(range));
    let mut problems = Vec::new();
    for (index, range) in pool.ranges.iter().enumerate() {
        for other in in_force.values() {
            if let Some(theirs) = clash(range, other) {
                let message = format!(
                    "{range} overlaps {theirs} of the older IPAddressPool {:?}; change one of the two",
                    other.name
                );
                problems.push(Problem::new(format!("spec.addresses[{index}]"), message));
            }
        }
    }
    problems
}

/// Seconds since the Unix epoch; an object without the time counts as newest.
fn created(object: &impl kube::ResourceExt) -> i64 {
    object.creation_timestamp().map_or(i64::MAX, |time| time.0.as_second())
}

fn error<K: Resource>(kind: &'static str, object: &K, problems: Vec<Problem>, last_good_kept: bool) -> ConfigError {
    let meta = object.meta();
    ConfigError {
        kind,
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        problems,
        last_good_kept,
    }
}
