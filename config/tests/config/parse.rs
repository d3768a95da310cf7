//! The configuration: what is in force, what is left out, and what is said about it.

use ferrolb_api::{IpAddressPool, L2Advertisement};
use ferrolb_config::{Object, ObjectRef, Parsed, parse};
use ferrolb_model::{Labels, OnShrink, PoolSelection};

use crate::make::{
    addresses, label, messages, nodes, object, only_message, read, read_after, snapshot, surroundings, unreadable,
    warnings, with_metadata,
};

type Made = (ObjectRef, Object);

/// A pool from the YAML of its spec; `day` is the day of its creation.
fn pool(name: &str, day: u32, spec: &str) -> Made {
    object::<IpAddressPool>(name, day, spec)
}

fn advertisement(name: &str, spec: &str) -> Made {
    object::<L2Advertisement>(name, 1, spec)
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
    let parsed = read(&[pool("p", 1, &spec)]);
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
    let label = |value: &str| label("app", value);
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
    let parsed = read(&[open, closed]);
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
    let parsed = read(&[pool("bad", 1, &spec)]);
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
        let parsed = read(&[pool("p", 1, spec)]);
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
    let good = read(&[pool("p", 1, "addresses: [192.0.2.0/28]")]);
    let bad = [
        pool("p", 1, "addresses: [192.0.2.0/33]"),
        pool("q", 2, "addresses: [198.51.100.0/24]"),
    ];
    let parsed = read_after(&bad, &good);
    assert_eq!(parsed.config.pools["p"], good.config.pools["p"]);
    assert!(parsed.config.pools.contains_key("q"), "the rest works");
    assert!(only_message(&parsed).ends_with("(its last good version stays in force)"));
    let gone = read_after(&bad[1..], &parsed);
    assert!(
        !gone.config.pools.contains_key("p"),
        "a pool that is deleted is gone, good or not"
    );
    let good = read(&[advertisement("a", "interfaces: [eth0]")]);
    let bad = advertisement("a", "preferredNodeSelectors:\n- {weight: 0, preference: {}}");
    let parsed = read_after(&[bad], &good);
    assert_eq!(parsed.config, good.config);
    assert!(only_message(&parsed).contains("0 is out of range; write a number from 1 to 100"));
}

#[test]
fn an_object_made_anew_under_an_old_name_has_no_last_good_version() {
    let made = |uid: &str, addresses: &str| {
        with_metadata::<IpAddressPool>(
            "p",
            &format!("{{name: p, uid: {uid}}}"),
            &format!("addresses: [{addresses}]"),
        )
    };
    let good = read(&[made("one", "192.0.2.0/28")]);
    assert!(!read_after(&[made("one", "x")], &good).config.pools.is_empty());
    assert!(read_after(&[made("two", "x")], &good).config.pools.is_empty());
}

#[test]
fn an_object_that_cannot_be_read_counts_as_wrong() {
    let good = [
        pool("p", 1, "addresses: [192.0.2.0/28]"),
        advertisement("a", "ipAddressPools: [p]"),
    ];
    let last = read(&good);
    let garbage = [unreadable::<IpAddressPool>("p"), unreadable::<L2Advertisement>("a")];
    let after = read_after(&garbage, &last);
    assert_eq!(after.config, last.config);
    assert_eq!(
        messages(&after)[0],
        "IPAddressPool \"p\": the object cannot be read: invalid type: integer `7`; apply it again with the fields of \
         the current schema (its last good version stays in force)"
    );
    let first = read(&garbage);
    assert!(first.config.advertisements_unknown && first.config.pools.is_empty());
    assert_eq!(first.errors.len(), 2);
}

#[test]
fn what_becomes_of_a_pool_that_shrinks() {
    let with = |value: &str| {
        let metadata = format!("{{name: p, annotations: {{ferrolb.io/on-shrink: {value}, other: x}}}}");
        read(&[with_metadata::<IpAddressPool>(
            "p",
            &metadata,
            "addresses: [192.0.2.0/28]",
        )])
    };
    assert_eq!(with("reassign").config.pools["p"].on_shrink, OnShrink::Reassign);
    assert_eq!(
        only_message(&with("Reassign")),
        "IPAddressPool \"p\": metadata.annotations[ferrolb.io/on-shrink]: \"Reassign\" is unknown; write reassign, or \
         remove the annotation so that holders keep their addresses (the object is left out)"
    );
    let plain = read(&[pool("p", 1, "addresses: [192.0.2.0/28]")]);
    assert_eq!(plain.config.pools["p"].on_shrink, OnShrink::Keep);
}

