//! A container's environment and command line, as Kubernetes makes them: fields of the pod, values from ConfigMaps,
//! `$(NAME)` references.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use kube::ResourceExt;

use super::images::Image;
use super::volumes::ConfigMaps;

/// What the fields of the downward API are read from.
pub(super) struct Facts<'a> {
    pub(super) pod: &'a Pod,
    pub(super) node: &'a str,
    pub(super) pod_addresses: &'a [IpAddr],
    pub(super) node_addresses: &'a [IpAddr],
    pub(super) config_maps: &'a ConfigMaps,
}

/// A list of variables in the order they are set in; a later one of the same name counts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Environment(Vec<(String, String)>);

impl Environment {
    /// The environment of `container`. `HOSTNAME` and `NODE_NAME` are always there.
    ///
    /// # Errors
    /// Names the variable whose value cannot be had.
    pub(super) fn new(container: &Container, facts: &Facts<'_>) -> Result<Self, String> {
        let mut environment = Self::default();
        environment.set("HOSTNAME", facts.pod.name_any());
        environment.set("NODE_NAME", facts.node);
        for source in container.env_from.iter().flatten() {
            let Some(reference) = &source.config_map_ref else {
                return Err("envFrom: only ConfigMaps are supported here".into());
            };
            let prefix = source.prefix.as_deref().unwrap_or_default();
            match facts.config_maps.get(&reference.name) {
                Some(map) => {
                    for (key, value) in map {
                        environment.set(&format!("{prefix}{key}"), String::from_utf8_lossy(value));
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", reference.name)),
            }
        }
        for variable in container.env.iter().flatten() {
            if let Some(value) = value(variable, facts, &environment)? {
                environment.set(&variable.name, value);
            }
        }
        Ok(environment)
    }

    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.into()));
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Names and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Replaces `$(NAME)` by the variable's value and `$$` by a dollar sign; a reference to nothing stays as it is.
    pub(super) fn expand(&self, text: &str) -> String {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            expanded.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let reference = after.strip_prefix('(').and_then(|inside| inside.split_once(')'));
            rest = match reference {
                _ if after.starts_with('$') => {
                    expanded.push('$');
                    &after[1..]
                }
                Some((name, tail)) => {
                    match self.get(name) {
                        Some(value) => expanded.push_str(value),
                        None => expanded.push_str(&format!("$({name})")),
                    }
                    tail
                }
                None => {
                    expanded.push('$');
                    after
                }
            };
        }
        expanded + rest
    }

    /// The command line: `command` replaces the image's program and drops its arguments, `args` replaces those.
    pub(super) fn command(&self, container: &Container, image: &Image) -> Vec<String> {
        let given = |words: &Option<Vec<String>>| words.clone().filter(|words| !words.is_empty());
        let (program, arguments) = match (given(&container.command), given(&container.args)) {
            (Some(command), args) => (command, args.unwrap_or_default()),
            (None, Some(args)) => (image.entrypoint.clone(), args),
            (None, None) => return [image.entrypoint.clone(), image.arguments.clone()].concat(),
        };
        program.iter().chain(&arguments).map(|word| self.expand(word)).collect()
    }
}

