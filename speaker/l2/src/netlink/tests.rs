//! Messages as the kernel sends them, made here byte by byte from rtnetlink(7), if_link.h and the drivers.

use super::*;
use crate::interfaces::{NamePattern, could_announce, suitable};
use crate::seam::InterfaceChoice;

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const AF_UNSPEC: u8 = 0;
const AF_BRIDGE: u8 = 7;
const ETHER: u16 = 1;

const UP: u32 = 0x1;
const BROADCAST: u32 = 0x2;
const LOOPBACK: u32 = 0x8;
const RUNNING: u32 = 0x40;
const NOARP: u32 = 0x80;
const MASTER: u32 = 0x400;
const SLAVE: u32 = 0x800;
const MULTICAST: u32 = 0x1000;
const LOWER_UP: u32 = 0x1_0000;
/// A connected Ethernet link.
const CONNECTED: u32 = UP | BROADCAST | RUNNING | MULTICAST | LOWER_UP;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EVENT: u16 = 44;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_PORT_KIND: u16 = 4;
const INFO_PORT_DATA: u16 = 5;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_ne_bytes())
}

/// An `ifinfomsg` and its attributes, as one message.
fn message(kind: u16, family: u8, index: u32, flags: u32, attributes: &[Vec<u8>]) -> Heard {
    let device = if flags & LOOPBACK != 0 { 772 } else { ETHER };
    let mut bytes = vec![family, 0];
    bytes.extend(device.to_ne_bytes());
    bytes.extend([index, flags, 0].map(u32::to_ne_bytes).as_flattened());
    bytes.extend(attributes.concat());
    let length = u32::try_from(16 + bytes.len()).unwrap();
    let mut whole = length.to_ne_bytes().to_vec();
    whole.extend([kind, 0].map(u16::to_ne_bytes).as_flattened());
    whole.extend([0u32; 2].map(u32::to_ne_bytes).as_flattened());
    whole.extend(bytes);
    heard(NetlinkMessage::deserialize(&whole).expect("a message that can be read"))
}

/// RTM_NEWLINK of a link with its name and MAC.
fn new_link(index: u32, name: &str, flags: u32, more: &[Vec<u8>]) -> Heard {
    let mac = attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, index as u8]);
    let attributes = [&[text(IFLA_IFNAME, name), mac], more].concat();
    message(NEWLINK, AF_UNSPEC, index, flags, &attributes)
}

/// IFLA_LINKINFO of a device of this kind.
fn of_kind(kind: &str, data: &[Vec<u8>]) -> Vec<u8> {
    let info = [text(INFO_KIND, kind), attribute(INFO_DATA, &data.concat())];
    attribute(IFLA_LINKINFO, &info.concat())
}

/// IFLA_MASTER and IFLA_LINKINFO of a port of a device of this kind.
fn port_of(master: u32, kind: &str, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut info = text(INFO_PORT_KIND, kind);
    if !data.is_empty() {
        info.extend(attribute(INFO_PORT_DATA, &data.concat()));
    }
    vec![number(IFLA_MASTER, master), attribute(IFLA_LINKINFO, &info)]
}

fn table(messages: impl IntoIterator<Item = Heard>) -> Table {
    let mut table = Table::default();
    for message in messages {
        match message {
            Heard::Event(event) => table.apply(event),
            Heard::Routes | Heard::Lost | Heard::Other => {}
        }
    }
    table
}

fn state(table: &Table, index: u32) -> &InterfaceState {
    &table
        .links()
        .find(|link| link.state.index == index)
        .expect("it is there")
        .state
}

