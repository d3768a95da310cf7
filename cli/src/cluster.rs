//! Reads a world from an API server.

use std::time::Duration;

use ferrolb_api as api;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::{Client, Error, Resource};
use serde_json::Value;
use thiserror::Error as ThisError;

use crate::answer::service_id;
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
    resource: ApiResource,
    /// Without it there is no answer.
    needed: bool,
}

fn needed<K: Resource<DynamicType = ()>>() -> Kind {
    Kind {
        resource: ApiResource::erase::<K>(&()),
        needed: true,
    }
}

/// What an answer gets along without.
fn helpful<K: Resource<DynamicType = ()>>() -> Kind {
    Kind {
        needed: false,
        ..needed::<K>()
    }
}

/// Kinds that are listed in one place.
struct Part {
    kinds: Vec<Kind>,
    /// `None`: everywhere.
    namespace: Option<String>,
    /// Whether there is an answer only where all that is needed of them is served.
    served: bool,
}

/// What the question needs.
fn parts(cli: &Cli, namespace: &str) -> Vec<Part> {
    let part = |kinds, namespace: Option<&str>, served| Part {
        kinds,
        namespace: namespace.map(str::to_owned),
        served,
    };
    let common = vec![
        needed::<Service>(),
        needed::<Node>(),
        needed::<Namespace>(),
        needed::<EndpointSlice>(),
        helpful::<ServiceCIDR>(),
    ];
    let metallb = vec![
        needed::<api::IpAddressPool>(),
        needed::<api::L2Advertisement>(),
        needed::<api::BgpAdvertisement>(),
        needed::<api::BgpPeer>(),
        needed::<api::BfdProfile>(),
        needed::<api::Community>(),
    ];
    let ferrolb = vec![
        needed::<api::AllocationPolicy>(),
        needed::<api::AnnouncementPolicy>(),
        needed::<api::VirtualIp>(),
        needed::<api::SpeakerState>(),
    ];
    let mut parts = vec![part(common, None, true)];
    if let Action::Migrate {
        metallb_namespace,
        step,
    } = &cli.action
    {
        let of = Some(metallb_namespace.as_str());
        let workloads = vec![needed::<Deployment>(), needed::<DaemonSet>(), needed::<ConfigMap>()];
        // A MetalLB that has only a ConfigMap has no kinds, one that never met FerroLB none of ours.
        parts.extend([
            part(metallb, of, false),
            part(ferrolb, None, false),
            part(workloads, of, true),
        ]);
        if *step == Migrate::Check {
            let definitions = vec![
                helpful::<CustomResourceDefinition>(),
                needed::<ValidatingWebhookConfiguration>(),
            ];
            parts.push(part(definitions, None, true));
        }
        return parts;
    }
    let states = vec![needed::<api::ServiceBgpStatus>(), needed::<api::ConfigurationState>()];
    parts.extend([
        part(metallb, Some(&cli.ferrolb_namespace), true),
        part(states, None, true),
        part(ferrolb, None, true),
    ]);
    if let Action::Why { service } = &cli.action {
        let of = match service {
            Some(service) => Some(service_id(service, namespace).namespace),
            None => (!cli.all_namespaces).then(|| namespace.to_owned()),
        };
        parts.push(part(vec![helpful::<Event>()], of.as_deref(), true));
    }
    parts
}

impl Cluster {
    /// Lists what the question needs.
    ///
    /// # Errors
    /// Names every kind that is not served or may not be listed, and what would be right.
    pub async fn list(&self, cli: &Cli) -> Result<World, ClusterError> {
        let mut world = World::new(&cli.ferrolb_namespace);
        let mut cannot = Vec::new();
        for part in parts(cli, &self.namespace) {
            let namespace = part.namespace.as_deref();
            for kind in &part.kinds {
                match self.list_kind(kind, namespace, &mut world).await {
                    Ok(()) => {}
                    Err(Error::Api(status)) if status.code == 404 => {
                        if part.served && kind.needed {
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
                            what: format!("list {}", kind.resource.plural),
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
        let resource = &kind.resource;
        let api = match namespace {
            Some(namespace) => Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::<DynamicObject>::all_with(self.client.clone(), resource),
        };
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&params).await?;
            for object in page.items {
                let mut object = serde_json::to_value(object).map_err(Error::SerdeError)?;
                // Items of a list do not say what they are.
                object["apiVersion"] = Value::from(resource.api_version.clone());
                object["kind"] = Value::from(resource.kind.clone());
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
        kind.resource.plural, kind.resource.group
    )
}

fn forbidden(kind: &Kind, namespace: Option<&str>) -> String {
    let place = namespace.map_or("in all namespaces".to_owned(), |ns| format!("in namespace {ns}"));
    let (plural, group) = (&kind.resource.plural, &kind.resource.group);
    let group = if group.is_empty() { "\"\"" } else { group };
    format!("you may not list {plural} {place}: a rule with the verb list for {plural} of apiGroup {group} is missing")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn events_are_listed_where_the_service_is() {
        let events_of = |words: &str| {
            let cli = Cli::parse_from(words.split(' '));
            let parts = parts(&cli, "default").into_iter();
            let mut of_events = parts.filter(|part| part.kinds.iter().any(|kind| kind.resource.kind == "Event"));
            of_events.next().map(|part| part.namespace)
        };
        let default = Some("default".to_owned());
        assert_eq!(events_of("kubectl-ferrolb why"), Some(default.clone()));
        assert_eq!(events_of("kubectl-ferrolb why web"), Some(default));
        assert_eq!(events_of("kubectl-ferrolb why shop/web"), Some(Some("shop".to_owned())));
        assert_eq!(events_of("kubectl-ferrolb why -A"), Some(None));
        assert_eq!(events_of("kubectl-ferrolb status"), None);
    }
}
