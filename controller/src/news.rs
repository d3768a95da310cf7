//! What is watched, and how objects become news for the owner task.
//!
//! An object is turned into the small view that decisions need right where it arrives; the object itself is dropped
//! there, so that memory holds views only. Objects of the configuration are kept whole, without what means nothing.

use std::time::Duration;

use ferrolb_api as api;
use ferrolb_api::names::{annotations, configuration_state};
use ferrolb_config::{Configures, Kind, NodeFacts, Object, ObjectRef};
use ferrolb_controller_core::Input;
use ferrolb_model::{IpRange, Labels, NodeView, ServiceId, VirtualIp, VirtualIpName};
use ferrolb_runtime::readiness::Readiness;
use ferrolb_runtime::tasks::Tasks;
use ferrolb_runtime::watch::{self, Event, ObjectKey, Source, watch};
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::writes::WrittenConditions;

/// How often to look for ServiceCIDRs on an API server that is older than they are.
const ABSENT: Duration = Duration::from_secs(60);

/// One piece of news.
#[derive(Debug)]
pub(crate) enum News {
    /// Straight to the core.
    Core(Box<Input>),
    /// A VirtualIP, with what the core does not keep.
    VirtualIp(Box<VirtualIp>, WrittenConditions),
    /// A Node, for the core and for the configuration.
    Node(Box<(NodeView, NodeFacts)>),
    /// A Node is gone.
    NodeGone(String),
    /// An object of the configuration, or that it is gone.
    Object(ObjectRef, Option<Object>),
    /// An IPAddressPool, or that it is gone, and the counters in its status.
    Pool(ObjectRef, Option<Object>, Option<api::IpAddressPoolStatus>),
    /// The labels of a namespace, or that it is gone.
    Namespace(String, Option<Labels>),
    /// The ranges of a ServiceCIDR, or that it is gone.
    ServiceCidr(String, Option<Vec<IpRange>>),
    /// What the controller's ConfigurationState carries: last good versions, a request to rebalance, and the answer to the last one.
    Verdict {
        last_good: Option<String>,
        rebalance: Option<String>,
        rebalanced: Option<String>,
    },
    /// Somebody deleted the controller's ConfigurationState.
    VerdictGone,
    /// An object that cannot be read: kind and name, and why.
    Unreadable(String, String),
    /// The stream has told its first complete list.
    Synced(Stream),
}

/// The streams, all of which must be synced before anything is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    Services,
    Nodes,
    Networks,
    Endpoints,
    Namespaces,
    ServiceCidrs,
    Objects(Kind),
    VirtualIps,
    Verdict,
}

impl Stream {
    pub(crate) fn all() -> impl Iterator<Item = Stream> {
        let others = [
            Stream::Services,
            Stream::Nodes,
            Stream::Networks,
            Stream::Endpoints,
            Stream::Namespaces,
            Stream::ServiceCidrs,
            Stream::VirtualIps,
            Stream::Verdict,
        ];
        others.into_iter().chain(Kind::ALL.iter().copied().map(Stream::Objects))
    }
}

/// Everything a watch needs.
pub(crate) struct Watches {
    pub(crate) client: Client,
    /// Where the `metallb.io` objects live.
    pub(crate) namespace: String,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: watch::Metrics,
    pub(crate) sender: mpsc::Sender<News>,
}

