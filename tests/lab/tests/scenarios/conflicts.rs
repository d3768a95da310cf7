//! Other machines on the LAN use addresses of a pool: before they are handed out, before they are announced, and while they
//! are.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ferrolb_lab::client::ArpProbe;
use ferrolb_lab::net::Host;
use ferrolb_lab::{Program, wait_until};
use serde_json::Value;

use crate::manifests::{annotated, deployment, service};
use crate::scene::{PATIENCE, Scene};

/// An address that another machine uses rests for half a minute, and a node that waits for it looks again within forty
/// seconds.
const RESTS: Duration = Duration::from_secs(60);

/// A machine whose frames pass the LAN.
async fn machine(s: &Scene, name: &str, number: u8) -> Result<Host> {
    let machine = s.lab().add_host(name, number)?;
    let client = s.client_host().v4().context("the client has an IPv4 address")?;
    wait_until("the machine's frames to pass the LAN", PATIENCE, async || {
        let replies = s.arp(&machine, ArpProbe::new(client)).await?;
        ensure!(!replies.is_empty(), "the client does not answer it");
        Ok(())
    })
    .await?;
    Ok(machine)
}

/// The machine's kernel has the address, as if somebody had typed it in.
fn takes(machine: &Host, address: IpAddr) -> Result<()> {
    let (length, how) = if address.is_ipv4() { (32, "") } else { (128, "nodad") };
    let namespace = machine.namespace();
    namespace.ip(&format!("addr add {address}/{length} dev eth0 {how}\n"))
}

fn lets_go(machine: &Host, address: IpAddr) -> Result<()> {
    let length = if address.is_ipv4() { 32 } else { 128 };
    let namespace = machine.namespace();
    namespace.ip(&format!("addr del {address}/{length} dev eth0\n"))
}

fn detection(s: &Scene, mode: &str) -> String {
    format!(
        "apiVersion: ferrolb.io/v1alpha1\nkind: AnnouncementPolicy\nmetadata: {{name: {0}}}\n\
         spec: {{ipAddressPools: [{0}], layer2: {{conflictDetection: {mode}}}}}\n",
        s.namespace()
    )
}

/// The first addresses of a pool are used by another machine: the Services get the next ones, and are told by whom.
pub(crate) async fn occupied_addresses(s: Scene) -> Result<()> {
    let machine = machine(&s, "squatter", 211).await?;
    let four = IpAddr::from(s.v4(100));
    let six: IpAddr = s.range_v6().split('-').next().context("a range")?.parse()?;
    takes(&machine, four)?;
    takes(&machine, six)?;
    let address = s
        .apply_and_address("four", &service("four", "web", "type: LoadBalancer"))
        .await?;
    ensure!(address == IpAddr::from(s.v4(101)), "it got {address}");
    s.event("four", "addressConflict", &machine.mac()).await?;
    let families = "type: LoadBalancer\nipFamilies: [IPv6]\nipFamilyPolicy: SingleStack";
    let address = s.apply_and_address("six", &service("six", "web", families)).await?;
    ensure!(address.is_ipv6() && address != six, "it got {address}");
    s.event("six", "addressConflict", &machine.mac()).await
}

/// A Service that asks for such an address waits with the reason, and gets it when the machine has let go.
pub(crate) async fn requested(s: Scene) -> Result<()> {
    let machine = machine(&s, "holder", 212).await?;
    let address = IpAddr::from(s.v4(105));
    takes(&machine, address)?;
    let asks = format!("metallb.io/loadBalancerIPs: {address}");
    s.apply(&annotated("web", "web", &asks, "type: LoadBalancer")).await?;
    s.refused("web", "AddressOccupied").await?;
    s.no_address("web").await?;
    lets_go(&machine, address)?;
    let held = s.wait_external_ips(s.namespace(), "web", 1, RESTS).await?;
    ensure!(held == [address], "it got {held:?}");
    Ok(())
}

