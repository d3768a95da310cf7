//! What happens to an object before it is stored: a custom resource loses what its schema does not know and gets the
//! schema's defaults; a Service, Namespace or Node gets what the real server fills in and FerroLB reads.
//!
//! Nothing is validated: what only a stricter server would refuse belongs into a test against the real one.

use serde_json::{Value, json};

use crate::resource::Place;

/// Makes `object` what the API server would store. `serial` makes cluster addresses unique.
pub(crate) fn fill_in(place: &Place, object: &mut Value, serial: u64) {
    match place.schema() {
        Some(schema) => {
            for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
                if field != "metadata"
                    && let Some(value) = object.get_mut(field)
                {
                    structure(value, schema);
                }
            }
            prune_top(object, schema);
        }
        None => builtin(&place.resource.kind, object, serial),
    }
}

fn prune_top(object: &mut Value, schema: &Value) {
    let Some(fields) = object.as_object_mut() else { return };
    let always = ["apiVersion", "kind", "metadata"];
    fields.retain(|field, _| always.contains(&field.as_str()) || schema["properties"].get(field).is_some());
}

/// Prunes and defaults a value that its schema describes.
fn structure(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(known) = schema["properties"].as_object() {
                fields.retain(|field, value| match known.get(field) {
                    // A null is dropped where the schema does not ask for it.
                    Some(_) => !value.is_null(),
                    None => false,
                });
                for (field, schema) in known {
                    match fields.get_mut(field) {
                        Some(value) => structure(value, schema),
                        None if schema.get("default").is_some() => {
                            fields.insert(field.clone(), schema["default"].clone());
                        }
                        None => {}
                    }
                }
            } else if let Some(values) = schema.get("additionalProperties").filter(|s| s.is_object()) {
                fields.values_mut().for_each(|value| structure(value, values));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| structure(item, &schema["items"])),
        _ => {}
    }
}

fn builtin(kind: &str, object: &mut Value, serial: u64) {
    match kind {
        "Service" => service(object, serial),
        "Namespace" => {
            let name = object["metadata"]["name"].clone();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
            default(object, "/spec", "finalizers", json!(["kubernetes"]));
            default(object, "/status", "phase", json!("Active"));
        }
        _ => {}
    }
}

fn service(object: &mut Value, serial: u64) {
    default(object, "/spec", "type", json!("ClusterIP"));
    default(object, "/spec", "sessionAffinity", json!("None"));
    default(object, "/spec", "internalTrafficPolicy", json!("Cluster"));
    default(object, "/spec", "ipFamilies", json!(["IPv4"]));
    default(object, "/spec", "ipFamilyPolicy", json!("SingleStack"));
    let address = format!("10.96.{}.{}", serial / 250 % 250, 2 + serial % 250);
    default(object, "/spec", "clusterIP", json!(address));
    let address = object["spec"]["clusterIP"].clone();
    default(object, "/spec", "clusterIPs", json!([address]));
    default(object, "/status", "loadBalancer", json!({}));
    let outside = object["spec"]["type"] != "ClusterIP";
    let balanced = object["spec"]["type"] == "LoadBalancer";
    depends(object, "externalTrafficPolicy", outside.then(|| json!("Cluster")));
    depends(
        object,
        "allocateLoadBalancerNodePorts",
        balanced.then_some(Value::Bool(true)),
    );
    if !balanced {
        depends(object, "loadBalancerClass", None);
        if let Some(ingress) = object.pointer_mut("/status/loadBalancer") {
            *ingress = json!({});
        }
    }
    let ports = object["spec"]["ports"].as_array_mut().into_iter().flatten();
    for (index, port) in (0_u64..).zip(ports) {
        default(port, "", "protocol", json!("TCP"));
        let number = port["port"].clone();
        default(port, "", "targetPort", number);
        if outside {
            default(port, "", "nodePort", json!(30_000 + (serial * 8 + index) % 2768));
        } else if let Some(port) = port.as_object_mut() {
            port.remove("nodePort");
        }
    }
}

/// A field of the spec that only some types of Service have, by its default there.
fn depends(object: &mut Value, field: &str, value: Option<Value>) {
    match (value, object["spec"].as_object_mut()) {
        (Some(value), _) => default(object, "/spec", field, value),
        (None, Some(spec)) => drop(spec.remove(field)),
        (None, None) => {}
    }
}

/// Sets `field` of the object at `pointer` if it is missing or null. A value that is no object stays as it is.
fn default(object: &mut Value, pointer: &str, field: &str, value: Value) {
    if let Some(key) = pointer.strip_prefix('/')
        && object[key].is_null()
    {
        object[key] = json!({});
    }
    if let Some(Value::Object(fields)) = object.pointer_mut(pointer) {
        let found = fields.entry(field).or_insert(Value::Null);
        if found.is_null() {
            *found = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Resource;
    use std::sync::Arc;

    #[test]
    fn custom_resources_are_pruned_and_defaulted() {
        let crd = ferrolb_api::crds()
            .into_iter()
            .find(|crd| crd.spec.names.kind == "IPAddressPool");
        let resources = [Arc::new(Resource::custom(&crd.unwrap()))];
        let path = "/apis/metallb.io/v1beta1/namespaces/n/ipaddresspools/p";
        let place = Place::parse(&resources, path).unwrap();
        let mut object = json!({
            "metadata": { "name": "p", "labels": { "kept": "yes" } },
            "unknown": 1,
            "spec": { "addresses": ["192.0.2.0/24"], "unknown": 1, "serviceAllocation": null },
        });
        fill_in(&place, &mut object, 0);
        assert_eq!(
            object,
            json!({
                "metadata": { "name": "p", "labels": { "kept": "yes" } },
                "spec": { "addresses": ["192.0.2.0/24"], "autoAssign": true, "avoidBuggyIPs": false },
            })
        );
    }
}
