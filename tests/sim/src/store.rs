//! The API server: objects with uid and resourceVersion, writes with preconditions, and what the watches have to tell.
//!
//! Every change bumps one version counter, as etcd does, and is put into `changed`, from where the simulator takes it
//! to each replica's watches.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ferrolb_controller_core::{Input, RebalanceRequest, Write, WriteError};
use ferrolb_model::{
    Claim, Config, EndpointsView, LinkView, NetworkView, NodeView, Placement, Probe, ServiceId, ServiceType,
    ServiceView, Stranger, VirtualIp,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The interface of every node.
pub(crate) const INTERFACE: &str = "eth0";
/// The subnets of every node: all addresses are in them.
const SEGMENT: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
];

/// One object of the world, or the configuration as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Config,
    Node(String),
    Slice((String, String)),
    Service(ServiceId),
    VirtualIp(IpAddr),
    Rebalance,
    Network(String),
}

/// How many kinds of [`Key`] there are; each has a watch stream of its own.
pub(crate) const KINDS: usize = 7;

impl Key {
    /// The number of its stream.
    pub(crate) fn kind(&self) -> usize {
        match self {
            Key::Config => 0,
            Key::Node(_) => 1,
            Key::Slice(_) => 2,
            Key::Service(_) => 3,
            Key::VirtualIp(_) => 4,
            Key::Rebalance => 5,
            Key::Network(_) => 6,
        }
    }
}

/// The objects.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) config: Arc<Config>,
    pub(crate) nodes: BTreeMap<String, NodeView>,
    /// What the speakers of the nodes tell.
    pub(crate) networks: BTreeMap<String, NetworkView>,
    pub(crate) slices: BTreeMap<(String, String), EndpointsView>,
    pub(crate) services: BTreeMap<ServiceId, ServiceView>,
    pub(crate) virtual_ips: BTreeMap<IpAddr, VirtualIp>,
    /// The request to rebalance that nobody has answered yet.
    pub(crate) rebalance: Option<RebalanceRequest>,
    /// Changes that no watch has been given yet.
    pub(crate) changed: Vec<(Key, Input)>,
    version: u64,
}

impl Store {
    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn change(&mut self, key: Key) {
        let input = self.tell(&key);
        self.changed.push((key, input));
    }

    /// What a watch says of the object now.
    pub(crate) fn tell(&self, key: &Key) -> Input {
        match key {
            Key::Config => Input::Config(Arc::clone(&self.config)),
            Key::Node(name) => match self.nodes.get(name) {
                Some(view) => Input::Node(view.clone()),
                None => Input::NodeGone(name.clone()),
            },
            Key::Slice(name) => match self.slices.get(name) {
                Some(view) => Input::Endpoints(view.clone()),
                None => Input::EndpointsGone(name.clone()),
            },
            Key::Service(id) => match self.services.get(id) {
                Some(view) => Input::Service(view.clone()),
                None => Input::ServiceGone(id.clone()),
            },
            Key::VirtualIp(address) => match self.virtual_ips.get(address) {
                Some(object) => Input::VirtualIp(object.clone()),
                None => Input::VirtualIpGone(*address),
            },
            Key::Rebalance => Input::Rebalance(self.rebalance.clone()),
            Key::Network(node) => match self.networks.get(node) {
                Some(view) => Input::Network(view.clone()),
                None => Input::NetworkGone(node.clone()),
            },
        }
    }

    /// Every object of a kind.
    pub(crate) fn list(&self, kind: usize) -> Vec<Key> {
        match kind {
            0 => vec![Key::Config],
            1 => self.nodes.keys().cloned().map(Key::Node).collect(),
            2 => self.slices.keys().cloned().map(Key::Slice).collect(),
            3 => self.services.keys().cloned().map(Key::Service).collect(),
            4 => self.virtual_ips.keys().copied().map(Key::VirtualIp).collect(),
            5 => vec![Key::Rebalance],
            _ => self.networks.keys().cloned().map(Key::Network).collect(),
        }
    }

    pub(crate) fn set_config(&mut self, config: Arc<Config>) {
        self.config = config;
        self.change(Key::Config);
    }