/// A node does not begin to announce an address that another machine uses, whoever handed it out; it says so, and begins
/// once the machine has let go.
pub(crate) async fn not_begun(s: Scene) -> Result<()> {
    let machine = machine(&s, "early", 213).await?;
    let address = IpAddr::from(s.v4(110));
    takes(&machine, address)?;
    // Reserved by hand, so that nobody asks before it is given to the Service.
    let reserved = format!(
        "apiVersion: ferrolb.io/v1alpha1\nkind: VirtualIP\nmetadata: {{name: {address}}}\n\
         spec: {{address: {address}, pool: {0}, claims: [{{namespace: {0}, name: web}}]}}\n",
        s.namespace()
    );
    s.apply_config(&reserved).await?;
    s.apply(&deployment("web", 2)).await?;
    s.ready("web", 2).await?;
    let given = s
        .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
        .await?;
    ensure!(given == address, "it got {given}");
    s.condition(address, "Conflict", "True", &machine.mac()).await?;
    s.event("web", "addressConflict", &machine.mac()).await?;
    let macs = s.who_answers(address).await?;
    ensure!(macs == [machine.mac()], "it is answered by {macs:?}");
    // A speaker that begins anew holds it back as well.
    for node in s.nodes() {
        node.restart(Program::Speaker)?;
    }
    s.wait_ferrolb_ready().await?;
    s.fence().await?;
    let macs = s.who_answers(address).await?;
    ensure!(macs == [machine.mac()], "after a restart it is answered by {macs:?}");
    lets_go(&machine, address)?;
    wait_until("a node to announce it", RESTS, async || {
        let macs = s.who_answers(address).await?;
        let nodes = s.nodes().iter().map(|node| node.host().mac()).collect::<Vec<_>>();
        ensure!(macs.iter().any(|mac| nodes.contains(mac)), "it is answered by {macs:?}");
        Ok(())
    })
    .await?;
    s.page(address, 80).await.map(drop)
}

/// A machine that takes an address while it is announced shows as a condition, and the Service keeps the address.
pub(crate) async fn while_announced(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 2)).await?;
    s.ready("web", 2).await?;
    let address = s
        .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
        .await?;
    s.page(address, 80).await?;
    s.owner(address).await?;
    let IpAddr::V4(v4) = address else {
        bail!("{address} is no IPv4 address")
    };
    let machine = machine(&s, "late", 214).await?;
    let claim = ArpProbe {
        sender: Some(v4),
        ..ArpProbe::new(v4)
    };
    s.arp(&machine, claim).await?;
    s.condition(address, "Conflict", "True", &machine.mac()).await?;
    let held = s.addresses("web", 1).await?;
    ensure!(held == [address], "it has {held:?}");
    s.page(address, 80).await.map(drop)
}

/// Where a policy says so, other machines are nobody's business.
pub(crate) async fn switched_off(s: Scene) -> Result<()> {
    s.apply_config(&detection(&s, "Disabled")).await?;
    let machine = machine(&s, "ignored", 215).await?;
    // The fence takes the first address, and leaves it to cool down.
    let address = IpAddr::from(s.v4(101));
    takes(&machine, address)?;
    s.apply(&deployment("web", 2)).await?;
    s.ready("web", 2).await?;
    // The policy is in force wherever this was seen.
    s.fence().await?;
    let given = s
        .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
        .await?;
    ensure!(given == address, "it got {given}");
    s.owner(address).await?;
    let virtual_ip = s.json(&format!("vip/{address}")).await?;
    ensure!(
        virtual_ip["spec"]["prober"].is_null(),
        "somebody was asked: {virtual_ip}"
    );
    let events = s.events(s.namespace(), "Service", "web").await?;
    ensure!(events.iter().all(|e| e.reason != "addressConflict"), "{events:?}");
    Ok(())
}

const BURST: usize = 40;

/// Many Services at once are all asked about, and none waits for long.
pub(crate) async fn burst(s: Scene) -> Result<()> {
    let all: String = (0..BURST)
        .map(|n| service(&format!("s{n}"), "web", "type: LoadBalancer") + "---\n")
        .collect();
    let start = Instant::now();
    s.apply(&all).await?;
    wait_until("an address for each", PATIENCE, async || {
        let held = s.all_addresses().await?;
        ensure!(held.len() == BURST, "{} of {BURST}", held.len());
        Ok(())
    })
    .await?;
    eprintln!("  {BURST} addresses after {:?}", start.elapsed());
    let objects: Value = serde_json::from_str(&s.kubectl(&["get", "virtualips", "-o", "json"]).await?)?;
    let own = |item: &&Value| item["spec"]["claims"][0]["namespace"] == s.namespace();
    let items = objects["items"].as_array().context("a list")?;
    let results: Vec<&Value> = items
        .iter()
        .filter(own)
        .map(|item| &item["status"]["probe"]["result"])
        .collect();
    ensure!(results.len() == BURST, "{} objects", results.len());
    ensure!(results.iter().all(|result| *result == "Clear"), "{results:?}");
    Ok(())
}
