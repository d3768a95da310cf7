//! The inside of a machine that is a node: process, mount, host name, IPC and cgroup namespaces of its own, a root file
//! system of its own, and services that run until the power is cut.
//!
//! The network namespace and the cgroups exist already: the caller has entered the one and names the others. The outer
//! half waits; when it is killed, the machine's process 1 goes with it, and with process 1 everything that ran.
//!
//! Process 1 starts the first service at once, and any service that does not run when it gets its signal: SIGUSR1 for the
//! first, SIGUSR2 for the second. Nothing else starts a service again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setsid};

use crate::enter::failed;
use crate::machine_root;

/// What starts each service, in their order.
const START: [Signal; 2] = [Signal::SIGUSR1, Signal::SIGUSR2];

/// What the machine is to look like.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Its host name.
    pub(crate) hostname: String,
    /// An empty directory, on which the root file system is mounted.
    pub(crate) root: PathBuf,
    /// The directory that is `/var` inside: what outlives the power.
    pub(crate) disk: PathBuf,
    /// Files and directories of the outside that are seen inside, at the same path, read-only.
    pub(crate) shared: Vec<PathBuf>,
    cgroups: Vec<PathBuf>,
    services: Vec<Service>,
}

/// A program that runs inside.
#[derive(Debug, PartialEq, Eq)]
struct Service {
    /// Where its output goes, outside.
    log: PathBuf,
    /// The program and its arguments, a word a line; a file outside.
    words: PathBuf,
}

impl Plan {
    /// Reads the arguments that follow `machine`.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Self::default();
        while let Some(arg) = args.next() {
            let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
            match arg.as_str() {
                "--hostname" => plan.hostname = value,
                "--root" => plan.root = value.into(),
                "--disk" => plan.disk = value.into(),
                "--share" => plan.shared.push(value.into()),
                "--cgroup" => plan.cgroups.push(value.into()),
                "--service" => {
                    let (log, words) = value
                        .split_once(':')
                        .ok_or_else(|| format!("--service {value}: no colon"))?;
                    let (log, words) = (log.into(), words.into());
                    plan.services.push(Service { log, words });
                }
                _ => return Err(format!("unknown flag {arg}")),
            }
        }
        if [&plan.root, &plan.disk].iter().any(|path| path.as_os_str().is_empty()) {
            return Err("machine needs --root and --disk".into());
        }
        if plan.services.is_empty() || plan.services.len() > START.len() {
            return Err(format!("machine needs 1 to {} services", START.len()));
        }
        Ok(plan)
    }
}

/// Switches the machine on and waits for its end.
pub(crate) fn run(plan: &Plan) -> Result<ExitCode, String> {
    let signals: SigSet = START.into_iter().chain([Signal::SIGCHLD]).collect();
    signals.thread_block().map_err(failed("block signals"))?;
    let services = plan.services.iter().map(Runner::new).collect::<Result<Vec<_>, _>>()?;
    for cgroup in &plan.cgroups {
        join(cgroup).map_err(|error| format!("move into {}: {error}", cgroup.display()))?;
    }
    let namespaces = [
        CloneFlags::CLONE_NEWCGROUP,
        CloneFlags::CLONE_NEWIPC,
        CloneFlags::CLONE_NEWNS,
        CloneFlags::CLONE_NEWPID,
        CloneFlags::CLONE_NEWUTS,
    ];
    unshare(namespaces.into_iter().collect()).map_err(failed("make the machine's namespaces"))?;
    for cgroup in plan.cgroups.iter().filter(|cgroup| is_unified(cgroup)) {
        make_room(cgroup).map_err(|error| format!("hand out {}: {error}", cgroup.display()))?;
    }
    let parent = nix::unistd::getpid();
    // SAFETY: the program has one thread, so the child may use everything.
    match unsafe { fork() }.map_err(failed("fork"))? {
        ForkResult::Parent { child } => match waitpid(child, None).map_err(failed("wait"))? {
            WaitStatus::Exited(_, code) => Ok(ExitCode::from(code.clamp(0, 255) as u8)),
            _ => Ok(ExitCode::from(128 + Signal::SIGKILL as u8)),
        },
        ForkResult::Child => {
            set_pdeathsig(Signal::SIGKILL).map_err(failed("death signal"))?;
            if !Path::new(&format!("/proc/{parent}")).exists() {
                return Err("the outer half is gone".into());
            }
            setsid().map_err(failed("new session"))?;
            // SAFETY: pointer and length describe the string, which outlives the call.
            let named = unsafe { libc::sethostname(plan.hostname.as_ptr().cast(), plan.hostname.len()) };
            Errno::result(named).map_err(failed("set the host name"))?;
            machine_root::make(plan)?;
            enter(&plan.root).map_err(|error| format!("enter the root: {error}"))?;
            serve(services, &signals)
        }
    }
}

