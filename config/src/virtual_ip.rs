//! A VirtualIP object, parsed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ferrolb_api::{ReclaimPolicy as WirePolicy, VirtualIp as Wire};
use ferrolb_model::{
    Announcer, Claim, Condition, ConditionType, Placement, ReclaimPolicy, ServiceId, VirtualIp, VirtualIpName,
    canonical,
};
use kube::ResourceExt as _;
use thiserror::Error;

/// Why a VirtualIP object means nothing. Only one made by hand can be like that.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadVirtualIp {
    /// The address is none.
    #[error("VirtualIP {name:?}: spec.address: {address:?} is not an IP address")]
    Address {
        /// The object's name.
        name: String,
        /// What stands in the field.
        address: String,
    },
    /// The name is not the one that the address gives.
    #[error("VirtualIP {name:?}: metadata.name: a VirtualIP for {address} has to be named {right:?}")]
    Name {
        /// The object's name.
        name: String,
        /// The address.
        address: IpAddr,
        /// The name that would be right.
        right: String,
    },
}

/// The view of a VirtualIP.
///
/// # Errors
/// When the address is none, or not the one that the object is named after: then the name would not be the claim.
pub fn virtual_ip(object: &Wire) -> Result<VirtualIp, BadVirtualIp> {
    let name = object.name_any();
    let text = &object.spec.address;
    let Ok(address) = text.parse().map(canonical) else {
        return Err(BadVirtualIp::Address {
            name,
            address: text.clone(),
        });
    };
    let right = VirtualIpName::of(address).to_string();
    if name != right {
        return Err(BadVirtualIp::Name { name, address, right });
    }
    let status = object.status.clone().unwrap_or_default();
    Ok(VirtualIp {
        address,
        pool: object.spec.pool.clone(),
        claims: object.spec.claims.iter().map(claim).collect(),
        sharing_key: object.spec.sharing_key.clone(),
        reclaim_policy: match object.spec.reclaim_policy {
            WirePolicy::Delete => ReclaimPolicy::Delete,
            WirePolicy::Retain => ReclaimPolicy::Retain,
        },
        placement: status.placement.map(|p| Placement {
            owner: p.owner,
            standbys: p.standbys,
            epoch: p.epoch,
        }),
        announcer: status.announcer.map(|a| Announcer {
            node: a.node,
            interfaces: a.interfaces.into_iter().collect(),
        }),
        conditions: conditions(&status.conditions),
        uid: object.uid().unwrap_or_default(),
        resource_version: object.resource_version().unwrap_or_default(),
    })
}

fn claim(wire: &ferrolb_api::Claim) -> Claim {
    Claim {
        service: ServiceId::new(&wire.namespace, &wire.name),
        uid: wire.uid.clone(),
    }
}

/// The controller's own conditions; those of others are not its business.
fn conditions(
    wire: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
) -> BTreeMap<ConditionType, Condition> {
    let kinds = [ConditionType::Allocated, ConditionType::Announced];
    kinds
        .into_iter()
        .filter_map(|kind| {
            let found = wire.iter().find(|c| c.type_ == kind.as_str())?;
            let condition = Condition {
                status: found.status == "True",
                reason: found.reason.clone(),
                message: found.message.clone(),
            };
            Some((kind, condition))
        })
        .collect()
}
