//! The CRDs on a real API server: it takes them, what users have applies unchanged, what cannot be right is refused by
//! the name of the field, and no version loses a field.

mod refused;
mod server;

use std::fs;
use std::path::Path;

use ferrolb_api::{
    AddressConflict, BfdSession, BfdState, BgpSession, BgpState, InterfaceInfo, InterfaceState, Layer2State,
    Negotiated, ServiceBgpStatusStatus, ServiceL2StatusStatus, SessionState, SpeakerStateStatus,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::server::Server;

/// One server for everything: it takes longer to start than all the rest.
#[tokio::test]
async fn crds_on_a_real_api_server() {
    let server = Server::start().await;
    refused::what_cannot_be_right(&server).await;
    manifests_apply_unchanged(&server).await;
    the_widest_objects_fit(&server).await;
    defaults_are_those_of_the_types(&server).await;
    peers_in_both_versions(&server).await;
    statuses_are_kept_whole(&server).await;
    a_service_status_stays_with_its_service(&server).await;
    a_conversion_webhook_is_replaced(&server).await;
}

fn manifests() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../api/tests/manifests");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let documents = |path| serde_saphyr::from_multiple::<Value>(&fs::read_to_string(path).unwrap()).unwrap();
    files.into_iter().flat_map(documents).collect()
}

/// Whether everything in `part` stands in `whole` too.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(key, value)| whole.get(key).is_some_and(|w| contains(w, value))),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(w, p)| contains(w, p))
        }
        _ => whole == part,
    }
}

async fn manifests_apply_unchanged(server: &Server) {
    let manifests = manifests();
    assert!(manifests.len() > 40, "only {} manifests", manifests.len());
    for manifest in manifests {
        let stored = server
            .apply(&manifest)
            .await
            .unwrap_or_else(|e| panic!("{manifest}: {e}"));
        assert!(contains(&stored, &manifest), "{manifest} became {stored}");
        // What is stored may be written back, whole.
        let name = manifest["metadata"]["name"].as_str().unwrap();
        let object = serde_json::from_value(stored).unwrap();
        let again = server
            .api(&manifest)
            .replace(name, &PostParams::default(), &object)
            .await;
        assert!(again.is_ok(), "{manifest}: {again:?}");
    }
}

/// Lists at their limit cost less than the API server allows.
async fn the_widest_objects_fit(server: &Server) {
    let pool = (0..1024u32).map(|n| format!("10.{}.{}.0-10.{}.{}.255", n / 256, n % 256, n / 256, n % 256));
    let aliases = (0..1024).map(|n| json!({ "name": format!("alias-{n}"), "value": format!("large:{n}:{n}:{n}") }));
    for object in [
        metallb(
            "IPAddressPool",
            "v1beta1",
            json!({ "addresses": pool.collect::<Vec<_>>() }),
        ),
        metallb(
            "Community",
            "v1beta1",
            json!({ "communities": aliases.collect::<Vec<_>>() }),
        ),
    ] {
        let stored = server.apply(&object).await;
        assert!(stored.is_ok(), "{}: {stored:?}", object["kind"]);
    }
}

/// An object of `metallb.io` called `one`.
fn metallb(kind: &str, version: &str, spec: Value) -> Value {
    json!({
        "apiVersion": format!("metallb.io/{version}"),
        "kind": kind,
        "metadata": { "name": "one", "namespace": server::NAMESPACE },
        "spec": spec,
    })
}

async fn defaults_are_those_of_the_types(server: &Server) {
    fn same<T: DeserializeOwned + PartialEq + std::fmt::Debug>(applied: &Value, stored: &Value) {
        let read = |object: &Value| serde_json::from_value::<T>(object["spec"].clone()).unwrap();
        assert_eq!(read(applied), read(stored));
    }
    let pool = metallb("IPAddressPool", "v1beta1", json!({ "addresses": ["192.0.2.0/24"] }));
    same::<ferrolb_api::IpAddressPoolSpec>(&pool, &server.apply(&pool).await.unwrap());
    let router = metallb(
        "BGPPeer",
        "v1beta2",
        json!({ "myASN": 1, "peerASN": 2, "peerAddress": "192.0.2.1" }),
    );
    same::<ferrolb_api::BgpPeerSpec>(&router, &server.apply(&router).await.unwrap());
    let advertisement = server
        .apply(&metallb("BGPAdvertisement", "v1beta1", json!({})))
        .await
        .unwrap();
    assert_eq!(
        advertisement["spec"],
        json!({ "aggregationLength": 32, "aggregationLengthV6": 128 })
    );
}

/// What is written through one version is there in the other, and an edit through the old one loses nothing.
async fn peers_in_both_versions(server: &Server) {
    let [old, new] = ["v1beta1", "v1beta2"].map(|version| metallb("BGPPeer", version, Value::Null));
    let read = async |version: &Value, name: &str| -> Value {
        let object = server.api(version).get(name).await.unwrap();
        assert_eq!(object.types.as_ref().unwrap().api_version, version["apiVersion"]);
        object.data["spec"].clone()
    };
    for name in manifests()
        .iter()
        .filter(|m| m["kind"] == "BGPPeer")
        .map(|m| &m["metadata"]["name"])
    {
        let name = name.as_str().unwrap();
        let before = read(&new, name).await;
        assert_eq!(read(&old, name).await, before, "{name}");
        let change = json!({ "spec": { "bfdProfile": "slow" } });
        let patch = Patch::Merge(&change);
        server
            .api(&old)
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
        let mut expected = before;
        expected["bfdProfile"] = json!("slow");
        assert_eq!(read(&new, name).await, expected, "{name}, patched through v1beta1");
        let whole = server.api(&old).get(name).await.unwrap();
        server
            .api(&old)
            .replace(name, &PostParams::default(), &whole)
            .await
            .unwrap();
        assert_eq!(read(&new, name).await, expected, "{name}, replaced through v1beta1");
    }
}