/// A machine with one of each: what is a port is skipped for its master, but a member of a VRF, which answers itself.
fn everything() -> Vec<Heard> {
    // IFLA_BOND_SLAVE_STATE, _MII_STATUS, _LINK_FAILURE_COUNT, _PERM_HWADDR, _QUEUE_ID.
    let bond_port = [
        attribute(1, &[0]),
        attribute(2, &[0]),
        number(3, 0),
        attribute(4, &[2, 0, 0, 0, 0, 2]),
        attribute(5, &[0, 0]),
    ];
    // IFLA_BRPORT_STATE, forwarding.
    let bridge_port = [attribute(1, &[3])];
    // IFLA_VRF_PORT_TABLE.
    let vrf_port = [number(1, 100)];
    // IFLA_BOND_MODE active-backup, IFLA_BOND_ACTIVE_SLAVE.
    let bond = of_kind("bond", &[attribute(1, &[1]), number(2, 2)]);
    // IFLA_VLAN_ID and IFLA_VLAN_PROTOCOL 802.1Q.
    let vlan = of_kind("vlan", &[attribute(1, &7u16.to_ne_bytes()), attribute(5, &[0x81, 0])]);
    // IFLA_VRF_TABLE.
    let vrf = of_kind("vrf", &[number(1, 100)]);
    // IFLA_MACVLAN_MODE bridge.
    let macvlan = of_kind("macvlan", &[number(1, 4)]);
    vec![
        new_link(1, "lo", UP | LOOPBACK | RUNNING | LOWER_UP, &[]),
        new_link(2, "eth0", CONNECTED | SLAVE, &port_of(10, "bond", &bond_port)),
        new_link(3, "eth1", CONNECTED | SLAVE, &port_of(10, "bond", &bond_port)),
        new_link(4, "eth2", CONNECTED, &port_of(12, "bridge", &bridge_port)),
        new_link(5, "eth3", CONNECTED, &port_of(13, "team", &[])),
        new_link(6, "eth4", CONNECTED, &port_of(14, "vrf", &vrf_port)),
        new_link(7, "eth5", CONNECTED, &[]),
        new_link(10, "bond0", CONNECTED | MASTER, &[bond]),
        new_link(11, "bond0.7", CONNECTED, &[number(IFLA_LINK, 10), vlan]),
        new_link(12, "br0", CONNECTED, &[of_kind("bridge", &[])]),
        new_link(13, "team0", CONNECTED, &[of_kind("team", &[])]),
        new_link(14, "red", UP | RUNNING | NOARP | MASTER | LOWER_UP, &[vrf]),
        new_link(15, "mac0", CONNECTED, &[number(IFLA_LINK, 7), macvlan]),
    ]
}

#[test]
fn ports_are_skipped_for_their_master_and_members_of_a_vrf_are_not() {
    let table = table(everything());
    let fits = |link: &&Link| {
        let address = [192, 0, 2, 1].into();
        suitable(&link.state, address, &InterfaceChoice::All, &NamePattern::defaults()).is_ok()
    };
    let fit: Vec<&str> = table
        .links()
        .filter(fits)
        .map(|link| link.state.name.as_str())
        .collect();
    assert_eq!(fit, ["eth4", "eth5", "bond0", "bond0.7", "br0", "team0", "mac0"]);
    let masters = [2, 3, 4, 5, 6, 7].map(|index| state(&table, index).master);
    assert_eq!(masters, [Some(10), Some(10), Some(12), Some(13), None, None]);
    assert_eq!((state(&table, 6).vrf, state(&table, 7).vrf), (Some(14), None));
    assert!(!could_announce(state(&table, 14)), "a VRF has no segment");
}

#[test]
fn a_port_that_leaves_is_an_interface_again() {
    // del_nbp of the bridge driver: RTM_DELLINK of its family, then the link without a master. A bond or VRF only the
    // latter.
    for index in [2, 4, 5, 6] {
        let bridge = message(
            DELLINK,
            AF_BRIDGE,
            index,
            CONNECTED,
            &[text(IFLA_IFNAME, "eth"), number(IFLA_MASTER, 12)],
        );
        let table = table(
            everything()
                .into_iter()
                .chain([bridge, new_link(index, "eth", CONNECTED, &[])]),
        );
        let left = state(&table, index);
        assert_eq!((left.master, left.vrf), (None, None));
        assert!(could_announce(left));
    }
}

