//! The hand-over between two speakers of this node: the successor, as it starts, takes over what its predecessor has, so
//! that routers, clients and other speakers see nothing ([ADR 19](../../docs/adr/0019-hand-over.md)).
//!
//! `ferrolb_handover` has the words and says who owns the work when. Here is what the work is made of ([`pieces`]), and how
//! the parts of the program put it down and take it up:
//!
//! | part | how it is put down | what of it is handed over |
//! | --- | --- | --- |
//! | BGP | its engine ends, its connections rest | the plan, each established session, its connection |
//! | BFD | its thread ends at the last moment | each session, all sockets |
//! | liveness | its thread ends at the last moment | what this node has a part in, the sockets |
//! | admin server | goes on | its socket |
//! | layer 2 | goes on for a second: both answer with the same MAC address | nothing |
//! | the rest | ends as on SIGTERM | nothing: it comes from the API server |
//!
//! Who is told to end in the middle of it ends afterwards: the predecessor with the work if it still has it, and the successor
//! with what it was given. The predecessor waits for [`ferrolb_handover::PATIENCE`] at most in each of the two halves, the
//! successor for as long for each word.
//!
//! A predecessor that has given its work away lies still until it is told to end, or its successor has ended: to the kubelet
//! a container that ends is one to be started again.

mod pieces;
mod predecessor;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ferrolb_api::names::{SPEAKER_MANAGER, reasons};
use ferrolb_handover::{Borrower, Error, Predecessor};
use ferrolb_runtime::admin::{self, AdminError};
use ferrolb_runtime::events::{self, Note};
use ferrolb_runtime::tasks::Signals;
use ferrolb_runtime::troubles;
use kube::Client;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::snapshot;

pub(crate) use pieces::Work;
pub(crate) use predecessor::{Ends, lie_still, serve, told_to_end};

/// Before a predecessor that does not hand over is asked again, or found to have ended.
const AGAIN: Duration = Duration::from_millis(250);

/// So long the admin server's address may be another's: a predecessor is told to end once its successor was there for
/// some seconds, and then has ten.
const PATIENCE: Duration = Duration::from_secs(30);

/// So long whoever has the admin server's address may keep it before that is told as an event.
const WAITING: Duration = Duration::from_secs(8);

/// The socket of the speaker of `node` in the directory `dir`, which other nodes may share. A speaker of another installation
/// is no predecessor: the two would take the work from each other in turn.
pub(crate) fn socket(dir: &Path, namespace: &str, node: &str) -> PathBuf {
    let sum = snapshot::sum(format!("{namespace}/{node}").as_bytes());
    dir.join(format!("speaker-{}.sock", &sum[..20]))
}

/// How a speaker begins.
pub(crate) enum Beginning {
    /// With what a predecessor had.
    With(Box<Work>, Predecessor),
    /// On its own: there is none, or it has ended.
    Alone,
    /// Not at all: it was told to stop before.
    Stopped,
}

/// Takes the work of a predecessor over. Waits for one that does not hand over to end: it is the one that is probed
/// meanwhile, so that an upgrade goes on as if there were no hand-over.
pub(crate) async fn take(socket: &Path, node: &str, signals: &mut Signals) -> Beginning {
    let mut said = None;
    loop {
        let (path, name) = (socket.to_owned(), node.to_owned());
        // Not given up when this process is told to end: it may have the work by then.
        let why = match tokio::task::spawn_blocking(move || attempt(&path, &name)).await {
            Ok(Ok(Some((work, predecessor)))) => return Beginning::With(work, predecessor),
            Ok(Ok(None)) => return Beginning::Alone,
            Ok(Err(Error::Io(error))) if error.kind() == io::ErrorKind::PermissionDenied => {
                // Of another user, who may have ended long ago: the admin server's address tells.
                warn!(socket = %socket.display(), %error, "cannot ask the speaker that ran here for its work");
                return Beginning::Alone;
            }
            Ok(Err(error)) => error.to_string(),
            Err(died) => died.to_string(),
        };
        if said.as_ref() != Some(&why) {
            warn!("waiting for the speaker that runs on this node to end: {why}");
            said = Some(why);
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = signals.stop() => return Beginning::Stopped,
        }
    }
}

/// Binds the admin server's address; `None` if it was told to stop before. A speaker that has no directory with its
/// predecessor in common, or may not open its socket, waits here for its end, before it has begun anything. So does one of
/// another installation, for ever: that is told on the Node.
pub(crate) async fn bind(
    address: SocketAddr,
    client: &Client,
    node: &str,
    signals: &mut Signals,
) -> Result<Option<TcpListener>, AdminError> {
    let begin = Instant::now();
    let (mut said, mut told) = (false, false);
    loop {
        match admin::bind(address).await {
            Err(AdminError::Bind { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && begin.elapsed() < PATIENCE => {}
            bound => return Ok(Some(bound?)),
        }
        if !std::mem::replace(&mut said, true) {
            warn!(
                %address,
                "waiting for whoever listens there to end: the speaker that ran here, or that of another FerroLB in this cluster?"
            );
        }
        if begin.elapsed() >= WAITING && !std::mem::replace(&mut told, true) {
            occupied(address, client, node).await;
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = signals.stop() => return Ok(None),
        }
    }
}

/// Tells that a speaker cannot begin, as an event: it has no `/readyz` of its own yet.
async fn occupied(address: SocketAddr, client: &Client, node: &str) {
    let note = Note {
        about: troubles::node(node),
        warning: true,
        reason: reasons::NOT_READY,
        message: format!(
            "a second speaker waits on this node, because another program listens on {address}: is there another FerroLB in this \
             cluster? It has one; remove one of the two"
        ),
    };
    if let Err(failure) = events::post_now(client, SPEAKER_MANAGER, node, note).await {
        warn!("cannot create events: {failure}");
    }
}

fn attempt(socket: &Path, node: &str) -> Result<Option<(Box<Work>, Predecessor)>, Error> {
    let Some(borrower) = Borrower::connect(socket)? else {
        return Ok(None);
    };
    let mut work = Box::<Work>::default();
    for part in borrower.ask(node)? {
        work.add(part)?;
    }
    let (rest, predecessor) = borrower.take()?;
    for part in rest {
        // It is ours now, whatever it is worth.
        if let Err(error) = work.add(part) {
            warn!(%error, "a part of what was handed over is of no use");
        }
    }
    let (sessions, paths) = work.counts();
    info!(sessions, paths, "took over from the speaker that ran here");
    Ok(Some((work, predecessor)))
}
