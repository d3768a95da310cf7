use super::*;

/// A connected Ethernet interface.
pub(crate) fn ethernet(index: u32, name: &str) -> InterfaceState {
    InterfaceState {
        index,
        name: name.to_owned(),
        mac: Some([2, 0, 0, 0, 0, index as u8]),
        ethernet: true,
        up: true,
        carrier: true,
        broadcast: true,
        multicast: true,
        ..InterfaceState::default()
    }
}

pub(crate) fn link(state: InterfaceState) -> Event {
    Event::Link {
        state,
        notify_peers: false,
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn gateways_follow_routes_and_go_with_an_interface_that_is_switched_off() {
    let gateways = |table: &Table| -> Vec<Vec<String>> {
        let of = |state: InterfaceState| state.gateways.iter().map(ToString::to_string).collect();
        table.states().into_iter().map(of).collect()
    };
    let one = |index: u32, gateway: &str| BTreeMap::from([(index, BTreeSet::from([gateway.parse().unwrap()]))]);
    let mut table = Table::default();
    table.apply(Event::Gateways(one(2, "192.0.2.1")));
    table.apply(link(ethernet(2, "eth0")));
    assert_eq!(gateways(&table), [["192.0.2.1"]], "heard of before its interface");
    table.apply(link(ethernet(3, "eth1")));
    table.apply(Event::Gateways(one(3, "fe80::1")));
    assert_eq!(gateways(&table), [vec![], vec!["fe80::1".to_owned()]]);
    let no_carrier = InterfaceState {
        carrier: false,
        ..ethernet(3, "eth1")
    };
    table.apply(link(no_carrier.clone()));
    assert_eq!(gateways(&table)[1], ["fe80::1"], "its routes wait for the carrier");
    table.apply(link(InterfaceState {
        up: false,
        ..no_carrier
    }));
    table.apply(link(ethernet(3, "eth1")));
    assert_eq!(gateways(&table)[1], [""; 0]);
}

#[test]
fn what_suits_an_address() {
    use Unsuitable::*;
    let with = |change: fn(&mut InterfaceState)| {
        let mut state = ethernet(2, "eth0");
        change(&mut state);
        state
    };
    type Verdict = Result<(), Unsuitable>;
    let table: [(&str, InterfaceState, Verdict, Verdict); 11] = [
        ("plain", with(|_| {}), Ok(()), Ok(())),
        ("down", with(|s| s.up = false), Err(Down), Err(Down)),
        ("unplugged", with(|s| s.carrier = false), Err(NoCarrier), Err(NoCarrier)),
        ("loopback", with(|s| s.loopback = true), Err(Loopback), Err(Loopback)),
        (
            "tunnel",
            with(|s| s.ethernet = false),
            Err(NotEthernet),
            Err(NotEthernet),
        ),
        ("no mac", with(|s| s.mac = None), Err(NotEthernet), Err(NotEthernet)),
        ("noarp", with(|s| s.noarp = true), Err(NoArp), Err(NoArp)),
        ("port", with(|s| s.master = Some(9)), Err(Enslaved), Err(Enslaved)),
        ("no broadcast", with(|s| s.broadcast = false), Err(NoBroadcast), Ok(())),
        ("no multicast", with(|s| s.multicast = false), Ok(()), Err(NoBroadcast)),
        (
            "excluded",
            with(|s| s.name = "veth12".to_owned()),
            Err(Excluded),
            Err(Excluded),
        ),
    ];
    let (four, six) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
    for (case, state, ipv4, ipv6) in table {
        let all = |address| suitable(&state, address, &InterfaceChoice::All, &NamePattern::defaults());
        assert_eq!((all(four), all(six)), (ipv4, ipv6), "{case}");
    }
}

#[test]
fn a_name_that_is_asked_for_overrules_the_exclusion_and_nothing_else() {
    let named = InterfaceChoice::Named(BTreeSet::from(["veth1".to_owned()]));
    let address = "192.0.2.1".parse().unwrap();
    let ask = |state: &InterfaceState| suitable(state, address, &named, &NamePattern::defaults());
    assert_eq!(ask(&ethernet(2, "veth1")), Ok(()));
    assert_eq!(ask(&ethernet(3, "eth0")), Err(Unsuitable::NotNamed));
    assert_eq!(
        ask(&InterfaceState {
            carrier: false,
            ..ethernet(2, "veth1")
        }),
        Err(Unsuitable::NoCarrier)
    );
}

#[test]
fn patterns_read_and_write_alike() {
    for (text, matching, other) in [
        ("eth0", "eth0", "eth01"),
        ("veth*", "veth", "xveth"),
        ("*", "anything", ""),
    ] {
        let pattern: NamePattern = text.parse().unwrap();
        assert!(pattern.matches(matching), "{text}");
        assert_eq!(pattern.matches(other), text == "*");
        assert_eq!(pattern.to_string(), text);
    }
    let excluded = |name: &str| NamePattern::defaults().iter().any(|pattern| pattern.matches(name));
    assert!(
        ["lo", "docker0", "cali1234", "kube-ipvs0", "veth9"]
            .into_iter()
            .all(excluded)
    );
    assert!(
        !["eth0", "lo1", "bond0", "br0", "ens3", "vlan7"]
            .into_iter()
            .any(excluded)
    );
}

#[test]
fn addresses_may_be_heard_of_before_their_interface() {
    let mut table = Table::default();
    table.apply(Event::Address {
        index: 2,
        address: net("192.0.2.7/24"),
    });
    assert_eq!(table.states(), []);
    table.apply(link(ethernet(2, "eth0")));
    table.apply(Event::Address {
        index: 2,
        address: net("fe80::1/64"),
    });
    assert_eq!(
        table.states()[0].addresses,
        BTreeSet::from([net("192.0.2.7/24"), net("fe80::1/64")])
    );
    table.apply(link(ethernet(2, "eth0")));
    table.apply(Event::AddressGone {
        index: 2,
        address: net("fe80::1/64"),
    });
    assert_eq!(table.states()[0].addresses, BTreeSet::from([net("192.0.2.7/24")]));

    table.apply(Event::LinkGone { index: 2 });
    table.apply(link(ethernet(2, "eth0")));
    assert_eq!(
        table.states()[0].addresses,
        BTreeSet::new(),
        "a deleted interface takes its addresses along"
    );
}

/// Incarnation and generation of interface 2.
fn numbers(table: &Table) -> (u64, u64) {
    let link = table.links().find(|link| link.state.index == 2).unwrap();
    (link.incarnation, link.generation)
}

#[test]
fn neighbours_must_hear_again_after_carrier_and_on_request_only() {
    let mut table = Table::default();
    table.apply(link(ethernet(2, "eth0")));
    let first = numbers(&table);
    table.apply(link(InterfaceState {
        mac: Some([2, 0, 0, 0, 0, 99]),
        ..ethernet(2, "eth0")
    }));
    table.apply(link(InterfaceState {
        carrier: false,
        ..ethernet(2, "eth0")
    }));
    assert_eq!(numbers(&table), first);

    table.apply(link(ethernet(2, "eth0")));
    let second = numbers(&table);
    assert_eq!(second.0, first.0);
    assert_ne!(second.1, first.1);

    table.apply(Event::Link {
        state: ethernet(2, "eth0"),
        notify_peers: true,
    });
    assert_ne!(numbers(&table).1, second.1);
}

#[test]
fn an_interface_made_anew_under_its_index_is_another() {
    let mut table = Table::default();
    table.apply(link(ethernet(2, "eth0")));
    let first = numbers(&table);
    table.apply(Event::LinkGone { index: 2 });
    table.apply(link(ethernet(2, "eth0")));
    let second = numbers(&table);
    assert!(second.0 != first.0 && second.1 != first.1);
}

#[test]
fn a_dump_replaces_everything_and_keeps_what_stays() {
    let mut table = Table::default();
    for event in [link(ethernet(2, "eth0")), link(ethernet(3, "eth1"))] {
        table.apply(event);
    }
    table.apply(Event::Address {
        index: 2,
        address: net("192.0.2.7/24"),
    });
    let first = numbers(&table);
    table.replace(vec![
        link(ethernet(2, "lan0")),
        link(ethernet(4, "eth2")),
        Event::Address {
            index: 4,
            address: net("192.0.2.8/24"),
        },
    ]);
    let seen: Vec<(u32, String, usize)> = table
        .states()
        .into_iter()
        .map(|state| (state.index, state.name, state.addresses.len()))
        .collect();
    assert_eq!(seen, [(2, "lan0".to_owned(), 0), (4, "eth2".to_owned(), 1)]);
    assert_eq!(numbers(&table), first);
}

/// The claim this module opens with: a dump taken anywhere in a history, followed by all events from any earlier point
/// on, ends where the history ends.
#[test]
fn events_older_than_a_dump_do_no_harm() {
    let history = [
        link(ethernet(2, "eth0")),
        Event::Address {
            index: 2,
            address: net("192.0.2.7/24"),
        },
        link(InterfaceState {
            carrier: false,
            ..ethernet(2, "eth0")
        }),
        Event::AddressGone {
            index: 2,
            address: net("192.0.2.7/24"),
        },
        Event::LinkGone { index: 2 },
        link(ethernet(2, "lan0")),
        Event::Address {
            index: 2,
            address: net("192.0.2.9/24"),
        },
        link(ethernet(3, "eth1")),
        Event::LinkGone { index: 3 },
        link(InterfaceState {
            master: Some(9),
            ..ethernet(2, "lan0")
        }),
    ];
    let after = |events: &[Event]| {
        let mut table = Table::default();
        events.iter().cloned().for_each(|event| table.apply(event));
        table
    };
    let dump = |table: &Table| {
        let links = table.states().into_iter().flat_map(|state| {
            let addresses = state.addresses.clone();
            let index = state.index;
            [link(state)].into_iter().chain(
                addresses
                    .into_iter()
                    .map(move |address| Event::Address { index, address }),
            )
        });
        links.collect::<Vec<_>>()
    };
    let end = after(&history).states();
    for dumped in 0..=history.len() {
        for heard in 0..=dumped {
            let mut table = Table::default();
            table.replace(dump(&after(&history[..dumped])));
            history[heard..].iter().cloned().for_each(|event| table.apply(event));
            assert_eq!(
                table.states(),
                end,
                "dump after {dumped} events, events from {heard} on"
            );
        }
    }
}