#[test]
fn messages_of_the_bridge_family_are_about_ports_and_not_links() {
    let port = [text(IFLA_IFNAME, "eth5"), number(IFLA_MASTER, 12)];
    for kind in [NEWLINK, DELLINK] {
        let of_bridge = message(kind, AF_BRIDGE, 7, UP, &port);
        let table = table(everything().into_iter().chain([of_bridge]));
        assert!(state(&table, 7).running());
        assert_eq!(state(&table, 7).master, None);
    }
}

#[test]
fn a_rename_a_new_mac_a_lost_carrier_and_the_end_are_taken_from_one_message_each() {
    let then = |message: Heard| table(everything().into_iter().chain([message]));
    assert_eq!(state(&then(new_link(7, "lan0", CONNECTED, &[])), 7).name, "lan0");
    let mac = [
        text(IFLA_IFNAME, "eth5"),
        attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 0x77]),
    ];
    let moved = then(message(NEWLINK, AF_UNSPEC, 7, CONNECTED, &mac));
    assert_eq!(state(&moved, 7).mac, Some([2, 0, 0, 0, 0, 0x77]));
    let unplugged = then(new_link(7, "eth5", UP | BROADCAST | MULTICAST, &[]));
    assert!(state(&unplugged, 7).up && !state(&unplugged, 7).running());
    let gone = then(message(DELLINK, AF_UNSPEC, 7, 0, &[text(IFLA_IFNAME, "eth5")]));
    assert!(gone.links().all(|link| link.state.index != 7));
}

#[test]
fn a_bond_that_changes_ports_wants_its_neighbours_told() {
    let generation = |table: &Table| table.links().find(|link| link.state.index == 10).unwrap().generation;
    let mut table = table(everything());
    let first = generation(&table);
    // IFLA_EVENT_REBOOT and _FEATURES say nothing to neighbours; _BONDING_FAILOVER and _NOTIFY_PEERS do.
    for (event, news) in [(1, false), (2, false), (3, true), (4, true)] {
        let before = generation(&table);
        let Heard::Event(event) = new_link(10, "bond0", CONNECTED | MASTER, &[number(IFLA_EVENT, event)]) else {
            panic!("a link")
        };
        table.apply(event);
        assert_eq!(generation(&table) != before, news);
    }
    assert_ne!(generation(&table), first);
}

#[test]
fn a_link_without_an_address_of_six_octets_is_there_and_of_no_use() {
    let infiniband = [text(IFLA_IFNAME, "ib0"), attribute(IFLA_ADDRESS, &[1; 20])];
    let none = [text(IFLA_IFNAME, "tun0")];
    let zero = [text(IFLA_IFNAME, "eth0"), attribute(IFLA_ADDRESS, &[0; 6])];
    for attributes in [&infiniband[..], &none, &zero] {
        let table = table([message(NEWLINK, AF_UNSPEC, 3, CONNECTED, attributes)]);
        assert_eq!(state(&table, 3).mac, None);
        assert!(!could_announce(state(&table, 3)));
    }
}

#[test]
fn carriers_are_asked_for_where_addresses_are_and_of_some_others_that_are_used() {
    let mut table = table(everything());
    table.apply(Event::Address {
        index: 11,
        address: "192.0.2.1/24".parse().unwrap(),
    });
    assert_eq!(looked_at(&table, &BTreeSet::new()), [11]);
    // 4 is a port of a bridge, 14 a VRF.
    assert_eq!(looked_at(&table, &BTreeSet::from([4, 7, 11, 14])), [11, 7]);
    let Heard::Event(unplugged) = new_link(7, "eth5", UP | BROADCAST | MULTICAST, &[]) else {
        panic!("a link")
    };
    table.apply(unplugged);
    assert_eq!(looked_at(&table, &BTreeSet::from([7])), [11]);

    for index in 20..120 {
        let Heard::Event(pod) = new_link(index, "pod", CONNECTED, &[]) else {
            panic!("a link")
        };
        table.apply(pod);
    }
    let looked_at = looked_at(&table, &(20..120).collect());
    assert_eq!(looked_at[0], 11, "before all that have no subnet");
    assert_eq!(looked_at.len(), 1 + LOOKED_AT_WITHOUT_SUBNET);
}
