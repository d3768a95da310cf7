//! Network namespaces with a link between them, and an engine in one of them. Everything is anonymous and ends with the
//! threads that hold it. The engine runs as nobody with CAP_NET_RAW alone.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferrolb_l2::{
    Channels, Counters, EngineError, InterfaceChoice, Mac, Note, Question, Report, Role, Settings, Snapshot, Want,
    Wanted, spawn_thread,
};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(8);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace: a thread in it that runs what it is given.
pub(crate) struct Namespace {
    jobs: Sender<Job>,
    tid: i32,
}

impl Namespace {
    /// `None` if this process may not make namespaces.
    pub(crate) fn new() -> Option<Namespace> {
        let (jobs, queue) = channel::<Job>();
        let (ready, started) = channel();
        std::thread::spawn(move || {
            let made = unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid().as_raw());
            let failed = made.is_err();
            ready.send(made).unwrap();
            if !failed {
                queue.into_iter().for_each(|job| job());
            }
        });
        match started.recv().unwrap() {
            Ok(tid) => Some(Namespace { jobs, tid }),
            Err(error) => {
                eprintln!("skipped: this process may not make a network namespace: {error}");
                None
            }
        }
    }

    /// Runs in the namespace and returns the result.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        self.jobs.send(Box::new(move || drop(done.send(job())))).unwrap();
        result.recv().expect("the job does not panic")
    }

    /// Runs a command there; its output and whether it succeeded.
    pub(crate) fn command(&self, line: &str) -> (String, bool) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let output = self.run(move || Command::new(&words[0]).args(&words[1..]).output());
        let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&text).into_owned(), output.status.success())
    }

    /// Runs `ip` there, which must succeed.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let (output, success) = self.command(&format!("ip {arguments}"));
        assert!(success, "ip {arguments}: {output}");
        output
    }

    /// The link-layer address its kernel has for a neighbour.
    pub(crate) fn neighbour(&self, address: IpAddr) -> Option<String> {
        let line = self.ip(&format!("neigh show to {address}"));
        line.split_whitespace()
            .skip_while(|word| *word != "lladdr")
            .nth(1)
            .map(str::to_owned)
    }

    /// Makes its kernel resolve an address, by sending to it.
    pub(crate) fn send_to(&self, address: IpAddr) {
        self.run(move || {
            let any: IpAddr = if address.is_ipv4() {
                [0; 4].into()
            } else {
                [0u16; 8].into()
            };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.send_to(b"x", (address, 9)).unwrap();
        });
    }

    /// Listens on an interface.
    pub(crate) fn tap(&self, interface: &str) -> Tap {
        let interface = interface.to_owned();
        self.run(move || {
            let all = i32::from((libc::ETH_P_ALL as u16).to_be());
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all.into())).unwrap();
            bind(&socket, &interface);
            Tap(socket)
        })
    }

    /// Sends frames out of an interface.
    pub(crate) fn send_frames(&self, interface: &str, frames: Vec<Vec<u8>>) {
        let interface = interface.to_owned();
        self.run(move || {
            let socket = Socket::new(Domain::PACKET, Type::RAW, None).unwrap();
            bind(&socket, &interface);
            frames
                .iter()
                .for_each(|frame| assert_eq!(socket.send(frame).unwrap(), frame.len()));
        });
    }
}

/// Sees what comes in by an interface, from the moment it is made.
pub(crate) struct Tap(Socket);

impl Tap {
    /// The next frame that satisfies.
    pub(crate) fn until(&self, what: &str, satisfies: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let frame = self.within(PATIENCE, satisfies);
        frame.unwrap_or_else(|| panic!("not within {PATIENCE:?}: {what}"))
    }

    /// The next frame that satisfies, if there is one in time.
    pub(crate) fn within(&self, patience: Duration, satisfies: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.0.set_read_timeout(Some(left)).unwrap();
            let mut frame = vec![0; 2_048];
            match (&self.0).read(&mut frame) {
                Ok(length) => frame.truncate(length),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
            if satisfies(&frame) {
                return Some(frame);
            }
        }
    }
}

