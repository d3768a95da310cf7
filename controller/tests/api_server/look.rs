//! What stands in the API server, without what differs from run to run, and whether it agrees with itself.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::{Value, json};

use crate::world::{POOLS, SERVICES, STATES, VIPS, World};

/// Addresses of the pool that every world has.
const POOL_SIZE: u64 = 256;

/// Everything the controller writes.
pub(crate) struct Look {
    services: BTreeMap<String, Value>,
    virtual_ips: BTreeMap<String, Value>,
    pools: BTreeMap<String, Value>,
    states: Vec<Value>,
}

/// Looks at a world.
pub(crate) async fn look(world: &World) -> Result<Look> {
    let by_name = |objects: Vec<Value>| {
        let named = objects.into_iter().map(|object| (name(&object), object));
        named.collect::<BTreeMap<_, _>>()
    };
    Ok(Look {
        services: by_name(world.list(SERVICES).await?),
        virtual_ips: by_name(world.list(VIPS).await?),
        pools: by_name(world.list(POOLS).await?),
        states: world.list(STATES).await?,
    })
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn address(service: &Value) -> Option<&str> {
    service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str()
}

impl Look {
    /// What is not as it has to be when `count` Services are served and nothing is under way: statuses and claims agree,
    /// no address twice, counters right.
    pub(crate) fn flaw(&self, count: usize) -> Option<String> {
        let mut held = BTreeSet::new();
        for (name, service) in &self.services {
            let Some(address) = address(service) else {
                return Some(format!("{name} has no address"));
            };
            if !held.insert(address) {
                return Some(format!("{name} is not alone on {address}"));
            }
            let Some(vip) = self.virtual_ips.get(address) else {
                return Some(format!("{name} has {address}, which nobody claims"));
            };
            let claim = json!([{ "namespace": "shop", "name": name, "uid": service["metadata"]["uid"] }]);
            if vip["spec"]["claims"] != claim {
                return Some(format!(
                    "{name} has {address}, whose claims are {}",
                    vip["spec"]["claims"]
                ));
            }
            if vip["status"]["placement"]["owner"] != "node-1" {
                return Some(format!("{address} is placed nowhere: {}", vip["status"]));
            }
        }
        if held.len() != count || self.virtual_ips.len() != count {
            return Some(format!(
                "{} Services, {} VirtualIPs, not {count}",
                held.len(),
                self.virtual_ips.len()
            ));
        }
        let counters = &self.pools["first"]["status"];
        let assigned = count as u64;
        (counters["assignedIPv4"] != assigned || counters["availableIPv4"] != POOL_SIZE - assigned)
            .then(|| format!("for {count} addresses the counters are {counters}"))
    }

    /// The uid of each object and its version; nothing was written between two looks that agree in this.
    pub(crate) fn versions(&self) -> Vec<(Value, Value)> {
        let objects = self
            .services
            .values()
            .chain(self.virtual_ips.values())
            .chain(self.pools.values());
        let objects = objects.chain(&self.states).map(|object| &object["metadata"]);
        objects
            .map(|metadata| (metadata["uid"].clone(), metadata["resourceVersion"].clone()))
            .collect()
    }

    /// Everything, without uids, versions and times.
    pub(crate) fn compared(&self) -> Value {
        let services = self.services.iter().map(|(name, object)| {
            let annotations = &object["metadata"]["annotations"];
            (
                name.clone(),
                json!({ "status": object["status"], "annotations": annotations }),
            )
        });
        let virtual_ips = self.virtual_ips.iter().map(|(name, object)| {
            (
                name.clone(),
                json!({ "spec": object["spec"], "status": object["status"] }),
            )
        });
        let pools = self
            .pools
            .iter()
            .map(|(name, object)| (name.clone(), object["status"].clone()));
        timeless(json!({
            "services": services.collect::<BTreeMap<_, _>>(),
            "virtualIps": virtual_ips.collect::<BTreeMap<_, _>>(),
            "pools": pools.collect::<BTreeMap<_, _>>(),
            "states": self.states.iter().map(|state| state["status"].clone()).collect::<Vec<_>>(),
        }))
    }

    /// What is left to compare where faults may have led to other addresses: who is served, and the counters.
    pub(crate) fn roughly(&self) -> Value {
        json!({
            "services": self.services.keys().collect::<Vec<_>>(),
            "pools": self.pools.values().map(|pool| &pool["status"]).collect::<Vec<_>>(),
            "states": self.states.iter().map(|state| &state["status"]["result"]).collect::<Vec<_>>(),
        })
    }
}

fn timeless(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields
                .into_iter()
                .filter(|(key, _)| key != "uid" && key != "lastTransitionTime");
            fields.map(|(key, value)| (key, timeless(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(timeless).collect(),
        other => other,
    }
}