/// The value of one variable; `None` when it is optional and not there.
fn value(variable: &EnvVar, facts: &Facts<'_>, environment: &Environment) -> Result<Option<String>, String> {
    let Some(source) = &variable.value_from else {
        return Ok(Some(environment.expand(variable.value.as_deref().unwrap_or_default())));
    };
    if let Some(field) = &source.field_ref {
        let value = field_value(&field.field_path, facts);
        return value
            .map(Some)
            .ok_or_else(|| format!("env {}: no field {:?}", variable.name, field.field_path));
    }
    if let Some(reference) = &source.config_map_key_ref {
        let map = facts.config_maps.get(&reference.name);
        return match map.and_then(|map| map.get(&reference.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            None if reference.optional == Some(true) => Ok(None),
            None => Err(format!(
                "env {}: no key {:?} in configmap {:?}",
                variable.name, reference.key, reference.name
            )),
        };
    }
    Err(format!(
        "env {}: this kind of source is not supported here",
        variable.name
    ))
}

fn field_value(path: &str, facts: &Facts<'_>) -> Option<String> {
    let pod = facts.pod;
    let first = |addresses: &[IpAddr]| addresses.first().map(IpAddr::to_string).unwrap_or_default();
    let all = |addresses: &[IpAddr]| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let spec = pod.spec.as_ref();
    Some(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => facts.node.to_owned(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        "status.podIP" => first(facts.pod_addresses),
        "status.podIPs" => all(facts.pod_addresses),
        "status.hostIP" => first(facts.node_addresses),
        "status.hostIPs" => all(facts.node_addresses),
        _ => {
            let (map, key) = path.strip_suffix("']")?.split_once("['")?;
            let values = match map {
                "metadata.labels" => pod.labels(),
                "metadata.annotations" => pod.annotations(),
                _ => return None,
            };
            values.get(key).cloned().unwrap_or_default()
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn environment(container: serde_json::Value) -> Result<Environment, String> {
        let container: Container = serde_json::from_value(container).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "web-1", "namespace": "shop", "uid": "u", "labels": { "app": "web" } },
            "spec": { "containers": [], "serviceAccountName": "default" },
        }))
        .unwrap();
        let config = BTreeMap::from([("COLOUR".to_owned(), b"red".to_vec())]);
        Environment::new(
            &container,
            &Facts {
                pod: &pod,
                node: "node1",
                pod_addresses: &["10.244.1.2".parse().unwrap(), "fd00:244:1::2".parse().unwrap()],
                node_addresses: &["172.30.0.11".parse().unwrap()],
                config_maps: &[("settings".to_owned(), config)].into(),
            },
        )
    }

    #[test]
    fn references_are_expanded_as_kubernetes_does() {
        let environment = Environment(vec![("A".into(), "1".into()), ("B".into(), "$(A)".into())]);
        for (text, expected) in [
            ("plain", "plain"),
            ("x-$(A)-y", "x-1-y"),
            ("$(B)", "$(A)"),
            ("$(MISSING)", "$(MISSING)"),
            ("$$(A)", "$(A)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("50$$", "50$"),
        ] {
            assert_eq!(environment.expand(text), expected, "{text}");
        }
    }

    #[test]
    fn values_come_from_fields_config_maps_and_earlier_variables() {
        let environment = environment(json!({ "name": "c",
            "envFrom": [{ "prefix": "MY_", "configMapRef": { "name": "settings" } }],
            "env": [
                { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                { "name": "IPS", "valueFrom": { "fieldRef": { "fieldPath": "status.podIPs" } } },
                { "name": "APP", "valueFrom": { "fieldRef": { "fieldPath": "metadata.labels['app']" } } },
                { "name": "KEY", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "COLOUR" } } },
                { "name": "BOTH", "value": "$(POD)/$(MY_COLOUR)/$(LATER)" },
                { "name": "LATER", "value": "x" },
                { "name": "NONE", "valueFrom": { "configMapKeyRef": { "name": "no", "key": "k", "optional": true } } },
            ] }))
        .unwrap();
        for (name, value) in [
            ("POD", Some("web-1")),
            ("HOSTNAME", Some("web-1")),
            ("NODE_NAME", Some("node1")),
            ("IPS", Some("10.244.1.2,fd00:244:1::2")),
            ("APP", Some("web")),
            ("KEY", Some("red")),
            ("BOTH", Some("web-1/red/$(LATER)")),
            ("NONE", None),
        ] {
            assert_eq!(environment.get(name), value, "{name}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |env| environment(json!({ "name": "c", "env": [env] })).unwrap_err();
        let missing = json!({ "configMapKeyRef": { "name": "settings", "key": "size" } });
        assert!(error(json!({ "name": "A", "valueFrom": missing })).contains("\"size\""));
        let field = json!({ "fieldRef": { "fieldPath": "spec.colour" } });
        assert!(error(json!({ "name": "A", "valueFrom": field })).contains("spec.colour"));
    }

    #[test]
    fn command_and_args_replace_parts_of_the_image() {
        let image = Image::new(["app", "serve"]).arguments(["--port", "$(PORT)"]);
        let environment = Environment(vec![("PORT".into(), "80".into())]);
        let command = |command: &[&str], args: &[&str]| {
            let strings = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
            let container = Container {
                command: strings(command),
                args: strings(args),
                ..Container::default()
            };
            environment.command(&container, &image).join(" ")
        };
        assert_eq!(command(&[], &[]), "app serve --port $(PORT)");
        assert_eq!(command(&[], &["-p", "$(PORT)"]), "app serve -p 80");
        assert_eq!(command(&["sh"], &[]), "sh");
        assert_eq!(command(&["sh", "-c"], &["echo $(PORT)"]), "sh -c echo 80");
    }
}
