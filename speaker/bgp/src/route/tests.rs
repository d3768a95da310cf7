use super::*;

fn attributes(local_pref: Option<u32>, med: Option<u32>, prepend: u8, community: u16) -> Attributes {
    Attributes {
        local_pref,
        med,
        prepend,
        communities: [Community::new(64512, community)].into(),
        ..Attributes::default()
    }
}

#[test]
fn several_wishes_become_one_whatever_their_order() {
    let wishes = [
        attributes(Some(150), Some(5), 2, 1),
        attributes(None, Some(7), 1, 2),
        Attributes {
            next_hop: NextHop::Address("192.0.2.1".parse().unwrap()),
            link_bandwidth: Some(10),
            ..attributes(Some(90), Some(6), 3, 1)
        },
    ];
    let expected = Attributes {
        communities: [Community::new(64512, 1), Community::new(64512, 2)].into(),
        link_bandwidth: Some(10),
        ..attributes(Some(150), Some(5), 1, 1)
    };
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let prefix: IpNet = "10.0.0.1/24".parse().unwrap();
        let routes: Routes = order.iter().map(|n| (prefix, wishes[*n].clone())).collect();
        let found: Vec<_> = routes.iter().map(|(p, a)| (*p, Attributes::clone(a))).collect();
        assert_eq!(found, [("10.0.0.0/24".parse().unwrap(), expected.clone())], "{order:?}");
    }
}

#[test]
fn what_is_not_set_counts_as_its_default() {
    for (a, b, local_pref) in [
        (None, Some(100), Some(100)),
        (None, Some(50), None),
        (None, Some(101), Some(101)),
        (None, None, None),
    ] {
        for (first, second) in [(a, b), (b, a)] {
            let mut merged = attributes(first, None, 0, 1);
            merged.merge(&attributes(second, Some(3), 0, 1));
            assert_eq!(
                (merged.local_pref, merged.med),
                (local_pref, None),
                "{first:?} {second:?}"
            );
        }
    }
}

#[test]
fn equal_attributes_are_kept_once() {
    let routes: Routes = ["10.0.0.1/32", "10.0.0.2/32"]
        .into_iter()
        .map(|prefix| (prefix.parse().unwrap(), attributes(None, None, 0, 1)))
        .collect();
    let kept: Vec<_> = routes.iter().map(|(_, attributes)| Arc::as_ptr(attributes)).collect();
    assert_eq!(kept[0], kept[1]);
}

#[test]
fn leaving_routes_say_so() {
    let routes: Routes = [("10.0.0.1/32".parse().unwrap(), attributes(Some(150), None, 0, 1))]
        .into_iter()
        .collect();
    let (_, leaving) = routes
        .leaving()
        .iter()
        .map(|(p, a)| (*p, Arc::clone(a)))
        .next()
        .unwrap();
    assert!(leaving.communities.contains(&Community::GRACEFUL_SHUTDOWN) && leaving.communities.len() == 2);
    assert_eq!(leaving.local_pref, Some(0));
}

#[test]
fn communities_as_people_write_them() {
    assert_eq!(Community::GRACEFUL_SHUTDOWN.to_string(), "65535:0");
    assert_eq!(LargeCommunity(1, 2, 4_294_967_295).to_string(), "1:2:4294967295");
}
