//! The committed CRD files, read as the API server reads them: names, scope, columns, and what each property says.

use std::fs;
use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

fn read(file: &str) -> CustomResourceDefinition {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn schema(crd: &CustomResourceDefinition) -> &JSONSchemaProps {
    crd.spec.versions[0]
        .schema
        .as_ref()
        .unwrap()
        .open_api_v3_schema
        .as_ref()
        .unwrap()
}

/// The property at a path like `spec.claims.name`; lists are passed through.
fn property<'a>(crd: &'a CustomResourceDefinition, path: &str) -> &'a JSONSchemaProps {
    path.split('.').fold(schema(crd), |mut at, name| {
        while let Some(JSONSchemaPropsOrArray::Schema(items)) = &at.items {
            at = items;
        }
        let properties = at
            .properties
            .as_ref()
            .unwrap_or_else(|| panic!("{path}: {name} has no parent"));
        properties.get(name).unwrap_or_else(|| panic!("{path}: no {name}"))
    })
}

struct Expected {
    file: &'static str,
    kind: &'static str,
    /// The version that is stored.
    version: &'static str,
    scope: &'static str,
    status: bool,
    columns: &'static [(&'static str, &'static str)],
}

const EXPECTED: [Expected; 13] = [
    Expected {
        file: "metallb.io_ipaddresspools.yaml",
        kind: "IPAddressPool",
        version: "v1beta1",
        scope: "Namespaced",
        status: true,
        columns: &[
            ("Auto Assign", ".spec.autoAssign"),
            ("Avoid Buggy IPs", ".spec.avoidBuggyIPs"),
            ("Addresses", ".spec.addresses"),
        ],
    },
    Expected {
        file: "metallb.io_l2advertisements.yaml",
        kind: "L2Advertisement",
        version: "v1beta1",
        scope: "Namespaced",
        status: true,
        columns: &[
            ("IPAddressPools", ".spec.ipAddressPools"),
            ("IPAddressPool Selectors", ".spec.ipAddressPoolSelectors"),
            ("Interfaces", ".spec.interfaces"),
            ("Node Selectors", ".spec.nodeSelectors"),
        ],
    },
    Expected {
        file: "metallb.io_configurationstates.yaml",
        kind: "ConfigurationState",
        version: "v1beta1",
        scope: "Namespaced",
        status: true,
        columns: &[
            ("Result", ".status.result"),
            ("ErrorSummary", ".status.errorSummary"),
            ("Age", ".metadata.creationTimestamp"),
        ],
    },
    Expected {
        file: "ferrolb.io_virtualips.yaml",
        kind: "VirtualIP",
        version: "v1alpha1",
        scope: "Cluster",
        status: true,
        columns: &[
            ("Address", ".spec.address"),
            ("Pool", ".spec.pool"),
            ("Services", ".spec.claims[*].name"),
            ("Claims", ".spec.claims"),
            ("Owner", ".status.placement.owner"),
            ("State", ".status.conditions[?(@.type==\"Announced\")].reason"),
            ("Age", ".metadata.creationTimestamp"),
        ],
    },
    Expected {
        file: "metallb.io_bgpadvertisements.yaml",
        kind: "BGPAdvertisement",
        version: "v1beta1",
        scope: "Namespaced",
        status: true,
        columns: &[
            ("IPAddressPools", ".spec.ipAddressPools"),
            ("IPAddressPool Selectors", ".spec.ipAddressPoolSelectors"),
            ("Peers", ".spec.peers"),
            ("Node Selectors", ".spec.nodeSelectors"),
        ],
    },
    Expected {
        file: "metallb.io_bgppeers.yaml",
        kind: "BGPPeer",
        version: "v1beta2",
        scope: "Namespaced",
        status: true,
        columns: &[
            ("Address", ".spec.peerAddress"),
            ("ASN", ".spec.peerASN"),
            ("BFD Profile", ".spec.bfdProfile"),
            ("Multi Hops", ".spec.ebgpMultiHop"),
        ],
    },
    Expected {
        file: "metallb.io_bfdprofiles.yaml",
        kind: "BFDProfile",
        version: "v1beta1",
        scope: "Namespaced",
        status: true,
        columns: &[
            ("Passive Mode", ".spec.passiveMode"),
            ("Transmit Interval", ".spec.transmitInterval"),
            ("Receive Interval", ".spec.receiveInterval"),
            ("Multiplier", ".spec.detectMultiplier"),
        ],
    },
    Expected {
        file: "metallb.io_communities.yaml",
        kind: "Community",
        version: "v1beta1",
        scope: "Namespaced",
        status: true,
        columns: &[],
    },
    Expected {
        file: "metallb.io_servicel2statuses.yaml",
        kind: "ServiceL2Status",
        version: "v1beta1",
        scope: "Namespaced",
        status: true,
        columns: &[
            ("Allocated Node", ".status.node"),
            ("Service Name", ".status.serviceName"),
            ("Service Namespace", ".status.serviceNamespace"),
        ],
    },
    Expected {
        file: "metallb.io_servicebgpstatuses.yaml",
        kind: "ServiceBGPStatus",
        version: "v1beta1",
        scope: "Namespaced",
        status: true,
        columns: &[
            ("Node", ".status.node"),
            ("Service Name", ".status.serviceName"),
            ("Service Namespace", ".status.serviceNamespace"),
        ],
    },
    Expected {
        file: "ferrolb.io_allocationpolicies.yaml",
        kind: "AllocationPolicy",
        version: "v1alpha1",
        scope: "Cluster",
        status: false,
        columns: &[
            ("Namespaces", ".spec.namespaces"),
            ("Namespace Selectors", ".spec.namespaceSelectors"),
            ("Pools", ".spec.pools"),
            ("Max Addresses", ".spec.maxAddresses"),
            ("Age", ".metadata.creationTimestamp"),
        ],
    },
    Expected {
        file: "ferrolb.io_announcementpolicies.yaml",
        kind: "AnnouncementPolicy",
        version: "v1alpha1",
        scope: "Cluster",
        status: false,
        columns: &[
            ("IPAddressPools", ".spec.ipAddressPools"),
            ("Service Selectors", ".spec.serviceSelectors"),
            ("Node Selectors", ".spec.nodeSelectors"),
            ("On Request", ".spec.onRequest"),
            ("Age", ".metadata.creationTimestamp"),
        ],
    },
    Expected {
        file: "ferrolb.io_speakerstates.yaml",
        kind: "SpeakerState",
        version: "v1alpha1",
        scope: "Cluster",
        status: true,
        columns: &[
            ("Version", ".status.version"),
            ("Addresses", ".status.layer2.announcedAddresses"),
            ("Established", ".status.bgp.established"),
            ("Last Error", ".status.lastError"),
            ("Age", ".metadata.creationTimestamp"),
        ],
    },
];

