//! A node with BFD sessions and a host with a router, each in network and mount namespaces of its own, with a link between
//! them. Nothing of it can be seen from outside, and all of it ends with the test. The driver
//! runs as nobody, without any capability.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferrolb_bfd::{DriverError, Handle, Path, Report, Settings, State, Status, Wanted, WantedSession, spawn_thread};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown, gettid};

/// How long anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

type Job = Box<dyn FnOnce() + Send>;

/// A network and mount namespace: a thread in it that runs what it is given.
pub(crate) struct Namespace {
    jobs: Sender<Job>,
    tid: i32,
}

/// Where routers keep their files; empty in each namespace.
const PRIVATE: [&str; 2] = ["/run", "/etc/frr"];

impl Namespace {
    /// `None` if this process may not make namespaces.
    pub(crate) fn new() -> Option<Namespace> {
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
        namespace.run(|| {
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
            for of in ["all", "default"] {
                // Addresses are usable at once; the tests are about other things.
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{of}/dad_transmits"), "0").unwrap();
            }
        });
        namespace.ip("link set lo up");
        Some(namespace)
    }

    /// Runs in the namespace and returns the result.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        self.jobs.send(Box::new(move || drop(done.send(job())))).unwrap();
        result.recv().expect("the job does not panic")
    }

    /// Runs a command there; its output and whether it succeeded.
    pub(crate) fn command(&self, words: &[&str]) -> (String, bool) {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let line = words.join(" ");
        let output = self.run(move || Command::new(&words[0]).args(&words[1..]).output());
        let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&text).into_owned(), output.status.success())
    }

    /// Runs `ip` there, which must succeed.
    pub(crate) fn ip(&self, arguments: &str) {
        let words: Vec<&str> = std::iter::once("ip").chain(arguments.split_whitespace()).collect();
        let (output, success) = self.command(&words);
        assert!(success, "ip {arguments}: {output}");
    }

    /// Starts a program there that lives as long as what is returned.
    pub(crate) fn start(&self, words: &[&str]) -> Process {
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
    pub(crate) fn write(&self, path: &str, text: &str) {
        let (path, text) = (path.to_owned(), text.to_owned());
        self.run(move || std::fs::write(path, text).unwrap());
    }
}

/// A program; killed when dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The node's end of the link, and the router's.
pub(crate) const NODE: [&str; 2] = ["10.99.0.1", "fd99::1"];
pub(crate) const ROUTER: [&str; 2] = ["10.99.0.9", "fd99::9"];

/// See the module.
pub(crate) struct Lab {
    pub(crate) node: Namespace,
    pub(crate) host: Namespace,
}

impl Lab {
    /// `None` if this process may not make namespaces.
    pub(crate) fn new() -> Option<Lab> {
        let (node, host) = (Namespace::new()?, Namespace::new()?);
        node.ip(&format!("link add eth0 type veth peer name eth0 netns {}", host.tid));
        for (namespace, addresses) in [(&node, NODE), (&host, ROUTER)] {
            namespace.ip(&format!("addr add {}/24 dev eth0", addresses[0]));
            namespace.ip(&format!("addr add {}/64 dev eth0 nodad", addresses[1]));
            namespace.ip("link set eth0 up");
        }
        Some(Lab { node, host })
    }
}

/// Asks until there is an answer; routers tell nobody when they have changed their mind.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The driver on a node, and the latest report of each path.
pub(crate) struct Driver {
    handle: Option<Handle>,
    thread: Option<JoinHandle<Result<(), DriverError>>>,
    reports: Receiver<Report>,
    pub(crate) latest: BTreeMap<Path, Report>,
}

impl Driver {
    pub(crate) fn start(node: &Namespace) -> Driver {
        let (inlet, reports) = channel();
        // A reader that has no room every other time misses nothing.
        let mut room = false;
        let reports_to = move |report| {
            room = !room;
            room && inlet.send(report).is_ok()
        };
        let start = || {
            drop_privileges();
            spawn_thread(reports_to)
        };
        let (handle, thread) = node.run(|| std::thread::spawn(start).join().unwrap()).unwrap();
        Driver {
            handle: Some(handle),
            thread: Some(thread),
            reports,
            latest: BTreeMap::new(),
        }
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.handle.as_ref().unwrap()
    }

    pub(crate) fn want(&self, paths: &[(&Path, Settings)]) {
        let paths: Vec<_> = paths.iter().map(|(path, settings)| (*path, *settings, None)).collect();
        self.want_named(&paths);
    }

    /// The same with given discriminators.
    pub(crate) fn want_named(&self, paths: &[(&Path, Settings, Option<u32>)]) {
        let sessions = paths.iter().map(|(path, settings, discriminator)| {
            let wanted = WantedSession {
                settings: *settings,
                minimum_ttl: 254,
                discriminator: discriminator.and_then(NonZeroU32::new),
            };
            (Arc::new((*path).clone()), wanted)
        });
        let sessions = sessions.collect();
        self.handle().set(Arc::new(Wanted { sessions }));
    }

    /// Waits until the status of a path satisfies.
    pub(crate) fn until(&mut self, path: &Path, what: &str, satisfies: impl Fn(&Status) -> bool) -> Status {
        let start = Instant::now();
        loop {
            if let Some(report) = self.latest.get(path)
                && satisfies(&report.status)
            {
                return report.status.clone();
            }
            let left = PATIENCE.saturating_sub(start.elapsed());
            match self.reports.recv_timeout(left) {
                Ok(report) => drop(self.latest.insert(Path::clone(&report.path), report)),
                Err(_) => panic!("{path}: not {what}: {:#?}", self.latest.get(path)),
            }
        }
    }

    pub(crate) fn up(&mut self, path: &Path) -> Status {
        self.until(path, "up", |status| status.state == State::Up)
    }

    /// The latest status.
    pub(crate) fn status(&mut self, path: &Path) -> Status {
        for report in self.reports.try_iter() {
            self.latest.insert(Path::clone(&report.path), report);
        }
        self.latest[path].status.clone()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.handle.take());
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(std::thread::panicking() || matches!(result, Ok(Ok(()))), "{result:?}");
        }
    }
}

/// Makes the calling thread nobody, without a capability. The raw system calls change one thread only.
fn drop_privileges() {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: no pointers.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY), 0);
        assert_eq!(libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY), 0);
    }
    assert!(
        unshare(CloneFlags::CLONE_NEWNET).is_err(),
        "nobody may not make namespaces"
    );
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Both intervals, in milliseconds, and the multiplier.
pub(crate) fn every(milliseconds: u64, multiplier: u8) -> Settings {
    Settings {
        receive: Duration::from_millis(milliseconds),
        transmit: Duration::from_millis(milliseconds),
        multiplier,
        passive: false,
    }
}
