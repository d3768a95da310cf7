use proptest::prelude::*;

use super::*;
use crate::interfaces::tests::{ethernet, link};
use crate::interfaces::{Event, InterfaceState, Table, suitable};
use crate::seam::{Manner, Want};

fn table(names: &[&str]) -> Table {
    let mut table = Table::default();
    for (index, name) in (1u32..).zip(names) {
        table.apply(link(ethernet(index, name)));
    }
    table
}

#[test]
fn every_address_is_on_every_interface_that_suits_it() {
    let named = |name: &str| InterfaceChoice::Named(BTreeSet::from([name.to_owned()]));
    let want = |interfaces| Want {
        interfaces,
        ..Want::default()
    };
    let (everywhere, one, nowhere): (IpAddr, IpAddr, IpAddr) = (
        "192.0.2.1".parse().unwrap(),
        "2001:db8::2".parse().unwrap(),
        "192.0.2.3".parse().unwrap(),
    );
    let wanted = Wanted {
        addresses: BTreeMap::from([
            (everywhere, want(InterfaceChoice::All)),
            (one, want(named("veth1"))),
            (nowhere, want(named("eth9"))),
        ]),
        ..Wanted::default()
    };
    let table = table(&["eth0", "veth1", "eth2", "cni0"]);
    let plan = plan(&wanted, table.links(), &NamePattern::defaults(), &Plan::new());

    let placed: Vec<(u32, Vec<IpAddr>)> = plan
        .iter()
        .map(|(index, served)| (*index, served.owned().collect()))
        .collect();
    assert_eq!(placed, [(1, vec![everywhere]), (2, vec![one]), (3, vec![everywhere])]);

    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(
        announcing(&wanted, &plan),
        BTreeMap::from([
            (everywhere, names(&["eth0", "eth2"])),
            (one, names(&["veth1"])),
            (nowhere, names(&[]))
        ])
    );
    for link in table.links() {
        for (address, want) in &wanted.addresses {
            let planned = plan.get(&link.state.index).is_some_and(|served| served.owns(*address));
            let suits = suitable(&link.state, *address, &want.interfaces, &NamePattern::defaults()).is_ok();
            assert_eq!(planned, suits, "{address} on {}", link.state.name);
        }
    }
}

#[test]
fn a_role_holds_where_it_can_and_only_what_is_owned_is_announced() {
    let owner = [2, 0, 0, 0, 0, 0x99];
    let roles = [
        Role::Own,
        Role::StandIn(BTreeMap::from([("eth0".to_owned(), owner)])),
        Role::Listen,
    ];
    let addresses = [1, 2, 3].map(|host| IpAddr::from([192, 0, 2, host]));
    let wants = roles.map(|role| Want {
        role,
        ..Want::default()
    });
    let wanted = Wanted {
        addresses: addresses.into_iter().zip(wants).collect(),
        ..Wanted::default()
    };
    let plan = plan(&wanted, table(&["eth0", "eth1"]).links(), &[], &Plan::new());
    let stances = |index: u32| addresses.map(|address| plan[&index].addresses[&address]);
    assert_eq!(stances(1), [Stance::Own, Stance::StandIn(owner), Stance::Listen]);
    assert_eq!(
        stances(2),
        [Stance::Own, Stance::Listen, Stance::Listen],
        "the owner's MAC on this segment is not known"
    );
    assert_eq!(
        announcing(&wanted, &plan).into_keys().collect::<Vec<_>>(),
        addresses[..1]
    );
}

