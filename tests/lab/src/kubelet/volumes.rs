//! A pod's volumes: directories below the pod's own, filled once when the pod starts, bound into its containers.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, ConfigMapVolumeSource, Container, PodSpec};
use kube::{Api, Client};

use super::environment::Environment;

/// The ConfigMaps of a pod: name, key, content.
pub(super) type ConfigMaps = HashMap<String, BTreeMap<String, Vec<u8>>>;
/// The volumes of a pod: name, place on this machine.
pub(super) type Volumes = HashMap<String, PathBuf>;

/// One volume in one container.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) source: PathBuf,
    pub(super) target: String,
    pub(super) read_only: bool,
}

/// Fetches the ConfigMaps that volumes and environments of the pod refer to. Those that do not exist are left out;
/// whether that is an error, the place that refers to them says.
pub(super) async fn fetch(client: &Client, namespace: &str, spec: &PodSpec) -> Result<ConfigMaps, String> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let mut maps = ConfigMaps::new();
    for name in config_map_names(spec) {
        let found = api
            .get_opt(name)
            .await
            .map_err(|error| format!("configmap {name:?}: {error}"))?;
        if let Some(map) = found {
            let text = map
                .data
                .into_iter()
                .flatten()
                .map(|(key, value)| (key, value.into_bytes()));
            let binary = map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0));
            maps.insert(name.to_owned(), text.chain(binary).collect());
        }
    }
    Ok(maps)
}

fn config_map_names(spec: &PodSpec) -> Vec<&str> {
    let volumes = spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| Some(volume.config_map.as_ref()?.name.as_str()));
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let variables = containers().flat_map(|container| container.env.iter().flatten());
    let keys =
        variables.filter_map(|variable| Some(variable.value_from.as_ref()?.config_map_key_ref.as_ref()?.name.as_str()));
    let whole = containers()
        .flat_map(|container| container.env_from.iter().flatten())
        .filter_map(|source| Some(source.config_map_ref.as_ref()?.name.as_str()));
    let mut names: Vec<&str> = volumes.chain(keys).chain(whole).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Makes the volumes of a pod below `directory`.
///
/// # Errors
/// Names the volume that cannot be made.
pub(super) fn make(spec: &PodSpec, maps: &ConfigMaps, directory: &Path) -> Result<Volumes, String> {
    let mut volumes = Volumes::new();
    for volume in spec.volumes.iter().flatten() {
        let path = directory.join(&volume.name);
        if let Some(host) = &volume.host_path {
            volumes.insert(volume.name.clone(), host.path.clone().into());
            continue;
        }
        let failed = |error: std::io::Error| format!("volume {:?}: {error}", volume.name);
        fs::create_dir_all(&path).map_err(failed)?;
        if let Some(source) = &volume.config_map {
            for (file, content) in files(source, maps).map_err(|error| format!("volume {:?}: {error}", volume.name))? {
                let file = path.join(file);
                fs::create_dir_all(file.parent().unwrap_or(&path)).map_err(failed)?;
                fs::write(file, content).map_err(failed)?;
            }
        } else if volume.empty_dir.is_none() && volume.projected.is_none() {
            return Err(format!("volume {:?}: this kind is not supported here", volume.name));
        }
        volumes.insert(volume.name.clone(), path);
    }
    Ok(volumes)
}

/// The files of a ConfigMap volume: relative path, content.
fn files<'a>(source: &'a ConfigMapVolumeSource, maps: &'a ConfigMaps) -> Result<Vec<(&'a str, &'a [u8])>, String> {
    let optional = source.optional == Some(true);
    let Some(map) = maps.get(&source.name) else {
        return if optional {
            Ok(Vec::new())
        } else {
            Err(format!("configmap {:?} not found", source.name))
        };
    };
    let Some(items) = &source.items else {
        return Ok(map
            .iter()
            .map(|(key, content)| (key.as_str(), content.as_slice()))
            .collect());
    };
    let mut files = Vec::new();
    for item in items {
        match map.get(&item.key) {
            Some(content) => files.push((item.path.as_str(), content.as_slice())),
            None if optional => {}
            None => return Err(format!("no key {:?} in configmap {:?}", item.key, source.name)),
        }
    }
    Ok(files)
}

/// What of the pod's volumes `container` sees.
///
/// # Errors
/// Names the volume that is mounted and does not exist.
pub(super) fn mounts(container: &Container, volumes: &Volumes, env: &Environment) -> Result<Vec<Mount>, String> {
    let mounts = container.volume_mounts.iter().flatten().map(|mount| {
        let volume = volumes
            .get(&mount.name)
            .ok_or_else(|| format!("no volume {:?}", mount.name))?;
        let sub_path = mount
            .sub_path_expr
            .as_ref()
            .map(|path| env.expand(path))
            .or_else(|| mount.sub_path.clone());
        let source = match sub_path.filter(|path| !path.is_empty()) {
            None => volume.clone(),
            Some(sub_path) => {
                let source = volume.join(sub_path);
                if !source.exists() {
                    fs::create_dir_all(&source).map_err(|error| format!("{}: {error}", source.display()))?;
                }
                source
            }
        };
        Ok(Mount {
            source,
            target: mount.mount_path.clone(),
            read_only: mount.read_only == Some(true),
        })
    });
    mounts.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn maps() -> ConfigMaps {
        let content = [("a.conf", "A"), ("b.conf", "B")].map(|(key, value)| (key.to_owned(), value.into()));
        ConfigMaps::from([("site".to_owned(), BTreeMap::from(content))])
    }

    fn source(value: serde_json::Value) -> ConfigMapVolumeSource {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_config_map_becomes_files_all_or_chosen() {
        let maps = maps();
        let all = source(json!({ "name": "site" }));
        assert_eq!(files(&all, &maps).unwrap(), [("a.conf", &b"A"[..]), ("b.conf", b"B")]);
        let chosen = source(json!({ "name": "site", "items": [{ "key": "b.conf", "path": "x/default.conf" }] }));
        assert_eq!(files(&chosen, &maps).unwrap(), [("x/default.conf", &b"B"[..])]);
    }

    #[test]
    fn a_missing_config_map_or_key_is_an_error_unless_optional() {
        let maps = maps();
        assert!(
            files(&source(json!({ "name": "no" })), &maps)
                .unwrap_err()
                .contains("\"no\"")
        );
        assert!(
            files(&source(json!({ "name": "no", "optional": true })), &maps)
                .unwrap()
                .is_empty()
        );
        let key = json!({ "name": "site", "items": [{ "key": "c", "path": "c" }] });
        assert!(files(&source(key), &maps).unwrap_err().contains("\"c\""));
    }

    #[test]
    fn every_reference_is_fetched_once() {
        let spec: PodSpec = serde_json::from_value(json!({
            "volumes": [{ "name": "v", "configMap": { "name": "one" } }, { "name": "e", "emptyDir": {} }],
            "containers": [{ "name": "c",
                "envFrom": [{ "configMapRef": { "name": "two" } }],
                "env": [{ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "one", "key": "k" } } }] }],
        }))
        .unwrap();
        assert_eq!(config_map_names(&spec), ["one", "two"]);
    }
}
