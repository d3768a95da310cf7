//! Ctrl-C, SIGTERM and SIGHUP: every lab of the program is taken down, then the program ends.
//!
//! The handler only writes the signal's number into a pipe; a thread of its own does the work. Programs that have their
//! own use for a signal handle it before [`install`] is called and are left alone by it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Once, PoisonError, RwLock, RwLockReadGuard};

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::pipe2;

use crate::{process, run_dir};

/// Held for reading by whoever makes something that a clean-up would have to find, for writing by the clean-up.
static GATE: RwLock<()> = RwLock::new(());

static PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note(signal: libc::c_int) {
    let byte = [signal.to_le_bytes()[0]];
    // SAFETY: write(2) may be called from a handler; the buffer is one byte long.
    unsafe { libc::write(PIPE.load(Ordering::Relaxed), byte.as_ptr().cast(), 1) };
}

/// Takes the signals over. Does it once, however often it is called.
pub fn install() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| result = take_over());
    result
}

fn take_over() -> Result<()> {
    let (read, write): (OwnedFd, OwnedFd) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
    PIPE.store(write.into_raw_fd(), Ordering::Relaxed);
    std::thread::Builder::new()
        .name("interrupt".into())
        .spawn(move || wait(read))
        .context("start a thread")?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler makes one system call that is safe in handlers.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("handle {signal}"))?;
    }
    Ok(())
}

fn wait(read: OwnedFd) {
    let mut pipe = File::from(read);
    let mut byte = [0];
    if pipe.read_exact(&mut byte).is_err() {
        return;
    }
    let signal = i32::from(byte[0]);
    eprintln!("\nsignal {signal}: taking the lab down");
    // Never let go of: whoever wants to make another process or namespace waits for the end.
    let _closed = GATE.write().unwrap_or_else(PoisonError::into_inner);
    process::kill_all();
    run_dir::remove_all();
    std::process::exit(128 + signal);
}

/// Leave to make a process, a namespace or a run directory, as long as the guard is held; not to be asked for twice by
/// one thread. From an interrupt on, nobody gets it any more.
pub(crate) fn leave() -> RwLockReadGuard<'static, ()> {
    GATE.read().unwrap_or_else(PoisonError::into_inner)
}
