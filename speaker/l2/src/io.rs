//! Packet sockets: one per interface and protocol, filtered from the first frame on; and raw sockets for solicitations that
//! nobody has to be woken for.
//!
//! A socket is made without a protocol, gets its filter, and only then is bound to interface and protocol: nothing
//! unfiltered is ever queued. ARP is received by its EtherType. Neighbor Discovery is received from all protocols with
//! a filter, because a socket for IPv6 alone makes the kernel copy every IPv6 packet; such a socket still costs a
//! hundred nanoseconds per packet of the interface, so it should exist only while it is needed, and there is no second one:
//! a raw ICMPv6 socket costs nothing but for the messages it passes. A thread waits for its sockets by [`Waits`], a task by
//! [`Watched`]. All `unsafe` of this crate is here.

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, RawFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::counters::Family;
use crate::filter::{self, Instruction};
use crate::wire::OwnedFrame;

/// Frames read by one system call.
pub(crate) const BATCH: usize = 64;
/// Longest frame read: Neighbor Discovery fits the usual MTU.
const FRAME: usize = 1600;
/// Room for some hundred frames that arrive while the thread is not scheduled, in octets.
const RECEIVE_BUFFER: usize = 256 * 1024;

/// A frame of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received<'a> {
    /// The whole frame.
    Frame(&'a [u8]),
    /// It was longer than the buffer.
    TooLong,
}

/// Room for the frames of one read; shared by all sockets of the thread.
pub(crate) struct Batch {
    buffers: Box<[[u8; FRAME]; BATCH]>,
    received: [(usize, bool); BATCH],
    /// Who sent each, of what came by a raw socket.
    sources: Box<[libc::sockaddr_in6; BATCH]>,
    count: usize,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        Batch {
            buffers: Box::new([[0; FRAME]; BATCH]),
            received: [(0, false); BATCH],
            // SAFETY: `sockaddr_in6` is integers and arrays of them; all zeroes is a value of it.
            sources: Box::new(unsafe { zeroed() }),
            count: 0,
        }
    }

    /// The frames of the last read.
    pub(crate) fn frames(&self) -> impl Iterator<Item = Received<'_>> {
        self.buffers
            .iter()
            .zip(&self.received)
            .take(self.count)
            .map(|(buffer, (length, truncated))| {
                if *truncated {
                    Received::TooLong
                } else {
                    Received::Frame(&buffer[..*length])
                }
            })
    }

    /// The same of messages that came by a raw socket, with the IPv6 sources.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (Ipv6Addr, Received<'_>)> {
        self.sources
            .iter()
            .map(|source| Ipv6Addr::from(source.sin6_addr.s6_addr))
            .zip(self.frames())
    }

    /// Did the last read find nothing?
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Did the last read fill all buffers, so that there may be more?
    pub(crate) fn is_full(&self) -> bool {
        self.count == BATCH
    }
}

/// A packet socket bound to one interface and protocol.
pub(crate) struct PacketSocket(Socket);

