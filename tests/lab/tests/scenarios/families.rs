//! IPv6-only and dual-stack Services.

use anyhow::{Result, ensure};

use crate::manifests::{deployment, service};
use crate::scene::Scene;

/// An IPv6-only Service gets an IPv6 address, and a client reaches it by Neighbor Discovery.
pub(crate) async fn ipv6_only(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 2)).await?;
    s.apply(&service(
        "six",
        "web",
        "type: LoadBalancer\nipFamilies: [IPv6]\nipFamilyPolicy: SingleStack",
    ))
    .await?;
    s.ready("web", 2).await?;
    let address = s.addresses("six", 1).await?[0];
    ensure!(address.is_ipv6(), "got {address}");
    s.page(address, 80).await?;
    let (owner, macs) = (s.owner(address).await?, s.who_answers(address).await?);
    ensure!(
        macs == [s.node_mac(&owner)],
        "{address} is answered by {macs:?}, its owner is {owner}"
    );
    Ok(())
}

/// Dual-stack Services, preferred and required, get one address of each family, IPv4 first, and both answer.
pub(crate) async fn dual_stack(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 2)).await?;
    for (name, policy) in [("preferred", "PreferDualStack"), ("required", "RequireDualStack")] {
        s.apply(&service(
            name,
            "web",
            &format!("type: LoadBalancer\nipFamilyPolicy: {policy}"),
        ))
        .await?;
    }
    s.ready("web", 2).await?;
    for name in ["preferred", "required"] {
        let addresses = s.addresses(name, 2).await?;
        ensure!(
            addresses[0].is_ipv4() && addresses[1].is_ipv6(),
            "{name}: {addresses:?}"
        );
        for address in addresses {
            s.page(address, 80).await?;
        }
    }
    Ok(())
}

/// A Service that becomes dual-stack keeps its address and gets a second one; back again, it keeps the first.
pub(crate) async fn second_family_later(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 1)).await?;
    s.apply(&service("grows", "web", "type: LoadBalancer")).await?;
    s.ready("web", 1).await?;
    let first = s.addresses("grows", 1).await?[0];
    let turn = async |patch: &str| s.kubectl(&["patch", "svc", "grows", "--type=merge", "-p", patch]).await;
    turn(r#"{"spec":{"ipFamilyPolicy":"RequireDualStack"}}"#).await?;
    let both = s.addresses("grows", 2).await?;
    ensure!(both[0] == first && both[1].is_ipv6(), "{first} became {both:?}");
    s.page(both[1], 80).await?;
    turn(r#"{"spec":{"ipFamilyPolicy":"SingleStack","ipFamilies":["IPv4"]}}"#).await?;
    let one = s.addresses("grows", 1).await?;
    ensure!(one == [first], "{both:?} became {one:?}");
    Ok(())
}
