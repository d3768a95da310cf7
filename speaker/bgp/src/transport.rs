//! Sockets of BGP: made with what a peer's settings ask for, before the first packet.
//!
//! [`dial`] connects, [`Listener`] accepts, [`tune`] applies to a connection what may change on it. [`task`] runs a
//! session over them.

pub(crate) mod options;
pub(crate) mod task;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;
use std::task::{Context, Poll};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{if_indextoname, if_nametoindex};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::session::Local;
use crate::settings::{Peer, Reach};

/// Network control (RFC 4594), the class of service routers give to BGP.
const TRAFFIC_CLASS: u32 = 0xc0;
/// The answer to a router that counts hops (RFC 5082) has to come with this.
const TTL_MAX: u32 = 255;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("interface {0}: {1}")]
    Interface(String, #[source] io::Error),
    #[error("VRF {0}: {1}")]
    Vrf(String, #[source] io::Error),
    #[error("password: {0}")]
    Password(#[source] io::Error),
    #[error("source address {0}: {1}")]
    Source(IpAddr, #[source] io::Error),
    #[error("{0}")]
    Socket(#[from] io::Error),
}

/// Connects to a peer.
pub(crate) async fn dial(peer: &Peer) -> Result<TcpStream, DialError> {
    let scope = match &peer.interface {
        Some(name) => {
            if_nametoindex(name.as_str()).map_err(|error| DialError::Interface(name.clone(), error.into()))?
        }
        None => 0,
    };
    let target = scoped(peer.address, peer.port, scope);
    let socket = socket(target.ip())?;
    if let Some(device) = &peer.vrf {
        let bound = socket.bind_device(Some(device.as_bytes()));
        bound.map_err(|error| DialError::Vrf(device.clone(), error))?;
    }
    if let Some(password) = &peer.password {
        options::set_md5(socket.as_fd(), target.ip(), password.expose()).map_err(DialError::Password)?;
    }
    set_reach(&socket, peer)?;
    if let Some(source) = peer.source {
        let bound = socket.bind(&scoped(source, 0, scope).into());
        bound.map_err(|error| DialError::Source(source, error))?;
    }
    let stream = TcpSocket::from_std_stream(socket.into()).connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Applies the settings that may change on a connection: its key, and how far its peer may be.
pub(crate) fn tune(stream: &TcpStream, peer: &Peer) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    if let Some(password) = &peer.password {
        options::set_md5(stream.as_fd(), peer.address, password.expose())?;
    }
    set_reach(&socket, peer)
}

/// Whether a connection that a listener accepted is this peer's.
pub(crate) fn is_from(peer: &Peer, from: SocketAddr) -> bool {
    let scope = |from: SocketAddrV6| match &peer.interface {
        Some(name) => if_nametoindex(name.as_str()).is_ok_and(|index| index == from.scope_id()),
        None => true,
    };
    peer.address == from.ip().to_canonical()
        && match from {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => scope(v6),
            _ => true,
        }
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listening {
    /// IPv6; otherwise IPv4.
    pub(crate) v6: bool,
    /// The port.
    pub(crate) port: u16,
    /// The interface of a link-local router, or the VRF device.
    pub(crate) device: Option<String>,
}

/// A socket that accepts connections of peers.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
}

impl Listener {
    /// Listens on every address.
    pub(crate) fn open(at: &Listening) -> io::Result<Listener> {
        let any: IpAddr = if at.v6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let socket = socket(any)?;
        if let Some(device) = &at.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if at.v6 {
            socket.set_only_v6(true)?;
            // One router's address may be on several links, each with a listener beside that of everywhere.
            socket.set_reuse_port(true)?;
            socket.set_unicast_hops_v6(TTL_MAX)?;
        } else {
            socket.set_ttl_v4(TTL_MAX)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(any, at.port).into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from_std(socket.into())?;
        Ok(Listener { socket })
    }

    /// Expects this key from an address, or none. Without it a connection of a peer that has a key comes to nothing.
    pub(crate) fn set_key(&self, address: IpAddr, key: Option<&[u8]>) -> io::Result<()> {
        match key {
            Some(key) => options::set_md5(self.socket.as_fd(), address, key),
            None => options::clear_md5(self.socket.as_fd(), address),
        }
    }

    /// The next connection.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        self.socket.poll_accept(cx)
    }
}

/// A stream socket of the family of `address`, that does not block.
fn socket(address: IpAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(SocketAddr::new(address, 0)),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    if address.is_ipv4() {
        socket.set_tos_v4(TRAFFIC_CLASS)?;
    } else {
        socket.set_tclass_v6(TRAFFIC_CLASS)?;
    }
    Ok(socket)
}

fn scoped(address: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => SocketAddrV6::new(v6, port, 0, scope).into(),
        _ => SocketAddr::new(address, port),
    }
}

/// The TTL of what is sent, and the least of what is let in (RFC 5082: a packet that was forwarded once has less than
/// 255).
fn ttl(peer: &Peer) -> (u8, u8) {
    match peer.reach {
        Reach::Direct if peer.is_external() => (1, 0),
        Reach::Direct | Reach::MultiHop => (255, 0),
        Reach::Secured { hops } => (255, 255 - hops.saturating_sub(1)),
    }
}

fn set_reach(socket: &Socket, peer: &Peer) -> io::Result<()> {
    let (ttl, least) = ttl(peer);
    match peer.address {
        IpAddr::V4(_) => socket.set_ttl_v4(ttl.into())?,
        IpAddr::V6(_) => socket.set_unicast_hops_v6(ttl.into())?,
    }
    options::set_minimum_ttl(socket.as_fd(), peer.address.is_ipv4(), least)
}

/// Our end of a connection, with the other addresses of its interface: next hops of the other family.
pub(crate) fn local(stream: &TcpStream) -> io::Result<Local> {
    let address = stream.local_addr()?.ip().to_canonical();
    let own: Vec<(String, IpAddr)> = getifaddrs()?
        .filter_map(|entry| {
            let storage = entry.address?;
            let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            let v6 = storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
            Some((entry.interface_name, v4.or(v6)?))
        })
        .collect();
    // One link-local address may be on several interfaces.
    let interface = match stream.local_addr()? {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => if_indextoname(v6.scope_id())?.into_string().ok(),
        _ => own
            .iter()
            .find(|(_, own)| *own == address)
            .map(|(name, _)| name.clone()),
    };
    let of_interface = || {
        own.iter()
            .filter(|(name, _)| Some(name) == interface.as_ref())
            .map(|(_, address)| *address)
    };
    let v4 = of_interface().find_map(|own| match own {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    });
    let v6 = of_interface().find_map(|own| match own {
        IpAddr::V6(v6) if !v6.is_unicast_link_local() => Some(v6),
        _ => None,
    });
    Ok(Local { address, v4, v6 })
}
