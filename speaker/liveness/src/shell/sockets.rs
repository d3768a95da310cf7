//! The UDP sockets of heartbeats, one for each family. The kernel notes when a datagram arrives: a thread that has stood still
//! reads old ones.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::cmsg_space;
use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;
use tracing::{debug, warn};

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
        let failed = |error| ShellError::Open { port, error };
        let v4 = open(port, false).map_err(failed)?;
        let v6 = match open(port, true) {
            Ok(socket) => Some(socket),
            // A kernel without IPv6 says one of these.
            Err(error) if matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL)) => {
                warn!(port, %error, "no heartbeats over IPv6");
                None
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Sockets { v4, v6 })
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

fn register(socket: UdpSocket) -> io::Result<AsyncFd<UdpSocket>> {
    // Here, because a socket of a predecessor may not have it.
    if let Err(error) = setsockopt(&socket, sockopt::ReceiveTimestampns, &true) {
        debug!(%error, "heartbeats count as new however long they have waited");
    }
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
    /// When it came, by the clock of the wall since 1970; `None` if the kernel does not say.
    pub(super) came: Option<Duration>,
}

/// Takes a datagram out of the socket, if there is one.
pub(super) fn receive<'a>(socket: &UdpSocket, room: &'a mut [u8]) -> io::Result<Datagram<'a>> {
    let mut control = cmsg_space!(TimeSpec);
    let (from, length, came) = {
        let mut parts = [IoSliceMut::new(room)];
        let message =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
        let came = message.cmsgs()?.find_map(|part| match part {
            ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
            _ => None,
        });
        (message.address.as_ref().and_then(address), message.bytes, came)
    };
    let from = from.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Datagram {
        from,
        bytes: room.get(..length).unwrap_or_default(),
        came,
    })
}

/// The clock of the wall, since 1970.
pub(super) fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn address(storage: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    const LAIN: Duration = Duration::from_millis(50);
    /// The clock of the wall may be on its way to the right time.
    const SLEW: Duration = Duration::from_millis(5);

    fn send(to: &UdpSocket, bytes: &[u8]) {
        let to = to.local_addr().unwrap();
        let local: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let sender = UdpSocket::bind((local, 0)).unwrap();
        sender.send_to(bytes, (local, to.port())).unwrap();
    }

    #[tokio::test]
    async fn what_has_lain_in_the_socket_came_when_it_did() {
        for v6 in [false, true] {
            let socket = open(0, v6).unwrap();
            let socket = socket.get_ref();
            // The emulator of another processor has no such option.
            let noted = getsockopt(socket, sockopt::ReceiveTimestampns).unwrap_or(false);
            let mut room = [0; 6];
            // The kernel begins to note times a little later than it is asked to, if nobody else has asked before.
            let came = (0..100).find_map(|_| {
                let before = wall();
                send(socket, b"longer than there is room for");
                std::thread::sleep(LAIN);
                let old = receive(socket, &mut room).unwrap();
                assert!(old.from.is_loopback() && old.bytes == b"longer", "{old:?}");
                assert_eq!(old.came.is_some(), noted, "{old:?}");
                old.came.filter(|came| *came < before + LAIN - SLEW)
            });
            assert_eq!(came.is_some(), noted, "IPv6: {v6}");
            send(socket, b"new");
            assert_eq!(receive(socket, &mut room).unwrap().bytes, b"new");
            let none = receive(socket, &mut room).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        }
    }
}
