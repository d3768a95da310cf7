//! What is watched, and how objects become news for the owner task.
//!
//! An object is turned into the small view that decisions need right where it arrives; the object itself is dropped
//! there, so that memory holds views only.

use ferrolb_api as api;
use ferrolb_controller_core::Input;
use ferrolb_model::{Labels, ServiceId, VirtualIp, VirtualIpName};
use ferrolb_runtime::readiness::Readiness;
use ferrolb_runtime::tasks::Tasks;
use ferrolb_runtime::watch::{self, Event, ObjectKey, Source, watch};
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::writes::WrittenConditions;

/// One piece of news.
#[derive(Debug)]
pub(crate) enum News {
    /// Straight to the core.
    Core(Box<Input>),
    /// A VirtualIP, with what the core does not keep.
    VirtualIp(Box<VirtualIp>, WrittenConditions),
    /// An IPAddressPool, or that it is gone.
    Pool(ObjectKey, Option<Box<api::IpAddressPool>>),
    /// An L2Advertisement, or that it is gone.
    Advertisement(ObjectKey, Option<Box<api::L2Advertisement>>),
    /// The labels of a namespace, or that it is gone.
    Namespace(String, Option<Labels>),
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
    Endpoints,
    Namespaces,
    Pools,
    Advertisements,
    VirtualIps,
}

impl Stream {
    pub(crate) const ALL: [Stream; 7] = [
        Stream::Services,
        Stream::Nodes,
        Stream::Endpoints,
        Stream::Namespaces,
        Stream::Pools,
        Stream::Advertisements,
        Stream::VirtualIps,
    ];
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
        let slices = Source::<EndpointSlice>::all(client).labels(api::names::labels::SERVICE_NAME);
        self.spawn(tasks, "watch endpointslices", slices, endpoints);
        self.spawn(tasks, "watch namespaces", Source::<Namespace>::all(client), namespace);
        let pools = Source::<api::IpAddressPool>::namespaced(client, &self.namespace);
        self.spawn(tasks, "watch ipaddresspools", pools, pool);
        let advertisements = Source::<api::L2Advertisement>::namespaced(client, &self.namespace);
        self.spawn(tasks, "watch l2advertisements", advertisements, advertisement);
        self.spawn(
            tasks,
            "watch virtualips",
            Source::<api::VirtualIp>::all(client),
            virtual_ip,
        );
        let verdicts = Source::<api::ConfigurationState>::namespaced(client, &self.namespace)
            .fields(format!("metadata.name={}", api::names::configuration_state::CONTROLLER));
        self.spawn(tasks, "watch configurationstates", verdicts, |event| match event {
            Event::Gone(_) => Some(News::VerdictGone),
            _ => None,
        });
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
        Event::Applied(object) => core(Input::Node(ferrolb_config::node_view(&object))),
        Event::Gone(key) => core(Input::NodeGone(key.name.into())),
        Event::Invalid { key, error } => return unreadable("Node", &key, error),
        Event::Synced => News::Synced(Stream::Nodes),
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
            Some(object.metadata.labels.unwrap_or_default()),
        ),
        Event::Gone(key) => News::Namespace(key.name.into(), None),
        Event::Invalid { key, error } => return unreadable("Namespace", &key, error),
        Event::Synced => News::Synced(Stream::Namespaces),
    })
}

fn pool(event: Event<api::IpAddressPool>) -> Option<News> {
    Some(match event {
        Event::Applied(object) => News::Pool(ObjectKey::of(&object), Some(Box::new(object))),
        Event::Gone(key) => News::Pool(key, None),
        Event::Invalid { key, error } => return unreadable("IPAddressPool", &key, error),
        Event::Synced => News::Synced(Stream::Pools),
    })
}

fn advertisement(event: Event<api::L2Advertisement>) -> Option<News> {
    Some(match event {
        Event::Applied(object) => News::Advertisement(ObjectKey::of(&object), Some(Box::new(object))),
        Event::Gone(key) => News::Advertisement(key, None),
        Event::Invalid { key, error } => return unreadable("L2Advertisement", &key, error),
        Event::Synced => News::Synced(Stream::Advertisements),
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
