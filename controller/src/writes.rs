//! The core's writes as API requests: one request each, none retried, every one with a precondition.
//!
//! A Service's status is written by a merge patch that carries the resource version that was read. Server-side apply
//! would not do here: without force it leaves in place what another manager wrote, so that a wrong address could never
//! be taken away, and with force it overwrites what nobody has read yet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ferrolb_api::names::{CONTROLLER_MANAGER, annotations};
use ferrolb_api::{self as api};
use ferrolb_controller_core::{Write, WriteError};
use ferrolb_model::{Claim, Condition as OwnCondition, ConditionType, Placement, VirtualIpName};
use ferrolb_runtime::apply::{self, Failure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{PartialObjectMeta, PostParams};
use kube::core::ObjectMeta;
use kube::{Api, Client};
use serde_json::{Value, json};

/// What a VirtualIP's object says of its conditions and the core does not keep. The list is written as a whole, so what
/// is not ours has to be written along.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct WrittenConditions {
    /// Since when each of ours has had its status.
    pub(crate) since: BTreeMap<ConditionType, (bool, Timestamp)>,
    /// Those of somebody else.
    pub(crate) others: Vec<Condition>,
}

impl WrittenConditions {
    /// Those of `object`.
    pub(crate) fn of(object: &api::VirtualIp) -> Self {
        let mut written = WrittenConditions::default();
        for condition in object.status.iter().flat_map(|status| &status.conditions) {
            match ConditionType::of(&condition.type_) {
                Some(kind) => {
                    let since = (condition.status == "True", condition.last_transition_time.0);
                    written.since.insert(kind, since);
                }
                None => written.others.push(condition.clone()),
            }
        }
        written
    }
}

/// One kind of write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WriteKind {
    VirtualIpCreate,
    VirtualIpUpdate,
    VirtualIpConfirm,
    VirtualIpDelete,
    VirtualIpStatus,
    ServiceStatus,
    PoolStatus,
    ConfigurationState,
}

impl WriteKind {
    pub(crate) const ALL: [WriteKind; 8] = [
        WriteKind::VirtualIpCreate,
        WriteKind::VirtualIpUpdate,
        WriteKind::VirtualIpConfirm,
        WriteKind::VirtualIpDelete,
        WriteKind::VirtualIpStatus,
        WriteKind::ServiceStatus,
        WriteKind::PoolStatus,
        WriteKind::ConfigurationState,
    ];

    /// The kind of a write of the core.
    pub(crate) fn of(write: &Write) -> Self {
        match write {
            Write::CreateVirtualIp { .. } => WriteKind::VirtualIpCreate,
            Write::UpdateVirtualIp { .. } => WriteKind::VirtualIpUpdate,
            Write::ConfirmVirtualIp { .. } => WriteKind::VirtualIpConfirm,
            Write::DeleteVirtualIp { .. } => WriteKind::VirtualIpDelete,
            Write::SetVirtualIpStatus { .. } => WriteKind::VirtualIpStatus,
            Write::SetServiceStatus { .. } => WriteKind::ServiceStatus,
        }
    }

    /// One word, for metric labels.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            WriteKind::VirtualIpCreate => "virtual_ip_create",
            WriteKind::VirtualIpUpdate => "virtual_ip_update",
            WriteKind::VirtualIpConfirm => "virtual_ip_confirm",
            WriteKind::VirtualIpDelete => "virtual_ip_delete",
            WriteKind::VirtualIpStatus => "virtual_ip_status",
            WriteKind::ServiceStatus => "service_status",
            WriteKind::PoolStatus => "pool_status",
            WriteKind::ConfigurationState => "configuration_state",
        }
    }

    /// The rule it needs: verb and resource.
    pub(crate) fn rule(self) -> &'static str {
        match self {
            WriteKind::VirtualIpCreate => "create virtualips",
            WriteKind::VirtualIpUpdate | WriteKind::VirtualIpConfirm => "patch virtualips",
            WriteKind::VirtualIpDelete => "delete virtualips",
            WriteKind::VirtualIpStatus => "patch virtualips/status",
            WriteKind::ServiceStatus => "patch services/status",
            WriteKind::PoolStatus => "patch ipaddresspools/status",
            WriteKind::ConfigurationState => "patch configurationstates",
        }
    }
}

