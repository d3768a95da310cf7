//! How addresses are announced, as far as an advertisement does not say it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::advertise::{PoolSelection, PreferredNode};
use crate::cluster::NodeView;
use crate::community::{Community, ExtendedCommunity};
use crate::peer::PeerSettings;
use crate::pool::Pool;
use crate::selector::{LabelSelector, Labels};
use crate::service::ServiceId;

/// An `AnnouncementPolicy` in force. Where several select the same thing, each setting is taken from the first of them,
/// by name, that has it; a setting that none of them has is `None`, and its default is with the one who acts on it. The default
/// is for everything, and sets nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnnouncementPolicy {
    /// The object's name.
    pub name: String,
    /// The pools it is for.
    pub pools: PoolSelection,
    /// Any must match the Service; empty matches all.
    pub service_selectors: Vec<LabelSelector>,
    /// Any must match the node; empty matches all.
    pub node_selectors: Vec<LabelSelector>,
    /// Who has to ask for it; `None`: nobody, it is for all that it selects.
    pub on_request: Option<OnRequest>,
    /// Announcing by ARP and Neighbor Discovery.
    pub layer2: Layer2Settings,
    /// When a node gives up what it announces.
    pub drain: DrainSettings,
    /// Which endpoints let a node announce.
    pub endpoints: EndpointSettings,
    /// Announcing by BGP.
    pub bgp: BgpSettings,
}

impl AnnouncementPolicy {
    /// Whether it is for addresses of `pool`.
    pub fn covers_pool(&self, pool: &Pool) -> bool {
        self.pools.selects(pool)
    }

    /// Whether it is for a Service with these labels.
    pub fn covers_service(&self, labels: &Labels) -> bool {
        LabelSelector::any_or_all(&self.service_selectors, labels)
    }

    /// Whether a Service has it: by its labels, and where the policy has to be asked for, by name.
    pub fn is_for(&self, service: Applicant<'_>) -> bool {
        let asked = |on: &OnRequest| service.policy == Some(&*self.name) && on.admits(&service.id.namespace);
        self.on_request.as_ref().is_none_or(asked) && self.covers_service(service.labels)
    }

    /// Whether it is for a node with these labels.
    pub fn covers_node(&self, labels: &Labels) -> bool {
        LabelSelector::any_or_all(&self.node_selectors, labels)
    }
}

/// Which Services may ask for a policy, by the annotation `ferrolb.io/announcement-policy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnRequest {
    /// Those of these namespaces; `None`: of any.
    pub namespaces: Option<BTreeSet<String>>,
}

impl OnRequest {
    /// Whether Services of `namespace` may ask.
    pub fn admits(&self, namespace: &str) -> bool {
        self.namespaces.as_ref().is_none_or(|names| names.contains(namespace))
    }
}

/// What decides of a Service about the policies it has.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    /// Who it is.
    pub id: &'a ServiceId,
    /// Its labels.
    pub labels: &'a Labels,
    /// The policy it asks for.
    pub policy: Option<&'a str>,
}

/// Why a Service does not have the [`AnnouncementPolicy`] that it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyDenial {
    /// There is none of this name, or nothing of it can be used.
    NotInForce,
    /// Nobody may ask for it: it is for all that it selects.
    NotOnRequest,
    /// Services of other namespaces may ask for it.
    Namespace,
    /// Its `spec.serviceSelectors` do not match.
    Labels,
    /// It is not for the pool that the address is from.
    Pool,
}

impl fmt::Display for PolicyDenial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PolicyDenial::NotInForce => "none of this name is in force; create it, or correct the name",
            PolicyDenial::NotOnRequest => {
                "it cannot be asked for; give it spec.onRequest, or remove the annotation: it is for all that it selects"
            }
            PolicyDenial::Namespace => "Services of this namespace may not ask for it; add it to spec.onRequest.namespaces",
            PolicyDenial::Labels => "its spec.serviceSelectors do not select the Service",
            PolicyDenial::Pool => "it is not for the IPAddressPool of the Service's address",
        })
    }
}

/// Settings of layer 2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer2Settings {
    /// Preferences among nodes, added to those of the advertisements.
    pub weights: Vec<PreferredNode>,
    /// Which addresses shall be announced by different nodes.
    pub anti_affinity: Option<AntiAffinity>,
    /// An address moves when a node with a higher weight comes back.
    pub preemption: Option<bool>,
    /// Time between heartbeats, 10 ms to 10 s.
    pub liveness_interval: Option<Duration>,
    /// Heartbeats missed before the wire is asked, 1 to 100.
    pub liveness_multiplier: Option<u32>,
    /// How long an address stays with a node whose speaker is silent, up to an hour.
    pub grace: Option<Duration>,
    /// A standby may answer in the owner's name.
    pub answer_for_owner: Option<bool>,
    /// How use of the address by another machine is noticed.
    pub conflict_detection: Option<ConflictDetection>,
    /// Time between unasked repetitions, up to a day; zero is never.
    pub refresh: Option<Duration>,
    /// Only interfaces with a subnet that contains the address.
    pub subnet_check: Option<bool>,
}

/// Which addresses shall be announced by different nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AntiAffinity {
    /// No matter which.
    None,
    /// Those of one Service.
    Service,
    /// Those of Services with the same value of this label.
    Label(String),
}

/// How use of an address by another machine is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictDetection {
    /// The network is asked before the address is used; then as `Passive`.
    Probe,
    /// Claims by others are noticed, told and answered.
    Passive,
    /// Nothing is done.
    Disabled,
}

/// When a node gives up what it announces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainSettings {
    /// What makes it give up; an empty set is nothing.
    pub triggers: Option<BTreeSet<DrainTrigger>>,
    /// How long the trigger has to last, up to an hour.
    pub delay: Option<Duration>,
}

/// What makes a node give up what it announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainTrigger {
    /// Label `node.kubernetes.io/exclude-from-external-load-balancers`.
    ExcludeLabel,
    /// The node is cordoned.
    Cordon,
    /// A taint with the effect NoExecute.
    Taint,
}

impl DrainTrigger {
    /// Whether it holds for the node.
    pub fn holds(self, node: &NodeView) -> bool {
        match self {
            DrainTrigger::ExcludeLabel => node.excluded,
            DrainTrigger::Cordon => node.cordoned,
            DrainTrigger::Taint => node.evicting,
        }
    }
}

/// Which endpoints let a node announce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointSettings {
    /// Endpoints that terminate and still serve count where none is ready.
    pub serving: Option<bool>,
    /// How long a node waits for its kube-proxy at most, up to 300 s.
    pub wait: Option<Duration>,
}

/// What routes carry, and how they are taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpSettings {
    /// MULTI_EXIT_DISC (RFC 4271 section 5.1.4).
    pub med: Option<u32>,
    /// How often our AS number is put in front once more, to external peers; up to 32.
    pub as_path_prepend: Option<u8>,
    /// Large communities to attach in addition; empty is not set.
    pub large_communities: BTreeSet<Community>,
    /// Extended communities to attach; empty is not set.
    pub extended_communities: BTreeSet<ExtendedCommunity>,
    /// Megabits per second that each ready endpoint of the node adds to the link bandwidth community.
    pub link_bandwidth: Option<u32>,
    /// How long routes carry GRACEFUL_SHUTDOWN (RFC 8326) before they are withdrawn, up to 600 s.
    pub graceful_shutdown: Option<Duration>,
    /// Settings of peers, by the name of the BGPPeer.
    pub peers: BTreeMap<String, PeerSettings>,
}
