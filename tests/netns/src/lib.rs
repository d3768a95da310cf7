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

/// An address that is one.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
