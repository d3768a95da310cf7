//! The cluster of the bench: nodes that are objects only, Services with endpoints, and what the API server counts.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrolb_api::VirtualIp;
use futures::future::try_join;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Where the Services of the bench are.
pub(super) const NAMESPACE: &str = "bench";
/// Requests of the bench's own under way at once, the creations of a burst among them.
const CONCURRENCY: usize = 32;
const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
/// No write for this long is rest.
const REST: Duration = Duration::from_secs(3);
/// Rest comes within this; the events of a burst are posted one after the other.
const PATIENCE: Duration = Duration::from_secs(180);

/// A client that uses the kubeconfig as it is.
pub(super) async fn client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Client::try_from(config).context("make a client")
}

/// A Service that was created, as far as writes to it need to know.
#[derive(Clone, Debug)]
pub(super) struct Created {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) version: String,
    /// When the call began.
    pub(super) at: Instant,
}

/// The objects, through an administrator's client.
#[derive(Clone)]
pub(super) struct Cluster(pub(super) Client);

impl Cluster {
    /// Makes the namespace and the nodes.
    pub(super) async fn prepare(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.0.clone());
        let namespace = from(json!({ "metadata": { "name": NAMESPACE } }))?;
        namespaces.create(&PostParams::default(), &namespace).await?;
        let nodes: Api<Node> = Api::all(self.0.clone());
        for name in NODES {
            let node = from(json!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } } }))?;
            nodes.create(&PostParams::default(), &node).await?;
            let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
            let params = PatchParams::default();
            nodes.patch_status(name, &params, &Patch::Strategic(ready)).await?;
        }
        Ok(())
    }

    /// Makes an EndpointSlice for each Service of that name to come, with an endpoint on each node.
    pub(super) async fn endpoints(&self, names: &[String]) -> Result<()> {
        let api: Api<EndpointSlice> = Api::namespaced(self.0.clone(), NAMESPACE);
        self.each(names, async |name| {
            let endpoint = |(n, node): (usize, &str)| {
                json!({
                    "addresses": [format!("10.244.{n}.7")],
                    "conditions": { "ready": true, "serving": true, "terminating": false },
                    "nodeName": node,
                })
            };
            let slice = from(json!({
                "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
                "addressType": "IPv4",
                "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
                "endpoints": NODES.into_iter().enumerate().map(endpoint).collect::<Vec<_>>(),
            }))?;
            api.create(&PostParams::default(), &slice).await?;
            Ok(())
        })
        .await
    }

    /// Makes the Services and hands each to `then`.
    pub(super) async fn services(&self, names: &[String], then: impl Fn(Created)) -> Result<()> {
        let api: Api<Service> = Api::namespaced(self.0.clone(), NAMESPACE);
        self.each(names, async |name| {
            // Node ports would run out, and nobody here needs them.
            let service = from(json!({
                "metadata": { "name": name },
                "spec": {
                    "type": "LoadBalancer",
                    "allocateLoadBalancerNodePorts": false,
                    "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }],
                },
            }))?;
            let at = Instant::now();
            let service: Service = api.create(&PostParams::default(), &service).await?;
            then(Created {
                uid: service.uid().context("a uid")?,
                version: service.resource_version().context("a version")?,
                name: name.to_owned(),
                at,
            });
            Ok(())
        })
        .await
    }

    /// Deletes what bursts have left.
    pub(super) async fn clear(&self) -> Result<()> {
        self.delete_all::<Service>(Api::namespaced(self.0.clone(), NAMESPACE))
            .await?;
        self.delete_all::<VirtualIp>(Api::all(self.0.clone())).await?;
        let slices = self.delete_all::<EndpointSlice>(Api::namespaced(self.0.clone(), NAMESPACE));
        let events = self.delete_all::<Event>(Api::namespaced(self.0.clone(), NAMESPACE));
        try_join(slices, events).await.map(drop)
    }

    async fn delete_all<K>(&self, api: Api<K>) -> Result<()>
    where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let all = api.list_metadata(&ListParams::default()).await?.items;
        let names: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
        self.each(&names, async |name| {
            api.delete(name, &DeleteParams::default()).await?;
            Ok(())
        })
        .await
    }

    async fn each(&self, names: &[String], work: impl AsyncFn(&str) -> Result<()>) -> Result<()> {
        stream::iter(names)
            .map(|name| work(name))
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    /// What the API server has counted so far.
    pub(super) async fn writes(&self) -> Result<Writes> {
        let request = kube::core::Request::new("/metrics").list(&ListParams::default())?;
        Ok(Writes::parse(&self.0.request_text(request).await?))
    }

    /// Waits until nothing is written any more; says what was written until then.
    pub(super) async fn rest(&self) -> Result<Writes> {
        let limit = Instant::now() + PATIENCE;
        let mut last = self.writes().await?;
        loop {
            tokio::time::sleep(REST).await;
            let now = self.writes().await?;
            if now.of_services() == last.of_services() {
                return Ok(now);
            }
            ensure!(Instant::now() < limit, "writes do not end: {:?}", now.since(&last));
            last = now;
        }
    }
}

