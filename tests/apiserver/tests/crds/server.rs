//! A real API server with the CRDs and a namespace, and objects whose kind is known only when the test runs.

use ferrolb_apiserver::{RealApiServer, client};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams, ValidationDirective};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

/// The namespace of the manifests.
pub(crate) const NAMESPACE: &str = "metallb-system";

/// See the module.
pub(crate) struct Server {
    client: Client,
    crds: Vec<CustomResourceDefinition>,
    // Lives as long as this.
    _server: RealApiServer,
}

impl Server {
    /// Starts it. It has taken every CRD as it is, with the cost of all its rules within the budget.
    pub(crate) async fn start() -> Self {
        let server = RealApiServer::start(&mut |line| println!("{line}")).await.unwrap();
        let client = client(server.kubeconfig()).await.unwrap();
        let namespace = serde_json::from_value(json!({ "metadata": { "name": NAMESPACE } })).unwrap();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        Self {
            client,
            crds: ferrolb_api::crds(),
            _server: server,
        }
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The API of an object's kind and version.
    pub(crate) fn api(&self, object: &Value) -> Api<DynamicObject> {
        let (group, version) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap();
        let kind = object["kind"].as_str().unwrap();
        let crd = self
            .crds
            .iter()
            .find(|crd| crd.spec.group == group && crd.spec.names.kind == kind)
            .unwrap_or_else(|| panic!("no CRD for {group} {kind}"));
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &crd.spec.names.plural);
        if crd.spec.scope == "Namespaced" {
            Api::namespaced_with(self.client(), NAMESPACE, &resource)
        } else {
            Api::all_with(self.client(), &resource)
        }
    }

    /// Applies an object as `kubectl apply --server-side` does, unknown fields refused; gives what is stored.
    pub(crate) async fn apply(&self, object: &Value) -> Result<Value, String> {
        let mut params = PatchParams::apply("test").force();
        params.field_validation = Some(ValidationDirective::Strict);
        let name = object["metadata"]["name"].as_str().unwrap();
        let stored = self.api(object).patch(name, &params, &Patch::Apply(object)).await;
        stored
            .map(|stored| serde_json::to_value(stored).unwrap())
            .map_err(|error| error.to_string())
    }
}
