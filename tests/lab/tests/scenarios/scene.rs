//! What scenarios say: a [`Story`] with the verbs that many of them share. Every verb waits for what it names, and its
//! error says what was seen instead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ferrolb_api::{Placement, VirtualIp};
use ferrolb_lab::client::{ArpProbe, Client, Replies, Response, Steady};
use ferrolb_lab::lab::{ADMIN_PORT, NAMESPACE};
use ferrolb_lab::net::Host;
use ferrolb_lab::{Story, wait_until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;

use crate::manifests;

/// What anything here may take at most; the numbers proper are the bench's.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// What pods and endpoints may take: after a second outage of the API server within two minutes, client-go lets
/// kube-controller-manager wait up to 30 s before it watches again, twice that with its jitter.
const PODS: Duration = Duration::from_secs(75);

/// How long one request of a client may take.
const REQUEST: Duration = Duration::from_secs(1);

/// How long the network is asked who has an address.
const ASK: Duration = Duration::from_millis(300);

/// A scenario's cluster and its place in it.
#[derive(Clone)]
pub(crate) struct Scene(pub(crate) Story);

impl Deref for Scene {
    type Target = Story;

    fn deref(&self) -> &Story {
        &self.0
    }
}

/// Which pod answered, where, and whom it saw.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    /// The pod.
    pub(crate) pod: String,
    /// Its node.
    pub(crate) node: String,
    /// The client's address as the pod saw it.
    pub(crate) client: IpAddr,
}

impl Page {
    fn read(response: &Response) -> Result<Self> {
        ensure!(response.status == 200, "status {}: {}", response.status, response.body);
        let line = |key| {
            response
                .line(key)
                .with_context(|| format!("no {key:?} in {:?}", response.body))
        };
        let client = line("client")?.split(' ').next().unwrap_or_default();
        Ok(Page {
            pod: line("pod")?.to_owned(),
            node: line("node")?.to_owned(),
            client: client.parse()?,
        })
    }
}

impl Scene {
    /// Address number `n` (100 to 199) of this scenario's own part of the LAN; its pool has 100 to 149.
    pub(crate) fn v4(&self, n: u8) -> Ipv4Addr {
        let first: Ipv4Addr = self
            .range_v4()
            .split('-')
            .next()
            .and_then(|a| a.parse().ok())
            .expect("a range");
        let [a, b, c, _] = first.octets();
        Ipv4Addr::new(a, b, c, n)
    }

