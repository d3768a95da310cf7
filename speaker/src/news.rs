//! From watch events to news for the owner task: objects become views at the edge, so that nothing larger is ever
//! queued or kept.

use std::collections::{BTreeMap, BTreeSet};

use ferrolb_api::{IpAddressPool, L2Advertisement, VirtualIp};
use ferrolb_model::{Claim, Labels, LivenessKeys, NodeView, ServiceId, VirtualIpName};
use ferrolb_runtime::watch::{Event, ObjectKey};
use ferrolb_speaker_core::Input;
use k8s_openapi::api::core::v1::{Node, Secret, Service};
use tracing::warn;

use crate::configuration::Change;
use crate::kube_proxy::Answers;

/// What the owner task hears.
pub(crate) enum News {
    /// For the core.
    Input(Box<Input>),
    /// A Node appeared or changed, and what only its own speaker wants to know.
    Node(Box<NodeView>, NodeSelf),
    /// A Node is gone.
    NodeGone(String),
    /// The keys of the heartbeats appeared or changed.
    LivenessKeys(LivenessKeys),
    /// For the configuration.
    Configuration(Box<Change>),
    /// The stream delivered its first complete list.
    Synced(Stream),
    /// What kube-proxy answered.
    KubeProxy(Answers),
    /// The layer-2 engine does not run, and why.
    EngineDown(String),
}

/// What of a Node only its own speaker wants to know.
pub(crate) struct NodeSelf {
    /// Its uid.
    pub(crate) uid: String,
    /// Its annotations.
    pub(crate) annotations: Labels,
}

/// One watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    /// IPAddressPools of the installation's namespace.
    Pools,
    /// L2Advertisements of the installation's namespace.
    Advertisements,
    /// Services of type LoadBalancer.
    Services,
    /// All VirtualIPs.
    VirtualIps,
    /// All Nodes.
    Nodes,
    /// BGPPeers of the installation's namespace.
    BgpPeers,
    /// BGPAdvertisements of the installation's namespace.
    BgpAdvertisements,
    /// BFDProfiles of the installation's namespace.
    BfdProfiles,
    /// Communities of the installation's namespace.
    Communities,
    /// All AnnouncementPolicies.
    AnnouncementPolicies,
    /// EndpointSlices of Services.
    Endpoints,
    /// Secrets with a password in the installation's namespace.
    Secrets,
}

impl Stream {
    /// All of them.
    const ALL: [Stream; 12] = [
        Stream::Pools,
        Stream::Advertisements,
        Stream::Services,
        Stream::VirtualIps,
        Stream::Nodes,
        Stream::BgpPeers,
        Stream::BgpAdvertisements,
        Stream::BfdProfiles,
        Stream::Communities,
        Stream::AnnouncementPolicies,
        Stream::Endpoints,
        Stream::Secrets,
    ];

    /// Those that a speaker follows; one of layer 2 alone has nothing to do with routers.
    pub(crate) fn followed(layer2_only: bool) -> BTreeSet<Stream> {
        let of_routers = |stream: &Stream| {
            matches!(
                stream,
                Stream::BgpPeers
                    | Stream::BgpAdvertisements
                    | Stream::BfdProfiles
                    | Stream::Communities
                    | Stream::Secrets
            )
        };
        Stream::ALL
            .into_iter()
            .filter(|stream| !layer2_only || !of_routers(stream))
            .collect()
    }

    /// Whether the configuration is read from it.
    pub(crate) fn configures(self) -> bool {
        !matches!(
            self,
            Stream::Services | Stream::VirtualIps | Stream::Nodes | Stream::Endpoints | Stream::Secrets
        )
    }

    /// Whether layer 2 waits for it. BGP waits for all of them.
    pub(crate) fn is_of_layer2(self) -> bool {
        matches!(
            self,
            Stream::Pools | Stream::Advertisements | Stream::Services | Stream::VirtualIps | Stream::Nodes
        )
    }
}

/// News of an IPAddressPool.
pub(crate) fn pool(event: Event<IpAddressPool>) -> Option<News> {
    Some(match event {
        Event::Synced => News::Synced(Stream::Pools),
        other => News::Configuration(Box::new(Change::Pool(other))),
    })
}