fn bind(socket: &Socket, interface: &str) {
    let index = nix::net::if_::if_nametoindex(interface).unwrap();
    // SAFETY: the storage has room for a `sockaddr_ll`, which is written whole before its length is returned.
    let (_, address) = unsafe {
        socket2::SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as u16;
            (*address).sll_ifindex = index as i32;
            *length = size_of::<libc::sockaddr_ll>() as u32;
            Ok(())
        })
    }
    .unwrap();
    socket.bind(&address).unwrap();
}

/// Makes the calling thread, and those it starts, nobody with CAP_NET_RAW alone. The raw system calls change one thread
/// only.
fn drop_privileges() {
    const NOBODY: libc::uid_t = 65534;
    const CAP_NET_RAW: u32 = 1 << 13;
    const VERSION_3: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    // Effective, permitted, inheritable of the lower 32 capabilities, then of the upper.
    let sets: [u32; 6] = [CAP_NET_RAW, CAP_NET_RAW, 0, 0, 0, 0];
    // SAFETY: no pointer but those to `header` and `sets`, which have the layout capset(2) asks for and outlive it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_KEEPCAPS, 1), 0);
        assert_eq!(libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY), 0);
        assert_eq!(libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY), 0);
        assert_eq!(libc::syscall(libc::SYS_capset, &raw const header, &raw const sets), 0);
    }
    assert!(
        unshare(CloneFlags::CLONE_NEWNET).is_err(),
        "nobody may not make namespaces"
    );
}

/// Makes the kernel refuse raw IPv6 sockets to the calling thread, and to those it starts (seccomp(2)).
fn refuse_raw_sockets() {
    use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    // Where `struct seccomp_data` has the call, and of its first two arguments the lower halves.
    const CALL: u32 = 0;
    const DOMAIN: u32 = 16;
    const KIND: u32 = 24;
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = |offset| step(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
    let compare = |value, jt, jf| step(BPF_JMP | BPF_JEQ | BPF_K, value, jt, jf);
    let result = |value| step(BPF_RET | BPF_K, value, 0, 0);
    let mut program = [
        load(CALL),
        compare(libc::SYS_socket as u32, 0, 5),
        load(DOMAIN),
        compare(libc::AF_INET6 as u32, 0, 3),
        load(KIND),
        // Beside the kind there are flags.
        step(BPF_ALU | BPF_AND | BPF_K, 0xf, 0, 0),
        compare(libc::SOCK_RAW as u32, 1, 0),
        result(libc::SECCOMP_RET_ALLOW),
        result(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program, which is as long as `filter` says.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter), 0);
    }
    let refused = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
}

/// A node and a client on one segment: `eth0` and `c0`.
pub(crate) struct Lab {
    pub(crate) node: Namespace,
    pub(crate) client: Namespace,
    pub(crate) engine: Engine,
}

/// An engine in a namespace.
pub(crate) struct Engine {
    wanted: watch::Sender<Arc<Wanted>>,
    questions: mpsc::Sender<Question>,
    notes: mpsc::Receiver<Note>,
    reports: mpsc::Receiver<Report>,
    pub(crate) seen: Vec<Report>,
    counters: Arc<Counters>,
    stop: CancellationToken,
    thread: Option<JoinHandle<(Channels, Result<(), EngineError>)>>,
}

/// The node's MAC on `eth0`.
pub(crate) const NODE: &str = "02:00:00:00:00:01";
/// The client's MAC on `c0`.
pub(crate) const CLIENT: &str = "02:00:00:00:00:09";
/// The same as octets.
pub(crate) const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 9];

impl Lab {
    /// `None` if this process may not make namespaces.
    pub(crate) fn new() -> Option<Lab> {
        Lab::with(|node| Engine::start(node, 64))
    }

    /// One whose engine gets no raw sockets for IPv6.
    pub(crate) fn without_raw_sockets() -> Option<Lab> {
        Lab::with(|node| Engine::start_confined(node, 64, refuse_raw_sockets))
    }

    fn with(engine: impl FnOnce(&Namespace) -> Engine) -> Option<Lab> {
        let (node, client) = (Namespace::new()?, Namespace::new()?);
        for namespace in [&node, &client] {
            namespace.run(|| {
                // Addresses are usable at once; the tests are about other things.
                for of in ["all", "default"] {
                    std::fs::write(format!("/proc/sys/net/ipv6/conf/{of}/dad_transmits"), "0").unwrap();
                }
            });
        }
        let engine = engine(&node);
        let lab = Lab { node, client, engine };
        lab.link("eth0", NODE, "c0", CLIENT, 99);
        Some(lab)
    }