    /// Runs `kubectl` in the scenario's namespace.
    pub(crate) async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.lab().kubectl(&[&["-n", self.namespace()], args].concat()).await
    }

    /// An object of the scenario's namespace, as JSON.
    pub(crate) async fn json(&self, object: &str) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.kubectl(&["get", object, "-o", "json"]).await?,
        )?)
    }

    /// Applies objects to FerroLB's own namespace.
    pub(crate) async fn apply_config(&self, yaml: &str) -> Result<()> {
        self.lab().apply(NAMESPACE, yaml).await
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client(), self.namespace())
    }

    /// Waits until the Service has `count` addresses.
    pub(crate) async fn addresses(&self, service: &str, count: usize) -> Result<Vec<IpAddr>> {
        self.wait_external_ips(self.namespace(), service, count, PATIENCE).await
    }

    /// Applies a Service, and waits for its address.
    pub(crate) async fn apply_and_address(&self, service: &str, yaml: &str) -> Result<IpAddr> {
        self.apply(yaml).await?;
        Ok(self.addresses(service, 1).await?[0])
    }

    /// Writes an address into a Service's status, as another program or a person would.
    pub(crate) async fn write_status(&self, service: &str, address: IpAddr) -> Result<()> {
        let patch = format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{address}"}}]}}}}}}"#);
        let args = [
            "patch",
            "svc",
            service,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ];
        self.kubectl(&args).await.map(drop)
    }

    /// The addresses of all Services of the scenario that have one, by name.
    pub(crate) async fn all_addresses(&self) -> Result<BTreeMap<String, IpAddr>> {
        let services = self.services().list(&ListParams::default()).await?;
        let held = services.items.into_iter().filter_map(|service| {
            let ingress = service.status?.load_balancer?.ingress?;
            Some((service.metadata.name?, ingress.first()?.ip.as_ref()?.parse().ok()?))
        });
        Ok(held.collect())
    }

    /// The cluster addresses of a Service.
    pub(crate) async fn cluster_ips(&self, service: &str) -> Result<Vec<IpAddr>> {
        let spec = self
            .services()
            .get(service)
            .await?
            .spec
            .context("a Service has a spec")?;
        spec.cluster_ips
            .unwrap_or_default()
            .iter()
            .map(|ip| Ok(ip.parse()?))
            .collect()
    }

    /// The addresses of the first pod of a Deployment.
    pub(crate) async fn pod_addresses(&self, app: &str) -> Result<Vec<IpAddr>> {
        let selector = format!("app={app}");
        let pods = self
            .kubectl(&[
                "get",
                "pods",
                "-l",
                &selector,
                "-o",
                "jsonpath={.items[0].status.podIPs[*].ip}",
            ])
            .await?;
        pods.split_whitespace().map(|ip| Ok(ip.parse()?)).collect()
    }

    /// Waits until all `count` pods of a Deployment are ready.
    pub(crate) async fn ready(&self, app: &str, count: usize) -> Result<()> {
        self.wait_pods_ready(self.namespace(), &format!("app={app}"), count, PODS)
            .await
    }

    /// Waits until Kubernetes has an endpoint for the Service.
    pub(crate) async fn endpoints(&self, service: &str) -> Result<()> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client(), self.namespace());
        let those = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        wait_until(&format!("endpoints of {service}"), PODS, async || {
            let all = slices.list(&those).await?.items;
            ensure!(all.iter().any(|slice| !slice.endpoints.is_empty()), "{all:?}");
            Ok(())
        })
        .await
    }

    /// Returns when the controller has seen everything that was applied before: a Service made now has its address.
    pub(crate) async fn fence(&self) -> Result<()> {
        let yaml = manifests::service("fence", "nobody", "type: LoadBalancer");
        self.apply_and_address("fence", &yaml).await?;
        self.kubectl(&["delete", "svc", "fence"]).await.map(drop)
    }

    /// The Service has no address, once the controller has seen it.
    pub(crate) async fn no_address(&self, service: &str) -> Result<()> {
        self.fence().await?;
        let held = self.external_ips(self.namespace(), service).await?;
        ensure!(held.is_empty(), "{service} has {held:?}");
        Ok(())
    }

    /// FerroLB has written nothing to the Service, once the controller has seen it, and kubectl shows no address.
    pub(crate) async fn untouched(&self, service: &str) -> Result<()> {
        self.no_address(service).await?;
        let managers = self
            .services()
            .get(service)
            .await?
            .metadata
            .managed_fields
            .unwrap_or_default();
        let ours = managers
            .iter()
            .filter_map(|m| m.manager.as_deref())
            .find(|m| m.starts_with("ferrolb"));
        ensure!(ours.is_none(), "{service} was written by {ours:?}");
        let shown = self.kubectl(&["get", "svc", service, "--no-headers"]).await?;
        let external = shown.split_whitespace().nth(3).unwrap_or_default();
        ensure!(
            ["<none>", "<pending>", "example.com"].contains(&external),
            "kubectl shows {shown}"
        );
        let events = self.events(self.namespace(), "Service", service).await?;
        let ours = events.iter().find(|event| event.source.starts_with("ferrolb"));
        ensure!(ours.is_none(), "{service} has an event of ours: {ours:?}");
        Ok(())
    }

    /// The Service, whatever type it has now, has no address any more, and nobody answers for `address`.
    pub(crate) async fn released(&self, service: &str, address: IpAddr) -> Result<()> {
        wait_until(&format!("{service} to give {address} up"), PATIENCE, async || {
            let json = self.json(&format!("svc/{service}")).await?;
            ensure!(
                json["status"]["loadBalancer"]["ingress"].is_null(),
                "its status is {}",
                json["status"]
            );
            let notes = &json["metadata"]["annotations"];
            ensure!(
                notes["metallb.io/ip-allocated-from-pool"].is_null(),
                "its annotations are {notes}"
            );
            Ok(())
        })
        .await?;
        self.unanswered(address).await
    }

    /// Waits for an event on the Service with this reason and a message that contains `part`.
    pub(crate) async fn event(&self, service: &str, reason: &str, part: &str) -> Result<()> {
        wait_until(
            &format!("event {reason} with {part:?} on {service}"),
            PATIENCE,
            async || {
                let events = self.events(self.namespace(), "Service", service).await?;
                ensure!(
                    events.iter().any(|e| e.reason == reason && e.message.contains(part)),
                    "{events:?}"
                );
                Ok(())
            },
        )
        .await
    }

    /// Waits for a Warning on the Service whose message contains `part`.
    pub(crate) async fn refused(&self, service: &str, part: &str) -> Result<()> {
        wait_until(&format!("a warning with {part:?} on {service}"), PATIENCE, async || {
            let events = self.events(self.namespace(), "Service", service).await?;
            ensure!(
                events.iter().any(|e| e.kind == "Warning" && e.message.contains(part)),
                "{events:?}"
            );
            Ok(())
        })
        .await
    }

    /// The pool is refused at once, or accepted and reported as left out; either way the message contains `part`.
    pub(crate) async fn pool_refused(&self, pool: &str, yaml: &str, part: &str) -> Result<()> {
        if let Err(error) = self.apply_config(yaml).await {
            let text = format!("{error:#}");
            ensure!(
                text.contains(part) && text.contains("spec.addresses"),
                "refused, but saying: {text}"
            );
            return Ok(());
        }
        wait_until(
            &format!("a warning with {part:?} on pool {pool}"),
            PATIENCE,
            async || {
                let events = self.events(NAMESPACE, "IPAddressPool", pool).await?;
                ensure!(
                    events.iter().any(|e| e.kind == "Warning" && e.message.contains(part)),
                    "events: {events:?}"
                );
                let args = [
                    "-n",
                    NAMESPACE,
                    "get",
                    "configurationstate",
                    "controller",
                    "-o",
                    "jsonpath={.status}",
                ];
                let state = self.lab().kubectl(&args).await?;
                ensure!(
                    state.contains("Invalid") && state.contains(pool) && state.contains(part),
                    "state: {state}"
                );
                Ok(())
            },
        )
        .await
    }

    async fn virtual_ip(&self, address: IpAddr) -> Result<VirtualIp> {
        let name = match address {
            IpAddr::V4(a) => a.to_string(),
            IpAddr::V6(a) => a.segments().map(|group| format!("{group:04x}")).join("-"),
        };
        Ok(Api::all(self.client()).get(&name).await?)
    }

    /// Where the address is placed.
    pub(crate) async fn placement(&self, address: IpAddr) -> Result<Placement> {
        let status = self.virtual_ip(address).await?.status.unwrap_or_default();
        status.placement.with_context(|| format!("{address} is placed nowhere"))
    }

    /// Waits until the node that the address is placed on announces it, and returns its name.
    pub(crate) async fn owner(&self, address: IpAddr) -> Result<String> {
        self.owner_that(address, |_| true).await
    }

    /// Waits until another node than `not` announces the address.
    pub(crate) async fn other_owner(&self, address: IpAddr, not: &str) -> Result<String> {
        self.owner_that(address, |owner| owner != not).await
    }

    async fn owner_that(&self, address: IpAddr, wanted: impl Fn(&str) -> bool) -> Result<String> {
        wait_until(&format!("the announcer of {address}"), PATIENCE, async || {
            let status = self.virtual_ip(address).await?.status.unwrap_or_default();
            match (&status.placement, &status.announcer) {
                (Some(placed), Some(announcer)) if placed.owner == announcer.node && wanted(&placed.owner) => {
                    Ok(placed.owner.clone())
                }
                (placed, announcer) => bail!("placed {placed:?}, announced {announcer:?}"),
            }
        })
        .await
    }

    /// Waits until a Service claims the address.
    pub(crate) async fn claimed(&self, address: IpAddr) -> Result<()> {
        wait_until(&format!("{address} to be claimed"), PATIENCE, async || {
            let claims = self.virtual_ip(address).await?.spec.claims;
            ensure!(!claims.is_empty(), "nobody claims it");
            Ok(())
        })
        .await
    }

    /// Waits for a condition of the address' VirtualIP.
    pub(crate) async fn condition(&self, address: IpAddr, kind: &str, status: &str, part: &str) -> Result<()> {
        wait_until(
            &format!("{kind}={status} of {address} with {part:?}"),
            PATIENCE,
            async || {
                let conditions = self.virtual_ip(address).await?.status.unwrap_or_default().conditions;
                let found = conditions
                    .iter()
                    .find(|c| c.type_ == kind)
                    .with_context(|| format!("{conditions:?}"))?;
                let text = format!("{}: {}", found.reason, found.message);
                ensure!(found.status == status && text.contains(part), "{} {text}", found.status);
                Ok(())
            },
        )
        .await
    }

    /// The client on the LAN.
    pub(crate) fn browser(&self) -> Client {
        Client::new(self.client_host().namespace())
    }

    /// The client's own addresses.
    pub(crate) fn client_addresses(&self) -> Vec<IpAddr> {
        self.client_host().addresses()
    }

    /// Fetches a page as the client on the LAN, retrying until it comes.
    pub(crate) async fn page(&self, address: impl Into<IpAddr>, port: u16) -> Result<Page> {
        self.fetch(self.browser(), address.into(), port, "lab.example").await
    }

    /// Like [`Scene::page`], asking for a virtual host.
    pub(crate) async fn page_of_host(&self, address: IpAddr, port: u16, host: &str) -> Result<Page> {
        self.fetch(self.browser(), address, port, host).await
    }

    /// Like [`Scene::page`], from inside of node number `index`.
    pub(crate) async fn page_from_node(&self, index: usize, address: IpAddr, port: u16) -> Result<Page> {
        self.fetch(
            Client::new(self.nodes()[index].host().namespace()),
            address,
            port,
            "lab.example",
        )
        .await
    }

    async fn fetch(&self, client: Client, address: IpAddr, port: u16, host: &str) -> Result<Page> {
        wait_until(&format!("a page from {address} port {port}"), PATIENCE, async || {
            let (client, host) = (client.clone(), host.to_owned());
            let get = move || client.http_get(address, port, &host, "/", REQUEST);
            Page::read(&tokio::task::spawn_blocking(get).await??)
        })
        .await
    }

    /// Sends a text over TCP and gets it back.
    pub(crate) async fn tcp_echo(&self, address: IpAddr, port: u16) -> Result<()> {
        self.echo(address, port, |client, target, text| client.tcp(target, text, REQUEST))
            .await
    }

    /// Sends a text over UDP and gets it back.
    pub(crate) async fn udp_echo(&self, address: IpAddr, port: u16) -> Result<()> {
        self.echo(address, port, |client, target, text| client.udp(target, text, REQUEST))
            .await
    }

    async fn echo(
        &self,
        address: IpAddr,
        port: u16,
        ask: fn(&Client, SocketAddr, &[u8]) -> Result<Vec<u8>>,
    ) -> Result<()> {
        wait_until(&format!("an echo from {address} port {port}"), PATIENCE, async || {
            let client = self.browser();
            let asked = move || ask(&client, SocketAddr::new(address, port), b"hello, pod");
            let answer = String::from_utf8_lossy(&tokio::task::spawn_blocking(asked).await??).into_owned();
            ensure!(answer.contains("hello, pod"), "{answer:?}");
            Ok(())
        })
        .await
    }

    /// Asks for pages all the time, one after the other, until stopped.
    pub(crate) fn steady_client(&self, address: IpAddr, port: u16, period: Duration) -> Result<Steady> {
        self.browser()
            .steady_http(SocketAddr::new(address, port), "lab.example", "/", period)
    }

    /// Forgets every MAC address the client knows.
    pub(crate) fn forget_neighbours(&self) -> Result<()> {
        self.browser().flush_neighbours()
    }

    /// The MAC addresses that answer for `address` on the LAN now, asked by ARP or Neighbor Discovery.
    pub(crate) async fn who_answers(&self, address: IpAddr) -> Result<Vec<String>> {
        let client = self.browser();
        let replies = tokio::task::spawn_blocking(move || client.resolve(address, ASK)).await??;
        Ok(replies
            .macs()
            .iter()
            .map(ToString::to_string)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect())
    }

    /// Sends an ARP request from `host`, and collects what answers for a moment.
    pub(crate) async fn arp(&self, host: &Host, probe: ArpProbe) -> Result<Replies> {
        let client = Client::new(host.namespace());
        tokio::task::spawn_blocking(move || client.arp_probe(&probe, ASK)).await?
    }

    /// Waits until the node alone answers for `address`.
    pub(crate) async fn answered_by(&self, address: IpAddr, node: &str) -> Result<()> {
        let wanted = self.node_mac(node);
        wait_until(&format!("{node} alone to answer for {address}"), PATIENCE, async || {
            let macs = self.who_answers(address).await?;
            ensure!(macs == [wanted.clone()], "{macs:?} answer, {node} is {wanted}");
            Ok(())
        })
        .await
    }

    /// Waits until nobody answers for `address`.
    pub(crate) async fn unanswered(&self, address: IpAddr) -> Result<()> {
        wait_until(&format!("nobody to answer for {address}"), PATIENCE, async || {
            let macs = self.who_answers(address).await?;
            ensure!(macs.is_empty(), "{macs:?} answer");
            Ok(())
        })
        .await
    }

    /// The MAC address of a node on the LAN.
    pub(crate) fn node_mac(&self, node: &str) -> String {
        self.node(node).map(|n| n.host().mac()).unwrap_or_default()
    }

    /// The address that each node's kube-proxy serves a single-stack Service on.
    pub(crate) fn node_addresses(&self) -> Vec<IpAddr> {
        self.nodes().iter().map(|node| node.host().address()).collect()
    }

    /// Waits until the API server sees the node as Ready.
    pub(crate) async fn node_ready(&self, node: &str) -> Result<()> {
        self.wait_node_ready(node, true, PATIENCE).await
    }

    /// An admin endpoint of the program that runs on `host`: status and body.
    pub(crate) async fn admin_of(&self, host: &Host, path: &str) -> Result<(u16, String)> {
        self.admin(host, ADMIN_PORT, path).await
    }

    /// Waits until the controller's `/readyz` says 200.
    pub(crate) async fn controller_ready(&self) -> Result<()> {
        wait_until("the controller to be ready", PATIENCE, async || {
            let (status, body) = self.admin_of(self.control_plane(), "/readyz").await?;
            ensure!(status == 200, "/readyz says {status} {body}");
            Ok(())
        })
        .await
    }

    /// Waits until a line of the controller's `/readyz` says that it is not ready with all of `parts`, in small letters.
    pub(crate) async fn controller_not_ready(&self, parts: &[&str]) -> Result<()> {
        wait_until(
            &format!("/readyz of the controller to name {parts:?}"),
            PATIENCE,
            async || {
                let (status, body) = self.admin_of(self.control_plane(), "/readyz").await?;
                let text = body.to_lowercase();
                let named = text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
                ensure!(status != 200 && named, "it says {status} {body}");
                Ok(())
            },
        )
        .await
    }
}
