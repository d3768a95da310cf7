//! UDP sockets. One for each family, port and VRF receives for all sessions; each session sends from one of its own.
//!
//! Linux has no least TTL for UDP, so the TTL comes with each packet and is judged in [`crate::demux`].
//!
//! A link-local router hears this node from its link-local address or not at all. While the kernel still tries out
//! whether that address is taken (RFC 4862 section 5.4) it would send from a global one, and the router would take the
//! packets for those of its session with the global one.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc::{in6_addr, in6_pktinfo};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::demux::{Arrival, SINGLE_HOP_TTL};
use crate::packet::LENGTH;
use crate::seam::Path;

/// Source ports of sessions (RFC 5881 section 4).
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
/// Source ports tried before a session is left for later.
const SOURCE_PORTS_TRIED: u32 = 64;
/// Precedence of network control (CS6), as routers mark their packets.
const TRAFFIC_CLASS: u32 = 0xc0;
/// Octets of the receive queue. With what the kernel counts for each packet it holds less than [`QUEUE_PACKETS`].
const QUEUE: usize = 256 * 1024;
/// More packets than the receive queue of a socket holds.
pub(crate) const QUEUE_PACKETS: usize = 1024;
/// Room for a packet; the rest of a longer one is cut off and means nothing.
const ROOM: usize = 64;

/// What a receiver is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Door {
    pub(crate) v6: bool,
    pub(crate) multi_hop: bool,
    pub(crate) vrf: Option<String>,
}

impl Door {
    /// The one that packets of a path come in by.
    pub(crate) fn of(path: &Path) -> Door {
        Door {
            v6: path.peer.is_ipv6(),
            multi_hop: path.multi_hop,
            vrf: path.vrf.clone(),
        }
    }

    /// The port of RFC 5881 section 4, or that of RFC 5883 section 4.
    pub(crate) fn port(&self) -> u16 {
        port(self.multi_hop)
    }
}

fn port(multi_hop: bool) -> u16 {
    if multi_hop { 4784 } else { 3784 }
}

fn unspecified(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

fn open(v6: bool, device: Option<&str>) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), None)?;
    if v6 {
        socket.set_only_v6(true)?;
    }
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    Ok(socket)
}

/// The index of an interface.
pub(crate) fn index(interface: &str) -> io::Result<u32> {
    Ok(if_nametoindex(interface)?)
}

/// A socket that receives.
pub(crate) struct Receiver {
    socket: Socket,
    door: Door,
    control: Vec<u8>,
}

impl Receiver {
    pub(crate) fn open(door: Door) -> io::Result<Receiver> {
        let socket = open(door.v6, door.vrf.as_deref())?;
        if door.v6 {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
        }
        socket.set_recv_buffer_size(QUEUE)?;
        socket.bind(&SocketAddr::new(unspecified(door.v6), door.port()).into())?;
        Ok(Receiver::resume(door, socket.into()))
    }

    /// Receives by a socket that another process had opened.
    pub(crate) fn resume(door: Door, socket: OwnedFd) -> Receiver {
        let control = nix::cmsg_space!(in6_pktinfo, i32);
        let socket = socket.into();
        Receiver { socket, door, control }
    }

    /// The socket.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.socket.into()
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads a packet and hands it on; false if there is none.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(Arrival<'_>, &[u8])) -> io::Result<bool> {
        let mut data = [0; ROOM];
        let mut room = [IoSliceMut::new(&mut data)];
        let fd = self.socket.as_raw_fd();
        let message = match recvmsg::<SockaddrStorage>(fd, &mut room, Some(&mut self.control), MsgFlags::empty()) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(false),
            Err(Errno::EINTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let source = message.address.as_ref().and_then(address);
        let (mut to, mut ttl) = (None, None);
        for part in message.cmsgs()? {
            match part {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    let address = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                    to = u32::try_from(info.ipi_ifindex).ok().map(|i| (address.into(), i));
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    to = Some((address.into(), info.ipi6_ifindex));
                }
                ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                    ttl = u8::try_from(value).ok();
                }
                _ => {}
            }
        }
        let length = message.bytes;
        // The kernel tells all of it for every packet.
        if let (Some(source), Some((destination, interface)), Some(ttl)) = (source, to, ttl) {
            let arrival = Arrival {
                source,
                destination,
                interface,
                vrf: self.door.vrf.as_deref(),
                multi_hop: self.door.multi_hop,
                ttl,
            };
            each(arrival, &data[..length.min(ROOM)]);
        }
        Ok(true)
    }
}