fn from<K: DeserializeOwned>(value: Value) -> Result<K> {
    serde_json::from_value(value).context("an object of the bench")
}

/// Writes to the API server that succeeded, by verb and resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Writes(BTreeMap<String, u64>);

impl Writes {
    /// Reads `apiserver_request_total`.
    fn parse(metrics: &str) -> Self {
        let mut writes = BTreeMap::new();
        for line in metrics.lines() {
            let Some((labels, count)) = line
                .strip_prefix("apiserver_request_total{")
                .and_then(|rest| rest.split_once("} "))
            else {
                continue;
            };
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\""))?;
                rest.split_once('"').map(|(value, _)| value)
            };
            let (Some(verb), Some(resource), Some(sub), Some(code)) =
                (label("verb"), label("resource"), label("subresource"), label("code"))
            else {
                continue;
            };
            let verb = match verb {
                "POST" => "create",
                "PATCH" | "APPLY" => "patch",
                "PUT" => "update",
                "DELETE" => "delete",
                _ => continue,
            };
            let failed = if code.starts_with('2') { "" } else { " (failed)" };
            let sub = if sub.is_empty() {
                String::new()
            } else {
                format!("/{sub}")
            };
            let count = count.trim().parse::<f64>().unwrap_or_default() as u64;
            *writes.entry(format!("{verb} {resource}{sub}{failed}")).or_default() += count;
        }
        Writes(writes)
    }

    /// What was written since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let new = |(what, count): (&String, &u64)| {
            let count = count - before.0.get(what).copied().unwrap_or_default();
            (count > 0).then(|| (what.clone(), count))
        };
        Writes(self.0.iter().filter_map(new).collect())
    }

    /// Without leases, which are renewed whether there are Services or not.
    pub(super) fn of_services(&self) -> Self {
        let kept = self.0.iter().filter(|(what, _)| !what.contains(" leases"));
        Writes(kept.map(|(what, count)| (what.clone(), *count)).collect())
    }

    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(what, count)| (what.as_str(), *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_counted_by_verb_and_resource() {
        let metrics = r#"
apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="events",scope="resource",subresource="",verb="POST",version="v1"} 3
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="services",scope="resource",subresource="status",verb="PATCH",version="v1"} 5
apiserver_request_total{code="409",component="apiserver",dry_run="",group="",resource="services",scope="resource",subresource="status",verb="PATCH",version="v1"} 1
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="services",scope="cluster",subresource="",verb="LIST",version="v1"} 7
"#;
        let writes = Writes::parse(metrics);
        let expected = [
            ("create events", 3),
            ("patch services/status", 5),
            ("patch services/status (failed)", 1),
        ];
        assert_eq!(writes.iter().collect::<Vec<_>>(), expected);
        let before = Writes(BTreeMap::from([("create events".to_owned(), 1)]));
        assert_eq!(writes.since(&before).total(), 8);
    }
}
