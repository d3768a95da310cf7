//! Routers other than FRR: BIRD with BFD and a client behind it, and GoBGP. Speakers hand over to the next ones, are killed and
//! are told to go away under them.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::bird::Bird;
use ferrolb_lab::client::Client;
use ferrolb_lab::gobgp::Gobgp;
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::net::Host;
use ferrolb_lab::{Program, wait_until};
use serde_json::Value;

use crate::bgp::{NODES, Told, all, secret, session, web};
use crate::failover::{MANY_PORTS, TCP, UDP, V4, asking, connect, echoed, none_lost, told as tally_of};
use crate::hand_over::{profile, upgrade};
use crate::manifests::{deployment, service};
use crate::router::{ASN, FIRST, hops};
use crate::scene::{PATIENCE, Scene};

/// Hand-overs of each node.
const TIMES: usize = 2;
/// The key of the sessions.
const KEY: &str = "s3cret-of-the-lab";
/// The name of its Secret.
const SECRET: &str = "other-routers-key";
/// Longer than the hold time of nine seconds.
const LONGER: std::time::Duration = std::time::Duration::from_secs(10);

/// A host for a router.
fn host(s: &Scene, kind: &str) -> Result<Host> {
    let [_, _, number, _] = s.v4(0).octets();
    s.add_host(&format!("{kind}{number}"), FIRST + number)
}

/// What each node's session is called by BIRD.
fn protocol(node: &str) -> String {
    node.replace('-', "_")
}

/// A BIRD that waits for the nodes, with TCP-MD5 and BFD at 50 ms x 3.
async fn bird(s: &Scene) -> Result<Bird> {
    let host = host(s, "bird")?;
    let own = host.address();
    let mut text = format!(
        "router id {own};\ntimeformat protocol iso long;\nprotocol device {{}}\n\
         protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; merge paths on limit 8; }}\n\
         protocol bfd {{ interface \"eth0\" {{ interval 50 ms; multiplier 3; }}; }}\n"
    );
    for node in s.nodes() {
        text += &format!(
            "protocol bgp {} {{ local {own} as {ASN}; neighbor {} as {NODES}; passive yes; hold time 9;\n\
             error wait time 1, 2; password \"{KEY}\"; bfd on; graceful restart on;\n\
             ipv4 {{ import all; export none; }}; }}\n",
            protocol(node.name()),
            node.host().address()
        );
    }
    Bird::start(s, host, &text, PATIENCE).await
}

/// What BIRD says of all its sessions that any disturbance would change: since when they are up, what they were told and how
/// often, and since when BFD is up.
fn seen_by(bird: &Bird, s: &Scene) -> Result<Vec<String>> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut seen = Vec::new();
    for node in all(s) {
        let name = protocol(node);
        let said = bird.birdc(&format!("show protocols all {name}"))?;
        ensure!(said.contains("Established"), "{said}");
        let telling = |line: &&str| line.starts_with(&name) || line.trim_start().starts_with("Import ");
        seen.extend(said.lines().filter(telling).map(words));
    }
    let said = bird.birdc("show bfd sessions")?;
    let up = said.lines().map(words).filter(|line| line.contains(" Up "));
    let up = up.collect::<Vec<_>>();
    ensure!(up.len() == s.nodes().len(), "{said}");
    seen.extend(up);
    Ok(seen)
}

/// Over hand-overs on every node, several times in a row, BIRD has the BGP and BFD sessions that it had and hears nothing, no
/// question of a client behind it is lost and its connection lives; what changes later arrives on the same sessions.
pub(crate) async fn bird_sees_nothing(s: Scene) -> Result<()> {
    let router = bird(&s).await?;
    let [_, _, number, _] = s.v4(0).octets();
    let client = Client::new(&s.behind(router.host(), number)?);
    let mut told = Told::new(&s, NODES);
    told.peer = format!("enableGracefulRestart: true\npasswordSecret: {{name: {SECRET}}}\nbfdProfile: fastest\n");
    let objects = [
        secret(SECRET, KEY),
        profile(),
        told.yaml(&s, &router.host().address().to_string()),
    ];
    let objects = objects.join("\n---\n");
    s.apply_config(&objects).await?;
    s.apply(&deployment("web", 3)).await?;
    let address = s.apply_and_address("web", &MANY_PORTS.replace("FAMILY", V4)).await?;
    s.ready("web", 3).await?;
    let forwards = async |prefix: String, nodes: &[&str]| {
        let hosts = nodes.iter().map(|node| Ok(s.node(node)?.host().address().to_string()));
        let mut wanted = hosts.collect::<Result<Vec<_>>>()?;
        wanted.sort();
        wait_until(
            &format!("BIRD to forward {prefix} to {nodes:?}"),
            PATIENCE,
            async || {
                let hops = hops(router.host(), &prefix, "bird")?;
                ensure!(hops == wanted, "it forwards to {hops:?}");
                Ok(())
            },
        )
        .await
    };
    forwards(address.to_string(), &all(&s)).await?;
    let before = wait_until("BIRD to have all sessions", PATIENCE, async || seen_by(&router, &s)).await?;
    let prober = asking(&client, SocketAddr::new(address, UDP)).await?;
    let mut connection = connect(&client, SocketAddr::new(address, TCP))?;
    let unchanged = || {
        let now = seen_by(&router, &s)?;
        ensure!(now == before, "{before:#?} has become {now:#?}");
        anyhow::Ok(())
    };
    for _ in 0..TIMES {
        for node in all(&s) {
            upgrade(&s, node).await?;
        }
        unchanged()?;
    }
    echoed(&mut connection)?;
    none_lost(&tally_of("behind BIRD, speakers handed over", prober))?;
    // Who has the sessions keeps them alive.
    tokio::time::sleep(LONGER).await;
    unchanged()?;
    let more = service("more", "web", "type: LoadBalancer");
    let more = s.apply_and_address("more", &more).await?;
    forwards(more.to_string(), &all(&s)).await?;
    s.kubectl(&["delete", "svc", "web"]).await?;
    forwards(address.to_string(), &[]).await?;
    s.lab().delete(NAMESPACE, &objects).await
}