#[test]
fn a_pool_with_addresses_of_the_cluster_is_in_force_and_told() {
    let list = ["10.0.0.0/16", "192.0.2.1-192.0.2.9", "2001:db8::/64", "10.96.0.0/12"];
    let objects = snapshot(&[pool("p", 1, &addresses(&list))]);
    let mut around = surroundings();
    around.nodes = nodes(&[("a", "x"), ("b", "x"), ("c", "x")]);
    let node = |name: &str| around.nodes.get(name).cloned().unwrap();
    let (mut a, mut b) = (node("a"), node("b"));
    a.addresses = ["192.0.2.7", "2001:db9::1"].map(|a| a.parse().unwrap()).into();
    b.addresses = ["192.0.2.4"].map(|a| a.parse().unwrap()).into();
    b.pod_cidrs = ["10.0.1.0/24", "2001:db8::/80"].map(|r| r.parse().unwrap()).into();
    around.nodes.extend([("a".to_owned(), a), ("b".to_owned(), b)]);
    around.service_cidrs = [("kubernetes".to_owned(), vec!["10.96.0.0/16".parse().unwrap()])].into();
    let parsed = parse(&objects, &around, &Parsed::default());
    assert_eq!((parsed.errors.len(), parsed.config.pools.len()), (0, 1));
    let end = "; keep such addresses out of pools (a warning; the object is in force)";
    assert_eq!(
        warnings(&parsed),
        [
            ("0", "10.0.0.0/16", "addresses of 10.0.1.0-10.0.1.255, which Node \"b\" gives to its pods"),
            ("1", "192.0.2.1-192.0.2.9", "192.0.2.4, an address of Node \"b\""),
            ("2", "2001:db8::/64", "addresses of 2001:db8::-2001:db8::ffff:ffff:ffff, which Node \"b\" gives to its pods"),
            (
                "3",
                "10.96.0.0/12",
                "addresses of 10.96.0.0-10.96.255.255, which ServiceCIDR \"kubernetes\" gives to Services as cluster IPs"
            ),
        ]
        .map(|(n, value, what)| format!(
            "IPAddressPool \"p\": spec.addresses[{n}]: \"{value}\" contains {what}{end}"
        ))
    );
}

#[test]
fn what_is_left_out_and_may_matter_to_advertisements_is_known() {
    let good = pool("p", 1, &addresses(&["192.0.2.0/24"]));
    let bad = pool("p", 1, &addresses(&["192.0.2.0/33"]));
    let by_name = advertisement("a", "ipAddressPools: [p]");
    let by_label = advertisement("a", "ipAddressPoolSelectors: [{matchLabels: {x: y}}]");
    let broken = advertisement("a", "preferredNodeSelectors: [{weight: 0, preference: {}}]");
    let unknown = |pool: &Made, ad: &Made, last: &Parsed| {
        let config = read_after(&[pool.clone(), ad.clone()], last).config;
        config.advertisements_unknown
    };
    let nothing = Parsed::default();
    assert!(!unknown(&good, &by_name, &nothing));
    assert!(!unknown(&good, &by_label, &nothing));
    assert!(unknown(&good, &broken, &nothing), "never read");
    assert!(!unknown(&bad, &by_name, &nothing), "the name is enough");
    assert!(unknown(&bad, &by_label, &nothing), "its labels are unknown");
    let last = read(&[good.clone(), by_label]);
    assert!(!unknown(&bad, &broken, &last), "both were good before");
    let first = read(&[good.clone(), broken.clone()]);
    assert!(unknown(&good, &broken, &first), "it never was");
    assert!(!unknown(&good, &by_name, &first), "corrected");
}

#[test]
fn of_two_pools_that_overlap_the_newer_is_left_out() {
    let older = pool("z", 1, "addresses: [192.0.2.0/28]");
    let newer = pool("a", 2, "addresses: [198.51.100.0/28, 192.0.2.7-192.0.2.9]");
    let parsed = read(&[newer.clone(), older.clone()]);
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
    assert_eq!(read(&[same_day, older.clone()]).config.pools.len(), 1);
    let before = read(&[pool("a", 2, "addresses: [198.51.100.0/28]")]);
    let parsed = read_after(&[newer, older], &before);
    assert_eq!(
        parsed.config.pools["a"], before.config.pools["a"],
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
    let parsed = read(&[everything, advertisement("b", "")]);
    assert_eq!(messages(&parsed), [""; 0]);
    let ad = &parsed.config.l2_advertisements["a"];
    let node = |n: &str| label("n", n);
    assert_eq!((ad.score(&node("1")), ad.score(&node("2"))), (12, 0));
    assert_eq!(ad.interfaces.as_ref().map(std::collections::BTreeSet::len), Some(2));
    let all = &parsed.config.l2_advertisements["b"];
    assert_eq!((&all.pools, &all.interfaces), (&PoolSelection::All, &None));
    let twice = advertisement("c", "ipAddressPools: [p, p]");
    assert!(only_message(&read(&[twice])).contains("spec.ipAddressPools[1]: \"p\" stands there already"));
}
