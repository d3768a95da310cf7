//! The CustomResourceDefinitions, finished: what the derive gives, with what it cannot say put right.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{
    AllocationPolicy, AnnouncementPolicy, BfdProfile, BgpAdvertisement, BgpPeer, Community, ConfigurationState,
    IpAddressPool, L2Advertisement, ServiceBgpStatus, ServiceL2Status, SpeakerState, VirtualIp, schema,
};

/// Every CRD of FerroLB, by name.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        finish(AllocationPolicy::crd()),
        finish(AnnouncementPolicy::crd()),
        finish(SpeakerState::crd()),
        virtual_ip(),
        without_spec(BfdProfile::crd()),
        without_spec(BgpAdvertisement::crd()),
        bgp_peer(),
        without_spec(Community::crd()),
        finish(ConfigurationState::crd()),
        finish(IpAddressPool::crd()),
        without_spec(L2Advertisement::crd()),
        without_spec(ServiceBgpStatus::crd()),
        without_spec(ServiceL2Status::crd()),
    ]
}

/// A kind of which an object may be nothing but a name.
fn without_spec(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut crd = finish(crd);
    root(&mut crd).required = None;
    crd
}

/// Served in two versions that differ in their name alone; see [`crate::metallb::bgp_peer`].
fn bgp_peer() -> CustomResourceDefinition {
    let mut crd = finish(BgpPeer::crd());
    let mut old = crd.spec.versions[0].clone();
    old.name = "v1beta1".to_owned();
    old.storage = false;
    old.deprecated = Some(true);
    old.deprecation_warning = Some("metallb.io/v1beta1 BGPPeer is deprecated: write metallb.io/v1beta2".to_owned());
    crd.spec.versions.insert(0, old);
    crd.spec.conversion = Some(CustomResourceConversion {
        strategy: "None".to_owned(),
        webhook: None,
    });
    crd
}

/// The rules of a VirtualIP look at its name too, so they stand at the root.
fn virtual_ip() -> CustomResourceDefinition {
    let mut crd = finish(VirtualIp::crd());
    let rules = serde_json::from_value(schema::virtual_ip_rules()).expect("the rules are constant");
    root(&mut crd).x_kubernetes_validations = Some(rules);
    crd
}

fn finish(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let schema = root(&mut crd);
    schema.title = None;
    tidy(schema);
    crd
}

fn root(crd: &mut CustomResourceDefinition) -> &mut JSONSchemaProps {
    let version = crd.spec.versions.first_mut().expect("a derived CRD has one version");
    let schema = version.schema.as_mut().expect("a derived CRD has a schema");
    schema.open_api_v3_schema.as_mut().expect("a derived CRD has a schema")
}

/// Takes out what is there for the sake of lenient reading: `nullable`, so that the API server drops a null instead of
/// storing it, and defaults of required fields, so that it names a missing one. Descriptions lose the line breaks that
/// they have only because source lines end, and formats of unsigned numbers, which the API server does not know, become
/// one that it knows.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if schema.format.as_ref().is_some_and(|format| format.starts_with("uint")) {
        schema.format = Some("int64".to_owned());
    }
    for required in schema.required.iter().flatten() {
        if let Some(property) = schema.properties.as_mut().and_then(|p| p.get_mut(required)) {
            property.default = None;
        }
    }
    if let Some(description) = &mut schema.description {
        *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    schema.properties.iter_mut().flat_map(|p| p.values_mut()).for_each(tidy);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        tidy(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
}
