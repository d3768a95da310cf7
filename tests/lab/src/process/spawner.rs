//! The one thread that starts children.
//!
//! The kernel's "kill me when my parent dies" (PR_SET_PDEATHSIG) follows the thread that forked, not the process: a
//! child started by a short-lived thread would die with that thread. So all are started here, on a thread that ends
//! only with the process.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

type Job = (Command, Sender<io::Result<Child>>);

fn jobs() -> &'static Sender<Job> {
    static JOBS: OnceLock<Sender<Job>> = OnceLock::new();
    JOBS.get_or_init(|| {
        let (sender, receiver) = channel::<Job>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, reply) in receiver {
                    // The caller waits for the reply, so it is there to take it.
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("start the spawner thread");
        sender
    })
}

/// Starts `command` on the spawner thread.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    let (reply, result) = channel();
    jobs().send((command, reply)).map_err(io::Error::other)?;
    result.recv().map_err(io::Error::other)?
}
