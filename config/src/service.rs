//! Services.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ferrolb_api::names::annotations;
use ferrolb_model::{
    AddressRequest, Family, FamilyPolicy, FamilySet, Port, Protocol, RequestError, ServiceId, ServiceType, ServiceView,
    TrafficPolicy, canonical,
};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServiceSpec};

/// What decisions need of a Service. Never fails: a request that cannot be read is part of the view.
pub fn service_view(object: &Service) -> ServiceView {
    let metadata = &object.metadata;
    let no_spec = ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&no_spec);
    let no_annotations = BTreeMap::new();
    let given = metadata.annotations.as_ref().unwrap_or(&no_annotations);
    let load_balancer = object.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let entries = load_balancer.and_then(|l| l.ingress.as_deref()).unwrap_or_default();
    let deprecated = given.keys().filter(|k| k.starts_with(annotations::OLD_PREFIX));
    ServiceView {
        id: ServiceId::new(
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        ),
        uid: metadata.uid.clone().unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
        kind: match spec.type_.as_deref() {
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("NodePort") => ServiceType::NodePort,
            Some("ExternalName") => ServiceType::ExternalName,
            _ => ServiceType::ClusterIp,
        },
        class: spec.load_balancer_class.clone(),
        families: cluster_families(spec),
        primary_family: match spec.ip_families.as_deref().and_then(<[String]>::first) {
            Some(family) if family == "IPv6" => Family::V6,
            _ => Family::V4,
        },
        family_policy: match spec.ip_family_policy.as_deref() {
            Some("PreferDualStack") => FamilyPolicy::PreferDualStack,
            Some("RequireDualStack") => FamilyPolicy::RequireDualStack,
            _ => FamilyPolicy::SingleStack,
        },
        traffic_policy: match spec.external_traffic_policy.as_deref() {
            Some("Local") => TrafficPolicy::Local,
            _ => TrafficPolicy::Cluster,
        },
        health_check_port: spec
            .health_check_node_port
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port > 0),
        selector: canonical_selector(spec),
        ports: spec.ports.iter().flatten().filter_map(port).collect(),
        labels: metadata.labels.clone().unwrap_or_default().into(),
        request: request(given, spec.load_balancer_ip.as_deref().unwrap_or_default()),
        sharing_key: sharing_key(given),
        announcement_policy: given
            .get(annotations::ANNOUNCEMENT_POLICY)
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty()),
        pool_annotation: given.get(annotations::ALLOCATED_FROM_POOL).cloned(),
        deprecated_annotations: deprecated.cloned().collect(),
        ingress: entries.iter().filter_map(ingress_address).collect(),
        ingress_foreign: entries.iter().any(is_foreign),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// The value of an annotation that is read under two keys: the new one wins when it is there, even empty.
fn either<'a>(given: &'a BTreeMap<String, String>, new: &'static str, old: &'static str) -> (&'static str, &'a str) {
    match (given.get(new), given.get(old)) {
        (Some(value), _) => (new, value),
        (None, Some(value)) => (old, value),
        (None, None) => (new, ""),
    }
}

/// The request that the annotations and `spec.loadBalancerIP` (empty: not set) make together.
pub fn request(given: &BTreeMap<String, String>, load_balancer_ip: &str) -> Result<AddressRequest, RequestError> {
    let (_, pool) = either(given, annotations::ADDRESS_POOL, annotations::ADDRESS_POOL_OLD);
    let pool = Some(pool.trim()).filter(|p| !p.is_empty()).map(str::to_owned);
    let (field, value) = either(
        given,
        annotations::LOAD_BALANCER_IPS,
        annotations::LOAD_BALANCER_IPS_OLD,
    );
    let addresses = match (value.trim(), load_balancer_ip.trim()) {
        ("", "") => Vec::new(),
        ("", single) => {
            let field = "spec.loadBalancerIP";
            let address = parse_address(single).ok_or_else(|| RequestError::NotAnAddress {
                field: field.to_owned(),
                value: single.to_owned(),
            })?;
            vec![address]
        }
        (list, "") => parse_address_list(field, list)?,
        (_, _) => {
            return Err(RequestError::Both {
                field: field.to_owned(),
                value: value.to_owned(),
                other: load_balancer_ip.to_owned(),
            });
        }
    };
    Ok(AddressRequest { pool, addresses })
}

/// One address, IPv4-mapped IPv6 read as IPv4.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    text.trim().parse().ok().map(canonical)
}

/// A list of one address, or one of each family, separated by a comma; `field` is where it stands.
pub fn parse_address_list(field: &str, list: &str) -> Result<Vec<IpAddr>, RequestError> {
    let mut addresses = Vec::<IpAddr>::new();
    for part in list.split(',') {
        let address = parse_address(part).ok_or_else(|| RequestError::NotAnAddress {
            field: field.to_owned(),
            value: part.trim().to_owned(),
        })?;
        if addresses.iter().any(|a| Family::of(*a) == Family::of(address)) {
            return Err(RequestError::TooMany {
                field: field.to_owned(),
                value: list.to_owned(),
            });
        }
        addresses.push(address);
    }
    addresses.sort_unstable();
    Ok(addresses)
}

fn sharing_key(given: &BTreeMap<String, String>) -> Option<String> {
    let (_, key) = either(given, annotations::ALLOW_SHARED_IP, annotations::ALLOW_SHARED_IP_OLD);
    Some(key).filter(|k| !k.is_empty()).map(str::to_owned)
}

/// The families of the cluster addresses; headless Services have none.
fn cluster_families(spec: &ServiceSpec) -> FamilySet {
    let listed = spec.cluster_ips.iter().flatten();
    let single = spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_none());
    let addresses = listed.chain(single).filter_map(|text| parse_address(text));
    addresses.map(Family::of).collect()
}

/// `k=v,k=v`, sorted by key.
fn canonical_selector(spec: &ServiceSpec) -> String {
    let pairs = spec.selector.iter().flatten().map(|(k, v)| format!("{k}={v}"));
    pairs.collect::<Vec<_>>().join(",")
}

fn port(port: &k8s_openapi::api::core::v1::ServicePort) -> Option<Port> {
    let protocol = match port.protocol.as_deref() {
        None | Some("" | "TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) => return None,
    };
    Some(Port {
        protocol,
        port: u16::try_from(port.port).ok()?,
    })
}

fn ingress_address(entry: &LoadBalancerIngress) -> Option<IpAddr> {
    parse_address(entry.ip.as_deref()?)
}

/// Whether an entry is not as FerroLB writes it: one address in canonical form, mode `VIP` (the server's default).
fn is_foreign(entry: &LoadBalancerIngress) -> bool {
    let written = ingress_address(entry).map(|a| a.to_string());
    written.is_none()
        || written != entry.ip
        || entry.hostname.as_deref().is_some_and(|h| !h.is_empty())
        || entry.ip_mode.as_deref().is_some_and(|mode| mode != "VIP")
}
