//! Who gets which address: pools by priority and label, sharing, waiting in line, limits of a namespace.

use std::net::IpAddr;

use anyhow::{Result, ensure};

use crate::manifests::{advertisement, annotated, deployment, pool, pool_with, service};
use crate::scene::Scene;

const PLAIN: &str = "type: LoadBalancer";

/// Pinned pools are tried by priority, those with service selectors serve only what they select, and one that does not
/// assign by itself is used only by name.
pub(crate) async fn pools_by_priority(s: Scene) -> Result<()> {
    let name = |what: &str| format!("{}-{what}", s.namespace());
    for (what, addresses, rules) in [
        (
            "gold",
            180..=181,
            "priority: 1\nserviceSelectors: [{ matchLabels: { tier: gold } }]",
        ),
        ("first", 182..=182, "priority: 10"),
        ("second", 183..=184, "priority: 20"),
    ] {
        let range = format!("{}-{}", s.v4(*addresses.start()), s.v4(*addresses.end()));
        s.apply_config(&pool_with(&name(what), s.namespace(), &[&range], rules, ""))
            .await?;
    }
    let manual = format!("{0}-{0}", s.v4(185));
    s.apply_config(&pool_with(
        &name("manual"),
        s.namespace(),
        &[&manual],
        "priority: 1",
        "autoAssign: false",
    ))
    .await?;
    let golden = service("golden", "web", PLAIN).replacen("name: golden", "name: golden\n  labels: { tier: gold }", 1);
    let by_name = annotated(
        "by-name",
        "web",
        &format!("metallb.io/address-pool: {}", name("manual")),
        PLAIN,
    );
    for (service_name, yaml, address) in [
        ("one", service("one", "web", PLAIN), 182),
        ("two", service("two", "web", PLAIN), 183),
        ("golden", golden, 180),
        ("by-name", by_name, 185),
        ("three", service("three", "web", PLAIN), 184),
    ] {
        let got = s.apply_and_address(service_name, &yaml).await?;
        ensure!(got == s.v4(address), "{service_name} got {got}, not {}", s.v4(address));
    }
    Ok(())
}

/// A pool for namespaces with a label: a Service that waits is served when its namespace gets the label, and keeps its
/// address when the label goes.
pub(crate) async fn namespace_relabelled(s: Scene) -> Result<()> {
    let label = format!("ferrolb-lab/{}", s.namespace());
    let range = format!("{0}-{0}", s.v4(186));
    let selector = format!("namespaceSelectors: [{{ matchLabels: {{ {label}: \"yes\" }} }}]");
    s.apply_config(&pool_with(
        &format!("{}-labelled", s.namespace()),
        "",
        &[&range],
        &selector,
        "",
    ))
    .await?;
    s.apply(&service("waits", "web", PLAIN)).await?;
    s.event("waits", "AllocationFailed", "NoPoolForService").await?;
    s.kubectl(&["label", "namespace", s.namespace(), &format!("{label}=yes")])
        .await?;
    let address = s.addresses("waits", 1).await?[0];
    ensure!(address == s.v4(186), "got {address}");
    s.kubectl(&["label", "namespace", s.namespace(), &format!("{label}-")])
        .await?;
    s.event("waits", "PoolChanged", &address.to_string()).await?;
    ensure!(s.addresses("waits", 1).await? == [address], "the holder lost {address}");
    Ok(())
}

/// Services with one sharing key and different ports share an address, each reached on its port; one whose port is
/// taken is refused with the reason, and served when the port is free.
pub(crate) async fn sharing(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 1)).await?;
    s.ready("web", 1).await?;
    let key = "metallb.io/allow-shared-ip: together";
    let on_port = |name: &str, annotations: &str, port: u16| {
        annotated(name, "web", annotations, PLAIN).replacen("port: 80,", &format!("port: {port},"), 1)
    };
    let alone = s.apply_and_address("alone", &service("alone", "web", PLAIN)).await?;
    let first = s.apply_and_address("first", &on_port("first", key, 80)).await?;
    s.kubectl(&["delete", "svc", "alone"]).await?;
    let second = s.apply_and_address("second", &on_port("second", key, 81)).await?;
    ensure!(first != alone && first == second, "{first} is not shared: {second}");
    s.page(first, 80).await?;
    s.page(first, 81).await?;
    let wish = format!("{key}\nmetallb.io/loadBalancerIPs: {first}");
    s.apply(&on_port("third", &wish, 81)).await?;
    s.refused("third", "CannotShare").await?;
    s.no_address("third").await?;
    s.kubectl(&["delete", "svc", "second"]).await?;
    let third = s.addresses("third", 1).await?[0];
    ensure!(third == first, "got {third}");
    s.page(first, 81).await.map(drop)
}

