//! The manifests under `manifests`, read and written again: nothing that they say is lost.

use std::fs;
use std::path::Path;

use ferrolb_api::{
    AllocationPolicy, AnnouncementPolicy, BfdProfile, BgpAdvertisement, BgpPeer, Community, ConfigurationState,
    IpAddressPool, L2Advertisement, ServiceBgpStatus, ServiceL2Status, SpeakerState, VirtualIp,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Every document, with where it stands.
fn documents() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests");
    let mut documents = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let file: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        documents.extend(file.into_iter().map(|document| {
            let name = document["metadata"]["name"].as_str().unwrap_or_default();
            (format!("{} {name}", path.display()), document)
        }));
    }
    documents
}

fn again<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{object}: {error}"));
    serde_json::to_value(typed).unwrap()
}

fn read_and_written(object: &Value) -> Value {
    let through = match object["kind"].as_str().unwrap() {
        "AllocationPolicy" => again::<AllocationPolicy>,
        "AnnouncementPolicy" => again::<AnnouncementPolicy>,
        "BFDProfile" => again::<BfdProfile>,
        "BGPAdvertisement" => again::<BgpAdvertisement>,
        "BGPPeer" => again::<BgpPeer>,
        "Community" => again::<Community>,
        "ConfigurationState" => again::<ConfigurationState>,
        "IPAddressPool" => again::<IpAddressPool>,
        "L2Advertisement" => again::<L2Advertisement>,
        "ServiceBGPStatus" => again::<ServiceBgpStatus>,
        "ServiceL2Status" => again::<ServiceL2Status>,
        "SpeakerState" => again::<SpeakerState>,
        "VirtualIP" => again::<VirtualIp>,
        kind => panic!("no kind of ours: {kind}"),
    };
    through(object)
}

/// The fields of `manifest` that are not the same in `object`. Where nothing and an empty value mean the same, an empty
/// one may be left out.
fn lost(path: &str, manifest: &Value, object: &Value, empty_is_nothing: bool) -> Vec<String> {
    let Value::Object(fields) = manifest else {
        let same = manifest == object || (empty_is_nothing && object.is_null() && is_empty(manifest));
        return if same {
            vec![]
        } else {
            vec![format!("{path}: {manifest} is {object}")]
        };
    };
    if object.is_null() && !(empty_is_nothing && fields.is_empty()) {
        return vec![format!("{path} is gone")];
    }
    let inner = |(key, value): (&String, &Value)| lost(&format!("{path}.{key}"), value, &object[key], empty_is_nothing);
    fields.iter().flat_map(inner).collect()
}

fn is_empty(value: &Value) -> bool {
    [json!(""), json!(0), json!(false), json!([])].contains(value)
}

#[test]
fn nothing_is_lost() {
    let documents = documents();
    for crd in ferrolb_api::crds() {
        let kind = &crd.spec.names.kind;
        assert!(
            documents.iter().any(|(_, d)| d["kind"] == **kind),
            "no manifest of {kind}"
        );
    }
    for (name, document) in documents {
        let written = read_and_written(&document);
        let metallb = document["apiVersion"].as_str().unwrap().starts_with("metallb.io/");
        let lost = lost("spec", &document["spec"], &written["spec"], metallb);
        assert!(lost.is_empty() || document.get("spec").is_none(), "{name}: {lost:?}");
        assert_eq!(document["metadata"], written["metadata"], "{name}");
    }
}

#[test]
fn absent_and_empty_are_two_things() {
    let policy = |spec: Value| -> AllocationPolicy {
        serde_json::from_value(json!({
            "apiVersion": "ferrolb.io/v1alpha1", "kind": "AllocationPolicy", "metadata": { "name": "p" }, "spec": spec,
        }))
        .unwrap()
    };
    let (absent, empty) = (
        policy(json!({})).spec,
        policy(json!({ "pools": [], "sharing": {} })).spec,
    );
    assert_eq!((absent.pools, absent.sharing), (None, None));
    assert_eq!((empty.pools, empty.sharing.is_some()), (Some(vec![]), true));
}

#[test]
fn a_password_is_not_shown() {
    let peer: BgpPeer = serde_json::from_value(json!({
        "apiVersion": "metallb.io/v1beta2", "kind": "BGPPeer", "metadata": { "name": "p" },
        "spec": { "myASN": 1, "peerASN": 2, "peerAddress": "192.0.2.1", "password": "sesame" },
    }))
    .unwrap();
    assert!(!format!("{peer:?}").contains("sesame"));
    assert_eq!(peer.spec.password.expose(), "sesame");
}

#[test]
fn defaults_of_a_peer() {
    let peer: BgpPeer = serde_json::from_value(json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "BGPPeer", "metadata": { "name": "p" },
        "spec": { "myASN": 1, "peerPort": null, "holdTime": null, "password": null, "nodeSelectors": null },
    }))
    .unwrap();
    assert_eq!(
        (peer.spec.peer_port, peer.spec.hold_time, peer.spec.password.is_empty()),
        (179, None, true)
    );
}
