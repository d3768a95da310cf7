//! The task of one session: moves bytes between its [`Session`] and at most two connections, tells it the time, and
//! publishes its status.
//!
//! What has arrived is read before timers are looked at, so a process that was kept from running does not take its own
//! pause for the router's silence.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::DialError;
use crate::engine::Board;
use crate::hand_over::Lent;
use crate::route::Routes;
use crate::session::{Leave, Origin, Output, SLOTS, Session, Slot};
use crate::settings::{Field, Peer};
use crate::status::{Fault, Status};

/// Octets read at once.
const CHUNK: usize = 16 * 1024;
/// Reads, or writes, of one connection before something else has its turn.
const IN_A_ROW: usize = 16;
/// A NOTIFICATION that is not taken by then is lost.
const LINGER: Duration = Duration::from_secs(1);
/// Counters are published no more often; states and errors are at once.
const PUBLISH: Duration = Duration::from_millis(100);

/// All a session is told. A new value replaces the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Orders {
    pub(crate) peer: Arc<Peer>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) leave: Option<Leave>,
    /// How often BFD saw the path fail.
    pub(crate) bfd_downs: u64,
    /// Why no connection of the peer can be accepted, if one should.
    pub(crate) deaf: Option<String>,
    /// Nobody wants to know how it fares any more.
    pub(crate) quiet: bool,
    /// End, and give the session away.
    pub(crate) lend: bool,
}

/// Where a session publishes.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) name: String,
    pub(crate) board: watch::Sender<Board>,
}

type Dialling = Pin<Box<dyn Future<Output = Result<TcpStream, DialError>> + Send>>;

enum Wake {
    Orders,
    NoMoreOrders,
    Accepted(TcpStream),
    Dialled(Result<TcpStream, DialError>),
    Ready(Slot),
    Timer,
}

struct Task {
    session: Session,
    start: Instant,
    post: Post,
    orders: Orders,
    streams: [Option<TcpStream>; SLOTS],
    dialling: Option<Dialling>,
    lingering: JoinSet<()>,
    published: Option<(Duration, Status)>,
    done: bool,
}

/// What a session begins with.
pub(crate) struct Beginning {
    /// The engine's.
    pub(crate) start: Instant,
    pub(crate) restarted_until: Duration,
    pub(crate) seed: u64,
    /// Of another process, to go on with.
    pub(crate) lent: Option<Lent>,
}

/// A task that was told to lend its session: the name of the peer, and the session if it was established.
pub(crate) type Given = (String, Option<Lent>);

/// Runs a session until it has left, or is lent.
pub(crate) async fn run(
    beginning: Beginning,
    mut orders: watch::Receiver<Orders>,
    mut accepted: mpsc::Receiver<TcpStream>,
    post: Post,
) -> Option<Given> {
    let first = orders.borrow_and_update().clone();
    let start = beginning.start;
    let (session, streams) = begin(beginning, &first, &post.name);
    let mut task = Task {
        session,
        start,
        post,
        orders: first.clone(),
        streams,
        dialling: None,
        lingering: JoinSet::new(),
        published: None,
        done: false,
    };
    task.obey(first, true);
    let mut listening = true;
    loop {
        if task.orders.lend {
            return Some(task.lend());
        }
        task.work();
        let publish_at = task.publish();
        if task.done {
            break;
        }
        let deadline = task.session.deadline().into_iter().chain(publish_at).min();
        let timer = task.start + deadline.unwrap_or_default();
        let Task {
            session,
            streams,
            dialling,
            ..
        } = &mut task;
        let wake = tokio::select! {
            biased;
            changed = orders.changed(), if listening => if changed.is_ok() { Wake::Orders } else { Wake::NoMoreOrders },
            Some(stream) = accepted.recv() => Wake::Accepted(stream),
            slot = poll_fn(|cx| poll_ready(streams, session, cx)) => Wake::Ready(slot),
            dialled = poll_fn(|cx| dialling.as_mut().map_or(Poll::Pending, |d| d.as_mut().poll(cx))) => Wake::Dialled(dialled),
            () = sleep_until(timer), if deadline.is_some() => Wake::Timer,
        };
        match wake {
            Wake::Orders => {
                let next = orders.borrow_and_update().clone();
                task.obey(next, false);
            }
            Wake::NoMoreOrders => listening = false,
            Wake::Accepted(stream) => task.connected(Origin::Accepted, stream),
            Wake::Dialled(Ok(stream)) => {
                task.dialling = None;
                task.connected(Origin::Dialled, stream);
            }
            Wake::Dialled(Err(error)) => {
                task.dialling = None;
                let now = task.now();
                task.session.connect_failed(now, error.to_string());
            }
            Wake::Ready(slot) => task.read(slot),
            Wake::Timer => {}
        }
        let now = task.now();
        if task.session.deadline().is_some_and(|deadline| deadline <= now) {
            task.session.tick(now);
        }
    }
    while task.lingering.join_next().await.is_some() {}
    None
}

