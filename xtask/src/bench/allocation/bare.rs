//! The other side: a client that performs the controller's writes and decides nothing.
//!
//! It works as the controller does as far as that matters: one thread, the controller's own account, as many writes at
//! once, the two writes that follow a claim bound to what was read, events one after the other beside the writes and
//! dropped when too many wait. It watches nothing and is told at once of each Service.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use ferrolb_api::{Claim, VirtualIp, VirtualIpSpec};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Event, Service};
use kube::api::{PartialObjectMeta, Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::cluster::{Created, NAMESPACE, client};

/// As the controller's `WRITES`.
const WRITES: usize = 32;
/// As the queue of its events.
const EVENTS: usize = 1024;
const MANAGER: &str = "ferrolb-controller";
const TIME: &str = "2026-01-01T00:00:00Z";
/// The first address that is given; another one than the controller begins with.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);

/// A running client.
pub(super) struct Bare {
    services: mpsc::UnboundedSender<Created>,
    thread: JoinHandle<Result<()>>,
}

impl Bare {
    /// Starts it in the network namespace of the caller.
    pub(super) fn start(kubeconfig: PathBuf) -> Self {
        let (services, queue) = mpsc::unbounded_channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("start a runtime")?;
            runtime.block_on(async move { work(client(&kubeconfig).await?, queue).await })
        });
        Self { services, thread }
    }

    /// Gives the Service an address.
    pub(super) fn give(&self, service: Created) {
        // It ends early only with an error, which `finish` tells.
        let _ = self.services.send(service);
    }

    /// Waits until everything is written.
    pub(super) fn finish(self) -> Result<()> {
        drop(self.services);
        self.thread
            .join()
            .map_err(|_| anyhow!("the bare client has panicked"))?
    }
}

async fn work(client: Client, queue: mpsc::UnboundedReceiver<Created>) -> Result<()> {
    let (events, posts) = mpsc::channel(EVENTS);
    let post = post(client.clone(), posts);
    let write = async move {
        let services = stream::unfold(queue, async |mut queue| Some((queue.recv().await?, queue)));
        services
            .enumerate()
            .map(|(number, service)| write(&client, number, service, &events))
            .buffer_unordered(WRITES)
            .try_collect::<()>()
            .await
    };
    tokio::try_join!(write, post).map(drop)
}

async fn write(client: &Client, number: usize, service: Created, events: &mpsc::Sender<Event>) -> Result<()> {
    let address = Ipv4Addr::from(u32::from(FIRST) + u32::try_from(number)?).to_string();
    let claim = VirtualIp {
        metadata: ObjectMeta {
            name: Some(address.clone()),
            ..ObjectMeta::default()
        },
        spec: VirtualIpSpec {
            address: address.clone(),
            pool: Some("bench".to_owned()),
            claims: vec![Claim {
                namespace: NAMESPACE.to_owned(),
                name: service.name.clone(),
                uid: Some(service.uid.clone()),
            }],
            ..VirtualIpSpec::default()
        },
        status: None,
    };
    let params = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    let claims: Api<VirtualIp> = Api::all(client.clone());
    let claim = claims.create(&params, &claim).await?;
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let body = service_status(&service.version, &address);
    let services: Api<PartialObjectMeta<Service>> = Api::namespaced(client.clone(), NAMESPACE);
    services
        .patch_status(&service.name, &params, &Patch::Merge(body))
        .await?;
    // A full queue drops it, as the controller does.
    let _ = events.try_send(event(&service, &address)?);
    let body = placement(&claim.resource_version().unwrap_or_default());
    let claims: Api<PartialObjectMeta<VirtualIp>> = Api::all(client.clone());
    claims.patch_status(&address, &params, &Patch::Merge(body)).await?;
    Ok(())
}

async fn post(client: Client, mut posts: mpsc::Receiver<Event>) -> Result<()> {
    let events: Api<Event> = Api::namespaced(client, NAMESPACE);
    while let Some(event) = posts.recv().await {
        events.create(&PostParams::default(), &event).await?;
    }
    Ok(())
}

fn service_status(version: &str, address: &str) -> Value {
    json!({
        "metadata": { "resourceVersion": version, "annotations": { "metallb.io/ip-allocated-from-pool": "bench" } },
        "status": { "loadBalancer": { "ingress": [{ "ip": address, "ipMode": "VIP" }] } },
    })
}

fn placement(version: &str) -> Value {
    let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": TIME });
    json!({
        "metadata": { "resourceVersion": version },
        "status": {
            "placement": { "owner": "node-a", "standbys": ["node-b", "node-c"], "epoch": 1 },
            "conditions": [
                condition("Allocated", "True", "Allocated", "assigned from IPAddressPool \"bench\""),
                condition("Announced", "False", "Pending", "node node-a has not confirmed yet"),
            ],
        },
    })
}

fn event(service: &Created, address: &str) -> Result<Event> {
    let event = json!({
        "metadata": { "name": format!("{}.{address}", service.name), "namespace": NAMESPACE },
        "involvedObject": {
            "apiVersion": "v1", "kind": "Service", "namespace": NAMESPACE, "name": service.name, "uid": service.uid,
        },
        "type": "Normal",
        "reason": "IPAllocated",
        "message": format!("Assigned IP [\"{address}\"] from IPAddressPool \"bench\""),
        "count": 1,
        "firstTimestamp": TIME,
        "lastTimestamp": TIME,
        "source": { "component": MANAGER },
        "reportingComponent": MANAGER,
        "reportingInstance": "",
    });
    serde_json::from_value(event).context("an event")
}
