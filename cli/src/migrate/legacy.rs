//! The ConfigMap that MetalLB was configured by up to 0.12, as objects of `metallb.io`.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use thiserror::Error;

/// Why a ConfigMap cannot be read.
#[derive(Debug, Error)]
#[error("ConfigMap {namespace}/config: key config: {problem}")]
pub struct LegacyError {
    /// Its namespace.
    pub namespace: String,
    /// What is wrong, with line and field.
    pub problem: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    peers: Vec<Peer>,
    bgp_communities: Map<String, Value>,
    address_pools: Vec<Pool>,
    bfd_profiles: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct Peer {
    my_asn: u32,
    peer_asn: u32,
    peer_address: String,
    source_address: Option<String>,
    peer_port: Option<u16>,
    hold_time: Option<String>,
    keepalive_time: Option<String>,
    router_id: Option<String>,
    node_selectors: Vec<Selector>,
    password: Option<String>,
    bfd_profile: Option<String>,
    ebgp_multihop: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct Selector {
    match_labels: Map<String, Value>,
    match_expressions: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct Pool {
    name: String,
    protocol: String,
    addresses: Vec<String>,
    avoid_buggy_ips: bool,
    auto_assign: Option<bool>,
    bgp_advertisements: Vec<Advertisement>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct Advertisement {
    aggregation_length: Option<i32>,
    aggregation_length_v6: Option<i32>,
    localpref: Option<u32>,
    communities: Vec<String>,
}

/// The objects that mean the same, in `namespace`.
///
/// # Errors
/// When the text is not such a configuration; the problem names the field.
pub fn convert(text: &str, namespace: &str) -> Result<Vec<Value>, LegacyError> {
    let wrong = |problem: String| LegacyError {
        namespace: namespace.to_owned(),
        problem,
    };
    let file = serde_saphyr::from_str::<File>(text).map_err(|error| wrong(error.to_string()))?;
    let object = |version: &str, kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": format!("metallb.io/{version}"),
            "kind": kind,
            "metadata": { "name": name, "namespace": namespace },
            "spec": spec,
        })
    };
    let mut objects = Vec::new();
    let (mut layer2, mut bgp) = (Vec::new(), 0);
    for (place, pool) in file.address_pools.iter().enumerate() {
        let advertisements = match pool.protocol.as_str() {
            "layer2" => {
                layer2.push(pool.name.clone());
                Vec::new()
            }
            "bgp" if pool.bgp_advertisements.is_empty() => vec![Advertisement::default()],
            "bgp" => pool.bgp_advertisements.clone(),
            other => {
                let field = format!("address-pools[{place}].protocol");
                return Err(wrong(format!("{field}: {other:?} is neither layer2 nor bgp")));
            }
        };
        let spec = json!({
            "addresses": pool.addresses,
            "autoAssign": pool.auto_assign.unwrap_or(true),
            "avoidBuggyIPs": pool.avoid_buggy_ips,
        });
        objects.push(object("v1beta1", "IPAddressPool", &pool.name, spec));
        for ad in advertisements {
            bgp += 1;
            let mut spec = json!({ "ipAddressPools": [pool.name], "communities": ad.communities });
            let fields = [
                ("aggregationLength", ad.aggregation_length.map(Value::from)),
                ("aggregationLengthV6", ad.aggregation_length_v6.map(Value::from)),
                ("localPref", ad.localpref.map(Value::from)),
            ];
            put(&mut spec, fields);
            objects.push(object(
                "v1beta1",
                "BGPAdvertisement",
                &format!("bgpadvertisement{bgp}"),
                spec,
            ));
        }
    }
    if !layer2.is_empty() {
        let spec = json!({ "ipAddressPools": layer2 });
        objects.push(object("v1beta1", "L2Advertisement", "l2advertisement1", spec));
    }
    for (place, peer) in file.peers.iter().enumerate() {
        let selectors = peer.node_selectors.iter();
        let selectors =
            selectors.map(|s| json!({ "matchLabels": s.match_labels, "matchExpressions": s.match_expressions }));
        let mut spec = json!({
            "myASN": peer.my_asn,
            "peerASN": peer.peer_asn,
            "peerAddress": peer.peer_address,
            "ebgpMultiHop": peer.ebgp_multihop,
            "nodeSelectors": selectors.collect::<Vec<_>>(),
        });
        let fields = [
            ("sourceAddress", peer.source_address.clone().map(Value::from)),
            ("peerPort", peer.peer_port.map(Value::from)),
            ("holdTime", peer.hold_time.clone().map(Value::from)),
            ("keepaliveTime", peer.keepalive_time.clone().map(Value::from)),
            ("routerID", peer.router_id.clone().map(Value::from)),
            ("password", peer.password.clone().map(Value::from)),
            ("bfdProfile", peer.bfd_profile.clone().map(Value::from)),
        ];
        put(&mut spec, fields);
        objects.push(object("v1beta2", "BGPPeer", &format!("peer{}", place + 1), spec));
    }
    if !file.bgp_communities.is_empty() {
        let aliases = file.bgp_communities.iter();
        let aliases = aliases.map(|(name, value)| json!({ "name": name, "value": value }));
        let spec = json!({ "communities": aliases.collect::<Vec<_>>() });
        objects.push(object("v1beta1", "Community", "communities", spec));
    }
    for (place, profile) in file.bfd_profiles.iter().enumerate() {
        let Some(fields) = profile.as_object() else {
            return Err(wrong(format!("bfd-profiles[{place}]: not a list of fields")));
        };
        let mut spec = fields.iter().map(|(k, v)| (camel(k), v.clone())).collect::<Map<_, _>>();
        let name = spec.remove("name");
        let name = name.as_ref().and_then(Value::as_str).unwrap_or_default();
        objects.push(object("v1beta1", "BFDProfile", name, Value::Object(spec)));
    }
    Ok(objects)
}

fn put<const N: usize>(spec: &mut Value, fields: [(&str, Option<Value>); N]) {
    for (key, value) in fields {
        if let Some(value) = value {
            spec[key] = value;
        }
    }
}

/// `minimum-ttl` as `minimumTtl`.
fn camel(key: &str) -> String {
    let mut parts = key.split('-');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        let mut letters = part.chars();
        let head = letters.next().map(|c| c.to_ascii_uppercase());
        name + &head.into_iter().chain(letters).collect::<String>()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: &str = "
peers:
- my-asn: 64500
  peer-asn: 64501
  peer-address: 10.0.0.1
  hold-time: 30s
  node-selectors:
  - match-labels: { rack: one }
bgp-communities: { vpn: '64500:1' }
bfd-profiles:
- { name: fast, receive-interval: 50, minimum-ttl: 254 }
address-pools:
- name: lan
  protocol: layer2
  addresses: [ 192.0.2.0/28 ]
- name: wan
  protocol: bgp
  auto-assign: false
  addresses: [ 198.51.100.0/24 ]
  bgp-advertisements:
  - { aggregation-length: 26, localpref: 7, communities: [ vpn ] }
  - { aggregation-length: 32 }
";

    #[test]
    fn an_old_configuration_becomes_objects() {
        let objects = convert(OLD, "metallb-system").unwrap();
        let kinds = objects.iter().map(|o| o["kind"].as_str().unwrap()).collect::<Vec<_>>();
        let [pool, ad] = ["IPAddressPool", "BGPAdvertisement"];
        assert_eq!(
            kinds,
            [
                pool,
                pool,
                ad,
                ad,
                "L2Advertisement",
                "BGPPeer",
                "Community",
                "BFDProfile"
            ]
        );
        assert_eq!(objects[1]["spec"]["autoAssign"], false);
        assert_eq!(objects[2]["spec"]["aggregationLength"], 26);
        assert_eq!(objects[4]["spec"]["ipAddressPools"], json!(["lan"]));
        assert_eq!(objects[5]["spec"]["nodeSelectors"][0]["matchLabels"]["rack"], "one");
        assert_eq!(objects[7]["spec"]["minimumTtl"], 254);
        let mut world = crate::world::World::new("x");
        objects.into_iter().for_each(|object| world.take(object));
        let snapshot = world.configuration("metallb-system");
        assert_eq!(snapshot.len(), 8);
        let parsed = ferrolb_config::parse(&snapshot, &Default::default(), &Default::default());
        assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, names) in [
            (
                "address-pools: [ { name: a, protocol: arp } ]",
                "address-pools[0].protocol: \"arp\"",
            ),
            (
                "address-pools: [ { name: a, protocol: bgp, adresses: [] } ]",
                "adresses",
            ),
            ("peers: [ { my-asn: many } ]", "many"),
            ("bfd-profiles: [ fast ]", "bfd-profiles[0]"),
        ] {
            let error = convert(text, "metallb-system").unwrap_err().to_string();
            assert!(
                error.contains(names) && error.contains("metallb-system/config"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), cut in 0..OLD.len(), put in "[-:{}\\[\\]a-z0-9 \n]{0,8}") {
            let _ = convert(&text, "x");
            let broken = format!("{}{put}{}", &OLD[..cut], &OLD[cut..]);
            let _ = convert(&broken, "x");
        }
    }
}