/// A session of its own, or that of another process with its connection.
fn begin(beginning: Beginning, first: &Orders, name: &str) -> (Session, [Option<TcpStream>; SLOTS]) {
    let (now, seed) = (beginning.start.elapsed(), beginning.seed);
    let wanted = (Arc::clone(&first.peer), Arc::clone(&first.routes));
    let adopted = beginning.lent.and_then(|Lent { session, connection }| {
        let adopt = || {
            let stream = std::net::TcpStream::from(connection);
            stream.set_nonblocking(true)?;
            let stream = TcpStream::from_std(stream)?;
            let local = super::local(&stream)?;
            let handed = (&session, local);
            let adopted = Session::adopt(now, wanted.clone(), beginning.restarted_until, seed, handed);
            io::Result::Ok(adopted.map(|(session, slot)| (session, slot, stream)))
        };
        match adopt() {
            Ok(Some(adopted)) => Some(adopted),
            Ok(None) => {
                warn!(peer = name, "the session cannot go on: it was made with other settings");
                None
            }
            Err(error) => {
                warn!(peer = name, %error, "the session cannot go on");
                None
            }
        }
    });
    let mut streams = [None, None];
    match adopted {
        Some((session, slot, stream)) => {
            streams[slot] = Some(stream);
            (session, streams)
        }
        None => (
            Session::new(now, wanted.0, wanted.1, beginning.restarted_until, seed),
            streams,
        ),
    }
}

/// A connection with something to read, or with room for what is to be sent.
fn poll_ready(streams: &[Option<TcpStream>; SLOTS], session: &Session, cx: &mut Context<'_>) -> Poll<Slot> {
    for (slot, stream) in streams.iter().enumerate() {
        let Some(stream) = stream else { continue };
        let readable = stream.poll_read_ready(cx).is_ready();
        if readable || !session.outgoing(slot).is_empty() && stream.poll_write_ready(cx).is_ready() {
            return Poll::Ready(slot);
        }
    }
    Poll::Pending
}

impl Task {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Gives the session away, if it is established. Its other connection, and one that is not, just ends.
    fn lend(mut self) -> Given {
        let handed = self.session.hand_over();
        let lent = handed.and_then(|(slot, session)| {
            let connection = self.streams[slot].take()?.into_std().ok()?;
            Some(Lent {
                session,
                connection: connection.into(),
            })
        });
        (self.post.name, lent)
    }

    fn obey(&mut self, next: Orders, first: bool) {
        let now = self.now();
        let before = std::mem::replace(&mut self.orders, next.clone());
        if next.bfd_downs != before.bfd_downs {
            self.session.bfd_down(now);
        }
        let diff = self.session.reconfigure(now, Arc::clone(&next.peer));
        if !diff.reset.is_empty() {
            info!(peer = self.post.name, fields = ?diff.reset, "session is reset, settings changed");
        }
        if diff.live.contains(&Field::Password) || diff.live.contains(&Field::Reach) {
            for stream in self.streams.iter().flatten() {
                if let Err(error) = super::tune(stream, &next.peer) {
                    warn!(peer = self.post.name, %error, "cannot change the options of the connection");
                }
            }
        }
        self.session.want(now, Arc::clone(&next.routes));
        if let Some(reason) = next.deaf.filter(|reason| first || before.deaf.as_ref() != Some(reason)) {
            self.session.note(now, Fault::Listen(reason));
        }
        if let Some(leave) = next.leave.filter(|leave| first || before.leave.as_ref() != Some(leave)) {
            self.session.leave(now, leave);
        }
    }