/// News of an L2Advertisement.
pub(crate) fn advertisement(event: Event<L2Advertisement>) -> Option<News> {
    Some(match event {
        Event::Synced => News::Synced(Stream::Advertisements),
        other => News::Configuration(Box::new(Change::Advertisement(other))),
    })
}

/// News of a Service. The watch tells only those of type LoadBalancer, and that one is gone when it changes its type.
pub(crate) fn service(event: Event<Service>) -> Option<News> {
    let input = match event {
        Event::Applied(object) => Input::Service(ferrolb_config::service_view(&object)),
        Event::Gone(key) => Input::ServiceGone(service_id(&key)),
        Event::Invalid { key, error } => return unreadable("Service", &key, &error),
        Event::Synced => return Some(News::Synced(Stream::Services)),
    };
    Some(News::Input(Box::new(input)))
}

/// News of a VirtualIP.
pub(crate) fn virtual_ip(event: Event<VirtualIp>) -> Option<News> {
    let input = match event {
        Event::Applied(object) => match ferrolb_config::virtual_ip(&object) {
            Ok(view) => Input::VirtualIp(read(view)),
            Err(error) => return unreadable("VirtualIP", &ObjectKey::of(&object), &error.to_string()),
        },
        Event::Gone(key) => Input::VirtualIpGone(VirtualIpName::parse(&key.name)?),
        Event::Invalid { key, error } => return unreadable("VirtualIP", &key, &error),
        Event::Synced => return Some(News::Synced(Stream::VirtualIps)),
    };
    Some(News::Input(Box::new(input)))
}

/// Without what the controller alone reads, most of all the conditions: a node that has a part in an address keeps the rest.
fn read(ip: ferrolb_model::VirtualIp) -> ferrolb_model::VirtualIp {
    let claims = ip.claims.into_iter().map(|claim| Claim { uid: None, ..claim });
    ferrolb_model::VirtualIp {
        claims: claims.collect(),
        sharing_key: None,
        move_to: None,
        answered_move: None,
        conditions: BTreeMap::new(),
        ..ip
    }
}

/// News of a Node.
pub(crate) fn node(event: Event<Node>) -> Option<News> {
    match event {
        Event::Applied(object) => {
            let view = Box::new(ferrolb_config::node_view(&object));
            let uid = object.metadata.uid.unwrap_or_default();
            let annotations = object.metadata.annotations.unwrap_or_default().into();
            Some(News::Node(view, NodeSelf { uid, annotations }))
        }
        Event::Gone(key) => Some(News::NodeGone(key.name.into())),
        Event::Invalid { key, error } => unreadable("Node", &key, &error),
        Event::Synced => Some(News::Synced(Stream::Nodes)),
    }
}

/// News of the Secret with the keys of the heartbeats. Without it, those that are known stay.
pub(crate) fn liveness_keys(event: Event<Secret>) -> Option<News> {
    match event {
        Event::Applied(object) => match ferrolb_config::liveness_keys(&object) {
            Ok(keys) => Some(News::LivenessKeys(keys)),
            Err(error) => unreadable("Secret", &ObjectKey::of(&object), &error.to_string()),
        },
        Event::Invalid { key, error } => unreadable("Secret", &key, &error),
        Event::Gone(_) | Event::Synced => None,
    }
}

/// An object that cannot be read stays as it was last read.
pub(crate) fn unreadable(kind: &str, key: &ObjectKey, error: &str) -> Option<News> {
    warn!("{kind} {key} cannot be read and stays as it was: {error}");
    None
}

fn service_id(key: &ObjectKey) -> ServiceId {
    ServiceId::new(&*key.namespace, &*key.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_2_alone_follows_what_it_waits_for_and_nothing_of_routers() {
        let (all, alone) = (Stream::followed(false), Stream::followed(true));
        assert_eq!(all.len(), Stream::ALL.len());
        assert!(
            Stream::ALL
                .iter()
                .all(|stream| !stream.is_of_layer2() || alone.contains(stream))
        );
        let left: Vec<&Stream> = all.difference(&alone).collect();
        assert_eq!(
            left,
            [
                &Stream::BgpPeers,
                &Stream::BgpAdvertisements,
                &Stream::BfdProfiles,
                &Stream::Communities,
                &Stream::Secrets
            ]
        );
    }
}
