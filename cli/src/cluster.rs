//! Reads a world from an API server.

use kube::api::{Api, DynamicObject, ListParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Error};
use serde_json::Value;
use std::time::Duration;
use thiserror::Error as ThisError;

use crate::args::{Action, Cli, Migrate};
use crate::world::World;

/// How long an answer of the API server may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// So many objects at once.
const PAGE: u32 = 500;

/// Why a cluster cannot be read.
#[derive(Debug, ThisError)]
pub enum ClusterError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig: {0}")]
    Kubeconfig(String),
    /// What is asked for is not served, or not allowed.
    #[error("{}", .0.join("\n"))]
    Cannot(Vec<String>),
    /// The API server refused, or was not reached.
    #[error("{what}: {source}")]
    Request {
        /// What was asked.
        what: String,
        /// The answer.
        source: Box<Error>,
    },
    /// What was asked for was refused or is late.
    #[error("{0}")]
    Refused(String),
}

/// A connection.
pub struct Cluster {
    /// The client.
    pub client: Client,
    /// The namespace of the context, or the one that was named.
    pub namespace: String,
}

/// Connects as kubectl would.
///
/// # Errors
/// When the kubeconfig cannot be used.
pub async fn connect(cli: &Cli) -> Result<Cluster, ClusterError> {
    let wrong = |error: &dyn std::fmt::Display| ClusterError::Kubeconfig(error.to_string());
    let options = KubeConfigOptions {
        context: cli.context.clone(),
        ..KubeConfigOptions::default()
    };
    let file = match &cli.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let file = file.map_err(|error| wrong(&error))?;
    let config = Config::from_custom_kubeconfig(file, &options).await;
    let mut config = config.map_err(|error| wrong(&error))?;
    config.read_timeout = Some(PATIENCE);
    config.connect_timeout = Some(PATIENCE);
    let namespace = cli
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|error| wrong(&error))?;
    Ok(Cluster { client, namespace })
}

/// What is listed.
struct Kind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    /// Without it there is no answer.
    needed: bool,
}

macro_rules! kinds {
    ($($name:ident = $($group:literal, $version:literal, $kind:literal, $plural:literal, $needed:literal);+;)*) => {
        $(const $name: &[Kind] = &[$(Kind {
            group: $group, version: $version, kind: $kind, plural: $plural, needed: $needed,
        }),+];)*
    };
}

kinds! {
    COMMON =
        "", "v1", "Service", "services", true;
        "", "v1", "Node", "nodes", true;
        "", "v1", "Namespace", "namespaces", true;
        "discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", true;
        "networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", false;
    METALLB =
        "metallb.io", "v1beta1", "IPAddressPool", "ipaddresspools", true;
        "metallb.io", "v1beta1", "L2Advertisement", "l2advertisements", true;
        "metallb.io", "v1beta1", "BGPAdvertisement", "bgpadvertisements", true;
        "metallb.io", "v1beta2", "BGPPeer", "bgppeers", true;
        "metallb.io", "v1beta1", "BFDProfile", "bfdprofiles", true;
        "metallb.io", "v1beta1", "Community", "communities", true;
    STATES =
        "metallb.io", "v1beta1", "ServiceBGPStatus", "servicebgpstatuses", true;
        "metallb.io", "v1beta1", "ConfigurationState", "configurationstates", true;
    FERROLB =
        "ferrolb.io", "v1alpha1", "AllocationPolicy", "allocationpolicies", true;
        "ferrolb.io", "v1alpha1", "AnnouncementPolicy", "announcementpolicies", true;
        "ferrolb.io", "v1alpha1", "VirtualIP", "virtualips", true;
        "ferrolb.io", "v1alpha1", "SpeakerState", "speakerstates", true;
    DEFINITIONS =
        "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", false;
        "admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", true;
    WORKLOADS =
        "apps", "v1", "Deployment", "deployments", true;
        "apps", "v1", "DaemonSet", "daemonsets", true;
        "", "v1", "ConfigMap", "configmaps", true;
    EVENTS = "", "v1", "Event", "events", false;
}

impl Cluster {
    /// Lists what the question needs.
    ///
    /// # Errors
    /// Names every kind that is not served or may not be listed, and what would be right.
    pub async fn list(&self, cli: &Cli) -> Result<World, ClusterError> {
        let mut world = World::new(&cli.ferrolb_namespace);
        let mut cannot = Vec::new();
        let all = None;
        let mut kinds = vec![(COMMON, all, true)];
        match &cli.action {
            Action::Migrate {
                metallb_namespace,
                step,
            } => {
                let of = Some(metallb_namespace.as_str());
                // A MetalLB that has only a ConfigMap has no kinds, one that never met FerroLB none of ours.
                kinds.extend([(METALLB, of, false), (FERROLB, all, false), (WORKLOADS, of, true)]);
                if *step == Migrate::Check {
                    kinds.push((DEFINITIONS, all, true));
                }
            }
            _ => {
                let own = Some(cli.ferrolb_namespace.as_str());
                kinds.extend([(METALLB, own, true), (STATES, all, true), (FERROLB, all, true)]);
                let events = (!cli.all_namespaces).then_some(self.namespace.as_str());
                kinds.push((EVENTS, events, true));
            }
        }
        for (kinds, namespace, required) in kinds {
            for kind in kinds {
                match self.list_kind(kind, namespace, &mut world).await {
                    Ok(()) => {}
                    Err(Error::Api(status)) if status.code == 404 => {
                        if required && kind.needed {
                            cannot.push(missing(kind));
                        }
                    }
                    Err(Error::Api(status)) if status.code == 403 => {
                        if kind.needed {
                            cannot.push(forbidden(kind, namespace));
                        }
                    }
                    Err(source) => {
                        return Err(ClusterError::Request {
                            what: format!("list {}", kind.plural),
                            source: Box::new(source),
                        });
                    }
                }
            }
        }
        if cannot.is_empty() {
            Ok(world)
        } else {
            Err(ClusterError::Cannot(cannot))
        }
    }

    async fn list_kind(&self, kind: &Kind, namespace: Option<&str>, world: &mut World) -> Result<(), Error> {
        let gvk = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, kind.plural);
        let api = match namespace {
            Some(namespace) => Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::<DynamicObject>::all_with(self.client.clone(), &resource),
        };
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&params).await?;
            for object in page.items {
                let mut object = serde_json::to_value(object).map_err(Error::SerdeError)?;
                // Items of a list do not say what they are.
                object["apiVersion"] = Value::from(resource.api_version.clone());
                object["kind"] = Value::from(kind.kind);
                world.take(object);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(()),
            }
        }
    }
}

fn missing(kind: &Kind) -> String {
    format!(
        "the API server does not serve {}.{}: the CustomResourceDefinition is missing; apply deploy/manifests/ferrolb.yaml",
        kind.plural, kind.group
    )
}

fn forbidden(kind: &Kind, namespace: Option<&str>) -> String {
    let place = namespace.map_or("in all namespaces".to_owned(), |ns| format!("in namespace {ns}"));
    let group = if kind.group.is_empty() { "\"\"" } else { kind.group };
    format!(
        "you may not list {} {place}: a rule with the verb list for {} of apiGroup {group} is missing",
        kind.plural, kind.plural
    )
}
