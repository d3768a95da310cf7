//! The side of the predecessor.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_handover::{Door, Error, Heir, Lender};
use ferrolb_runtime::tasks::Signals;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::pieces;
use crate::snapshot::{Identity, Memory};
use crate::{bgp, guard};

/// Before the socket is tried again, when the system has no descriptor left, say.
const DEAF: Duration = Duration::from_secs(1);

/// What the hand-over has to do with.
pub(crate) struct Ends {
    /// Where a successor knocks.
    pub(crate) socket: PathBuf,
    /// Whose speaker this is.
    pub(crate) identity: Identity,
    /// To BGP and BFD.
    pub(crate) bgp: mpsc::Sender<bgp::Order>,
    /// To the guard.
    pub(crate) guard: mpsc::Sender<guard::Order>,
    /// What this node has a part in.
    pub(crate) memory: watch::Receiver<Arc<Memory>>,
    /// The socket of the admin server.
    pub(crate) admin: OwnedFd,
    /// Whether a hand-over is under way: the process does not end meanwhile.
    pub(crate) busy: watch::Sender<bool>,
    /// To whoever ends the process.
    pub(crate) heir: oneshot::Sender<Heir>,
}

/// Waits for a successor and hands over to it; cancels `stop` when it has. Goes on as before when that comes to nothing.
pub(crate) async fn serve(ends: Ends, stop: CancellationToken) -> Result<(), Infallible> {
    let (knocks, knocking) = mpsc::channel(1);
    if let Err(error) = listen(&ends, knocks) {
        warn!(socket = %ends.socket.display(), %error, "an upgrade cannot take over from this speaker");
        stop.cancelled().await;
        return Ok(());
    }
    attend(ends, knocking, stop).await;
    Ok(())
}

/// Hands over to whoever knocks, until one has the work.
async fn attend(ends: Ends, mut knocking: mpsc::Receiver<Lender>, stop: CancellationToken) {
    loop {
        let lender = tokio::select! {
            // Nobody waits for the end of a hand-over that begins now: what it puts down would not be left in order.
            biased;
            () = stop.cancelled() => return,
            Some(lender) = knocking.recv() => lender,
        };
        ends.busy.send_replace(true);
        info!("a successor asks for the work");
        let given = tokio::select! {
            () = stop.cancelled() => return,
            given = give(&ends, lender) => given,
        };
        match given {
            Ok(heir) => {
                info!("the successor has taken over");
                // Nobody waits for it only when the process ends anyway.
                let _ = ends.heir.send(heir);
                stop.cancel();
                return;
            }
            Err(error) => warn!(%error, "the hand-over has come to nothing: going on"),
        }
        ends.busy.send_replace(false);
    }
}

/// Waits until this process is told to end, and then for the end of a hand-over that is under way: the successor has the
/// work then, and nothing is left to say, or this one has it again, and leaves with it as ever.
pub(crate) async fn told_to_end(signals: &mut Signals, mut busy: watch::Receiver<bool>) {
    signals.stop().await;
    // Who would hand over is gone: it has done so, or failed.
    let _ = busy.wait_for(|busy| !busy).await;
}

/// Listens on a thread of its own, which ends with the process.
fn listen(ends: &Ends, knocks: mpsc::Sender<Lender>) -> io::Result<()> {
    ends.socket.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    let door = Door::open(&ends.socket)?;
    let node = ends.identity.node.clone();
    let accept = move || {
        loop {
            let stream = match door.accept() {
                Ok(stream) => stream,
                Err(error) => {
                    warn!(%error, "no successor can be heard");
                    std::thread::sleep(DEAF);
                    continue;
                }
            };
            match Lender::greet(stream, &node) {
                // One that comes while this process ends is hung up on, and waits for the end.
                Ok(lender) => drop(knocks.blocking_send(lender)),
                Err(error) => warn!(%error, "whoever asked for the work does not get it"),
            }
        }
    };
    std::thread::Builder::new()
        .name("ferrolb-door".to_owned())
        .spawn(accept)
        .map(drop)
}

