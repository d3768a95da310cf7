//! The driver in a process of its own, to be killed and stopped.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use ferrolb_netns::{Namespace, Process};
use nix::sys::signal::Signal;

/// A process with one session.
pub(crate) struct OtherProcess {
    process: Process,
    told: PathBuf,
}

impl OtherProcess {
    pub(crate) fn start(node: &Namespace, peer: &str, milliseconds: u64, multiplier: u8) -> OtherProcess {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Relaxed);
        let told = std::env::temp_dir().join(format!("ferrolb-bfd-{}-{number}", std::process::id()));
        let words = [
            env!("CARGO_BIN_EXE_ferrolb-bfd-session"),
            peer,
            &milliseconds.to_string(),
            &multiplier.to_string(),
            told.to_str().unwrap(),
        ];
        let process = node.start(&words);
        OtherProcess { process, told }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// How often its session went down.
    pub(crate) fn downs(&self) -> usize {
        let told = std::fs::read_to_string(&self.told).unwrap();
        told.lines().last().expect("it has said something").parse().unwrap()
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.told);
    }
}
