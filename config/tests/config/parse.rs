//! The configuration: what is in force, what is left out, and what is said about it.

use std::collections::BTreeMap;

use ferrolb_api::{IpAddressPool, L2Advertisement};
use ferrolb_config::{Parsed, Snapshot, parse};
use ferrolb_model::{Config, Labels, PoolSelection};
use proptest::prelude::*;

/// A pool from the YAML of its spec; `day` is the day of its creation.
fn pool(name: &str, day: u32, spec: &str) -> IpAddressPool {
    let spec = spec.replace('\n', "\n  ");
    let yaml = format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata:\n  name: {name}\n  creationTimestamp: \
         2026-01-{day:02}T00:00:00Z\nspec:\n  {spec}\n"
    );
    serde_saphyr::from_str(&yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"))
}

fn advertisement(name: &str, spec: &str) -> L2Advertisement {
    let spec = spec.replace('\n', "\n  ");
    let yaml =
        format!("apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata:\n  name: {name}\nspec:\n  {spec}\n");
    serde_saphyr::from_str(&yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"))
}

fn addresses(list: &[&str]) -> String {
    let items = list.iter().map(|a| format!("\n- \"{a}\"")).collect::<String>();
    format!("addresses:{items}")
}

fn read(pools: &[IpAddressPool], ads: &[L2Advertisement], last_good: &Config) -> Parsed {
    let namespaces = [("red", "team", "a"), ("blue", "team", "b"), ("plain", "x", "y")];
    let namespaces = namespaces
        .into_iter()
        .map(|(n, k, v)| (n.to_owned(), Labels::from([(k.to_owned(), v.to_owned())])))
        .collect::<BTreeMap<_, _>>();
    let snapshot = Snapshot {
        pools: pools.iter().collect(),
        l2_advertisements: ads.iter().collect(),
        namespaces: &namespaces,
    };
    parse(&snapshot, last_good)
}

fn messages(parsed: &Parsed) -> Vec<String> {
    parsed.errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_pool_is_read_as_written() {
    let spec = format!(
        "{}\nautoAssign: false\navoidBuggyIPs: true\nserviceAllocation:\n  priority: 7\n  namespaces: [plain]\n  \
         namespaceSelectors:\n  - matchLabels: {{team: a}}\n  serviceSelectors:\n  - matchExpressions:\n    - {{key: \
         app, operator: In, values: [x, y]}}",
        addresses(&[
            "192.0.2.10 - 192.0.2.20",
            "198.51.100.10/24",
            "2001:db8::/64",
            "::ffff:203.0.113.1-::ffff:203.0.113.9"
        ])
    );
    let parsed = read(&[pool("p", 1, &spec)], &[], &Config::default());
    assert_eq!(messages(&parsed), [""; 0]);
    let pool = &parsed.config.pools["p"];
    assert_eq!(
        pool.ranges.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "192.0.2.10-192.0.2.20",
            "198.51.100.0-198.51.100.255",
            "2001:db8::-2001:db8::ffff:ffff:ffff:ffff",
            "203.0.113.1-203.0.113.9"
        ]
    );
    assert!(!pool.auto_assign && pool.avoid_buggy_ips);
    let label = |value: &str| Labels::from([("app".to_owned(), value.to_owned())]);
    for (namespace, app, admitted) in [
        ("plain", "x", true),
        ("red", "y", true),
        ("blue", "x", false),
        ("red", "z", false),
    ] {
        assert_eq!(pool.admits(namespace, &label(app)), admitted, "{namespace} {app}");
    }
}

#[test]
fn allocation_without_selectors_admits_everybody_and_selectors_without_a_match_nobody() {
    let open = pool("open", 1, "addresses: [192.0.2.0/28]\nserviceAllocation: {priority: 3}");
    let closed = pool(
        "closed",
        1,
        "addresses: [192.0.2.16/28]\nserviceAllocation:\n  namespaceSelectors:\n  - matchLabels: {team: nobody}",
    );
    let parsed = read(&[open, closed], &[], &Config::default());
    let admits = |name: &str| parsed.config.pools[name].admits("red", &Labels::new());
    assert_eq!((admits("open"), admits("closed")), (true, false));
}

#[test]
fn every_mistake_of_an_object_is_named() {
    let spec = format!(
        "{}\nserviceAllocation:\n  namespaces: [a, b, a]\n  serviceSelectors:\n  - matchExpressions:\n    - {{key: k, \
         operator: Near, values: [x]}}\n    - {{key: k, operator: In}}\n    - {{key: k, operator: Exists, values: \
         [x]}}\n    - {{key: k, operator: NotIn, values: [x, x]}}\n    - {{key: '-k', operator: Exists}}\n  \
         namespaceSelectors:\n  - matchLabels: {{a: b}}\n  - matchLabels: {{a: b}}\n  - matchLabels: {{a: 'b c'}}",
        addresses(&[
            "10.0.0.0/33",
            "10.1.0.9-10.1.0.1",
            "10.2.0.0/24",
            "10.2.0.7-10.2.0.8",
            "x"
        ])
    );
    let parsed = read(&[pool("bad", 1, &spec)], &[], &Config::default());
    assert!(parsed.config.pools.is_empty());
    let expected = [
        ("spec.addresses[0]", "10.0.0.0/33", "takes 0 to 32"),
        ("spec.addresses[1]", "10.1.0.9-10.1.0.1", "write 10.1.0.1-10.1.0.9"),
        (
            "spec.addresses[3]",
            "10.2.0.7-10.2.0.8",
            "in common with spec.addresses[2] \"10.2.0.0/24\"",
        ),
        ("spec.addresses[4]", "x", "neither a CIDR prefix"),
        ("spec.serviceAllocation.namespaces[2]", "\"a\"", "namespaces[0]"),
        (
            "spec.serviceAllocation.namespaceSelectors[2].matchLabels[a]",
            "b c",
            "not a label value",
        ),
        (
            "spec.serviceAllocation.namespaceSelectors[1]",
            "the same selector",
            "namespaceSelectors[0]",
        ),
        (
            "spec.serviceAllocation.serviceSelectors[0].matchExpressions[0].operator",
            "Near",
            "write In, NotIn",
        ),
        (
            "spec.serviceAllocation.serviceSelectors[0].matchExpressions[1].values",
            "",
            "needs at least one value",
        ),
        (
            "spec.serviceAllocation.serviceSelectors[0].matchExpressions[2].values",
            "x",
            "takes no values",
        ),
        (
            "spec.serviceAllocation.serviceSelectors[0].matchExpressions[3].values[1]",
            "\"x\"",
            "values[0]",
        ),
        (
            "spec.serviceAllocation.serviceSelectors[0].matchExpressions[4].key",
            "-k",
            "not a label key",
        ),
    ];
    assert_eq!(parsed.errors.len(), expected.len(), "{:#?}", messages(&parsed));
    for (error, (field, value, part)) in parsed.errors.iter().zip(expected) {
        assert_eq!((error.kind, error.name.as_str()), ("IPAddressPool", "bad"));
        assert_eq!((error.field.as_str(), error.value.as_str()), (field, value));
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.to_string().ends_with("(the object is left out)"), "{error}");
    }
}