/// An address that two ask for by name: when it comes free the one that is older has it, and nobody in between.
pub(crate) async fn named_address_waits_in_line(s: Scene) -> Result<()> {
    let wanted = IpAddr::V4(s.v4(100));
    let ask = |name: &str| annotated(name, "web", &format!("metallb.io/loadBalancerIPs: {wanted}"), PLAIN);
    let holder = s.apply_and_address("holder", &service("holder", "web", PLAIN)).await?;
    ensure!(holder == wanted, "the lowest address first, not {holder}");
    for name in ["older", "younger"] {
        s.apply(&ask(name)).await?;
        s.refused(name, "AddressInUse").await?;
        // Age counts in seconds.
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }
    s.kubectl(&["delete", "svc", "holder"]).await?;
    let automatic = s
        .apply_and_address("automatic", &service("automatic", "web", PLAIN))
        .await?;
    ensure!(
        automatic != wanted,
        "{wanted} was handed out while it cools down and others wait for it"
    );
    // Ends the cool-down by hand.
    s.kubectl(&["delete", "vip", &wanted.to_string()]).await?;
    let older = s.addresses("older", 1).await?[0];
    ensure!(older == wanted, "got {older}");
    s.no_address("younger").await?;
    s.apply(&service("older", "web", PLAIN)).await?;
    s.kubectl(&["delete", "svc", "older"]).await?;
    s.kubectl(&["delete", "vip", &wanted.to_string()]).await?;
    let younger = s.addresses("younger", 1).await?[0];
    ensure!(younger == wanted, "got {younger}");
    Ok(())
}

/// The broadcast address of the nodes' subnet, which their speakers tell of, is not handed out, not even on request.
pub(crate) async fn broadcast_address(s: Scene) -> Result<()> {
    let [last, broadcast] = ["172.30.255.254", "172.30.255.255"];
    let name = s.namespace().to_owned();
    s.apply_config(&pool(&name, &name, &[&format!("{last}-{broadcast}")]))
        .await?;
    s.apply_config(&advertisement(std::slice::from_ref(&name))).await?;
    let wish = format!("metallb.io/loadBalancerIPs: {broadcast}");
    s.apply(&annotated("named", "web", &wish, PLAIN)).await?;
    s.refused("named", "AddressOfNetwork").await?;
    let web = s.apply_and_address("web", &service("web", "web", PLAIN)).await?;
    ensure!(web.to_string() == last, "got {web}");
    s.apply(&service("other", "web", PLAIN)).await?;
    s.refused("other", "PoolExhausted").await?;
    let held = s.all_addresses().await?;
    ensure!(held.len() == 1, "{held:?}");
    Ok(())
}

/// Both families from two pools of one family each.
pub(crate) async fn two_pools_for_two_families(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 1)).await?;
    s.ready("web", 1).await?;
    let names = ["four", "six"].map(|what| format!("{}-{what}", s.namespace()));
    for (name, range) in names.iter().zip([format!("{0}-{0}", s.v4(187)), s.range_v6()]) {
        s.apply_config(&pool(name, s.namespace(), &[&range])).await?;
    }
    s.apply_config(&advertisement(&names)).await?;
    s.apply(&service(
        "both",
        "web",
        &format!("{PLAIN}\nipFamilyPolicy: RequireDualStack"),
    ))
    .await?;
    let both = s.addresses("both", 2).await?;
    ensure!(both[0] == s.v4(187) && both[1].is_ipv6(), "got {both:?}");
    for address in both {
        s.page(address, 80).await?;
    }
    Ok(())
}

/// What an AllocationPolicy limits is refused by the limit's name, what works stays, and lifting the limit serves those
/// who wait.
pub(crate) async fn tenancy(s: Scene) -> Result<()> {
    let (name, allowed) = (s.namespace().to_owned(), s.v4(110));
    let policy = |limits: &str| {
        format!(
            "apiVersion: ferrolb.io/v1alpha1\nkind: AllocationPolicy\nmetadata: {{ name: {name} }}\nspec:\n  \
             namespaces: [{name}]\n{limits}"
        )
    };
    let limits = format!("  maxAddresses: 2\n  pools: [{name}]\n  requestableAddresses: [{allowed}/32]\n");
    let other = format!("{name}-other");
    s.apply_config(&pool(&other, &name, &[&format!("{}-{}", s.v4(180), s.v4(181))]))
        .await?;
    let before = s.apply_and_address("before", &service("before", "web", PLAIN)).await?;
    s.apply(&policy(&limits)).await?;
    // The policy is known when a request outside of it is refused.
    let ask = |name: &str, annotation: &str| annotated(name, "web", annotation, PLAIN);
    s.apply(&ask("foreign-pool", &format!("metallb.io/address-pool: {other}")))
        .await?;
    s.refused("foreign-pool", "spec.pools").await?;
    s.apply(&ask(
        "foreign-address",
        &format!("metallb.io/loadBalancerIPs: {}", s.v4(111)),
    ))
    .await?;
    s.refused("foreign-address", "spec.requestableAddresses").await?;
    let own = s
        .apply_and_address("own", &ask("own", &format!("metallb.io/loadBalancerIPs: {allowed}")))
        .await?;
    ensure!(own == allowed, "got {own}");
    s.apply(&service("one-too-many", "web", PLAIN)).await?;
    s.refused("one-too-many", "spec.maxAddresses").await?;
    ensure!(s.addresses("before", 1).await? == [before], "a holder was touched");
    s.kubectl(&["delete", "allocationpolicy", &name]).await?;
    for service in ["foreign-pool", "foreign-address", "one-too-many"] {
        s.addresses(service, 1).await?;
    }
    Ok(())
}