/// Moves this process into a cgroup.
fn join(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
}

/// Whether the directory is one of cgroup v2.
fn is_unified(cgroup: &Path) -> bool {
    cgroup.join("cgroup.controllers").exists()
}

/// Makes a cgroup of v2, which is the root of this process' cgroup namespace, one that can have children with controllers: no
/// process may stay in it (cgroups(7), "no internal processes").
fn make_room(cgroup: &Path) -> io::Result<()> {
    let own = cgroup.join("init");
    fs::create_dir(&own)?;
    join(&own)?;
    let controllers = fs::read_to_string(cgroup.join("cgroup.controllers"))?;
    let all: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
    fs::write(cgroup.join("cgroup.subtree_control"), all.join(" "))
}

/// Makes `root` the root, out of which the outside cannot be seen; mounts made later are seen by what runs inside.
fn enter(root: &Path) -> nix::Result<()> {
    nix::unistd::chdir(root)?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)
}

/// A service, and its process while it runs.
struct Runner {
    log: File,
    words: Vec<String>,
    running: Option<Child>,
}

impl Runner {
    /// Opens the files, which lie outside.
    fn new(service: &Service) -> Result<Self, String> {
        let log = OpenOptions::new().create(true).append(true).open(&service.log);
        let log = log.map_err(|error| format!("open {}: {error}", service.log.display()))?;
        let words = fs::read_to_string(&service.words);
        let words = words.map_err(|error| format!("read {}: {error}", service.words.display()))?;
        let words: Vec<String> = words.lines().map(str::to_owned).collect();
        if words.is_empty() {
            return Err(format!("{}: no program", service.words.display()));
        }
        Ok(Self {
            log,
            words,
            running: None,
        })
    }

    fn start(&mut self, blocked: SigSet) -> io::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let mut command = Command::new(&self.words[0]);
        command
            .args(&self.words[1..])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .stdin(Stdio::null())
            .stdout(self.log.try_clone()?)
            .stderr(self.log.try_clone()?);
        // SAFETY: between fork and exec only the signal mask is changed, by a system call.
        unsafe { command.pre_exec(move || blocked.thread_unblock().map_err(io::Error::from)) };
        self.running = Some(command.spawn()?);
        Ok(())
    }

    fn is(&self, pid: Pid) -> bool {
        let own = self.running.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        own == Some(pid.as_raw())
    }
}

/// Process 1: starts services, and buries whoever ends.
fn serve(mut services: Vec<Runner>, signals: &SigSet) -> Result<ExitCode, String> {
    let start = |service: &mut Runner| {
        let outcome = service.start(*signals);
        outcome.map_err(|error| format!("start {}: {error}", service.words[0]))
    };
    services.iter_mut().take(1).try_for_each(start)?;
    loop {
        let signal = signals.wait().map_err(failed("wait for a signal"))?;
        if signal == Signal::SIGCHLD {
            // Several ends may have made one signal.
            while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                let Some(pid) = status.pid() else { break };
                if let Some(service) = services.iter_mut().find(|service| service.is(pid)) {
                    service.running = None;
                }
            }
            continue;
        }
        let asked = services.iter_mut().zip(START).filter(|(_, by)| *by == signal);
        asked.map(|(service, _)| service).try_for_each(start)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> impl Iterator<Item = String> {
        line.split(' ').map(str::to_owned)
    }

    #[test]
    fn a_plan_is_read_from_its_flags() {
        let plan = Plan::parse(words(
            "--hostname node-1 --root /r --disk /d --share /a --cgroup /c/1 --cgroup /c/2 --service /log/a:/etc/a",
        ))
        .unwrap();
        assert_eq!(
            (plan.hostname.as_str(), plan.root.as_path()),
            ("node-1", Path::new("/r"))
        );
        assert_eq!(plan.cgroups, [Path::new("/c/1"), Path::new("/c/2")]);
        let service = Service {
            log: "/log/a".into(),
            words: "/etc/a".into(),
        };
        assert_eq!(plan.services, [service]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let refused = |line| Plan::parse(words(line)).unwrap_err();
        assert!(refused("--root /r --service /a:/b").contains("--disk"));
        assert!(refused("--root /r --disk /d").contains("services"));
        assert!(refused("--service /a").contains("colon"));
    }
}
