//! The least of an API server that a controller can live on: every write succeeds, and what it made comes back through
//! the watch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_controller_core::{Controller, Effect, Input, Settings, Write};
use ferrolb_model::{
    AnnouncementPolicy, Announcer, AntiAffinity, Claim, Config, Endpoint, EndpointsView, Family, FamilySet,
    L2Advertisement, Labels, Layer2Settings, NodeView, OnShrink, Pool, PoolSelection, Port, Protocol, ServiceId,
    ServiceView, VirtualIp,
};

/// Nothing here depends on the time, but that released addresses are free at once.
const NOW: Duration = Duration::from_secs(1);

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// A controller and the objects that it sees.
pub(crate) struct Cluster {
    controller: Controller,
    services: BTreeMap<ServiceId, ServiceView>,
    virtual_ips: BTreeMap<IpAddr, VirtualIp>,
    version: u64,
    /// How many writes were asked for so far.
    pub(crate) writes: usize,
}

impl Cluster {
    /// A controller that has seen the configuration, three nodes and `objects`, but does not know yet that this was all.
    pub(crate) fn listed(config: &Arc<Config>, objects: &Objects) -> Self {
        let settings = Settings {
            cool_down: Duration::ZERO,
            ..Settings::default()
        };
        let mut cluster = Cluster {
            controller: Controller::new(settings),
            services: objects.services.clone(),
            virtual_ips: objects.virtual_ips.clone(),
            version: 1,
            writes: 0,
        };
        cluster.handle(Input::Config(Arc::clone(config)));
        for name in NODES {
            cluster.handle(Input::Node(node(name)));
        }
        for input in objects.inputs() {
            cluster.handle(input);
        }
        cluster
    }

    /// The same, after its first pass, with nothing left to write.
    pub(crate) fn running(config: &Arc<Config>, objects: &Objects) -> Self {
        let mut cluster = Cluster::listed(config, objects);
        let effects = cluster.handle(Input::Synced);
        cluster.settle(effects);
        cluster
    }

    pub(crate) fn controller(&self) -> &Controller {
        &self.controller
    }

    pub(crate) fn handle(&mut self, input: Input) -> Vec<Effect> {
        self.controller.handle(input, NOW)
    }

    /// Creates or changes a Service as a user does, and hands over the news of it.
    pub(crate) fn put(&mut self, mut view: ServiceView) -> Input {
        view.resource_version = self.next_version();
        self.services.insert(view.id.clone(), view.clone());
        Input::Service(view)
    }

    /// Deletes a Service as a user does.
    pub(crate) fn delete(&mut self, id: &ServiceId) -> Input {
        self.services.remove(id);
        Input::ServiceGone(id.clone())
    }

    /// Performs all writes and what follows from them.
    pub(crate) fn settle(&mut self, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            let Effect::Write(write) = effect else { continue };
            self.writes += 1;
            let key = write.key();
            let news = self.perform(write);
            effects.extend(self.handle(Input::Written { key, result: Ok(()) }));
            effects.extend(self.handle(news));
        }
    }

    /// Every owner says that it announces.
    pub(crate) fn confirm(&mut self) {
        for object in self.virtual_ips.values().cloned().collect::<Vec<_>>() {
            let announcer = object.placement.as_ref().map(|placed| Announcer {
                node: placed.owner.clone(),
                interfaces: Box::default(),
            });
            let resource_version = self.next_version();
            let news = self.store(VirtualIp {
                announcer,
                resource_version,
                ..object
            });
            let effects = self.handle(news);
            self.settle(effects);
        }
    }

    /// What the cluster consists of, to start another controller from.
    pub(crate) fn objects(&self) -> Objects {
        Objects {
            services: self.services.clone(),
            virtual_ips: self.virtual_ips.clone(),
        }
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn perform(&mut self, write: Write) -> Input {
        let resource_version = self.next_version();
        match write {
            Write::CreateVirtualIp {
                address,
                pool,
                claims,
                sharing_key,
                ..
            } => self.store(VirtualIp {
                pool,
                claims,
                sharing_key,
                uid: format!("uid-{resource_version}"),
                resource_version,
                ..VirtualIp::of(address)
            }),
            Write::UpdateVirtualIp {
                address,
                pool,
                claims,
                sharing_key,
                ..
            } => {
                let old = self.virtual_ips[&address].clone();
                self.store(VirtualIp {
                    pool,
                    claims,
                    sharing_key,
                    resource_version,
                    ..old
                })
            }
            Write::SetVirtualIpStatus {
                address,
                placement,
                answered_move,
                conditions,
                ..
            } => {
                let old = self.virtual_ips[&address].clone();
                self.store(VirtualIp {
                    placement,
                    answered_move,
                    conditions,
                    resource_version,
                    ..old
                })
            }
            Write::ConfirmVirtualIp { address, .. } => Input::VirtualIp(self.virtual_ips[&address].clone()),
            Write::DeleteVirtualIp { address, .. } => {
                self.virtual_ips.remove(&address);
                Input::VirtualIpGone(address)
            }
            Write::SetServiceStatus {
                service, ingress, pool, ..
            } => {
                let view = self.services.get_mut(&service).expect("a Service that is written to");
                view.ingress = ingress;
                view.pool_annotation = pool;
                view.resource_version = resource_version;
                Input::Service(view.clone())
            }
        }
    }

    fn store(&mut self, object: VirtualIp) -> Input {
        self.virtual_ips.insert(object.address, object.clone());
        Input::VirtualIp(object)
    }
}