/// Index, VRF and subnets.
type Interface<'a> = (u32, Option<u32>, &'a [&'a str]);

/// Interfaces with their subnets, all fit.
fn with_subnets(interfaces: &[Interface]) -> Table {
    let mut table = Table::default();
    for (index, vrf, subnets) in interfaces {
        table.apply(link(InterfaceState {
            vrf: *vrf,
            ..ethernet(*index, &format!("eth{index}"))
        }));
        for subnet in *subnets {
            table.apply(Event::Address {
                index: *index,
                address: subnet.parse().unwrap(),
            });
        }
    }
    table
}

fn wanted(addresses: &[&str], subnet_check: bool) -> Wanted {
    let want = Want {
        manner: Manner {
            subnet_check,
            ..Manner::default()
        },
        ..Want::default()
    };
    Wanted {
        addresses: addresses
            .iter()
            .map(|address| (address.parse().unwrap(), want.clone()))
            .collect(),
        ..Wanted::default()
    }
}

/// The indices of the interfaces that an address is on.
fn on(plan: &Plan, address: &str) -> Vec<u32> {
    let address = address.parse().unwrap();
    plan.iter()
        .filter(|(_, served)| served.owns(address))
        .map(|(index, _)| *index)
        .collect()
}

#[test]
fn an_address_is_where_a_subnet_contains_it() {
    let table = with_subnets(&[
        (1, None, &["10.0.0.1/24", "fd00::1/64", "fe80::1/64"]),
        (2, None, &["10.0.1.1/24", "10.9.0.1/32", "fd00:9::1/128", "fe80::2/64"]),
        (3, None, &[]),
    ]);
    for (address, checked, unchecked) in [
        ("10.0.0.100", vec![1], vec![1, 2, 3]),
        ("10.0.1.255", vec![2], vec![1, 2, 3]),
        ("10.9.0.1", vec![2], vec![1, 2, 3]),
        ("10.9.0.2", vec![], vec![1, 2, 3]),
        ("fd00::ffff", vec![1], vec![1, 2, 3]),
        ("fd00:9::2", vec![], vec![1, 2, 3]),
        ("fe80::99", vec![], vec![1, 2, 3]),
    ] {
        let of = |check| plan(&wanted(&[address], check), table.links(), &[], &Plan::new());
        assert_eq!(on(&of(true), address), checked, "{address}");
        assert_eq!(on(&of(false), address), unchecked, "{address}");
    }
}

#[test]
fn of_one_broadcast_domain_one_interface_answers_and_goes_on_while_it_can() {
    const IP: &str = "10.0.0.100";
    for check in [true, false] {
        let wanted = wanted(&[IP], check);
        let mut table = with_subnets(&[(4, None, &["10.0.0.4/24"]), (3, None, &["10.0.0.3/24"])]);
        let mut now = Plan::new();
        let mut next = |table: &Table| {
            now = plan(&wanted, table.links(), &[], &now);
            on(&now, IP)
        };
        assert_eq!(next(&table), [3], "the lowest index");
        let carrier = |carrier| {
            link(InterfaceState {
                carrier,
                ..ethernet(3, "eth3")
            })
        };
        table.apply(carrier(false));
        assert_eq!(next(&table), [4]);
        table.apply(carrier(true));
        assert_eq!(next(&table), [4], "it stays where it works");
        table.apply(Event::LinkGone { index: 4 });
        assert_eq!(next(&table), [3]);
    }
}

#[test]
fn what_makes_a_broadcast_domain() {
    const IP: &str = "10.0.0.100";
    let cases: [(&str, &[Interface], Vec<u32>); 7] = [
        (
            "no subnet in common",
            &[(1, None, &["10.1.0.1/24"]), (2, None, &["10.2.0.1/24"])],
            vec![1, 2],
        ),
        (
            "other lengths",
            &[(1, None, &["10.0.0.1/24"]), (2, None, &["10.0.0.2/16"])],
            vec![1, 2],
        ),
        (
            "of the other family",
            &[(1, None, &["fd00::1/64"]), (2, None, &["fd00::2/64"])],
            vec![1],
        ),
        (
            "in two VRFs",
            &[(1, Some(8), &["10.0.0.1/24"]), (2, Some(9), &["10.0.0.1/24"])],
            vec![1, 2],
        ),
        (
            "what every link has",
            &[
                (1, None, &["fe80::1/64", "169.254.0.1/16"]),
                (2, None, &["fe80::2/64", "169.254.0.2/16"]),
            ],
            vec![1, 2],
        ),
        (
            "one address on both",
            &[(1, None, &["10.0.0.1/32"]), (2, None, &["10.0.0.1/32"])],
            vec![1, 2],
        ),
        (
            "by way of a third",
            &[
                (1, None, &["10.1.0.1/24"]),
                (2, None, &["10.2.0.1/24"]),
                (3, None, &["10.1.0.3/24", "10.2.0.3/24"]),
                (4, None, &[]),
            ],
            vec![1, 4],
        ),
    ];
    for (case, interfaces, expected) in cases {
        let plan = plan(
            &wanted(&[IP], false),
            with_subnets(interfaces).links(),
            &[],
            &Plan::new(),
        );
        assert_eq!(on(&plan, IP), expected, "{case}");
    }
}

#[test]
fn an_interface_that_is_named_is_not_passed_over_for_one_that_is_not() {
    const IP: &str = "10.0.0.100";
    let mut wanted = wanted(&[IP], true);
    let named = InterfaceChoice::Named(BTreeSet::from(["eth2".to_owned()]));
    wanted.addresses.get_mut(&IP.parse().unwrap()).unwrap().interfaces = named;
    let table = with_subnets(&[(1, None, &["10.0.0.1/24"]), (2, None, &["10.0.0.2/24"])]);
    assert_eq!(on(&plan(&wanted, table.links(), &[], &Plan::new()), IP), [2]);
}

proptest! {
    /// Whatever the interfaces: no two that share a subnet answer for one address, some answers if some can, and nothing
    /// moves when an interface is added.
    #[test]
    fn one_answer_per_domain_and_none_moves(
        subnets in prop::collection::vec(prop::collection::btree_set(0u8..5, 0..3), 1..7),
        check: bool,
    ) {
        const IP: &str = "10.0.0.100";
        let wanted = wanted(&[IP], check);
        let mut table = Table::default();
        let mut now = Plan::new();
        // From the highest index down: a newcomer would be preferred if nothing was in use.
        for (index, subnets) in (1u32..).zip(&subnets).collect::<Vec<_>>().into_iter().rev() {
            let before = on(&now, IP);
            table.apply(link(ethernet(index, "eth")));
            for subnet in subnets {
                let address = format!("10.0.{subnet}.{index}/24").parse().unwrap();
                table.apply(Event::Address { index, address });
            }
            now = plan(&wanted, table.links(), &[], &now);
            let after = on(&now, IP);
            let nets = |index: u32| {
                let link = table.links().find(|link| link.state.index == index).unwrap();
                link.state.subnets().collect::<BTreeSet<_>>()
            };
            for (position, one) in after.iter().enumerate() {
                for other in &after[position + 1..] {
                    prop_assert!(nets(*one).is_disjoint(&nets(*other)));
                }
            }
            let address = IP.parse().unwrap();
            let some = table.links().any(|link| !check || link.state.has_on_link(address));
            prop_assert_eq!(!after.is_empty(), some);
            // The newcomer may join two domains; one of two answers falls silent then, and nothing else moves.
            prop_assert!(after.iter().all(|index_of| before.contains(index_of) || *index_of == index));
            prop_assert!(before.is_empty() || after.iter().any(|index| before.contains(index)));
        }
    }
}
