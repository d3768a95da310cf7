//! Who has an address, asked in raw frames: ARP (RFC 826) and neighbour discovery (RFC 4861).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pnet::datalink::{self, Channel, Config, DataLinkReceiver, DataLinkSender, NetworkInterface};
use pnet::packet::Packet;
use pnet::packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet::packet::icmpv6::ndp::{
    MutableNdpOptionPacket, MutableNeighborSolicitPacket, NdpOptionTypes, NeighborAdvertPacket,
};
use pnet::packet::icmpv6::{self, Icmpv6Packet, Icmpv6Types};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet::util::MacAddr;

use super::frames::{find, next_frame};

/// How often a receiver looks at the clock.
const TICK: Duration = Duration::from_millis(10);
const ETHERNET: usize = 14;
const ARP: usize = 28;
const IPV6: usize = 40;
/// A neighbour solicitation with one link-layer address option.
const SOLICITATION: usize = 32;

/// One answer about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Who says that it has the address: the MAC address inside the answer.
    pub mac: MacAddr,
    /// Which MAC address the frame came from.
    pub source: MacAddr,
    /// How long after the question.
    pub after: Duration,
}

/// All the answers to one question.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replies(pub Vec<Reply>);

impl Replies {
    /// The MAC addresses that answered, each once.
    pub fn macs(&self) -> BTreeSet<MacAddr> {
        self.0.iter().map(|reply| reply.mac).collect()
    }

    /// The one that answered, in lower case with colons; `None` when nobody did or when several MAC addresses did.
    pub fn only(&self) -> Option<String> {
        let macs = self.macs();
        (macs.len() == 1).then(|| macs.iter().map(MacAddr::to_string).collect())
    }

    /// Whether nobody answered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An ARP request with everything in it chosen. [`ArpProbe::new`] gives the plain question; what deviates is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArpProbe {
    /// The address asked for.
    pub target: Ipv4Addr,
    /// The asker's address; 0.0.0.0 is the probe of RFC 5227. `None`: the interface's own.
    pub sender: Option<Ipv4Addr>,
    /// The asker's MAC address. `None`: the interface's own.
    pub sender_mac: Option<MacAddr>,
    /// To whom the frame goes; everybody, unless set.
    pub destination: MacAddr,
    /// 1 is a request, 2 a reply.
    pub operation: u16,
}

impl ArpProbe {
    /// The question of an ordinary host.
    pub fn new(target: Ipv4Addr) -> Self {
        Self {
            target,
            sender: None,
            sender_mac: None,
            destination: MacAddr::broadcast(),
            operation: 1,
        }
    }
}

/// One line of the kernel's neighbour table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The address.
    pub address: IpAddr,
    /// Its MAC address, if it is known.
    pub mac: Option<String>,
    /// What the kernel thinks of the entry: `REACHABLE`, `STALE`, `FAILED` and so on.
    pub state: String,
}

/// Reads a line of `ip neighbour show`.
pub(super) fn parse(line: &str) -> Option<Neighbour> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mac = words
        .iter()
        .position(|word| *word == "lladdr")
        .and_then(|at| words.get(at + 1));
    Some(Neighbour {
        address: words.first()?.parse().ok()?,
        mac: mac.map(|mac| (*mac).to_owned()),
        state: (*words.last()?).to_owned(),
    })
}

/// An interface open for frames.
struct Port {
    interface: NetworkInterface,
    mac: MacAddr,
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

impl Port {
    fn open(name: &str) -> Result<Self> {
        let interface = find(name)?;
        let mac = interface.mac.with_context(|| format!("{name} has no MAC address"))?;
        let config = Config {
            read_timeout: Some(TICK),
            ..Config::default()
        };
        match datalink::channel(&interface, config).with_context(|| format!("open {name} for frames"))? {
            Channel::Ethernet(sender, receiver) => Ok(Self {
                interface,
                mac,
                sender,
                receiver,
            }),
            _ => bail!("{name} is no Ethernet interface"),
        }
    }

