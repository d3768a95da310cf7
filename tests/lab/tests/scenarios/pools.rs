//! Pools that change under their holders: nothing that works stops, and moving is a choice.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::wait_until;

use crate::manifests::{advertisement, annotated, deployment, pool, pool_with, service};
use crate::scene::{PATIENCE, Scene};

const PLAIN: &str = "type: LoadBalancer";

/// A pool that is cut and then deleted: its holder keeps the address and is reached, and both say so; the counters
/// follow.
pub(crate) async fn holder_keeps_its_address(s: Scene) -> Result<()> {
    let name = format!("{}-cut", s.namespace());
    s.apply(&deployment("web", 1)).await?;
    let range = |from, to| format!("{}-{}", s.v4(from), s.v4(to));
    s.apply_config(&pool(&name, s.namespace(), &[&range(180, 183)])).await?;
    s.apply_config(&advertisement(std::slice::from_ref(&name))).await?;
    let address = s.apply_and_address("web", &service("web", "web", PLAIN)).await?;
    s.ready("web", 1).await?;
    s.page(address, 80).await?;
    counters(&s, &name, ("1", "3")).await?;

    s.apply_config(&pool(&name, s.namespace(), &[&range(182, 183)])).await?;
    s.event("web", "PoolChanged", &address.to_string()).await?;
    s.condition(address, "Allocated", "True", "PoolChanged").await?;
    let next = s.apply_and_address("next", &service("next", "web", PLAIN)).await?;
    ensure!(next == s.v4(182), "got {next}");
    counters(&s, &name, ("1", "1")).await?;

    let args = ["-n", NAMESPACE, "delete", "ipaddresspool", &name];
    s.lab().kubectl(&args).await?;
    s.event("next", "PoolChanged", &next.to_string()).await?;
    for (service, address) in [("web", address), ("next", next)] {
        s.page(address, 80).await?;
        ensure!(s.addresses(service, 1).await? == [address], "{service} lost {address}");
    }
    Ok(())
}

/// Waits until the pool counts so many IPv4 addresses as assigned and available.
async fn counters(s: &Scene, pool: &str, wanted: (&str, &str)) -> Result<()> {
    let columns = "jsonpath={.status.assignedIPv4} {.status.availableIPv4}";
    let args = ["-n", NAMESPACE, "get", "ipaddresspool", pool, "-o", columns];
    wait_until(
        &format!("the counters of {pool} to be {wanted:?}"),
        PATIENCE,
        async || {
            let counted = s.lab().kubectl(&args).await?;
            ensure!(counted.trim() == format!("{} {}", wanted.0, wanted.1), "{counted}");
            Ok(())
        },
    )
    .await
}

/// A pool that reassigns: its holder gets an address that the pool still has, and is reached at one or the other all
/// the time.
pub(crate) async fn renumbered(s: Scene) -> Result<()> {
    let name = format!("{}-moves", s.namespace());
    s.apply(&deployment("web", 1)).await?;
    let make = |from: u8, to: u8| {
        let range = format!("{}-{}", s.v4(from), s.v4(to));
        pool_with(&name, s.namespace(), &[&range], "", "").replacen(
            "metadata:\n",
            "metadata:\n  annotations: { ferrolb.io/on-shrink: reassign }\n",
            1,
        )
    };
    s.apply_config(&make(180, 181)).await?;
    s.apply_config(&advertisement(std::slice::from_ref(&name))).await?;
    let old = s.apply_and_address("web", &service("web", "web", PLAIN)).await?;
    let asked = annotated(
        "asked",
        "web",
        &format!("metallb.io/loadBalancerIPs: {}", s.v4(181)),
        PLAIN,
    );
    let asked = s.apply_and_address("asked", &asked).await?;
    s.ready("web", 1).await?;
    s.page(old, 80).await?;

    let client = s.steady_client(old, 80, Duration::from_millis(50))?;
    s.apply_config(&make(184, 185)).await?;
    let both = s.addresses("web", 2).await?;
    let new = *both.iter().find(|a| **a != old).context("a new address")?;
    ensure!(new == s.v4(184) && both.contains(&old), "got {both:?}");
    s.page(new, 80).await?;
    let seen = client.stop()?;
    ensure!(
        seen.requests > 10 && seen.failed == 0,
        "the old address failed while both stood: {seen:?}"
    );
    wait_until("the old address to go", Duration::from_secs(60), async || {
        let now = s.external_ips(s.namespace(), "web").await?;
        ensure!(now == [new], "it has {now:?}");
        Ok(())
    })
    .await?;
    s.unanswered(old).await?;
    s.page(new, 80).await?;
    ensure!(
        s.addresses("asked", 1).await? == [asked],
        "what was asked for by name was moved"
    );
    Ok(())
}

/// A pool that was right and is wrong now: its last good version stays in force, also over a restart, until the pool
/// is put right.
pub(crate) async fn last_good_over_a_restart(s: Scene) -> Result<()> {
    let name = format!("{}-good", s.namespace());
    let [first, second, third] = [180, 181, 182].map(|n| IpAddr::V4(s.v4(n)));
    s.apply_config(&pool(&name, s.namespace(), &[&format!("{first}-{second}")]))
        .await?;
    let ask = |service: &str| annotated(service, "web", &format!("metallb.io/address-pool: {name}"), PLAIN);
    s.apply_and_address("one", &ask("one")).await?;
    // In common with the pool of the scenario, which is older.
    let overlapping = format!("{}-{}", s.v4(149), third);
    s.pool_refused(&name, &pool(&name, s.namespace(), &[&overlapping]), s.namespace())
        .await?;
    s.controller().restart()?;
    let two = s.apply_and_address("two", &ask("two")).await?;
    ensure!(two == second, "the last good version would give {second}, not {two}");
    s.apply_config(&pool(&name, s.namespace(), &[&format!("{first}-{third}")]))
        .await?;
    let three = s.apply_and_address("three", &ask("three")).await?;
    ensure!(three == third, "got {three}");
    Ok(())
}
