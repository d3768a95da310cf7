//! Every field of the custom resources, by which the controller knows whether those that the API server serves are as new as it.

use std::path::PathBuf;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray};

use super::Generated;

/// One line for each: group and version, kind, path.
pub(super) fn list() -> Generated {
    let mut lines = Vec::new();
    for crd in ferrolb_api::crds() {
        let (group, kind) = (&crd.spec.group, &crd.spec.names.kind);
        for version in &crd.spec.versions {
            let root = version
                .schema
                .as_ref()
                .and_then(|schema| schema.open_api_v3_schema.as_ref());
            let begin = format!("{group}/{} {kind} ", version.name);
            // What every object has is nothing to look for.
            let parts = root.into_iter().flat_map(|root| root.properties.iter().flatten());
            for (name, schema) in parts.filter(|(name, _)| ["spec", "status"].contains(&name.as_str())) {
                collect(&format!("{begin}{name}"), schema, &mut lines);
            }
        }
    }
    lines.sort();
    lines.dedup();
    Generated {
        path: PathBuf::from("controller/src/definitions/fields.txt"),
        text: lines.join("\n") + "\n",
    }
}

fn collect(path: &str, schema: &JSONSchemaProps, lines: &mut Vec<String>) {
    lines.push(path.to_owned());
    let mut inner = schema;
    while let Some(JSONSchemaPropsOrArray::Schema(items)) = &inner.items {
        inner = items;
    }
    for (name, property) in inner.properties.iter().flatten() {
        collect(&format!("{path}.{name}"), property, lines);
    }
}