    /// A link between node and client, up on both sides, with the subnets 10.N.0.0/24 and fdN::/64.
    pub(crate) fn link(&self, node: &str, node_mac: &str, client: &str, client_mac: &str, subnet: u8) {
        let to = self.client.tid;
        self.node.ip(&format!(
            "link add {node} address {node_mac} type veth peer name {client} address {client_mac} netns {to}"
        ));
        for (namespace, name, host) in [(&self.node, node, 1), (&self.client, client, 3)] {
            namespace.ip(&format!("addr add 10.{subnet}.0.{host}/24 dev {name}"));
            namespace.ip(&format!("addr add fd{subnet}::{host}/64 dev {name} nodad"));
            namespace.ip(&format!("link set {name} up"));
        }
    }
}

/// A switch between the node (`eth1`), the client (`c1`) and a third host (`s0`).
pub(crate) struct Segment {
    pub(crate) stranger: Namespace,
    pub(crate) switch: Namespace,
}

/// The third host's MAC on `s0`.
pub(crate) const STRANGER_MAC: Mac = [2, 0, 0, 0, 0, 0x13];

impl Segment {
    /// Plugs all in; their subnets are 10.98.0.0/24 and fd98::/64.
    pub(crate) fn new(lab: &Lab) -> Segment {
        let (switch, stranger) = (Namespace::new(), Namespace::new());
        let (switch, stranger) = (switch.expect("as before"), stranger.expect("as before"));
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        let segment = Segment { stranger, switch };
        segment.plug(&lab.node, "eth1", 2);
        segment.plug(&lab.client, "c1", 8);
        segment.plug(&segment.stranger, "s0", 0x13);
        segment
    }

    /// Gives a host another card, with its port on the switch (`to-NAME`).
    pub(crate) fn plug(&self, host: &Namespace, name: &str, number: u8) {
        let (mac, to) = (format!("02:00:00:00:00:{number:02x}"), self.switch.tid);
        host.ip(&format!(
            "link add {name} address {mac} type veth peer name to-{name} netns {to}"
        ));
        self.switch.ip(&format!("link set to-{name} master br0 up"));
        host.ip(&format!("addr add 10.98.0.{number}/24 dev {name}"));
        host.ip(&format!("addr add fd98::{number}/64 dev {name} nodad"));
        host.ip(&format!("link set {name} up"));
    }
}

impl Engine {
    /// Starts one in the namespace, with a report channel of this capacity.
    pub(crate) fn start(namespace: &Namespace, capacity: usize) -> Engine {
        Engine::start_confined(namespace, capacity, || {})
    }

    /// The same, in a thread that is confined by `confine` as well.
    fn start_confined(namespace: &Namespace, capacity: usize, confine: fn()) -> Engine {
        let (wanted, wanted_out) = watch::channel(Arc::default());
        let (questions, questions_out) = mpsc::channel(64);
        let (_, announce) = mpsc::channel(1);
        let (notes_in, notes) = mpsc::channel(256);
        let (reports_in, reports) = mpsc::channel(capacity);
        let channels = Channels {
            wanted: wanted_out,
            questions: questions_out,
            announce,
            notes: notes_in,
            reports: reports_in,
        };
        let counters = Arc::new(Counters::default());
        let stop = CancellationToken::new();
        let settings = Settings {
            refresh: Duration::ZERO,
            ..Settings::default()
        };
        let (for_engine, cancelled) = (Arc::clone(&counters), stop.clone());
        let thread = namespace.run(move || {
            let start = move || {
                drop_privileges();
                confine();
                spawn_thread(settings, channels, for_engine, cancelled).unwrap()
            };
            std::thread::spawn(start).join().unwrap()
        });
        Engine {
            wanted,
            questions,
            notes,
            reports,
            seen: Vec::new(),
            counters,
            stop,
            thread: Some(thread),
        }
    }

    /// Wants this node to have a part in these addresses on every interface, and hears these peers.
    pub(crate) fn roles(&self, roles: &[(&str, Role)], peers: &[&str]) {
        let wants = roles.iter().map(|(address, role)| {
            let want = Want {
                role: role.clone(),
                ..Want::default()
            };
            (address.parse().unwrap(), want)
        });
        self.replace(Wanted {
            addresses: wants.collect(),
            peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
            ..Wanted::default()
        });
    }

