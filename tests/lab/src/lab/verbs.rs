//! What a scenario does with a cluster as a user would: apply, ask, wait.

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use ferrolb_controlplane::Metallb;
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use kube::Api;
use kube::api::ListParams;

use super::boot::{is_ready, wait_for_api_server};
use super::shared::target_dir;
use super::wait::{ensure_seen, wait_until};
use super::{Lab, Program, ferrolb};
use crate::net::{Host, Namespace, http_get};
use crate::realnode::images;

/// An event, as far as scenarios look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLine {
    /// `Normal` or `Warning`.
    pub kind: String,
    /// The reason, one word.
    pub reason: String,
    /// The message.
    pub message: String,
    /// How often it was seen.
    pub count: i32,
    /// Who reported it.
    pub source: String,
}

impl Lab {
    /// Applies YAML server-side; objects without a namespace go to `namespace`.
    pub async fn apply(&self, namespace: &str, yaml: &str) -> Result<()> {
        let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.shared.kubectl.run_in(namespace, &args, yaml).await.map(drop)
    }

    /// Gives the real nodes FerroLB's images, as a registry would.
    pub async fn import_ferrolb(&self) -> Result<()> {
        self.import(images::products(&target_dir())?).await
    }

    /// Gives the real nodes MetalLB's images.
    pub async fn import_metallb(&self, metallb: &Metallb) -> Result<()> {
        self.import(images::of_metallb(metallb, &self.shared.run_dir.path().join("images"))?)
            .await
    }

    async fn import(&self, archives: Vec<PathBuf>) -> Result<()> {
        for archive in archives {
            let imports = self.nodes().iter().map(|node| node.import_image(&archive));
            futures::future::try_join_all(imports).await?;
        }
        Ok(())
    }

    /// Applies FerroLB's manifest as it stands, for nodes that run it in pods.
    pub async fn apply_ferrolb(&self) -> Result<()> {
        ferrolb::apply(&self.shared).await
    }

    /// Like [`Lab::apply_ferrolb`], and waits until all its pods are ready.
    pub async fn deploy_ferrolb(&self) -> Result<()> {
        ferrolb::deploy(&self.shared).await
    }

    /// Makes a host of the LAN a router: the network 10.99.`number`.0/24 behind it, in which it has the address 1 and a host the
    /// address 2, and the nodes' way there. Packets of one flow, by addresses and ports, take one of several next hops.
    ///
    /// # Errors
    /// When a link, an address or a route cannot be made.
    pub fn behind(&self, router: &Host, number: u8) -> Result<Namespace> {
        router.namespace().sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/fib_multipath_hash_policy", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ])?;
        let behind = Namespace::create(&format!("flb{}-behind{number}", self.id()))?;
        router.namespace().ip(&format!(
            "link add eth1 type veth peer name eth0 netns {}\naddr add 10.99.{number}.1/24 dev eth1\nlink set eth1 up\n",
            behind.name()
        ))?;
        behind.ip(&format!(
            "addr add 10.99.{number}.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.99.{number}.1\n"
        ))?;
        for node in self.nodes() {
            let route = format!("route add 10.99.{number}.0/24 via {}\n", router.address());
            node.host().namespace().ip(&route)?;
        }
        Ok(behind)
    }

    /// Deletes what the YAML names, without waiting for its end; what is not there is no error.
    pub async fn delete(&self, namespace: &str, yaml: &str) -> Result<()> {
        let args = ["delete", "--wait=false", "--ignore-not-found", "-f", "-"];
        self.shared.kubectl.run_in(namespace, &args, yaml).await.map(drop)
    }

    /// Runs `kubectl` with all rights and returns what it printed.
    pub async fn kubectl<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String> {
        self.shared.kubectl.run(args, "").await
    }

    /// The addresses in the Service's `status.loadBalancer`, in their order.
    pub async fn external_ips(&self, namespace: &str, service: &str) -> Result<Vec<IpAddr>> {
        let services: Api<Service> = Api::namespaced(self.client(), namespace);
        let status = services
            .get(service)
            .await?
            .status
            .and_then(|status| status.load_balancer);
        let ingress = status.and_then(|status| status.ingress).unwrap_or_default();
        let addresses = ingress.into_iter().filter_map(|ingress| ingress.ip);
        addresses
            .map(|ip| ip.parse().with_context(|| format!("{ip} in the status of {service}")))
            .collect()
    }