#[test]
fn a_pool_without_addresses_is_refused() {
    for spec in ["addresses: []", "autoAssign: true"] {
        let parsed = read(&[pool("p", 1, spec)], &[], &Config::default());
        assert!(parsed.config.pools.is_empty());
        assert!(
            messages(&parsed)[0].contains("spec.addresses: is empty; write at least one"),
            "{:?}",
            messages(&parsed)
        );
    }
}

#[test]
fn what_was_good_stays_in_force() {
    let good = read(&[pool("p", 1, "addresses: [192.0.2.0/28]")], &[], &Config::default()).config;
    let bad = [
        pool("p", 1, "addresses: [192.0.2.0/33]"),
        pool("q", 2, "addresses: [198.51.100.0/24]"),
    ];
    let parsed = read(&bad, &[], &good);
    assert_eq!(parsed.config.pools["p"], good.pools["p"]);
    assert!(parsed.config.pools.contains_key("q"), "the rest works");
    assert!(messages(&parsed)[0].ends_with("(its last good version stays in force)"));
    let gone = read(&bad[1..], &[], &parsed.config);
    assert!(
        !gone.config.pools.contains_key("p"),
        "a pool that is deleted is gone, good or not"
    );
    let ad = advertisement("a", "interfaces: [eth0]");
    let good = read(&[], &[ad], &Config::default()).config;
    let bad = advertisement("a", "preferredNodeSelectors:\n- {weight: 0, preference: {}}");
    let parsed = read(&[], &[bad], &good);
    assert_eq!(parsed.config.l2_advertisements, good.l2_advertisements);
    assert!(messages(&parsed)[0].contains("0 is not a weight; write a number from 1 to 100"));
}