    pub(crate) fn set_node(&mut self, view: NodeView) {
        let key = Key::Node(view.name.clone());
        self.nodes.insert(view.name.clone(), view);
        self.change(key);
    }

    /// The speaker of a node tells of its one interface, which is in the segment of every address.
    pub(crate) fn set_network(&mut self, node: &str) {
        let link = LinkView {
            name: INTERFACE.to_owned(),
            running: true,
            subnets: SEGMENT.into(),
        };
        let view = NetworkView {
            node: node.to_owned(),
            addresses: BTreeMap::new(),
            links: vec![link],
            conflicts: BTreeMap::new(),
        };
        if self.networks.insert(node.to_owned(), view).is_none() {
            self.change(Key::Network(node.to_owned()));
        }
    }

    pub(crate) fn remove_network(&mut self, node: &str) {
        if self.networks.remove(node).is_some() {
            self.change(Key::Network(node.to_owned()));
        }
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        if self.nodes.remove(name).is_some() {
            self.change(Key::Node(name.to_owned()));
        }
    }

    pub(crate) fn set_slice(&mut self, view: EndpointsView) {
        let key = Key::Slice(view.slice.clone());
        self.slices.insert(view.slice.clone(), view);
        self.change(key);
    }

    /// Creates a Service or changes all but its status, as a user does. A Service that is no LoadBalancer has no status.
    pub(crate) fn apply_service(&mut self, mut view: ServiceView, created: i64) {
        match self.services.get(&view.id) {
            Some(old) => {
                view.uid.clone_from(&old.uid);
                view.created = old.created;
                view.ingress.clone_from(&old.ingress);
                view.ingress_foreign = old.ingress_foreign;
                view.pool_annotation.clone_from(&old.pool_annotation);
            }
            None => {
                view.uid = format!("{}#{}", view.id, self.version);
                view.created = created;
            }
        }
        if view.kind != ServiceType::LoadBalancer {
            view.ingress.clear();
            view.ingress_foreign = false;
        }
        self.put_service(view);
    }

    /// Writes a Service as it is.
    pub(crate) fn put_service(&mut self, mut view: ServiceView) {
        view.resource_version = self.next_version();
        let key = Key::Service(view.id.clone());
        self.services.insert(view.id.clone(), view);
        self.change(key);
    }

    pub(crate) fn remove_service(&mut self, id: &ServiceId) {
        if self.services.remove(id).is_some() {
            self.change(Key::Service(id.clone()));
        }
    }

    /// Writes a VirtualIP; a new one gets a uid.
    pub(crate) fn put_virtual_ip(&mut self, mut object: VirtualIp) {
        object.resource_version = self.next_version();
        if object.uid.is_empty() {
            object.uid = format!("vip#{}", object.resource_version);
        }
        let key = Key::VirtualIp(object.address);
        self.virtual_ips.insert(object.address, object);
        self.change(key);
    }

    pub(crate) fn remove_virtual_ip(&mut self, address: IpAddr) {
        if self.virtual_ips.remove(&address).is_some() {
            self.change(Key::VirtualIp(address));
        }
    }

    /// Somebody asks to rebalance, in place of whoever asked before.
    pub(crate) fn ask_to_rebalance(&mut self, request: RebalanceRequest) {
        self.rebalance = Some(request);
        self.change(Key::Rebalance);
    }

    /// The answer to a request stands where the request does.
    pub(crate) fn answer_rebalance(&mut self, request: &str) {
        if self.rebalance.take_if(|open| open.text == request).is_some() {
            self.change(Key::Rebalance);
        }
    }