    /// Sends `frame` and collects what `read` makes of the frames that come, for `patience`.
    fn ask(
        &mut self,
        frame: &[u8],
        patience: Duration,
        read: impl Fn(&EthernetPacket<'_>) -> Option<MacAddr>,
    ) -> Result<Replies> {
        let asked = Instant::now();
        self.sender
            .send_to(frame, None)
            .context("no room to send")?
            .context("send")?;
        let mut replies = Replies::default();
        while asked.elapsed() < patience {
            let Some(packet) = next_frame(self.receiver.as_mut())? else {
                continue;
            };
            let Some(frame) = EthernetPacket::new(packet) else {
                continue;
            };
            if let Some(mac) = read(&frame) {
                replies.0.push(Reply {
                    mac,
                    source: frame.get_source(),
                    after: asked.elapsed(),
                });
            }
        }
        Ok(replies)
    }
}

/// Asks who has `address`.
pub(super) fn resolve(interface: &str, address: IpAddr, patience: Duration) -> Result<Replies> {
    match address {
        IpAddr::V4(target) => arp_probe(interface, &ArpProbe::new(target), patience),
        IpAddr::V6(target) => solicit(interface, target, patience),
    }
}

/// Sends `probe` and collects the ARP replies about its target.
pub(super) fn arp_probe(interface: &str, probe: &ArpProbe, patience: Duration) -> Result<Replies> {
    let mut port = Port::open(interface)?;
    let own = port.interface.ips.iter().find_map(|network| match network.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let sender = probe
        .sender
        .or(own)
        .with_context(|| format!("{interface} has no IPv4 address"))?;
    let frame = arp_frame(probe, probe.sender_mac.unwrap_or(port.mac), sender);
    port.ask(&frame, patience, |frame| arp_reply(frame, probe.target))
}

fn arp_frame(probe: &ArpProbe, mac: MacAddr, sender: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0; ETHERNET + ARP];
    let mut frame = MutableEthernetPacket::new(&mut bytes).expect("the length is enough");
    frame.set_destination(probe.destination);
    frame.set_source(mac);
    frame.set_ethertype(EtherTypes::Arp);
    let mut arp = MutableArpPacket::new(&mut bytes[ETHERNET..]).expect("the length is enough");
    arp.set_hardware_type(ArpHardwareTypes::Ethernet);
    arp.set_protocol_type(EtherTypes::Ipv4);
    arp.set_hw_addr_len(6);
    arp.set_proto_addr_len(4);
    arp.set_operation(pnet::packet::arp::ArpOperation(probe.operation));
    arp.set_sender_hw_addr(mac);
    arp.set_sender_proto_addr(sender);
    arp.set_target_proto_addr(probe.target);
    bytes
}

/// The MAC address that an ARP reply gives for `target`.
fn arp_reply(frame: &EthernetPacket<'_>, target: Ipv4Addr) -> Option<MacAddr> {
    if frame.get_ethertype() != EtherTypes::Arp {
        return None;
    }
    let arp = ArpPacket::new(frame.payload())?;
    let answers = arp.get_operation() == ArpOperations::Reply && arp.get_sender_proto_addr() == target;
    answers.then(|| arp.get_sender_hw_addr())
}

/// Sends a neighbour solicitation for `target` to its solicited-node group and collects the advertisements.
fn solicit(interface: &str, target: Ipv6Addr, patience: Duration) -> Result<Replies> {
    let mut port = Port::open(interface)?;
    let own = port.interface.ips.iter().filter_map(|network| match network.ip() {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    });
    // Global first: what a host asks with for a global target.
    let source = own.min_by_key(Ipv6Addr::is_unicast_link_local);
    let source = source.with_context(|| format!("{interface} has no IPv6 address"))?;
    let frame = solicitation(port.mac, source, target);
    port.ask(&frame, patience, |frame| advertisement(frame, target))
}

/// The solicited-node group of an address (RFC 4291 section 2.7.1).
fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

fn solicitation(mac: MacAddr, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let group = solicited_node(target);
    let [.., a, b, c, d] = group.octets();
    let mut bytes = vec![0; ETHERNET + IPV6 + SOLICITATION];
    let mut frame = MutableEthernetPacket::new(&mut bytes).expect("the length is enough");
    frame.set_destination(MacAddr::new(0x33, 0x33, a, b, c, d));
    frame.set_source(mac);
    frame.set_ethertype(EtherTypes::Ipv6);
    let mut ip = MutableIpv6Packet::new(&mut bytes[ETHERNET..]).expect("the length is enough");
    ip.set_version(6);
    ip.set_payload_length(SOLICITATION as u16);
    ip.set_next_header(IpNextHeaderProtocols::Icmpv6);
    // Receivers drop anything that could have come through a router (RFC 4861 section 7.1.1).
    ip.set_hop_limit(255);
    ip.set_source(source);
    ip.set_destination(group);
    let body = &mut bytes[ETHERNET + IPV6..];
    let mut solicit = MutableNeighborSolicitPacket::new(body).expect("the length is enough");
    solicit.set_icmpv6_type(Icmpv6Types::NeighborSolicit);
    solicit.set_target_addr(target);
    let mut option = MutableNdpOptionPacket::new(&mut body[24..]).expect("the length is enough");
    option.set_option_type(NdpOptionTypes::SourceLLAddr);
    option.set_length(1);
    option.set_data(&mac.octets());
    let checksum = icmpv6::checksum(&Icmpv6Packet::new(body).expect("the length is enough"), &source, &group);
    body[2..4].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The MAC address that a neighbour advertisement gives for `target`: its option's, or else the frame's source.
fn advertisement(frame: &EthernetPacket<'_>, target: Ipv6Addr) -> Option<MacAddr> {
    if frame.get_ethertype() != EtherTypes::Ipv6 {
        return None;
    }
    let ip = Ipv6Packet::new(frame.payload())?;
    if ip.get_next_header() != IpNextHeaderProtocols::Icmpv6 || ip.get_hop_limit() != 255 {
        return None;
    }
    let icmp = Icmpv6Packet::new(ip.payload())?;
    let valid = icmp.get_checksum() == icmpv6::checksum(&icmp, &ip.get_source(), &ip.get_destination());
    if icmp.get_icmpv6_type() != Icmpv6Types::NeighborAdvert || !valid {
        return None;
    }
    let advert = NeighborAdvertPacket::new(ip.payload())?;
    if advert.get_target_addr() != target {
        return None;
    }
    let options = advert.get_options();
    let option = options
        .iter()
        .find(|option| option.option_type == NdpOptionTypes::TargetLLAddr);
    match option.map(|option| option.data.as_slice()) {
        Some([a, b, c, d, e, f, ..]) => Some(MacAddr::new(*a, *b, *c, *d, *e, *f)),
        _ => Some(frame.get_source()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_neighbour_table_is_read() {
        let found = |line| parse(line).unwrap();
        assert_eq!(
            found("172.30.0.100 dev eth0 lladdr 02:00:ac:1e:00:0b REACHABLE"),
            Neighbour {
                address: "172.30.0.100".parse().unwrap(),
                mac: Some("02:00:ac:1e:00:0b".into()),
                state: "REACHABLE".into(),
            }
        );
        assert_eq!(
            found("fd00:30::64 dev eth0 lladdr 02:00:00:00:00:01 router STALE").state,
            "STALE"
        );
        assert_eq!(found("172.30.0.101 dev eth0 FAILED").mac, None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn an_arp_question_has_the_bytes_of_rfc_826() {
        let frame = arp_frame(
            &ArpProbe::new(Ipv4Addr::new(172, 30, 0, 100)),
            MacAddr::new(2, 0, 0, 0, 0, 1),
            Ipv4Addr::new(172, 30, 0, 20),
        );
        let expected = [
            &[0xff; 6][..],
            &[2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &[2, 0, 0, 0, 0, 1, 172, 30, 0, 20],
            &[0, 0, 0, 0, 0, 0, 172, 30, 0, 100],
        ]
        .concat();
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_solicitation_goes_to_the_solicited_node_group_with_a_good_checksum() {
        let (source, target) = ("fd00:30::20".parse().unwrap(), "fd00:30::12:3456".parse().unwrap());
        let frame = solicitation(MacAddr::new(2, 0, 0, 0, 0, 1), source, target);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        let ip = Ipv6Packet::new(&frame[ETHERNET..]).unwrap();
        assert_eq!(ip.get_destination(), "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        let icmp = Icmpv6Packet::new(ip.payload()).unwrap();
        assert_eq!(
            icmp.get_checksum(),
            icmpv6::checksum(&icmp, &ip.get_source(), &ip.get_destination())
        );
        assert_eq!(&ip.payload()[24..], [1, 1, 2, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn several_answers_are_not_one() {
        let reply = |last| Reply {
            mac: MacAddr::new(2, 0, 0, 0, 0, last),
            source: MacAddr::new(2, 0, 0, 0, 0, last),
            after: Duration::ZERO,
        };
        assert_eq!(
            Replies(vec![reply(1), reply(1)]).only().as_deref(),
            Some("02:00:00:00:00:01")
        );
        assert_eq!(Replies(vec![reply(1), reply(2)]).only(), None);
        assert_eq!(Replies::default().only(), None);
    }
}
