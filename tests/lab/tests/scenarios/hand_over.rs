//! A speaker that starts beside another one takes over from it: clients and routers see nothing, however it ends.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ferrolb_handover::{Borrower, Error, PATIENCE as HANDOVER_PATIENCE, Part};
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::process::Process;
use ferrolb_lab::{Program, wait_until};
use tokio::task::JoinHandle;

use crate::bgp::{NODES, Told, all, none_failed, page, secret, state, steady};
use crate::failover::{Clients, MANY_PORTS, TCP, UDP, V4, asking, connect, echoed, none_lost, told};
use crate::manifests::{deployment, service};
use crate::router::Router;
use crate::scene::{PATIENCE, Scene};

/// Hand-overs in a row.
const TIMES: usize = 4;
/// What a successor writes into its log.
const TOOK_OVER: &str = "took over from the speaker that ran here";
/// And a predecessor, into the same.
const ASKED: &str = "a successor asks for the work";
/// And one that has the work again.
const TOOK_BACK: &str = "the hand-over has come to nothing";
/// The key of the sessions.
const KEY: &str = "s3cret-of-the-lab";

/// What a speaker answers to whom asks for its work.
type Asked = Result<Vec<Part>, Error>;

/// How often this stands in the log of a process, which may be that of earlier scenarios as well.
fn said(process: &Process, what: &str) -> Result<usize> {
    Ok(std::fs::read_to_string(process.log())?.matches(what).count())
}

/// Starts a successor beside the speaker of a node, and waits until it has the work. The predecessor is what is returned.
async fn succeed(s: &Scene, node: &str) -> Result<Process> {
    let speaker = s.node(node)?.program(Program::Speaker)?;
    let before = said(speaker, TOOK_OVER)?;
    let other = speaker.beside()?;
    wait_until(&format!("the successor on {node}"), PATIENCE, async || {
        ensure!(
            said(speaker, TOOK_OVER)? > before,
            "it has not taken over: {}",
            speaker.log_tail(3)
        );
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
    let upgrades = async {
        for node in [&owner; TIMES].into_iter().chain(&clients.served.placement.standbys) {
            upgrade(&s, node).await?;
        }
        Ok(())
    };
    clients.asking_anew(upgrades).await?;
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

/// Asks the speaker of `node` for the work of that of `name`, and says nothing more for the time `silence`. What it has got for an
/// answer comes then.
fn ask(s: &Scene, node: &str, name: &'static str, silence: Duration) -> Result<JoinHandle<Result<Asked>>> {
    let path = socket(s, node)?;
    let asked = std::thread::spawn(move || {
        as_owner_of(&path)?;
        let borrower = Borrower::connect(&path)?.context("nobody is there")?;
        let asked = borrower.ask(name);
        std::thread::sleep(silence);
        anyhow::Ok(asked)
    });
    Ok(tokio::task::spawn_blocking(move || {
        asked.join().expect("it does not panic")
    }))
}

/// A successor that dies, falls silent, or is another's before it has the work: the predecessor goes on, and a real one
/// takes over afterwards.
pub(crate) async fn predecessor_goes_on(s: Scene) -> Result<()> {
    let routed = Routed::new(s.clone(), true).await?;
    let steady = steady(&routed.router, routed.address)?;
    for silence in [Duration::ZERO, HANDOVER_PATIENCE + Duration::from_secs(1)] {
        let asked = ask(&s, "node-1", "node-1", silence)?;
        let parts = asked.await??.context("it is asked for the work")?;
        ensure!(
            parts.iter().any(|part| part.files.len() == 1),
            "there is no session in {parts:?}"
        );
        drop(parts);
        routed.untouched().await?;
    }
    let refused = ask(&s, "node-1", "node-2", Duration::ZERO)?.await??;
    ensure!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    upgrade(&s, "node-1").await?;
    // Longer than the hold time.
    tokio::time::sleep(Duration::from_secs(10)).await;
    routed.untouched().await?;
    none_failed(steady)?;
    routed.end().await
}

/// A predecessor that is told to end in the middle of the hand-over, when its log says that it was asked for the work, ends
/// afterwards: routers and clients see nothing.
pub(crate) async fn told_to_end_meanwhile(s: Scene) -> Result<()> {
    let routed = Routed::new(s.clone(), true).await?;
    let prober = asking(&routed.router.client(), (routed.address, UDP).into()).await?;
    let mut meanwhile = 0;
    for _ in 0..TIMES {
        for node in all(&s) {
            meanwhile += usize::from(told_to_end(&s, node).await?);
        }
    }
    eprintln!(
        "  told to end before they had handed over: {meanwhile} of {}",
        TIMES * all(&s).len()
    );
    ensure!(meanwhile > 0, "none was told to end before it had handed over");
    routed.untouched().await?;
    none_lost(&told("behind a router, predecessors told to end", prober))?;
    routed.end().await
}

/// A predecessor that is told to end while its successor is silent has the work again after a while, and leaves with it as for any
/// restart.
pub(crate) async fn told_to_end_beside_silence(s: Scene) -> Result<()> {
    let routed = Routed::new(s.clone(), false).await?;
    let steady = steady(&routed.router, routed.address)?;
    let speaker = s.node("node-1")?.program(Program::Speaker)?;
    let (asked_before, took_back) = (said(speaker, ASKED)?, said(speaker, TOOK_BACK)?);
    let asked = ask(&s, "node-1", "node-1", HANDOVER_PATIENCE + Duration::from_secs(1))?;
    logged(speaker, ASKED, asked_before + 1).await?;
    let exit = speaker.stop(HANDOVER_PATIENCE + PATIENCE).await?;
    ensure!(exit.success(), "the predecessor ended with {exit}");
    ensure!(
        said(speaker, TOOK_BACK)? == took_back + 1,
        "the work was not taken back: {}",
        speaker.log_tail(50)
    );
    asked.await??.context("it was not asked for the work")?;
    routed.router.forwards(&s, &routed.prefix, &all(&s)).await?;
    speaker.restart()?;
    routed.back(2).await?;
    none_failed(steady)?;
    routed.end().await
}

/// Starts a successor of the speaker of a node and tells the predecessor to end as soon as it was asked for the work;
/// whether that was before it had handed over.
async fn told_to_end(s: &Scene, node: &str) -> Result<bool> {
    let predecessor = s.node(node)?.program(Program::Speaker)?;
    let asked = said(predecessor, ASKED)?;
    let successor = predecessor.beside()?;
    logged(predecessor, ASKED, asked + 1).await?;
    let exit = predecessor.stop(PATIENCE).await?;
    ensure!(exit.success(), "the predecessor ended with {exit}");
    predecessor.trade(&successor);
    s.wait_ferrolb_ready().await?;
    let log = std::fs::read_to_string(predecessor.log())?;
    let last = |what: &str| {
        log.rfind(what)
            .with_context(|| format!("nobody on {node} says {what:?}: {log}"))
    };
    Ok(last("SIGTERM: stopping")? < last("the successor has taken over")?)
}

/// Waits until a process, or one that has the same log, has said something for the time `times`. Looks without a pause: what
/// is waited for is over soon.
async fn logged(process: &Process, what: &str, times: usize) -> Result<()> {
    let (process, what) = (process.clone(), what.to_owned());
    let look = move || {
        let begin = Instant::now();
        while said(&process, &what)? < times {
            ensure!(begin.elapsed() < PATIENCE, "{} does not say {what:?}", process.name());
        }
        Ok(())
    };
    tokio::task::spawn_blocking(look).await?
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
