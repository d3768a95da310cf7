//! Asks the kernel to run the calling thread as soon as it has something to do. The only unsafe code of the crate.

use std::io;

use nix::libc::{SCHED_OTHER, SCHED_RR, SYS_sched_setattr, c_int, syscall};

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

/// Makes the calling thread a real-time thread, if that is permitted (`CAP_SYS_NICE`, `RLIMIT_RTPRIO`); otherwise one that
/// asks for short turns, which needs no permission.
pub(crate) fn raise() -> io::Result<()> {
    let real_time = Attributes {
        policy: SCHED_RR as u32,
        priority: 1,
        ..Attributes::default()
    };
    let short = Attributes {
        policy: SCHED_OTHER as u32,
        runtime: SLICE_NANOSECONDS,
        ..Attributes::default()
    };
    set(real_time).or_else(|_| set(short))
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
    #[test]
    fn nobody_is_refused() {
        super::raise().unwrap();
    }
}
