//! Bad input: a clear error that names object, field, value and what would be right; nothing that works stops; the
//! case heals when the input is corrected.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use ferrolb_lab::lab::NAMESPACE;

use crate::manifests::{annotated, deployment, pool, service};
use crate::scene::Scene;

/// With no pool at all a Service stays pending with the reason, and is served as soon as there is one.
/// Runs first in its cluster, before any pool exists.
pub(crate) async fn no_pool(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 1)).await?;
    s.apply(&service("early", "web", "type: LoadBalancer")).await?;
    s.event("early", "AllocationFailed", "NoPools").await?;
    s.apply_pool().await?;
    let address = s.addresses("early", 1).await?[0];
    s.ready("web", 1).await?;
    s.page(address, 80).await?;
    Ok(())
}

/// An exhausted pool: the Service that comes too late says so, those served are untouched, and it is served when an
/// address is added.
pub(crate) async fn exhausted_pool(s: Scene) -> Result<()> {
    let (tiny, [first, second, third]) = (format!("{}-tiny", s.namespace()), [170, 171, 172].map(|n| s.v4(n)));
    s.apply_config(&pool(&tiny, s.namespace(), &[&format!("{first}-{second}")]))
        .await?;
    for name in ["one", "two"] {
        s.apply(&service(name, "web", "type: LoadBalancer")).await?;
    }
    let held = [s.addresses("one", 1).await?[0], s.addresses("two", 1).await?[0]];
    ensure!(
        held == [IpAddr::V4(first), IpAddr::V4(second)],
        "the lowest addresses first, not {held:?}"
    );
    s.apply(&service("three", "web", "type: LoadBalancer")).await?;
    s.event("three", "AllocationFailed", "PoolExhausted").await?;
    s.event("three", "AllocationFailed", &tiny).await?;
    s.apply_config(&pool(&tiny, s.namespace(), &[&format!("{first}-{third}")]))
        .await?;
    let late = s.addresses("three", 1).await?[0];
    ensure!(late == third, "got {late}");
    ensure!(
        held == [s.addresses("one", 1).await?[0], s.addresses("two", 1).await?[0]],
        "a holder was moved"
    );
    Ok(())
}

/// Pools that cannot be right are refused or left out with a message about the very field, and heal when corrected.
pub(crate) async fn malformed_pools(s: Scene) -> Result<()> {
    s.apply(&service("works", "web", "type: LoadBalancer")).await?;
    let works = s.addresses("works", 1).await?[0];
    let [low, high, inside, outside] = [180, 189, 140, 160].map(|n| s.v4(n));
    let overlapping = format!("{}-overlapping", s.namespace());
    for (name, addresses, said) in [
        ("too-long", vec!["10.0.0.0/33".to_owned()], "10.0.0.0/33"),
        ("backwards", vec![format!("{high}-{low}")], &format!("{high}-{low}")),
        (
            "backwards-ipv6",
            vec!["2001:db8::9-2001:db8::1".to_owned()],
            "2001:db8::1-2001:db8::9",
        ),
        ("empty", vec![], "addresses"),
        (&overlapping, vec![format!("{inside}-{outside}")], s.namespace()),
    ] {
        let addresses = addresses.iter().map(String::as_str).collect::<Vec<_>>();
        s.pool_refused(name, &pool(name, s.namespace(), &addresses), said)
            .await?;
    }
    let later = s
        .apply_and_address("still-served", &service("still-served", "web", "type: LoadBalancer"))
        .await?;
    ensure!(
        later != works && s.addresses("works", 1).await? == [works],
        "{works} was disturbed"
    );

    s.apply_config(&pool(&overlapping, s.namespace(), &[&format!("{low}-{high}")]))
        .await?;
    let asked = annotated(
        "healed",
        "web",
        &format!("metallb.io/address-pool: {overlapping}"),
        "type: LoadBalancer",
    );
    let healed = s.apply_and_address("healed", &asked).await?;
    ensure!(healed == low, "got {healed}");
    let args = ["-n", NAMESPACE, "delete", "ipaddresspool", "backwards-ipv6"];
    s.lab().kubectl(&args).await.map(drop)
}

/// Requests that cannot be read or met: the event names the annotation, the value and what would be right; a working
/// address is never taken away; correcting the annotation heals.
pub(crate) async fn malformed_requests(s: Scene) -> Result<()> {
    for (name, annotation, said) in [
        ("no-address", "metallb.io/loadBalancerIPs: 172.30.0.300", "172.30.0.300"),
        (
            "outside",
            "metallb.io/loadBalancerIPs: 192.0.2.1",
            "AddressOutsidePools",
        ),
        ("no-such-pool", "metallb.io/address-pool: nowhere", "nowhere"),
    ] {
        s.apply(&annotated(name, "web", annotation, "type: LoadBalancer"))
            .await?;
        s.refused(name, said).await?;
        s.no_address(name).await?;
    }
    let wish = |text: &str| {
        annotated(
            "no-address",
            "web",
            &format!("metallb.io/loadBalancerIPs: {text}"),
            "type: LoadBalancer",
        )
    };
    let right = s.v4(145);
    s.apply(&wish(&right.to_string())).await?;
    ensure!(
        s.addresses("no-address", 1).await? == [right],
        "the corrected request is not met"
    );

    s.apply(&wish("192.0.2.1")).await?;
    s.refused("no-address", "192.0.2.1").await?;
    ensure!(
        s.addresses("no-address", 1).await? == [right],
        "a working address was taken away"
    );
    Ok(())
}

