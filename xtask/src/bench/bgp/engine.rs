//! The engine alone, without a cluster around it, on a node of the lab: how fast a router has everything, beside a driver
//! that does nothing but write messages made beforehand; and how many messages many changes are.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrolb_bgp::engine::Config;
use ferrolb_bgp::proto::Cease;
use ferrolb_bgp::session::Leave;
use ferrolb_bgp::{Attributes, Peer, Phase, RemoteAsn, Routes, Wanted, WantedPeer};
use ferrolb_lab::Node;
use tokio::sync::{mpsc, watch};

use super::collector::Collector;
use super::frr::Router;
use super::speech::{self, KEEPALIVE, addresses, message};
use super::{ASN, NODES, Row, Times, millis};

/// Ours may take so much of the bare driver's time.
const BESIDE_BARE: f64 = 1.2;

struct Engine {
    wanted: watch::Sender<Arc<Wanted>>,
    phase: watch::Sender<Phase>,
    _bfd: mpsc::Sender<String>,
    thread: std::thread::JoinHandle<Result<(), ferrolb_bgp::engine::EngineError>>,
}

impl Engine {
    fn start(node: &Node) -> Result<Self> {
        let (wanted, wanted_out) = watch::channel(Arc::default());
        let (phase, phase_out) = watch::channel(Phase::Stay);
        let (bfd, bfd_out) = mpsc::channel(1);
        let (board, _) = watch::channel(Default::default());
        let start = || ferrolb_bgp::spawn_thread(Config::default(), wanted_out, phase_out, bfd_out, board);
        let thread = node.host().namespace().run(start)?.context("start the engine")?;
        Ok(Engine {
            wanted,
            phase,
            _bfd: bfd,
            thread,
        })
    }

    fn want(&self, peer: &Arc<Peer>, routes: Arc<Routes>) {
        let peer = WantedPeer {
            peer: Arc::clone(peer),
            routes,
        };
        let peers = [("router".to_owned(), peer)].into();
        self.wanted.send_replace(Arc::new(Wanted { peers }));
    }

    fn leave(self) -> Result<()> {
        self.phase.send_replace(Phase::Leave(Leave::Withdraw {
            wait: Duration::ZERO,
            cease: Cease::Shutdown,
            text: String::new(),
        }));
        let ended = self.thread.join().map_err(|_| anyhow::anyhow!("the engine panicked"))?;
        ended.context("the engine")
    }
}

fn peer(router: IpAddr, node: Ipv4Addr) -> Arc<Peer> {
    Arc::new(Peer::new(router, NODES, RemoteAsn::Is(ASN), node))
}

fn v4(node: &Node) -> Result<Ipv4Addr> {
    match node.host().address() {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => anyhow::bail!("the node has no IPv4 address"),
    }
}

/// From the start to the last prefix in FRR's RIB, so often; ours and the bare driver in turns.
pub(super) fn rib(frr: &Router, node: &Node, count: u32, goal: Duration, runs: u32) -> Result<Vec<Row>> {
    let (mut ours, mut bare) = (Times::default(), Times::default());
    let (router, own) = (frr.host().address(), v4(node)?);
    let routes: Routes = addresses(count)
        .into_iter()
        .map(|address| (IpAddr::V4(address).into(), Attributes::default()))
        .collect();
    let (routes, total) = (Arc::new(routes), u64::from(count));
    for _ in 0..runs {
        let start = Instant::now();
        let engine = Engine::start(node)?;
        engine.want(&peer(router, own), Arc::clone(&routes));
        frr.holds(own.into(), total)?;
        ours.add(start.elapsed());
        engine.leave()?;
        frr.holds(own.into(), 0)?;

        let stream = speech::announce(NODES, own, &addresses(count));
        let start = Instant::now();
        let connection = node.host().namespace().run(|| bare_driver(router, own, &stream))??;
        frr.holds(own.into(), total)?;
        bare.add(start.elapsed());
        drop(connection);
        frr.holds(own.into(), 0)?;
    }
    let ratio = ours.median().as_secs_f64() / bare.median().as_secs_f64().max(1e-9);
    let met = super::verdict(ours.median() <= goal || ratio <= BESIDE_BARE);
    let how = format!(
        "bgpd without a kernel; goal {} or {BESIDE_BARE} x the bare driver: {met}",
        millis(goal)
    );
    let what = format!("start -> {count} prefixes in FRR's RIB");
    Ok(vec![
        ours.row(&what, &how),
        bare.row(
            "  a bare driver in the same run",
            "messages made beforehand, written at once",
        ),
        Row::new(
            "  ours beside it",
            format!("{ratio:.2}"),
            String::new(),
            "ratio of medians",
        ),
    ])
}

/// Connects, says everything, and gives the connection: FRR forgets what it heard when it ends.
fn bare_driver(router: IpAddr, own: Ipv4Addr, stream: &[u8]) -> Result<TcpStream> {
    let mut connection = TcpStream::connect(SocketAddr::new(router, 179)).context("connect to FRR")?;
    connection.set_nodelay(true)?;
    connection.write_all(&speech::open(NODES, own))?;
    let (mut buffer, mut chunk) = (Vec::new(), vec![0; 4096]);
    let mut open = false;
    while !open {
        let read = connection.read(&mut chunk)?;
        anyhow::ensure!(read > 0, "FRR closed the connection");
        buffer.extend_from_slice(&chunk[..read]);
        open = speech::take_messages(&mut buffer)
            .iter()
            .any(|(kind, _)| *kind != KEEPALIVE);
    }
    connection.write_all(&[&message(KEEPALIVE, &[])[..], stream].concat())?;
    Ok(connection)
}

/// A thousand changes within a second, of one prefix each: messages and sessions that they take.
pub(super) fn changes(collector: &Collector, router: IpAddr, node: &Node) -> Result<Row> {
    const CHANGES: u32 = 1000;
    let own = v4(node)?;
    collector.forget();
    let engine = Engine::start(node)?;
    let peer = peer(router, own);
    let all = addresses(CHANGES);
    let plain = all
        .iter()
        .map(|address| (IpAddr::V4(*address).into(), Attributes::default()));
    let mut routes: Routes = plain.collect();
    engine.want(&peer, Arc::new(routes.clone()));
    collector.until("all routes", |heard| (heard.announced >= all.len()).then_some(()))?;
    let (before, announced) = {
        let heard = collector.heard();
        (heard.updates, heard.announced)
    };
    let start = Instant::now();
    for (n, address) in (0..).zip(&all) {
        let changed = Attributes {
            local_pref: None,
            prepend: 1,
            ..Attributes::default()
        };
        routes = routes
            .iter()
            .map(|(prefix, attributes)| (*prefix, Attributes::clone(attributes)))
            .filter(|(prefix, _)| prefix.addr() != IpAddr::V4(*address))
            .chain([(IpAddr::V4(*address).into(), changed)])
            .collect();
        engine.want(&peer, Arc::new(routes.clone()));
        let due = start + Duration::from_millis(1) * n;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let took = start.elapsed();
    collector.until("all changes", |heard| {
        (heard.announced >= announced + all.len()).then_some(())
    })?;
    let (updates, sessions) = {
        let heard = collector.heard();
        (heard.updates - before, heard.sessions)
    };
    engine.leave()?;
    let met = super::verdict(sessions == 1 && updates <= 2 * all.len());
    Ok(Row::new(
        format!("{CHANGES} changes in {}", millis(took)),
        format!("{updates} messages"),
        format!("{sessions} session"),
        format!("of one prefix each; goal at most two messages for each, no session reset: {met}"),
    ))
}
