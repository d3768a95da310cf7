//! Objects as no schema would let them in, and larger than anybody writes them: no panic, and no time to speak of.

use std::time::{Duration, Instant};

use ferrolb_api::{
    AllocationPolicy, AnnouncementPolicy, BfdProfile, BgpAdvertisement, BgpPeer, Community, IpAddressPool,
    L2Advertisement,
};
use ferrolb_config::{Configures, LastGood, Object, ObjectRef, Parsed, parse};
use ferrolb_model::Family;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::make::{addresses, nodes, object, read, read_after, snapshot, surroundings};

/// Texts that have broken parsers of addresses, numbers, durations and names.
const HOSTILE: [&str; 36] = [
    "",
    " ",
    "\t\n",
    "\u{0}",
    "null",
    "０.0.0.0/0",
    "٣",
    "🦀",
    "0.0.0.0/0",
    "::/0",
    "::1/128",
    "192.0.2.1/32",
    "2001:db8::-2001:db8:0:10::",
    "::ffff:192.0.2.0/120",
    "::ffff:192.0.2.1",
    "::ffff:0:0/96",
    "fe80::1%eth0",
    "fe80::1%eth0/64",
    "010.000.00.1/8",
    "192.0.2.1/032",
    "1.2.3.4-1.2.3.4-1.2.3.4",
    "10.0.0.9-10.0.0.1",
    "-",
    "/",
    ":",
    ":::",
    "65535:65535",
    "65536:0",
    "large:4294967295:0:0",
    "large:::",
    "rt:0.0.0.0:65535",
    "-1s",
    "1e309h",
    "99999999999999999999999999h",
    "9223372036854775807ns",
    "reassign",
];

fn hostile_text() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(&HOSTILE[..]).prop_map(str::to_owned),
        "\\PC{0,40}",
        "[0-9a-f:./%-]{0,40}",
        Just("9".repeat(5000)),
    ]
}

