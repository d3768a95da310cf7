//! Upgrades of the speaker of the one node that two routers send a client's packets to: FRR, which the client is behind, and
//! BIRD, both with BFD at 50 ms x 3.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrolb_lab::bird::Bird;
use ferrolb_lab::client::{Client, Probe};
use ferrolb_lab::lab::NAMESPACE as FERROLB;
use ferrolb_lab::{Lab, Node, Program, wait_until};

use super::cluster::{ECHO, NAMESPACE, NODE_1, PODS, clear, peer, profile, services};
use super::frr::Router;
use super::{ASN, NODES, PATIENCE, Row, Times, millis, progress, verdict};

/// BIRD's number on the LAN.
const BIRD: u8 = 244;
/// The port of the TCP echo.
const TCP: u16 = 9000;
/// What a successor writes into its log.
const TOOK_OVER: &str = "took over from the speaker that ran here";

/// So many upgrades in a row, with so many further Services.
pub(super) async fn upgrades(lab: &Lab, frr: &Router, client: &Client, runs: u32, more: usize) -> Result<Vec<Row>> {
    let node = lab.node("node-1")?;
    let bird = bird(lab, node).await?;
    let told = ", enableGracefulRestart: true, bfdProfile: bench";
    let objects = [
        profile(50),
        peer("bench-frr", frr.host().address(), NODE_1, told),
        peer("bench-bird", bird.host().address(), NODE_1, told),
    ];
    let objects = objects.join("---\n");
    lab.apply(FERROLB, &objects).await?;
    lab.apply(NAMESPACE, PODS).await?;
    lab.wait_pods_ready(NAMESPACE, "app=echo", 2, PATIENCE).await?;
    let address = lab.wait_external_ips(NAMESPACE, "echo", 1, PATIENCE).await?[0];
    progress(&format!("{more} Services"));
    services(lab, more).await?;
    let routes = u64::try_from(more)? + 1;
    frr.holds(node.host().address(), routes)?;
    wait_until("BIRD to have all routes and BFD", PATIENCE, async || {
        let count = bird.birdc("show route protocol node_1 count")?;
        ensure!(count.contains(&format!("{routes} of {routes} routes")), "{count}");
        ensure!(seen_by(&bird)?.len() == 4, "{:?}", seen_by(&bird)?);
        Ok(())
    })
    .await?;
    wait_until("BFD with FRR and an echo", PATIENCE, async || {
        ensure!(frr.watched()? == 1, "{} are up", frr.watched()?);
        client
            .udp(SocketAddr::new(address, ECHO), b"0", Duration::from_secs(1))
            .map(drop)
    })
    .await?;
    // Objects that tell of all these routes are still being written.
    tokio::time::sleep(Duration::from_secs(10)).await;

    let own = node.host().address();
    let before = (frr.undisturbed(own)?, seen_by(&bird)?);
    let mut connection = connect(client, address)?;
    let prober = client.probe(SocketAddr::new(address, ECHO), Probe::Udp, Duration::from_millis(1))?;
    let mut times = Times::default();
    for run in 0..runs {
        progress(&format!("hand-over {} of {runs}", run + 1));
        times.add(upgrade(lab, node).await?);
    }
    echoed(&mut connection)?;
    let tally = prober.stop();
    let after = (frr.undisturbed(own)?, seen_by(&bird)?);
    clear(lab).await?;
    lab.delete(NAMESPACE, PODS).await?;
    lab.delete(FERROLB, &objects).await?;
    let same = before == after;
    if !same {
        progress(&format!("{before:#?} has become {after:#?}"));
    }
    let how = format!(
        "of {}, one each ms through FRR and the node; {routes} routes, BFD 50 ms x 3 at FRR and BIRD; sessions, their uptime, \
         BFD and tables {}, a TCP connection lives; second figure: longest silence; goal 0: {}",
        tally.sent,
        if same { "unchanged" } else { "CHANGED" },
        verdict(tally.lost == 0 && same)
    );
    Ok(vec![
        Row::new(
            format!("{runs} hand-overs: probes lost"),
            tally.lost.to_string(),
            millis(tally.longest_gap),
            how,
        ),
        times.row("  start of the successor -> it has the work", "as its log says"),
    ])
}

/// A BIRD that waits for the node.
async fn bird(lab: &Lab, node: &Node) -> Result<Bird> {
    let host = lab.add_host("bird", BIRD)?;
    let own = host.address();
    let config = format!(
        "router id {own};\ntimeformat protocol iso long;\nprotocol device {{}}\n\
         protocol bfd {{ interface \"eth0\" {{ interval 50 ms; multiplier 3; }}; }}\n\
         protocol bgp node_1 {{ local {own} as {ASN}; neighbor {} as {NODES}; passive yes; hold time 9;\n\
         error wait time 1, 2; bfd on; graceful restart on; ipv4 {{ import all; export none; }}; }}\n",
        node.host().address()
    );
    Bird::start(lab, host, &config, PATIENCE).await
}

/// What BIRD says of its session that any disturbance would change: since when it is up, what it was told and how often, and
/// since when BFD is up.
fn seen_by(bird: &Bird) -> Result<Vec<String>> {
    let (session, bfd) = (
        bird.birdc("show protocols all node_1")?,
        bird.birdc("show bfd sessions")?,
    );
    let telling = |line: &&str| line.contains("Established") && line.starts_with("node_1") || line.contains("Import ");
    let lines = session.lines().filter(telling);
    let lines = lines.chain(bfd.lines().filter(|line| line.contains(" Up ")));
    Ok(lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect())
}

/// Replaces the speaker as a DaemonSet with a surge does; how long it took until the successor had the work.
async fn upgrade(lab: &Lab, node: &Node) -> Result<Duration> {
    let speaker = node.program(Program::Speaker)?;
    let log = || anyhow::Ok(std::fs::read_to_string(speaker.log())?.matches(TOOK_OVER).count());
    let before = log()?;
    let start = Instant::now();
    let predecessor = speaker.beside()?;
    while log()? == before {
        ensure!(
            start.elapsed() < PATIENCE,
            "nothing was handed over: {}",
            speaker.log_tail(5)
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = start.elapsed();
    speaker.trade(&predecessor);
    lab.wait_ferrolb_ready().await?;
    let exit = predecessor.stop(PATIENCE).await?;
    ensure!(exit.success(), "the predecessor ended with {exit}");
    Ok(took)
}

/// A connection that has been answered: what comes first is the name of the pod and a space.
fn connect(client: &Client, address: IpAddr) -> Result<std::net::TcpStream> {
    let mut connection = client.tcp_connect(SocketAddr::new(address, TCP), PATIENCE)?;
    let mut byte = [0];
    while byte != *b" " {
        connection.read_exact(&mut byte).context("read the pod's name")?;
    }
    echoed(&mut connection)?;
    Ok(connection)
}

fn echoed(connection: &mut std::net::TcpStream) -> Result<()> {
    connection.write_all(b"alive?").context("write to the connection")?;
    let mut answer = [0; 6];
    connection.read_exact(&mut answer).context("read from the connection")?;
    ensure!(&answer == b"alive?", "{answer:?} came back");
    Ok(())
}
