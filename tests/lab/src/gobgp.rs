//! GoBGP on a host of a lab, from Debian's package `gobgpd`. It ends when this is dropped, and leaves the kernel's routes alone.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::net::Host;
use crate::process::Process;
use crate::{Lab, wait_until};

/// Where it listens for the command line, in the host's namespace.
const API: &str = "127.0.0.1:50051";

/// A running GoBGP.
pub struct Gobgp {
    host: Host,
    process: Process,
}

impl Drop for Gobgp {
    fn drop(&mut self) {
        self.process.kill();
    }
}

impl Gobgp {
    /// Starts it on `host` with this configuration in TOML, and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed, or does not answer for so long.
    pub async fn start(lab: &Lab, host: Host, config: &str, patience: Duration) -> Result<Self> {
        let folder = lab.run_dir().join(host.name());
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("gobgpd.toml");
        std::fs::write(&file, config)?;
        let spec = lab
            .spec(&format!("{}-gobgpd", host.name()), "/usr/bin/gobgpd", &host)
            .args(["-t", "toml", "--api-hosts", API, "-f"])
            .args([file]);
        let process = lab.start_process(spec)?;
        let gobgp = Gobgp { host, process };
        wait_until("GoBGP to answer (Debian package gobgpd)", patience, async || {
            gobgp.json(&["neighbor"]).map(drop)
        })
        .await?;
        Ok(gobgp)
    }

    /// Where it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What it says to a command.
    ///
    /// # Errors
    /// When it does not answer in JSON.
    pub fn json(&self, command: &[&str]) -> Result<Value> {
        let said = self.host.namespace().output("gobgp", &[&["-j"], command].concat())?;
        serde_json::from_str(&said).with_context(|| format!("{command:?}: {said}"))
    }
}
