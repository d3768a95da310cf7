//! A speaker that starts beside another one takes over from it: clients and routers see nothing, however it ends.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ferrolb_handover::{Borrower, Error, PATIENCE as HANDOVER_PATIENCE};
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::process::Process;
use ferrolb_lab::{Program, wait_until};

use crate::bgp::{NODES, Told, all, none_failed, page, secret, state, steady};
use crate::failover::{Clients, MANY_PORTS, TCP, UDP, V4, asking, connect, echoed, none_lost, told};
use crate::manifests::{deployment, service};
use crate::router::Router;
use crate::scene::{PATIENCE, Scene};

/// Hand-overs in a row.
const TIMES: usize = 4;
/// What a successor writes into its log.
const TOOK_OVER: &str = "took over from the speaker that ran here";
/// The key of the sessions.
const KEY: &str = "s3cret-of-the-lab";

/// Starts a successor beside the speaker of a node, and waits until it has the work. The predecessor is what is returned.
async fn succeed(s: &Scene, node: &str) -> Result<Process> {
    let speaker = s.node(node)?.program(Program::Speaker)?;
    let log = || anyhow::Ok(std::fs::read_to_string(speaker.log())?.matches(TOOK_OVER).count());
    let before = log()?;
    let other = speaker.beside()?;
    wait_until(&format!("the successor on {node}"), PATIENCE, async || {
        ensure!(log()? > before, "it has not taken over: {}", speaker.log_tail(3));
        Ok(())
    })
    .await?;
    speaker.trade(&other);
    Ok(other)
}

/// A whole upgrade: the predecessor is told to end once the successor is ready.
pub(crate) async fn upgrade(s: &Scene, node: &str) -> Result<()> {
    let predecessor = succeed(s, node).await?;
    s.wait_ferrolb_ready().await?;
    ensure!(predecessor.is_alive(), "it does not wait to be told");
    let exit = predecessor.stop(PATIENCE).await?;
    ensure!(exit.success(), "the predecessor ended with {exit}");
    Ok(())
}

/// At layer 2, several times in a row: neither who knows the address, nor who asks for it anew, nor who has a connection
/// notices, and the owner stays.
pub(crate) async fn clients_see_nothing(s: Scene) -> Result<()> {
    let clients = Clients::new(s.clone(), V4).await?;
    let owner = clients.served.placement.owner.clone();
    for _ in 0..TIMES {
        clients.guest.flush_neighbours()?;
        upgrade(&s, &owner).await?;
        clients.guest.flush_neighbours()?;
    }
    for standby in &clients.served.placement.standbys {
        upgrade(&s, standby).await?;
    }
    clients.served.watched().await?;
    none_lost(&clients.end("speakers handed over").await?)
}

/// The router's sessions, with TCP-MD5 and BFD.
struct Routed {
    s: Scene,
    router: Router,
    told: Told,
    prefix: String,
    address: std::net::IpAddr,
    bfd: bool,
}

impl Routed {
    async fn new(s: Scene, bfd: bool) -> Result<Self> {
        let key = format!("neighbor @ password {KEY}");
        let lines: &[&str] = if bfd {
            &[&key, "neighbor @ bfd 3 50 50"]
        } else {
            &[&key]
        };
        let router = Router::start(&s, NODES, lines).await?;
        let mut told = Told::new(&s, NODES);
        told.peer = "enableGracefulRestart: true\npasswordSecret: {name: hand-over-key}\n".to_owned();
        s.apply_config(&secret("hand-over-key", KEY)).await?;
        if bfd {
            s.apply_config(&profile()).await?;
            told.peer += "bfdProfile: fastest\n";
        }
        told.apply(&s, &router).await?;
        s.apply(&deployment("web", 3)).await?;
        let address = s.apply_and_address("web", &MANY_PORTS.replace("FAMILY", V4)).await?;
        s.ready("web", 3).await?;
        let prefix = format!("{address}/32");
        router.forwards(&s, &prefix, &all(&s)).await?;
        page(&router, address).await?;
        if bfd {
            for node in s.nodes() {
                state(&s, node.name(), "that BFD is up", |session| {
                    session["bfd"]["state"] == "Up"
                })
                .await?;
            }
        }
        Ok(Routed {
            s,
            router,
            told,
            prefix,
            address,
            bfd,
        })
    }

