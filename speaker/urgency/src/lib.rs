//! Asks the kernel to run the calling thread as soon as it has something to do (sched(7), sched_setattr(2)).
//!
//! A thread that sleeps until a packet comes and then works for microseconds waits, on a busy node, for whoever runs there to
//! use up his turn: milliseconds, which a client or a peer waits as well. A thread that asks for short turns goes before.

use std::io;

use nix::errno::Errno;
use nix::libc::{SCHED_RR, SYS_sched_getattr, SYS_sched_setattr, c_int, syscall};

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

/// Makes the calling thread one that asks for short turns, which needs no permission. Its policy and its niceness stay what they
/// are: it gets its share of a processor and no more, so it may be one that anybody can flood. Threads that it starts are the
/// same.
///
/// # Errors
/// When the kernel refuses, as a seccomp filter may.
pub fn short_turns() -> io::Result<()> {
    set(Attributes {
        runtime: SLICE_NANOSECONDS,
        ..get()?
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

fn get() -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    let size = size_of::<Attributes>() as u32;
    // SAFETY: the kernel writes at most `size` octets to the pointer, into a value that lives until the call returns.
    // 0 is the calling thread, and there are no flags.
    let result = unsafe { syscall(SYS_sched_getattr, 0 as c_int, &raw mut attributes, size, 0u32) };
    Errno::result(result)?;
    Ok(attributes)
}

fn set(mut attributes: Attributes) -> io::Result<()> {
    attributes.size = size_of::<Attributes>() as u32;
    // SAFETY: the kernel reads `size` octets from the pointer, the whole of a value that lives until the call returns.
    // 0 is the calling thread, and there are no flags.
    let result = unsafe { syscall(SYS_sched_setattr, 0 as c_int, &raw const attributes, 0u32) };
    Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own, which is nobody's: what it asks for is its own.
    fn as_nobody(test: fn()) {
        let thread = std::thread::spawn(move || {
            // SAFETY: it takes numbers; the call itself, unlike the C library's, is about this thread alone. Who is not root
            // has no more rights either way.
            unsafe { syscall(nix::libc::SYS_setresuid, 65_534, 65_534, 65_534) };
            test();
        });
        thread.join().unwrap();
    }

    fn assert_short(before: &Attributes) {
        let after = get().unwrap();
        assert_eq!((after.policy, after.nice), (before.policy, before.nice));
        // Kernels before 6.12 have no turns of a thread's own.
        let unknown = before.runtime == 0 && after.runtime == 0;
        assert!(
            after.runtime == SLICE_NANOSECONDS || unknown,
            "turns of {} ns",
            after.runtime
        );
    }

    #[test]
    fn short_turns_are_granted_to_everybody_and_change_nothing_else() {
        as_nobody(|| {
            set(Attributes {
                nice: 7,
                ..get().unwrap()
            })
            .unwrap();
            let before = get().unwrap();
            assert_eq!(before.nice, 7);
            short_turns().unwrap();
            assert_short(&before);
        });
    }

    #[test]
    fn who_may_not_be_a_real_time_thread_has_short_turns() {
        as_nobody(|| {
            let before = get().unwrap();
            real_time().unwrap();
            assert_short(&before);
        });
    }
}
