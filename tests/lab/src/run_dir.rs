//! The run directory of a lab: its identity, its lock, and the removal of everything that belongs to it.
//!
//! `/run/ferrolb-lab/<id>/` holds a lock file for as long as its owner lives; the kernel lets go of the lock however the
//! owner ends. Whoever makes a lab first sweeps: a directory whose lock is free belongs to a lab that was killed, and
//! its processes, cgroups, namespaces, files and disks go. A lock around making and sweeping keeps a directory that is just being made
//! from looking abandoned.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{interrupt, privilege, realnode};

const NAMESPACES: &str = "/run/netns";

/// Run directories this program holds, for [`remove_all`].
static HELD: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A lab's identity and run directory; dropping it removes the lab's namespaces and files.
#[derive(Debug)]
pub struct RunDir {
    id: u32,
    path: PathBuf,
    _lock: Flock<File>,
}

impl RunDir {
    /// Sweeps what dead labs have left and takes the lowest free id.
    pub fn create() -> Result<Self> {
        privilege::acquire()?;
        let _leave = interrupt::leave();
        let root = privilege::run_root();
        let _guard = guard(&root)?;
        sweep_locked(&root)?;
        for id in 1..10_000 {
            let path = root.join(id.to_string());
            if path.exists() {
                continue;
            }
            fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
            let lock = lock(&path.join("lock"), FlockArg::LockExclusiveNonblock)?;
            fs::write(path.join("pid"), std::process::id().to_string()).context("write pid file")?;
            HELD.lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .push(path.clone());
            return Ok(Self { id, path, _lock: lock });
        }
        bail!("{} is full of labs", root.display())
    }

    /// The lab's number, unique among those that live on this machine.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What the names of the lab's namespaces begin with: `flb<id>-`.
    pub fn prefix(&self) -> String {
        prefix(self.id)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let mut held = HELD.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        held.retain(|path| *path != self.path);
        if let Err(error) = remove(&self.path) {
            eprintln!("lab {}: {error:#}", self.id);
        }
    }
}

/// One lab that lives, as [`list`] finds it.
#[derive(Debug, Clone)]
pub struct Living {
    /// Its number.
    pub id: u32,
    /// The process that owns it.
    pub pid: Option<i32>,
    /// Its run directory.
    pub path: PathBuf,
}

/// Removes what killed labs have left behind; living ones are not touched.
pub fn sweep() -> Result<()> {
    let root = privilege::run_root();
    let _guard = guard(&root)?;
    sweep_locked(&root)
}

/// The labs whose owners live.
pub fn list() -> Result<Vec<Living>> {
    let root = privilege::run_root();
    let _guard = guard(&root)?;
    let mut living = Vec::new();
    for (id, path) in directories(&root)? {
        if lock(&path.join("lock"), FlockArg::LockExclusiveNonblock).is_err() {
            let pid = fs::read_to_string(path.join("pid"))
                .ok()
                .and_then(|pid| pid.trim().parse().ok());
            living.push(Living { id, pid, path });
        }
    }
    living.sort_by_key(|lab| lab.id);
    Ok(living)
}

/// Removes every lab of this program; for an interrupted one, whose owners will not be dropped.
pub(crate) fn remove_all() {
    let held = std::mem::take(&mut *HELD.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    for path in held {
        if let Err(error) = remove(&path) {
            eprintln!("lab {}: {error:#}", path.display());
        }
    }
}

fn prefix(id: u32) -> String {
    format!("flb{id}-")
}

/// The id in a namespace's name, if the name is one of ours.
fn id_of_namespace(name: &str) -> Option<u32> {
    name.strip_prefix("flb")?.split_once('-')?.0.parse().ok()
}

fn lock(path: &Path, how: FlockArg) -> Result<Flock<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    Flock::lock(file, how)
        .map_err(|(_, error)| error)
        .with_context(|| format!("lock {}", path.display()))
}

fn guard(root: &Path) -> Result<Flock<File>> {
    fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
    lock(&root.join("lock"), FlockArg::LockExclusive)
}

fn directories(root: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let entries = fs::read_dir(root).with_context(|| format!("read {}", root.display()))?;
    Ok(entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))
        })
        .collect())
}

/// The names of the namespaces that are this user's to remove: none for who is not root and outside of his own
/// namespace, because his labs take theirs with them.
fn namespaces() -> Vec<String> {
    if !privilege::rules_namespaces() {
        return Vec::new();
    }
    let entries = fs::read_dir(NAMESPACES).into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

fn sweep_locked(root: &Path) -> Result<()> {
    let mut living = HashSet::new();
    for (id, path) in directories(root)? {
        match lock(&path.join("lock"), FlockArg::LockExclusiveNonblock) {
            Ok(_free) => remove(&path)?,
            Err(_) => {
                living.insert(id);
            }
        }
    }
    // A directory is made before the first namespace and goes after the last, so these have no owner.
    let orphans: Vec<String> = namespaces()
        .into_iter()
        .filter(|name| id_of_namespace(name).is_some_and(|id| !living.contains(&id)))
        .collect();
    remove_namespaces(&orphans);
    if !privilege::in_user_namespace() {
        let disks = realnode::labs_with_disks();
        disks.difference(&living).try_for_each(|id| remove_disk(*id))?;
    }
    Ok(())
}

/// Ends the processes of the lab at `path`, removes its cgroups and namespaces, then its files.
fn remove(path: &Path) -> Result<()> {
    let id: Option<u32> = path
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.parse().ok());
    let id = id.with_context(|| format!("{} is no run directory", path.display()))?;
    let names: Vec<String> = namespaces()
        .into_iter()
        .filter(|name| name.starts_with(&prefix(id)))
        .collect();
    let inodes: HashSet<u64> = names
        .iter()
        .filter_map(|name| Some(fs::metadata(format!("{NAMESPACES}/{name}")).ok()?.ino()))
        .collect();
    kill_processes(&inodes);
    realnode::cgroups::remove(path)?;
    remove_namespaces(&names);
    if !privilege::in_user_namespace() {
        remove_disk(id)?;
    }
    fs::remove_dir_all(path).with_context(|| format!("remove {}", path.display()))
}

/// Removes what the nodes of the lab of that number had on their disks.
fn remove_disk(id: u32) -> Result<()> {
    let disk = realnode::disk(&id.to_string());
    match fs::remove_dir_all(&disk) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", disk.display()))
        }
        _ => Ok(()),
    }
}

/// Kills whatever runs in one of the lab's namespaces.
fn kill_processes(namespaces: &HashSet<u64>) {
    let own = std::process::id();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let inside = || fs::metadata(entry.path().join("ns/net")).is_ok_and(|meta| namespaces.contains(&meta.ino()));
        if pid != own && inside() {
            // It may have ended in the meantime.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

fn remove_namespaces(names: &[String]) {
    for name in names {
        let path = format!("{NAMESPACES}/{name}");
        // A name without a mount is what a killed `ip netns add` leaves.
        let _ = umount2(path.as_str(), MntFlags::MNT_DETACH);
        if let Err(error) = fs::remove_file(&path) {
            eprintln!("remove namespace {name}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_have_an_id() {
        for (name, id) in [
            ("flb1-cp", Some(1)),
            ("flb12-node-1-2b638e95", Some(12)),
            ("flb-cp", None),
            ("flbx-cp", None),
            ("flb1", None),
            ("other", None),
        ] {
            assert_eq!(id_of_namespace(name), id, "{name}");
        }
        assert_eq!(id_of_namespace(&format!("{}lan", prefix(4711))), Some(4711));
    }
}