/// Requested addresses and pools that can be met are met.
pub(crate) async fn requests(s: Scene) -> Result<()> {
    let chosen = format!("{}-chosen", s.namespace());
    let [by_field, new, old, both, other] = [146, 147, 148, 149, 190].map(|n| s.v4(n));
    s.apply_config(&pool(&chosen, s.namespace(), &[&format!("{other}/32")]))
        .await?;
    let v6: IpAddr = s.range_v6().split('-').next_back().expect("a range").parse()?;
    for (name, annotations, spec, wanted) in [
        (
            "by-address",
            format!("metallb.io/loadBalancerIPs: {new}"),
            "",
            vec![IpAddr::V4(new)],
        ),
        (
            "by-old-prefix",
            format!("metallb.universe.tf/loadBalancerIPs: {old}"),
            "",
            vec![IpAddr::V4(old)],
        ),
        (
            "by-pool",
            format!("metallb.io/address-pool: {chosen}"),
            "",
            vec![IpAddr::V4(other)],
        ),
        (
            "by-both",
            format!("metallb.io/loadBalancerIPs: {v6}, {both}"),
            "ipFamilyPolicy: RequireDualStack",
            vec![IpAddr::V4(both), v6],
        ),
    ] {
        s.apply(&annotated(
            name,
            "web",
            &annotations,
            &format!("type: LoadBalancer\n{spec}"),
        ))
        .await?;
        let got = s.addresses(name, wanted.len()).await?;
        ensure!(got == wanted, "{name}: wanted {wanted:?}, got {got:?}");
    }
    s.event(
        "by-old-prefix",
        "deprecatedAnnotation",
        "metallb.universe.tf/loadBalancerIPs",
    )
    .await?;
    s.apply(&service(
        "by-field",
        "web",
        &format!("type: LoadBalancer\nloadBalancerIP: {by_field}"),
    ))
    .await?;
    ensure!(
        s.addresses("by-field", 1).await? == [by_field],
        "spec.loadBalancerIP is not met"
    );

    let shared = "metallb.io/allow-shared-ip: one";
    s.apply(&annotated("http", "web", shared, "type: LoadBalancer")).await?;
    let first = s.addresses("http", 1).await?;
    s.apply(&annotated("https", "web", shared, "type: LoadBalancer").replace("port: 80,", "port: 443,"))
        .await?;
    ensure!(
        s.addresses("https", 1).await? == first,
        "the sharing key did not join the address"
    );
    s.apply(&annotated("clash", "web", shared, "type: LoadBalancer"))
        .await?;
    ensure!(
        s.addresses("clash", 1).await? != first,
        "two Services share one port of {first:?}"
    );
    Ok(())
}

/// A VirtualIP made by hand blocks its address, or keeps it for the Service that it names.
pub(crate) async fn reserved_and_blocked(s: Scene) -> Result<()> {
    let (ns, blocked, kept) = (s.namespace(), s.v4(130), s.v4(131));
    s.apply(&format!(
        "apiVersion: ferrolb.io/v1alpha1\nkind: VirtualIP\nmetadata: {{ name: {blocked} }}\nspec: {{ address: {blocked} }}\n---\n\
         apiVersion: ferrolb.io/v1alpha1\nkind: VirtualIP\nmetadata: {{ name: {kept} }}\nspec:\n  address: {kept}\n  \
         claims: [{{ namespace: {ns}, name: awaited }}]\n"
    ))
    .await?;
    let asking = |name: &str, address| {
        annotated(
            name,
            "web",
            &format!("metallb.io/loadBalancerIPs: {address}"),
            "type: LoadBalancer",
        )
    };
    s.apply(&asking("blocked", blocked)).await?;
    s.refused("blocked", "AddressBlocked").await?;
    s.apply(&asking("greedy", kept)).await?;
    s.refused("greedy", "awaited").await?;
    let awaited = s
        .apply_and_address("awaited", &service("awaited", "web", "type: LoadBalancer"))
        .await?;
    ensure!(awaited == kept, "got {awaited}");
    s.kubectl(&["delete", "vip", &blocked.to_string()]).await?;
    ensure!(
        s.addresses("blocked", 1).await? == [blocked],
        "an unblocked address is not given to who waits for it"
    );
    Ok(())
}
