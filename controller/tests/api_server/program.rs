//! The controller as a child process.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// A running controller, killed when it is dropped.
pub(crate) struct Program {
    child: Child,
}

impl Program {
    /// Starts one; what it logs is appended to `log`.
    pub(crate) fn start(kubeconfig: &Path, log: &Path, more: &[&str]) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .context("open the log")?;
        let child = Command::new(env!("CARGO_BIN_EXE_ferrolb-controller"))
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--namespace", crate::world::NAMESPACE, "--log-level", "debug"])
            .args(["--admin-addr", &format!("127.0.0.1:{port}")])
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .context("start the controller")?;
        Ok(Program { child })
    }

    /// Ends it without a warning, as a crash does.
    pub(crate) fn crash(mut self) {
        self.end();
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    fn end(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// A directory of its own, which goes with it.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let name = format!("api-server-{}-{}", name.replace(' ', "-"), std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).context("make a directory")?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