/// A GoBGP that waits for the nodes, with TCP-MD5 and graceful restart.
async fn gobgp(s: &Scene) -> Result<Gobgp> {
    let host = host(s, "gobgp")?;
    let mut text = format!("[global.config]\nas = {ASN}\nrouter-id = \"{}\"\n", host.address());
    for node in s.nodes() {
        text += &format!(
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{}\"\npeer-as = {NODES}\nauth-password = \"{KEY}\"\n\
             [neighbors.transport.config]\npassive-mode = true\n\
             [neighbors.timers.config]\nhold-time = 9\nkeepalive-interval = 3\n\
             [neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 120\n\
             [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"ipv4-unicast\"\n\
             [neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n",
            node.host().address()
        );
    }
    Gobgp::start(s, host, &text, PATIENCE).await
}

/// What GoBGP says of its session with a node.
fn neighbour(gobgp: &Gobgp, s: &Scene, node: &str) -> Result<Value> {
    let address = s.node(node)?.host().address().to_string();
    gobgp.json(&["neighbor", &address])
}

/// Since when the session stands, as GoBGP says it; an error if it does not.
fn stands(gobgp: &Gobgp, s: &Scene, node: &str) -> Result<Value> {
    let neighbour = neighbour(gobgp, s, node)?;
    let state = &neighbour["state"]["session_state"];
    ensure!(*state == 6 || *state == "ESTABLISHED", "{node}: {neighbour}");
    Ok(neighbour["timers"]["state"]["uptime"].clone())
}

/// GoBGP keeps its sessions over hand-overs, and its routes while a speaker is killed and started again (RFC 4724); a session
/// that it shuts down says why (RFC 9003).
pub(crate) async fn gobgp_sees_nothing(s: Scene) -> Result<()> {
    let router = gobgp(&s).await?;
    let mut told = Told::new(&s, NODES);
    told.peer = format!("enableGracefulRestart: true\npasswordSecret: {{name: {SECRET}}}\n");
    told.advertisement = "communities: ['64512:77']".to_owned();
    let objects = [secret(SECRET, KEY), told.yaml(&s, &router.host().address().to_string())].join("\n---\n");
    s.apply_config(&objects).await?;
    let address = web(&s, 1, "type: LoadBalancer").await?;
    let paths = || -> Result<usize> {
        let rib = router.json(&["global", "rib"])?;
        let paths = rib[format!("{address}/32")].as_array().cloned().unwrap_or_default();
        // COMMUNITIES (RFC 1997), as one number.
        let marked = |path: &&Value| path["attrs"].to_string().contains(&((ASN << 16) + 77).to_string());
        Ok(paths.iter().filter(marked).count())
    };
    let has = async |count: usize| {
        wait_until(&format!("GoBGP to have {count} paths"), PATIENCE, async || {
            let held = paths()?;
            ensure!(held == count, "it has {held}");
            Ok(())
        })
        .await
    };
    has(3).await?;
    let since = || {
        all(&s)
            .into_iter()
            .map(|node| stands(&router, &s, node))
            .collect::<Result<Vec<_>>>()
    };
    let before = since()?;
    ensure!(
        before.iter().all(|time| !time.is_null()),
        "there is no time in {before:?}"
    );
    for _ in 0..TIMES {
        for node in all(&s) {
            upgrade(&s, node).await?;
        }
    }
    tokio::time::sleep(LONGER).await;
    let after = since()?;
    ensure!(after == before, "{before:?} has become {after:?}");
    has(3).await?;

    let speaker = s.node("node-1")?.program(Program::Speaker)?;
    speaker.kill();
    wait_until("GoBGP to miss node-1", PATIENCE, async || {
        ensure!(stands(&router, &s, "node-1").is_err(), "it has not noticed");
        Ok(())
    })
    .await?;
    ensure!(paths()? == 3, "it has not kept the route");
    speaker.restart()?;
    wait_until("node-1 to be back", PATIENCE, async || stands(&router, &s, "node-1")).await?;
    has(3).await?;

    let node = s.node("node-2")?.host().address().to_string();
    let words = ["neighbor", &node, "shutdown", "--reason", "maintenance tonight"];
    router.host().namespace().output("gobgp", &words)?;
    session(&s, "node-2", s.namespace(), "what GoBGP said", |session| {
        let error = session["lastError"].as_str().unwrap_or_default();
        session["state"] != "Established" && error.contains("maintenance tonight")
    })
    .await?;
    s.kubectl(&["delete", "svc", "web"]).await?;
    has(0).await?;
    s.lab()
        .delete(NAMESPACE, &objects)
        .await
        .context("delete what was applied")
}