/// Fields of all kinds, with values that fit to their types and to nothing else.
fn spec() -> impl Strategy<Value = Value> {
    let text = || hostile_text().prop_map(Value::from);
    let texts = || prop::collection::vec(hostile_text(), 0..4).prop_map(Value::from);
    let number = || any::<i32>().prop_map(Value::from);
    let large = || any::<u32>().prop_map(Value::from);
    let switch = || any::<bool>().prop_map(Value::from);
    let selectors = || {
        let expression = (
            hostile_text(),
            hostile_text(),
            prop::collection::vec(hostile_text(), 0..3),
        );
        let selector = prop::collection::vec(expression, 0..3).prop_map(|expressions| {
            let expressions = expressions
                .into_iter()
                .map(|(key, operator, values)| json!({ "key": key, "operator": operator, "values": values }));
            json!({ "matchExpressions": expressions.collect::<Vec<_>>() })
        });
        prop::collection::vec(selector, 0..3).prop_map(Value::from)
    };
    let field = prop_oneof![
        (
            prop::sample::select(
                &[
                    "addresses",
                    "ipAddressPools",
                    "interfaces",
                    "communities",
                    "peers",
                    "pools",
                    "requestableAddresses",
                    "namespaces"
                ][..]
            ),
            texts()
        ),
        (
            prop::sample::select(
                &[
                    "peerAddress",
                    "sourceAddress",
                    "interface",
                    "vrf",
                    "routerID",
                    "password",
                    "bfdProfile",
                    "holdTime",
                    "keepaliveTime",
                    "connectTime"
                ][..]
            ),
            text()
        ),
        (
            prop::sample::select(&["aggregationLength", "aggregationLengthV6"][..]),
            number()
        ),
        (
            prop::sample::select(
                &[
                    "myASN",
                    "peerASN",
                    "localASN",
                    "localPref",
                    "receiveInterval",
                    "transmitInterval",
                    "echoInterval",
                    "detectMultiplier",
                    "minimumTtl",
                    "maxAddresses"
                ][..]
            ),
            large()
        ),
        (
            prop::sample::select(&["echoMode", "ebgpMultiHop", "autoAssign"][..]),
            switch()
        ),
        (
            prop::sample::select(
                &[
                    "nodeSelectors",
                    "serviceSelectors",
                    "ipAddressPoolSelectors",
                    "namespaceSelectors"
                ][..]
            ),
            selectors()
        ),
        (
            Just("serviceAllocation"),
            (selectors(), texts(), number()).prop_map(|(selectors, names, priority)| json!({
                "namespaceSelectors": selectors, "namespaces": names, "priority": priority,
            }))
        ),
        (
            Just("preferredNodeSelectors"),
            number().prop_map(|weight| json!([{ "weight": weight }]))
        ),
        (
            Just("bgp"),
            (texts(), texts(), large()).prop_map(|(large_ones, extended, number)| json!({
                "largeCommunities": large_ones, "extendedCommunities": extended, "asPathPrepend": number,
            }))
        ),
        (
            Just("layer2"),
            (large(), hostile_text()).prop_map(|(number, key)| json!({
                "graceSeconds": number, "refreshSeconds": number, "liveness": { "intervalMilliseconds": number },
                "placement": { "antiAffinity": { "among": "Label", "labelKey": key } },
            }))
        ),
    ];
    prop::collection::vec(field, 0..12).prop_map(|fields| {
        Value::Object(
            fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    })
}

fn made<K: Configures + DeserializeOwned>(name: &str, metadata: &Value, spec: &Value) -> Option<(ObjectRef, Object)> {
    let json =
        json!({ "apiVersion": K::KIND.api_version(), "kind": K::KIND.name(), "metadata": metadata, "spec": spec });
    let object = serde_json::from_value::<K>(json).ok()?;
    Some((ObjectRef::new(K::KIND, name), object.into_object()))
}

fn of_all_kinds(name: &str, shrink: &str, spec: &Value) -> Vec<(ObjectRef, Object)> {
    let metadata = json!({ "name": name, "annotations": { "ferrolb.io/on-shrink": shrink } });
    let aliases = json!({ "communities": [{ "name": shrink, "value": shrink }] });
    [
        made::<IpAddressPool>(name, &metadata, spec),
        made::<L2Advertisement>(name, &metadata, spec),
        made::<BgpAdvertisement>(name, &metadata, spec),
        made::<BgpPeer>(name, &metadata, spec),
        made::<BfdProfile>(name, &metadata, spec),
        made::<Community>(name, &metadata, &aliases),
        made::<AllocationPolicy>(name, &metadata, spec),
        made::<AnnouncementPolicy>(name, &metadata, spec),
    ]
    .into_iter()
    .flatten()
    .collect()
}

proptest! {
    #[test]
    fn nothing_panics(worlds in prop::collection::vec(("[a-c]", hostile_text(), spec()), 1..6)) {
        let objects = worlds.iter().flat_map(|(name, shrink, spec)| of_all_kinds(name, shrink, spec)).collect::<Vec<_>>();
        let started = Instant::now();
        let first = read(&objects);
        let second = read_after(&objects, &first);
        prop_assert_eq!(&first.config, &second.config);
        for error in first.errors.iter().chain(&first.warnings) {
            prop_assert!(!error.to_string().is_empty());
        }
        if let (Some(text), _) = LastGood::text(&second, 1 << 20) {
            prop_assert!(LastGood::read(&text).is_ok());
        }
        prop_assert!(started.elapsed() < Duration::from_secs(5));
    }
}

/// Runs it, and says how long it may take: far more than it does, far less than anything that grows with the square.
fn within<T>(most: Duration, run: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = run();
    assert!(started.elapsed() < most, "took {:?}", started.elapsed());
    result
}

#[test]
fn pools_of_a_thousand_ranges() {
    let pools = (0..20u8).map(|n| {
        let list = (0..1000u16)
            .map(|m| format!("10.{n}.{}.{}/32", m / 128, m % 128 * 2))
            .collect::<Vec<_>>();
        let list = list.iter().map(String::as_str).collect::<Vec<_>>();
        object::<IpAddressPool>(&format!("p{n}"), 1, &addresses(&list))
    });
    let mut objects = pools.collect::<Vec<_>>();
    objects.push(object::<BgpAdvertisement>("all", 1, "{localPref: 1}"));
    let mut around = surroundings();
    around.nodes = nodes(&[("n1", "x")]);
    for node in around.nodes.values_mut() {
        node.addresses = ["10.7.3.8".parse().unwrap()].into();
        node.pod_cidrs = vec!["10.0.0.0/9".parse().unwrap(), "::/0".parse().unwrap()];
    }
    let objects = snapshot(&objects);
    // 20,000 ranges in an unoptimised build; pairs of them would be 200 million.
    let parsed = within(Duration::from_secs(10), || parse(&objects, &around, &Parsed::default()));
    assert_eq!((parsed.errors.len(), parsed.config.pools.len()), (0, 20));
    assert_eq!(
        parsed.warnings.len(),
        20_001,
        "one for each range, and one for the node"
    );
    let twin = object::<IpAddressPool>("twin", 2, &addresses(&["10.3.0.0/16"]));
    let with_twin = objects.into_iter().chain([twin]).collect();
    let parsed = within(Duration::from_secs(10), || {
        parse(&with_twin, &surroundings(), &Parsed::default())
    });
    assert_eq!(parsed.errors.len(), 1);
}

#[test]
fn pools_as_large_as_the_families() {
    let huge = object::<IpAddressPool>("huge", 1, &addresses(&["0.0.0.0/0", "::/0"]));
    let odd = "{aggregationLength: 1, aggregationLengthV6: 0}";
    let ad = object::<BgpAdvertisement>("ad", 1, odd);
    let parsed = within(Duration::from_secs(1), || read(&[huge, ad]));
    let pool = &parsed.config.pools["huge"];
    assert_eq!(pool.capacity(Family::V4), 1 << 32);
    assert_eq!(pool.capacity(Family::V6), u128::MAX);
    assert!(
        parsed.config.bgp_advertisements["ad"].covers_pool(pool),
        "as wide as the pool"
    );
    let large = object::<IpAddressPool>("large", 1, &addresses(&["2001:db8::-2001:db8:0:0:10::"]));
    assert_eq!(read(&[large]).config.pools["large"].capacity(Family::V6), (1 << 52) + 1);
}

#[test]
fn advertisements_and_peers_by_the_hundred() {
    let zones = (0..200).map(|n| format!("z{n}")).collect::<Vec<_>>();
    let list = zones.iter().map(|z| (&**z, &**z)).collect::<Vec<_>>();
    let mut around = surroundings();
    around.nodes = nodes(&list);
    let mut objects = Vec::new();
    for (n, zone) in zones.iter().enumerate() {
        let nodes = format!("nodeSelectors: [{{matchLabels: {{zone: {zone}}}}}]");
        objects.push(object::<IpAddressPool>(zone, 1, &format!("addresses: [10.0.{n}.0/24]")));
        objects.push(object::<BgpAdvertisement>(
            zone,
            1,
            &format!("{{localPref: {n}, {nodes}}}"),
        ));
        let peer = format!("{{myASN: {}, peerASN: 1, peerAddress: 192.0.2.1, {nodes}}}", n + 1);
        objects.push(object::<BgpPeer>(zone, 1, &peer));
    }
    let objects = snapshot(&objects);
    let parsed = within(Duration::from_secs(20), || parse(&objects, &around, &Parsed::default()));
    assert_eq!(parsed.errors, []);
}