impl PacketSocket {
    /// Opens a socket that receives what the filter lets through. Needs `CAP_NET_RAW`.
    pub(crate) fn open(family: Family, index: u32, filter: &[Instruction]) -> io::Result<PacketSocket> {
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        attach(&socket, filter)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        let protocol = match family {
            Family::Arp => libc::ETH_P_ARP,
            Family::Ndp => {
                let on: libc::c_int = 1;
                set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &on)?;
                libc::ETH_P_ALL
            }
        };
        bind(&socket, protocol as u16, index)?;
        Ok(PacketSocket(socket))
    }

    /// May this process open packet sockets?
    pub(crate) fn permitted() -> io::Result<()> {
        Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None).map(drop)
    }

    /// Exchanges the filter; no frame passes in between that neither of the two lets through.
    pub(crate) fn set_filter(&self, filter: &[Instruction]) -> io::Result<()> {
        attach(&self.0, filter)
    }

    /// Reads one frame, with as little between the wire and the caller as can be: most come alone. An empty batch means
    /// that nothing was there.
    pub(crate) fn receive_one(&self, batch: &mut Batch) -> io::Result<()> {
        batch.count = 0;
        let buffer = &mut batch.buffers[0];
        // SAFETY: the descriptor is open and `buffer` is valid for writes of the length given.
        let result = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                FRAME,
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
            )
        };
        // The length of the frame, of which there may be more than the buffer holds.
        let Ok(length) = usize::try_from(result) else {
            return or_nothing(Err(io::Error::last_os_error()));
        };
        batch.received[0] = (length.min(FRAME), length > FRAME);
        batch.count = 1;
        Ok(())
    }

    /// Reads what is queued, up to a batch. An empty batch means that nothing is left.
    pub(crate) fn receive(&self, batch: &mut Batch) -> io::Result<()> {
        batch.count = 0;
        or_nothing(receive(&self.0, batch, Sources::Unasked))
    }

    /// Sends frames in order until all are sent or one cannot be; returns how many were, and why not all.
    pub(crate) fn send(&self, frames: &[OwnedFrame]) -> (usize, Option<io::Error>) {
        let mut sent = 0;
        while sent < frames.len() {
            match send(&self.0, &frames[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (sent, Some(error)),
            }
        }
        (sent, None)
    }

    /// Frames the kernel dropped because the queue was full, since the last call.
    pub(crate) fn dropped(&self) -> io::Result<u64> {
        // SAFETY: `tpacket_stats` is two integers; all zeroes is a value of it.
        let mut stats: libc::tpacket_stats = unsafe { zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the descriptor is open, `stats` and `length` are valid for writes of the size given.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        check(result).map(|_| u64::from(stats.tp_drops))
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A raw ICMPv6 socket bound to one interface, for solicitations alone. The kernel hands it copies of those that its own IPv6
/// takes in: sent to a group that is joined there, past the firewall, with a right checksum.
pub(crate) struct SolicitationSocket(Socket);

impl SolicitationSocket {
    /// Opens a socket that receives nothing yet. Needs `CAP_NET_RAW`.
    pub(crate) fn open(index: u32) -> io::Result<SolicitationSocket> {
        let index = libc::c_int::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
        let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking().cloexec(), Some(Protocol::ICMPV6))?;
        attach(&socket, &filter::nothing())?;
        // What does not pass this one is not even copied.
        set_option(&socket, libc::IPPROTO_ICMPV6, ICMP6_FILTER, &SOLICITATIONS_ONLY)?;
        set_option(&socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, &index)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        // Unlike a packet socket it received from the moment it was made: of every kind, and on every interface.
        loop {
            match socket.recv(&mut [MaybeUninit::uninit()]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(SolicitationSocket(socket))
    }

    /// Exchanges the filter, as [`PacketSocket::set_filter`] does.
    pub(crate) fn set_filter(&self, filter: &[Instruction]) -> io::Result<()> {
        attach(&self.0, filter)
    }

    /// Reads ICMPv6 messages that are queued, up to a batch ([`Batch::messages`]).
    pub(crate) fn receive(&self, batch: &mut Batch) -> io::Result<()> {
        batch.count = 0;
        or_nothing(receive(&self.0, batch, Sources::Asked))
    }
}

/// Of `linux/icmpv6.h`.
const ICMP6_FILTER: libc::c_int = 1;
/// A bit is set for each type that is kept out.
const SOLICITATIONS_ONLY: [u32; 8] = {
    const TYPE: usize = 135;
    let mut blocked = [u32::MAX; 8];
    blocked[TYPE / 32] = !(1 << (TYPE % 32));
    blocked
};
/// Of `asm-generic/socket.h`, since Linux 5.0.
const SO_BINDTOIFINDEX: libc::c_int = 62;

/// A packet socket that a runtime watches.
pub(crate) struct Watched(AsyncFd<PacketSocket>);

impl Watched {
    /// Has the runtime of the caller watch it.
    pub(crate) fn new(socket: PacketSocket) -> io::Result<Watched> {
        // SAFETY: the descriptor is valid and owned by `socket`, which is moved into the `AsyncFd`; this type lends it
        // for reading and writing only, so it stays open and the same until both are dropped together.
        let fd = unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)?;
        Ok(Watched(fd))
    }

    /// The socket, to read from and send on.
    pub(crate) fn socket(&self) -> &PacketSocket {
        self.0.get_ref()
    }

    /// Ready when there may be something to read; the next time for what comes after this.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_read_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }
}

/// Descriptors that a thread waits for, in the order they were given.
#[derive(Default)]
pub(crate) struct Waits(Vec<libc::pollfd>);

impl Waits {
    /// Forgets them all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Waits for this one to be readable, too.
    pub(crate) fn push(&mut self, descriptor: &impl AsRawFd) {
        self.0.push(libc::pollfd {
            fd: descriptor.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
    }

    /// Waits until one of them is readable or has failed, or the time is over; without a time, for ever.
    pub(crate) fn wait(&mut self, time: Option<Duration>) -> io::Result<()> {
        // The types differ between the C libraries; no engine waits for longer than 31 bits of seconds.
        let time = time.map(|time| libc::timespec {
            tv_sec: time.as_secs().min(i32::MAX as u64) as _,
            tv_nsec: time.subsec_nanos() as _,
        });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the vector holds as many `pollfd` as its length says, which the kernel reads and writes; `time` is null
        // or points to a `timespec`; the mask of signals is null, which leaves it as it is.
        let result = unsafe {
            libc::ppoll(
                self.0.as_mut_ptr(),
                self.0.len() as libc::nfds_t,
                time,
                std::ptr::null(),
            )
        };
        match check(result) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.0.iter_mut().for_each(|entry| entry.revents = 0);
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// Was the descriptor that was given as this one, from 0 on, readable or failed at the last wait?
    pub(crate) fn is_ready(&self, place: usize) -> bool {
        self.0.get(place).is_some_and(|entry| entry.revents != 0)
    }
}

/// That nothing is there is no error.
fn or_nothing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result,
    }
}

fn attach(socket: &Socket, filter: &[Instruction]) -> io::Result<()> {
    let filter: Vec<SockFilter> = filter
        .iter()
        .map(|instruction| {
            let Instruction { code, jt, jf, k } = *instruction;
            SockFilter::new(code, jt, jf, k)
        })
        .collect();
    socket.attach_filter(&filter)
}

fn set_option<T>(socket: &Socket, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the descriptor is open and `value` is valid for reads of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(result).map(drop)
}

fn bind(socket: &Socket, protocol: u16, index: u32) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is integers and an array of them; all zeroes is a value of it.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open and `address` is a `sockaddr_ll`, whose size is given.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    check(result).map(drop)
}

/// Whether flags have a sign differs between the C libraries.
const DONT_WAIT: libc::c_int = libc::MSG_DONTWAIT;

/// Does the reader want to know who sent each?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sources {
    Asked,
    Unasked,
}

fn receive(socket: &Socket, batch: &mut Batch, sources: Sources) -> io::Result<()> {
    let mut vectors: [libc::iovec; BATCH] = std::array::from_fn(|index| libc::iovec {
        iov_base: batch.buffers[index].as_mut_ptr().cast(),
        iov_len: FRAME,
    });
    // SAFETY: `mmsghdr` is integers and pointers; all zeroes is a value of it, with null pointers.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    for (header, vector) in headers.iter_mut().zip(&mut vectors) {
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
    }
    if sources == Sources::Asked {
        for (header, source) in headers.iter_mut().zip(batch.sources.iter_mut()) {
            header.msg_hdr.msg_name = std::ptr::from_mut(source).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        }
    }
    // SAFETY: the descriptor is open; every header points to one vector and every vector to a buffer of the length it
    // says, and to no address or to room for one of the length it says; all of them outlive the call.
    let result = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            BATCH as libc::c_uint,
            DONT_WAIT as _,
            std::ptr::null_mut(),
        )
    };
    batch.count = check(result)?;
    for (received, header) in batch.received.iter_mut().zip(&headers) {
        *received = (header.msg_len as usize, header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0);
    }
    Ok(())
}

fn send(socket: &Socket, frames: &[OwnedFrame]) -> io::Result<usize> {
    if let [frame] = frames {
        // Most go alone. A datagram is sent as a whole or not at all.
        return socket.send(frame.as_bytes()).map(|_| 1);
    }
    let frames = &frames[..frames.len().min(BATCH)];
    // SAFETY: both are integers and pointers; all zeroes is a value of them, with null pointers.
    let (mut vectors, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { zeroed() };
    for ((header, vector), frame) in headers.iter_mut().zip(&mut vectors).zip(frames) {
        vector.iov_base = frame.as_bytes().as_ptr().cast_mut().cast();
        vector.iov_len = frame.as_bytes().len();
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: the descriptor is open; each of the first `frames.len()` headers points to one vector and that to the
    // bytes of a frame, which the kernel only reads; all outlive the call.
    let result = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            frames.len() as libc::c_uint,
            DONT_WAIT as _,
        )
    };
    check(result)
}

/// A negative result is an error, any other a count.
fn check(result: libc::c_int) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
