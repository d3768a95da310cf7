//! Who is told directly that an address is here now: the gateways behind the interface, and those who asked for the
//! address last. Pure.
//!
//! A gratuitous announcement is ignored by whoever has no entry for the address, and by hosts set to drop it
//! (`drop_gratuitous_arp`, `drop_unsolicited_na`). A question *from* the address that is meant for the neighbour makes
//! or renews its entry in every case (RFC 826; RFC 4861 7.2.3).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::plan::Plan;
use crate::seam::Mac;
use crate::wire::{OwnedFrame, arp, ethernet, ndp};

/// Askers remembered per address and interface; the oldest gives way.
pub const ASKERS: usize = 8;
/// Gateways asked per interface and family.
pub const GATEWAYS: usize = 4;

/// Somebody who asked for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Its address.
    pub ip: IpAddr,
    /// Its MAC.
    pub mac: Mac,
}

/// The neighbours worth telling, by interface.
#[derive(Debug, Default)]
pub struct Neighbours {
    gateways: BTreeMap<u32, Vec<IpAddr>>,
    /// By interface and address, the latest last.
    askers: HashMap<(u32, IpAddr), Vec<Asker>>,
}

impl Neighbours {
    /// Takes in what is served now; who asked for something else is forgotten.
    pub fn serve(&mut self, plan: &Plan) {
        self.askers.retain(|(index, address), _| {
            plan.get(index)
                .is_some_and(|served| served.addresses.contains_key(address))
        });
        self.gateways = plan
            .iter()
            .map(|(index, served)| {
                let of = |v4: bool| served.gateways.iter().filter(move |g| g.is_ipv4() == v4).take(GATEWAYS);
                (*index, of(true).chain(of(false)).copied().collect())
            })
            .collect();
    }

    /// `asker` asked for `address`, which is in the plan on the interface `index`.
    pub fn asked(&mut self, index: u32, address: IpAddr, asker: Asker) {
        let askers = self.askers.entry((index, address)).or_default();
        if askers.last() == Some(&asker) {
            return;
        }
        let known = askers.iter().position(|known| known.ip == asker.ip);
        if let Some(oldest) = known.or_else(|| (askers.len() >= ASKERS).then_some(0)) {
            askers.remove(oldest);
        }
        askers.push(asker);
    }

    /// The questions that tell them that `address` is at `mac`: at most [`GATEWAYS`] and [`ASKERS`] together.
    pub fn frames(&self, index: u32, address: IpAddr, mac: Mac) -> impl Iterator<Item = OwnedFrame> + '_ {
        let gateways = self.gateways.get(&index).into_iter().flatten();
        let askers = self.askers.get(&(index, address)).into_iter().flatten();
        gateways
            .map(|gateway| (*gateway, None))
            .chain(askers.map(|asker| (asker.ip, Some(asker.mac))))
            .filter(move |(neighbour, _)| *neighbour != address)
            .filter_map(move |(neighbour, at)| question(address, mac, neighbour, at))
    }
}

