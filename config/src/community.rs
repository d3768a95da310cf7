//! `Community`: aliases, each in one object only.

use std::collections::BTreeMap;

use ferrolb_model::{Community, CommunityError};

use crate::error::Report;
use crate::problem::Problem;
use crate::selector::once;
use crate::settle::{Pass, Rules, Settled, settle};

/// The aliases of one object.
type Aliases = BTreeMap<String, Community>;

/// All Community objects. Of two with the same alias the newer is wrong.
pub(crate) fn communities(pass: &mut Pass<'_>, last: &BTreeMap<String, Aliases>) -> Settled<Aliases> {
    let rules = Rules {
        read: |object: &ferrolb_api::Community, report: &mut Report| {
            let name = object.metadata.name.clone().unwrap_or_default();
            Some((name, aliases(object, report)))
        },
        check: |taken: &BTreeMap<String, String>,
                (_, aliases): &(String, Aliases),
                object: Option<&_>,
                report: &mut Report| {
            is_taken(taken, aliases, object, report);
        },
        accept: |taken: &mut BTreeMap<String, String>, (name, aliases): &(String, Aliases)| {
            taken.extend(aliases.keys().map(|alias| (alias.clone(), name.clone())));
        },
    };
    let last = last
        .iter()
        .map(|(name, aliases)| (name.clone(), (name.clone(), aliases.clone())));
    let Settled { models, missing } = settle(pass, &last.collect(), BTreeMap::new(), rules);
    Settled {
        models: models.into_values().collect(),
        missing,
    }
}

fn aliases(object: &ferrolb_api::Community, report: &mut Report) -> Aliases {
    let list = &object.spec.communities;
    let mut aliases = Aliases::new();
    for (n, alias) in list.iter().enumerate() {
        let field = format!("spec.communities[{n}]");
        if alias.name.is_empty() {
            let problem = Problem::Empty("write the name that BGPAdvertisements use");
            report.push(format!("{field}.name"), "", problem);
        }
        let value = report.take(format!("{field}.value"), &alias.value, alias.value.parse());
        aliases.extend(value.map(|value| (alias.name.clone(), value)));
    }
    once(report, "spec.communities", list.iter().map(|a| &a.name), |n| {
        format!("{n:?}")
    });
    aliases
}

fn is_taken(
    taken: &BTreeMap<String, String>,
    aliases: &Aliases,
    object: Option<&ferrolb_api::Community>,
    report: &mut Report,
) {
    for (alias, other) in aliases.keys().filter_map(|alias| Some((alias, taken.get(alias)?))) {
        let place = object.and_then(|o| o.spec.communities.iter().position(|a| a.name == *alias));
        let problem = Problem::AliasTaken {
            alias: alias.clone(),
            other: other.clone(),
        };
        report.push(
            format!("spec.communities[{}].name", place.unwrap_or_default()),
            alias,
            problem,
        );
    }
}

/// A community that is written out, or an alias.
pub(crate) fn resolve(text: &str, known: &BTreeMap<&str, Community>) -> Result<Community, Problem> {
    match (text.parse(), known.get(text)) {
        (Ok(community), _) => Ok(community),
        (Err(_), Some(community)) => Ok(*community),
        (Err(CommunityError::Name(name)), None) => Err(Problem::Alias(name)),
        (Err(error), None) => Err(error.into()),
    }
}
