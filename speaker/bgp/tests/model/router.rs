//! A router as the other end sees it: reads every octet by RFC 4271 with a decoder of its own, and knows what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What a router was told about a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Said {
    pub(crate) as_path: Vec<u32>,
    pub(crate) next_hop: Option<IpAddr>,
    pub(crate) med: Option<u32>,
    pub(crate) local_pref: Option<u32>,
    pub(crate) communities: Vec<u32>,
    pub(crate) large: Vec<(u32, u32, u32)>,
    pub(crate) extended: Vec<u64>,
}

/// A message, cut into its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Open {
        asn: u32,
        hold_time: u16,
        router_id: Ipv4Addr,
        capabilities: Vec<(u8, Vec<u8>)>,
    },
    Update {
        announced: Vec<IpNet>,
        withdrawn: Vec<IpNet>,
        said: Said,
        end_of_rib: bool,
    },
    Notification(u8, u8, Vec<u8>),
    Keepalive,
    Refresh,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        head
    }

    fn number(&mut self, octets: usize) -> u64 {
        self.take(octets).iter().fold(0, |n, octet| n << 8 | u64::from(*octet))
    }

    fn prefixes(mut self, v6: bool) -> Vec<IpNet> {
        let mut prefixes = Vec::new();
        while !self.0.is_empty() {
            let length = self.number(1) as u8;
            let octets = self.take(usize::from(length).div_ceil(8));
            let mut address = [0; 16];
            address[..octets.len()].copy_from_slice(octets);
            prefixes.push(if v6 {
                Ipv6Net::new(address.into(), length).unwrap().into()
            } else {
                let address: [u8; 4] = address[..4].try_into().unwrap();
                Ipv4Net::new(address.into(), length).unwrap().into()
            });
        }
        prefixes
    }
}

fn address(octets: &[u8]) -> IpAddr {
    match octets.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(octets).unwrap()).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(octets).unwrap()).into(),
        length => panic!("next hop of {length} octets"),
    }
}

/// Reads one whole message.
pub(crate) fn read(message: &[u8], four_octet_asn: bool) -> Message {
    let mut reader = Reader(message);
    assert_eq!(reader.take(16), [0xff; 16]);
    assert_eq!(reader.number(2) as usize, message.len());
    match reader.number(1) {
        1 => open(reader),
        2 => update(reader, four_octet_asn),
        3 => Message::Notification(reader.number(1) as u8, reader.number(1) as u8, reader.0.to_vec()),
        4 => {
            assert!(reader.0.is_empty());
            Message::Keepalive
        }
        5 => Message::Refresh,
        kind => panic!("message type {kind}"),
    }
}

fn open(mut reader: Reader<'_>) -> Message {
    assert_eq!(reader.number(1), 4);
    let mut asn = reader.number(2) as u32;
    let hold_time = reader.number(2) as u16;
    let router_id = Ipv4Addr::from(reader.number(4) as u32);
    let mut capabilities = Vec::new();
    let length = reader.number(1) as usize;
    assert_eq!(length, reader.0.len());
    while !reader.0.is_empty() {
        assert_eq!(reader.number(1), 2, "only capabilities");
        let length = reader.number(1) as usize;
        let mut inner = Reader(reader.take(length));
        while !inner.0.is_empty() {
            let code = inner.number(1) as u8;
            let length = inner.number(1) as usize;
            let value = inner.take(length).to_vec();
            if code == 65 {
                asn = Reader(&value).number(4) as u32;
            }
            capabilities.push((code, value));
        }
    }
    Message::Open {
        asn,
        hold_time,
        router_id,
        capabilities,
    }
}

