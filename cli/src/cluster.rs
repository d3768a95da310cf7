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

/// What a 404 says when the kind is served and the object is not there.
const NO_OBJECT: &str = "NotFound";

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

/// One request, for an error that names what was asked.
pub(crate) struct Asked {
    verb: &'static str,
    resource: ApiResource,
    namespace: Option<String>,
    name: Option<String>,
}

impl Asked {
    /// About the object of this name; about all where there is none.
    pub(crate) fn of<K: Resource<DynamicType = ()>>(
        verb: &'static str,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Self {
        Asked {
            verb,
            resource: ApiResource::erase::<K>(&()),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        }
    }

    /// The object, or all, with its kind.
    fn what(&self) -> String {
        let place = [&self.namespace, &self.name].into_iter().flatten();
        let place = place.map(String::as_str).collect::<Vec<_>>().join("/");
        match &self.name {
            Some(_) => format!("{} {place}", self.resource.kind),
            None => self.resource.plural.clone(),
        }
    }

    /// Why it was not answered, and what would be right.
    pub(crate) fn failed(&self, error: Error) -> ClusterError {
        match error {
            Error::Api(status) if status.code == 404 && status.reason != NO_OBJECT => {
                ClusterError::Cannot(vec![missing(&[&self.resource])])
            }
            Error::Api(status) if status.code == 404 => {
                let hint = match self.resource.group == ferrolb_api::names::METALLB_GROUP {
                    true => "; --ferrolb-namespace says where FerroLB is",
                    false => "",
                };
                ClusterError::Refused(format!("there is no {}{hint}", self.what()))
            }
            Error::Api(status) if status.code == 403 => {
                let namespace = self.namespace.as_deref();
                ClusterError::Cannot(vec![forbidden(self.verb, &self.resource, namespace)])
            }
            source => ClusterError::Request {
                what: format!("{} {}", self.verb, self.what()),
                source: Box::new(source),
            },
        }
    }
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
        // They decide who announces an address, not who has it.
        part(vec![needed::<EndpointSlice>()], None, true),
        part(metallb, Some(&cli.ferrolb_namespace), true),
        part(states, None, true),
        part(ferrolb, None, true),
    ]);
    if let Action::Why { service } = &cli.action {
        let of = match service {
            Some(service) => Some(service_id(service, namespace).namespace.clone()),
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
        let (mut cannot, mut unserved) = (Vec::new(), Vec::new());
        let parts = parts(cli, &self.namespace);
        for part in &parts {
            let namespace = part.namespace.as_deref();
            for kind in &part.kinds {
                match self.list_kind(kind, namespace, &mut world).await {
                    Ok(()) => {}
                    Err(Error::Api(status)) if status.code == 404 => {
                        if part.served && kind.needed {
                            unserved.push(&kind.resource);
                        }
                    }
                    Err(Error::Api(status)) if status.code == 403 => {
                        if kind.needed {
                            cannot.push(forbidden("list", &kind.resource, namespace));
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
        if !unserved.is_empty() {
            cannot.insert(0, missing(&unserved));
        }
        match cannot.is_empty() {
            true => Ok(world),
            false => Err(ClusterError::Cannot(cannot)),
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

/// What is not served, each kind by its name, and what would be right.
fn missing(resources: &[&ApiResource]) -> String {
    let names = resources.iter().map(|r| match r.group.as_str() {
        "" => r.plural.clone(),
        group => format!("{}.{group}", r.plural),
    });
    let names = names.collect::<Vec<_>>();
    let what = match names.len() {
        1 => "CustomResourceDefinition is",
        _ => "CustomResourceDefinitions are",
    };
    format!(
        "the API server does not serve {}: the {what} missing. Is this the right cluster, and is FerroLB installed? \
         kubectl apply --server-side -f deploy/manifests/ferrolb.yaml installs it; kubectl apply --server-side -k deploy/crds \
         the definitions alone",
        names.join(", ")
    )
}

fn forbidden(verb: &str, resource: &ApiResource, namespace: Option<&str>) -> String {
    let place = namespace.map_or("in all namespaces".to_owned(), |ns| format!("in namespace {ns}"));
    let (plural, group) = (&resource.plural, &resource.group);
    let group = if group.is_empty() { "\"\"" } else { group };
    format!(
        "you may not {verb} {plural} {place}: a rule with the verb {verb} for {plural} of apiGroup {group} is missing"
    )
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

    #[test]
    fn what_is_not_answered_is_named() {
        let refused = |code: u16, reason: &str| {
            let status = kube::core::Status::failure("404 page not found", reason).with_code(code);
            Error::Api(Box::new(status))
        };
        let pool = Asked::of::<api::IpAddressPool>("patch", Some("ferrolb-system"), Some("lan"));
        let told = |code, reason| pool.failed(refused(code, reason)).to_string();
        assert!(
            told(404, "Failed to parse error data").starts_with(
                "the API server does not serve ipaddresspools.metallb.io: the CustomResourceDefinition is missing. Is "
            ),
            "{}",
            told(404, "")
        );
        assert_eq!(
            told(404, NO_OBJECT),
            "there is no IPAddressPool ferrolb-system/lan; --ferrolb-namespace says where FerroLB is"
        );
        assert_eq!(
            told(403, "Forbidden"),
            "you may not patch ipaddresspools in namespace ferrolb-system: a rule with the verb patch for ipaddresspools of \
             apiGroup metallb.io is missing"
        );
        assert!(told(500, "InternalError").starts_with("patch IPAddressPool ferrolb-system/lan: "));
        let service = Asked::of::<Service>("get", Some("shop"), Some("web"));
        assert_eq!(
            service.failed(refused(404, NO_OBJECT)).to_string(),
            "there is no Service shop/web"
        );
        let vips = Asked::of::<api::VirtualIp>("list", None, None);
        assert!(
            vips.failed(refused(500, ""))
                .to_string()
                .starts_with("list virtualips: ")
        );
    }
}
