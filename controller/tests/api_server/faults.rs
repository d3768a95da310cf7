//! Scenarios of a bad day: the double misbehaves, and the end must be that of a run in which nothing happened.

use std::time::Duration;

use anyhow::{Result, ensure};
use ferrolb_apiserver::{Ending, Fault, Rule, Verb};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::world::{SERVICES, Scenario, World};

/// All of them, by name.
pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("a burst with every fault", |w| Box::pin(burst(w))),
    ("written, and not told", |w| Box::pin(written_and_not_told(w))),
    ("refused for a while", |w| Box::pin(refused(w))),
    ("every watch expires", |w| Box::pin(expired(w))),
    ("news twice and late", |w| Box::pin(twice_and_late(w))),
    ("objects that no schema has seen", |w| Box::pin(malformed(w))),
    ("the API server goes away", |w| Box::pin(away(w))),
];

const VIP: &str = "virtualips.ferrolb.io";
const VIP_STATUS: &str = "virtualips.ferrolb.io/status";
const SERVICE_STATUS: &str = "services/status";
const POOL_STATUS: &str = "ipaddresspools.metallb.io/status";

/// Where the luck of the burst starts.
const SEED: u64 = 20_260_401;

async fn burst(w: &mut World) -> Result<Value> {
    const SERVICES: usize = 100;
    if let Some(double) = w.double() {
        double.seed(SEED);
        for resource in [VIP, VIP_STATUS, SERVICE_STATUS, POOL_STATUS] {
            for (percent, fault) in [
                (6, Fault::Conflict),
                (4, Fault::TooManyRequests(1)),
                (4, Fault::InternalError),
                (2, Fault::Forbidden),
                (6, Fault::AppliedThenClosed),
                (6, Fault::AppliedThenTimeout),
                (10, Fault::Delay(Duration::from_millis(80))),
            ] {
                double.inject(Rule::new(Verb::WRITES, fault).on(resource).chance(percent));
            }
        }
        for (percent, fault) in [
            (1, Fault::EndWatch(Ending::Closed)),
            (1, Fault::EndWatch(Ending::Cut)),
            (1, Fault::EndWatch(Ending::Gone)),
            (10, Fault::Duplicate),
            (10, Fault::Late(Duration::from_millis(20))),
            (50, Fault::NoBookmarks),
        ] {
            double.inject(Rule::new([Verb::Watch], fault).chance(percent));
        }
        double.inject(
            Rule::new([Verb::List, Verb::Watch], Fault::InternalError)
                .on(VIP)
                .chance(10),
        );
    }
    let mut controller = w.controller()?;
    for index in 0..SERVICES {
        w.serve(&format!("s-{index:03}")).await?;
    }
    sleep(Duration::from_secs(2)).await;
    if let Some(double) = w.double() {
        let happened = double
            .log()
            .into_iter()
            .filter_map(|record| record.fault)
            .collect::<Vec<_>>();
        ensure!(happened.len() > 50, "only {} faults happened", happened.len());
        double.lift_all();
    }
    let look = w.at_rest(SERVICES).await?.roughly();
    ensure!(controller.runs(), "the controller ended");
    Ok(look)
}

/// A write is stored, but its answer is lost: nothing is done twice, and nothing is left undone.
async fn written_and_not_told(w: &mut World) -> Result<Value> {
    if let Some(double) = w.double() {
        for resource in [VIP, VIP_STATUS, SERVICE_STATUS, POOL_STATUS] {
            for fault in [Fault::AppliedThenClosed, Fault::AppliedThenTimeout] {
                double.inject(Rule::new(Verb::WRITES, fault).on(resource).times(1));
            }
        }
    }
    let _controller = w.controller()?;
    for name in ["a", "b", "c"] {
        w.serve(name).await?;
        w.at_rest(usize::from(name.as_bytes()[0] - b'a') + 1).await?;
    }
    let look = w.at_rest(3).await?.compared();
    if let Some(double) = w.double() {
        let happened = double.log().iter().filter(|record| record.fault.is_some()).count();
        ensure!(happened == 8, "{happened} faults happened");
    }
    Ok(look)
}

/// Each kind of refusal, once for each kind of write.
async fn refused(w: &mut World) -> Result<Value> {
    let mut injected = 0;
    if let Some(double) = w.double() {
        for resource in [VIP_STATUS, SERVICE_STATUS] {
            for fault in [
                Fault::Conflict,
                Fault::TooManyRequests(1),
                Fault::InternalError,
                Fault::Forbidden,
            ] {
                double.inject(Rule::new([Verb::Patch], fault).on(resource).times(1));
                injected += 1;
            }
        }
    }
    let _controller = w.controller()?;
    w.serve("web").await?;
    let look = w.at_rest(1).await?.compared();
    if let Some(double) = w.double() {
        let happened = double.log().iter().filter(|record| record.fault.is_some()).count();
        ensure!(happened == injected, "{happened} faults happened");
    }
    Ok(look)
}

