//! What is asked for by annotation, and what became of it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ferrolb_api as api;
use ferrolb_api::names::{annotations, configuration_state};
use ferrolb_model::VirtualIpName;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::answer::service_id;
use crate::args::{Cli, Request};
use crate::cluster::{Asked, Cluster, ClusterError};

/// How often to look.
const LOOK: Duration = Duration::from_millis(250);

/// Asks, waits, and tells the result and the exit code: 0 done, 1 refused or late.
///
/// # Errors
/// When it cannot be asked.
pub async fn act(cli: &Cli, request: &Request, cluster: &Cluster) -> Result<(String, u8), ClusterError> {
    match request {
        Request::Move { what, to, timeout } => {
            let mut text = String::new();
            let mut code = 0;
            for address in cluster.addresses_of(what).await? {
                let (told, done) = cluster.move_to(address, to, *timeout).await?;
                text += &format!("{told}\n");
                code |= u8::from(!done);
            }
            Ok((text, code))
        }
        Request::Rebalance { count, timeout } => cluster.rebalance(&cli.ferrolb_namespace, *count, *timeout).await,
        Request::Renumber { pool, timeout } => cluster.renumber(&cli.ferrolb_namespace, pool, *timeout).await,
    }
}

impl Cluster {
    /// The address itself, or those of the Service of that name.
    async fn addresses_of(&self, what: &str) -> Result<Vec<IpAddr>, ClusterError> {
        if let Some(address) = ferrolb_config::parse_address(what) {
            return Ok(vec![address]);
        }
        let id = service_id(what, &self.namespace);
        let services = Api::<Service>::namespaced(self.client.clone(), &id.namespace);
        let asked = Asked::of::<Service>("get", Some(&id.namespace), Some(&id.name));
        let service = services.get(&id.name).await.map_err(|e| asked.failed(e))?;
        let addresses = ferrolb_config::service_view(&service).ingress;
        if addresses.is_empty() {
            return Err(ClusterError::Refused(format!(
                "Service {id} has no address to move; ask kubectl ferrolb why {}",
                id.name
            )));
        }
        Ok(addresses)
    }

    async fn move_to(&self, address: IpAddr, to: &str, timeout: Duration) -> Result<(String, bool), ClusterError> {
        let vips = Api::<api::VirtualIp>::all(self.client.clone());
        let name = VirtualIpName::of(address).to_string();
        let get = Asked::of::<api::VirtualIp>("get", None, Some(&name));
        let annotate = Asked::of::<api::VirtualIp>("patch", None, Some(&name));
        let vip = vips.get(&name).await.map_err(|e| get.failed(e))?;
        let owner = |vip: &api::VirtualIp| {
            vip.status
                .as_ref()
                .and_then(|s| Some(s.placement.as_ref()?.owner.clone()))
                .filter(|owner| !owner.is_empty())
        };
        let announcer = |vip: &api::VirtualIp| {
            vip.status
                .as_ref()
                .and_then(|s| Some(s.announcer.as_ref()?.node.clone()))
        };
        let before = owner(&vip).unwrap_or_else(|| "nowhere".to_owned());
        // A request that was answered once is not answered again; what follows the space makes it a new one.
        let request = format!("{to} {}", Timestamp::now());
        let patch = json!({ "metadata": { "annotations": { (annotations::MOVE_TO): request } } });
        let patched = vips.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map_err(|e| annotate.failed(e))?;
        let end = Instant::now() + timeout;
        loop {
            let vip = vips.get(&name).await.map_err(|e| get.failed(e))?;
            let status = vip.status.clone().unwrap_or_default();
            if status.answered_move.as_deref() == Some(&request) {
                let moved = status.conditions.iter().find(|c| c.type_ == "Moved");
                if let Some(no) = moved.filter(|c| c.status != "True") {
                    return Ok((
                        format!("{address} stays on {before}: {}: {}", no.reason, no.message),
                        false,
                    ));
                }
                if announcer(&vip).as_deref() == Some(to) {
                    return Ok((
                        format!("{address} moved from {before} to {to}, which announces it"),
                        true,
                    ));
                }
            }
            if Instant::now() >= end {
                let told = match status.answered_move.as_deref() == Some(&request) {
                    true => {
                        format!("{address} is placed on {to}, and its speaker has not announced it after {timeout:?}")
                    }
                    false => {
                        format!("{address}: no answer after {timeout:?}; look whether the controller runs and leads")
                    }
                };
                return Ok((told, false));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn rebalance(&self, namespace: &str, count: u32, timeout: Duration) -> Result<(String, u8), ClusterError> {
        let states = Api::<api::ConfigurationState>::namespaced(self.client.clone(), namespace);
        let name = configuration_state::CONTROLLER;
        let asked = |verb| Asked::of::<api::ConfigurationState>(verb, Some(namespace), Some(name));
        let request = format!("{count} {}", Timestamp::now());
        let patch = json!({ "metadata": { "annotations": { (annotations::REBALANCE): request } } });
        let patched = states.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map_err(|e| asked("patch").failed(e))?;
        let end = Instant::now() + timeout;
        loop {
            let state = states.get(name).await.map_err(|e| asked("get").failed(e))?;
            let told = state.annotations().get(annotations::REBALANCED);
            if let Some(answer) = told.and_then(|t| t.strip_prefix(&request)?.strip_prefix(": ")) {
                return Ok((format!("{answer}\n"), 0));
            }
            if Instant::now() >= end {
                let text = format!(
                    "no answer after {timeout:?}: look whether the controller runs and leads. Addresses may still move; \
                     ConfigurationState {namespace}/{name} tells\n"
                );
                return Ok((text, 1));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn renumber(&self, namespace: &str, pool: &str, timeout: Duration) -> Result<(String, u8), ClusterError> {
        let pools = Api::<api::IpAddressPool>::namespaced(self.client.clone(), namespace);
        let (key, value) = (annotations::ON_SHRINK, annotations::ON_SHRINK_REASSIGN);
        let patch = json!({ "metadata": { "annotations": { key: value } } });
        let patched = pools.patch(pool, &PatchParams::default(), &Patch::Merge(patch)).await;
        let asked = Asked::of::<api::IpAddressPool>("patch", Some(namespace), Some(pool));
        patched.map_err(|e| asked.failed(e))?;
        let vips = Api::<api::VirtualIp>::all(self.client.clone());
        let list = Asked::of::<api::VirtualIp>("list", None, None);
        let end = Instant::now() + timeout;
        loop {
            let all = vips.list(&ListParams::default()).await.map_err(|e| list.failed(e))?;
            let stays = all.items.iter().filter(|vip| vip.spec.pool.as_deref() == Some(pool));
            let stays = stays.filter_map(|vip| {
                let conditions = vip.status.iter().flat_map(|s| &s.conditions);
                let mut leaving = conditions.filter(|c| ["PoolChanged", "Renumbering"].contains(&c.reason.as_str()));
                Some(format!("{}: {}", vip.spec.address, leaving.next()?.message))
            });
            let stays = stays.collect::<Vec<_>>();
            let note =
                format!("IPAddressPool {pool} has {key}: {value} from now on; take it away to keep holders again\n");
            if stays.is_empty() {
                return Ok((
                    format!("no Service has an address that {pool} would not give\n{note}"),
                    0,
                ));
            }
            if Instant::now() >= end {
                return Ok((
                    format!("after {timeout:?} there are still\n{}\n{note}", stays.join("\n")),
                    1,
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