/// `address` asks for `neighbour`, at its MAC if that is known, else everybody who may be it; `None` if they are of two
/// families. Asked from the unspecified address it is a probe (RFC 5227 2.1.1; RFC 4861 4.3: without a source link-layer
/// address).
pub(crate) fn question(address: IpAddr, mac: Mac, neighbour: IpAddr, at: Option<Mac>) -> Option<OwnedFrame> {
    match (address, neighbour) {
        (IpAddr::V4(sender_ip), IpAddr::V4(target_ip)) => {
            let packet = arp::Repr {
                operation: arp::Operation::Request,
                sender_mac: mac,
                sender_ip,
                target_mac: [0; 6],
                target_ip,
            };
            Some(OwnedFrame::arp(mac, at.unwrap_or(ethernet::BROADCAST), &packet))
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let group = ndp::solicited_node(target);
            let packet = ndp::Repr {
                source,
                destination: if at.is_some() { target } else { group },
                message: ndp::Message::Solicitation {
                    target,
                    source_mac: (!source.is_unspecified()).then_some(mac),
                },
            };
            Some(OwnedFrame::ndp(mac, at.unwrap_or(ethernet::multicast(group)), &packet))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Served, Stance};

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn asker(host: u8, mac: u8) -> Asker {
        Asker {
            ip: [192, 0, 2, host].into(),
            mac: [2, 0, 0, 0, 1, mac],
        }
    }

    fn plan(addresses: &[&str], gateways: &[&str]) -> Plan {
        let served = Served {
            name: "eth0".to_owned(),
            mac: MAC,
            incarnation: 1,
            generation: 1,
            addresses: addresses.iter().map(|text| (ip(text), Stance::Own)).collect(),
            gateways: gateways.iter().map(|text| ip(text)).collect(),
        };
        Plan::from([(3, served)])
    }

    /// Ethernet destination, and who is asked by whom.
    fn told(neighbours: &Neighbours, address: &str) -> Vec<(Mac, String)> {
        let read = |frame: OwnedFrame| {
            let frame = ethernet::Frame::new(frame.as_bytes()).unwrap();
            let header = frame.header();
            assert_eq!(header.source, MAC);
            let text = if header.ether_type == ethernet::TYPE_ARP {
                let packet = arp::Repr::parse(&arp::Packet::new(frame.payload()).unwrap()).unwrap();
                assert_eq!((packet.operation, packet.sender_mac), (arp::Operation::Request, MAC));
                format!("{} asks {}", packet.sender_ip, packet.target_ip)
            } else {
                let packet = ndp::Repr::parse(&ndp::Packet::new(frame.payload()).unwrap()).unwrap();
                let ndp::Message::Solicitation { target, source_mac } = packet.message else {
                    panic!("{packet:?}")
                };
                assert_eq!(source_mac, Some(MAC));
                format!("{} asks {target} at {}", packet.source, packet.destination)
            };
            (header.destination, text)
        };
        neighbours.frames(3, ip(address), MAC).map(read).collect()
    }

    #[test]
    fn gateways_and_askers_of_the_family_are_asked_from_the_address() {
        let mut neighbours = Neighbours::default();
        neighbours.serve(&plan(&["192.0.2.100", "fd00::100"], &["192.0.2.1", "fe80::1"]));
        neighbours.asked(3, ip("192.0.2.100"), asker(9, 9));
        let client = Asker {
            ip: ip("fd00::9"),
            mac: [2, 0, 0, 0, 1, 9],
        };
        neighbours.asked(3, ip("fd00::100"), client);
        assert_eq!(
            told(&neighbours, "192.0.2.100"),
            [
                (ethernet::BROADCAST, "192.0.2.100 asks 192.0.2.1".to_owned()),
                ([2, 0, 0, 0, 1, 9], "192.0.2.100 asks 192.0.2.9".to_owned()),
            ]
        );
        assert_eq!(
            told(&neighbours, "fd00::100"),
            [
                (
                    [0x33, 0x33, 0xff, 0, 0, 1],
                    "fd00::100 asks fe80::1 at ff02::1:ff00:1".to_owned()
                ),
                ([2, 0, 0, 0, 1, 9], "fd00::100 asks fd00::9 at fd00::9".to_owned()),
            ]
        );
        assert_eq!(neighbours.frames(4, ip("192.0.2.100"), MAC).count(), 0);
    }

    #[test]
    fn the_latest_askers_are_remembered_with_their_latest_mac() {
        let mut neighbours = Neighbours::default();
        let address = ip("192.0.2.100");
        neighbours.serve(&plan(&["192.0.2.100"], &[]));
        for host in 1..=10 {
            neighbours.asked(3, address, asker(host, host));
        }
        neighbours.asked(3, address, asker(3, 33));
        neighbours.asked(3, address, asker(3, 33));
        let hosts: Vec<u8> = neighbours.askers[&(3, address)].iter().map(|a| a.mac[5]).collect();
        assert_eq!(hosts, [4, 5, 6, 7, 8, 9, 10, 33]);

        let many: Vec<String> = (1..=9).map(|n| format!("192.0.2.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        neighbours.serve(&plan(&["192.0.2.100"], &many));
        assert_eq!(told(&neighbours, "192.0.2.100").len(), GATEWAYS + ASKERS);

        neighbours.serve(&plan(&["192.0.2.101"], &[]));
        assert!(neighbours.askers.is_empty());
    }
}