/// Services and the VirtualIPs of their addresses.
#[derive(Clone, Default)]
pub(crate) struct Objects {
    services: BTreeMap<ServiceId, ServiceView>,
    virtual_ips: BTreeMap<IpAddr, VirtualIp>,
}

impl Objects {
    /// Services without addresses.
    pub(crate) fn new_services(count: usize) -> Self {
        let services = (0..count).map(|n| service(&name(n), Family::V4));
        Objects {
            services: services.map(|v| (v.id.clone(), v)).collect(),
            ..Objects::default()
        }
    }

    /// One Service for each address, which holds it by a claim and shows it.
    pub(crate) fn holding(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut objects = Objects::default();
        for (n, address) in addresses.into_iter().enumerate() {
            let mut view = service(&name(n), Family::of(address));
            view.ingress = vec![address];
            view.pool_annotation = Some("pool".to_owned());
            let object = VirtualIp {
                pool: Some("pool".to_owned()),
                claims: vec![Claim {
                    service: view.id.clone(),
                    uid: Some(view.uid.clone()),
                }],
                uid: format!("uid-{address}"),
                resource_version: "1".to_owned(),
                ..VirtualIp::of(address)
            };
            objects.services.insert(view.id.clone(), view);
            objects.virtual_ips.insert(address, object);
        }
        objects
    }

    /// The same with the label `app`, of which so many have the same.
    pub(crate) fn labelled(mut self, alike: usize) -> Self {
        for (n, view) in self.services.values_mut().enumerate() {
            view.labels = Labels::from([("app".to_owned(), format!("app-{}", n / alike))]);
        }
        self
    }

    /// The lists as the watches tell them. Every Service can be served on every node.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = Input> {
        let services = self.services.values().cloned().map(Input::Service);
        let slices = self.services.keys().map(|id| Input::Endpoints(endpoints(id)));
        let virtual_ips = self.virtual_ips.values().cloned().map(Input::VirtualIp);
        slices.chain(services).chain(virtual_ips)
    }
}

fn name(n: usize) -> String {
    format!("service-{n:06}")
}

/// A Service of one family with one port.
pub(crate) fn service(name: &str, family: Family) -> ServiceView {
    ServiceView {
        uid: format!("uid-of-{name}-with-36-letters-or-so"),
        families: FamilySet::from_iter([family]),
        primary_family: family,
        selector: "app=web".to_owned(),
        ports: BTreeSet::from([Port {
            protocol: Protocol::Tcp,
            port: 80,
        }]),
        resource_version: "1".to_owned(),
        ..ServiceView::load_balancer(ServiceId::new("default", name))
    }
}

fn endpoints(service: &ServiceId) -> EndpointsView {
    let endpoint = |node: &str| Endpoint {
        node: Some(node.to_owned()),
        ready: true,
        serving: true,
    };
    EndpointsView {
        slice: (service.namespace.clone(), format!("{}-slice", service.name)),
        service: service.clone(),
        family: Family::V4,
        endpoints: NODES.map(endpoint).to_vec(),
    }
}

/// A node that may announce.
pub(crate) fn node(name: &str) -> NodeView {
    NodeView {
        name: name.to_owned(),
        labels: Labels::from([("kubernetes.io/hostname".to_owned(), name.to_owned())]),
        ready: true,
        silent: false,
        network_unavailable: false,
        excluded: false,
        cordoned: false,
        evicting: false,
        addresses: BTreeSet::new(),
    }
}

/// One pool of these ranges, announced by every node.
pub(crate) fn config(ranges: &[&str]) -> Arc<Config> {
    let pool = Pool {
        name: "pool".to_owned(),
        labels: Labels::new(),
        ranges: ranges.iter().map(|r| r.parse().expect("a range")).collect(),
        auto_assign: true,
        avoid_buggy_ips: false,
        allocation: None,
        on_shrink: OnShrink::Keep,
    };
    let advertisement = L2Advertisement {
        name: "all".to_owned(),
        pools: PoolSelection::All,
        node_selectors: Vec::new(),
        service_selectors: Vec::new(),
        interfaces: None,
        preferred_nodes: Vec::new(),
    };
    Arc::new(Config {
        pools: BTreeMap::from([(pool.name.clone(), pool)]),
        l2_advertisements: BTreeMap::from([(advertisement.name.clone(), advertisement)]),
        ..Config::default()
    })
}

/// Addresses of Services with the same label `app` are kept apart.
pub(crate) fn apart() -> AnnouncementPolicy {
    AnnouncementPolicy {
        name: "apart".to_owned(),
        pools: PoolSelection::All,
        service_selectors: Vec::new(),
        node_selectors: Vec::new(),
        on_request: None,
        layer2: Layer2Settings {
            anti_affinity: Some(AntiAffinity::Label("app".to_owned())),
            ..Layer2Settings::default()
        },
        drain: Default::default(),
        endpoints: Default::default(),
        bgp: Default::default(),
    }
}

/// The address so many places behind `first`.
pub(crate) fn address(first: IpAddr, offset: usize) -> IpAddr {
    match first {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) + u32::try_from(offset).expect("an IPv4 offset")).into()),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) + offset as u128).into()),
    }
}
