//! The objects that reports are made of.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ferrolb_api as api;
use ferrolb_config::{Configures, Kind, ObjectRef, Snapshot};
use ferrolb_model::ServiceId;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

/// A copy of what a cluster holds, as far as it matters here.
#[derive(Debug, Default)]
pub struct World {
    /// Where FerroLB's `metallb.io` objects are.
    pub namespace: String,
    /// Services by namespace and name.
    pub services: BTreeMap<ServiceId, Service>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Namespaces.
    pub namespaces: Vec<Namespace>,
    /// ServiceCIDRs.
    pub service_cidrs: Vec<ServiceCIDR>,
    /// EndpointSlices.
    pub slices: Vec<EndpointSlice>,
    /// Events, of any object.
    pub events: Vec<Event>,
    /// VirtualIPs.
    pub virtual_ips: Vec<api::VirtualIp>,
    /// Where those stand whose address can be read.
    by_address: BTreeMap<IpAddr, usize>,
    /// SpeakerStates.
    pub speakers: Vec<api::SpeakerState>,
    /// ServiceBGPStatuses.
    pub bgp_statuses: Vec<api::ServiceBgpStatus>,
    /// ConfigurationStates.
    pub configuration_states: Vec<api::ConfigurationState>,
    /// ConfigMaps.
    pub config_maps: Vec<ConfigMap>,
    /// Deployments.
    pub deployments: Vec<Deployment>,
    /// DaemonSets.
    pub daemon_sets: Vec<DaemonSet>,
    /// ValidatingWebhookConfigurations.
    pub webhooks: Vec<ValidatingWebhookConfiguration>,
    /// CustomResourceDefinitions.
    pub definitions: Vec<CustomResourceDefinition>,
    /// The objects of the configuration by namespace; those without one under the empty name.
    configuration: BTreeMap<String, Snapshot>,
    /// The same as they came, for those of `metallb.io`.
    pub raw: Vec<Value>,
    /// Objects that cannot be read, each with why.
    pub unreadable: Vec<String>,
}

/// Why a text holds no objects.
#[derive(Debug, Error)]
pub enum WorldError {
    /// It is no YAML.
    #[error("not YAML: {0}")]
    Yaml(String),
    /// A document is no object of Kubernetes.
    #[error("document {document} has no kind; a file holds what kubectl get -o yaml prints")]
    NoKind {
        /// Its place, from one.
        document: usize,
    },
}

impl World {
    /// An empty world with FerroLB in `namespace`.
    pub fn new(namespace: &str) -> Self {
        World {
            namespace: namespace.to_owned(),
            ..World::default()
        }
    }

    /// Takes in the objects of a YAML text, lists of objects as well.
    ///
    /// # Errors
    /// When it is no YAML, or a document is no object.
    pub fn read(&mut self, text: &str) -> Result<(), WorldError> {
        let documents = serde_saphyr::from_multiple::<Value>(text).map_err(|e| WorldError::Yaml(e.to_string()))?;
        for (place, document) in documents.into_iter().enumerate().filter(|(_, d)| !d.is_null()) {
            if !document["kind"].is_string() {
                return Err(WorldError::NoKind { document: place + 1 });
            }
            self.take(document);
        }
        Ok(())
    }

