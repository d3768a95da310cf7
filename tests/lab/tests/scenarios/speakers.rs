//! What speakers say about themselves, and how they defend what they announce.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use ferrolb_lab::client::ArpProbe;
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::wait_until;
use serde_json::Value;

use crate::manifests::{deployment, service};
use crate::scene::{PATIENCE, Scene};

async fn announced(s: &Scene) -> Result<(IpAddr, String)> {
    s.apply(&deployment("web", 3)).await?;
    s.apply(&service("web", "web", "type: LoadBalancer")).await?;
    s.ready("web", 3).await?;
    let address = s.addresses("web", 1).await?[0];
    s.page(address, 80).await?;
    Ok((address, s.owner(address).await?))
}

/// Waits until the SpeakerState of `node` says what is wanted.
async fn state(s: &Scene, node: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
    wait_until(&format!("{node} to say {what}"), PATIENCE, async || {
        let state = s.json(&format!("speakerstate/{node}")).await?;
        ensure!(wanted(&state["status"]), "it says {}", state["status"]);
        Ok(())
    })
    .await
}

fn interface<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    let all = status["interfaces"].as_array()?;
    all.iter().find(|interface| interface["name"] == name)
}

/// Each node shows its interfaces and counts its addresses; a link that goes down shows, and so does one that is
/// removed. A state that is deleted comes back.
pub(crate) async fn speaker_state(s: Scene) -> Result<()> {
    let (_, owner) = announced(&s).await?;
    for node in s.nodes() {
        let (mac, address) = (node.host().mac(), node.host().address());
        state(&s, node.name(), "how its interface is", |status| {
            interface(status, "eth0").is_some_and(|eth0| {
                let addresses = eth0["addresses"].to_string();
                eth0["macAddress"] == mac && eth0["up"] == true && addresses.contains(&format!("{address}/"))
            })
        })
        .await?;
        let table = s.kubectl(&["get", "speakerstate", "--no-headers"]).await?;
        ensure!(table.contains(node.name()), "kubectl shows {table}");
    }
    state(&s, &owner, "that it announces", |status| {
        status["layer2"]["announcedAddresses"].as_u64() >= Some(1)
    })
    .await?;

    let host = s.node(&owner)?.host().namespace();
    let carrier =
        |wanted: bool| move |status: &Value| interface(status, "lan1").is_some_and(|lan1| lan1["carrier"] == wanted);
    host.ip("link add lan1 type veth peer name veth-lan1\nlink set lan1 up\nlink set veth-lan1 up")?;
    let seen = async {
        state(&s, &owner, "that there is one more interface", carrier(true)).await?;
        host.ip("link set veth-lan1 down")?;
        state(&s, &owner, "that it lost its carrier", carrier(false)).await
    }
    .await;
    host.ip("link del lan1")?;
    seen?;
    state(&s, &owner, "that it is gone", |status| {
        interface(status, "lan1").is_none()
    })
    .await?;

    let uid = s.json(&format!("speakerstate/{owner}")).await?["metadata"]["uid"].clone();
    s.kubectl(&["delete", "speakerstate", &owner]).await?;
    wait_until("the state to come back", PATIENCE, async || {
        let state = s.json(&format!("speakerstate/{owner}")).await?;
        let whole =
            state["status"]["interfaces"].is_array() && state["metadata"]["ownerReferences"][0]["kind"] == "Node";
        ensure!(whole && state["metadata"]["uid"] != uid, "it is {state}");
        Ok(())
    })
    .await
}

/// Waits until `node` alone has a ServiceL2Status about the Service, and a whole one.
async fn told_by(s: &Scene, node: &str) -> Result<()> {
    let of = format!(
        "metallb.io/service-name=web,metallb.io/service-namespace={}",
        s.namespace()
    );
    wait_until(
        &format!("{node} alone to say that it announces"),
        PATIENCE,
        async || {
            let args = ["-n", NAMESPACE, "get", "servicel2statuses", "-l", &of, "-o", "json"];
            let list: Value = serde_json::from_str(&s.lab().kubectl(&args).await?)?;
            let items = list["items"].as_array().context("a list has items")?;
            let statuses: Vec<&Value> = items.iter().map(|item| &item["status"]).collect();
            let [status] = statuses[..] else {
                anyhow::bail!("there are {statuses:?}")
            };
            let whole = status["serviceName"] == "web" && status["serviceNamespace"] == s.namespace();
            ensure!(whole && status["node"] == node, "it says {status}");
            Ok(())
        },
    )
    .await
}

