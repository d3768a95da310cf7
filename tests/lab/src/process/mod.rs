//! Programs that keep running: started in a namespace, with the capabilities asked for, logged to a file.
//!
//! Every child is started by one thread that lives as long as the process ([`spawner`]) and asks the kernel to be
//! killed when that thread dies, so even a `kill -9` of the lab leaves none of them. A dropped [`Process`] is killed.

mod confine;
mod registry;
mod spawner;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::interrupt;
use crate::net::Namespace;

pub(crate) use registry::kill_all;

/// What a program may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Capabilities {
    /// Whatever the lab itself may do.
    #[default]
    All,
    /// NET_RAW alone, as user 65534 and with no way to get more: a speaker as its DaemonSet runs it. Where the lab runs
    /// in a user namespace that has no second user, the user stays and only the capabilities go.
    NetRawOnly,
    /// Nothing at all, otherwise like `NetRawOnly`.
    None,
}

/// How to start a program.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What it is called in messages.
    pub name: String,
    /// The executable.
    pub program: PathBuf,
    /// Its arguments, without the program's own name.
    pub args: Vec<OsString>,
    /// What its environment has beyond the lab's own.
    pub env: Vec<(OsString, OsString)>,
    /// Where it runs; `None` is the lab's own namespace.
    pub namespace: Option<Namespace>,
    /// Where standard output and standard error go; appended to.
    pub log: PathBuf,
    /// What it may do.
    pub capabilities: Capabilities,
}

impl Spec {
    /// A program without arguments, in the lab's own namespace, with all capabilities.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            namespace: None,
            log: log.into(),
            capabilities: Capabilities::All,
        }
    }

    /// Appends arguments.
    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Runs it in `namespace`.
    pub fn namespace(mut self, namespace: &Namespace) -> Self {
        self.namespace = Some(namespace.clone());
        self
    }

    /// Limits what it may do.
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    fn command(&self) -> Result<Command> {
        let mut log = open_log(&self.log)?;
        let words: Vec<_> = self.args.iter().map(|arg| arg.to_string_lossy()).collect();
        writeln!(log, "# {} {}", self.program.display(), words.join(" ")).context("write log")?;
        // By descriptor where user 65534 may not walk the path to the program, at the price of a number in its place in
        // process lists.
        let executable = (self.capabilities != Capabilities::All && !open_to_all(&self.program))
            .then(|| File::open(&self.program))
            .transpose()
            .with_context(|| format!("open {}", self.program.display()))?;
        let path = executable
            .as_ref()
            .map(|file| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
        let mut command = Command::new(path.as_ref().unwrap_or(&self.program));
        command
            .arg0(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("log descriptor")?)
            .stderr(log);
        let namespace = self.namespace.clone();
        let capabilities = self.capabilities;
        let plan = confine::Plan::new(capabilities);
        // SAFETY: the closure only makes system calls (see `confine`), allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || {
                let _keep_open = &executable;
                plan.enter(namespace.as_ref().map(|namespace| namespace.fd().as_raw_fd()))
            });
        }
        Ok(command)
    }
}

/// Whether everybody may enter every directory on the way to `path`.
fn open_to_all(path: &Path) -> bool {
    let searchable = |directory: &Path| directory.metadata().is_ok_and(|metadata| metadata.mode() & 0o001 != 0);
    path.canonicalize()
        .is_ok_and(|path| path.ancestors().skip(1).all(searchable))
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open log {}", path.display()))
}

/// A running (or ended) program; clones share it, the last one dropped kills it.
#[derive(Debug, Clone)]
pub struct Process {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: Mutex<Spec>,
    run: Mutex<Run>,
}

#[derive(Debug)]
struct Run {
    child: Child,
    exit: Option<ExitStatus>,
}

impl Run {
    fn poll(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().ok().flatten();
        }
        self.exit
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let run = self.run.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        kill_and_reap(run);
    }
}

fn kill_and_reap(run: &mut Run) {
    if run.poll().is_none() {
        // Both fail only when the child is gone, which is what is wanted.
        let _ = run.child.kill();
        run.exit = run.child.wait().ok();
    }
}

impl Process {
    /// Starts the program.
    ///
    /// # Errors
    /// When it cannot be executed or confined as asked.
    pub fn start(spec: Spec) -> Result<Self> {
        let _leave = interrupt::leave();
        let child = spawner::spawn(spec.command()?).with_context(|| format!("start {}", spec.name))?;
        let run = Mutex::new(Run { child, exit: None });
        let inner = Arc::new(Inner {
            spec: Mutex::new(spec),
            run,
        });
        registry::add(&inner);
        Ok(Self { inner })
    }

    fn run(&self) -> MutexGuard<'_, Run> {
        self.inner.run.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How it was started.
    pub fn spec(&self) -> Spec {
        self.inner
            .spec
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.spec().name
    }