impl Watches {
    /// Starts one task per stream.
    pub(crate) fn start(self, tasks: &mut Tasks) {
        let client = &self.client;
        self.spawn(tasks, "watch services", Source::<Service>::all(client), service);
        self.spawn(tasks, "watch nodes", Source::<Node>::all(client), node);
        let states = Source::<api::SpeakerState>::all(client);
        self.spawn(tasks, "watch speakerstates", states, network);
        let slices = Source::<EndpointSlice>::all(client).labels(api::names::labels::SERVICE_NAME);
        self.spawn(tasks, "watch endpointslices", slices, endpoints);
        self.spawn(tasks, "watch namespaces", Source::<Namespace>::all(client), namespace);
        // Older API servers have none.
        let cidrs = Source::<ServiceCIDR>::all(client).optional(ABSENT);
        self.spawn(tasks, "watch servicecidrs", cidrs, service_cidr);
        self.spawn(
            tasks,
            "watch virtualips",
            Source::<api::VirtualIp>::all(client),
            virtual_ip,
        );
        let verdicts = Source::<api::ConfigurationState>::namespaced(client, &self.namespace)
            .fields(format!("metadata.name={}", configuration_state::CONTROLLER));
        self.spawn(tasks, "watch configurationstates", verdicts, verdict);
        let ns = &self.namespace;
        let pools = Source::<api::IpAddressPool>::namespaced(client, ns);
        self.spawn(tasks, "watch ipaddresspools", pools, pool);
        let advertisements = Source::<api::L2Advertisement>::namespaced(client, ns);
        self.spawn(tasks, "watch l2advertisements", advertisements, object);
        let advertisements = Source::<api::BgpAdvertisement>::namespaced(client, ns);
        self.spawn(tasks, "watch bgpadvertisements", advertisements, object);
        let peers = Source::<api::BgpPeer>::namespaced(client, ns);
        self.spawn(tasks, "watch bgppeers", peers, object);
        let profiles = Source::<api::BfdProfile>::namespaced(client, ns);
        self.spawn(tasks, "watch bfdprofiles", profiles, object);
        let communities = Source::<api::Community>::namespaced(client, ns);
        self.spawn(tasks, "watch communities", communities, object);
        let policies = Source::<api::AllocationPolicy>::all(client);
        self.spawn(tasks, "watch allocationpolicies", policies, object);
        let policies = Source::<api::AnnouncementPolicy>::all(client);
        self.spawn(tasks, "watch announcementpolicies", policies, object);
    }

