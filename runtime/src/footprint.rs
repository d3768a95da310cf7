//! Keeps the process small: a speaker runs on every node.
//!
//! Two things make it larger than what it needs. The C library gives each thread a heap of its own and keeps what was
//! freed for later; and whatever of the program ran once, reading flags, files and the first lists, stays mapped, although a
//! hundredth of it is what the rest of its life is made of. So there is one heap ([`one_heap`]), and from time to time
//! what lies unused is given back ([`give_back`]).

use std::convert::Infallible;
use std::fs;
use std::io;
use std::ops::Range;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::readiness::Readiness;

/// After the program has become ready, until what the start has used is given back. Then again after twice as long, and so
/// on, because what follows a start ebbs away.
const FIRST: Duration = Duration::from_secs(3);

/// Up to this long: a list that is read anew leaves something behind as well.
const LAST: Duration = Duration::from_secs(600);

/// How often to look whether the program has become ready.
const LOOK: Duration = Duration::from_secs(1);

/// Makes all threads share one heap, of which what is free at its end goes back at once. To be called before there is a
/// second thread. Nothing in either program allocates so much on two threads that they would wait for each other.
pub fn one_heap() {
    #[cfg(target_env = "gnu")]
    {
        /// Free bytes at the end of the heap that are kept.
        const KEPT: libc::c_int = 128 << 10;
        // SAFETY: both take plain numbers and change settings of the allocator, which is there. That one is refused, which
        // cannot happen with these, only means that it stays as it was.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
            libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
        }
    }
}

/// Gives back what lies unused, soon after the program has become ready and then again and again, until `stop` is cancelled.
pub async fn keep_small(readiness: Readiness, stop: CancellationToken) -> Result<(), Infallible> {
    let work = async {
        while !readiness.missing().is_empty() {
            tokio::time::sleep(LOOK).await;
        }
        let mut pause = FIRST;
        loop {
            tokio::time::sleep(pause).await;
            if let Err(error) = give_back() {
                debug!(%error, "cannot give memory back");
            }
            pause = LAST.min(pause * 2);
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
    Ok(())
}

/// Gives free pages of the heap back to the kernel, and takes the program's code out of this process's memory. What is
/// needed of it comes back from the page cache when it runs next, 64 KiB at a time, without a read from the disk unless the
/// kernel has been short of memory since.
///
/// # Errors
/// When the kernel does not tell what is mapped, or refuses.
pub fn give_back() -> io::Result<()> {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and looks at nothing but what is free.
    unsafe {
        libc::malloc_trim(0);
    }
    for code in code(&fs::read_to_string("/proc/self/maps")?) {
        // SAFETY: the range is one that the kernel has mapped from a file, may be executed and cannot be written, so that
        // every page of it is the file's: one that is taken out of memory comes back with the same content.
        let done = unsafe { libc::madvise(code.start as *mut libc::c_void, code.len(), libc::MADV_DONTNEED) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The ranges of addresses that hold code of files, of what `/proc/self/maps` says (proc_pid_maps(5)). Only those: a range
/// that can be read alone may have been written when the program was loaded, and would lose that.
fn code(maps: &str) -> impl Iterator<Item = Range<usize>> {
    maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (range, rights) = (fields.next()?, fields.next()?);
        let inode: u64 = fields.nth(2)?.parse().ok()?;
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        (rights == "r-xp" && inode != 0).then_some(address(start)?..address(end)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAPS: &str = "\
55d0c0a00000-55d0c0a05000 r--p 00000000 08:02 173521                     /usr/bin/a program
55d0c0a05000-55d0c0b00000 r-xp 00005000 08:02 173521                     /usr/bin/a program
55d0c0b00000-55d0c0b0f000 r--p 00100000 08:02 173521                     /usr/bin/a program
55d0c0b0f000-55d0c0b10000 rw-p 0010f000 08:02 173521                     /usr/bin/a program
55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000010000 rwxp 00000000 08:02 1                          /usr/lib/odd.so
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]
";

    #[test]
    fn code_of_files_alone_is_found() {
        let mut found = code(MAPS);
        assert_eq!(found.next(), Some(0x55d0_c0a0_5000..0x55d0_c0b0_0000));
        assert_eq!(found.next(), None);
    }

    /// How much of this process's memory is pages of files, in KiB.
    fn of_files() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    #[test]
    fn what_is_given_back_is_gone_and_comes_again() {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        assert!(code(&maps).any(|range| range.contains(&(give_back as *const () as usize))));
        let before = of_files();
        give_back().unwrap();
        assert!(of_files() < before, "{before} KiB before, {} after", of_files());
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "\\PC{0,40}", start: u32, rights in "[rwxp-]{4}") {
            let _ = code(&text).count();
            let line = format!("{start:x}-{:x} {rights} 0 08:02 7 /x", u64::from(start) + 4096);
            prop_assert_eq!(code(&line).count(), usize::from(rights == "r-xp"));
        }
    }
}
