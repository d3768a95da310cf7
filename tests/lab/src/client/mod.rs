//! What a machine on the LAN can do to a Service: ask it by HTTP, TCP and UDP, ask who has its address, keep asking
//! while something happens.
//!
//! A [`Client`] is a host's namespace and nothing else: every call opens its own sockets inside. ARP and neighbour
//! discovery are spoken in frames of [`pnet`], an implementation that shares no code with what is tested.

mod asker;
pub(crate) mod frames;
mod http;
mod neighbours;
mod prober;
mod steady;

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::net::Namespace;

pub use asker::Asker;
pub use http::Response;
pub use neighbours::{ArpProbe, Neighbour, Replies, Reply};
pub use prober::{Loss, Probe, Prober, Tally};
pub use steady::{Steady, SteadyResult};

/// The interface by which hosts are on the LAN.
const LAN_INTERFACE: &str = "eth0";

/// Somebody on the LAN, or in a pod or on a node: wherever the namespace is.
#[derive(Debug, Clone)]
pub struct Client {
    namespace: Namespace,
    interface: String,
}

impl Client {
    /// A client in `namespace`, on the LAN by its `eth0`.
    pub fn new(namespace: &Namespace) -> Self {
        Self {
            namespace: namespace.clone(),
            interface: LAN_INTERFACE.to_owned(),
        }
    }

    /// Where it is.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// `GET path` over a connection of its own, with `host` as the Host header.
    ///
    /// # Errors
    /// When there is no whole answer within `timeout`; a status that says failure is an answer.
    pub fn http_get(&self, address: IpAddr, port: u16, host: &str, path: &str, timeout: Duration) -> Result<Response> {
        let target = SocketAddr::new(address, port);
        let answer = self.namespace.run(|| http::get(target, host, path, timeout))?;
        answer.with_context(|| format!("GET http://{target}{path} (host {host})"))
    }

    /// Sends `payload` over a TCP connection, says that this was all, and returns everything that comes back.
    ///
    /// # Errors
    /// When connecting, sending or receiving fails or takes longer than `timeout`.
    pub fn tcp(&self, target: SocketAddr, payload: &[u8], timeout: Duration) -> Result<Vec<u8>> {
        let exchange = || -> io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect_timeout(&target, timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            stream.write_all(payload)?;
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        };
        self.namespace.run(exchange)?.with_context(|| format!("TCP {target}"))
    }

    /// An open TCP connection, to see what becomes of it.
    ///
    /// # Errors
    /// When it cannot be made within `timeout`, which becomes its read timeout too.
    pub fn tcp_connect(&self, target: SocketAddr, timeout: Duration) -> Result<TcpStream> {
        let connect = || -> io::Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&target, timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            Ok(stream)
        };
        self.namespace.run(connect)?.with_context(|| format!("TCP {target}"))
    }

    /// Sends one datagram and returns the answer, which has to come from `target`.
    ///
    /// # Errors
    /// When none comes within `timeout`.
    pub fn udp(&self, target: SocketAddr, payload: &[u8], timeout: Duration) -> Result<Vec<u8>> {
        let exchange = || -> io::Result<Vec<u8>> {
            let socket = udp_socket(target, timeout)?;
            socket.send(payload)?;
            let mut buffer = vec![0; 65536];
            let length = socket.recv(&mut buffer)?;
            buffer.truncate(length);
            Ok(buffer)
        };
        self.namespace.run(exchange)?.with_context(|| format!("UDP {target}"))
    }

    /// Asks the LAN by ARP or neighbour solicitation who has `address`, and collects every answer for `patience`.
    ///
    /// # Errors
    /// When frames cannot be sent or received.
    pub fn resolve(&self, address: IpAddr, patience: Duration) -> Result<Replies> {
        self.namespace
            .run(|| neighbours::resolve(&self.interface, address, patience))?
    }

    /// Asks who has `address` again and again, until stopped.
    pub fn asker(&self, address: IpAddr) -> Result<Asker> {
        Asker::start(self.clone(), address)
    }

    /// Sends a crafted ARP request, and collects every ARP answer about its target for `patience`.
    ///
    /// # Errors
    /// When frames cannot be sent or received.
    pub fn arp_probe(&self, probe: &ArpProbe, patience: Duration) -> Result<Replies> {
        self.namespace
            .run(|| neighbours::arp_probe(&self.interface, probe, patience))?
    }

    /// The kernel's neighbour table.
    ///
    /// # Errors
    /// When the `ip` program fails.
    pub fn neighbours(&self) -> Result<Vec<Neighbour>> {
        let table = self.namespace.output("ip", &["neighbour", "show"])?;
        Ok(table.lines().filter_map(neighbours::parse).collect())
    }

    /// The MAC address that the kernel has for `address`, in lower case with colons; `None` when it knows none.
    ///
    /// # Errors
    /// When the `ip` program fails.
    pub fn neighbour(&self, address: IpAddr) -> Result<Option<String>> {
        let found = self.neighbours()?.into_iter().find(|entry| entry.address == address);
        Ok(found.and_then(|entry| entry.mac))
    }

    /// Empties the kernel's neighbour table, so that the next packet asks anew. Packets that wait for an answer at that moment are
    /// lost: [`Client::forget_neighbour`] keeps them.
    ///
    /// # Errors
    /// When the `ip` program fails.
    pub fn flush_neighbours(&self) -> Result<()> {
        for family in ["-4", "-6"] {
            self.namespace.output("ip", &[family, "neighbour", "flush", "all"])?;
        }
        Ok(())
    }

    /// Forgets the MAC address of `address`, so that the next packet asks anew. A question that is under way goes on, and the
    /// packets that wait for its answer are not lost, as they would be in a table that is emptied. The entry itself stays: a
    /// packet that is being sent while its entry is deleted is lost, too.
    ///
    /// # Errors
    /// When the `ip` program fails.
    pub fn forget_neighbour(&self, address: IpAddr) -> Result<()> {
        if self.neighbour(address)?.is_some() {
            let address = address.to_string();
            let args = ["neighbour", "change", &address, "dev", &self.interface, "nud", "none"];
            self.namespace.output("ip", &args)?;
        }
        Ok(())
    }

    /// Starts to ask `target` every `period` in the background until the prober is stopped.
    ///
    /// # Errors
    /// When the prober's first socket cannot be made.
    pub fn probe(&self, target: SocketAddr, probe: Probe, period: Duration) -> Result<Prober> {
        if period.is_zero() {
            bail!("a prober needs a period");
        }
        Prober::start(&self.namespace, target, probe, period)
    }

    /// Starts to fetch `path` every `period` in the background, one request after the other, each retried once.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn steady_http(&self, target: SocketAddr, host: &str, path: &str, period: Duration) -> Result<Steady> {
        Steady::start(&self.namespace, target, host, path, period)
    }
}

/// A UDP socket that sends to and receives from `target` alone.
fn udp_socket(target: SocketAddr, timeout: Duration) -> io::Result<UdpSocket> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(timeout))?;
    Ok(socket)
}
