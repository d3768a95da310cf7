//! How the objects are written.

use std::fmt::Debug;
use std::sync::Arc;

use ferrolb_api::names::{SPEAKER_MANAGER, labels};
use ferrolb_api::{
    ServiceBgpStatus, ServiceBgpStatusStatus, ServiceL2Status, ServiceL2StatusStatus, SpeakerState, SpeakerStateStatus,
};
use ferrolb_runtime::apply::{self, Failure};
use kube::api::{DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use serde::Serialize;
use serde_json::{Value, json};

use super::node_label;
use crate::mirror::Write;

/// The status of an object that a speaker writes about a Service.
pub(super) trait AboutService: Serialize + Sync {
    /// The kind of the object.
    const KIND: &'static str;
    /// One node at a time has such an object about a Service: who makes its own deletes those of others.
    const OF_ONE_NODE: bool;

    /// Namespace and name of the Service.
    fn service(&self) -> (&str, &str);
}

impl AboutService for ServiceL2StatusStatus {
    const KIND: &'static str = "ServiceL2Status";
    const OF_ONE_NODE: bool = true;

    fn service(&self) -> (&str, &str) {
        (&self.service_namespace, &self.service_name)
    }
}

impl AboutService for ServiceBgpStatusStatus {
    const KIND: &'static str = "ServiceBGPStatus";
    const OF_ONE_NODE: bool = false;

    fn service(&self) -> (&str, &str) {
        (&self.service_namespace, &self.service_name)
    }
}

/// Where to write.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) node: Arc<str>,
    states: Api<PartialObjectMeta<SpeakerState>>,
    layer2: Api<PartialObjectMeta<ServiceL2Status>>,
    bgp: Api<PartialObjectMeta<ServiceBgpStatus>>,
}

impl Target {
    /// The objects of `node`; `namespace` is that of the installation.
    pub(super) fn new(client: Client, namespace: &str, node: &str) -> Self {
        Target {
            node: node.into(),
            states: Api::all(client.clone()),
            layer2: Api::namespaced(client.clone(), namespace),
            bgp: Api::namespaced(client, namespace),
        }
    }

    /// Writes the SpeakerState.
    pub(super) async fn state(&self, uid: &str, write: &Write<SpeakerStateStatus>) -> Result<(), Failure> {
        let Write::Put { status, make, .. } = write else {
            return Ok(());
        };
        if *make {
            let object = json!({
                "apiVersion": "ferrolb.io/v1alpha1",
                "kind": "SpeakerState",
                "metadata": {"name": &*self.node, "ownerReferences": [self.owner(uid)]},
            });
            make_object(&self.states, &self.node, object).await?;
        }
        let body = json!({"apiVersion": "ferrolb.io/v1alpha1", "kind": "SpeakerState", "status": status});
        apply::apply_status(&self.states, &self.node, SPEAKER_MANAGER, body)
            .await
            .map(drop)
    }

    /// Writes or deletes a ServiceL2Status.
    pub(super) async fn layer2(
        &self,
        name: &str,
        uid: &str,
        write: &Write<Arc<ServiceL2StatusStatus>>,
    ) -> Result<(), Failure> {
        self.service(&self.layer2, name, uid, write).await
    }

    /// Writes or deletes a ServiceBGPStatus.
    pub(super) async fn bgp(
        &self,
        name: &str,
        uid: &str,
        write: &Write<Arc<ServiceBgpStatusStatus>>,
    ) -> Result<(), Failure> {
        self.service(&self.bgp, name, uid, write).await
    }

    async fn service<K, S>(
        &self,
        api: &Api<PartialObjectMeta<K>>,
        name: &str,
        uid: &str,
        write: &Write<Arc<S>>,
    ) -> Result<(), Failure>
    where
        K: Clone + Debug,
        S: AboutService,
    {
        let Write::Put { status, make, first } = write else {
            return apply::within(api.delete(name, &DeleteParams::default()))
                .await
                .map(drop);
        };
        let (namespace, service) = status.service();
        let node = node_label(&self.node);
        if *first && S::OF_ONE_NODE {
            // Of nodes that announced the Service before and did not live to take this back.
            let theirs = format!(
                "{}={service},{}={namespace},{}!={node}",
                labels::SERVICE,
                labels::SERVICE_NAMESPACE,
                labels::NODE
            );
            let list = ListParams::default().labels(&theirs);
            apply::within(api.delete_collection(&DeleteParams::default(), &list)).await?;
        }
        if *make {
            let object = json!({
                "apiVersion": "metallb.io/v1beta1",
                "kind": S::KIND,
                "metadata": {
                    "name": name,
                    "labels": {
                        labels::NODE: node,
                        labels::SERVICE: service,
                        labels::SERVICE_NAMESPACE: namespace,
                    },
                    "ownerReferences": [self.owner(uid)],
                },
            });
            make_object(api, name, object).await?;
        }
        let body = json!({"apiVersion": "metallb.io/v1beta1", "kind": S::KIND, "status": &**status});
        apply::apply_status(api, name, SPEAKER_MANAGER, body).await.map(drop)
    }

    fn owner(&self, uid: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "name": &*self.node, "uid": uid})
    }
}

async fn make_object<K>(api: &Api<PartialObjectMeta<K>>, name: &str, object: Value) -> Result<(), Failure>
where
    K: Clone + Debug,
{
    let params = PatchParams::apply(SPEAKER_MANAGER).force();
    apply::within(api.patch(name, &params, &Patch::Apply(object)))
        .await
        .map(drop)
}
