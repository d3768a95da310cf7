//! Programs that die and an API server that is gone: nothing that works stops, and everything catches up by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::{Program, wait_until};

use crate::cli;
use crate::manifests::{deployment, endpoint_slice, pool, service, without_selector};
use crate::scene::{PATIENCE, Scene};

/// How long the API server is gone: longer than a watch's patience.
const OUTAGE: Duration = Duration::from_secs(30);

/// How soon after an outage both programs must have caught up.
const CATCH_UP: Duration = Duration::from_secs(5);

/// API server gone for 30 s: announcements stay; both programs reconnect without a restart and catch up.
pub(crate) async fn api_server_gone(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 2)).await?;
    s.apply(&service(
        "web",
        "web",
        "type: LoadBalancer\nipFamilyPolicy: PreferDualStack",
    ))
    .await?;
    s.ready("web", 2).await?;
    let addresses = s.addresses("web", 2).await?;
    let pod = s.pod_addresses("web").await?[0];
    let owner = s.owner(addresses[0]).await?;
    for address in &addresses {
        s.page(*address, 80).await?;
    }
    let before = (s.controller().pid(), s.node(&owner)?.program(Program::Speaker)?.pid());

    s.api_server().kill();
    let begin = Instant::now();
    while begin.elapsed() < OUTAGE {
        for address in &addresses {
            s.forget_neighbours()?;
            s.page(*address, 80).await.context("while the API server is gone")?;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    s.api_server().restart()?;
    s.wait_api_ready().await?;
    let back = Instant::now();
    // Made by hand, endpoint included: the controller manager and kube-proxy take their own time to come back.
    s.apply(&without_selector("after")).await?;
    s.apply(&endpoint_slice("after", pod)).await?;
    let late = s.addresses("after", 1).await?[0];
    let announcer = s.owner(late).await?;
    s.answered_by(late, &announcer).await?;
    let caught_up = back.elapsed();
    ensure!(caught_up < CATCH_UP, "FerroLB took {caught_up:?} to catch up");
    ensure!(
        s.addresses("web", 2).await? == addresses,
        "addresses changed over the outage"
    );
    let after = (s.controller().pid(), s.node(&owner)?.program(Program::Speaker)?.pid());
    ensure!(before == after, "a program was restarted");
    Ok(())
}

/// A speaker that is killed and started again while the API server is gone announces from its snapshot.
pub(crate) async fn speaker_restarts_without_api(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 2)).await?;
    s.apply(&service("web", "web", "type: LoadBalancer")).await?;
    s.ready("web", 2).await?;
    let address = s.addresses("web", 1).await?[0];
    let owner = s.owner(address).await?;
    s.answered_by(address, &owner).await?;
    s.api_server().kill();
    let answered = async {
        // None is left that could answer in its name.
        for node in s.nodes() {
            node.kill(Program::Speaker)?;
        }
        s.unanswered(address).await?;
        s.node(&owner)?.restart(Program::Speaker)?;
        s.answered_by(address, &owner).await
    }
    .await;
    for node in s.nodes().iter().filter(|node| node.name() != owner) {
        node.restart(Program::Speaker)?;
    }
    s.api_server().restart()?;
    s.wait_api_ready().await?;
    answered
}

/// The owner alone cannot reach the API server: Kubernetes calls it NotReady, and after a while the controller moves its
/// address. The old owner hears of that from the new one, and falls silent.
pub(crate) async fn owner_cut_off_from_the_api_server(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 3)).await?;
    s.apply(&service("web", "web", "type: LoadBalancer")).await?;
    s.ready("web", 3).await?;
    let address = s.addresses("web", 1).await?[0];
    let owner = s.owner(address).await?;
    s.answered_by(address, &owner).await?;
    s.node(&owner)?.cut_api()?;
    let moved = async {
        s.wait_node_ready(&owner, false, PATIENCE).await?;
        wait_until("the address to move", 2 * PATIENCE, async || {
            let placement = s.placement(address).await?;
            ensure!(placement.owner != owner, "{placement:?}");
            Ok(())
        })
        .await?;
        let heir = s.other_owner(address, &owner).await?;
        s.answered_by(address, &heir).await?;
        anyhow::Ok(heir)
    }
    .await;
    s.node(&owner)?.restore_api()?;
    let heir = moved?;
    s.node_ready(&owner).await?;
    s.answered_by(address, &heir).await
}

