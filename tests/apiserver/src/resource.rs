//! Which resources there are, and how each behaves where the API server treats them differently.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

/// One resource.
#[derive(Clone, Debug)]
pub struct Resource {
    /// The API group; empty for the core.
    pub group: String,
    /// The versions served. A custom resource has the schema of each, by which objects are pruned and defaulted.
    pub versions: BTreeMap<String, Option<Value>>,
    /// As in paths.
    pub plural: String,
    /// As in objects.
    pub kind: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether there is a status subresource, so that a write changes either the status or the rest.
    pub has_status: bool,
    /// Whether `metadata.generation` counts changes of what is wanted.
    pub counts_generation: bool,
    /// Whether an update has to say which version it is based on.
    pub update_needs_version: bool,
    /// Whether an update of an object that does not exist creates it.
    pub update_creates: bool,
    /// Whether a deletion answers with what was deleted instead of with a `Status`.
    pub returns_deleted: bool,
}

impl Resource {
    /// A resource of Kubernetes itself, with a status subresource and nothing unusual.
    pub fn builtin(group: &str, version: &str, plural: &str, kind: &str, namespaced: bool) -> Self {
        Resource {
            group: group.to_owned(),
            versions: BTreeMap::from([(version.to_owned(), None)]),
            plural: plural.to_owned(),
            kind: kind.to_owned(),
            namespaced,
            has_status: true,
            counts_generation: false,
            update_needs_version: false,
            update_creates: false,
            returns_deleted: false,
        }
    }

    /// The resource that `crd` defines.
    pub fn custom(crd: &CustomResourceDefinition) -> Self {
        let served = crd.spec.versions.iter().filter(|version| version.served);
        let schema = |version: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionVersion| {
            let schema = version.schema.as_ref()?.open_api_v3_schema.as_ref()?;
            serde_json::to_value(schema).ok()
        };
        let has_status = |subresources: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceSubresources| {
            subresources.status.is_some()
        };
        let mut versions = crd.spec.versions.iter();
        Resource {
            group: crd.spec.group.clone(),
            versions: served.map(|version| (version.name.clone(), schema(version))).collect(),
            plural: crd.spec.names.plural.clone(),
            kind: crd.spec.names.kind.clone(),
            namespaced: crd.spec.scope == "Namespaced",
            has_status: versions.any(|version| version.subresources.as_ref().is_some_and(has_status)),
            counts_generation: true,
            update_needs_version: true,
            update_creates: false,
            returns_deleted: false,
        }
    }

    /// `services`, or `virtualips.ferrolb.io`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Whether it is defined by a CustomResourceDefinition.
    pub fn is_custom(&self) -> bool {
        self.versions.values().any(Option::is_some)
    }
}

/// What FerroLB's programs use of Kubernetes.
pub(crate) fn of_kubernetes() -> Vec<Resource> {
    let plain = |group: &str, plural: &str, kind: &str, namespaced| Resource {
        has_status: false,
        ..Resource::builtin(group, "v1", plural, kind, namespaced)
    };
    vec![
        Resource {
            update_creates: true,
            returns_deleted: true,
            ..Resource::builtin("", "v1", "services", "Service", true)
        },
        Resource::builtin("", "v1", "nodes", "Node", false),
        Resource {
            returns_deleted: true,
            ..Resource::builtin("", "v1", "namespaces", "Namespace", false)
        },
        plain("", "secrets", "Secret", true),
        plain("", "events", "Event", true),
        plain("events.k8s.io", "events", "Event", true),
        Resource {
            counts_generation: true,
            ..plain("discovery.k8s.io", "endpointslices", "EndpointSlice", true)
        },
        Resource {
            update_needs_version: true,
            update_creates: true,
            ..plain("coordination.k8s.io", "leases", "Lease", true)
        },
        Resource {
            counts_generation: true,
            ..Resource::builtin("apps", "v1", "deployments", "Deployment", true)
        },
        Resource {
            counts_generation: true,
            ..Resource::builtin("apps", "v1", "daemonsets", "DaemonSet", true)
        },
        Resource::builtin("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", false),
    ]
}

/// What a path points at: a resource in a namespace (empty: in all, or none at all), an object if it has a name.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) resource: Arc<Resource>,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) status: bool,
}

impl Place {
    /// Reads a path, percent-encoding aside, which no name of ours needs.
    pub(crate) fn parse(resources: &[Arc<Resource>], path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let group = match parts.next()? {
            "api" => "",
            "apis" => parts.next()?,
            _ => return None,
        };
        let version = parts.next()?;
        let rest = parts.collect::<Vec<_>>();
        let (namespace, rest) = match rest.as_slice() {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() && rest != ["status"] => (*namespace, rest),
            rest => ("", rest),
        };
        let (plural, name, status) = match rest {
            [plural] => (plural, "", false),
            [plural, name] => (plural, *name, false),
            [plural, name, "status"] => (plural, *name, true),
            _ => return None,
        };
        let resource = resources
            .iter()
            .find(|r| r.group == group && r.plural == *plural && r.versions.contains_key(version))?;
        let fits = (resource.namespaced || namespace.is_empty())
            && (!resource.namespaced || name.is_empty() || !namespace.is_empty())
            && (!status || resource.has_status);
        fits.then(|| Place {
            resource: Arc::clone(resource),
            version: version.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            status,
        })
    }

    /// The resource as rules of RBAC name it, with its group: `virtualips.ferrolb.io/status`.
    pub(crate) fn target(&self) -> String {
        let subresource = if self.status { "/status" } else { "" };
        format!("{}{subresource}", self.resource.qualified())
    }

    pub(crate) fn api_version(&self) -> String {
        if self.resource.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.resource.group, self.version)
        }
    }

    pub(crate) fn schema(&self) -> Option<&Value> {
        self.resource.versions.get(&self.version)?.as_ref()
    }

    /// The place of `name` in `namespace`, of the same resource.
    pub(crate) fn at(&self, namespace: &str, name: &str) -> Self {
        Place {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let resources = of_kubernetes()
            .into_iter()
            .chain(ferrolb_api::crds().iter().map(Resource::custom))
            .map(Arc::new)
            .collect::<Vec<_>>();
        for (path, expected) in [
            ("/api/v1/services", Some("services||")),
            ("/api/v1/namespaces/shop/services", Some("services|shop|")),
            ("/api/v1/namespaces/shop/services/web", Some("services|shop|web")),
            (
                "/api/v1/namespaces/shop/services/web/status",
                Some("services/status|shop|web"),
            ),
            ("/api/v1/namespaces", Some("namespaces||")),
            ("/api/v1/namespaces/shop", Some("namespaces||shop")),
            ("/api/v1/namespaces/shop/status", Some("namespaces/status||shop")),
            (
                "/apis/ferrolb.io/v1alpha1/virtualips/192.0.2.1",
                Some("virtualips.ferrolb.io||192.0.2.1"),
            ),
            ("/apis/ferrolb.io/v1/virtualips", None),
            ("/apis/ferrolb.io/v1alpha1/namespaces/shop/virtualips/x", None),
            ("/apis/coordination.k8s.io/v1/namespaces/shop/leases/x/status", None),
            ("/api/v1/services/web", None),
            ("/nowhere", None),
        ] {
            let found = Place::parse(&resources, path).map(|p| format!("{}|{}|{}", p.target(), p.namespace, p.name));
            assert_eq!(found.as_deref(), expected, "{path}");
        }
    }
}
