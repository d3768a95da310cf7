//! Scenarios of an ordinary day.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use ferrolb_apiserver::Verb;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::look::look;
use crate::world::{EVENTS, LEASES, POOLS, SERVICES, STATES, Scenario, VIPS, World, pool};

/// Who leads renews it, whatever there is to do.
const SIGN: &str = "leases.coordination.k8s.io";

/// All of them, by name.
pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("first Service", |w| Box::pin(first_service(w))),
    ("a leader by Lease", |w| Box::pin(leader(w))),
    ("a pool that overlaps", |w| Box::pin(overlap(w))),
    ("a Service comes, changes and goes", |w| Box::pin(comes_and_goes(w))),
    ("nothing to do, nothing written", |w| Box::pin(steady(w))),
    ("restarted in the middle", |w| Box::pin(restarted(w))),
];

async fn first_service(w: &mut World) -> Result<Value> {
    let _controller = w.controller()?;
    w.serve("web").await?;
    let look = w.at_rest(1).await?.compared();
    let events = w.until(async || {
        let events = w.list(EVENTS).await?;
        Ok(if events.is_empty() {
            Err("no event".to_owned())
        } else {
            Ok(events)
        })
    });
    let events = events.await?;
    let said = events
        .iter()
        .map(|event| json!([event["reason"], event["message"], event["involvedObject"]["name"]]));
    Ok(json!([look, said.collect::<Vec<_>>()]))
}

async fn leader(w: &mut World) -> Result<Value> {
    let _controller = w.controller_with(&["--pod-name=pod-1"])?;
    w.serve("web").await?;
    let look = w.at_rest(1).await?.compared();
    let leases = w.list(LEASES).await?;
    let names = leases
        .iter()
        .map(|lease| lease["metadata"]["name"].clone())
        .collect::<Vec<_>>();
    let holder = leases[0]["spec"]["holderIdentity"].as_str().unwrap_or_default();
    ensure!(holder.starts_with("pod-1"), "the holder is {holder:?}");
    Ok(json!([look, names]))
}

async fn overlap(w: &mut World) -> Result<Value> {
    let _controller = w.controller()?;
    w.serve("web").await?;
    w.at_rest(1).await?;
    let verdict = async |w: &World, expected: &str| {
        w.until(async || {
            let states = w.list(STATES).await?;
            let result = states.first().map(|state| state["status"]["result"].clone());
            Ok(if result == Some(json!(expected)) {
                Ok(())
            } else {
                Err(format!("the verdict is {result:?}"))
            })
        })
        .await?;
        anyhow::Ok(look(w).await?.compared())
    };
    // Objects of one second are told apart by name.
    w.create(POOLS, pool("second", &["192.0.2.128-192.0.3.10"])).await?;
    let invalid = verdict(w, "Invalid").await?;
    w.delete(&format!("{POOLS}/second")).await?;
    let valid = verdict(w, "Valid").await?;
    Ok(json!([invalid, valid]))
}

async fn comes_and_goes(w: &mut World) -> Result<Value> {
    let _controller = w.controller()?;
    w.serve("web").await?;
    w.at_rest(1).await?;
    let web = format!("{SERVICES}/web");
    w.merge(
        &web,
        json!({ "metadata": { "annotations": { "metallb.io/loadBalancerIPs": "192.0.2.77" } } }),
    )
    .await?;
    let moved = w.until(async || {
        let service = w.get(&web).await?;
        let ingress = &service["status"]["loadBalancer"]["ingress"];
        let there = *ingress == json!([{ "ip": "192.0.2.77", "ipMode": "VIP" }]);
        Ok(if there {
            Ok(ingress.clone())
        } else {
            Err(format!("the address is {ingress}"))
        })
    });
    let moved = moved.await?;
    w.merge(&web, json!({ "spec": { "type": "ClusterIP" } })).await?;
    let released = w.until(async || {
        let service = w.get(&web).await?;
        let claimed = w.list(VIPS).await?;
        // The claims stay for the cool-down, and say so.
        let reasons = claimed
            .iter()
            .map(|vip| vip["status"]["conditions"][0]["reason"].clone())
            .collect::<Vec<_>>();
        let annotated = service["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"].is_string();
        let done = !annotated && claimed.iter().all(|vip| vip["status"]["placement"].is_null());
        Ok(if done {
            Ok(json!([service["status"], reasons]))
        } else {
            Err(format!("{service:#} {claimed:?}"))
        })
    });
    Ok(json!([moved, released.await?]))
}

/// Zero writes at rest, and few for a new Service.
async fn steady(w: &mut World) -> Result<Value> {
    let _controller = w.controller()?;
    for name in ["a", "b", "c"] {
        w.serve(name).await?;
    }
    w.at_rest(3).await?;
    // Counters are written a moment later than the rest.
    sleep(Duration::from_secs(1)).await;
    let before = look(w).await?;
    if let Some(double) = w.double() {
        double.clear_log();
    }
    sleep(Duration::from_secs(3)).await;
    ensure!(before.versions() == look(w).await?.versions(), "something was written");
    if let Some(double) = w.double() {
        let log = double.log();
        let writes = log
            .iter()
            .filter(|record| Verb::WRITES.contains(&record.verb) && record.resource != SIGN)
            .collect::<Vec<_>>();
        ensure!(writes.is_empty(), "written at rest: {writes:#?}");
    }

    w.serve("d").await?;
    let look = w.at_rest(4).await?;
    sleep(Duration::from_secs(1)).await;
    if let Some(double) = w.double() {
        let mut counts = BTreeMap::<_, u32>::new();
        let log = double.log();
        for record in log.iter().filter(|record| Verb::WRITES.contains(&record.verb)) {
            *counts.entry((record.verb, record.resource.as_str())).or_default() += 1;
        }
        // What the scenario wrote itself.
        counts.remove(&(Verb::Create, "services"));
        counts.remove(&(Verb::Create, "endpointslices.discovery.k8s.io"));
        counts.remove(&(Verb::Patch, SIGN));
        let expected = BTreeMap::from([
            ((Verb::Create, "virtualips.ferrolb.io"), 1),
            ((Verb::Patch, "virtualips.ferrolb.io/status"), 1),
            ((Verb::Patch, "services/status"), 1),
            ((Verb::Create, "events"), 1),
            ((Verb::Patch, "ipaddresspools.metallb.io/status"), 1),
        ]);
        ensure!(counts == expected, "for one Service: {counts:#?}");
    }
    Ok(look.compared())
}

async fn restarted(w: &mut World) -> Result<Value> {
    const SERVICES: usize = 40;
    let controller = w.controller()?;
    for index in 0..SERVICES / 2 {
        w.serve(&format!("s-{index:03}")).await?;
    }
    controller.crash();
    let first = w.controller()?;
    for index in SERVICES / 2..SERVICES {
        w.serve(&format!("s-{index:03}")).await?;
        if index == SERVICES * 3 / 4 {
            sleep(Duration::from_millis(100)).await;
        }
    }
    first.crash();
    let before = look(w).await?.roughly();
    let _controller = w.controller()?;
    let look = w.at_rest(SERVICES).await?.roughly();
    ensure!(before["services"] == look["services"], "Services came or went");
    Ok(look)
}
