//! Keeps the guard running on its thread.
//!
//! A guard that cannot run, because its port is taken, is an operator's problem: it is said once in the log and on
//! `/readyz`, and tried again. Meanwhile this node announces what the API server gives it. One that panics ends the
//! process, like every task.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_l2::{Note, Question, Wanted};
use ferrolb_liveness::{Channels, Counters, Duties, Ground, Lent, Outcome, Settings, ShellError, spawn_thread};
use ferrolb_runtime::apply::chain;
use ferrolb_runtime::readiness::Check;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::convert;

/// Time until the next attempt to run it.
const AGAIN: Duration = Duration::from_secs(5);

/// What the guard is given.
pub(crate) struct Keeper {
    /// What stays fixed.
    pub(crate) settings: Settings,
    /// What it is told.
    pub(crate) told: (watch::Receiver<Arc<Duties>>, watch::Receiver<Arc<Ground>>),
    /// To layer 2: what to do.
    pub(crate) wanted: watch::Sender<Arc<Wanted>>,
    /// To layer 2: what to ask.
    pub(crate) questions: mpsc::Sender<Question>,
    /// To layer 2: what to announce once more.
    pub(crate) announce: mpsc::Sender<BTreeSet<IpAddr>>,
    /// From layer 2.
    pub(crate) notes: mpsc::Receiver<Note>,
    /// To the owner task.
    pub(crate) outcomes: mpsc::Sender<Outcome>,
    /// What it counts.
    pub(crate) counters: Arc<Counters>,
    /// For `/readyz`.
    pub(crate) check: Check,
    /// To go on with.
    pub(crate) lent: Option<Lent>,
    /// From the hand-over.
    pub(crate) orders: mpsc::Receiver<Order>,
}

/// What the hand-over asks for, in this order.
#[derive(Debug)]
pub(crate) enum Order {
    /// End without a word; layer 2 goes on as it is. `None` if the guard does not run.
    Lend(oneshot::Sender<Option<Lent>>),
    /// Go on with it.
    Resume(Lent),
}

/// So long layer 2 goes on after a hand-over: the successor has begun to answer long before.
const OVERLAP: Duration = Duration::from_secs(1);

/// The guard is lost in a way that a restart of the process is to heal.
#[derive(Debug, Error)]
pub(crate) enum LivenessLost {
    /// The system gives no thread.
    #[error("cannot start the liveness thread: {0}")]
    Thread(#[source] io::Error),
    /// It returned although nobody asked it to.
    #[error("the liveness thread ended unasked")]
    Ended,
    /// It panicked; the message stands above in the log.
    #[error("the liveness thread panicked")]
    Panicked,
}

impl Keeper {
    /// Runs until `stop` is cancelled, and then until the standbys of this node answer in its name, or will not, or the
    /// successor does. Then layer 2 may fall silent as well.
    pub(crate) async fn run(self, stop: CancellationToken, silence: CancellationToken) -> Result<(), LivenessLost> {
        let _silence = silence.drop_guard();
        let Keeper {
            settings,
            told: (duties, ground),
            wanted,
            questions,
            announce,
            notes,
            outcomes,
            counters,
            check,
            mut lent,
            mut orders,
        } = self;
        let alone = wanted.clone();
        let mut channels = Channels {
            duties,
            ground,
            notes,
            note: convert::note,
            roles: Box::new(move |roles| {
                wanted.send_replace(convert::wanted(roles));
            }),
            ask: Box::new(move |question| questions.try_send(convert::question(question)).is_ok()),
            announce: Box::new(move |addresses| {
                // One that is lost is made up for by the refresh.
                let _ = announce.try_send(addresses);
            }),
            outcomes,
            goodbye: stop.clone(),
            stop: CancellationToken::new(),
        };
        let mut said = None;
        loop {
            check.ready();
            let halt = CancellationToken::new();
            channels.stop = halt.clone();
            let thread = spawn_thread(settings, lent.take(), channels, Arc::clone(&counters));
            let thread = thread.map_err(LivenessLost::Thread)?;
            let mut ended = tokio::task::spawn_blocking(move || thread.join());
            let (ended, asked) = tokio::select! {
                ended = &mut ended => (ended, None),
                Some(order) = orders.recv() => {
                    halt.cancel();
                    (ended.await, Some(order))
                }
            };
            let Ok(Ok((back, result))) = ended else {
                return Err(LivenessLost::Panicked);
            };
            channels = back;
            match (result, asked) {
                (Ok(given), Some(Order::Lend(to))) => {
                    // Whoever does not wait for it is about to end, with the process.
                    let _ = to.send(Some(given));
                    tokio::select! {
                        // What comes back in the moment of the end says goodbye, too.
                        biased;
                        Some(Order::Resume(given)) = orders.recv() => lent = Some(given),
                        () = stop.cancelled() => {
                            tokio::time::sleep(OVERLAP).await;
                            return Ok(());
                        }
                    }
                    continue;
                }
                (Ok(_), _) if stop.is_cancelled() => return Ok(()),
                (Ok(_), _) => return Err(LivenessLost::Ended),
                (Err(error), _) => tell(&check, &error, &mut said),
            }
            let again = tokio::time::sleep(AGAIN);
            tokio::pin!(again);
            loop {
                alone.send_replace(convert::owned(&channels.duties.borrow_and_update()));
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = &mut again => break,
                    Ok(()) = channels.duties.changed() => {}
                    Some(Order::Lend(to)) = orders.recv() => drop(to.send(None)),
                }
            }
            // It has to hear of them as well.
            channels.duties.mark_changed();
        }
    }
}

fn tell(check: &Check, error: &ShellError, said: &mut Option<String>) {
    let why = chain(error);
    check.not_ready(why.clone());
    if said.as_ref() != Some(&why) {
        error!("nobody watches over the addresses of this node: {why}");
        *said = Some(why);
    }
}

#[cfg(test)]
mod tests {
    use ferrolb_runtime::readiness::Readiness;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_guard_that_comes_back_in_the_moment_of_the_end_says_goodbye() {
        // Whichever of the two would be looked at first.
        for _ in 0..16 {
            let (orders, orders_out) = mpsc::channel(1);
            let keeper = Keeper {
                settings: Settings { port: 0, seed: 1 },
                told: (
                    watch::Sender::default().subscribe(),
                    watch::Sender::default().subscribe(),
                ),
                wanted: watch::Sender::default(),
                questions: mpsc::channel(1).0,
                announce: mpsc::channel(1).0,
                notes: mpsc::channel(1).1,
                outcomes: mpsc::channel(1).0,
                counters: Arc::default(),
                check: Readiness::default().check("liveness", "starting"),
                lent: None,
                orders: orders_out,
            };
            let stop = CancellationToken::new();
            let running = tokio::spawn(keeper.run(stop.clone(), CancellationToken::new()));
            let (to, lent) = oneshot::channel();
            orders.send(Order::Lend(to)).await.unwrap();
            let lent = lent.await.unwrap().expect("it runs");
            let begin = Instant::now();
            orders.try_send(Order::Resume(lent)).unwrap();
            stop.cancel();
            running.await.unwrap().unwrap();
            assert!(begin.elapsed() < OVERLAP, "it ended without a word");
        }
    }
}
