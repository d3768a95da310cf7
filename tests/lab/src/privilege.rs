//! Being root, or root of a user namespace of one's own.
//!
//! Network namespaces need CAP_SYS_ADMIN. Who is not root gets it, where the system allows unprivileged user
//! namespaces, inside one of his own, with a network and a `/run` of its own: what happens there nobody else sees, and
//! it is gone with the last process inside.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::net::Namespace;

/// How the lab may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Root,
    UserNamespace,
}

static STANDING: OnceLock<Standing> = OnceLock::new();

/// Makes sure that the program may make namespaces; enters a user namespace for it if it must.
///
/// Call it first thing in `main`: a program with more than one thread cannot enter a user namespace.
///
/// # Errors
/// When there is no way; the message says what would be one.
pub fn acquire() -> Result<()> {
    if STANDING.get().is_some() {
        return Ok(());
    }
    // Settles where run directories are while the caller's own user id can still be seen.
    run_root();
    let standing = if is_able_root() {
        Standing::Root
    } else {
        enter_user_namespace().context(
            "the lab makes network namespaces: run it as root (with CAP_SYS_ADMIN and CAP_NET_ADMIN), or allow \
             unprivileged user namespaces (sysctl user.max_user_namespaces > 0, kernel.unprivileged_userns_clone=1 and \
             kernel.apparmor_restrict_unprivileged_userns=0 where they exist)",
        )?;
        Standing::UserNamespace
    };
    STANDING.get_or_init(|| standing);
    Ok(())
}

/// Whether the lab lives in a user namespace of its own, invisible to other programs.
pub fn in_user_namespace() -> bool {
    STANDING.get() == Some(&Standing::UserNamespace)
}

/// Whether there is a user `nobody` to switch to.
pub(crate) fn has_other_users() -> bool {
    !in_user_namespace()
}

/// Where run directories are made: the same place before and after a user namespace is entered.
pub(crate) fn run_root() -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let choose = || match is_able_root() {
        true => PathBuf::from("/run/ferrolb-lab"),
        false => std::env::temp_dir().join(format!("ferrolb-lab-{}", geteuid())),
    };
    ROOT.get_or_init(choose).clone()
}

/// Whether the namespaces named in `/run/netns` are the lab's own or, for root, everybody's.
pub(crate) fn rules_namespaces() -> bool {
    in_user_namespace() || is_able_root()
}

/// Whether the program may do as root what root may, perhaps in a user namespace alone.
pub(crate) fn is_able_root() -> bool {
    geteuid().is_root() && has_sys_admin()
}

fn has_sys_admin() -> bool {
    const SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set & (1 << SYS_ADMIN) != 0)
}

fn enter_user_namespace() -> Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    let threads = fs::read_dir("/proc/self/task").map(Iterator::count).unwrap_or(0);
    if threads != 1 {
        bail!("not root, and a program that has started threads cannot enter a user namespace");
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("no unprivileged user namespace")?;
    // Without this the kernel refuses the map of groups (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny").context("deny setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("map the user")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("map the group")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
    // All of /run, because iptables keeps its lock there too.
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        none,
    )
    .context("mount /run")?;
    Namespace::bring_up_loopback()
}