    /// No session was ever lost, of BGP or BFD, and the routes stand.
    async fn untouched(&self) -> Result<()> {
        for node in all(&self.s) {
            let session = self.router.session(&self.s, node)?;
            ensure!(
                session["bgpState"] == "Established" && session["connectionsEstablished"] == 1,
                "{node}: {} for the time {}",
                session["bgpState"],
                session["connectionsEstablished"]
            );
        }
        if self.bfd {
            for counters in self.router.bfd_counters()? {
                ensure!(counters["session-down"] == 0, "BFD went down: {counters}");
            }
        }
        self.router.forwards(&self.s, &self.prefix, &all(&self.s)).await
    }

    /// Waits until the session with node-1 stands for so many times.
    async fn back(&self, times: u64) -> Result<()> {
        wait_until("node-1 to be back", PATIENCE, async || {
            let session = self.router.session(&self.s, "node-1")?;
            ensure!(
                session["bgpState"] == "Established" && session["connectionsEstablished"] == times,
                "it is {session}"
            );
            Ok(())
        })
        .await?;
        self.router.forwards(&self.s, &self.prefix, &all(&self.s)).await
    }

    async fn end(self) -> Result<()> {
        self.told.delete(&self.s, &self.router).await?;
        self.s.lab().delete(NAMESPACE, &secret("hand-over-key", KEY)).await?;
        if self.bfd {
            self.s.lab().delete(NAMESPACE, &profile()).await?;
        }
        Ok(())
    }
}

/// A BFDProfile of 50 ms x 3.
pub(crate) fn profile() -> String {
    format!(
        "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {{name: fastest, namespace: {NAMESPACE}}}\n\
         spec: {{receiveInterval: 50, transmitInterval: 50, detectMultiplier: 3}}\n"
    )
}

/// With TCP-MD5 and BFD at 50 ms x 3, on every node, several times in a row: the router has the sessions it had, with not
/// one route withdrawn, no question of a client behind it is lost, and what changes later arrives on the same sessions.
pub(crate) async fn routers_see_nothing(s: Scene) -> Result<()> {
    let routed = Routed::new(s.clone(), true).await?;
    let table = || anyhow::Ok(routed.router.bgp("show bgp ipv4 unicast")?["tableVersion"].clone());
    let version = table()?;
    let client = routed.router.client();
    let prober = asking(&client, (routed.address, UDP).into()).await?;
    let mut connection = connect(&client, (routed.address, TCP).into())?;
    for _ in 0..TIMES {
        for node in all(&s) {
            upgrade(&s, node).await?;
        }
        routed.untouched().await?;
    }
    ensure!(table()? == version, "the router's table has changed");
    echoed(&mut connection)?;
    none_lost(&told("behind a router, speakers handed over", prober))?;
    // Longer than the hold time: who has the sessions keeps them alive.
    tokio::time::sleep(Duration::from_secs(10)).await;
    routed.untouched().await?;
    let more = s
        .apply_and_address("more", &service("more", "web", "type: LoadBalancer"))
        .await?;
    routed.router.forwards(&s, &format!("{more}/32"), &all(&s)).await?;
    s.kubectl(&["delete", "svc", "web"]).await?;
    routed.router.forwards(&s, &routed.prefix, &[]).await?;
    ensure!(routed.router.establishments(&s)? == 3, "a session was reset");
    routed.end().await
}

/// Where a successor knocks.
fn socket(s: &Scene, node: &str) -> Result<PathBuf> {
    let args = s.node(node)?.program(Program::Speaker)?.spec().args;
    let dir = args.iter().skip_while(|arg| *arg != "--state-dir").nth(1);
    let dir = PathBuf::from(dir.context("the speaker has a state directory")?);
    let entries = std::fs::read_dir(&dir)?.collect::<Result<Vec<_>, _>>()?;
    let found = entries.into_iter().map(|entry| entry.path());
    let mut sockets = found.filter(|path| path.extension().is_some_and(|extension| extension == "sock"));
    sockets
        .next()
        .with_context(|| format!("no socket in {}", dir.display()))
}

