//! A Service, as far as allocation and announcement depend on it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use thiserror::Error;

use crate::announcement_policy::Applicant;
use crate::ip::{Family, FamilySet};
use crate::selector::Labels;

/// Namespace and name. Ordered by namespace, then name: the order in which ties are broken. Kept by many for each of thousands
/// of Services, so a copy is the same text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(Arc<QualifiedName>);

/// What a [`ServiceId`] says.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QualifiedName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ServiceId {
    /// The identity of `namespace/name`.
    pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        ServiceId(Arc::new(QualifiedName {
            namespace: namespace.as_ref().into(),
            name: name.as_ref().into(),
        }))
    }

    /// Whether there is another copy of this one.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Deref for ServiceId {
    type Target = QualifiedName;

    fn deref(&self) -> &QualifiedName {
        &self.0
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a decision needs of a Service. Views are compared with `==`; an equal view is no news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// Who it is.
    pub id: ServiceId,
    /// The object's uid: a Service deleted and created again is another one.
    pub uid: String,
    /// Creation time, seconds since the Unix epoch: older Services are served first.
    pub created: i64,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.loadBalancerClass`.
    pub class: Option<String>,
    /// Families of `spec.clusterIPs`; empty for headless Services and before the API server assigned one.
    pub families: FamilySet,
    /// `spec.ipFamilies[0]`, IPv4 when absent: the family that a single address is taken of.
    pub primary_family: Family,
    /// `spec.ipFamilyPolicy`.
    pub family_policy: FamilyPolicy,
    /// `spec.externalTrafficPolicy`.
    pub traffic_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`: where each node says whether it has endpoints; under `Local` only.
    pub health_check_port: Option<u16>,
    /// `spec.selector` in canonical form `k=v,k=v`, sorted by key: part of the sharing identity under `Local`.
    pub selector: String,
    /// The ports that clients use.
    pub ports: BTreeSet<Port>,
    /// The Service's labels.
    pub labels: Labels,
    /// What the user asks for, from annotations and `spec.loadBalancerIP`, or why that cannot be read.
    pub request: Result<AddressRequest, RequestError>,
    /// A non-empty value of the `allow-shared-ip` annotation.
    pub sharing_key: Option<String>,
    /// The AnnouncementPolicy that it asks for, by the annotation `ferrolb.io/announcement-policy`.
    pub announcement_policy: Option<String>,
    /// The value of the annotation `metallb.io/ip-allocated-from-pool`, which FerroLB writes.
    pub pool_annotation: Option<String>,
    /// Keys of annotations under the prefix `metallb.universe.tf`, which is deprecated but read.
    pub deprecated_annotations: BTreeSet<String>,
    /// Addresses that stand in `status.loadBalancer.ingress`, in order; entries without an address are left out.
    pub ingress: Vec<IpAddr>,
    /// An entry of `status.loadBalancer.ingress` is not as FerroLB writes it (hostname, bad address, other ipMode).
    pub ingress_foreign: bool,
    /// `metadata.resourceVersion`, opaque: the precondition of the next write, not a part of any decision.
    pub resource_version: String,
}

impl ServiceView {
    /// A Service of type LoadBalancer that says nothing of itself: one IPv4 address, no ports, no wishes, no status.
    pub fn load_balancer(id: ServiceId) -> Self {
        ServiceView {
            id,
            uid: String::new(),
            created: 0,
            kind: ServiceType::LoadBalancer,
            class: None,
            families: FamilySet { v4: true, v6: false },
            primary_family: Family::V4,
            family_policy: FamilyPolicy::SingleStack,
            traffic_policy: TrafficPolicy::Cluster,
            health_check_port: None,
            selector: String::new(),
            ports: BTreeSet::new(),
            labels: Labels::new(),
            request: Ok(AddressRequest::default()),
            sharing_key: None,
            announcement_policy: None,
            pool_annotation: None,
            deprecated_annotations: BTreeSet::new(),
            ingress: Vec::new(),
            ingress_foreign: false,
            resource_version: String::new(),
        }
    }

    /// What decides about the policies it has.
    pub fn applicant(&self) -> Applicant<'_> {
        Applicant {
            id: &self.id,
            labels: &self.labels,
            policy: self.announcement_policy.as_deref(),
        }
    }
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// Reachable inside the cluster only.
    ClusterIp,
    /// Reachable on a port of every node.
    NodePort,
    /// The one that gets an address.
    LoadBalancer,
    /// A DNS alias.
    ExternalName,
}

/// `spec.ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyPolicy {
    /// One family.
    SingleStack,
    /// Both where possible.
    PreferDualStack,
    /// Both or nothing.
    RequireDualStack,
}

/// `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Any node forwards to any endpoint.
    Cluster,
    /// A node forwards to its own endpoints only.
    Local,
}

/// One port of a Service, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// The transport.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What a Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressRequest {
    /// The pool named by annotation.
    pub pool: Option<String>,
    /// The addresses named by annotation or `spec.loadBalancerIP`: none, one, or one of each family.
    pub addresses: Vec<IpAddr>,
}

/// Why the request of a Service cannot be read. Names field and value, and says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// A text that is no address.
    #[error("{field}: {value:?} is not an IP address; write one address, or one of each family separated by a comma")]
    NotAnAddress {
        /// Annotation key or field path.
        field: String,
        /// The offending part of the value.
        value: String,
    },
    /// More than one address of a family, or more than two.
    #[error("{field}: {value:?} names more than one address of a family; write at most one IPv4 and one IPv6 address")]
    TooMany {
        /// Annotation key or field path.
        field: String,
        /// The whole value.
        value: String,
    },
    /// Both the annotation and `spec.loadBalancerIP`.
    #[error("{field} and spec.loadBalancerIP are both set ({value:?} and {other:?}); remove one of them")]
    Both {
        /// The annotation key.
        field: String,
        /// Its value.
        value: String,
        /// The value of `spec.loadBalancerIP`.
        other: String,
    },
}