#[test]
fn what_is_left_out_and_may_matter_to_advertisements_is_known() {
    let good = pool("p", 1, &addresses(&["192.0.2.0/24"]));
    let bad = pool("p", 1, &addresses(&["192.0.2.0/33"]));
    let ad = |spec| vec![advertisement("a", spec)];
    let (by_name, by_label) = (
        ad("ipAddressPools: [p]"),
        ad("ipAddressPoolSelectors: [{matchLabels: {x: y}}]"),
    );
    let broken = ad("preferredNodeSelectors: [{weight: 0, preference: {}}]");
    let unknown = |pool: &IpAddressPool, ads: &[_], last: &Config| {
        read(std::slice::from_ref(pool), ads, last)
            .config
            .advertisements_unknown
    };
    let nothing = Config::default();
    assert!(!unknown(&good, &by_name, &nothing));
    assert!(!unknown(&good, &by_label, &nothing));
    assert!(unknown(&good, &broken, &nothing), "never read");
    assert!(!unknown(&bad, &by_name, &nothing), "the name is enough");
    assert!(unknown(&bad, &by_label, &nothing), "its labels are unknown");
    let last = read(std::slice::from_ref(&good), &by_label, &nothing).config;
    assert!(!unknown(&bad, &broken, &last), "both were good before");
    let first = read(std::slice::from_ref(&good), &broken, &nothing).config;
    assert!(unknown(&good, &broken, &first), "it never was");
    assert!(!unknown(&good, &by_name, &first), "corrected");
}

#[test]
fn of_two_pools_that_overlap_the_newer_is_left_out() {
    let older = pool("z", 1, "addresses: [192.0.2.0/28]");
    let newer = pool("a", 2, "addresses: [198.51.100.0/28, 192.0.2.7-192.0.2.9]");
    let parsed = read(&[newer.clone(), older.clone()], &[], &Config::default());
    assert_eq!(parsed.config.pools.keys().collect::<Vec<_>>(), ["z"]);
    assert_eq!(
        messages(&parsed),
        [
            "IPAddressPool \"a\": spec.addresses[1]: \"192.0.2.7-192.0.2.9\" has addresses in common with \
             192.0.2.0-192.0.2.15 of the older IPAddressPool \"z\"; no address may be in two pools (the object is left \
             out)"
        ]
    );
    let same_day = pool("zz", 1, "addresses: [192.0.2.3-192.0.2.4]");
    assert_eq!(
        read(&[same_day, older.clone()], &[], &Config::default())
            .config
            .pools
            .len(),
        1
    );
    let before = read(&[pool("a", 2, "addresses: [198.51.100.0/28]")], &[], &Config::default()).config;
    let parsed = read(&[newer, older], &[], &before);
    assert_eq!(
        parsed.config.pools["a"], before.pools["a"],
        "its last good version does not overlap"
    );
}

