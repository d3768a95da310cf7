//! The UDP sockets of heartbeats, one for each family. The kernel notes when a datagram arrives: a thread that has stood still
//! reads old ones.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;
use tracing::warn;

use super::ShellError;

/// Precedence of network control (CS6).
const TRAFFIC_CLASS: u32 = 0xc0;
/// Octets of a receive queue: half a minute of heartbeats for a thread that stands still.
const QUEUE: usize = 1024 * 1024;

/// A socket for each family the node has.
pub(super) struct Sockets {
    v4: AsyncFd<UdpSocket>,
    v6: Option<AsyncFd<UdpSocket>>,
}

impl Sockets {
    pub(super) fn open(port: u16) -> Result<Sockets, ShellError> {
        let v4 = open(port, false).map_err(|error| ShellError::Open { port, error })?;
        let v6 = open(port, true).inspect_err(|error| warn!(port, %error, "no heartbeats over IPv6"));
        Ok(Sockets { v4, v6: v6.ok() })
    }

    /// Goes on with those of another guard.
    pub(super) fn resume((v4, v6): (OwnedFd, Option<OwnedFd>)) -> io::Result<Sockets> {
        let v6 = v6.map(|socket| register(socket.into())).transpose()?;
        Ok(Sockets {
            v4: register(v4.into())?,
            v6,
        })
    }

    pub(super) fn into_fds(self) -> (OwnedFd, Option<OwnedFd>) {
        let fd = |socket: AsyncFd<UdpSocket>| socket.into_inner().into();
        (fd(self.v4), self.v6.map(fd))
    }

    /// The one of a family, if there is one.
    pub(super) fn of(&self, v6: bool) -> Option<&UdpSocket> {
        let socket = if v6 { self.v6.as_ref() } else { Some(&self.v4) };
        socket.map(AsyncFd::get_ref)
    }

    /// Waits until one of them can be read. Whoever waited has to read all there is.
    pub(super) async fn readable(&self) -> io::Result<()> {
        let six = async {
            match &self.v6 {
                Some(socket) => socket.readable().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ready = self.v4.readable() => ready?.clear_ready(),
            ready = six => ready?.clear_ready(),
        }
        Ok(())
    }
}

fn open(port: u16, v6: bool) -> io::Result<AsyncFd<UdpSocket>> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), None)?;
    let any: IpAddr = if v6 {
        socket.set_only_v6(true)?;
        socket.set_tclass_v6(TRAFFIC_CLASS)?;
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        socket.set_tos_v4(TRAFFIC_CLASS)?;
        Ipv4Addr::UNSPECIFIED.into()
    };
    socket.set_recv_buffer_size(QUEUE)?;
    socket.bind(&SocketAddr::new(any, port).into())?;
    register(socket.into())
}

/// A socket of a predecessor may not note times yet.
fn register(socket: UdpSocket) -> io::Result<AsyncFd<UdpSocket>> {
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    // SAFETY: the socket owns its valid descriptor and is moved into the `AsyncFd`, which hands out only shared references
    // to it: it stays open and the same until both are dropped together, or it is taken out.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

/// What a socket had.
#[derive(Debug)]
pub(super) struct Datagram<'a> {
    pub(super) from: IpAddr,
    /// As many as there is room for.
    pub(super) bytes: &'a [u8],
    /// How long it has lain in the socket, by the clock of the wall; `None` if the kernel does not say.
    pub(super) age: Option<Duration>,
}

/// Takes a datagram out of the socket, if there is one.
pub(super) fn receive<'a>(socket: &UdpSocket, room: &'a mut [u8]) -> io::Result<Datagram<'a>> {
    let mut control = cmsg_space!(TimeSpec);
    let (from, length, arrived) = {
        let mut parts = [IoSliceMut::new(room)];
        let message =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
        let arrived = message.cmsgs()?.find_map(|part| match part {
            ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
            _ => None,
        });
        (message.address.as_ref().and_then(address), message.bytes, arrived)
    };
    let from = from.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Datagram {
        from,
        bytes: room.get(..length).unwrap_or_default(),
        age: arrived.map(|arrived| wall.saturating_sub(arrived)),
    })
}

fn address(storage: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_has_lain_in_the_socket_is_as_old_as_it_is() {
        const LAIN: Duration = Duration::from_millis(120);
        for v6 in [false, true] {
            let local: IpAddr = match v6 {
                true => Ipv6Addr::LOCALHOST.into(),
                false => Ipv4Addr::LOCALHOST.into(),
            };
            let socket = open(0, v6).unwrap();
            let port = socket.get_ref().local_addr().unwrap().port();
            let sender = UdpSocket::bind((local, 0)).unwrap();
            sender.send_to(b"longer than there is room for", (local, port)).unwrap();
            std::thread::sleep(LAIN);
            sender.send_to(b"new", (local, port)).unwrap();
            let mut room = [0; 6];
            let old = receive(socket.get_ref(), &mut room).unwrap();
            assert_eq!((old.from, old.bytes), (local, b"longer".as_slice()));
            let age = old.age.unwrap();
            assert!(age >= LAIN, "{age:?}");
            let new = receive(socket.get_ref(), &mut room).unwrap();
            assert_eq!(new.bytes, b"new");
            assert!(new.age.unwrap() < age, "{:?}", new.age);
            let none = receive(socket.get_ref(), &mut room).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        }
    }
}
