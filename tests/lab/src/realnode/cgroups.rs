//! The cgroups of a lab's nodes: one for each node in each hierarchy, and all that is made below it.
//!
//! Of version 1 every hierarchy with controllers is used, below the lab's own place in it. Where there is only version 2, the
//! place is the top of what can be seen: a cgroup that holds processes, as the lab's own does, can have no children with
//! controllers (cgroups(7), "no internal processes").
//!
//! What is made is written down in the lab's run directory first, so that it is found when the lab was killed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The file of the run directory that names what was made, a directory a line.
const NOTES: &str = "cgroups";
/// How long processes may take to die.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes the cgroups of a node.
pub(super) fn make(run_dir: &Path, node: &str) -> Result<Vec<PathBuf>> {
    let id = run_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    make_below(run_dir, &top(&id), node)
}

/// What the cgroups of the lab of that number are called.
fn top(id: &str) -> String {
    format!("ferrolb-lab-{id}")
}

/// Where the cgroups of the lab of that number are, if they are made by a process in this one's place.
pub(super) fn tops(id: &str) -> Result<Vec<PathBuf>> {
    Ok(own_places()?
        .into_iter()
        .map(|place| place.path.join(top(id)))
        .collect())
}

fn own_places() -> Result<Vec<Place>> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
    Ok(places(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?))
}

/// Kills whatever runs in the cgroups of the lab with this run directory, and removes them.
///
/// # Errors
/// When something will not die, or when the directories cannot be removed.
pub(crate) fn remove(run_dir: &Path) -> Result<()> {
    let notes = fs::read_to_string(run_dir.join(NOTES)).unwrap_or_default();
    let tops: Vec<&Path> = notes.lines().map(Path::new).collect();
    let start = Instant::now();
    loop {
        let left: Vec<_> = tops.iter().filter_map(|top| remove_tree(top).err()).collect();
        match left.first() {
            None => return Ok(()),
            Some(error) if start.elapsed() > PATIENCE => bail!("a cgroup is still in use: {error}"),
            Some(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// The processes in a cgroup and in all below it.
pub(super) fn members_below(top: &Path) -> Vec<i32> {
    let below = children(top).into_iter().flat_map(|child| members_below(&child));
    members(top).into_iter().chain(below).collect()
}

/// One attempt at making a node's cgroup what it was when it was made: nothing below it, and room for processes.
pub(super) fn empty(top: &Path) -> Result<()> {
    let removed = children(top).into_iter().try_for_each(|child| remove_tree(&child));
    removed.map_err(anyhow::Error::msg)?;
    let handed_out = top.join("cgroup.subtree_control");
    let Ok(controllers) = fs::read_to_string(&handed_out) else {
        return Ok(());
    };
    let all: Vec<String> = controllers.split_whitespace().map(|name| format!("-{name}")).collect();
    fs::write(&handed_out, all.join(" ")).with_context(|| format!("write {}", handed_out.display()))
}

/// Whether cgroups can be made on this machine: makes one in each hierarchy and removes it.
pub(super) fn try_out() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("ferrolb-lab-cgroups-{}", std::process::id()));
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let name = format!("ferrolb-lab-trial-{}", std::process::id());
    let made = make_below(&directory, &name, "node").map(drop);
    let removed = remove(&directory);
    fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
    made.and(removed)
}

fn make_below(run_dir: &Path, top: &str, node: &str) -> Result<Vec<PathBuf>> {
    let places = own_places()?;
    if places.is_empty() {
        bail!("no cgroup hierarchy is mounted");
    }
    let notes = run_dir.join(NOTES);
    let mut notes = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&notes)
        .with_context(|| format!("open {}", notes.display()))?;
    let mut made = Vec::new();
    for place in places {
        let top = place.path.join(top);
        writeln!(notes, "{}", top.display()).context("write down a cgroup")?;
        let node = top.join(node);
        for directory in [&top, &node] {
            place
                .make(directory)
                .with_context(|| format!("make the cgroup {}", directory.display()))?;
        }
        made.push(node);
    }
    Ok(made)
}

/// Where cgroups are made in one hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Version 1, with the controller `cpuset` or without.
    V1 {
        cpuset: bool,
    },
    V2,
}