/// Makes this thread, which is to end soon, one of the user that has made the socket.
fn as_owner_of(socket: &Path) -> Result<()> {
    let user = socket.metadata()?.uid();
    let keep = libc::uid_t::MAX;
    // SAFETY: it reads no memory. Of the C library's call, which is for all threads, it is the part for this one.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, keep, user, keep) };
    ensure!(result == 0, "become user {user}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// A successor that dies, falls silent, or is another's before it has the work: the predecessor goes on, and a real one
/// takes over afterwards.
pub(crate) async fn predecessor_goes_on(s: Scene) -> Result<()> {
    let routed = Routed::new(s.clone(), true).await?;
    let steady = steady(&routed.router, routed.address)?;
    let path = socket(&s, "node-1")?;
    let ask = move |name: &'static str, silence: Duration| {
        let path = path.clone();
        let asked = std::thread::spawn(move || {
            as_owner_of(&path)?;
            let borrower = Borrower::connect(&path)?.context("nobody is there")?;
            let asked = borrower.ask(name);
            std::thread::sleep(silence);
            anyhow::Ok(asked)
        });
        tokio::task::spawn_blocking(move || asked.join().expect("it does not panic"))
    };
    for silence in [Duration::ZERO, HANDOVER_PATIENCE + Duration::from_secs(1)] {
        let parts = ask("node-1", silence).await??.context("it is asked for the work")?;
        ensure!(
            parts.iter().any(|part| part.files.len() == 1),
            "there is no session in {parts:?}"
        );
        drop(parts);
        routed.untouched().await?;
    }
    let refused = ask("node-2", Duration::ZERO).await??;
    ensure!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    upgrade(&s, "node-1").await?;
    // Longer than the hold time.
    tokio::time::sleep(Duration::from_secs(10)).await;
    routed.untouched().await?;
    none_failed(steady)?;
    routed.end().await
}

/// A successor that is killed as soon as it has the work is a speaker that is killed: the router keeps its routes by graceful
/// restart, the predecessor ends, and the next speaker comes up.
pub(crate) async fn successor_killed(s: Scene) -> Result<()> {
    let routed = Routed::new(s.clone(), false).await?;
    let steady = steady(&routed.router, routed.address)?;
    let predecessor = succeed(&s, "node-1").await?;
    let speaker = s.node("node-1")?.program(Program::Speaker)?;
    speaker.kill();
    let exit = predecessor
        .wait_exit(PATIENCE)
        .await
        .context("the predecessor goes on")?;
    ensure!(exit.success(), "the predecessor ended with {exit}");
    routed.router.forwards(&s, &routed.prefix, &all(&s)).await?;
    speaker.restart()?;
    routed.back(2).await?;
    none_failed(steady)?;
    routed.end().await
}

/// A successor without a directory in common with its predecessor, as where speakers run as nobody: it begins nothing before
/// that one has ended, which leaves as for a restart.
pub(crate) async fn nothing_in_common(s: Scene) -> Result<()> {
    let routed = Routed::new(s.clone(), false).await?;
    let steady = steady(&routed.router, routed.address)?;
    let speaker = s.node("node-1")?.program(Program::Speaker)?;
    let mut spec = speaker.spec();
    let dir = spec.args.iter().position(|arg| arg == "--state-dir");
    let dir = spec.args.get_mut(dir.context("the speaker has a state directory")? + 1);
    dir.context("it has a name")?.push("-of-another");
    let successor = Process::start(spec)?;
    wait_until("the successor to wait", PATIENCE, async || {
        let log = std::fs::read_to_string(speaker.log())?;
        ensure!(log.contains("waiting for whoever listens there to end"), "it does not");
        Ok(())
    })
    .await?;
    routed.untouched().await?;
    speaker.trade(&successor);
    let exit = successor.stop(PATIENCE).await?;
    ensure!(exit.success(), "the predecessor ended with {exit}");
    routed.back(2).await?;
    none_failed(steady)?;
    routed.end().await
}
