//! FRR on a host of a lab, from Debian's package `frr`.
//!
//! Its daemons keep their files in a directory of their own below the lab's, and end when this is dropped. The kernel of
//! the host's namespace forwards, over all next hops of a route, once there is a network [behind](Lab::behind) it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{User, chown};
use serde_json::Value;

use crate::net::{Host, Namespace};
use crate::process::Process;
use crate::{Lab, wait_until};

const LIBRARY: &str = "/usr/lib/frr";

/// An FRR.
pub struct Frr {
    host: Host,
    folder: PathBuf,
    daemons: Vec<Process>,
}

impl Drop for Frr {
    fn drop(&mut self) {
        self.daemons.iter().for_each(Process::kill);
    }
}

impl Frr {
    /// On a new host of the lab's LAN, see [`Lab::add_host`]; nothing runs yet.
    ///
    /// # Errors
    /// When the host cannot be made, or FRR is not installed.
    pub fn add(lab: &Lab, name: &str, number: u8) -> Result<Self> {
        let host = lab.add_host(name, number)?;
        let folder = lab.run_dir().join(name);
        std::fs::create_dir(&folder)?;
        // The daemons give up root.
        let user = User::from_name("frr")?.context("there is no user frr (Debian package frr)")?;
        chown(&folder, Some(user.uid), Some(user.gid))?;
        Ok(Frr {
            host,
            folder,
            daemons: Vec::new(),
        })
    }

    /// Where it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Starts a daemon and waits until it answers; zebra before those that hand it routes.
    ///
    /// # Errors
    /// When it does not start, or does not answer for so long.
    pub async fn start(
        &mut self,
        lab: &Lab,
        daemon: &str,
        config: &str,
        args: &[&str],
        patience: Duration,
    ) -> Result<()> {
        let file = |end: &str| self.folder.join(format!("{daemon}.{end}")).into_os_string();
        std::fs::write(file("conf"), config)?;
        let mut spec = lab
            .spec(
                &format!("{}-{daemon}", self.host.name()),
                format!("{LIBRARY}/{daemon}"),
                &self.host,
            )
            .args(["-A", "127.0.0.1", "-P", "0", "--log", "stdout", "--vty_socket"])
            .args([&self.folder])
            .args(["-f".into(), file("conf"), "-i".into(), file("pid"), "-z".into()])
            .args([self.folder.join("zserv.api")]);
        if daemon == "bfdd" {
            spec = spec.args(["--bfdctl".into(), self.folder.join("bfdd.sock")]);
        }
        self.daemons.push(lab.start_process(spec.args(args))?);
        wait_until(
            &format!("{daemon} to answer (Debian package frr)"),
            patience,
            async || self.vtysh(daemon, &["show version"]).map(drop),
        )
        .await
    }

    /// A daemon that was started.
    pub fn daemon(&self, daemon: &str) -> Option<&Process> {
        let name = format!("{}-{daemon}", self.host.name());
        self.daemons.iter().find(|process| process.name() == name)
    }

    /// Kills a daemon if it runs, so that it can be started with another configuration.
    pub fn forget(&mut self, daemon: &str) {
        let name = format!("{}-{daemon}", self.host.name());
        self.daemons.retain(|process| process.name() != name);
        for end in ["vty", "pid"] {
            // What a killed daemon leaves behind; one that has ended has taken it along.
            let _ = std::fs::remove_file(self.folder.join(format!("{daemon}.{end}")));
        }
    }

    /// What a daemon says to commands.
    ///
    /// # Errors
    /// When it does not answer, or takes one of them for wrong.
    pub fn vtysh(&self, daemon: &str, commands: &[&str]) -> Result<String> {
        let folder = self.folder.to_str().context("the lab's directory is UTF-8")?;
        let mut args = vec!["--vty_socket", folder, "-d", daemon];
        for command in commands {
            args.extend(["-c", command]);
        }
        self.host.namespace().output("vtysh", &args)
    }

    /// What a daemon says to a command that ends in `json`.
    ///
    /// # Errors
    /// When it does not answer in JSON.
    pub fn json(&self, daemon: &str, command: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.vtysh(daemon, &[command])?)?)
    }

    /// See [`Lab::behind`].
    ///
    /// # Errors
    /// When a link, an address or a route cannot be made.
    pub fn behind(&self, lab: &Lab, number: u8) -> Result<Namespace> {
        lab.behind(&self.host, number)
    }
}