/// Does one write. `written` is what stands at the VirtualIP that it is about, `now` the time of conditions that change.
pub(crate) async fn perform(
    client: Client,
    write: Write,
    written: WrittenConditions,
    now: Timestamp,
) -> Result<(), Failure> {
    match write {
        Write::CreateVirtualIp {
            address,
            pool,
            claims,
            sharing_key,
            prober,
        } => {
            let object = api::VirtualIp {
                metadata: ObjectMeta {
                    name: Some(VirtualIpName::of(address).to_string()),
                    ..ObjectMeta::default()
                },
                spec: api::VirtualIpSpec {
                    address: address.to_string(),
                    pool,
                    claims: claims.into_iter().map(wire_claim).collect(),
                    sharing_key,
                    prober,
                    ..api::VirtualIpSpec::default()
                },
                status: None,
            };
            let params = PostParams {
                field_manager: Some(CONTROLLER_MANAGER.to_owned()),
                ..PostParams::default()
            };
            apply::within(Api::<api::VirtualIp>::all(client).create(&params, &object)).await?;
        }
        Write::UpdateVirtualIp {
            address,
            pool,
            claims,
            sharing_key,
            resource_version,
        } => {
            let claims = claims.into_iter().map(wire_claim).collect::<Vec<_>>();
            let body = json!({ "spec": { "pool": pool, "claims": claims, "sharingKey": sharing_key } });
            let name = VirtualIpName::of(address).to_string();
            apply::merge(&virtual_ips(client), &name, &resource_version, CONTROLLER_MANAGER, body).await?;
        }
        Write::ConfirmVirtualIp {
            address,
            resource_version,
        } => {
            let name = VirtualIpName::of(address).to_string();
            apply::merge(
                &virtual_ips(client),
                &name,
                &resource_version,
                CONTROLLER_MANAGER,
                json!({}),
            )
            .await?;
        }
        Write::DeleteVirtualIp {
            address,
            uid,
            resource_version,
        } => {
            let name = VirtualIpName::of(address).to_string();
            apply::delete(&virtual_ips(client), &name, &uid, &resource_version).await?;
        }
        Write::SetVirtualIpStatus {
            address,
            placement,
            answered_move,
            conditions,
            resource_version,
        } => {
            let body = virtual_ip_status(placement.as_ref(), answered_move, &conditions, &written, now);
            let name = VirtualIpName::of(address).to_string();
            apply::merge_status(&virtual_ips(client), &name, &resource_version, CONTROLLER_MANAGER, body).await?;
        }
        Write::SetServiceStatus {
            service,
            uid: _,
            resource_version,
            ingress,
            pool,
        } => {
            let services = Api::<PartialObjectMeta<Service>>::namespaced(client, &service.namespace);
            let body = service_status(&ingress, pool.as_deref());
            apply::merge_status(&services, &service.name, &resource_version, CONTROLLER_MANAGER, body).await?;
        }
    }
    Ok(())
}

/// The failure in the core's words.
pub(crate) fn core_error(failure: Failure) -> WriteError {
    match failure {
        Failure::Conflict => WriteError::Conflict,
        Failure::ForeignManager(manager) => WriteError::ForeignManager(manager),
        Failure::Gone => WriteError::Gone,
        Failure::Forbidden(message) => WriteError::Forbidden(message),
        Failure::Refused(message) => WriteError::Refused(message),
        Failure::Unavailable(message) => WriteError::Unavailable(message),
    }
}

/// Only the metadata of the answers is read.
fn virtual_ips(client: Client) -> Api<PartialObjectMeta<api::VirtualIp>> {
    Api::all(client)
}