    /// Does a write of the controller, or says why not.
    pub(crate) fn perform(&mut self, write: &Write) -> Result<(), WriteError> {
        match write.clone() {
            Write::CreateVirtualIp {
                address,
                pool,
                claims,
                sharing_key,
                prober,
            } => {
                if self.virtual_ips.contains_key(&address) {
                    return Err(WriteError::Conflict);
                }
                self.put_virtual_ip(VirtualIp {
                    pool,
                    claims,
                    sharing_key,
                    probe: prober.map(|node| Box::new(Probe::Asked { node })),
                    ..VirtualIp::of(address)
                });
            }
            Write::UpdateVirtualIp {
                address,
                pool,
                claims,
                sharing_key,
                resource_version,
            } => {
                let object = self.read(address, &resource_version)?;
                self.put_virtual_ip(VirtualIp {
                    pool,
                    claims,
                    sharing_key,
                    ..object
                });
            }
            Write::ConfirmVirtualIp {
                address,
                resource_version,
            } => drop(self.read(address, &resource_version)?),
            Write::DeleteVirtualIp {
                address,
                uid,
                resource_version,
            } => {
                if self.read(address, &resource_version)?.uid != uid {
                    return Err(WriteError::Conflict);
                }
                self.remove_virtual_ip(address);
            }
            Write::SetVirtualIpStatus {
                address,
                placement,
                answered_move,
                conditions,
                resource_version,
            } => {
                let object = self.read(address, &resource_version)?;
                self.put_virtual_ip(VirtualIp {
                    placement,
                    answered_move,
                    conditions,
                    ..object
                });
            }
            Write::SetServiceStatus {
                service,
                uid,
                resource_version,
                ingress,
                pool,
            } => {
                let view = self.services.get(&service).ok_or(WriteError::Gone)?;
                if view.uid != uid || view.resource_version != resource_version {
                    return Err(WriteError::Conflict);
                }
                self.put_service(ServiceView {
                    pool_annotation: pool.filter(|_| !ingress.is_empty()),
                    ingress,
                    ingress_foreign: false,
                    ..view.clone()
                });
            }
        }
        Ok(())
    }

    fn read(&self, address: IpAddr, version: &str) -> Result<VirtualIp, WriteError> {
        let object = self.virtual_ips.get(&address).ok_or(WriteError::Gone)?;
        if object.resource_version == version {
            Ok(object.clone())
        } else {
            Err(WriteError::Conflict)
        }
    }

    /// The speaker that was asked says what it has found. Gives whether it is still asked.
    pub(crate) fn answer_probe(&mut self, address: IpAddr, uid: &str, stranger: Option<Stranger>) -> bool {
        let object = self.virtual_ips.get(&address).filter(|object| object.uid == uid);
        let Some((object, Probe::Asked { node })) = object.and_then(|o| Some((o, o.probe.as_deref()?))) else {
            return false;
        };
        let node = node.clone();
        let probe = stranger.map(|stranger| Box::new(Probe::Occupied { node, stranger }));
        self.put_virtual_ip(VirtualIp {
            probe,
            ..object.clone()
        });
        true
    }

    /// The speaker of the owner notes that it announces. Gives whether there was anything to note.
    pub(crate) fn announce(&mut self, address: IpAddr) -> bool {
        let Some(object) = self.virtual_ips.get(&address) else {
            return false;
        };
        let announcer = object.placement.as_ref().map(|p| ferrolb_model::Announcer {
            node: p.owner.clone(),
            interfaces: ["eth0".to_owned()].into(),
        });
        if object.announcer == announcer {
            return false;
        }
        let object = VirtualIp {
            announcer,
            ..object.clone()
        };
        self.put_virtual_ip(object);
        true
    }

    /// A speaker that took the address over writes itself down, unless somebody who counts more was faster.
    pub(crate) fn record_takeover(&mut self, address: IpAddr, placement: Placement) -> bool {
        let Some(object) = self.virtual_ips.get(&address) else {
            return false;
        };
        let known = object.placement.as_ref().map(Placement::order);
        if known.is_none_or(|known| known >= placement.order()) {
            return false;
        }
        self.put_virtual_ip(VirtualIp {
            placement: Some(placement),
            ..object.clone()
        });
        true
    }
}

/// Whether the object carries a claim that is good for the Service.
pub(crate) fn claims(object: Option<&VirtualIp>, view: &ServiceView) -> bool {
    object.is_some_and(|o| o.claims.iter().any(|c| is_good(c, view)))
}

/// Whether the claim is good for the Service.
pub(crate) fn is_good(claim: &Claim, view: &ServiceView) -> bool {
    claim.service == view.id && claim.uid.as_ref().is_none_or(|uid| *uid == view.uid)
}
