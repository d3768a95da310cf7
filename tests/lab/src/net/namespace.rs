//! One named network namespace.
//!
//! Names are bind mounts below `/run/netns`, made as `ip netns add` makes them, so `ip netns exec NAME ...` works for
//! whoever debugs. A [`Namespace`] is a handle: dropping it removes nothing, the lab's run directory owns removal.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::interrupt;

/// A handle on a named network namespace; clones share it.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: Arc<str>,
    file: Arc<File>,
}

impl Namespace {
    /// Makes the namespaces called `names`, each with its loopback up and IPv6 duplicate address detection off.
    ///
    /// DAD would hold every address back for a second; the lab hands addresses out itself and knows they are unique.
    pub fn create_all(names: &[String]) -> Result<Vec<Self>> {
        let _leave = interrupt::leave();
        let batch: String = names.iter().map(|name| format!("netns add {name}\n")).collect();
        ip_batch(&mut Command::new("ip"), &batch)?;
        names
            .iter()
            .map(|name| {
                let namespace = Self::open(name)?;
                namespace.sysctl(&[
                    ("net/ipv6/conf/default/accept_dad", "0"),
                    ("net/ipv6/conf/default/dad_transmits", "0"),
                    ("net/ipv6/conf/all/accept_dad", "0"),
                ])?;
                namespace.ip("link set lo up\n")?;
                Ok(namespace)
            })
            .collect()
    }

    /// Brings the loopback interface of the caller's own namespace up.
    pub(crate) fn bring_up_loopback() -> Result<()> {
        ip_batch(&mut Command::new("ip"), "link set lo up\n")
    }

    /// Makes one namespace; see [`Namespace::create_all`].
    pub fn create(name: &str) -> Result<Self> {
        Ok(Self::create_all(&[name.to_owned()])?.remove(0))
    }

    /// Opens the namespace `name` that exists already.
    pub fn open(name: &str) -> Result<Self> {
        let path = format!("/run/netns/{name}");
        let file = File::open(&path).with_context(|| format!("open namespace {path}"))?;
        Ok(Self {
            name: name.into(),
            file: Arc::new(file),
        })
    }

    /// The name, as `ip netns exec` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The descriptor to give to `setns`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs `f` on a fresh thread inside the namespace and returns what it returns.
    ///
    /// Sockets belong to the namespace they are made in, so a socket made by `f` may be used anywhere afterwards; a
    /// thread started by `f` (a tokio runtime's too) stays inside.
    ///
    /// # Errors
    /// When the namespace cannot be entered. A panic of `f` goes on in the caller.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> io::Result<T> {
                setns(self.fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(f())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that will run inside the namespace. For short programs whose output is wanted; use
    /// [`crate::process::Process`] for what keeps running.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = self.file.clone();
        // SAFETY: between fork and exec only setns runs, a bare system call on a descriptor the closure keeps open.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) == 0 {
                    return Ok(());
                }
                Err(io::Error::last_os_error())
            });
        }
        command
    }

    /// Runs a program inside to its end and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started or fails; the error carries its standard error.
    pub fn output<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> Result<String> {
        let output = self
            .command(program)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {program}"))?;
        if !output.status.success() {
            bail!(
                "{program} in {}: {}: {}",
                self.name,
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs lines of the `ip` program inside: what would stand after `ip`, one command a line.
    pub fn ip(&self, batch: &str) -> Result<()> {
        ip_batch(&mut self.command("ip"), batch).with_context(|| format!("in namespace {}", self.name))
    }

    /// Sets kernel parameters of the namespace, named as below `/proc/sys`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                std::fs::write(format!("/proc/sys/{key}"), value)
                    .with_context(|| format!("set {key} to {value} in namespace {}", self.name))?;
            }
            Ok(())
        })?
    }
}

/// Feeds `batch` to `ip -b -`, as `command` starts it.
fn ip_batch(command: &mut Command, batch: &str) -> Result<()> {
    let mut child = command
        .args(["-b", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start the ip program (Debian package iproute2)")?;
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(batch.as_bytes()));
    let output = child.wait_with_output().context("wait for ip")?;
    if !output.status.success() {
        bail!(
            "ip: {}\nbatch:\n{batch}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    written.context("write to ip")
}
