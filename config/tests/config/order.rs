//! The order in which objects come changes nothing, and a mistake costs its own object and what depends on it.

use std::collections::BTreeMap;

use ferrolb_api::{
    AllocationPolicy, AnnouncementPolicy, BfdProfile, BgpAdvertisement, BgpPeer, Community, IpAddressPool,
    L2Advertisement,
};
use ferrolb_config::{Kind, Object, ObjectRef, Parsed, Snapshot, parse};
use proptest::prelude::*;

use crate::make::{nodes, object, read, snapshot, surroundings, unreadable};

type Made = (ObjectRef, Object);

/// One of the objects that a world is made of; some are wrong by themselves, some contradict others.
fn some_object() -> impl Strategy<Value = Made> {
    let name = "[a-d]";
    let pool = (name, 1..4u32, prop::collection::vec((0..40u8, 0..12u8), 0..3)).prop_map(|(name, day, ranges)| {
        // Length 11 runs backwards: a mistake.
        let item = |(first, length): (u8, u8)| match length {
            11 => format!("192.0.2.{}-192.0.2.{first}", first + 1),
            _ => format!("192.0.2.{first}-192.0.2.{}", first + length),
        };
        let list = ranges.into_iter().map(item).collect::<Vec<_>>().join(", ");
        object::<IpAddressPool>(&name, day, &format!("addresses: [{list}]"))
    });
    let profile = (name, 5..12u32)
        .prop_map(|(name, interval)| object::<BfdProfile>(&name, 1, &format!("receiveInterval: {interval}")));
    let community = (name, 1..4u32, "[x-z]", "[0-9]{1,5}:1").prop_map(|(name, day, alias, value)| {
        object::<Community>(
            &name,
            day,
            &format!("communities: [{{name: {alias}, value: \"{value}\"}}]"),
        )
    });
    let peer = (name, 1..4u32, 1..3u8, 64512..64514u32, "|[a-e]").prop_map(|(name, day, address, asn, profile)| {
        let spec = format!("{{myASN: {asn}, peerASN: 1, peerAddress: 192.0.2.{address}, bfdProfile: '{profile}'}}");
        object::<BgpPeer>(&name, day, &spec)
    });
    let ad = (name, 1..4u32, 0..3u32, 24..34u8, "|[v-z]|1:1", "|[a-e]").prop_map(
        |(name, day, preference, length, community, pool)| {
            let [communities, pools] = [community, pool].map(|item| match &*item {
                "" => String::new(),
                item => format!("\"{item}\""),
            });
            let spec = format!(
                "{{localPref: {preference}, aggregationLength: {length}, communities: [{communities}], ipAddressPools: [{pools}]}}"
            );
            object::<BgpAdvertisement>(&name, day, &spec)
        },
    );
    let l2 = (name, 0..3u32).prop_map(|(name, weight)| {
        object::<L2Advertisement>(
            &name,
            1,
            &format!("preferredNodeSelectors: [{{weight: {weight}, preference: {{}}}}]"),
        )
    });
    let policy =
        (name, "[a-e]").prop_map(|(name, pool)| object::<AllocationPolicy>(&name, 1, &format!("pools: [{pool}]")));
    let announcement = (name, 3599..3602u32).prop_map(|(name, grace)| {
        object::<AnnouncementPolicy>(&name, 1, &format!("layer2: {{graceSeconds: {grace}}}"))
    });
    let garbage = name.prop_map(|name| unreadable::<IpAddressPool>(&name));
    prop_oneof![
        4 => pool, 1 => profile, 1 => community, 3 => peer, 3 => ad, 1 => l2, 1 => policy, 1 => announcement, 1 => garbage,
    ]
}

fn world(objects: &[Made]) -> Vec<Made> {
    snapshot(objects).into_iter().collect()
}

fn check_in_force(parsed: &Parsed, objects: &Snapshot) -> Result<(), TestCaseError> {
    let config = &parsed.config;
    let ranges = config.pools.values().flat_map(|p| &p.ranges).collect::<Vec<_>>();
    for (n, a) in ranges.iter().enumerate() {
        prop_assert!(
            ranges[n + 1..].iter().all(|b| !a.overlaps(b)),
            "{a} overlaps another range in force"
        );
    }
    for of in objects.keys() {
        let known = match of.kind {
            Kind::Pool => config.pools.contains_key(&of.name),
            Kind::L2Advertisement => config.l2_advertisements.contains_key(&of.name),
            Kind::BgpAdvertisement => config.bgp_advertisements.contains_key(&of.name),
            Kind::BgpPeer => config.peers.contains_key(&of.name),
            Kind::BfdProfile => config.bfd_profiles.contains_key(&of.name),
            Kind::Community => config.communities.contains_key(&of.name),
            Kind::AllocationPolicy => config.allocation_policies.contains_key(&of.name),
            Kind::AnnouncementPolicy => config.announcement_policies.contains_key(&of.name),
        };
        let named = parsed
            .errors
            .iter()
            .any(|e| e.kind == of.kind.name() && e.name == of.name);
        prop_assert!(known || named, "{of} is neither in force nor named");
        prop_assert_eq!(known, parsed.sources.contains_key(of), "{}", of);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn order_of_arrival_changes_nothing(
        (made, turned) in prop::collection::vec(some_object(), 1..24)
            .prop_map(|made| world(&made))
            .prop_flat_map(|made| (Just(made.clone()), Just(made).prop_shuffle())),
        older in prop::collection::vec(some_object(), 0..16),
        with_nodes: bool,
    ) {
        let mut around = surroundings();
        around.nodes = if with_nodes { nodes(&[("n1", "x"), ("n2", "y")]) } else { BTreeMap::new() };
        let before = parse(&snapshot(&older), &around, &Parsed::default());
        let expected = parse(&snapshot(&made), &around, &before);
        check_in_force(&expected, &snapshot(&made))?;

        // One object after the other into the same snapshot.
        let mut arriving = Snapshot::new();
        arriving.extend(turned);
        prop_assert_eq!(&parse(&arriving, &around, &before), &expected);

        let again = parse(&arriving, &around, &expected);
        prop_assert_eq!(&again.config, &expected.config, "a second look changes nothing");
    }

    #[test]
    fn a_bad_object_costs_only_itself_and_what_depends_on_it(
        made in prop::collection::vec(some_object(), 1..16).prop_map(|made| world(&made)),
        which: prop::sample::Index,
    ) {
        // What cannot be read at all is as if it were not there, for all but what is said about it.
        let (of, _) = &made[which.index(made.len())];
        let without = made.iter().filter(|(other, _)| other != of).cloned().collect::<Vec<_>>();
        let broken = [without.clone(), vec![(of.clone(), Object::Unreadable("garbage".into()))]].concat();
        let (without, broken) = (read(&without), read(&broken));
        let mut config = (*broken.config).clone();
        config.advertisements_unknown = without.config.advertisements_unknown;
        config.bgp_advertisements_unknown = without.config.bgp_advertisements_unknown;
        prop_assert_eq!(&config, &*without.config);
        let of_others = broken.errors.iter().filter(|e| (e.kind, &e.name) != (of.kind.name(), &of.name));
        prop_assert_eq!(of_others.collect::<Vec<_>>(), without.errors.iter().collect::<Vec<_>>());
    }
}