#[test]
fn names_scope_and_columns() {
    assert_eq!(EXPECTED.len(), ferrolb_api::crds().len());
    for expected in EXPECTED {
        let crd = read(expected.file);
        let (group, plural) = expected.file.trim_end_matches(".yaml").split_once('_').unwrap();
        assert_eq!(crd.metadata.name.as_deref(), Some(format!("{plural}.{group}").as_str()));
        assert_eq!(
            (crd.spec.group.as_str(), crd.spec.names.plural.as_str()),
            (group, plural)
        );
        assert_eq!(crd.spec.names.kind, expected.kind);
        assert_eq!(crd.spec.scope, expected.scope);
        let stored: Vec<_> = crd.spec.versions.iter().filter(|version| version.storage).collect();
        let [version] = stored[..] else {
            panic!("{} stores {} versions", expected.kind, stored.len());
        };
        assert_eq!(version.name, expected.version);
        assert!(crd.spec.versions.iter().all(|version| version.served));
        let status = version.subresources.as_ref().is_some_and(|s| s.status.is_some());
        assert_eq!(status, expected.status, "{}", expected.kind);
        let columns: Vec<(&str, &str)> = version
            .additional_printer_columns
            .iter()
            .flatten()
            .map(|column| (column.name.as_str(), column.json_path.as_str()))
            .collect();
        assert_eq!(columns, expected.columns, "{}", expected.kind);
    }
}

fn values(schema: &serde_json::Value) -> Vec<&str> {
    let own = schema.get("enum").and_then(|all| all.as_array());
    let own = own.into_iter().flatten().filter_map(|value| value.as_str());
    let below = schema.as_object().map(|map| map.values().collect::<Vec<_>>());
    let below = below.into_iter().flatten().flat_map(values);
    own.chain(below).collect()
}

/// What people write into a manifest is text without quotes, too: YAML 1.1 takes these words for something else.
#[test]
fn no_value_of_our_own_needs_quotes() {
    let words = ["y", "yes", "n", "no", "on", "off", "true", "false", "null", "~"];
    for expected in EXPECTED.iter().filter(|e| e.file.starts_with("ferrolb.io")) {
        let crd = read(expected.file);
        let spec = schema(&crd).properties.as_ref().unwrap().get("spec");
        let spec = serde_json::to_value(spec).unwrap();
        let bad: Vec<_> = values(&spec)
            .into_iter()
            .filter(|value| words.contains(&value.to_lowercase().as_str()))
            .collect();
        assert!(bad.is_empty(), "{}: {bad:?}", expected.kind);
    }
}

