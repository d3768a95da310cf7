//! One network and mount namespace, and the programs in it.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown, gettid};

use crate::eventually;

type Job = Box<dyn FnOnce() + Send>;

/// A network and mount namespace: a thread in it that runs what it is given.
pub struct Namespace {
    jobs: Sender<Job>,
    tid: i32,
}

/// Where routers keep their files; empty in each namespace.
const PRIVATE: [&str; 2] = ["/run", "/etc/frr"];

impl Namespace {
    /// `None` if this process may not make namespaces.
    pub fn new() -> Option<Namespace> {
        let (jobs, queue) = channel::<Job>();
        let (ready, started) = channel();
        std::thread::spawn(move || {
            let made = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map(|()| gettid().as_raw());
            let failed = made.is_err();
            ready.send(made).unwrap();
            if !failed {
                queue.into_iter().for_each(|job| job());
            }
        });
        let tid = match started.recv().unwrap() {
            Ok(tid) => tid,
            Err(error) => {
                eprintln!("skipped: this process may not make a network namespace: {error}");
                return None;
            }
        };
        let namespace = Namespace { jobs, tid };
        namespace.run(furnish);
        namespace.ip("link set lo up");
        Some(namespace)
    }

    /// The thread in it, by which `ip` finds it.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Runs in the namespace and returns the result.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        self.jobs.send(Box::new(move || drop(done.send(job())))).unwrap();
        result.recv().expect("the job does not panic")
    }

    /// Runs a command there; its output and whether it succeeded.
    pub fn command(&self, words: &[&str]) -> (String, bool) {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let line = words.join(" ");
        let output = self.run(move || Command::new(&words[0]).args(&words[1..]).output());
        let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&text).into_owned(), output.status.success())
    }

    /// Runs `ip` there, which must succeed; its output.
    pub fn ip(&self, arguments: &str) -> String {
        let words: Vec<&str> = std::iter::once("ip").chain(arguments.split_whitespace()).collect();
        let (output, success) = self.command(&words);
        assert!(success, "ip {arguments}: {output}");
        output
    }

    /// The link-local address of an interface that is up.
    pub fn link_local(&self, interface: &str) -> String {
        eventually("a link-local address", || {
            let shown = self.ip(&format!("-o -6 addr show dev {interface} scope link"));
            let address = shown.split_whitespace().nth(3)?.split('/').next()?;
            Some(address.to_owned())
        })
    }

    /// Starts a program there that lives as long as what is returned.
    pub fn start(&self, words: &[&str]) -> Process {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Process(self.run(move || {
            let mut command = Command::new(&words[0]);
            command
                .args(&words[1..])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            // SAFETY: prctl may be called between fork and exec.
            unsafe {
                command.pre_exec(|| {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    Ok(())
                });
            }
            command.spawn().unwrap_or_else(|error| panic!("{}: {error}", words[0]))
        }))
    }

    /// Writes a file as only this namespace sees it.
    pub fn write(&self, path: &str, text: &str) {
        let (path, text) = (path.to_owned(), text.to_owned());
        self.run(move || std::fs::write(&path, text).unwrap_or_else(|error| panic!("{path}: {error}")));
    }
}

/// Gives the calling thread's namespaces what routers need.
fn furnish() {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
    for folder in PRIVATE {
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), none)
            .unwrap_or_else(|error| panic!("{folder}: {error}: is frr installed?"));
    }
    for folder in ["/run/frr", "/run/bird"] {
        std::fs::create_dir(folder).unwrap();
    }
    // FRR's programs give up root.
    let frr = User::from_name("frr").unwrap().expect("frr is installed");
    for folder in ["/run/frr", "/etc/frr"] {
        chown(folder, Some(frr.uid), Some(frr.gid)).unwrap();
    }
    // Addresses are usable at once; the tests are about other things. Without transmissions alone the kernel would
    // still hold each address back for up to a second.
    for of in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{of}/accept_dad"), "0").unwrap();
    }
}

/// A program; killed when dropped.
pub struct Process(Child);

impl Process {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
