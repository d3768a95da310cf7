//! AllocationPolicies and AnnouncementPolicies.

use std::time::Duration;

use ferrolb_api::{AllocationPolicy, AnnouncementPolicy, IpAddressPool};
use ferrolb_model::{
    AddressSource, AntiAffinity, DrainTrigger, Family, Layer2Settings, NodeValue, Opener, PeerSettings, PoolSelection,
};

use crate::make::{messages, object, read, warnings};

#[test]
fn an_allocation_policy_is_read_as_written() {
    let everything = object::<AllocationPolicy>(
        "tenants",
        1,
        "{namespaces: [plain], namespaceSelectors: [{matchLabels: {team: a}}], pools: [lan, later], maxAddresses: 3, \
         requestableAddresses: [192.0.2.0/28, 192.0.2.100-192.0.2.101], sharing: {namespaceSelectors: [{matchLabels: \
         {team: b}}]}}",
    );
    let nothing = object::<AllocationPolicy>("none", 1, "{pools: [], requestableAddresses: [], sharing: {}}");
    let lan = object::<IpAddressPool>("lan", 1, "addresses: [192.0.2.0/24]");
    let parsed = read(&[everything, nothing, lan]);
    assert_eq!(messages(&parsed), [""; 0]);
    let policy = &parsed.config.allocation_policies["tenants"];
    assert_eq!(
        ["red", "plain", "blue", "other"].map(|n| policy.covers(n)),
        [true, true, false, false]
    );
    assert!(policy.allows_pool("lan") && !policy.allows_pool("wan"));
    assert_eq!(policy.max_addresses, Some(3));
    let address = |text: &str| policy.allows_request(text.parse().unwrap());
    assert_eq!(
        ["192.0.2.15", "192.0.2.16", "192.0.2.100"].map(address),
        [true, false, true]
    );
    assert!(policy.allows_sharing("red", "blue") && policy.allows_sharing("red", "red"));
    assert!(!policy.allows_sharing("red", "plain"));
    assert_eq!(
        warnings(&parsed),
        [
            "AllocationPolicy \"tenants\": spec.pools: no IPAddressPool \"later\" is in force; create it, correct it, or \
             remove its name here (a warning; the object is in force)"
        ]
    );
    let nothing = &parsed.config.allocation_policies["none"];
    assert!(nothing.covers("anybody") && !nothing.allows_pool("lan"));
    assert!(!nothing.allows_request("192.0.2.1".parse().unwrap()) && !nothing.allows_sharing("red", "blue"));
}

#[test]
fn every_mistake_of_an_allocation_policy_is_named() {
    let bad = object::<AllocationPolicy>(
        "bad",
        1,
        "{namespaces: [a, a], namespaceSelectors: [{matchExpressions: [{key: k, operator: In}]}], pools: [p, p], \
         requestableAddresses: [192.0.2.0/33, 192.0.2.0/24, 192.0.2.7-192.0.2.8], sharing: {namespaces: [b, b]}}",
    );
    let parsed = read(&[bad]);
    let fields = parsed.errors.iter().map(|e| &*e.field).collect::<Vec<_>>();
    assert_eq!(
        fields,
        [
            "spec.namespaces[1]",
            "spec.namespaceSelectors[0].matchExpressions[0].values",
            "spec.pools[1]",
            "spec.requestableAddresses[0]",
            "spec.requestableAddresses[2]",
            "spec.sharing.namespaces[1]",
        ]
    );
    assert!(parsed.config.allocation_policies.is_empty());
}

#[test]
fn an_announcement_policy_is_read_as_written() {
    let everything = object::<AnnouncementPolicy>(
        "a",
        1,
        "{ipAddressPools: [lan], serviceSelectors: [{matchLabels: {a: b}}], onRequest: {namespaces: [shop]}, layer2: {placement: {weights: [{weight: 7, \
         nodeSelector: {}}], antiAffinity: {among: Label, labelKey: app}, preemption: true}, liveness: \
         {intervalMilliseconds: 20, multiplier: 3}, graceSeconds: 0, refreshSeconds: 86400}, drain: {triggers: [Cordon, \
         Taint], delaySeconds: 5}, endpoints: {policy: Ready, waitSeconds: 1}, bgp: {med: 10, asPathPrepend: 2, \
         largeCommunities: ['64512:1:2'], extendedCommunities: ['rt:64512:100'], linkBandwidth: {}, gracefulShutdown: {}}}",
    );
    let parsed = read(&[
        everything,
        object::<AnnouncementPolicy>("b", 1, "{}"),
        object::<AnnouncementPolicy>("c", 1, "{onRequest: {}}"),
    ]);
    assert_eq!(messages(&parsed), [""; 0]);
    let policy = &parsed.config.announcement_policies["a"];
    assert!(matches!(&policy.pools, PoolSelection::Some { names, .. } if names.contains("lan")));
    let asked = policy.on_request.as_ref().unwrap();
    assert_eq!((asked.admits("shop"), asked.admits("other")), (true, false));
    let l2 = &policy.layer2;
    assert_eq!(
        (l2.weights[0].weight, &l2.anti_affinity),
        (7, &Some(AntiAffinity::Label("app".to_owned())))
    );
    assert_eq!(
        (l2.liveness_interval, l2.grace),
        (Some(Duration::from_millis(20)), Some(Duration::ZERO))
    );
    assert_eq!(l2.refresh, Some(Duration::from_secs(86400)));
    assert_eq!(
        policy.drain.triggers,
        Some([DrainTrigger::Cordon, DrainTrigger::Taint].into())
    );
    assert_eq!(
        (policy.endpoints.serving, policy.bgp.as_path_prepend),
        (Some(false), Some(2))
    );
    assert_eq!(
        (policy.bgp.link_bandwidth, policy.bgp.graceful_shutdown),
        (Some(1000), Some(Duration::from_secs(5)))
    );
    assert_eq!(
        (
            policy.bgp.large_communities.len(),
            policy.bgp.extended_communities.len()
        ),
        (1, 1)
    );
    let anybody = parsed.config.announcement_policies["c"].on_request.as_ref();
    assert!(anybody.is_some_and(|asked| asked.admits("other")));
    let open = &parsed.config.announcement_policies["b"];
    assert_eq!(open.on_request, None);
    assert_eq!(
        (&open.pools, &open.layer2),
        (&PoolSelection::All, &Layer2Settings::default())
    );
    assert_eq!((&open.drain.triggers, open.bgp.graceful_shutdown), (&None, None));
}

