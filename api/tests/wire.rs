//! What is read and written: lenient in, exact out.

use ferrolb_api::{
    Claim, ConfigurationResult, ConfigurationState, IpAddressPool, L2Advertisement, ReclaimPolicy, VirtualIp,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn read<T: DeserializeOwned>(kind: &str, body: Value) -> T {
    let mut object = json!({ "apiVersion": "x", "kind": kind, "metadata": { "name": "one" } });
    object
        .as_object_mut()
        .unwrap()
        .extend(body.as_object().unwrap().clone());
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{object}: {error}"))
}

#[test]
fn a_pool_with_its_defaults() {
    let pool: IpAddressPool = read("IPAddressPool", json!({ "spec": { "addresses": ["192.0.2.0/24"] } }));
    assert!(pool.spec.auto_assign && !pool.spec.avoid_buggy_ips);
    assert_eq!(pool.spec.service_allocation, None);
    let nulls: IpAddressPool = read(
        "IPAddressPool",
        json!({ "spec": { "addresses": ["192.0.2.0/24"], "autoAssign": null, "avoidBuggyIPs": null, "serviceAllocation": null } }),
    );
    assert_eq!(nulls, pool);
}

#[test]
fn a_pool_with_everything() {
    let spec = json!({
        "addresses": ["192.0.2.0/24", "2001:db8::1-2001:db8::9"],
        "autoAssign": false,
        "avoidBuggyIPs": true,
        "serviceAllocation": {
            "priority": 50,
            "namespaces": ["a"],
            "namespaceSelectors": [{ "matchLabels": { "team": "a" } }],
            "serviceSelectors": [{ "matchExpressions": [{ "key": "k", "operator": "In", "values": ["v"] }] }],
        },
    });
    let pool: IpAddressPool = read("IPAddressPool", json!({ "spec": spec }));
    assert_eq!(serde_json::to_value(&pool.spec).unwrap(), spec);
}

#[test]
fn objects_that_an_older_schema_let_in() {
    let empty: IpAddressPool = read("IPAddressPool", json!({ "spec": {} }));
    assert!(empty.spec.addresses.is_empty());
    let unknown: IpAddressPool = read(
        "IPAddressPool",
        json!({ "spec": { "addresses": null, "protocol": "layer2" }, "status": {} }),
    );
    assert_eq!(unknown.status.unwrap().assigned_ipv4, 0);
    let policy: VirtualIp = read(
        "VirtualIP",
        json!({ "spec": { "address": "192.0.2.1", "reclaimPolicy": "Recycle" } }),
    );
    assert_eq!(policy.spec.reclaim_policy, ReclaimPolicy::Retain);
    let result: ConfigurationState = read(
        "ConfigurationState",
        json!({ "status": { "result": "Perhaps", "conditions": null } }),
    );
    assert_eq!(result.status.unwrap().result, ConfigurationResult::Unknown);
}

#[test]
fn an_advertisement_that_is_only_a_name() {
    let bare: L2Advertisement = read("L2Advertisement", json!({}));
    let null: L2Advertisement = read("L2Advertisement", json!({ "spec": null }));
    let empty: L2Advertisement = read("L2Advertisement", json!({ "spec": {} }));
    assert_eq!(bare, empty);
    assert_eq!(null, empty);
    assert_eq!(serde_json::to_value(&bare).unwrap()["spec"], json!({}));
}

#[test]
fn an_advertisement_with_everything() {
    let spec = json!({
        "ipAddressPools": ["a"],
        "ipAddressPoolSelectors": [{ "matchLabels": { "zone": "1" } }],
        "nodeSelectors": [{ "matchLabels": { "kubernetes.io/hostname": "n1" } }],
        "interfaces": ["eth0"],
        "serviceSelectors": [{}],
        "preferredNodeSelectors": [{ "weight": 10, "preference": { "matchLabels": { "fast": "yes" } } }],
    });
    let advertisement: L2Advertisement = read("L2Advertisement", json!({ "spec": spec }));
    assert_eq!(serde_json::to_value(&advertisement.spec).unwrap(), spec);
}

#[test]
fn a_virtual_ip_both_ways() {
    let spec = json!({
        "address": "2001:db8::7",
        "pool": "p",
        "claims": [{ "namespace": "a", "name": "web", "uid": "u" }, { "namespace": "a", "name": "dns" }],
        "sharingKey": "k",
        "reclaimPolicy": "Retain",
    });
    let status = json!({
        "placement": { "owner": "n1", "standbys": ["n2", "n3"], "epoch": 4 },
        "announcer": { "node": "n1", "interfaces": ["eth0"] },
        "conditions": [{
            "type": "Announced",
            "status": "True",
            "reason": "Announced",
            "message": "n1 announces it",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        }],
    });
    let vip: VirtualIp = read("VirtualIP", json!({ "spec": spec, "status": status }));
    assert_eq!(
        vip.spec.claims[1],
        Claim {
            namespace: "a".into(),
            name: "dns".into(),
            uid: None
        }
    );
    let written = serde_json::to_value(&vip).unwrap();
    assert_eq!(written["spec"], spec);
    assert_eq!(written["status"], status);
    assert_eq!(
        (&written["apiVersion"], &written["kind"]),
        (&json!("ferrolb.io/v1alpha1"), &json!("VirtualIP"))
    );
}

#[test]
fn a_configuration_state_has_no_spec() {
    let state: ConfigurationState = read("ConfigurationState", json!({ "status": { "result": "Valid" } }));
    let written = serde_json::to_value(&state).unwrap();
    assert_eq!(written["status"], json!({ "result": "Valid" }));
    assert!(written.get("spec").is_none());
}
