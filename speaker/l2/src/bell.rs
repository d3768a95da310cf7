//! Wakes a thread that waits for descriptors when a future that it polls by hand has something for it.

use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

/// What the thread has: it waits for this to be readable.
pub(crate) struct Bell {
    ear: PipeReader,
    hand: Arc<Hand>,
}

/// What rings: the waker's part.
struct Hand {
    pipe: PipeWriter,
    /// An octet is in the pipe, or about to be. There is never a second one, so that writing does not block.
    rung: AtomicBool,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Bell> {
        let (ear, pipe) = pipe()?;
        let hand = Arc::new(Hand {
            pipe,
            rung: AtomicBool::new(false),
        });
        Ok(Bell { ear, hand })
    }

    /// Makes the bell readable when it is woken.
    pub(crate) fn waker(&self) -> Waker {
        Arc::clone(&self.hand).into()
    }

    /// Call it when the bell is readable, and poll afterwards: whoever rings from then on is heard.
    pub(crate) fn hush(&mut self) -> io::Result<()> {
        self.ear.read_exact(&mut [0])?;
        self.hand.rung.store(false, Ordering::SeqCst);
        Ok(())
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.ear.as_raw_fd()
    }
}

impl Wake for Hand {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            // Fails only when the thread is gone, and the bell with it.
            let _ = (&self.pipe).write_all(&[0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::io::Waits;

    fn is_readable(bell: &Bell) -> bool {
        let mut waits = Waits::default();
        waits.push(bell);
        waits.wait(Some(Duration::ZERO)).unwrap();
        waits.is_ready(0)
    }

    #[test]
    fn it_rings_until_it_is_hushed_however_often_it_was_rung() {
        let mut bell = Bell::new().unwrap();
        let waker = bell.waker();
        assert!(!is_readable(&bell));
        for _ in 0..100_000 {
            waker.wake_by_ref();
        }
        assert!(is_readable(&bell));
        bell.hush().unwrap();
        assert!(!is_readable(&bell));
        waker.wake();
        assert!(is_readable(&bell));
    }

    #[test]
    fn who_rings_after_the_thread_is_gone_is_not_hurt() {
        let waker = Bell::new().unwrap().waker();
        waker.wake();
    }
}
