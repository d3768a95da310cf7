//! BIRD on a host of a lab, from Debian's package `bird2`. It ends when this is dropped.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::net::Host;
use crate::process::Process;
use crate::{Lab, wait_until};

/// A running BIRD.
pub struct Bird {
    host: Host,
    socket: PathBuf,
    process: Process,
}

impl Drop for Bird {
    fn drop(&mut self) {
        self.process.kill();
    }
}

impl Bird {
    /// Starts it on `host` with this configuration, and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed, or does not answer for so long.
    pub async fn start(lab: &Lab, host: Host, config: &str, patience: Duration) -> Result<Self> {
        let folder = lab.run_dir().join(host.name());
        std::fs::create_dir_all(&folder)?;
        let (file, socket) = (folder.join("bird.conf"), folder.join("bird.ctl"));
        std::fs::write(&file, config)?;
        let spec = lab
            .spec(&format!("{}-bird", host.name()), "/usr/sbin/bird", &host)
            .args(["-f".into(), "-c".into(), file, "-s".into(), socket.clone()]);
        let process = lab.start_process(spec)?;
        let bird = Bird { host, socket, process };
        wait_until("BIRD to answer (Debian package bird2)", patience, async || {
            let said = bird.birdc("show status")?;
            ensure!(said.contains("up and running"), "{said}");
            Ok(())
        })
        .await?;
        Ok(bird)
    }

    /// Where it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What it says to a command.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn birdc(&self, command: &str) -> Result<String> {
        let socket = self.socket.to_str().context("the lab's directory is UTF-8")?;
        self.host.namespace().output("birdc", &["-s", socket, command])
    }
}
