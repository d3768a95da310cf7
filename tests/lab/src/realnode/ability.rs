//! Whether this machine can run nodes with a real kubelet, and if not, why.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{cgroups, disk, files::PLUGINS};
use crate::privilege;

/// What has to be installed, with the Debian package it comes from.
const PROGRAMS: [(&str, &str); 3] = [("containerd", "containerd"), ("ctr", "containerd"), ("runc", "runc")];

/// The reason why this machine cannot run real nodes; `None` when it can.
pub fn why_not() -> Option<String> {
    look().err().map(|error| format!("{error:#}"))
}

fn look() -> Result<()> {
    ensure!(
        privilege::is_able_root() && !privilege::in_user_namespace(),
        "a container runtime needs root"
    );
    for (program, package) in PROGRAMS {
        ensure!(
            Command::new(program).arg("--version").output().is_ok(),
            "there is no {program}: apt-get install {package}"
        );
    }
    ensure!(
        Path::new(PLUGINS).join("bridge").is_file(),
        "there are no network plugins in {PLUGINS}: apt-get install containernetworking-plugins"
    );
    cgroups::try_out().context("cgroups cannot be made")?;
    try_overlay().context("containers' file systems cannot be mounted")
}

/// Mounts an overlay where the nodes' disks would be, in a mount namespace that goes with its thread.
fn try_overlay() -> Result<()> {
    let directory = disk(&format!("trial-{}", std::process::id()));
    let [lower, upper, work, point] = ["lower", "upper", "work", "point"].map(|name| directory.join(name));
    for path in [&lower, &upper, &work, &point] {
        fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let tried = std::thread::scope(|scope| {
        let attempt = || -> nix::Result<()> {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            let overlay = Some("overlay");
            mount(overlay, &point, overlay, MsFlags::empty(), Some(options.as_str()))
        };
        scope.spawn(attempt).join()
    });
    fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
    match tried {
        Ok(outcome) => outcome.with_context(|| format!("an overlay in {}", directory.display())),
        Err(_) => bail!("the attempt has panicked"),
    }
}
