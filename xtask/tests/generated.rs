//! What is generated is what is committed, and what is committed says what an installation needs.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The documents of `deploy/manifests/ferrolb.yaml`.
fn manifest() -> Vec<Value> {
    let text = fs::read_to_string(repository().join("deploy/manifests/ferrolb.yaml")).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

fn find<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    documents
        .iter()
        .find(|d| d["kind"] == kind && d["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("the manifest has no {kind} {name}"))
}

#[test]
fn files_are_up_to_date() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["gen", "--check"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn manifest_installs_everything() {
    let documents = manifest();
    let kinds: Vec<&str> = documents.iter().map(|d| d["kind"].as_str().unwrap()).collect();
    let count = |kind: &str| kinds.iter().filter(|k| **k == kind).count();
    assert_eq!(count("CustomResourceDefinition"), ferrolb_api::crds().len());
    for kind in ["Namespace", "Deployment", "DaemonSet"] {
        assert_eq!(count(kind), 1, "{kind}");
    }
    for kind in [
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
    ] {
        for name in ["ferrolb-controller", "ferrolb-speaker"] {
            find(&documents, kind, name);
        }
        assert_eq!(count(kind), 2, "{kind}");
    }
    let namespace = kinds.iter().position(|k| *k == "Namespace").unwrap();
    for (position, document) in documents.iter().enumerate() {
        let inside = &document["metadata"]["namespace"];
        assert!(inside.is_null() || (inside == ferrolb_api::names::DEFAULT_NAMESPACE && position > namespace));
    }
}

#[test]
fn no_rule_grants_more_than_it_names() {
    let mut secrets = Vec::new();
    for document in manifest() {
        for rule in document["rules"].as_array().into_iter().flatten() {
            let text = rule.to_string();
            let (kind, name) = (&document["kind"], &document["metadata"]["name"]);
            assert!(!text.contains("\"*\""), "{name}: {text}");
            if text.contains("secrets") {
                secrets.push(serde_json::json!([kind, name, rule["verbs"], rule["resourceNames"]]));
            }
        }
    }
    // In FerroLB's own namespace alone: the keys of heartbeats, and the passwords of BGP sessions.
    let expected = serde_json::json!([
        ["Role", "ferrolb-controller", ["create"], null],
        ["Role", "ferrolb-controller", ["get", "patch"], ["ferrolb-liveness"]],
        ["Role", "ferrolb-speaker", ["list", "watch"], null],
    ]);
    assert_eq!(serde_json::Value::from(secrets), expected);
}

#[test]
fn programs_run_with_the_least_that_they_need() {
    let documents = manifest();
    let controller = &find(&documents, "Deployment", "ferrolb-controller")["spec"]["template"]["spec"];
    let speaker = &find(&documents, "DaemonSet", "ferrolb-speaker")["spec"]["template"]["spec"];
    assert_eq!(controller["securityContext"]["runAsNonRoot"], true);
    assert_eq!(speaker["hostNetwork"], true);
    for (pod, added) in [(controller, Value::Null), (speaker, serde_json::json!(["NET_RAW"]))] {
        let container = &pod["containers"][0];
        let context = &container["securityContext"];
        assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
        assert_eq!(context["capabilities"]["add"], added);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/healthz");
        assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    }
    assert_eq!(controller["containers"][0]["ports"][0]["containerPort"], 7472);
    assert_eq!(controller["priorityClassName"], "system-cluster-critical");
    assert_eq!(speaker["priorityClassName"], "system-node-critical");
}

/// The scheduler puts no two pods of the host's network on a node that list the same port.
#[test]
fn a_second_speaker_starts_beside_the_first() {
    let documents = manifest();
    let speaker = &find(&documents, "DaemonSet", "ferrolb-speaker")["spec"];
    let surge = serde_json::json!({ "maxSurge": 3, "maxUnavailable": 0 });
    assert_eq!(speaker["updateStrategy"]["rollingUpdate"], surge);
    // With them the DaemonSet controller, which counts the old pods of a surge, may never look again at the last new one.
    assert_eq!(speaker["minReadySeconds"], Value::Null);
    let container = &speaker["template"]["spec"]["containers"][0];
    // The new pod would be ready by the word of the old one. The kubelet counts whole seconds, so that 1 can mean an instant.
    assert_eq!(container["readinessProbe"]["initialDelaySeconds"], 2);
    assert_eq!(container["ports"], Value::Null);
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], 7472);
    }
}

/// SIGTERM does not end a process that hangs: the probe's own grace period counts.
#[test]
fn a_process_that_hangs_is_replaced_within_15_seconds() {
    let documents = manifest();
    for (kind, name) in [("Deployment", "ferrolb-controller"), ("DaemonSet", "ferrolb-speaker")] {
        let pod = &find(&documents, kind, name)["spec"]["template"]["spec"];
        let probe = &pod["containers"][0]["livenessProbe"];
        let seconds = |field: &str| probe[field].as_u64().unwrap_or_else(|| panic!("{name}: no {field}"));
        let silent = seconds("periodSeconds") * seconds("failureThreshold") + seconds("timeoutSeconds");
        assert!(silent + seconds("terminationGracePeriodSeconds") <= 15, "{name}");
    }
}

#[test]
fn the_controller_survives_the_loss_of_a_node() {
    let documents = manifest();
    let deployment = &find(&documents, "Deployment", "ferrolb-controller")["spec"];
    let labels = &deployment["selector"]["matchLabels"];
    let pod = &deployment["template"]["spec"];
    assert_eq!(deployment["replicas"], 2);
    for key in ["kubernetes.io/hostname", "topology.kubernetes.io/zone"] {
        let spread = pod["topologySpreadConstraints"].as_array().unwrap();
        let spread = spread.iter().find(|spread| spread["topologyKey"] == key).unwrap();
        assert_eq!(spread["labelSelector"]["matchLabels"], *labels);
    }
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let toleration = pod["tolerations"].as_array().unwrap().iter().find(|t| t["key"] == key);
        assert_eq!(toleration.unwrap()["tolerationSeconds"], 5, "{key}");
    }
    for kind in ["PodDisruptionBudget", "NetworkPolicy"] {
        let spec = &find(&documents, kind, "ferrolb-controller")["spec"];
        let selector = if kind == "NetworkPolicy" {
            "podSelector"
        } else {
            "selector"
        };
        assert_eq!(spec[selector]["matchLabels"], *labels, "{kind}");
    }
}
