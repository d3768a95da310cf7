//! Socket options that no safe crate has: TCP-MD5 keys, the least TTL let in, the ICMPv6 types let in.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_void, socklen_t};
use socket2::{SockAddr, SockAddrStorage};

use crate::settings::PASSWORD_MAX;

/// `struct tcp_md5sig` of `linux/tcp.h`.
#[repr(C)]
struct Md5Signature {
    address: SockAddrStorage,
    flags: u8,
    prefix: u8,
    length: u16,
    interface: c_int,
    key: [u8; PASSWORD_MAX],
}

/// Signs what is sent to `address` and drops what comes from there without this signature (RFC 2385). To be set before
/// the connection is made; on a connection it replaces the key from the next segment on.
pub(super) fn set_md5(socket: BorrowedFd<'_>, address: IpAddr, key: &[u8]) -> io::Result<()> {
    let mut signature = Md5Signature {
        address: SockAddr::from(SocketAddr::new(address, 0)).as_storage(),
        flags: 0,
        prefix: 0,
        length: key.len() as u16,
        interface: 0,
        key: [0; PASSWORD_MAX],
    };
    let Some(room) = signature.key.get_mut(..key.len()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    room.copy_from_slice(key);
    set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &signature)
}

/// Removes the key of an address; it is no error if there is none.
pub(super) fn clear_md5(socket: BorrowedFd<'_>, address: IpAddr) -> io::Result<()> {
    match set_md5(socket, address, &[]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// Drops what arrives with a smaller TTL; 0 lets everything in.
pub(super) fn set_minimum_ttl(socket: BorrowedFd<'_>, v4: bool, least: u8) -> io::Result<()> {
    let least = c_int::from(least);
    if v4 {
        set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &least)
    } else {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, &least)
    }
}

/// Drops what is not of this ICMPv6 type (`struct icmp6_filter` of RFC 3542: a bit that is set keeps a type out).
pub(crate) fn let_in_only(socket: BorrowedFd<'_>, of: u8) -> io::Result<()> {
    /// `linux/icmpv6.h`.
    const ICMPV6_FILTER: c_int = 1;
    let mut filter = [u32::MAX; 8];
    filter[usize::from(of) / 32] &= !(1 << (of % 32));
    set(socket, libc::IPPROTO_ICMPV6, ICMPV6_FILTER, &filter)
}

fn set<T>(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` octets from `value`, which lives until the call returns, and writes
    // nothing. The types passed are `c_int`, `[u32; 8]` and `Md5Signature`, laid out as the options ask for.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast::<c_void>(),
            size_of::<T>() as socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