fn update(mut reader: Reader<'_>, four_octet_asn: bool) -> Message {
    let length = reader.number(2) as usize;
    let mut withdrawn = Reader(reader.take(length)).prefixes(false);
    let length = reader.number(2) as usize;
    let mut attributes = Reader(reader.take(length));
    let mut end_of_rib = length == 0 && withdrawn.is_empty();
    let mut announced = reader.prefixes(false);
    end_of_rib &= announced.is_empty();
    let (mut said, mut seen) = (Said::default(), BTreeSet::new());
    while !attributes.0.is_empty() {
        let flags = attributes.number(1);
        let kind = attributes.number(1);
        assert!(seen.insert(kind), "attribute {kind} twice");
        let length = attributes.number(if flags & 0x10 == 0 { 1 } else { 2 }) as usize;
        let mut value = Reader(attributes.take(length));
        match kind {
            1 => assert_eq!(value.number(1), 0),
            2 => {
                while !value.0.is_empty() {
                    assert_eq!(value.number(1), 2, "a sequence");
                    for _ in 0..value.number(1) {
                        said.as_path
                            .push(value.number(if four_octet_asn { 4 } else { 2 }) as u32);
                    }
                }
            }
            3 => said.next_hop = Some(address(value.0)),
            4 => said.med = Some(value.number(4) as u32),
            5 => said.local_pref = Some(value.number(4) as u32),
            8 => said.communities = value.0.chunks(4).map(|c| Reader(c).number(4) as u32).collect(),
            14 | 15 => {
                let v6 = value.number(2) == 2;
                assert_eq!(value.number(1), 1, "unicast");
                if kind == 14 {
                    let length = value.number(1) as usize;
                    said.next_hop = Some(address(value.take(length)));
                    value.number(1);
                    announced.extend(value.prefixes(v6));
                } else {
                    end_of_rib |= value.0.is_empty();
                    withdrawn.extend(value.prefixes(v6));
                }
            }
            16 => said.extended = value.0.chunks(8).map(|c| Reader(c).number(8)).collect(),
            17 => {}
            32 => {
                let word = |c: &[u8], n: usize| Reader(&c[4 * n..]).number(4) as u32;
                said.large = value
                    .0
                    .chunks(12)
                    .map(|c| (word(c, 0), word(c, 1), word(c, 2)))
                    .collect();
            }
            _ => panic!("attribute {kind}"),
        }
    }
    if !announced.is_empty() {
        assert!(seen.contains(&1) && seen.contains(&2) && said.next_hop.is_some());
    }
    Message::Update {
        announced,
        withdrawn,
        said,
        end_of_rib,
    }
}

/// What a router knows of a session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Router {
    buffer: Vec<u8>,
    /// What it holds.
    pub(crate) held: BTreeMap<IpNet, Said>,
    /// How often it was told that it has everything, over all families.
    pub(crate) ends_of_rib: usize,
    /// UPDATE messages that said something.
    pub(crate) updates: usize,
    /// The last OPEN.
    pub(crate) open: Option<Message>,
    /// NOTIFICATIONs.
    pub(crate) notifications: Vec<(u8, u8, Vec<u8>)>,
}

impl Router {
    /// Takes in bytes and answers an OPEN with this one and a KEEPALIVE; with nothing if this one is empty.
    pub(crate) fn take(&mut self, bytes: &[u8], open: &[u8]) -> Vec<u8> {
        self.buffer.extend_from_slice(bytes);
        let mut answer = Vec::new();
        while self.buffer.len() >= 19 {
            let length = usize::from(u16::from_be_bytes([self.buffer[16], self.buffer[17]]));
            assert!(length <= 4096, "a message of {length} octets");
            if self.buffer.len() < length {
                break;
            }
            let whole: Vec<u8> = self.buffer.drain(..length).collect();
            match read(&whole, true) {
                message @ Message::Open { .. } => {
                    self.open = Some(message);
                    if !open.is_empty() {
                        answer.extend_from_slice(open);
                        answer.extend(crate::wrong::message(4, &[]));
                    }
                }
                Message::Update {
                    announced,
                    withdrawn,
                    said,
                    end_of_rib,
                } => {
                    self.ends_of_rib += usize::from(end_of_rib);
                    self.updates += usize::from(!end_of_rib);
                    withdrawn.iter().for_each(|prefix| drop(self.held.remove(prefix)));
                    self.held
                        .extend(announced.into_iter().map(|prefix| (prefix, said.clone())));
                }
                Message::Notification(code, subcode, data) => self.notifications.push((code, subcode, data)),
                Message::Keepalive | Message::Refresh => {}
            }
        }
        answer
    }
}