    fn connected(&mut self, origin: Origin, stream: TcpStream) {
        let now = self.now();
        let local = match super::local(&stream) {
            Ok(local) => local,
            Err(error) if origin == Origin::Dialled => return self.session.connect_failed(now, error.to_string()),
            // The connection is gone already.
            Err(_) => return,
        };
        if let Some(slot) = self.session.connected(now, origin, local) {
            // What the session put aside for this one has to be closed before its place is taken.
            self.perform();
            self.streams[slot] = Some(stream);
        }
    }

    /// Does what the session asks for, and sends what it has.
    fn work(&mut self) {
        self.perform();
        for slot in 0..SLOTS {
            self.write(slot);
        }
        self.perform();
    }

    fn perform(&mut self) {
        while let Some(output) = self.session.poll() {
            match output {
                Output::Dial => {
                    let peer = Arc::clone(self.session.peer());
                    self.dialling = Some(Box::pin(async move { super::dial(&peer).await }));
                }
                Output::AbortDial => self.dialling = None,
                Output::Close { slot, last, abort } => {
                    if let Some(stream) = self.streams[slot].take() {
                        if abort {
                            // Resets the connection instead of trying for minutes to deliver what was not taken. What
                            // fails here is only that haste.
                            let _ = stream.set_zero_linger();
                        } else {
                            self.lingering.spawn(linger(stream, last));
                        }
                    }
                }
                Output::Done => self.done = true,
            }
        }
        while self.lingering.try_join_next().is_some() {}
    }

    fn write(&mut self, slot: Slot) {
        for _ in 0..IN_A_ROW {
            let (Some(stream), outgoing) = (&self.streams[slot], self.session.outgoing(slot)) else {
                return;
            };
            if outgoing.is_empty() {
                return;
            }
            let result = stream.try_write(outgoing);
            let now = self.now();
            match result {
                Ok(octets) => self.session.sent(now, slot, octets),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.session.closed(now, slot, &error.to_string()),
            }
        }
    }

    fn read(&mut self, slot: Slot) {
        // On the stack of the one thread that all sessions share.
        let mut buffer = [0; CHUNK];
        for _ in 0..IN_A_ROW {
            let Some(stream) = &self.streams[slot] else { return };
            let result = stream.try_read(&mut buffer);
            let now = self.now();
            match result {
                Ok(0) => return self.session.closed(now, slot, "closed by the peer"),
                Ok(octets) => {
                    self.session.received(now, slot, &buffer[..octets]);
                    self.perform();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.session.closed(now, slot, &error.to_string()),
            }
        }
    }

    /// Publishes what changed; or says when to.
    fn publish(&mut self) -> Option<Duration> {
        let (now, status) = (self.now(), self.session.status());
        if let Some((at, published)) = &self.published {
            if published == status {
                return None;
            }
            let same = published.state == status.state && published.last_error == status.last_error;
            if same && now < *at + PUBLISH && !self.done {
                return Some(*at + PUBLISH);
            }
        }
        let before = self.published.as_ref().map(|(_, published)| published);
        tell(&self.post.name, before, status, self.orders.leave.is_some());
        if !self.orders.quiet {
            let told = Arc::new(status.clone());
            self.post
                .board
                .send_modify(|board| drop(board.insert(self.post.name.clone(), told)));
        }
        self.published = Some((now, status.clone()));
        None
    }
}

/// Logs what a person wants to read: sessions that come and go, and each new error once.
fn tell(peer: &str, before: Option<&Status>, status: &Status, leaving: bool) {
    let established = |s: &Status| s.negotiated.is_some();
    let was = before.is_some_and(established);
    if status.is_adopted() && !was {
        info!(peer, local = ?status.local, "session goes on");
    } else if established(status) && !was {
        info!(peer, local = ?status.local, "session established");
    }
    let error = status.last_error.as_ref().map(|(_, fault)| fault);
    let known = before.and_then(|b| b.last_error.as_ref()).map(|(_, fault)| fault);
    if was && !established(status) && leaving {
        info!(peer, "session left");
    } else if was && !established(status) {
        warn!(peer, reason = error.map(tracing::field::display), "session lost");
    } else if error != known
        && let Some(error) = error
    {
        warn!(peer, %error, "session fails");
    }
}

/// Sends the last words and waits for the router to close: a socket closed with unread input would reset the connection
/// and take the words with it.
async fn linger(mut stream: TcpStream, last: Bytes) {
    let words = async {
        stream.write_all(&last).await?;
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether they arrive is not known either way.
    let _ = timeout(LINGER, words).await;
}