#[test]
fn an_advertisement_is_read_as_written() {
    let everything = advertisement(
        "a",
        "ipAddressPools: [p, q]\nipAddressPoolSelectors:\n- matchLabels: {zone: x}\nnodeSelectors:\n- matchLabels: {n: \
         \"1\"}\ninterfaces: [eth0, eth1]\npreferredNodeSelectors:\n- weight: 5\n  preference:\n    matchLabels: {n: \
         \"1\"}\n- {weight: 7, preference: {}}",
    );
    let nothing: L2Advertisement =
        serde_saphyr::from_str("apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: b}\n").unwrap();
    let parsed = read(&[], &[everything, nothing], &Config::default());
    assert_eq!(messages(&parsed), [""; 0]);
    let ad = &parsed.config.l2_advertisements["a"];
    let node = |n: &str| Labels::from([("n".to_owned(), n.to_owned())]);
    assert_eq!((ad.score(&node("1")), ad.score(&node("2"))), (12, 0));
    assert_eq!(ad.interfaces.as_ref().map(std::collections::BTreeSet::len), Some(2));
    let all = &parsed.config.l2_advertisements["b"];
    assert_eq!((&all.pools, &all.interfaces), (&PoolSelection::All, &None));
    let twice = advertisement("c", "ipAddressPools: [p, p]");
    assert!(
        messages(&read(&[], &[twice], &Config::default()))[0]
            .contains("spec.ipAddressPools[1]: \"p\" stands there already")
    );
}

/// Number, day of creation, ranges by first address and length.
type Made = (u8, u32, Vec<(u8, u8)>);

fn some_pool() -> impl Strategy<Value = Made> {
    (0..6u8, 1..4u32, prop::collection::vec((0..40u8, 0..12u8), 0..3))
}

proptest! {
    #[test]
    fn order_of_arrival_changes_nothing(
        made in prop::collection::vec(some_pool(), 1..6),
        older in prop::collection::vec(some_pool(), 0..4),
        turn in 0..5usize,
    ) {
        let build = |made: &[Made]| {
            let mut by_name = BTreeMap::new();
            for (n, day, ranges) in made {
                // Length 11 runs backwards: a mistake.
                let list = ranges.iter().map(|(first, length)| match length {
                    11 => format!("192.0.2.{}-192.0.2.{}", first + 1, first),
                    _ => format!("192.0.2.{first}-192.0.2.{}", first + length),
                });
                let list = list.collect::<Vec<_>>();
                let spec = addresses(&list.iter().map(String::as_str).collect::<Vec<_>>());
                let spec = if list.is_empty() { "addresses: []".to_owned() } else { spec };
                by_name.insert(format!("p{n}"), pool(&format!("p{n}"), *day, &spec));
            }
            by_name.into_values().collect::<Vec<_>>()
        };
        let before = read(&build(&older), &[], &Config::default()).config;
        let pools = build(&made);
        let expected = read(&pools, &[], &before);
        let mut turned = pools.clone();
        turned.rotate_left(turn % pools.len());
        prop_assert_eq!(&read(&turned, &[], &before), &expected);
        turned.reverse();
        prop_assert_eq!(&read(&turned, &[], &before), &expected);
        let in_force = expected.config.pools.values().flat_map(|p| &p.ranges).collect::<Vec<_>>();
        for (n, a) in in_force.iter().enumerate() {
            for b in &in_force[n + 1..] {
                prop_assert!(!a.overlaps(b), "{a} and {b} are both in force");
            }
        }
        for pool in &pools {
            let name = pool.metadata.name.as_deref().unwrap();
            let named = expected.errors.iter().any(|e| e.name == name);
            prop_assert!(named || expected.config.pools.contains_key(name), "{name} is neither in force nor named");
        }
    }
}