/// Writes a status and reads it back.
async fn status<T: Serialize>(server: &Server, kind: &str, name: &str, status: &T) -> Result<Value, String> {
    let group = if kind == "SpeakerState" {
        "ferrolb.io/v1alpha1"
    } else {
        "metallb.io/v1beta1"
    };
    let api = server.api(&json!({ "apiVersion": group, "kind": kind }));
    let change = json!({ "status": status });
    let written = api
        .patch_status(name, &PatchParams::default(), &Patch::Merge(&change))
        .await;
    written
        .map(|object| object.data["status"].clone())
        .map_err(|e| e.to_string())
}

/// The schemas know every field that the speakers write.
async fn statuses_are_kept_whole(server: &Server) {
    async fn kept<T: Serialize>(server: &Server, kind: &str, name: &str, written: &T) {
        let stored = status(server, kind, name, written).await.unwrap();
        assert_eq!(stored, serde_json::to_value(written).unwrap(), "{kind}");
    }
    kept(server, "SpeakerState", "node-a", &speaker_state()).await;
    let service = ("node-a".to_owned(), "web".to_owned(), "default".to_owned());
    let (node, service_name, service_namespace) = service.clone();
    let l2 = ServiceL2StatusStatus {
        node,
        service_name,
        service_namespace,
        interfaces: vec![InterfaceInfo { name: "eth0".into() }],
    };
    kept(server, "ServiceL2Status", "l2-x7k2p", &l2).await;
    let (node, service_name, service_namespace) = service;
    let bgp = ServiceBgpStatusStatus {
        node,
        service_name,
        service_namespace,
        peers: vec!["tor-1".into(), "tor-2".into()],
    };
    kept(server, "ServiceBGPStatus", "bgp-9q4wz", &bgp).await;
}

fn speaker_state() -> SpeakerStateStatus {
    let since = serde_json::from_value(json!("2026-01-02T03:04:05Z")).unwrap();
    SpeakerStateStatus {
        version: "1.2.3".into(),
        interfaces: vec![InterfaceState {
            name: "eth0".into(),
            mac_address: "02:00:5e:10:00:01".into(),
            up: true,
            carrier: true,
            addresses: vec!["192.0.2.5/24".into()],
            gateways: vec!["192.0.2.1".into()],
        }],
        layer2: Some(Layer2State { announced_addresses: 3 }),
        conflicts: vec![AddressConflict {
            address: "192.0.2.100".into(),
            interface: "eth0".into(),
            mac_address: "02:00:5e:10:00:99".into(),
        }],
        bgp: Some(BgpState {
            established: 1,
            sessions: vec![BgpSession {
                peer: "tor-1".into(),
                address: "192.0.2.1".into(),
                state: SessionState::Established,
                since,
                negotiated: Some(Negotiated {
                    peer_asn: u32::MAX,
                    router_id: "192.0.2.1".into(),
                    hold_seconds: 90,
                    keepalive_seconds: 30,
                    capabilities: vec!["ipv4-unicast".into()],
                }),
                prefixes_sent: 7,
                last_error: "Cease: Administrative Shutdown".into(),
                bfd: Some(BfdSession {
                    state: BfdState::Up,
                    since: None,
                }),
            }],
        }),
        last_error: "none of the interfaces has carrier".into(),
    }
}

async fn a_service_status_stays_with_its_service(server: &Server) {
    for (kind, name) in [("ServiceL2Status", "l2-x7k2p"), ("ServiceBGPStatus", "bgp-9q4wz")] {
        for field in ["node", "serviceName", "serviceNamespace"] {
            let error = status(server, kind, name, &json!({ field: "another" }))
                .await
                .unwrap_err();
            assert!(error.contains(&format!("status.{field}")), "{kind}: {error}");
        }
    }
}

/// Where MetalLB was, the CRD of peers names its conversion webhook; replaced by ours, it names none, and the objects
/// are there.
async fn a_conversion_webhook_is_replaced(server: &Server) {
    let crds: Api<CustomResourceDefinition> = Api::all(server.client());
    let webhook = json!({ "spec": { "conversion": {
        "strategy": "Webhook",
        "webhook": { "conversionReviewVersions": ["v1"], "clientConfig": { "url": "https://192.0.2.1/convert" } },
    } } });
    let name = "bgppeers.metallb.io";
    crds.patch(name, &PatchParams::default(), &Patch::Merge(&webhook))
        .await
        .unwrap();
    let mut ours = ferrolb_api::crds()
        .into_iter()
        .find(|crd| crd.metadata.name.as_deref() == Some(name))
        .unwrap();
    // An apply leaves the webhook where it stands. Then it must fail, not keep a webhook that nobody serves.
    let merged = crds
        .patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&ours))
        .await;
    assert!(merged.unwrap_err().to_string().contains("spec.conversion"));
    ours.metadata.resource_version = crds.get(name).await.unwrap().metadata.resource_version;
    crds.replace(name, &PostParams::default(), &ours).await.unwrap();
    let api = server.api(&metallb("BGPPeer", "v1beta1", Value::Null));
    assert!(!listed(&api).await.is_empty());
}

/// The objects, once the API server has opened the kind again: until then it answers 429.
async fn listed(api: &kube::Api<kube::core::DynamicObject>) -> Vec<kube::core::DynamicObject> {
    for _ in 0..50 {
        match api.list(&Default::default()).await {
            Err(kube::Error::Api(status)) if status.code == 429 => {
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
            listed => return listed.unwrap().items,
        }
    }
    panic!("the kind stays closed");
}
