//! UDP echo from the address that was asked.
//!
//! A host with several addresses would answer from whichever its routing prefers; a client that asked another one
//! drops the answer. So the address asked is read from each datagram's control message and set as the answer's source
//! (RFC 3542 section 6).

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt,
};

/// Octets of the receive queue: seconds of a prober's questions. Beyond it a pod that stands still on a busy machine
/// would lose some, and who counts losses would look for them in the network.
const QUEUE: usize = 4 << 20;

/// A socket for all addresses of both families.
pub(crate) fn bind(port: u16) -> Result<UdpSocket, String> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).map_err(|error| format!("UDP port {port}: {error}"))?;
    setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true).map_err(|error| format!("UDP port {port}: {error}"))?;
    // Only with NET_ADMIN, which tests outside of the lab do not have.
    if let Err(error) = setsockopt(&socket, sockopt::RcvBufForce, &QUEUE) {
        eprintln!("UDP port {port}: the receive queue stays short: {error}");
    }
    Ok(socket)
}

/// Answers every datagram with `name`, a space and what it carried; never returns. Goes before everything else on the machine: what
/// is lost or late shall be the network's doing, not the scheduler's.
pub(crate) fn echo(socket: &UdpSocket, name: &str) -> ! {
    if let Err(error) = ferrolb_urgency::real_time() {
        eprintln!("UDP echo: waits for a processor as others do: {error}");
    }
    let prefix = format!("{name} ");
    let mut buffer = vec![0; 65536];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    loop {
        if let Err(error) = echo_one(socket, &prefix, &mut buffer, &mut control) {
            eprintln!("UDP echo: {error}");
        }
    }
}

fn echo_one(socket: &UdpSocket, prefix: &str, buffer: &mut [u8], control: &mut [u8]) -> nix::Result<()> {
    let fd = socket.as_raw_fd();
    let (length, client, asked) = {
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrIn6>(fd, &mut parts, Some(control), MsgFlags::empty())?;
        let asked = message.cmsgs()?.find_map(|part| match part {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
            _ => None,
        });
        (message.bytes, message.address, asked)
    };
    let parts = [IoSlice::new(prefix.as_bytes()), IoSlice::new(&buffer[..length])];
    // The interface is left to routing: the answer may leave by another one than the question came in by.
    let source = asked.map(|info| libc::in6_pktinfo {
        ipi6_ifindex: 0,
        ..info
    });
    let control: Vec<ControlMessage<'_>> = source.iter().map(ControlMessage::Ipv6PacketInfo).collect();
    sendmsg(fd, &parts, &control, MsgFlags::empty(), client.as_ref()).map(drop)
}
