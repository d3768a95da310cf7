//! The root file system of a machine that is a node.
//!
//! A tmpfs, gone with the power, in which the outside shows only through what is named here: its programs and libraries
//! read-only, its devices, and the directories that the plan shares. `/etc` is the machine's own; `/var` lies on its disk. The
//! cgroup hierarchies are mounted again, because those of the outside show more than the machine's part.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::enter::{NONE, failed};
use crate::machine::Plan;

/// Directories of programs and libraries; on most systems all but the first are links into it.
const PROGRAMS: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// What of the outside's `/etc` programs need to run at all.
const ETC_FILES: [&str; 8] = [
    "group",
    "ld.so.cache",
    "ld.so.conf",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "protocols",
    "services",
];
const ETC_DIRECTORIES: [&str; 2] = ["alternatives", "ld.so.conf.d"];
/// What a kubelet would set for the whole machine outside, with the values it wants. It is shown files that have them.
const KERNEL: [(&str, &str); 6] = [
    ("kernel/keys/root_maxbytes", "25000000"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
];

/// Makes the root on the plan's directory. The caller is in new mount, process and cgroup namespaces.
pub(crate) fn make(plan: &Plan) -> Result<(), String> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(failed("make mounts private"))?;
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("read mountinfo: {error}"))?;
    let options = Some("mode=755");
    mount(Some("tmpfs"), &plan.root, Some("tmpfs"), MsFlags::empty(), options).map_err(failed("mount the root"))?;
    fill(plan, &hierarchies(&mountinfo)).map_err(|error| format!("make the root: {error}"))
}

fn fill(plan: &Plan, hierarchies: &[Hierarchy]) -> io::Result<()> {
    let root = &plan.root;
    for name in ["dev", "etc", "proc", "root", "run", "sys", "tmp", "var"] {
        fs::create_dir(root.join(name))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    for name in PROGRAMS {
        let source = Path::new("/").join(name);
        if source.is_symlink() {
            symlink(fs::read_link(&source)?, root.join(name))?;
        } else if source.is_dir() {
            show(&source, root)?;
        }
    }
    fill_etc(&root.join("etc"), &plan.hostname)?;
    let var = root.join("var");
    for name in ["lib", "log", "tmp"] {
        fs::create_dir_all(plan.disk.join(name))?;
    }
    bind(&plan.disk, &var)?;
    bind(Path::new("/dev"), &root.join("dev"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), &root.join("proc"), Some("proc"), flags, NONE)?;
    mount(Some("sysfs"), &root.join("sys"), Some("sysfs"), flags, NONE)?;
    mount_cgroups(root, hierarchies)?;
    for path in &plan.shared {
        show(path, root)?;
    }
    for (name, value) in KERNEL {
        let (setting, shown) = (root.join("proc/sys").join(name), root.join("run/sysctl").join(name));
        if setting.exists() {
            fs::create_dir_all(shown.parent().unwrap_or(root))?;
            fs::write(&shown, format!("{value}\n"))?;
            bind(&shown, &setting)?;
        }
    }
    Ok(())
}

fn fill_etc(etc: &Path, hostname: &str) -> io::Result<()> {
    let outside = Path::new("/etc");
    for name in ETC_FILES {
        if outside.join(name).is_file() {
            fs::copy(outside.join(name), etc.join(name))?;
        }
    }
    for name in ETC_DIRECTORIES {
        if outside.join(name).is_dir() {
            fs::create_dir(etc.join(name))?;
            bind(&outside.join(name), &etc.join(name))?;
        }
    }
    fs::write(etc.join("hostname"), format!("{hostname}\n"))?;
    fs::write(etc.join("hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    fs::write(etc.join("resolv.conf"), "")?;
    // 32 hexadecimal digits, other ones for each machine (machine-id(5)).
    let id: String = hostname.bytes().map(|byte| format!("{byte:02x}")).collect();
    fs::write(etc.join("machine-id"), format!("{:0>32}\n", &id[..id.len().min(32)]))
}

/// Shows what is at `path` at the same path below `root`, read-only.
fn show(path: &Path, root: &Path) -> io::Result<()> {
    let target = root.join(path.strip_prefix("/").unwrap_or(path));
    if path.is_dir() {
        fs::create_dir_all(&target)?;
    } else {
        fs::create_dir_all(target.parent().unwrap_or(root))?;
        fs::write(&target, "")?;
    }
    bind(path, &target)?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(NONE, &target, NONE, flags, NONE)?;
    Ok(())
}

fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    Ok(())
}

/// A cgroup hierarchy that is mounted outside.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Where.
    point: PathBuf,
    /// The controllers or the name that it is mounted by; `None` for cgroup v2.
    v1: Option<String>,
}

/// The hierarchies that have controllers, from the text of mountinfo (proc_pid_mountinfo(5)). Where there are some of v1, the
/// one of v2 has none.
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let found = mountinfo.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let point = PathBuf::from(place.split(' ').nth(4)?);
        let mut words = kind.split(' ');
        match (words.next()?, words.nth(1)?) {
            ("cgroup2", _) => Some(Hierarchy { point, v1: None }),
            ("cgroup", options) => {
                let own = options.split(',').filter(|option| {
                    let other = ["rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode"];
                    !other.contains(option) && !option.starts_with("release_agent=")
                });
                let v1 = Some(own.collect::<Vec<_>>().join(","));
                Some(Hierarchy { point, v1 })
            }
            _ => None,
        }
    });
    let mut all: Vec<Hierarchy> = found.collect();
    if all.iter().any(|hierarchy| hierarchy.v1.is_some()) {
        all.retain(|hierarchy| hierarchy.v1.is_some());
    }
    all
}

fn mount_cgroups(root: &Path, hierarchies: &[Hierarchy]) -> io::Result<()> {
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if hierarchies.iter().any(|hierarchy| hierarchy.v1.is_some()) {
        let (tmpfs, point) = (Some("tmpfs"), root.join("sys/fs/cgroup"));
        mount(tmpfs, &point, tmpfs, flags, Some("mode=755"))?;
    }
    for Hierarchy { point, v1 } in hierarchies {
        let target = inside(point);
        fs::create_dir_all(&target)?;
        let Some(controllers) = v1 else {
            mount(Some("cgroup2"), &target, Some("cgroup2"), flags, NONE)?;
            continue;
        };
        let options = Some(controllers.as_str());
        mount(Some("cgroup"), &target, Some("cgroup"), flags, options)?;
        // Several in one: each is found under its own name, too.
        for name in controllers.split(',') {
            let link = target.with_file_name(name.trim_start_matches("name="));
            if !link.exists() {
                symlink(target.file_name().unwrap_or_default(), link)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(point: &str, v1: Option<&str>) -> Hierarchy {
        Hierarchy {
            point: point.into(),
            v1: v1.map(str::to_owned),
        }
    }

    #[test]
    fn hierarchies_of_v1_hide_that_of_v2() {
        let text = "1 0 0:1 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    2 1 0:2 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:1 - cgroup cgroup rw,cpu,cpuacct\n\
                    3 1 0:3 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
                    4 1 0:4 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let expected = [
            hierarchy("/sys/fs/cgroup/cpu,cpuacct", Some("cpu,cpuacct")),
            hierarchy("/sys/fs/cgroup/systemd", Some("name=systemd")),
        ];
        assert_eq!(hierarchies(text), expected);
    }

    #[test]
    fn v2_alone_is_one_hierarchy() {
        let text = "4 1 0:4 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(hierarchies(text), [hierarchy("/sys/fs/cgroup", None)]);
    }
}
