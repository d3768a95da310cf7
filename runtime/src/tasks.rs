//! The tasks of a program: each has a name, and the end of any of them that was not asked for is the end of the process.
//!
//! A half-dead announcer or allocator is worse than a restarted one, so there is one policy: a task runs until the
//! program stops. SIGTERM and SIGINT cancel the token that all tasks hold; they then have [`GRACE`] to finish.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

/// How long tasks may take to end after a signal; what still runs then is dropped.
pub const GRACE: Duration = Duration::from_secs(4);

/// The tasks of the program.
#[derive(Debug)]
pub struct Tasks {
    running: JoinSet<Result<(), String>>,
    names: Vec<(Id, &'static str)>,
    stop: CancellationToken,
    grace: Duration,
}

/// The signals that ask the program to stop.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    told: bool,
}

impl Signals {
    /// Those from now on.
    pub fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            told: false,
        })
    }

    /// Waits for SIGTERM or SIGINT; not at all once one has come.
    pub async fn stop(&mut self) {
        if self.told {
            return;
        }
        tokio::select! {
            _ = self.terminate.recv() => info!("SIGTERM: stopping"),
            _ = self.interrupt.recv() => info!("SIGINT: stopping"),
        }
        self.told = true;
    }
}

/// A task ended although nobody asked it to.
#[derive(Debug, Error)]
pub enum TaskDied {
    /// It returned.
    #[error("task {name} ended unasked")]
    Ended {
        /// The task.
        name: &'static str,
    },
    /// It failed.
    #[error("task {name} failed: {error}")]
    Failed {
        /// The task.
        name: &'static str,
        /// Its error.
        error: String,
    },
    /// It panicked.
    #[error("task {name} panicked: {message}")]
    Panicked {
        /// The task.
        name: &'static str,
        /// The panic's message.
        message: String,
    },
    /// The process cannot listen for signals.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
}

impl Default for Tasks {
    fn default() -> Self {
        Tasks {
            running: JoinSet::new(),
            names: Vec::new(),
            stop: CancellationToken::new(),
            grace: GRACE,
        }
    }
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The token that is cancelled when the program is to stop.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task inside a span of its name. It has to end, with `Ok`, soon after the token is cancelled, and not
    /// before.
    pub fn spawn<E: Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let task = async move { task.await.map_err(|error| error.to_string()) };
        let handle = self.running.spawn(task.instrument(info_span!("task", name)));
        self.names.push((handle.id(), name));
    }

    /// Runs until SIGTERM or SIGINT, or until a task dies. Then cancels the token and waits for the rest.
    pub async fn run(self) -> Result<(), TaskDied> {
        let mut signals = Signals::new().map_err(TaskDied::Signals)?;
        self.run_until(signals.stop()).await
    }

    /// The same, until `told` is over in place of the signals.
    pub async fn run_until(mut self, told: impl Future<Output = ()>) -> Result<(), TaskDied> {
        let result = tokio::select! {
            // A task may end because it has cancelled the token itself.
            biased;
            () = told => Ok(()),
            () = self.stop.cancelled() => Ok(()),
            Some(ended) = self.running.join_next_with_id() => Err(self.death(ended)),
        };
        self.stop.cancel();
        let finished = tokio::time::timeout(self.grace, async {
            while let Some(ended) = self.running.join_next_with_id().await {
                let id = match &ended {
                    Ok((id, _)) => *id,
                    Err(error) => error.id(),
                };
                if !matches!(ended, Ok((_, Ok(())))) {
                    warn!("{}", self.death(ended));
                }
                self.names.retain(|(other, _)| *other != id);
            }
        })
        .await;
        if finished.is_err() {
            let left = self.names.iter().map(|(_, name)| *name).collect::<Vec<_>>();
            warn!(tasks = %left.join(", "), "did not end in time, dropped");
        }
        result
    }

    fn death(&self, ended: Result<(Id, Result<(), String>), JoinError>) -> TaskDied {
        match ended {
            Ok((id, Ok(()))) => TaskDied::Ended { name: self.name(id) },
            Ok((id, Err(error))) => TaskDied::Failed {
                name: self.name(id),
                error,
            },
            Err(error) => TaskDied::Panicked {
                name: self.name(error.id()),
                message: panic_message(error),
            },
        }
    }

    fn name(&self, id: Id) -> &'static str {
        self.names
            .iter()
            .find(|(other, _)| *other == id)
            .map_or("unknown", |(_, name)| name)
    }
}

fn panic_message(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else {
        return "cancelled".to_owned();
    };
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic
            .downcast_ref::<&str>()
            .map_or_else(|| "no message".to_owned(), |message| (*message).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    async fn waits(stop: CancellationToken) -> Result<(), Infallible> {
        stop.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn one_death_ends_all() {
        let mut tasks = Tasks::new();
        tasks.spawn("patient", waits(tasks.stop()));
        tasks.spawn("failing", async { Err("no route") });
        let died = tasks.run().await.unwrap_err();
        assert_eq!(died.to_string(), "task failing failed: no route");
    }

    #[tokio::test]
    async fn a_panic_and_a_silent_end_are_deaths_too() {
        let mut tasks = Tasks::new();
        tasks.spawn("broken", async {
            if true {
                panic!("index 7");
            }
            Ok::<_, Infallible>(())
        });
        assert_eq!(
            tasks.run().await.unwrap_err().to_string(),
            "task broken panicked: index 7"
        );

        let mut tasks = Tasks::new();
        tasks.spawn("short", async { Ok::<_, Infallible>(()) });
        assert_eq!(tasks.run().await.unwrap_err().to_string(), "task short ended unasked");
    }

    #[tokio::test]
    async fn stopping_does_not_wait_for_ever() {
        let mut tasks = Tasks {
            grace: Duration::from_millis(5),
            ..Tasks::new()
        };
        tasks.spawn("patient", waits(tasks.stop()));
        tasks.spawn("deaf", std::future::pending::<Result<(), Infallible>>());
        tasks.stop().cancel();
        tasks.run().await.unwrap();
    }
}
