//! A container's root file system: the machine's programs, writable without a trace.
//!
//! A tmpfs holds the root. Each directory of the machine's `/` appears in it as an overlay whose writes stay in that
//! tmpfs, with the image's files already in. So two nginx on one machine neither share `/run/nginx.pid` nor leave
//! anything behind.
//!
//! One overlay per directory rather than one over `/`: in a user namespace the kernel refuses an overlay over a tree
//! with mounts of the outer namespace beneath, as `/` has (`/proc`, `/dev`). What it still refuses is bound as it is.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::enter::{NONE, failed};

/// What every container has for itself, empty and writable for all.
const OWN: [&str; 2] = ["run", "tmp"];

/// Makes the root below `directory` with the files of `layers`, and returns it. The caller is in a mount namespace and
/// a process namespace of its own.
pub(crate) fn make(directory: &Path, layers: &[PathBuf]) -> Result<PathBuf, String> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(failed("make mounts private"))?;
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("read mountinfo: {error}"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), directory, Some("tmpfs"), flags, NONE).map_err(failed("mount the root's tmpfs"))?;
    let tree = Tree {
        upper: directory.join("upper"),
        work: directory.join("work"),
        root: directory.join("root"),
        mounts: mounts_on_root(&mountinfo),
    };
    tree.fill(layers).map_err(|error| format!("make the root: {error}"))?;
    let proc = tree.root.join("proc");
    mount(Some("proc"), &proc, Some("proc"), flags | MsFlags::MS_NOEXEC, NONE).map_err(failed("mount /proc"))?;
    Ok(tree.root)
}

struct Tree {
    upper: PathBuf,
    work: PathBuf,
    root: PathBuf,
    /// The machine's mount points directly on its root.
    mounts: Vec<String>,
}

impl Tree {
    fn fill(&self, layers: &[PathBuf]) -> io::Result<()> {
        for directory in [&self.upper, &self.work, &self.root] {
            fs::create_dir(directory)?;
        }
        for layer in layers {
            copy_tree(layer, &self.upper)?;
        }
        for name in OWN {
            let own = self.root.join(name);
            fs::create_dir(&own)?;
            fs::set_permissions(own, fs::Permissions::from_mode(0o1777))?;
        }
        for entry in fs::read_dir("/")? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                symlink(fs::read_link(entry.path())?, self.root.join(&name))?;
            } else if kind.is_dir() && !OWN.contains(&name.as_str()) {
                self.show(&name)?;
            }
        }
        // What the image has and the machine has not.
        for entry in fs::read_dir(&self.upper)? {
            let entry = entry?;
            let target = self.root.join(entry.file_name());
            if !target.exists() {
                fs::rename(entry.path(), target)?;
            }
        }
        Ok(())
    }

    /// Shows the machine's directory `/name` in the root.
    fn show(&self, name: &str) -> io::Result<()> {
        let [upper, work, target] = [&self.upper, &self.work, &self.root].map(|parent| parent.join(name));
        fs::create_dir(&target)?;
        let source = format!("/{name}");
        if name == "proc" {
            return Ok(());
        }
        if self.mounts.contains(&source) {
            return bind(&source, &target);
        }
        fs::create_dir_all(&upper)?;
        fs::create_dir(&work)?;
        let options = format!(
            "lowerdir={source},upperdir={},workdir={}",
            upper.display(),
            work.display()
        );
        let overlay = Some("overlay");
        if mount(overlay, &target, overlay, MsFlags::empty(), Some(options.as_str())).is_err() {
            return bind(&source, &target);
        }
        for point in self.mounts.iter().filter(|point| Path::new(point).starts_with(&source)) {
            bind(point, &self.root.join(point.trim_start_matches('/')))?;
        }
        Ok(())
    }
}

fn bind(source: &str, target: &Path) -> io::Result<()> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    Ok(())
}

/// Copies what is in `from` into `to`: directories and plain files.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// The mount points that lie directly on the root mount, from the text of mountinfo (proc_pid_mountinfo(5)).
fn mounts_on_root(mountinfo: &str) -> Vec<String> {
    let mounts: Vec<(&str, &str, &str)> = mountinfo
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (id, parent) = (fields.next()?, fields.next()?);
            Some((id, parent, fields.nth(2)?))
        })
        .collect();
    // The last one mounted on "/" is the one that is seen.
    let root = mounts
        .iter()
        .rev()
        .find(|(_, _, point)| *point == "/")
        .map_or("", |(id, _, _)| *id);
    let on_root = mounts
        .iter()
        .filter(|(id, parent, point)| *parent == root && *id != root && *point != "/");
    on_root.map(|(_, _, point)| unescape(point)).collect()
}

/// Undoes the octal escapes of mountinfo for space, tab, newline and backslash.
fn unescape(point: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(point.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_on_the_visible_root_are_taken() {
        let info = "1 0 8:1 / / rw - ext4 a rw\n\
                    2 1 0:2 / /proc rw - proc proc rw\n\
                    3 2 0:3 / /proc/x rw - proc proc rw\n\
                    4 1 0:4 / /with\\040space rw - tmpfs t rw\n";
        assert_eq!(mounts_on_root(info), ["/proc", "/with space"]);
    }
}
