//! The Node object and its Lease.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Error};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::Config;
use super::agent::{Context, RETRY};

/// How often the Lease is renewed.
const RENEW: Duration = Duration::from_secs(1);
/// What the Lease says of its own life, in seconds.
const LEASE_SECONDS: i32 = 4;
/// An answer that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);
const LEASES: &str = "kube-node-lease";

/// Registers the node, then keeps it alive; never returns.
pub(super) async fn run(context: Arc<Context>) {
    let name = context.config.name.clone();
    let mut told = false;
    while let Err(error) = register(&context).await {
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(node = name, %error, "cannot register yet; trying on");
        }
        sleep(RETRY).await;
    }
    let mut tick = interval(RENEW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for (what, outcome) in [
            ("lease", timeout(PATIENCE, renew(&context)).await),
            ("status", timeout(PATIENCE, report_ready(&context)).await),
        ] {
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(node = name, %error, "{what} not renewed"),
                Err(_) => tracing::warn!(node = name, "{what} not renewed: no answer"),
            }
        }
    }
}

/// Creates the Node if it is missing and says that it is ready.
async fn register(context: &Context) -> Result<(), Error> {
    let nodes: Api<Node> = Api::all(context.client.clone());
    let version = context.client.apiserver_version().await?.git_version;
    let node: Node = serde_json::from_value(object(&context.config)).map_err(Error::SerdeError)?;
    match nodes.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        Err(Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error),
    }
    renew(context).await?;
    // A merge patch, which replaces lists: the strategic one would join addresses by type and double them.
    let status = json!({ "status": status(&context.config, &version) });
    nodes
        .patch_status(&context.config.name, &PatchParams::default(), &Patch::Merge(status))
        .await?;
    Ok(())
}

async fn renew(context: &Context) -> Result<(), Error> {
    let leases: Api<Lease> = Api::namespaced(context.client.clone(), LEASES);
    let name = &context.config.name;
    let now = format!("{:.6}", Timestamp::now());
    let spec = json!({ "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now });
    let patch = Patch::Merge(json!({ "spec": spec }));
    match leases.patch(name, &PatchParams::default(), &patch).await {
        Err(Error::Api(status)) if status.code == 404 => {
            let lease = json!({ "metadata": { "name": name, "namespace": LEASES }, "spec": spec });
            let lease: Lease = serde_json::from_value(lease).map_err(Error::SerdeError)?;
            leases.create(&PostParams::default(), &lease).await.map(drop)
        }
        outcome => outcome.map(drop),
    }
}

/// Writes the ready condition again when the controllers have taken it away. Reading first keeps the Node quiet for
/// everybody who watches it.
async fn report_ready(context: &Context) -> Result<(), Error> {
    let nodes: Api<Node> = Api::all(context.client.clone());
    let name = &context.config.name;
    let Some(node) = nodes.get_opt(name).await? else {
        return register(context).await;
    };
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    if conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    {
        return Ok(());
    }
    let patch = Patch::Strategic(json!({ "status": { "conditions": ready_conditions() } }));
    nodes
        .patch_status(name, &PatchParams::default(), &patch)
        .await
        .map(drop)
}

fn object(config: &Config) -> Value {
    let mut labels = json!({
        "kubernetes.io/hostname": config.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    });
    for (name, value) in &config.labels {
        labels[name] = json!(value);
    }
    let cidrs = config.pods.cidrs();
    json!({
        "metadata": { "name": config.name, "labels": labels },
        "spec": { "podCIDR": cidrs.first(), "podCIDRs": cidrs },
    })
}

fn status(config: &Config, version: &str) -> Value {
    let resources = json!({ "cpu": "64", "memory": "64Gi", "ephemeral-storage": "64Gi", "pods": "250" });
    let addresses = config
        .addresses
        .iter()
        .map(|address| json!({ "type": "InternalIP", "address": address }));
    let hostname = json!({ "type": "Hostname", "address": config.name });
    json!({
        "capacity": resources,
        "allocatable": resources,
        "addresses": addresses.chain([hostname]).collect::<Vec<_>>(),
        "conditions": ready_conditions(),
        "nodeInfo": {
            "machineID": config.name, "systemUUID": config.name, "bootID": config.name,
            "kernelVersion": "", "osImage": "FerroLB lab", "containerRuntimeVersion": "process://1",
            "kubeletVersion": version, "kubeProxyVersion": version,
            "operatingSystem": "linux", "architecture": "amd64",
        },
    })
}

fn ready_conditions() -> Value {
    let now = format!("{:.0}", Timestamp::now());
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    json!([
        condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        condition("PIDPressure", "False", "KubeletHasSufficientPID"),
        condition("Ready", "True", "KubeletReady"),
    ])
}
