//! VirtualIPs, made by the controller or by hand.

use std::collections::{BTreeMap, BTreeSet};

use ferrolb_api as api;
use ferrolb_api::names::annotations;
use ferrolb_model::{
    Announcer, Claim, Condition, ConditionType, Placement, Probe, ReclaimPolicy, ServiceId, Stranger, VirtualIp,
    VirtualIpName,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition as WireCondition;

use crate::error::{ObjectError, Outcome};
use crate::problem::Problem;
use crate::service::parse_address;

pub(crate) const KIND: &str = "VirtualIP";

/// What decisions need of a VirtualIP; an error names the first mistake. One that cannot be read claims nothing.
pub fn virtual_ip(object: &api::VirtualIp) -> Result<VirtualIp, ObjectError> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let error = |field: String, value: &str, problem| ObjectError {
        kind: KIND,
        name: name.clone(),
        field,
        value: value.to_owned(),
        problem: Box::new(problem),
        outcome: Outcome::LeftOut,
    };
    let text = &object.spec.address;
    let address =
        parse_address(text).ok_or_else(|| error("spec.address".to_owned(), text, Problem::Address(text.clone())))?;
    let right = VirtualIpName::of(address).to_string();
    if name != right {
        let problem = Problem::VirtualIpName {
            name: name.clone(),
            address: address.to_string(),
            right,
        };
        return Err(error("metadata.name".to_owned(), &name, problem));
    }
    for (n, claim) in object.spec.claims.iter().enumerate() {
        for (field, value) in [("namespace", &claim.namespace), ("name", &claim.name)] {
            if value.is_empty() {
                let problem = Problem::Empty("name the Service by namespace and name");
                return Err(error(format!("spec.claims[{n}].{field}"), "", problem));
            }
        }
    }
    let given = object.metadata.annotations.as_ref();
    let status = object.status.as_ref();
    let placement = status
        .and_then(|s| s.placement.as_ref())
        .filter(|p| !p.owner.is_empty());
    let announcer = status.and_then(|s| s.announcer.as_ref()).filter(|a| !a.node.is_empty());
    Ok(VirtualIp {
        address,
        pool: filled(object.spec.pool.as_ref()),
        claims: object.spec.claims.iter().map(claim).collect(),
        sharing_key: filled(object.spec.sharing_key.as_ref()),
        reclaim_policy: match object.spec.reclaim_policy {
            api::ReclaimPolicy::Delete => ReclaimPolicy::Delete,
            api::ReclaimPolicy::Retain => ReclaimPolicy::Retain,
        },
        placement: placement.map(|p| Placement {
            owner: p.owner.clone(),
            standbys: p.standbys.clone(),
            epoch: p.epoch,
        }),
        announcer: announcer.map(|a| Announcer {
            node: a.node.clone(),
            interfaces: a
                .interfaces
                .iter()
                .cloned()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        }),
        move_to: filled(given.and_then(|given| given.get(annotations::MOVE_TO))),
        answered_move: status.and_then(|s| s.answered_move.clone()),
        probe: status_of_probe(object).map(Box::new),
        conditions: status.map(|s| known_conditions(&s.conditions)).unwrap_or_default(),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        resource_version: object.metadata.resource_version.clone().unwrap_or_default(),
    })
}

/// A question that waits for its answer, or an answer that speaks against the address.
fn status_of_probe(object: &api::VirtualIp) -> Option<Probe> {
    let node = filled(object.spec.prober.as_ref())?;
    let said = object.status.as_ref().and_then(|status| status.probe.as_ref());
    let Some(said) = said.filter(|probe| probe.node == node) else {
        return Some(Probe::Asked { node });
    };
    match said.result {
        api::ProbeResult::Occupied => Some(Probe::Occupied {
            node,
            stranger: Stranger {
                mac: Stranger::parse_mac(&said.mac_address).unwrap_or_default(),
                interface: said.interface.clone(),
            },
        }),
        api::ProbeResult::Clear | api::ProbeResult::NotAsked => None,
    }
}

fn filled(text: Option<&String>) -> Option<String> {
    text.filter(|t| !t.trim().is_empty()).cloned()
}

fn claim(claim: &api::Claim) -> Claim {
    Claim {
        service: ServiceId::new(&claim.namespace, &claim.name),
        uid: filled(claim.uid.as_ref()),
    }
}

/// The conditions that the controller writes; others are other people's.
fn known_conditions(list: &[WireCondition]) -> BTreeMap<ConditionType, Condition> {
    let known = list.iter().filter_map(|c| {
        let kind = ConditionType::of(&c.type_)?;
        let condition = Condition::new(c.status == "True", &c.reason, c.message.clone());
        Some((kind, condition))
    });
    known.collect()
}