impl Place {
    fn make(&self, directory: &Path) -> io::Result<()> {
        let parent = directory.parent().unwrap_or(&self.path);
        if self.kind == Kind::V2 {
            let controllers = fs::read_to_string(parent.join("cgroup.controllers"))?;
            let all: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
            fs::write(parent.join("cgroup.subtree_control"), all.join(" "))?;
        }
        if !directory.exists() {
            fs::create_dir(directory)?;
        }
        if self.kind == (Kind::V1 { cpuset: true }) {
            // A new one is empty, and nothing can be moved into it.
            for name in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(directory.join(name), fs::read(parent.join(name))?)?;
            }
        }
        Ok(())
    }
}

/// The places, from the texts of mountinfo (proc_pid_mountinfo(5)) and of `/proc/self/cgroup` (cgroups(7)).
fn places(mountinfo: &str, own: &str) -> Vec<Place> {
    let found = mountinfo.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut words = place.split(' ').skip(3);
        let (root, point) = (words.next()?, PathBuf::from(words.next()?));
        let mut words = kind.split(' ');
        match (words.next()?, words.nth(1)?) {
            ("cgroup2", _) => Some(Place {
                path: point,
                kind: Kind::V2,
            }),
            ("cgroup", options) => {
                let options: Vec<&str> = options.split(',').collect();
                let path = own_place(own, &options).and_then(|path| path.strip_prefix(root).ok());
                let cpuset = options.contains(&"cpuset");
                Some(Place {
                    path: point.join(path.unwrap_or(Path::new(""))),
                    kind: Kind::V1 { cpuset },
                })
            }
            _ => None,
        }
    });
    let mut all: Vec<Place> = found.collect();
    if all.iter().any(|place| place.kind != Kind::V2) {
        all.retain(|place| place.kind != Kind::V2);
    }
    all
}

/// The path of this process in the hierarchy that is mounted with these options.
fn own_place<'a>(own: &'a str, options: &[&str]) -> Option<&'a Path> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let ours = controllers.split(',').any(|controller| options.contains(&controller));
        ours.then_some(Path::new(path))
    })
}

/// One attempt at killing what is inside and removing it, from below.
fn remove_tree(directory: &Path) -> Result<(), String> {
    let below: Vec<_> = children(directory).iter().map(|child| remove_tree(child)).collect();
    for pid in members(directory) {
        // It may have ended in the meantime.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    below.into_iter().collect::<Result<(), String>>()?;
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", directory.display())),
        _ => Ok(()),
    }
}

/// The cgroups in a cgroup; none when it is not there.
fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// The processes in a cgroup.
fn members(directory: &Path) -> Vec<i32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    // Zero is one that cannot be seen from here.
    text.lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_v1_are_below_the_labs_own() {
        let mounts = "2 1 0:2 / /c/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      3 1 0:3 /box /c/cpuset rw - cgroup cgroup rw,cpuset\n\
                      4 1 0:4 / /c/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                      5 1 0:5 / /c/unified rw - cgroup2 cgroup2 rw\n";
        let own = "4:name=systemd:/\n3:cpuset:/box/a\n2:cpu,cpuacct:/b\n0::/x\n";
        let place = |path: &str, cpuset| Place {
            path: path.into(),
            kind: Kind::V1 { cpuset },
        };
        let expected = [
            place("/c/cpu,cpuacct/b", false),
            place("/c/cpuset/a", true),
            place("/c/systemd/", false),
        ];
        assert_eq!(places(mounts, own), expected);
    }

    #[test]
    fn the_place_of_v2_is_the_top() {
        let mounts = "4 1 0:4 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let expected = [Place {
            path: "/sys/fs/cgroup".into(),
            kind: Kind::V2,
        }];
        assert_eq!(places(mounts, "0::/user.slice/x\n"), expected);
    }
}
