//! The driver in a process of its own, to be killed and stopped: this test program, started anew.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use ferrolb_bfd::{Path, Wanted, WantedSession, spawn_thread};
use ferrolb_netns::{Namespace, Process, ip};
use nix::sys::signal::Signal;

use crate::driver::every;

const VARIABLE: &str = "FERROLB_BFD_PROCESS";

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
        let program = std::env::current_exe().unwrap();
        let order = format!("{VARIABLE}={peer} {milliseconds} {multiplier} {}", told.display());
        let words = [
            "env",
            &order,
            program.to_str().unwrap(),
            "--ignored",
            "--exact",
            "as_another_process",
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

/// What that process does until it is killed.
pub(crate) fn run() {
    let Ok(order) = std::env::var(VARIABLE) else { return };
    let [peer, milliseconds, multiplier, told] = order.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{order}");
    };
    let settings = every(milliseconds.parse().unwrap(), multiplier.parse().unwrap());
    let mut told = std::fs::File::create(told).unwrap();
    let (handle, thread) = spawn_thread(move |report| writeln!(told, "{}", report.status.downs).is_ok()).unwrap();
    let session = WantedSession {
        settings,
        minimum_ttl: 254,
        discriminator: None,
    };
    let sessions = [(Arc::new(Path::new(ip(peer))), session)].into();
    handle.set(Arc::new(Wanted { sessions }));
    // Whoever started it kills it long before.
    std::thread::sleep(Duration::from_secs(60));
    drop(handle);
    thread.join().unwrap().unwrap();
}