/// Nothing converts between them, so a field that one of them lacked would be lost.
#[test]
fn versions_of_a_kind_are_alike() {
    let several: Vec<_> = EXPECTED
        .iter()
        .map(|expected| (expected.kind, read(expected.file)))
        .filter(|(_, crd)| crd.spec.versions.len() > 1)
        .collect();
    let [("BGPPeer", crd)] = &several[..] else {
        panic!("{} kinds have several versions", several.len());
    };
    assert_eq!(crd.spec.conversion.as_ref().unwrap().strategy, "None");
    let [old, new] = &crd.spec.versions[..] else {
        panic!("{} versions", crd.spec.versions.len());
    };
    assert_eq!((old.name.as_str(), new.name.as_str()), ("v1beta1", "v1beta2"));
    assert_eq!((old.deprecated, new.deprecated), (Some(true), None));
    assert!(old.deprecation_warning.as_ref().unwrap().contains("v1beta2"));
    assert_eq!(old.schema, new.schema);
    assert_eq!(old.subresources, new.subresources);
    assert_eq!(old.additional_printer_columns, new.additional_printer_columns);
}

/// The API server warns of a format that it does not know.
#[test]
fn formats_are_known() {
    for expected in EXPECTED {
        let text = serde_json::to_string(&read(expected.file)).unwrap();
        assert!(!text.contains("\"format\":\"uint"), "{}", expected.kind);
    }
}

#[test]
fn the_files_say_what_the_types_say() {
    for crd in ferrolb_api::crds() {
        let file = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
        assert_eq!(read(&file), crd, "{file}");
    }
}

#[test]
fn every_property_has_a_description() {
    fn walk(path: &str, schema: &JSONSchemaProps) {
        for (name, property) in schema.properties.iter().flatten() {
            let path = format!("{path}.{name}");
            let description = property.description.as_deref().unwrap_or_default();
            assert!(description.ends_with('.'), "{path}: {description:?}");
            walk(&path, property);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            walk(&format!("{path}[]"), items);
        }
        if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
            walk(&format!("{path}{{}}"), values);
        }
    }
    for expected in EXPECTED {
        let crd = read(expected.file);
        assert!(schema(&crd).description.is_some());
        walk(expected.kind, schema(&crd));
    }
}

#[test]
fn defaults_and_required_fields() {
    let pool = read("metallb.io_ipaddresspools.yaml");
    let advertisement = read("metallb.io_l2advertisements.yaml");
    let vip = read("ferrolb.io_virtualips.yaml");
    let peer = read("metallb.io_bgppeers.yaml");
    let bgp = read("metallb.io_bgpadvertisements.yaml");
    let policy = read("ferrolb.io_announcementpolicies.yaml");
    for (crd, path, default) in [
        (&pool, "spec.autoAssign", Some("true")),
        (&pool, "spec.avoidBuggyIPs", Some("false")),
        (&pool, "spec.addresses", None),
        (&pool, "spec.serviceAllocation.priority", None),
        (&pool, "status.assignedIPv4", None),
        (&advertisement, "spec.preferredNodeSelectors.weight", None),
        (&vip, "spec.address", None),
        (&vip, "spec.claims", None),
        (&vip, "spec.reclaimPolicy", Some("\"Delete\"")),
        (&peer, "spec.myASN", None),
        (&peer, "spec.peerASN", None),
        (&peer, "spec.peerPort", Some("179")),
        (&peer, "spec.holdTime", None),
        (&peer, "spec.ebgpMultiHop", None),
        (&peer, "spec.enableGracefulRestart", None),
        (&peer, "spec.disableMP", Some("false")),
        (&peer, "spec.dualStackAddressFamily", Some("false")),
        (&bgp, "spec.aggregationLength", Some("32")),
        (&bgp, "spec.aggregationLengthV6", Some("128")),
        (&bgp, "spec.localPref", None),
        (&policy, "spec.layer2.liveness.multiplier", None),
    ] {
        let actual = property(crd, path).default.as_ref().map(|json| json.0.to_string());
        assert_eq!(actual.as_deref(), default, "{path}");
    }
    let required = |schema: &JSONSchemaProps| schema.required.clone().unwrap_or_default();
    assert_eq!(required(schema(&pool)), ["spec"]);
    assert_eq!(required(property(&pool, "spec")), ["addresses"]);
    assert_eq!(required(schema(&advertisement)), [""; 0]);
    assert_eq!(
        required(property(&advertisement, "spec.preferredNodeSelectors.preference")),
        [""; 0]
    );
    assert_eq!(required(schema(&vip)), ["spec"]);
    assert_eq!(required(property(&peer, "spec")), ["myASN"]);
    for file in [
        "bgpadvertisements",
        "bfdprofiles",
        "communities",
        "servicel2statuses",
        "servicebgpstatuses",
    ] {
        assert_eq!(
            required(schema(&read(&format!("metallb.io_{file}.yaml")))),
            [""; 0],
            "{file}"
        );
    }
}

#[test]
fn conditions_are_merged_by_type() {
    for (file, path) in [
        ("ferrolb.io_virtualips.yaml", "status.conditions"),
        ("metallb.io_configurationstates.yaml", "status.conditions"),
    ] {
        let crd = read(file);
        let conditions = property(&crd, path);
        assert_eq!(conditions.x_kubernetes_list_type.as_deref(), Some("map"));
        assert_eq!(
            conditions.x_kubernetes_list_map_keys.as_deref(),
            Some(&["type".to_owned()][..])
        );
    }
}