/// Puts everything down and gives it away; takes it up again if nobody takes it.
async fn give(ends: &Ends, lender: Lender) -> Result<Heir, Error> {
    let admin = ends.admin.try_clone()?;
    let (to, lent) = oneshot::channel();
    // An order that is not taken, or not carried out, means that the process is about to end.
    let _ = ends.bgp.send(bgp::Order::LendSessions(to)).await;
    let (plan, work) = lent.await.map_err(|_| Error::Gone)?;
    let identity = ends.identity.clone();
    let first = move || {
        let mut lender = lender;
        let mut shares = pieces::slow(&identity, plan.as_deref(), &work);
        let told = shares.try_for_each(|share| lender.give(&share));
        let told = told.and_then(|()| lender.complete());
        drop(shares);
        (lender, work, told)
    };
    let (lender, mut work, told) = blocking(first).await?;
    if let Err(error) = told {
        resume(ends, work, None).await;
        return Err(error);
    }
    let identity = ends.identity.clone();
    let (to, lent) = oneshot::channel();
    let _ = ends.guard.send(guard::Order::Lend(to)).await;
    let heartbeats = lent.await.ok().flatten();
    let (to, lent) = oneshot::channel();
    let _ = ends.bgp.send(bgp::Order::LendPaths(to)).await;
    work.paths = lent.await.map_err(|_| Error::Gone)?;
    let memory = Arc::clone(&ends.memory.borrow());
    let second = move || {
        let shares = pieces::quick((&identity, &memory), heartbeats.as_ref(), &work.paths, admin.as_fd());
        let told = shares.iter().try_for_each(|share| lender.give(share));
        let heir = told.and_then(|()| lender.go());
        drop(shares);
        (work, heartbeats, heir)
    };
    let (work, heartbeats, heir) = blocking(second).await?;
    match heir {
        Ok(heir) => Ok(heir),
        Err(error) => {
            resume(ends, work, heartbeats).await;
            Err(error)
        }
    }
}

async fn resume(ends: &Ends, lent: bgp::Lent, heartbeats: Option<ferrolb_liveness::Lent>) {
    let _ = ends.bgp.send(bgp::Order::Resume(lent)).await;
    if let Some(heartbeats) = heartbeats {
        let _ = ends.guard.send(guard::Order::Resume(heartbeats)).await;
    }
}

/// Talks to the successor, which may take its time, off this thread.
async fn blocking<T: Send + 'static>(talk: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let talked = tokio::task::spawn_blocking(talk).await;
    talked.map_err(|died| Error::Io(io::Error::other(died)))
}

/// Waits for the end of the successor, or for that of this process.
pub(crate) async fn lie_still(heir: Heir, mut signals: Signals) -> io::Result<()> {
    let (over, ended) = oneshot::channel();
    let wait = move || {
        heir.ended();
        // Nobody waits for it any more when the process ends.
        let _ = over.send(());
    };
    std::thread::Builder::new()
        .name("ferrolb-heir".to_owned())
        .spawn(wait)?;
    tokio::select! {
        () = signals.stop() => {}
        _ = ended => info!("the successor has ended"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;

    use ferrolb_handover::Borrower;

    use super::*;

    #[tokio::test]
    async fn nothing_is_put_down_for_a_successor_once_the_process_ends() {
        // Whichever of the two would be looked at first.
        for _ in 0..32 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let asked = std::thread::spawn(|| Borrower::over(theirs).unwrap().ask("node-a"));
            let (knocks, knocking) = mpsc::channel(1);
            knocks.try_send(Lender::greet(ours, "node-a").unwrap()).unwrap();
            let ((bgp, mut bgp_orders), (guard, _guard_orders)) = (mpsc::channel(1), mpsc::channel(1));
            let ends = Ends {
                socket: PathBuf::new(),
                identity: Identity {
                    node: "node-a".to_owned(),
                    boot: "1".to_owned(),
                },
                bgp,
                guard,
                memory: watch::Sender::default().subscribe(),
                admin: TcpListener::bind(("127.0.0.1", 0)).unwrap().into(),
                busy: watch::Sender::new(false),
                heir: oneshot::channel().0,
            };
            let stop = CancellationToken::new();
            stop.cancel();
            attend(ends, knocking, stop).await;
            assert!(bgp_orders.try_recv().is_err(), "BGP is to rest");
            assert!(matches!(asked.join().unwrap(), Err(Error::Gone)));
        }
    }
}
