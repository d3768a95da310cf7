//! A raw ICMPv6 socket on one interface. Needs `CAP_NET_RAW`.
//!
//! The kernel checks and makes checksums, and lets only Router Advertisements in.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::task::{Context, Poll, ready};

use nix::ifaddrs::getifaddrs;
use nix::libc::{in6_addr, in6_pktinfo};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::advertisement::{Advertisement, HOP_LIMIT, MAX_LENGTH, Mac, TYPE_ADVERTISEMENT, emit_solicitation};
use super::link::Message;
use crate::transport::options;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// The longest advertisement that is read whole; a longer one is cut, and refused where that shows.
const ROOM: usize = 1500;
/// Octets that wait to be read.
const QUEUE: usize = 64 * 1024;

/// An interface as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    index: u32,
    /// Our address on it.
    pub(super) link_local: Ipv6Addr,
    mac: Option<Mac>,
}

/// Why an interface cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// There is none of the name.
    Missing,
    /// It is down, or IPv6 is switched off on it.
    NoLinkLocal,
}

impl Interface {
    /// The interface of this name.
    pub(super) fn look(name: &str) -> io::Result<Result<Interface, Unusable>> {
        let Ok(index) = if_nametoindex(name) else {
            return Ok(Err(Unusable::Missing));
        };
        let (mut link_local, mut mac) = (None, None);
        for address in getifaddrs()?.filter(|a| a.interface_name == name) {
            let Some(address) = address.address else { continue };
            let v6 = address.as_sockaddr_in6().map(SockaddrIn6::ip);
            link_local = link_local.or(v6.filter(Ipv6Addr::is_unicast_link_local));
            mac = mac.or(address.as_link_addr().and_then(|link| link.addr()));
        }
        Ok(link_local
            .map(|link_local| Interface { index, link_local, mac })
            .ok_or(Unusable::NoLinkLocal))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Port {
    socket: AsyncFd<Socket>,
    pub(super) interface: Interface,
}

impl Port {
    pub(super) fn open(name: &str, interface: Interface) -> io::Result<Port> {
        let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking().cloexec(), Some(Protocol::ICMPV6))?;
        options::let_in_only(socket.as_fd(), TYPE_ADVERTISEMENT)?;
        socket.bind_device(Some(name.as_bytes()))?;
        socket.set_recv_buffer_size(QUEUE)?;
        socket.set_unicast_hops_v6(HOP_LIMIT.into())?;
        socket.set_multicast_hops_v6(HOP_LIMIT.into())?;
        socket.set_multicast_loop_v6(false)?;
        setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
        // SAFETY: the descriptor is valid and owned by `socket`, which is moved into the `AsyncFd`; this type hands out no
        // way to replace it.
        let socket = unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)?;
        Ok(Port { socket, interface })
    }

    /// Sends. The kernel refuses while our address is not usable yet, or no longer.
    pub(super) fn send(&self, message: Message) -> io::Result<()> {
        let mut buffer = [0; MAX_LENGTH];
        let mac = self.interface.mac;
        let (length, to) = match message {
            Message::Solicitation => (emit_solicitation(mac, &mut buffer), ALL_ROUTERS),
            Message::Advertisement(to) => {
                let ours = Advertisement { lifetime: 0, mac };
                (ours.emit(&mut buffer), to.unwrap_or(ALL_NODES))
            }
        };
        let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, self.interface.index));
        let from = in6_pktinfo {
            ipi6_addr: in6_addr {
                s6_addr: self.interface.link_local.octets(),
            },
            ipi6_ifindex: self.interface.index,
        };
        let from = [ControlMessage::Ipv6PacketInfo(&from)];
        let data = [IoSlice::new(&buffer[..length])];
        let fd = self.socket.get_ref().as_raw_fd();
        sendmsg(fd, &data, &from, MsgFlags::empty(), Some(&to))?;
        Ok(())
    }

    /// The next advertisement that is one, and who it is from.
    pub(super) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Ipv6Addr, Advertisement)>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            match ready.try_io(|socket| receive(socket.get_ref())) {
                Ok(Ok(Some(received))) => return Poll::Ready(Ok(received)),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

/// One message; `None` if it is nothing to go by.
fn receive(socket: &Socket) -> io::Result<Option<(Ipv6Addr, Advertisement)>> {
    let mut data = [0; ROOM];
    let mut room = [IoSliceMut::new(&mut data)];
    let mut control = nix::cmsg_space!(i32);
    let message = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut room, Some(&mut control), MsgFlags::empty())?;
    let hop_limit = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv6HopLimit(limit) => u8::try_from(limit).ok(),
        _ => None,
    });
    let (source, length) = (message.address.map(|from| from.ip()), message.bytes);
    let (Some(source), Some(hop_limit)) = (source, hop_limit) else {
        return Ok(None);
    };
    let read = Advertisement::parse(&data[..length.min(ROOM)], source, hop_limit);
    Ok(read.ok().map(|read| (source, read)))
}
