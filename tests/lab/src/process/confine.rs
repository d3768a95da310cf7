//! What happens in a child between fork and exec: the namespace is entered, privileges go, the death signal is set.
//!
//! Only system calls here: the child is a copy of one thread of many, so it must neither allocate nor lock.

use std::io;
use std::os::fd::RawFd;

use super::Capabilities;
use crate::privilege;

/// `CAP_NET_RAW` of capability.h.
const NET_RAW: u32 = 13;
/// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits in two halves.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// User and group `nobody`.
const NOBODY: libc::uid_t = 65534;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// What to do in the child, settled before the fork.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    keep: Option<u64>,
    switch_user: bool,
    parent: libc::pid_t,
}

impl Plan {
    pub(super) fn new(capabilities: Capabilities) -> Self {
        let keep = match capabilities {
            Capabilities::All => None,
            Capabilities::NetRawOnly => Some(1 << NET_RAW),
            Capabilities::None => Some(0),
        };
        Self {
            keep,
            switch_user: privilege::has_other_users(),
            parent: std::process::id().cast_signed(),
        }
    }

    /// Runs in the child.
    pub(super) fn enter(&self, namespace: Option<RawFd>) -> io::Result<()> {
        if let Some(fd) = namespace {
            // SAFETY: a system call on integers.
            check(unsafe { libc::setns(fd, libc::CLONE_NEWNET) })?;
        }
        if let Some(keep) = self.keep {
            drop_capabilities(keep, self.switch_user)?;
        }
        unblock_signals()?;
        // After the change of user, which clears it.
        prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
        // SAFETY: no arguments, cannot fail.
        if unsafe { libc::getppid() } != self.parent {
            // The parent died before the signal was asked for.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    }
}

fn drop_capabilities(keep: u64, switch_user: bool) -> io::Result<()> {
    for capability in 0..64 {
        if keep & (1 << capability) == 0 && prctl(libc::PR_CAPBSET_DROP, capability).is_err() {
            // The first number that the kernel does not know.
            break;
        }
    }
    if switch_user {
        prctl(libc::PR_SET_KEEPCAPS, 1)?;
        // SAFETY: system calls on integers and an empty list. The raw calls change this thread alone; libc's own
        // wrappers would try to reach the parent's other threads, which do not exist here.
        unsafe {
            check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()))?;
            check(libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY))?;
            check(libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY))?;
        }
    }
    let halves = [keep as u32, (keep >> 32) as u32];
    let sets = halves.map(|half| CapabilitySets {
        effective: half,
        permitted: half,
        inheritable: half,
    });
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    // SAFETY: both structures have the kernel's layout for this version and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) })?;
    for capability in (0..64).filter(|capability| keep & (1 << capability) != 0) {
        // SAFETY: a system call on integers.
        check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) })?;
    }
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

fn unblock_signals() -> io::Result<()> {
    // SAFETY: the set lives on the stack and sigemptyset initialises it.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut(),
        ))
    }
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take integers only.
    check(unsafe {
        libc::prctl(
            option,
            value,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
        )
    })
}

fn check(result: impl Into<libc::c_long>) -> io::Result<()> {
    if result.into() < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
