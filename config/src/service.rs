//! A Service object, reduced to what decisions depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ferrolb_api::names::annotations;
use ferrolb_model::{
    Family, FamilyPolicy, FamilySet, Port, Protocol, ServiceId, ServiceType, ServiceView, TrafficPolicy, canonical,
};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServiceSpec};
use kube::ResourceExt as _;

use crate::request::{Texts, request};

/// The view of `object`. Never fails: what the user wrote and cannot be read stands in `request` as an error.
pub fn service_view(object: &Service) -> ServiceView {
    let default = ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&default);
    let notes = object.annotations();
    let ingress = object
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref()?.ingress.as_deref())
        .unwrap_or_default();
    let sharing = either(notes, annotations::ALLOW_SHARED_IP, annotations::ALLOW_SHARED_IP_OLD);
    ServiceView {
        id: ServiceId::new(object.namespace().unwrap_or_default(), object.name_any()),
        uid: object.uid().unwrap_or_default(),
        created: object.creation_timestamp().map_or(i64::MAX, |time| time.0.as_second()),
        kind: kind(spec),
        class: spec.load_balancer_class.clone(),
        families: families(spec),
        primary_family: primary_family(spec),
        family_policy: match spec.ip_family_policy.as_deref() {
            Some("PreferDualStack") => FamilyPolicy::PreferDualStack,
            Some("RequireDualStack") => FamilyPolicy::RequireDualStack,
            _ => FamilyPolicy::SingleStack,
        },
        traffic_policy: match spec.external_traffic_policy.as_deref() {
            Some("Local") => TrafficPolicy::Local,
            _ => TrafficPolicy::Cluster,
        },
        selector: selector(spec),
        ports: ports(spec),
        labels: object.labels().clone(),
        request: request(Texts {
            pool: either(notes, annotations::ADDRESS_POOL, annotations::ADDRESS_POOL_OLD),
            addresses: either(
                notes,
                annotations::LOAD_BALANCER_IPS,
                annotations::LOAD_BALANCER_IPS_OLD,
            ),
            load_balancer_ip: spec.load_balancer_ip.as_deref().unwrap_or_default(),
        }),
        sharing_key: sharing
            .map(|(_, key)| key)
            .filter(|key| !key.is_empty())
            .map(str::to_owned),
        pool_annotation: notes.get(annotations::ALLOCATED_FROM_POOL).cloned(),
        deprecated_annotations: notes
            .keys()
            .filter(|key| key.starts_with(annotations::OLD_PREFIX))
            .cloned()
            .collect(),
        ingress: ingress.iter().filter_map(ingress_address).collect(),
        ingress_foreign: ingress.iter().any(foreign),
        resource_version: object.resource_version().unwrap_or_default(),
    }
}

/// The annotation under the prefix in use, even when empty; otherwise the one under the old prefix.
fn either<'a>(notes: &'a BTreeMap<String, String>, new: &'a str, old: &'a str) -> Option<(&'a str, &'a str)> {
    [new, old]
        .into_iter()
        .find_map(|key| Some((key, notes.get(key)?.as_str())))
}

fn kind(spec: &ServiceSpec) -> ServiceType {
    match spec.type_.as_deref() {
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("NodePort") => ServiceType::NodePort,
        Some("ExternalName") => ServiceType::ExternalName,
        _ => ServiceType::ClusterIp,
    }
}

/// Families of the cluster addresses. `None` (headless) and an empty text are no addresses.
fn families(spec: &ServiceSpec) -> FamilySet {
    let list = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    list.filter_map(|ip| ip.parse::<IpAddr>().ok())
        .map(Family::of)
        .collect()
}

fn primary_family(spec: &ServiceSpec) -> Family {
    match spec
        .ip_families
        .as_ref()
        .and_then(|families| families.first())
        .map(String::as_str)
    {
        Some("IPv6") => Family::V6,
        _ => Family::V4,
    }
}

/// The pod selector in a form in which equal selectors are equal texts.
fn selector(spec: &ServiceSpec) -> String {
    let pairs = spec
        .selector
        .iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

fn ports(spec: &ServiceSpec) -> BTreeSet<Port> {
    let ports = spec.ports.iter().flatten();
    ports
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            Some(Port {
                protocol,
                port: u16::try_from(port.port).ok()?,
            })
        })
        .collect()
}

fn ingress_address(entry: &LoadBalancerIngress) -> Option<IpAddr> {
    entry.ip.as_ref()?.parse().ok().map(canonical)
}

/// Whether FerroLB would not have written this entry. API servers that know no `ipMode` leave it out.
fn foreign(entry: &LoadBalancerIngress) -> bool {
    ingress_address(entry).is_none()
        || entry.hostname.is_some()
        || entry.ip_mode.as_ref().is_some_and(|mode| mode != "VIP")
}
