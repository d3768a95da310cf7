//! The CustomResourceDefinitions, finished: what the derive gives, with what it cannot say put right.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{ConfigurationState, IpAddressPool, L2Advertisement, VirtualIp, schema};

/// Every CRD of FerroLB, by name.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        virtual_ip(),
        finish(ConfigurationState::crd()),
        finish(IpAddressPool::crd()),
        l2_advertisement(),
    ]
}

/// An L2Advertisement may be nothing but a name.
fn l2_advertisement() -> CustomResourceDefinition {
    let mut crd = finish(L2Advertisement::crd());
    root(&mut crd).required = None;
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
/// they have only because source lines end.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
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