#[test]
fn what_a_policy_says_of_peers_is_read_and_every_mistake_named() {
    let right = object::<AnnouncementPolicy>(
        "a",
        1,
        "{bgp: {peers: [{name: tor, address: {nodeLabel: example.com/tor}, asn: {nodeAnnotation: example.com/asn}, openedBy: Both}, \
         {name: edge, address: {defaultGateway: IPv6}}, {name: core, openedBy: Router, ttlSecurityHops: 1}]}}",
    );
    let wrong = object::<AnnouncementPolicy>(
        "b",
        1,
        "{bgp: {peers: [{name: ''}, {name: tor, address: {}}, {name: tor, address: {nodeLabel: a, defaultGateway: IPv4}}, \
         {name: x, asn: {nodeLabel: a, nodeAnnotation: b}}, {name: y, asn: {nodeLabel: 'not a key'}}, \
         {name: z, ttlSecurityHops: 255}]}}",
    );
    let parsed = read(&[right, wrong]);
    let peers = &parsed.config.announcement_policies["a"].bgp.peers;
    let tor = PeerSettings {
        address: Some(AddressSource::Node(NodeValue::Label("example.com/tor".to_owned()))),
        asn: Some(NodeValue::Annotation("example.com/asn".to_owned())),
        opener: Some(Opener::Both),
        ttl_security: None,
    };
    assert_eq!(peers["tor"], tor);
    assert_eq!(peers["edge"].address, Some(AddressSource::DefaultGateway(Family::V6)));
    assert_eq!(
        (peers["core"].opener, peers["core"].ttl_security),
        (Some(Opener::Router), Some(1))
    );
    let mut fields: Vec<&str> = parsed.errors.iter().map(|e| &*e.field).collect();
    fields.sort_unstable();
    let expected = [
        "spec.bgp.peers[0].name",
        "spec.bgp.peers[1].address",
        "spec.bgp.peers[2]",
        "spec.bgp.peers[2].address",
        "spec.bgp.peers[3].asn",
        "spec.bgp.peers[4].asn.nodeLabel",
        "spec.bgp.peers[5].ttlSecurityHops",
    ];
    assert_eq!(fields, expected, "{:?}", messages(&parsed));
    assert!(!parsed.config.announcement_policies.contains_key("b"));
}

#[test]
fn every_mistake_of_an_announcement_policy_is_named() {
    let bad = object::<AnnouncementPolicy>(
        "bad",
        1,
        "{onRequest: {namespaces: [shop, shop, Shop]}, layer2: {placement: {weights: [{weight: 101, nodeSelector: {}}], antiAffinity: {among: Label}}, liveness: \
         {intervalMilliseconds: 9, multiplier: 0}, graceSeconds: 3601, refreshSeconds: 86401}, drain: {triggers: [Cordon, \
         Cordon], delaySeconds: 3601}, endpoints: {waitSeconds: 301}, bgp: {asPathPrepend: 33, largeCommunities: \
         ['large:1:2:3'], extendedCommunities: ['rd:1:1'], linkBandwidth: {megabitsPerEndpoint: 0}, gracefulShutdown: \
         {waitSeconds: 601}}}",
    );
    let parsed = read(&[bad]);
    let fields = parsed
        .errors
        .iter()
        .map(|e| e.field.strip_prefix("spec.").unwrap())
        .collect::<Vec<_>>();
    assert_eq!(
        fields,
        [
            "onRequest.namespaces[1]",
            "onRequest.namespaces[2]",
            "layer2.placement.weights[0].weight",
            "layer2.placement.antiAffinity.labelKey",
            "layer2.liveness.intervalMilliseconds",
            "layer2.liveness.multiplier",
            "layer2.graceSeconds",
            "layer2.refreshSeconds",
            "drain.triggers[1]",
            "drain.delaySeconds",
            "endpoints.waitSeconds",
            "bgp.asPathPrepend",
            "bgp.largeCommunities[0]",
            "bgp.extendedCommunities[0]",
            "bgp.linkBandwidth.megabitsPerEndpoint",
            "bgp.gracefulShutdown.waitSeconds",
        ]
    );
}