fn address(storage: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// A socket that sends for one session.
pub(crate) struct Sender {
    socket: Socket,
    to: SocketAddr,
    /// Where it sends to a link-local router from. The kernel looks at it for each packet: it refuses one that is not,
    /// not yet or no longer an address of the interface.
    from: Option<in6_pktinfo>,
}

impl Sender {
    /// `random` chooses source ports. The interface index is that of the path.
    pub(crate) fn open(path: &Path, interface: Option<u32>, mut random: impl FnMut() -> u32) -> io::Result<Sender> {
        let v6 = path.peer.is_ipv6();
        let device = path.interface.as_deref().or(path.vrf.as_deref());
        let socket = open(v6, device)?;
        if v6 {
            socket.set_unicast_hops_v6(SINGLE_HOP_TTL.into())?;
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
        } else {
            socket.set_ttl_v4(SINGLE_HOP_TTL.into())?;
            socket.set_tos_v4(TRAFFIC_CLASS)?;
        }
        // Nothing is read from it; what strangers send to it shall not be kept.
        socket.set_recv_buffer_size(0)?;
        let local = path.local.unwrap_or(unspecified(v6));
        let mut tries = SOURCE_PORTS_TRIED;
        loop {
            let ports = u32::from(SOURCE_PORTS.end() - SOURCE_PORTS.start()) + 1;
            let source = SOURCE_PORTS.start() + (random() % ports) as u16;
            tries -= 1;
            match socket.bind(&with_scope(local, source, interface).into()) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        Sender::resume(path, interface, socket.into())
    }

    /// Sends from a socket that another process had opened for the same path and interface.
    pub(crate) fn resume(path: &Path, interface: Option<u32>, socket: OwnedFd) -> io::Result<Sender> {
        let socket = socket.into();
        let to = with_scope(path.peer, port(path.multi_hop), interface);
        let from = match (to, path.local, path.interface.as_deref()) {
            (SocketAddr::V6(to), None, Some(name)) if to.ip().is_unicast_link_local() => Some(in6_pktinfo {
                ipi6_addr: in6_addr {
                    s6_addr: link_local(name)?.octets(),
                },
                ipi6_ifindex: to.scope_id(),
            }),
            _ => None,
        };
        Ok(Sender { socket, to, from })
    }

    /// The socket.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.socket.into()
    }

    pub(crate) fn send(&self, packet: &[u8; LENGTH]) -> io::Result<()> {
        let from = self.from.as_ref().map(ControlMessage::Ipv6PacketInfo);
        let (fd, to) = (self.socket.as_raw_fd(), SockaddrStorage::from(self.to));
        sendmsg(
            fd,
            &[IoSlice::new(packet)],
            from.as_slice(),
            MsgFlags::empty(),
            Some(&to),
        )?;
        Ok(())
    }
}

/// The link-local address of an interface.
fn link_local(interface: &str) -> io::Result<Ipv6Addr> {
    getifaddrs()?
        .filter(|found| found.interface_name == interface)
        .filter_map(|found| Some(found.address?.as_sockaddr_in6()?.ip()))
        .find(Ipv6Addr::is_unicast_link_local)
        .ok_or_else(|| {
            let text = format!("{interface} has no link-local address");
            io::Error::new(io::ErrorKind::AddrNotAvailable, text)
        })
}

/// A link-local address needs the interface's index beside it.
fn with_scope(address: IpAddr, port: u16, interface: Option<u32>) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => SocketAddrV6::new(v6, port, 0, interface.unwrap_or(0)).into(),
        _ => SocketAddr::new(address, port),
    }
}

/// Throws away what waits to be read.
pub(crate) fn drain(socket: &Socket) -> io::Result<Drained> {
    let mut data = [MaybeUninit::uninit(); ROOM];
    loop {
        match socket.recv(&mut data) {
            Ok(0) => return Ok(Drained::Closed),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Drained::Open),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether there may be more to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// There may.
    Open,
    /// The other end is gone.
    Closed,
}