    /// Waits until the Service has `count` addresses, and returns them. On failure the message has its events.
    pub async fn wait_external_ips(
        &self,
        namespace: &str,
        service: &str,
        count: usize,
        timeout: Duration,
    ) -> Result<Vec<IpAddr>> {
        wait_until(
            &format!("{count} address(es) of {namespace}/{service}"),
            timeout,
            async || {
                let found = self.external_ips(namespace, service).await?;
                if found.len() == count {
                    return Ok(found);
                }
                let events = self.events(namespace, "Service", service).await?;
                Err(anyhow::anyhow!("it has {found:?}; events: {events:?}"))
            },
        )
        .await
    }

    /// The events about the object of that kind and name, oldest first.
    pub async fn events(&self, namespace: &str, kind: &str, name: &str) -> Result<Vec<EventLine>> {
        let events: Api<Event> = Api::namespaced(self.client(), namespace);
        let selector = ListParams::default().fields(&format!("involvedObject.kind={kind},involvedObject.name={name}"));
        let mut found = events.list(&selector).await?.items;
        found.sort_by_key(|event| event.metadata.creation_timestamp.clone());
        Ok(found
            .into_iter()
            .map(|event| EventLine {
                kind: event.type_.unwrap_or_default(),
                reason: event.reason.unwrap_or_default(),
                message: event.message.unwrap_or_default(),
                count: event
                    .series
                    .and_then(|series| series.count)
                    .or(event.count)
                    .unwrap_or(1),
                source: event
                    .reporting_component
                    .filter(|name| !name.is_empty())
                    .or(event.source.and_then(|source| source.component))
                    .unwrap_or_default(),
            })
            .collect())
    }

    /// Waits until `count` pods with the label `selector` are Ready, and none besides.
    pub async fn wait_pods_ready(
        &self,
        namespace: &str,
        selector: &str,
        count: usize,
        timeout: Duration,
    ) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        wait_until(&format!("{count} pods with {selector}"), timeout, async || {
            let found = pods.list(&ListParams::default().labels(selector)).await?.items;
            let ready = found.iter().filter(|pod| pod_is_ready(pod)).count();
            ensure_seen(ready == count && found.len() == count, || {
                format!("{ready} of {} are Ready", found.len())
            })
        })
        .await
    }

    /// Waits until the node is Ready, or no longer Ready, in the eyes of the API server.
    pub async fn wait_node_ready(&self, node: &str, ready: bool, timeout: Duration) -> Result<()> {
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(self.client());
        wait_until(&format!("{node} to be Ready={ready}"), timeout, async || {
            let seen = is_ready(&nodes.get(node).await?);
            ensure_seen(seen == ready, || format!("Ready={seen}"))
        })
        .await
    }

    /// Waits until the API server answers again.
    pub async fn wait_api_ready(&self) -> Result<()> {
        wait_for_api_server(&self.client(), self.api_server()).await
    }

    /// Waits until every controller and every speaker that runs say they are ready.
    pub async fn wait_ferrolb_ready(&self) -> Result<()> {
        for (controller, port) in self.controllers().iter().zip((0..).map(ferrolb::controller_port)) {
            ferrolb::program_ready(controller, self.control_plane(), port).await?;
        }
        for node in self.nodes() {
            let speaker = node.program(Program::Speaker)?;
            if speaker.is_alive() {
                ferrolb::program_ready(speaker, node.host(), super::ADMIN_PORT).await?;
            }
        }
        Ok(())
    }

    /// Fetches `path` from a port of `host` itself, from inside its namespace: status code and body.
    pub async fn admin(&self, host: &Host, port: u16, path: &str) -> Result<(u16, String)> {
        let namespace = host.namespace().clone();
        let (address, path) = (SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)), path.to_owned());
        tokio::task::spawn_blocking(move || http_get(&namespace, address, &path)).await?
    }

    /// The metrics of controller number `index`, from zero.
    pub async fn controller_metrics(&self, index: u16) -> Result<String> {
        let port = ferrolb::controller_port(index);
        let (status, body) = self.admin(self.control_plane(), port, "/metrics").await?;
        ensure_seen(status == 200, || format!("/metrics says {status}"))?;
        Ok(body)
    }

    /// The metrics of the program whose admin server listens on `host` (see [`super::ADMIN_PORT`]).
    pub async fn metrics(&self, host: &Host) -> Result<String> {
        let (status, body) = self.admin(host, super::ADMIN_PORT, "/metrics").await?;
        ensure_seen(status == 200, || format!("/metrics of {} says {status}", host.name()))?;
        Ok(body)
    }
}

fn pod_is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let leaving = pod.metadata.deletion_timestamp.is_some();
    !leaving
        && conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
