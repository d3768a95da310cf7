//! The whole configuration: every object by itself, then the rules across objects.
//!
//! A mistake costs the object it stands in, and nothing else; what was in force of that object stays, if there was
//! anything. The outcome depends on the objects, on the cluster around them and on what was in force, never on the order
//! in which anything came.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ferrolb_model::{Community, Config, PoolSelection};

use crate::error::{ObjectError, Outcome};
use crate::objects::{Object, ObjectRef, Snapshot};
use crate::settle::{Pass, settle_each};
use crate::surroundings::Surroundings;
use crate::{advertise, allocation, announcement, bfd, bgp, community, contains, peer, pool};

/// What a snapshot comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// What is in force.
    pub config: Arc<Config>,
    /// The version of each object in force that it was last read from.
    pub sources: Snapshot,
    /// Every mistake, by kind and name, then in the order of the fields.
    pub errors: Vec<ObjectError>,
    /// What is in force and likely to be a mistake, in the same order.
    pub warnings: Vec<ObjectError>,
}

/// Reads a snapshot. `last` is what came of the one before.
pub fn parse(snapshot: &Snapshot, surroundings: &Surroundings, last: &Parsed) -> Parsed {
    let mut pass = Pass {
        snapshot,
        surroundings,
        sources: &last.sources,
        errors: Vec::new(),
    };
    let config = config(&mut pass, &last.config);
    let mut errors = pass.errors;
    let sources = sources(snapshot, &errors, last);
    let mut warnings = contains::warn(&config.pools, &sources, surroundings);
    warnings.extend(config.peers.values().flat_map(peer::warn));
    let policies = config.allocation_policies.values();
    warnings.extend(policies.flat_map(|policy| allocation::warn(policy, &config.pools)));
    // Stable: the mistakes of one object keep the order of its fields.
    errors.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    warnings.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Parsed {
        sources,
        config: match config == *last.config {
            true => Arc::clone(&last.config),
            false => Arc::new(config),
        },
        errors,
        warnings,
    }
}

fn config(pass: &mut Pass<'_>, last: &Config) -> Config {
    let namespaces = &pass.surroundings.namespaces;
    let pools = pool::pools(pass, &last.pools);
    let l2 = settle_each(pass, &last.l2_advertisements, |object, report| {
        Some(advertise::l2_advertisement(object, report))
    });
    let profiles = settle_each(pass, &last.bfd_profiles, bfd::bfd_profile).models;
    let peers = peer::peers(pass, &profiles, &last.peers).models;
    let communities = community::communities(pass, &last.communities).models;
    let aliases = communities.values().flatten();
    let aliases = aliases
        .map(|(alias, community)| (&**alias, *community))
        .collect::<BTreeMap<&str, Community>>();
    let bgp = bgp::advertisements(pass, &aliases, &pools.models, &last.bgp_advertisements);
    let allocation = settle_each(pass, &last.allocation_policies, |object, report| {
        Some(allocation::policy(object, namespaces, report))
    });
    let announcement = settle_each(pass, &last.announcement_policies, |object, report| {
        Some(announcement::policy(object, report))
    });
    // A pool that is left out may be one that an advertisement selects by its labels.
    let unknown = |missing: bool, mut selections: Selections<'_>| {
        let by_label = |selection: &PoolSelection| matches!(selection, PoolSelection::Some { selectors, .. } if !selectors.is_empty());
        missing || pools.missing && selections.any(by_label)
    };
    Config {
        advertisements_unknown: unknown(l2.missing, Box::new(l2.models.values().map(|ad| &ad.pools))),
        bgp_advertisements_unknown: unknown(bgp.missing, Box::new(bgp.models.values().map(|ad| &ad.pools))),
        pools: pools.models,
        l2_advertisements: l2.models,
        bgp_advertisements: bgp.models,
        peers,
        bfd_profiles: profiles,
        communities,
        allocation_policies: allocation.models,
        announcement_policies: announcement.models,
    }
}

type Selections<'a> = Box<dyn Iterator<Item = &'a PoolSelection> + 'a>;

/// An object that is right is in force as it is; one that is wrong, as it was.
fn sources(snapshot: &Snapshot, errors: &[ObjectError], last: &Parsed) -> Snapshot {
    let outcomes = errors
        .iter()
        .map(|e| ((e.kind, &*e.name), e.outcome))
        .collect::<BTreeMap<_, _>>();
    let in_force = snapshot.iter().filter_map(|(of, object)| {
        let source = match outcomes.get(&(of.kind.name(), &*of.name)) {
            None | Some(Outcome::InForce | Outcome::InPart) => object,
            Some(Outcome::LastGood) => last.sources.get(of)?,
            Some(Outcome::LeftOut) => return None,
        };
        Some((of.clone(), source.clone()))
    });
    in_force.collect()
}

impl Parsed {
    /// The objects of which an older version than that of `snapshot` is in force.
    pub fn kept(&self) -> impl Iterator<Item = (&ObjectRef, &Object)> {
        let wrong = self.errors.iter().filter(|e| e.outcome == Outcome::LastGood);
        let wrong = wrong.map(|e| (e.kind, &*e.name)).collect::<BTreeSet<_>>();
        self.sources
            .iter()
            .filter(move |(of, _)| wrong.contains(&(of.kind.name(), &*of.name)))
    }
}