/// The controller killed with SIGKILL in the middle of 200 creations, several times: every Service ends with the
/// address it was first seen with, and no address has two holders.
pub(crate) async fn controller_killed(s: Scene) -> Result<()> {
    const SERVICES: usize = 200;
    const KILLS: usize = 5;
    s.apply_config(&pool(
        &format!("{}-many", s.namespace()),
        s.namespace(),
        &["10.77.0.0/23"],
    ))
    .await?;
    let all = (0..SERVICES).map(|n| service(&format!("svc-{n:03}"), "web", "type: LoadBalancer"));
    let all = all.collect::<Vec<_>>().join("---\n");
    let creating = tokio::spawn({
        let s = s.clone();
        async move { s.apply(&all).await }
    });
    let mut first_seen = BTreeMap::new();
    for round in 1..=KILLS {
        let least = round * SERVICES / (KILLS + 1);
        wait_until(&format!("{least} Services with an address"), PATIENCE, async || {
            let held = s.all_addresses().await?;
            for (name, address) in &held {
                first_seen.entry(name.clone()).or_insert(*address);
            }
            ensure!(held.len() >= least, "{} have one", held.len());
            Ok(())
        })
        .await?;
        s.controller().restart()?;
    }
    creating.await??;
    let held = wait_until("all Services to have an address", PATIENCE, async || {
        let held = s.all_addresses().await?;
        ensure!(held.len() == SERVICES, "{} have one", held.len());
        Ok(held)
    })
    .await?;
    for (name, address) in &first_seen {
        ensure!(
            held[name] == *address,
            "{name} had {address} and now has {}",
            held[name]
        );
    }
    let distinct = held.values().collect::<BTreeSet<_>>();
    ensure!(
        distinct.len() == SERVICES,
        "{} addresses for {SERVICES} Services: {held:?}",
        distinct.len()
    );
    Ok(())
}

/// Started on a cluster whose Services have addresses already, as after a move from another load balancer: each is
/// claimed as it stands, also outside of all pools, before anything new is handed out.
pub(crate) async fn adoption(s: Scene) -> Result<()> {
    let (inside, outside) = (IpAddr::V4(s.v4(100)), IpAddr::V4(Ipv4Addr::new(10, 88, 0, 1)));
    s.controller().kill();
    for (name, address) in [("inside", inside), ("outside", outside)] {
        s.apply(&service(name, "web", "type: LoadBalancer")).await?;
        s.write_status(name, address).await?;
    }
    s.apply(&service("new", "web", "type: LoadBalancer")).await?;
    s.controller().restart()?;
    let new = s.addresses("new", 1).await?[0];
    ensure!(new == s.v4(101), "the next free address is {}, not {new}", s.v4(101));
    for (name, address) in [("inside", inside), ("outside", outside)] {
        let claims = &s.json(&format!("vip/{address}")).await?["spec"]["claims"];
        ensure!(claims[0]["name"] == name, "{address} is claimed by {claims}");
        ensure!(
            s.addresses(name, 1).await? == [address],
            "{name} did not keep {address}"
        );
    }
    Ok(())
}

/// What somebody writes into a Service's status by hand is put right, and announced by nobody.
pub(crate) async fn status_written_by_hand(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 1)).await?;
    s.apply(&service("web", "web", "type: LoadBalancer")).await?;
    s.ready("web", 1).await?;
    let (right, wrong) = (s.addresses("web", 1).await?[0], IpAddr::V4(s.v4(140)));
    s.page(right, 80).await?;
    s.write_status("web", wrong).await?;
    wait_until("the address to be put right", PATIENCE, async || {
        let now = s.external_ips(s.namespace(), "web").await?;
        ensure!(now == [right], "it is {now:?}");
        Ok(())
    })
    .await?;
    s.unanswered(wrong).await?;
    s.page(right, 80).await.map(drop)
}