/// 410 for every watch, while Services come and go; what went meanwhile is noticed in the next list.
async fn expired(w: &mut World) -> Result<Value> {
    let _controller = w.controller()?;
    for name in ["a", "b"] {
        w.serve(name).await?;
    }
    w.at_rest(2).await?;
    if let Some(double) = w.double() {
        // Nothing is told between here and the end of the watches.
        double.inject(Rule::new([Verb::Watch], Fault::Late(Duration::from_millis(400))).times(40));
    }
    w.delete(&format!("{SERVICES}/a")).await?;
    w.serve("c").await?;
    if let Some(double) = w.double() {
        double.compact();
        double.end_watches(None, Ending::Gone);
        double.lift_all();
        double.clear_log();
    }
    let look = w.until(async || {
        let look = crate::look::look(w).await?.compared();
        let kept = &look["virtualIps"]["192.0.2.0"]["status"];
        let served = look["services"]["c"]["status"]["loadBalancer"]["ingress"].is_array();
        let counted = look["pools"]["first"]["assignedIPv4"] == 3;
        let done = served && counted && kept["placement"].is_null();
        let placed = look["virtualIps"]["192.0.2.2"]["status"]["placement"]["owner"] == "node-1";
        Ok(if done && placed {
            Ok(look)
        } else {
            Err(format!("{look:#}"))
        })
    });
    let look = look.await?;
    if let Some(double) = w.double() {
        let listed = double
            .log()
            .iter()
            .any(|record| record.verb == Verb::List && record.resource == VIP);
        ensure!(listed, "nobody listed again");
    }
    Ok(look)
}

async fn twice_and_late(w: &mut World) -> Result<Value> {
    if let Some(double) = w.double() {
        double.inject(Rule::new([Verb::Watch], Fault::Duplicate).chance(50));
        double.inject(Rule::new([Verb::Watch], Fault::Late(Duration::from_millis(100))));
    }
    let _controller = w.controller()?;
    for name in ["a", "b", "c", "d"] {
        w.serve(name).await?;
    }
    Ok(w.at_rest(4).await?.roughly())
}

/// Garbage in the store is ignored; all else is served as if it were not there.
async fn malformed(w: &mut World) -> Result<Value> {
    let mut controller = w.controller()?;
    w.serve("before").await?;
    w.at_rest(1).await?;
    if let Some(double) = w.double() {
        let here = |name: &str| json!({ "name": name, "namespace": "ferrolb-system" });
        for (resource, garbage) in [
            (
                "ipaddresspools.metallb.io",
                json!({ "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": here("broken"),
                        "spec": { "addresses": 5 } }),
            ),
            (
                "l2advertisements.metallb.io",
                json!({ "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": here("broken"),
                        "spec": "none" }),
            ),
            (
                VIP,
                json!({ "apiVersion": "ferrolb.io/v1alpha1", "kind": "VirtualIP", "metadata": { "name": "192.0.2.200" },
                        "spec": { "address": 7 } }),
            ),
            (
                "nodes",
                json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "broken" }, "spec": [],
                        "status": "?" }),
            ),
            (
                "endpointslices.discovery.k8s.io",
                json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": 1,
                        "metadata": { "name": "broken", "namespace": "shop",
                                      "labels": { "kubernetes.io/service-name": "before" } } }),
            ),
        ] {
            double.insert_raw(resource, garbage);
        }
    }
    w.serve("after").await?;
    let served = async |w: &World, name: &str| {
        w.until(async || {
            let service = w.get(&format!("{SERVICES}/{name}")).await?;
            let ingress = service["status"]["loadBalancer"]["ingress"].clone();
            Ok(if ingress.is_array() {
                Ok(ingress)
            } else {
                Err(format!("{name} has no address"))
            })
        })
        .await
    };
    let after = served(w, "after").await?;
    // The same with garbage in the first lists.
    ensure!(controller.runs(), "the controller ended");
    controller.crash();
    let _controller = w.controller()?;
    w.serve("later").await?;
    let later = served(w, "later").await?;
    Ok(json!([served(w, "before").await?, after, later]))
}

async fn away(w: &mut World) -> Result<Value> {
    let mut controller = w.controller()?;
    w.serve("a").await?;
    w.at_rest(1).await?;
    if let Some(double) = w.double() {
        double.down().await;
        sleep(Duration::from_secs(2)).await;
        double.up().await?;
    }
    w.serve("b").await?;
    let look = w.at_rest(2).await?.compared();
    ensure!(controller.runs(), "the controller ended");
    Ok(look)
}
