//! Two controllers, one of which leads: the other takes over when the leader dies, says goodbye or falls asleep, and even
//! two that both believe to lead never give one address to two Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ferrolb_api::VirtualIp;
use ferrolb_lab::process::Process;
use ferrolb_lab::wait_until;
use k8s_openapi::api::core::v1::Service;
use kube::api::{ListParams, PartialObjectMeta};
use kube::{Api, ResourceExt as _};

use crate::manifests::{pool, service};
use crate::scene::{PATIENCE, Scene};

/// How soon a standby must serve after the leader has died.
const TAKEOVER: Duration = Duration::from_secs(15);

/// How soon after the leader has ended as asked.
const HANDOVER: Duration = Duration::from_secs(2);

/// How soon after an outage of the API server.
const CATCH_UP: Duration = Duration::from_secs(5);

/// How many Services are made at once.
const BURST: usize = 200;

/// How long all of them may take on a busy machine; nothing is measured by it.
const BURST_PATIENCE: Duration = Duration::from_secs(60);

/// The leader dies: what it served stays as it is, and the standby serves.
pub(crate) async fn leader_killed(s: Scene) -> Result<()> {
    s.apply_and_address("before", &service("before", "web", "type: LoadBalancer"))
        .await?;
    let leader = leader(&s).await?;
    let before = settled(&s).await?;
    leader.kill();
    let died = Instant::now();
    s.apply_and_address("after", &service("after", "web", "type: LoadBalancer"))
        .await?;
    within(TAKEOVER, died, "a Service after the leader was killed")?;
    let after = versions(&s).await?;
    for (object, version) in before {
        ensure!(
            after.get(&object) == Some(&version),
            "{object} was written by the takeover"
        );
    }
    leader.restart()?;
    one_leads(&s).await
}

/// The leader ends as asked: the standby serves at once.
pub(crate) async fn leader_stopped(s: Scene) -> Result<()> {
    let leader = leader(&s).await?;
    let begin = Instant::now();
    let status = leader.stop(Duration::from_secs(5)).await?;
    ensure!(status.success(), "it ended with {status}");
    println!("the end itself took {:?}", begin.elapsed());
    let gone = Instant::now();
    s.apply_and_address("after", &service("after", "web", "type: LoadBalancer"))
        .await?;
    within(HANDOVER, gone, "a Service after the leader was stopped")?;
    leader.restart()?;
    one_leads(&s).await
}

/// The leader falls asleep in the middle of its work, for longer than its lease, and wakes up in the middle of the work
/// of its successor: it ends, and no address is given twice.
pub(crate) async fn leader_paused(s: Scene) -> Result<()> {
    big_pool(&s, "10.78.0.0/22").await?;
    let sleeper = leader(&s).await?;
    let first = burst(&s, "first");
    addressed(&s, BURST / 4).await?;
    sleeper.freeze()?;
    let asleep = Instant::now();
    let before = s.all_addresses().await?.len();
    addressed(&s, before + 1).await?;
    within(TAKEOVER, asleep, "a Service after the leader was paused")?;
    first.await??;
    let held = addressed(&s, BURST).await?;

    let second = burst(&s, "second");
    addressed(&s, BURST + BURST / 4).await?;
    sleeper.thaw()?;
    let awake = Instant::now();
    let end = sleeper.wait_exit(PATIENCE).await.context("it goes on")?;
    println!("the former leader ended {:?} after it woke up", awake.elapsed());
    ensure!(!end.success(), "it lost the lease and ended with {end}");
    let log = sleeper.log_tail(20);
    ensure!(log.contains("lost the lease"), "it says: {log}");
    second.await??;
    distinct(&s, 2 * BURST, &held).await?;
    sleeper.restart()?;
    one_leads(&s).await
}

/// Two controllers that both lead, as no Lease would let them: every Service is served, no address is given twice, and
/// they come to rest.
pub(crate) async fn two_leaders(s: Scene) -> Result<()> {
    big_pool(&s, "10.79.0.0/22").await?;
    let specs = s.controllers().iter().map(Process::spec).collect::<Vec<_>>();
    for (controller, spec) in s.controllers().iter().zip(&specs) {
        controller.restart_with(spec.clone().args(["--leader-elect=false"]))?;
    }
    s.wait_ferrolb_ready().await?;
    let begin = Instant::now();
    burst(&s, "svc").await??;
    let held = addressed(&s, BURST).await?;
    settled(&s).await?;
    println!("at rest {:?} after the burst began", begin.elapsed());
    distinct(&s, BURST, &held).await?;
    for (controller, spec) in s.controllers().iter().zip(specs) {
        controller.restart_with(spec)?;
    }
    one_leads(&s).await
}