/// The owner alone has a ServiceL2Status. It moves with the owner, also when the old one is cut off and cannot take its
/// own back, and it goes with the Service.
pub(crate) async fn service_status(s: Scene) -> Result<()> {
    let (address, owner) = announced(&s).await?;
    told_by(&s, &owner).await?;
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    s.kubectl(&["label", "node", &owner, &format!("{label}=true")]).await?;
    let moved = async {
        let heir = s.other_owner(address, &owner).await?;
        told_by(&s, &heir).await?;
        anyhow::Ok(heir)
    }
    .await;
    s.kubectl(&["label", "node", &owner, &format!("{label}-")]).await?;
    let lost = moved?;

    s.node(&lost)?.cut_link()?;
    let moved = async {
        let heir = s.other_owner(address, &lost).await?;
        told_by(&s, &heir).await?;
        anyhow::Ok(heir)
    }
    .await;
    s.node(&lost)?.restore_link()?;
    let heir = moved?;
    s.node_ready(&lost).await?;
    told_by(&s, &heir).await?;

    s.kubectl(&["delete", "svc", "web"]).await?;
    let of = format!("metallb.io/service-namespace={}", s.namespace());
    wait_until("nothing to be said any more", PATIENCE, async || {
        let args = ["-n", NAMESPACE, "get", "servicel2statuses", "-l", &of, "-o", "name"];
        let left = s.lab().kubectl(&args).await?;
        ensure!(left.trim().is_empty(), "there is {left}");
        Ok(())
    })
    .await
}

/// How often `node` has defended an IPv4 address since its speaker started.
async fn defences(s: &Scene, node: &str) -> Result<u64> {
    let metrics = s.metrics(s.node(node)?.host()).await?;
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("ferrolb_l2_defences_total{protocol=\"ARP\"} "));
    Ok(count.with_context(|| format!("no defences in\n{metrics}"))?.parse()?)
}

/// A machine that takes a Service's address is reported with its MAC address, and the client that it lured away is back
/// after the defence. However often the machine claims the address, there is at most one defence in ten seconds.
pub(crate) async fn stranger(s: Scene) -> Result<()> {
    let (address, owner) = announced(&s).await?;
    let IpAddr::V4(v4) = address else {
        bail!("{address} is no IPv4 address")
    };
    let stranger = s.lab().add_host("stranger", 210)?;
    let client = s.client_host().v4().context("the client has an IPv4 address")?;
    wait_until("the stranger's frames to pass the LAN", PATIENCE, async || {
        let replies = s.arp(&stranger, ArpProbe::new(client)).await?;
        ensure!(!replies.is_empty(), "the client does not answer it");
        Ok(())
    })
    .await?;

    // Not zero where the node was cut off and came back, and fought its heir until it heard of it.
    let (before, start) = (defences(&s, &owner).await?, Instant::now());
    let claim = ArpProbe {
        sender: Some(v4),
        ..ArpProbe::new(v4)
    };
    s.arp(&stranger, claim).await?;
    s.event("web", "addressConflict", &stranger.mac()).await?;
    state(&s, &owner, "who claims the address", |status| {
        status["lastError"]
            .as_str()
            .is_some_and(|text| text.contains(&stranger.mac()))
    })
    .await?;
    let wanted = s.node_mac(&owner);
    wait_until("the client to be back at the owner", PATIENCE, async || {
        let found = s.browser().neighbour(address)?;
        ensure!(found.as_ref() == Some(&wanted), "it knows {found:?}");
        Ok(())
    })
    .await?;
    s.page(address, 80).await?;

    // Heard by the owner alone, so that the client stays where it is.
    let again = ArpProbe {
        destination: wanted.parse()?,
        ..claim
    };
    for _ in 0..3 {
        s.arp(&stranger, again).await?;
    }
    let count = defences(&s, &owner).await? - before;
    let most = 1 + start.elapsed().as_secs() / 10;
    ensure!((1..=most).contains(&count), "{count} defences, not 1 to {most}");
    Ok(())
}
