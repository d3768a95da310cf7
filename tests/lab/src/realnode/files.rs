//! What a node's programs read: the settings of container runtime, network plugins and kubelet.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Config, SOCKET, images};

/// Where Debian has the network plugins.
pub(super) const PLUGINS: &str = "/usr/lib/cni";

/// The command lines of the node's two services, as files of a word a line.
#[derive(Debug, Clone)]
pub(super) struct Services {
    pub(super) runtime: PathBuf,
    pub(super) kubelet: PathBuf,
}

/// Writes everything into `directory`, which the node sees at the same path.
pub(super) fn write(config: &Config, directory: &Path) -> Result<Services> {
    let plugins = directory.join("cni");
    fs::create_dir_all(&plugins).with_context(|| format!("make {}", plugins.display()))?;
    let file = |path: PathBuf, content: String| -> Result<PathBuf> {
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    file(plugins.join("10-lab.conflist"), format!("{:#}", network(config)))?;
    let runtime = file(directory.join("containerd.toml"), containerd(&plugins))?;
    let kubelet = file(directory.join("kubelet.json"), format!("{:#}", kubelet(config)))?;
    let words = |words: Vec<String>| words.iter().map(|word| format!("{word}\n")).collect();
    let runtime = vec!["containerd".into(), "--config".into(), runtime.display().to_string()];
    Ok(Services {
        runtime: file(directory.join("containerd.words"), words(runtime))?,
        kubelet: file(directory.join("kubelet.words"), words(command(config, &kubelet)))?,
    })
}

/// In the format that containerd 1.6 and later read.
fn containerd(plugins: &Path) -> String {
    let (plugins, pause) = (plugins.display(), images::PAUSE);
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "{SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # It takes a capability that the lab may not have.
  restrict_oom_score_adj = true
  # Profiles are the machine's, not the node's.
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{plugins}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"#
    )
}

/// Pods behind `cni0`, which the node has already, with an address of each family.
fn network(config: &Config) -> Value {
    let ranges: Vec<Value> = config
        .pods
        .cidrs()
        .iter()
        .map(|cidr| json!([{ "subnet": cidr }]))
        .collect();
    let defaults = config.pods.families.join("0.0.0.0/0", "::/0");
    let routes: Vec<Value> = defaults.split(',').map(|all| json!({ "dst": all })).collect();
    json!({
        "cniVersion": "0.4.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                // Gone with the power, as the pods are.
                "ipam": { "type": "host-local", "dataDir": "/run/cni", "ranges": ranges, "routes": routes },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

fn kubelet(config: &Config) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": config.authority },
        },
        "authorization": { "mode": "Webhook" },
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        // The node's own limits are nobody's concern here.
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": false,
        // A machine's disk that is nearly full is no reason to fail a scenario, and images cannot be fetched again.
        "evictionHard": { "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%", "memory.available": "50Mi" },
        "imageGCHighThresholdPercent": 100,
        // As the light nodes do it, in keeping with the controller manager's short periods.
        "nodeLeaseDurationSeconds": 4,
        "nodeStatusUpdateFrequency": "1s",
        "resolvConf": "",
        "logging": { "verbosity": 2 },
    })
}

fn command(config: &Config, settings: &Path) -> Vec<String> {
    let addresses: Vec<String> = config.addresses.iter().map(ToString::to_string).collect();
    let mut words = vec![config.kubelet.executable.display().to_string()];
    words.extend(config.kubelet.args.iter().cloned());
    words.extend([
        format!("--config={}", settings.display()),
        format!("--kubeconfig={}", config.kubeconfig.display()),
        format!("--hostname-override={}", config.name),
        format!("--node-ip={}", addresses.join(",")),
        "--cert-dir=/var/lib/kubelet/pki".to_owned(),
    ]);
    words
}
