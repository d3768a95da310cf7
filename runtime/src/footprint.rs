//! Keeps the process small: a speaker runs on every node.
//!
//! Two things make it larger than what it needs. The C library gives each thread a heap of its own and keeps what was
//! freed for later; and whatever of the program ran once, reading flags, files and the first lists, stays mapped, although a
//! hundredth of it is what the rest of its life is made of. So there is one heap ([`one_heap`]), from time to time what lies
//! unused is given back ([`give_back`]), and the program is mapped in pieces, so that little comes back beside what is
//! needed ([`cut`]).

use std::convert::Infallible;
use std::ffi::{c_int, c_void};
use std::io;
use std::ops::Range;
use std::slice;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::readiness::Readiness;

/// After the program has become ready, until what the start has used is given back. Then again after twice as long, and so
/// on, because what follows a start ebbs away.
const FIRST: Duration = Duration::from_secs(3);

/// Up to this long: what runs once in a while, a list that is read anew, a page of metrics, is mapped meanwhile.
const LAST: Duration = Duration::from_secs(60);

/// Octets of the program that come into memory together at most. The kernel maps up to 64 KiB around a page that is used, as
/// far as they are in the page cache, but nothing beyond a mapping.
const PIECE: usize = 16 << 10;

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
        if let Err(error) = cut() {
            debug!(%error, "cannot map the program in pieces");
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

/// Gives free pages of the heap back to the kernel, and takes the program's code and constants out of this process's memory.
/// What is needed of them comes back from the page cache when it is used next, without a read from the disk unless the kernel
/// has been short of memory since.
///
/// # Errors
/// When the kernel refuses.
pub fn give_back() -> io::Result<()> {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and looks at nothing but what is free.
    unsafe {
        libc::malloc_trim(0);
    }
    unwritable().into_iter().try_for_each(|range| {
        // SAFETY: every page of the range is the file's: one that is taken out of memory comes back with the same content.
        unsafe { advise(range, libc::MADV_DONTNEED) }
    })
}

/// Maps the program's code and constants in pieces of [`PIECE`] octets. Neighbours of the same kind would grow together again,
/// so every second piece is left out of core dumps, where these pages are not anyway (`coredump_filter`, core(5)).
///
/// # Errors
/// When the kernel refuses.
pub fn cut() -> io::Result<()> {
    let piece = PIECE.max(page_size());
    unwritable()
        .into_iter()
        .flat_map(|range| every_second(range, piece))
        .try_for_each(|range| {
            // SAFETY: what a core dump holds changes nothing for who reads or runs the range.
            unsafe { advise(range, libc::MADV_DONTDUMP) }
        })
}

/// The second, fourth, sixth... piece of a range.
fn every_second(range: Range<usize>, piece: usize) -> impl Iterator<Item = Range<usize>> {
    let Range { start, end } = range;
    (start..end)
        .step_by(piece)
        .skip(1)
        .step_by(2)
        .map(move |at| at..end.min(at.saturating_add(piece)))
}

/// # Safety
/// The range is whole pages that are mapped, and what `advice` does to them is harmless to all who use them.
unsafe fn advise(range: Range<usize>, advice: c_int) -> io::Result<()> {
    // SAFETY: the caller's.
    match unsafe { libc::madvise(range.start as *mut c_void, range.len(), advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn page_size() -> usize {
    // SAFETY: it takes a number, and only tells.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Where the program itself, without libraries, has its code and constants: the segments of its file that are loaded and may
/// never be written (elf(5)). What was relocated when it was loaded lies in another one, although it can only be read as well
/// since.
fn unwritable() -> Vec<Range<usize>> {
    extern "C" fn visit(object: *mut libc::dl_phdr_info, _: usize, found: *mut c_void) -> c_int {
        // SAFETY: `dl_iterate_phdr` hands over an object that lives as long as this call, with as many headers as it says,
        // and the vector that it was given below, which nobody else has meanwhile.
        let (object, headers, found) = unsafe {
            let object = &*object;
            let headers = slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum));
            (object, headers, &mut *found.cast::<Vec<Range<usize>>>())
        };
        let page = page_size();
        for header in headers {
            if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
                let start = (object.dlpi_addr + header.p_vaddr) as usize;
                let end = start + header.p_filesz as usize;
                found.push(start & !(page - 1)..end.next_multiple_of(page));
            }
        }
        // The program comes first, and no other is asked for.
        1
    }
    let mut found = Vec::new();
    // SAFETY: `visit` may be called with any object of this process and a pointer to this vector, and keeps neither.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    static RELOCATED: [&str; 2] = ["what holds", "addresses"];
    static CONSTANT: [u8; 3] = [1, 2, 3];

    fn found<T>(of: *const T) -> bool {
        unwritable().iter().any(|range| range.contains(&(of as usize)))
    }

    #[test]
    fn code_and_constants_of_the_program_alone_are_found() {
        assert!(found(give_back as *const ()));
        assert!(found(&raw const CONSTANT));
        assert!(!found(&raw const RELOCATED), "a page that differs from the file");
        assert!(!found(libc::madvise as *const ()), "a library");
        assert!(!found(&raw const *Box::new(1)), "the heap");
    }

    /// What `/proc/self/smaps` says of the mappings between these bounds.
    fn mapped(of: &Range<usize>) -> (usize, usize) {
        let (mut mappings, mut resident, mut inside) = (0, 0, false);
        for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let first = line.split_ascii_whitespace().next().unwrap_or_default();
            if let Some((start, _)) = first.split_once('-') {
                inside = of.contains(&usize::from_str_radix(start, 16).unwrap());
                mappings += usize::from(inside);
            } else if inside && first == "Rss:" {
                resident += line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap();
            }
        }
        (mappings, resident << 10)
    }

    #[test]
    fn what_is_given_back_is_gone_and_little_of_it_comes_again() {
        let ranges = unwritable();
        let code = ranges.iter().max_by_key(|range| range.len()).unwrap();
        let (_, whole) = mapped(code);
        cut().unwrap();
        let (pieces, _) = mapped(code);
        assert!(pieces >= code.len() / PIECE, "{pieces} pieces of {code:x?}");
        give_back().unwrap();
        let (_, rest) = mapped(code);
        assert!(rest < whole, "{whole} octets before, {rest} after");
        assert_eq!((RELOCATED[1], CONSTANT[2]), ("addresses", 3));
    }

    proptest! {
        #[test]
        fn pieces_lie_in_the_range_with_gaps_of_a_piece(start in 0usize..1 << 40, length in 0usize..1 << 20, shift in 12u32..17) {
            let piece = 1 << shift;
            let pieces: Vec<_> = every_second(start..start + length, piece).collect();
            prop_assert_eq!(pieces.len(), length.div_ceil(piece) / 2);
            for (number, one) in pieces.iter().enumerate() {
                prop_assert_eq!(one.start, start + (2 * number + 1) * piece);
                prop_assert_eq!(one.end, (one.start + piece).min(start + length));
            }
        }
    }
}
