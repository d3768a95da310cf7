//! Nodes and EndpointSlices, reduced to what decisions depend on.

use ferrolb_api::names::labels;
use ferrolb_model::{Endpoint, EndpointsView, NodeView, ServiceId, canonical};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;

/// The view of a Node.
pub fn node_view(object: &Node) -> NodeView {
    let status = object.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let is_true = |kind: &str| conditions.iter().any(|c| c.type_ == kind && c.status == "True");
    let addresses = status.and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    NodeView {
        name: object.name_any(),
        labels: object.labels().clone(),
        ready: is_true("Ready"),
        network_unavailable: is_true("NetworkUnavailable"),
        excluded: object.labels().contains_key(labels::EXCLUDE_NODE),
        cordoned: object.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false),
        addresses: addresses
            .iter()
            .filter_map(|a| a.address.parse().ok())
            .map(canonical)
            .collect(),
    }
}

/// The view of an EndpointSlice; `None` when it belongs to no Service.
pub fn endpoints_view(object: &EndpointSlice) -> Option<EndpointsView> {
    let namespace = object.namespace().unwrap_or_default();
    let service = ServiceId::new(&namespace, object.labels().get(labels::SERVICE_NAME)?);
    let endpoints = object.endpoints.iter().map(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        Endpoint {
            node: endpoint.node_name.clone(),
            ready: conditions.and_then(|c| c.ready).unwrap_or(true),
            serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        }
    });
    Some(EndpointsView {
        slice: (namespace, object.name_any()),
        service,
        endpoints: endpoints.collect(),
    })
}
