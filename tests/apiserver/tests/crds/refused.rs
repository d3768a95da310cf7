//! What can never be right is refused when it is applied, with the field and what would be right.

use serde_json::{Value, json};

use crate::server::{NAMESPACE, Server};

/// A kind, a spec, and what the refusal says.
type Case = (&'static str, Value, &'static [&'static str]);

/// Every case is refused with all its texts; all failures are told at once.
pub(crate) async fn what_cannot_be_right(server: &Server) {
    let mut wrong = Vec::new();
    for (kind, spec, said) in [pools(), advertisements(), peers(), timers(), bgp(), policies()].concat() {
        let version = match kind {
            "BGPPeer" => "metallb.io/v1beta2",
            "AllocationPolicy" | "AnnouncementPolicy" => "ferrolb.io/v1alpha1",
            _ => "metallb.io/v1beta1",
        };
        let object = json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": { "name": "refused", "namespace": NAMESPACE },
            "spec": spec,
        });
        match server.apply(&object).await {
            Ok(_) => wrong.push(format!("{kind} {spec} was taken")),
            Err(error) if said.iter().all(|text| error.contains(text)) && !error.contains("evaluat") => {}
            Err(error) => wrong.push(format!("{kind} {spec}: {error}\n  does not say {said:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn pools() -> Vec<Case> {
    let pool = |address: &str| json!({ "addresses": [address] });
    vec![
        ("IPAddressPool", json!({}), &["spec.addresses", "Required"]),
        (
            "IPAddressPool",
            json!({ "addresses": [] }),
            &["spec.addresses", "at least one"],
        ),
        (
            "IPAddressPool",
            pool("192.0.2.1"),
            &["spec.addresses[0]", "192.0.2.10/32"],
        ),
        ("IPAddressPool", pool("192.0.2.0/33"), &["spec.addresses[0]", "0 to 32"]),
        (
            "IPAddressPool",
            pool("192.0.2.9-192.0.2.1"),
            &["spec.addresses[0]", "write 192.0.2.1-192.0.2.9"],
        ),
        (
            "IPAddressPool",
            pool("192.0.2.1-2001:db8::1"),
            &["spec.addresses[0]", "families"],
        ),
        (
            "IPAddressPool",
            json!({ "addresses": ["192.0.2.0/24"], "autoassign": true }),
            &["autoassign"],
        ),
    ]
}

fn advertisements() -> Vec<Case> {
    let preferred = |weight: i32| json!({ "preferredNodeSelectors": [{ "weight": weight, "preference": {} }] });
    let selectors = json!([{ "matchLabels": { "a": "b" } }]);
    vec![
        (
            "L2Advertisement",
            preferred(0),
            &["preferredNodeSelectors[0].weight", "1"],
        ),
        (
            "L2Advertisement",
            preferred(101),
            &["preferredNodeSelectors[0].weight", "100"],
        ),
        (
            "BGPAdvertisement",
            json!({ "aggregationLength": 0 }),
            &["spec.aggregationLength", "1"],
        ),
        (
            "BGPAdvertisement",
            json!({ "aggregationLength": 33 }),
            &["spec.aggregationLength", "32"],
        ),
        (
            "BGPAdvertisement",
            json!({ "aggregationLengthV6": -1 }),
            &["spec.aggregationLengthV6", "0"],
        ),
        (
            "BGPAdvertisement",
            json!({ "aggregationLengthV6": 129 }),
            &["spec.aggregationLengthV6", "128"],
        ),
        ("BGPAdvertisement", json!({ "localPref": -1 }), &["spec.localPref", "0"]),
        (
            "BGPAdvertisement",
            json!({ "aggregationLength": 24, "serviceSelectors": selectors }),
            &["spec.aggregationLength", "must be 32"],
        ),
        (
            "BGPAdvertisement",
            json!({ "aggregationLengthV6": 64, "serviceSelectors": selectors }),
            &["spec.aggregationLengthV6", "must be 128"],
        ),
    ]
}

/// A peer that is right, with some fields put in its place; null takes one away.
fn changed(change: Value) -> Value {
    let mut spec = json!({ "myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1" });
    for (field, value) in change.as_object().unwrap() {
        match value {
            Value::Null => spec.as_object_mut().unwrap().remove(field),
            value => spec.as_object_mut().unwrap().insert(field.clone(), value.clone()),
        };
    }
    spec
}

fn peers() -> Vec<Case> {
    let peer = |change: Value, said: &'static [&'static str]| ("BGPPeer", changed(change), said);
    vec![
        peer(json!({ "myASN": null }), &["spec.myASN", "Required"]),
        peer(json!({ "myASN": 0 }), &["spec.myASN", "1"]),
        peer(json!({ "myASN": 4294967296u64 }), &["spec.myASN", "4294967295"]),
        peer(
            json!({ "peerASN": null }),
            &["spec.peerASN", "either peerASN or dynamicASN"],
        ),
        peer(
            json!({ "peerASN": 0 }),
            &["spec.peerASN", "either peerASN or dynamicASN"],
        ),
        peer(
            json!({ "dynamicASN": "external" }),
            &["spec.peerASN", "either peerASN or dynamicASN"],
        ),
        peer(
            json!({ "peerASN": null, "dynamicASN": "any" }),
            &["spec.dynamicASN", "internal"],
        ),
        peer(json!({ "localASN": 0 }), &["spec.localASN", "1"]),
        peer(
            json!({ "peerAddress": null }),
            &["spec.peerAddress", "either peerAddress or interface"],
        ),
        peer(
            json!({ "interface": "eth0" }),
            &["spec.peerAddress", "either peerAddress or interface"],
        ),
        peer(
            json!({ "peerAddress": "tor.example" }),
            &["spec.peerAddress", "not an IP address"],
        ),
        peer(
            json!({ "peerAddress": "192.0.2.1/32" }),
            &["spec.peerAddress", "not an IP address"],
        ),
        peer(
            json!({ "sourceAddress": "192.0.2.256" }),
            &["spec.sourceAddress", "not an IP address"],
        ),
        peer(
            json!({ "routerID": "2001:db8::1" }),
            &["spec.routerID", "not a BGP identifier"],
        ),
        peer(json!({ "routerID": "7" }), &["spec.routerID", "not a BGP identifier"]),
        peer(json!({ "peerPort": 16385 }), &["spec.peerPort", "16384"]),
        peer(
            json!({ "password": "a", "passwordSecret": { "name": "b" } }),
            &["spec.passwordSecret", "either password or passwordSecret"],
        ),
        peer(json!({ "password": "x".repeat(81) }), &["spec.password", "80"]),
        peer(
            json!({ "peerASN": 64512, "ebgpMultiHop": true }),
            &["spec.ebgpMultiHop", "external"],
        ),
        peer(json!({ "vrf": "a-name-that-is-too-long" }), &["spec.vrf", "15"]),
    ]
}

fn timers() -> Vec<Case> {
    let peer = |change: Value, said: &'static [&'static str]| ("BGPPeer", changed(change), said);
    vec![
        peer(json!({ "holdTime": "90" }), &["spec.holdTime", "not a duration"]),
        peer(json!({ "holdTime": "" }), &["spec.holdTime", "not a duration"]),
        peer(json!({ "holdTime": "-90s" }), &["spec.holdTime", "not a duration"]),
        peer(json!({ "holdTime": "2.9s" }), &["spec.holdTime", "3s to 65535s"]),
        peer(json!({ "holdTime": "65536s" }), &["spec.holdTime", "3s to 65535s"]),
        peer(
            json!({ "keepaliveTime": "soon" }),
            &["spec.keepaliveTime", "not a duration"],
        ),
        peer(
            json!({ "holdTime": "90s", "keepaliveTime": "91s" }),
            &["spec.keepaliveTime", "longer than holdTime"],
        ),
        peer(
            json!({ "holdTime": "0s", "keepaliveTime": "1s" }),
            &["spec.keepaliveTime", "longer than holdTime"],
        ),
        peer(json!({ "connectTime": "0s" }), &["spec.connectTime", "1s to 65535s"]),
        peer(
            json!({ "connectTime": "1500ms" }),
            &["spec.connectTime", "whole seconds"],
        ),
        peer(
            json!({ "connectTime": "65536s" }),
            &["spec.connectTime", "1s to 65535s"],
        ),
        peer(json!({ "connectTime": "1 s" }), &["spec.connectTime", "not a duration"]),
    ]
}

fn bgp() -> Vec<Case> {
    let alias = |value: &str| json!({ "communities": [{ "name": "a", "value": value }] });
    let profile = |field: &str, value: i32| json!({ field: value });
    vec![
        (
            "BFDProfile",
            profile("receiveInterval", 9),
            &["spec.receiveInterval", "10"],
        ),
        (
            "BFDProfile",
            profile("transmitInterval", 60001),
            &["spec.transmitInterval", "60000"],
        ),
        ("BFDProfile", profile("echoInterval", 0), &["spec.echoInterval", "10"]),
        (
            "BFDProfile",
            profile("detectMultiplier", 1),
            &["spec.detectMultiplier", "2"],
        ),
        (
            "BFDProfile",
            profile("detectMultiplier", 256),
            &["spec.detectMultiplier", "255"],
        ),
        ("BFDProfile", profile("minimumTtl", 255), &["spec.minimumTtl", "254"]),
        (
            "Community",
            json!({ "communities": [{ "name": "a" }] }),
            &["communities[0].value", "Required"],
        ),
        ("Community", alias("no-export"), &["communities[0].value", "65000:100"]),
        ("Community", alias("65536:1"), &["communities[0].value", "65535"]),
        ("Community", alias("1:2:3"), &["communities[0].value", "large:"]),
        (
            "Community",
            alias("large:1:2:4294967296"),
            &["communities[0].value", "4294967295"],
        ),
    ]
}

fn policies() -> Vec<Case> {
    let layer2 = |setting: Value| json!({ "layer2": setting });
    let affinity = |rule: Value| json!({ "layer2": { "placement": { "antiAffinity": rule } } });
    vec![
        (
            "AllocationPolicy",
            json!({ "maxAddresses": -1 }),
            &["spec.maxAddresses", "0"],
        ),
        (
            "AllocationPolicy",
            json!({ "requestableAddresses": ["192.0.2.7"] }),
            &["spec.requestableAddresses[0]", "192.0.2.10/32"],
        ),
        (
            "AnnouncementPolicy",
            json!({ "onRequest": { "namespaces": ["shop", "Shop"] } }),
            &["spec.onRequest.namespaces[1]", "name of a namespace"],
        ),
        (
            "AnnouncementPolicy",
            affinity(json!({ "among": "Label" })),
            &["antiAffinity.labelKey"],
        ),
        (
            "AnnouncementPolicy",
            affinity(json!({ "among": "Service", "labelKey": "a" })),
            &["antiAffinity.labelKey"],
        ),
        (
            "AnnouncementPolicy",
            affinity(json!({ "among": "Pod" })),
            &["antiAffinity.among", "Service"],
        ),
        (
            "AnnouncementPolicy",
            layer2(json!({ "conflictDetection": "On" })),
            &["conflictDetection", "Probe"],
        ),
        (
            "AnnouncementPolicy",
            layer2(json!({ "liveness": { "intervalMilliseconds": 9 } })),
            &["liveness.intervalMilliseconds", "10"],
        ),
        (
            "AnnouncementPolicy",
            json!({ "drain": { "triggers": ["Reboot"] } }),
            &["drain.triggers[0]", "Cordon"],
        ),
        (
            "AnnouncementPolicy",
            json!({ "bgp": { "largeCommunities": ["large:1:2:3"] } }),
            &["bgp.largeCommunities[0]", "65000:1:2"],
        ),
        (
            "AnnouncementPolicy",
            json!({ "bgp": { "extendedCommunities": ["rt:4200000000:65536"] } }),
            &["bgp.extendedCommunities[0]", "rt:65000:100"],
        ),
        (
            "AnnouncementPolicy",
            json!({ "bgp": { "extendedCommunities": ["rt:192.0.2.256:1"] } }),
            &["bgp.extendedCommunities[0]", "soo:192.0.2.1:7"],
        ),
    ]
}