    /// Wants this and nothing else.
    pub(crate) fn replace(&self, wanted: Wanted) {
        self.wanted.send_replace(Arc::new(wanted));
    }

    /// Asks for these addresses, and returns all notes until the question is over.
    pub(crate) fn ask(&mut self, id: u64, addresses: &[&str], probe: bool) -> Vec<Note> {
        let question = Question {
            id,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            interfaces: InterfaceChoice::All,
            tries: 3,
            gap: Duration::from_millis(20),
            probe,
        };
        self.questions.try_send(question).expect("the engine takes questions");
        let mut notes = Vec::new();
        loop {
            let note = self.note();
            let over = matches!(note, Note::Over { question, .. } if question == id);
            notes.push(note);
            if over {
                return notes;
            }
        }
    }

    /// Waits until what is wanted is in force.
    pub(crate) fn settle(&mut self) {
        self.ask(u64::MAX, &[], false);
    }

    /// The next note.
    pub(crate) fn note(&mut self) -> Note {
        let note = patiently(self.notes.recv()).expect("a note in time");
        note.expect("the engine runs")
    }

    /// Wants these addresses on every interface.
    pub(crate) fn want(&self, addresses: &[&str]) {
        let all = addresses
            .iter()
            .map(|address| (address.parse().unwrap(), Want::default()));
        self.wanted.send_replace(Arc::new(Wanted {
            addresses: all.collect(),
            ..Wanted::default()
        }));
    }

    /// Reads reports until one of them satisfies; all are kept in `seen`.
    pub(crate) fn until(&mut self, what: &str, mut satisfies: impl FnMut(&Report) -> bool) {
        loop {
            let report = patiently(self.reports.recv());
            let report = report.unwrap_or_else(|| panic!("no report of {what}; there were {:#?}", self.seen));
            let report = report.expect("the engine runs");
            let satisfied = satisfies(&report);
            self.seen.push(report);
            if satisfied {
                return;
            }
        }
    }

    /// Waits until an address is announced on exactly these interfaces.
    pub(crate) fn announcing(&mut self, on: &str, names: &[&str]) {
        let wanted: IpAddr = on.parse().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.until(&format!("{on} on {names:?}"), |report| match report {
            Report::Announcing { address, interfaces } => *address == wanted && interfaces.iter().eq(&names),
            _ => false,
        });
    }

    pub(crate) fn counts(&self) -> Snapshot {
        self.counters.snapshot()
    }

    /// Frames that reached the engine.
    pub(crate) fn frames(&self) -> u64 {
        let Snapshot { arp, ndp, drops, .. } = self.counts();
        arp.requests + arp.conflicts + ndp.requests + ndp.conflicts + drops.values().sum::<u64>()
    }

    /// How often the engine's thread gave up the processor of its own accord: once per wake-up.
    pub(crate) fn wakeups(&self, namespace: &Namespace) -> u64 {
        let net = |tid: &str| std::fs::read_link(format!("/proc/self/task/{tid}/ns/net")).ok();
        let home = net(&namespace.tid.to_string());
        let status = std::fs::read_dir("/proc/self/task").unwrap().find_map(|task| {
            let tid = task.ok()?.file_name().into_string().ok()?;
            let comm = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).ok()?;
            (comm.trim() == "ferrolb-l2" && net(&tid) == home)
                .then(|| std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).ok())?
        });
        let fields: BTreeMap<String, String> = status
            .expect("the engine's thread is there")
            .lines()
            .filter_map(|line| {
                line.split_once(':')
                    .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            })
            .collect();
        fields["voluntary_ctxt_switches"].parse().unwrap()
    }

    /// Stops it; how it ended.
    pub(crate) fn stop(&mut self) -> Result<(), EngineError> {
        self.stop.cancel();
        self.thread
            .take()
            .expect("it was not stopped before")
            .join()
            .expect("the engine does not panic")
            .1
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for something; `None` if it does not come.
fn patiently<T>(wait: impl Future<Output = T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime can be built");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, wait).await.ok() })
}

/// Asks until the answer is yes; the kernel tells nobody when a neighbour entry changes state.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}
