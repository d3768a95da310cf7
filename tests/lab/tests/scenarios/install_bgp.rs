//! A rollout of the speakers of real nodes under a router: FRR with BFD, and a client behind it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ferrolb_lab::lab::NAMESPACE;

use crate::bgp::{NODES, Told, all, page, session};
use crate::failover::{MANY_PORTS, TCP, UDP, V4, asking, connect, echoed, none_lost, told as tally_of};
use crate::install::{TOOK_OVER, every_speaker_says, installed, kubectl, rolled_out};
use crate::manifests::{deployment, service};
use crate::router::Router;
use crate::scene::Scene;

/// The DaemonSet.
const SPEAKERS: &str = "daemonset/ferrolb-speaker";

/// Every speaker is replaced: the router keeps every session of BGP and BFD and hears of no change, no question of a
/// client behind it is lost and its connection lives; what changes later arrives on the same sessions.
pub(crate) async fn routers_see_nothing(s: Scene) -> Result<()> {
    installed(&s).await?;
    let router = Router::start(&s, NODES, &["neighbor @ bfd 3 100 100"]).await?;
    let name = s.namespace();
    let profile = format!(
        "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec: {{receiveInterval: 100, transmitInterval: 100, detectMultiplier: 3}}\n"
    );
    s.apply_config(&profile).await?;
    let mut told = Told::new(&s, NODES);
    told.peer = format!("enableGracefulRestart: true\nbfdProfile: {name}");
    told.apply(&s, &router).await?;
    s.apply(&deployment("web", 3)).await?;
    let address = s.apply_and_address("web", &MANY_PORTS.replace("FAMILY", V4)).await?;
    s.ready("web", 3).await?;
    let prefix = format!("{address}/32");
    router.forwards(&s, &prefix, &all(&s)).await?;
    page(&router, address).await?;
    for node in all(&s) {
        session(&s, node, name, "that BFD is up", |session| {
            session["bfd"]["state"] == "Up"
        })
        .await?;
    }
    let version = || anyhow::Ok(router.bgp("show bgp ipv4 unicast")?["tableVersion"].clone());
    let sessions = u64::try_from(s.nodes().len())?;
    let before = version()?;
    let untouched = || {
        ensure!(version()? == before, "the router's table has changed");
        let established = router.establishments(&s)?;
        ensure!(established == sessions, "{established} sessions were established");
        for counters in router.bfd_counters()? {
            ensure!(counters["session-down"] == 0, "BFD went down: {counters}");
        }
        anyhow::Ok(())
    };
    let client = router.client();
    let prober = asking(&client, SocketAddr::new(address, UDP)).await?;
    let mut connection = connect(&client, SocketAddr::new(address, TCP))?;
    let begin = Instant::now();
    kubectl(&s, &["rollout", "restart", SPEAKERS]).await?;
    rolled_out(&s).await?;
    eprintln!("  speakers rolled out in {:.1} s", begin.elapsed().as_secs_f32());
    untouched()?;
    every_speaker_says(&s, TOOK_OVER).await?;
    // Longer than the hold time: who has the sessions keeps them alive.
    tokio::time::sleep(Duration::from_secs(10)).await;
    untouched()?;
    echoed(&mut connection)?;
    none_lost(&tally_of("behind a router, speakers rolled out", prober))?;
    let more = service("more", "web", "type: LoadBalancer");
    let more = s.apply_and_address("more", &more).await?;
    router.forwards(&s, &format!("{more}/32"), &all(&s)).await?;
    ensure!(router.establishments(&s)? == sessions, "a session was reset");
    s.kubectl(&["delete", "svc", "web", "more"]).await?;
    router.forwards(&s, &prefix, &[]).await?;
    told.delete(&s, &router).await?;
    s.lab().delete(NAMESPACE, &profile).await
}