    /// Its log file.
    pub fn log(&self) -> PathBuf {
        self.spec().log
    }

    /// Its process id; of the last run, if it has ended.
    pub fn pid(&self) -> i32 {
        self.run().child.id().cast_signed()
    }

    /// Whether it still runs; a frozen one does.
    pub fn is_alive(&self) -> bool {
        self.run().poll().is_none()
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<ExitStatus> {
        self.run().poll()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut run = self.run();
        if let Some(exit) = run.poll() {
            bail!("{} has ended: {exit}", self.name());
        }
        // Not yet reaped, so the id cannot have been given to another process.
        kill(Pid::from_raw(run.child.id().cast_signed()), signal)
            .with_context(|| format!("{signal} to {}", self.name()))
    }

    /// SIGKILL, and waits until it is gone. Does nothing when it has ended.
    pub fn kill(&self) {
        kill_and_reap(&mut self.run());
    }

    /// SIGSTOP: alive and silent until [`Process::thaw`].
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Waits at most `timeout` for the end.
    pub async fn wait_exit(&self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            let exit = self.exit();
            if exit.is_some() || Instant::now() >= deadline {
                return exit;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGTERM, then SIGKILL when it has not ended by `timeout`; says how it ended.
    pub async fn stop(&self, timeout: Duration) -> Result<ExitStatus> {
        if self.is_alive() {
            self.signal(Signal::SIGTERM)?;
        }
        if let Some(exit) = self.wait_exit(timeout).await {
            return Ok(exit);
        }
        self.kill();
        self.exit().with_context(|| format!("{} cannot be killed", self.name()))
    }

    /// Starts it anew as before; kills it first if it still runs.
    pub fn restart(&self) -> Result<()> {
        self.restart_with(self.spec())
    }

    /// Starts it anew with another specification, for instance other arguments.
    pub fn restart_with(&self, spec: Spec) -> Result<()> {
        // Before the lock on the run, which a clean-up wants, too.
        let _leave = interrupt::leave();
        let mut run = self.run();
        kill_and_reap(&mut run);
        let child = spawner::spawn(spec.command()?).with_context(|| format!("restart {}", spec.name))?;
        *run = Run { child, exit: None };
        *self.inner.spec.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = spec;
        Ok(())
    }

    /// Starts another one by the same specification, with the same log.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn beside(&self) -> Result<Self> {
        Self::start(self.spec())
    }

    /// Trades places with `other`, which from now on is this one, and the other way round.
    pub fn trade(&self, other: &Self) {
        std::mem::swap(&mut *self.run(), &mut *other.run());
    }

    /// The last `lines` lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }
}

/// The last `lines` lines of a text file; empty when it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(name: &str, script: &str) -> Spec {
        let log = std::env::temp_dir().join(format!("ferrolb-process-{}-{name}.log", std::process::id()));
        // What an earlier run may have left; usually nothing.
        let _ = std::fs::remove_file(&log);
        Spec::new(name, "/bin/sh", log).args(["-c", script])
    }

    #[tokio::test]
    async fn output_and_end_are_kept_over_a_restart() {
        let process = Process::start(shell("restart", "echo hello; exit 3").env("UNUSED", "1")).expect("start");
        assert_eq!(process.wait_exit(SOON).await.and_then(|exit| exit.code()), Some(3));
        assert!(process.signal(Signal::SIGTERM).is_err(), "nobody is there to hear it");
        process.restart().expect("restart");
        process.wait_exit(SOON).await.expect("the second end");
        let log = process.log_tail(10);
        assert_eq!(log.lines().filter(|line| *line == "hello").count(), 2, "{log}");
        assert_eq!(
            log.lines().filter(|line| line.starts_with("# /bin/sh -c")).count(),
            2,
            "{log}"
        );
        std::fs::remove_file(process.log()).expect("remove the log");
    }

    #[tokio::test]
    async fn a_stopped_program_is_killed_when_it_will_not_end() {
        use std::os::unix::process::ExitStatusExt;
        let stubborn = Process::start(shell("stubborn", "trap '' TERM; echo ready; while :; do sleep 1; done"));
        let stubborn = stubborn.expect("start");
        while stubborn.log_tail(1) != "ready" {
            tokio::task::yield_now().await;
        }
        let exit = stubborn.stop(Duration::from_millis(50)).await.expect("it ends");
        assert_eq!(exit.signal(), Some(Signal::SIGKILL as i32));
        std::fs::remove_file(stubborn.log()).expect("remove the log");
    }

    #[test]
    fn a_dropped_program_is_gone() {
        let process = Process::start(shell("dropped", "sleep 100")).expect("start");
        let (pid, log) = (process.pid(), process.log());
        assert!(process.is_alive());
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        std::fs::remove_file(log).expect("remove the log");
    }
}
