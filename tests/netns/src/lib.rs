//! A node and a host with a router, each in network and mount namespaces of its own, with a link between them: where
//! protocols are tried against the routers of others. Nothing of it can be seen from outside, and all of it ends with
//! the test. Needs root; whoever may not make namespaces is told so.

mod namespace;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

pub use namespace::{Namespace, Process};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The addresses of the node's end of the link, IPv4 first.
pub const NODE: [&str; 2] = ["10.99.0.1", "fd99::1"];
/// The addresses of the router's end of the link.
pub const ROUTER: [&str; 2] = ["10.99.0.9", "fd99::9"];

/// See the module. Both ends of the link are called `eth0`.
pub struct Lab {
    /// Where what is tested runs.
    pub node: Namespace,
    /// Where the router runs.
    pub host: Namespace,
}

impl Lab {
    /// `None` if this process may not make namespaces.
    pub fn new() -> Option<Lab> {
        let (node, host) = (Namespace::new()?, Namespace::new()?);
        node.ip(&format!("link add eth0 type veth peer name eth0 netns {}", host.tid()));
        for (namespace, addresses) in [(&node, NODE), (&host, ROUTER)] {
            namespace.ip(&format!("addr add {}/24 dev eth0", addresses[0]));
            namespace.ip(&format!("addr add {}/64 dev eth0", addresses[1]));
            namespace.ip("link set eth0 up");
        }
        Some(Lab { node, host })
    }
}

/// Asks until there is an answer; routers tell nobody when they have changed their mind.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Makes the calling thread, and those it starts, nobody, without a capability. The raw system calls change one thread
/// only.
pub fn drop_privileges() {
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

/// The same, but for `CAP_NET_RAW`.
pub fn drop_privileges_but_raw() {
    const VERSION_3: u32 = 0x2008_0522;
    const NET_RAW: u32 = 1 << 13;
    /// `struct __user_cap_header_struct` and two of `struct __user_cap_data_struct`.
    #[repr(C)]
    struct Header(u32, i32);
    #[repr(C)]
    struct Data([u32; 3], [u32; 3]);
    // SAFETY: no pointers; the flag belongs to this thread and keeps what is permitted over the change of the user.
    unsafe { assert_eq!(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0), 0) };
    drop_privileges();
    let (header, data) = (Header(VERSION_3, 0), Data([NET_RAW, NET_RAW, 0], [0; 3]));
    // SAFETY: the kernel reads both, which live until the call returns, and changes the calling thread alone.
    unsafe { assert_eq!(libc::syscall(libc::SYS_capset, &raw const header, &raw const data), 0) };
}

/// An address that is one.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
