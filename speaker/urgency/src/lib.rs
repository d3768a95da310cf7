//! Asks the kernel to run the calling thread as soon as it has something to do (sched(7), sched_setattr(2)).
//!
//! A thread that sleeps until a packet comes and then works for microseconds waits, on a busy node, for whoever runs there to
//! use up his turn: milliseconds, which a client or a peer waits as well. A thread that asks for short turns goes before.

use std::io;

use libc::{SCHED_OTHER, SCHED_RR, SYS_sched_setattr, c_int, syscall};

/// How long the thread wants to run at a time. Linux 6.12 and later let a thread that asks for little go before one that
/// asks for more; earlier ones ignore it. It is the least that they accept.
const SLICE_NANOSECONDS: u64 = 100_000;

/// `struct sched_attr` of `linux/sched/types.h`, first version.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Makes the calling thread one that asks for short turns, which needs no permission. It gets its share of a processor and no
/// more, so it may be one that anybody can flood. Threads that it starts are the same.
///
/// # Errors
/// When the kernel refuses, as a seccomp filter may.
pub fn short_turns() -> io::Result<()> {
    set(Attributes {
        policy: SCHED_OTHER as u32,
        runtime: SLICE_NANOSECONDS,
        ..Attributes::default()
    })
}

/// Makes the calling thread a real-time thread, if that is permitted (`CAP_SYS_NICE`, `RLIMIT_RTPRIO`); otherwise one with
/// [`short_turns`].
///
/// # Errors
/// When the kernel refuses both.
pub fn real_time() -> io::Result<()> {
    let real_time = Attributes {
        policy: SCHED_RR as u32,
        priority: 1,
        ..Attributes::default()
    };
    set(real_time).or_else(|_| short_turns())
}

fn set(mut attributes: Attributes) -> io::Result<()> {
    attributes.size = size_of::<Attributes>() as u32;
    // SAFETY: the kernel reads `size` octets from the pointer, the whole of a value that lives until the call returns.
    // 0 is the calling thread, and there are no flags.
    let result = unsafe { syscall(SYS_sched_setattr, 0 as c_int, &raw const attributes, 0u32) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of the calling thread: its policy, and its turns in nanoseconds.
    fn now() -> (u32, u64) {
        let mut attributes = Attributes::default();
        let size = size_of::<Attributes>() as u32;
        // SAFETY: the kernel writes at most `size` octets to the pointer, into a value that lives until the call returns.
        let result = unsafe { syscall(libc::SYS_sched_getattr, 0 as c_int, &raw mut attributes, size, 0u32) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        (attributes.policy, attributes.runtime)
    }

    /// In a thread of its own: what it asks for is its own.
    fn alone(test: fn()) {
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn short_turns_are_granted_to_everybody() {
        alone(|| {
            let (policy, before) = now();
            short_turns().unwrap();
            let (after, turns) = now();
            assert_eq!((policy, after), (SCHED_OTHER as u32, SCHED_OTHER as u32));
            // Kernels before 6.12 say nothing of turns.
            assert!(
                turns == SLICE_NANOSECONDS || before == 0,
                "{before} before, {turns} after"
            );
        });
    }

    #[test]
    fn who_may_not_be_a_real_time_thread_has_short_turns() {
        alone(|| {
            real_time().unwrap();
            let (policy, turns) = now();
            let short = policy == SCHED_OTHER as u32 && (turns == SLICE_NANOSECONDS || turns == 0);
            assert!(
                short || policy == SCHED_RR as u32,
                "policy {policy}, turns of {turns} ns"
            );
        });
    }
}