fn wire_claim(claim: Claim) -> api::Claim {
    api::Claim {
        namespace: claim.service.namespace.clone(),
        name: claim.service.name.clone(),
        uid: claim.uid,
    }
}

/// Null takes a field away (RFC 7396); the announcer, which the speaker writes, is not named and so stays.
fn virtual_ip_status(
    placement: Option<&Placement>,
    answered_move: Option<String>,
    conditions: &BTreeMap<ConditionType, OwnCondition>,
    written: &WrittenConditions,
    now: Timestamp,
) -> Value {
    let placement = placement.map(|p| json!({ "owner": p.owner, "standbys": p.standbys, "epoch": p.epoch }));
    let conditions = conditions
        .iter()
        .map(|(kind, condition)| {
            let since = match written.since.get(kind) {
                Some((status, since)) if *status == condition.status => *since,
                _ => now,
            };
            json!({
                "type": kind.as_str(),
                "status": if condition.status { "True" } else { "False" },
                "reason": condition.reason,
                "message": condition.message,
                "lastTransitionTime": seconds(since),
            })
        })
        .chain(written.others.iter().map(|condition| json!(condition)))
        .collect::<Vec<_>>();
    json!({ "status": { "placement": placement, "answeredMove": answered_move, "conditions": conditions } })
}

/// RFC 3339 without fractions, as the API machinery writes `metav1.Time`.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn service_status(ingress: &[IpAddr], pool: Option<&str>) -> Value {
    let pool = pool.filter(|_| !ingress.is_empty());
    let ingress = ingress
        .iter()
        .map(|address| json!({ "ip": address, "ipMode": "VIP" }))
        .collect::<Vec<_>>();
    let ingress = Some(ingress).filter(|list| !list.is_empty());
    json!({
        "metadata": { "annotations": { annotations::ALLOCATED_FROM_POOL: pool } },
        "status": { "loadBalancer": { "ingress": ingress } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_ingress_takes_everything_away() {
        assert_eq!(
            service_status(&[], Some("p")),
            json!({
                "metadata": { "annotations": { "metallb.io/ip-allocated-from-pool": null } },
                "status": { "loadBalancer": { "ingress": null } },
            })
        );
        assert_eq!(
            service_status(&["192.0.2.1".parse().unwrap()], Some("p"))["status"],
            json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.1", "ipMode": "VIP" }] } })
        );
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let condition = |status| OwnCondition::new(status, "R", "m".to_owned());
        let conditions = BTreeMap::from([
            (ConditionType::Allocated, condition(true)),
            (ConditionType::Announced, condition(false)),
        ]);
        let before = Timestamp::UNIX_EPOCH;
        let now = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let written = WrittenConditions {
            since: BTreeMap::from([
                (ConditionType::Allocated, (true, before)),
                (ConditionType::Announced, (true, before)),
            ]),
            others: Vec::new(),
        };
        let body = virtual_ip_status(None, None, &conditions, &written, now);
        assert_eq!(body["status"]["placement"], Value::Null);
        let time = |index: usize| body["status"]["conditions"][index]["lastTransitionTime"].clone();
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(1), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn conditions_of_others_stay() {
        let other = json!({
            "type": "Reachable", "status": "Unknown", "reason": "NotProbed", "message": "",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        });
        let own = json!({
            "type": "Allocated", "status": "True", "reason": "Assigned", "message": "",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        });
        let object = serde_json::from_value(json!({
            "apiVersion": "ferrolb.io/v1alpha1", "kind": "VirtualIP", "metadata": { "name": "192.0.2.1" },
            "spec": { "address": "192.0.2.1", "claims": [] },
            "status": { "conditions": [other, own] },
        }))
        .unwrap();
        let written = WrittenConditions::of(&object);
        let body = virtual_ip_status(None, None, &BTreeMap::new(), &written, Timestamp::UNIX_EPOCH);
        assert_eq!(body["status"]["conditions"], json!([other]));
    }
}