/// A missing RBAC rule: the log and `/readyz` say which, Services that work keep working, and it heals.
pub(crate) async fn missing_rbac_rule(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 1)).await?;
    s.apply(&service("web", "web", "type: LoadBalancer")).await?;
    s.ready("web", 1).await?;
    let address = s.addresses("web", 1).await?[0];
    s.page(address, 80).await?;

    let binding = s.json("clusterrolebinding/ferrolb-controller").await?;
    s.kubectl(&["delete", "clusterrolebinding", "ferrolb-controller"])
        .await?;
    s.controller().restart()?;
    let said = s.controller_not_ready(&["services", "list", "forbidden"]).await;
    s.page(address, 80).await?;
    let restored = serde_json::json!({
        "apiVersion": binding["apiVersion"], "kind": binding["kind"],
        "metadata": { "name": "ferrolb-controller", "labels": binding["metadata"]["labels"] },
        "roleRef": binding["roleRef"], "subjects": binding["subjects"],
    });
    s.apply(&restored.to_string()).await?;
    said?;
    let log = std::fs::read_to_string(s.controller().log())?;
    ensure!(
        log.lines()
            .any(|l| l.contains("services") && l.to_lowercase().contains("forbidden")),
        "the log says:\n{log}"
    );
    s.controller_ready().await?;
    ensure!(s.addresses("web", 1).await? == [address], "the address changed");
    s.fence().await
}

/// A missing rule for a write: `/readyz` says which, and it heals without a restart.
pub(crate) async fn missing_write_rule(s: Scene) -> Result<()> {
    let role = s.json("clusterrole/ferrolb-controller").await?;
    let rules = role["rules"].as_array().context("a ClusterRole has rules")?;
    let index = rules
        .iter()
        .position(|rule| rule["resources"] == serde_json::json!(["services/status"]))
        .context("no rule for services/status")?;
    let change = |op: &str| {
        let patch = serde_json::json!([{ "op": op, "path": format!("/rules/{index}"), "value": rules[index] }]);
        let s = s.clone();
        async move {
            let patch = patch.to_string();
            let args = [
                "patch",
                "clusterrole",
                "ferrolb-controller",
                "--type=json",
                "-p",
                &patch,
            ];
            s.kubectl(&args).await
        }
    };
    change("remove").await?;
    let said = async {
        s.apply(&service("web", "web", "type: LoadBalancer")).await?;
        s.controller_not_ready(&["services/status", "patch", "forbidden"]).await
    }
    .await;
    change("add").await?;
    let restored = Instant::now();
    said?;
    s.addresses("web", 1).await?;
    s.controller_ready().await?;
    let healed = restored.elapsed();
    ensure!(healed < CATCH_UP, "FerroLB took {healed:?} to use the rule");
    Ok(())
}

/// A missing CRD: the log, `/readyz` and the plugin say which, and it heals when the CRD is there.
pub(crate) async fn missing_crd(s: Scene) -> Result<()> {
    let name = "l2advertisements.metallb.io";
    let crd = s.json(&format!("crd/{name}")).await?;
    s.kubectl(&["delete", "crd", name]).await?;
    s.controller().restart()?;
    let said = s.controller_not_ready(&["l2advertisements", "list"]).await;
    let plugin = cli::told(&s, &["status"], 2, &format!("does not serve {name}")).await;
    let restored = serde_json::json!({
        "apiVersion": crd["apiVersion"], "kind": crd["kind"], "metadata": { "name": name }, "spec": crd["spec"],
    });
    s.apply(&restored.to_string()).await?;
    said?;
    plugin?;
    s.controller_ready().await?;
    s.fence().await
}