    /// Takes in one object. Kinds that do not matter are passed over.
    pub fn take(&mut self, object: Value) {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        if let (true, Value::Array(items)) = (kind.ends_with("List"), &object["items"]) {
            return items.clone().into_iter().for_each(|item| self.take(item));
        }
        let group = object["apiVersion"].as_str().unwrap_or_default();
        let group = group.split_once('/').map_or("", |(group, _)| group).to_owned();
        let unreadable = &mut self.unreadable;
        match (group.as_str(), kind.as_str()) {
            ("", "Service") => {
                if let Some(service) = parsed::<Service>(object, unreadable) {
                    self.services.insert(id_of(&service), service);
                }
            }
            ("", "Node") => self.nodes.extend(parsed(object, unreadable)),
            ("", "Namespace") => self.namespaces.extend(parsed(object, unreadable)),
            ("", "Event") => self.events.extend(parsed(object, unreadable)),
            ("", "ConfigMap") => self.config_maps.extend(parsed(object, unreadable)),
            ("networking.k8s.io", "ServiceCIDR") => self.service_cidrs.extend(parsed(object, unreadable)),
            ("discovery.k8s.io", "EndpointSlice") => self.slices.extend(parsed(object, unreadable)),
            ("apps", "Deployment") => self.deployments.extend(parsed(object, unreadable)),
            ("apps", "DaemonSet") => self.daemon_sets.extend(parsed(object, unreadable)),
            ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => {
                self.webhooks.extend(parsed(object, unreadable));
            }
            ("apiextensions.k8s.io", "CustomResourceDefinition") => self.definitions.extend(parsed(object, unreadable)),
            ("ferrolb.io", "VirtualIP") => {
                if let Some(vip) = parsed::<api::VirtualIp>(object, unreadable) {
                    if let Some(address) = ferrolb_config::parse_address(&vip.spec.address) {
                        self.by_address.entry(address).or_insert(self.virtual_ips.len());
                    }
                    self.virtual_ips.push(vip);
                }
            }
            ("ferrolb.io", "SpeakerState") => self.speakers.extend(parsed(object, unreadable)),
            ("metallb.io", "ServiceBGPStatus") => self.bgp_statuses.extend(parsed(object, unreadable)),
            ("metallb.io", "ConfigurationState") => self.configuration_states.extend(parsed(object, unreadable)),
            ("metallb.io", _) => self.configures(&kind, object, true),
            ("ferrolb.io", _) => self.configures(&kind, object, false),
            _ => {}
        }
    }

    fn configures(&mut self, kind: &str, object: Value, keep: bool) {
        let Some(kind) = Kind::ALL.iter().copied().find(|k| k.name() == kind) else {
            return;
        };
        if keep {
            self.raw.push(object.clone());
        }
        let of = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let name = ObjectRef::new(kind, of("/metadata/name"));
        let namespace = of("/metadata/namespace").to_owned();
        let read = match kind {
            Kind::Pool => into_object::<api::IpAddressPool>(object),
            Kind::L2Advertisement => into_object::<api::L2Advertisement>(object),
            Kind::BgpAdvertisement => into_object::<api::BgpAdvertisement>(object),
            Kind::BgpPeer => into_object::<api::BgpPeer>(object),
            Kind::BfdProfile => into_object::<api::BfdProfile>(object),
            Kind::Community => into_object::<api::Community>(object),
            Kind::AllocationPolicy => into_object::<api::AllocationPolicy>(object),
            Kind::AnnouncementPolicy => into_object::<api::AnnouncementPolicy>(object),
        };
        let read = read.unwrap_or_else(|error| kind.unreadable(&error.to_string()));
        self.configuration.entry(namespace).or_default().insert(name, read);
    }

    /// The configuration as an installation in `namespace` sees it.
    pub fn configuration(&self, namespace: &str) -> Snapshot {
        let parts = [namespace, ""].into_iter().filter_map(|ns| self.configuration.get(ns));
        parts
            .flatten()
            .map(|(name, object)| (name.clone(), object.clone()))
            .collect()
    }

    /// The VirtualIP of an address.
    pub fn virtual_ip(&self, address: IpAddr) -> Option<&api::VirtualIp> {
        self.virtual_ips.get(*self.by_address.get(&address)?)
    }
}

/// Namespace and name of a Service.
pub fn id_of(service: &Service) -> ServiceId {
    ServiceId::new(service.namespace().unwrap_or_default(), service.name_any())
}

fn into_object<K: Configures + DeserializeOwned>(object: Value) -> Result<ferrolb_config::Object, serde_json::Error> {
    Ok(serde_json::from_value::<K>(object)?.into_object())
}

fn parsed<K: DeserializeOwned>(object: Value, unreadable: &mut Vec<String>) -> Option<K> {
    let of = |path: &str| {
        object
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let name = format!("{} {:?}", of("/kind"), of("/metadata/name"));
    serde_json::from_value(object)
        .map_err(|error| unreadable.push(format!("{name} cannot be read: {error}")))
        .ok()
}
