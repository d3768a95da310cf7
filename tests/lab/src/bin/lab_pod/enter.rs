//! The inside of a container: a root file system of its own over the machine's, its volumes, a hostname, a process
//! table, and the program as process 1.
//!
//! The root file system is made by [`root`](crate::root). The network namespace is the caller's business: it is entered
//! before this program starts.
//!
//! The outer half passes signals on, waits, and ends as the program ended. The program dies with the outer half.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, chroot, execvpe, fork, setsid};

use crate::root;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
pub(crate) const NONE: Option<&str> = None;

/// One volume: what is seen where.
#[derive(Debug, PartialEq, Eq)]
struct Bind {
    source: PathBuf,
    target: PathBuf,
    read_only: bool,
}

/// What the container is to look like.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    root: PathBuf,
    layers: Vec<PathBuf>,
    binds: Vec<Bind>,
    env: Vec<String>,
    hostname: Option<String>,
    workdir: Option<PathBuf>,
    command: Vec<String>,
}

impl Plan {
    /// Reads the arguments that follow `enter`.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Self::default();
        while let Some(arg) = args.next() {
            if arg == "--" {
                plan.command = args.by_ref().collect();
                break;
            }
            let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
            match arg.as_str() {
                "--root" => plan.root = value.into(),
                "--layer" => plan.layers.push(value.into()),
                "--bind" => plan.binds.push(parse_bind(&value)?),
                "--env" => plan.env.push(value),
                "--hostname" => plan.hostname = Some(value),
                "--workdir" => plan.workdir = Some(value.into()),
                _ => return Err(format!("unknown flag {arg}")),
            }
        }
        if plan.root.as_os_str().is_empty() || plan.command.is_empty() {
            return Err("enter needs --root and a program after --".into());
        }
        Ok(plan)
    }
}

fn parse_bind(value: &str) -> Result<Bind, String> {
    let (rest, read_only) = value.strip_suffix(":ro").map_or((value, false), |rest| (rest, true));
    let (source, target) = rest
        .split_once(':')
        .ok_or_else(|| format!("--bind {value}: no colon"))?;
    Ok(Bind {
        source: source.into(),
        target: target.into(),
        read_only,
    })
}

/// Makes the container and waits for its program.
pub(crate) fn run(plan: &Plan) -> Result<ExitCode, String> {
    let signals: SigSet = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
    ]
    .into_iter()
    .chain([Signal::SIGCHLD])
    .collect();
    signals.thread_block().map_err(failed("block signals"))?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS)
        .map_err(failed("new mount, process and host name namespaces"))?;
    let parent = nix::unistd::getpid();
    // SAFETY: the program has one thread, so the child may use everything.
    match unsafe { fork() }.map_err(failed("fork"))? {
        ForkResult::Parent { child } => supervise(child, &signals),
        ForkResult::Child => {
            set_pdeathsig(Signal::SIGKILL).map_err(failed("death signal"))?;
            if Path::new(&format!("/proc/{parent}")).exists() {
                signals.thread_unblock().map_err(failed("unblock signals"))?;
                become_program(plan)?;
            }
            Err("the outer half is gone".into())
        }
    }
}

/// Passes signals on to `child` until it ends.
fn supervise(child: Pid, signals: &SigSet) -> Result<ExitCode, String> {
    loop {
        match signals.wait().map_err(failed("wait for a signal"))? {
            Signal::SIGCHLD => match waitpid(child, Some(WaitPidFlag::WNOHANG)).map_err(failed("wait"))? {
                WaitStatus::Exited(_, code) => return Ok(ExitCode::from(code.clamp(0, 255) as u8)),
                WaitStatus::Signaled(_, signal, _) => return Ok(ExitCode::from(128 + signal as u8)),
                _ => {}
            },
            signal => match kill(child, signal) {
                // It has ended: SIGCHLD is on its way.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(format!("pass {signal} on: {error}")),
            },
        }
    }
}

/// Makes the surroundings and executes the program; returns only when something fails.
fn become_program(plan: &Plan) -> Result<(), String> {
    setsid().map_err(failed("new session"))?;
    if let Some(hostname) = &plan.hostname {
        // SAFETY: pointer and length describe the string, which outlives the call.
        let result = unsafe { libc::sethostname(hostname.as_ptr().cast(), hostname.len()) };
        Errno::result(result).map_err(failed("set the host name"))?;
    }
    let root = root::make(&plan.root, &plan.layers)?;
    for bind in &plan.binds {
        bind_volume(&root, bind)?;
    }
    chroot(&root).map_err(failed("enter the root"))?;
    chdir(plan.workdir.as_deref().unwrap_or(Path::new("/"))).map_err(failed("enter the working directory"))?;
    let path = plan
        .env
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    // execvpe searches the caller's PATH, not the one it is given.
    // SAFETY: one thread, nobody else reads the environment.
    unsafe { std::env::set_var("PATH", path) };
    let mut env = vec![c_string(&format!("PATH={path}"))?];
    for variable in plan.env.iter().filter(|variable| !variable.starts_with("PATH=")) {
        env.push(c_string(variable)?);
    }
    let command = plan
        .command
        .iter()
        .map(|word| c_string(word))
        .collect::<Result<Vec<_>, _>>()?;
    execvpe(&command[0], &command, &env).map_err(failed(&format!("execute {}", plan.command[0])))?;
    Ok(())
}

fn bind_volume(root: &Path, bind: &Bind) -> Result<(), String> {
    let target = root.join(bind.target.strip_prefix("/").unwrap_or(&bind.target));
    let describe = |error: std::io::Error| format!("mount point {}: {error}", bind.target.display());
    if !target.exists() {
        if bind.source.is_dir() {
            fs::create_dir_all(&target).map_err(describe)?;
        } else {
            fs::create_dir_all(target.parent().unwrap_or(root)).map_err(describe)?;
            fs::write(&target, "").map_err(describe)?;
        }
    }
    let what = format!("bind {} on {}", bind.source.display(), bind.target.display());
    mount(
        Some(&bind.source),
        &target,
        NONE,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NONE,
    )
    .map_err(failed(&what))?;
    if bind.read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(NONE, &target, NONE, flags, NONE).map_err(failed(&what))?;
    }
    Ok(())
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?} contains a zero byte"))
}

pub(crate) fn failed(what: &str) -> impl FnOnce(Errno) -> String {
    let what = what.to_owned();
    move |error| format!("{what}: {error}")
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
            "--root /pod --layer /image --bind /a:/b:ro --bind /c:/d --env A=1 --hostname web-0 -- nginx -g --root",
        ))
        .unwrap();
        assert_eq!(plan.root, Path::new("/pod"));
        assert_eq!(plan.layers, [Path::new("/image")]);
        assert_eq!(
            plan.binds[0],
            Bind {
                source: "/a".into(),
                target: "/b".into(),
                read_only: true
            }
        );
        assert_eq!(
            plan.binds[1],
            Bind {
                source: "/c".into(),
                target: "/d".into(),
                read_only: false
            }
        );
        assert_eq!(plan.hostname.as_deref(), Some("web-0"));
        assert_eq!(plan.command, ["nginx", "-g", "--root"]);
    }

    #[test]
    fn a_plan_without_root_or_program_is_refused() {
        assert!(Plan::parse(words("--root /pod")).is_err());
        assert!(Plan::parse(words("-- nginx")).is_err());
        assert!(
            Plan::parse(words("--colour red -- nginx"))
                .unwrap_err()
                .contains("--colour")
        );
    }
}