    fn spawn<K>(&self, tasks: &mut Tasks, name: &'static str, source: Source<K>, news: fn(Event<K>) -> Option<News>)
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static,
    {
        let watch = watch(
            source,
            self.readiness.clone(),
            self.metrics.clone(),
            self.sender.clone(),
            news,
            tasks.stop(),
        );
        tasks.spawn(name, watch);
    }
}

fn unreadable(kind: &str, key: &ObjectKey, error: impl ToString) -> Option<News> {
    Some(News::Unreadable(format!("{kind} {key}"), error.to_string()))
}

fn core(input: Input) -> News {
    News::Core(Box::new(input))
}

fn service(event: Event<Service>) -> Option<News> {
    Some(match event {
        Event::Applied(object) => core(Input::Service(ferrolb_config::service_view(&object))),
        Event::Gone(key) => core(Input::ServiceGone(ServiceId::new(key.namespace, key.name))),
        Event::Invalid { key, error } => return unreadable("Service", &key, error),
        Event::Synced => News::Synced(Stream::Services),
    })
}

fn node(event: Event<Node>) -> Option<News> {
    Some(match event {
        Event::Applied(object) => News::Node(Box::new((ferrolb_config::node_view(&object), NodeFacts::of(&object)))),
        Event::Gone(key) => News::NodeGone(key.name.into()),
        Event::Invalid { key, error } => return unreadable("Node", &key, error),
        Event::Synced => News::Synced(Stream::Nodes),
    })
}

fn network(event: Event<api::SpeakerState>) -> Option<News> {
    Some(match event {
        Event::Applied(object) => core(Input::Network(ferrolb_config::network_view(&object))),
        Event::Gone(key) => core(Input::NetworkGone(key.name.into())),
        Event::Invalid { key, error } => return unreadable("SpeakerState", &key, error),
        Event::Synced => News::Synced(Stream::Networks),
    })
}

fn endpoints(event: Event<EndpointSlice>) -> Option<News> {
    Some(match event {
        Event::Applied(object) => core(match ferrolb_config::endpoints_view(&object) {
            Some(view) => Input::Endpoints(view),
            None => Input::EndpointsGone(slice(ObjectKey::of(&object))),
        }),
        Event::Gone(key) => core(Input::EndpointsGone(slice(key))),
        Event::Invalid { key, error } => return unreadable("EndpointSlice", &key, error),
        Event::Synced => News::Synced(Stream::Endpoints),
    })
}

fn slice(key: ObjectKey) -> (String, String) {
    (key.namespace.into(), key.name.into())
}

fn namespace(event: Event<Namespace>) -> Option<News> {
    Some(match event {
        Event::Applied(object) => News::Namespace(
            object.metadata.name.unwrap_or_default(),
            Some(object.metadata.labels.unwrap_or_default().into()),
        ),
        Event::Gone(key) => News::Namespace(key.name.into(), None),
        Event::Invalid { key, error } => return unreadable("Namespace", &key, error),
        Event::Synced => News::Synced(Stream::Namespaces),
    })
}

fn service_cidr(event: Event<ServiceCIDR>) -> Option<News> {
    Some(match event {
        Event::Applied(object) => News::ServiceCidr(
            object.metadata.name.clone().unwrap_or_default(),
            Some(ferrolb_config::service_cidr(&object)),
        ),
        Event::Gone(key) => News::ServiceCidr(key.name.into(), None),
        Event::Invalid { key, error } => return unreadable("ServiceCIDR", &key, error),
        Event::Synced => News::Synced(Stream::ServiceCidrs),
    })
}

fn pool(event: Event<api::IpAddressPool>) -> Option<News> {
    let counters = match &event {
        Event::Applied(object) => object.status,
        _ => None,
    };
    object(event).map(|news| match news {
        News::Object(of, object) => News::Pool(of, object, counters),
        other => other,
    })
}

/// An object of the configuration. One that cannot be read is there, and wrong.
fn object<K: Configures>(event: Event<K>) -> Option<News> {
    let named = |name: &str| ObjectRef::new(K::KIND, name);
    Some(match event {
        Event::Applied(object) => {
            let of = named(object.metadata().name.as_deref().unwrap_or_default());
            News::Object(of, Some(object.into_object()))
        }
        Event::Gone(key) => News::Object(named(&key.name), None),
        Event::Invalid { key, error } => News::Object(named(&key.name), Some(K::KIND.unreadable(&error))),
        Event::Synced => News::Synced(Stream::Objects(K::KIND)),
    })
}

fn verdict(event: Event<api::ConfigurationState>) -> Option<News> {
    Some(match event {
        Event::Applied(object) => {
            let mut given = object.metadata.annotations.unwrap_or_default();
            News::Verdict {
                last_good: given.remove(annotations::LAST_GOOD),
                rebalance: given.remove(annotations::REBALANCE),
                rebalanced: given.remove(annotations::REBALANCED),
            }
        }
        Event::Gone(_) => News::VerdictGone,
        Event::Invalid { key, error } => return unreadable("ConfigurationState", &key, error),
        Event::Synced => News::Synced(Stream::Verdict),
    })
}

fn virtual_ip(event: Event<api::VirtualIp>) -> Option<News> {
    Some(match event {
        Event::Applied(object) => match ferrolb_config::virtual_ip(&object) {
            Ok(view) => News::VirtualIp(Box::new(view), WrittenConditions::of(&object)),
            Err(error) => return unreadable("VirtualIP", &ObjectKey::of(&object), error),
        },
        Event::Gone(key) => core(Input::VirtualIpGone(VirtualIpName::parse(&key.name)?)),
        Event::Invalid { key, error } => return unreadable("VirtualIP", &key, error),
        Event::Synced => News::Synced(Stream::VirtualIps),
    })
}