/// An API server that is gone for longer than the lease: afterwards one controller leads, and serves in time.
pub(crate) async fn outage(s: Scene) -> Result<()> {
    let leader = leader(&s).await?;
    s.api_server().kill();
    tokio::time::sleep(Duration::from_secs(30)).await;
    s.api_server().restart()?;
    s.wait_api_ready().await?;
    let back = Instant::now();
    s.apply_and_address("after", &service("after", "web", "type: LoadBalancer"))
        .await?;
    within(CATCH_UP, back, "a Service after an outage")?;
    if !leader.is_alive() {
        println!("another leads now, and the former leader has ended");
        leader.restart()?;
    }
    one_leads(&s).await
}

fn within(limit: Duration, since: Instant, what: &str) -> Result<()> {
    let took = since.elapsed();
    println!("{what}: {took:?}");
    ensure!(took < limit, "{what} took {took:?}");
    Ok(())
}

/// Waits until exactly one controller leads.
async fn leader(s: &Scene) -> Result<Process> {
    wait_until("one controller to lead", PATIENCE, async || {
        let mut leaders = Vec::new();
        for (controller, index) in s.controllers().iter().zip(0..) {
            if s.controller_metrics(index).await?.contains("\nferrolb_leader 1\n") {
                leaders.push(controller.clone());
            }
        }
        ensure!(leaders.len() == 1, "{} lead", leaders.len());
        Ok(leaders.remove(0))
    })
    .await
}

/// All controllers are ready, and one of them leads.
async fn one_leads(s: &Scene) -> Result<()> {
    s.wait_ferrolb_ready().await?;
    leader(s).await.map(drop)
}

/// Pools stay until the cluster goes, so each scenario has a range of its own.
async fn big_pool(s: &Scene, range: &str) -> Result<()> {
    let name = format!("{}-many", s.namespace());
    s.apply_config(&pool(&name, s.namespace(), &[range])).await
}

/// Makes [`BURST`] Services.
fn burst(s: &Scene, name: &str) -> tokio::task::JoinHandle<Result<()>> {
    let all = (0..BURST).map(|n| service(&format!("{name}-{n:03}"), "web", "type: LoadBalancer"));
    let all = all.collect::<Vec<_>>().join("---\n");
    let s = s.clone();
    tokio::spawn(async move { s.apply(&all).await })
}

/// Waits until `count` Services have an address.
async fn addressed(s: &Scene, count: usize) -> Result<BTreeMap<String, IpAddr>> {
    wait_until(
        &format!("{count} Services with an address"),
        BURST_PATIENCE,
        async || {
            let held = s.all_addresses().await?;
            ensure!(held.len() >= count, "{} have one", held.len());
            Ok(held)
        },
    )
    .await
}

/// All `count` Services have an address of their own, those of `before` the same as then.
async fn distinct(s: &Scene, count: usize, before: &BTreeMap<String, IpAddr>) -> Result<()> {
    let held = addressed(s, count).await?;
    let addresses = held.values().collect::<BTreeSet<_>>();
    ensure!(
        addresses.len() == held.len(),
        "{} addresses for {} Services",
        addresses.len(),
        held.len()
    );
    for (name, address) in before {
        ensure!(held[name] == *address, "{name} had {address}, and has {}", held[name]);
    }
    Ok(())
}

/// The versions of all Services of the scenario and of all VirtualIPs.
async fn versions(s: &Scene) -> Result<BTreeMap<String, String>> {
    let all = ListParams::default();
    let services = Api::<PartialObjectMeta<Service>>::namespaced(s.client(), s.namespace());
    let services = services.list_metadata(&all).await?.items;
    let addresses = Api::<PartialObjectMeta<VirtualIp>>::all(s.client());
    let addresses = addresses.list_metadata(&all).await?.items;
    let services = services.iter().map(|o| (o.name_any(), o.resource_version()));
    let addresses = addresses.iter().map(|o| (o.name_any(), o.resource_version()));
    let all = services.chain(addresses);
    Ok(all.map(|(name, version)| (name, version.unwrap_or_default())).collect())
}

/// Waits until nothing is written for two seconds, and returns the versions.
async fn settled(s: &Scene) -> Result<BTreeMap<String, String>> {
    const REST: Duration = Duration::from_secs(2);
    let mut last = (versions(s).await?, Instant::now());
    wait_until("the controllers to come to rest", BURST_PATIENCE, async || {
        let now = versions(s).await?;
        if now != last.0 {
            last = (now, Instant::now());
        }
        ensure!(last.1.elapsed() >= REST, "written {:?} ago", last.1.elapsed());
        Ok(last.0.clone())
    })
    .await
}
