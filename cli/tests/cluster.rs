//! What is asked of an API server, and what is told when it, or the controller, does not answer as hoped.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use clap::Parser;
use ferrolb_apiserver::{ApiServer, Fault, Resource, Rule, Verb, client};
use ferrolb_cli::act::act;
use ferrolb_cli::args::{Action, Cli};
use ferrolb_cli::cluster::Cluster;
use ferrolb_cli::shadow::{Pace, shadow};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::{Value, json};

const NAMESPACE: &str = "ferrolb-system";
const POOLS: &str = "ipaddresspools.metallb.io";
const STATES: &str = "configurationstates.metallb.io";
const VIPS: &str = "virtualips.ferrolb.io";

fn cli(words: &str) -> Cli {
    Cli::try_parse_from(std::iter::once("kubectl-ferrolb").chain(words.split(' '))).unwrap()
}

async fn cluster(server: &ApiServer) -> Cluster {
    Cluster {
        client: client(&server.kubeconfig()).await.unwrap(),
        namespace: "default".to_owned(),
    }
}

/// What is told, with the exit code; an error is told, too, as `main` does.
async fn ask(server: &ApiServer, words: &str) -> (String, u8) {
    let cli = cli(words);
    let cluster = cluster(server).await;
    match &cli.action {
        Action::Request(request) => act(&cli, request, &cluster)
            .await
            .unwrap_or_else(|e| (e.to_string(), 2)),
        _ => match cluster.list(&cli).await {
            Ok(_) => (String::new(), 0),
            Err(error) => (error.to_string(), 2),
        },
    }
}

/// The kind is not served from now on.
fn withdraw(server: &ApiServer, group: &str, plural: &str) {
    server.register(Resource {
        versions: BTreeMap::new(),
        ..Resource::builtin(group, "v1", plural, "Withdrawn", true)
    });
}

fn objects(server_client: kube::Client, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("metallb.io", "v1beta1", kind));
    Api::namespaced_with(server_client, NAMESPACE, &resource)
}

fn state() -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "ConfigurationState",
        "metadata": { "name": "controller", "namespace": NAMESPACE },
    })
}

fn pool(namespace: &str) -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": { "name": "lan", "namespace": namespace },
        "spec": { "addresses": ["192.0.2.100-192.0.2.109"] },
    })
}

fn service(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop", "uid": name },
        "spec": {
            "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4"], "ports": [{ "port": 80 }],
        },
        "status": { "loadBalancer": { "ingress": [{ "ip": address }] } },
    })
}

#[tokio::test]
async fn rebalancing_waits_for_its_own_answer() {
    let server = ApiServer::start().await.unwrap();
    server.insert_raw(STATES, state());
    let controller = async {
        let states = objects(client(&server.kubeconfig()).await.unwrap(), "ConfigurationState");
        loop {
            let notes = states
                .get("controller")
                .await
                .unwrap()
                .metadata
                .annotations
                .unwrap_or_default();
            if let Some(request) = notes.get("ferrolb.io/rebalance") {
                // The answer to an older request is none.
                for answer in [
                    "7 yesterday: moved 7 addresses",
                    &format!("{request}: moved 2 addresses"),
                ] {
                    let note = json!({ "metadata": { "annotations": { "ferrolb.io/rebalanced": answer } } });
                    let patch = Patch::Merge(note);
                    states
                        .patch("controller", &PatchParams::default(), &patch)
                        .await
                        .unwrap();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                return request.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (told, request) = tokio::join!(ask(&server, "rebalance 5"), controller);
    assert_eq!(told, ("moved 2 addresses\n".to_owned(), 0));
    assert!(request.starts_with("5 "), "{request}");

    let (text, code) = ask(&server, "rebalance 5 --timeout 1s").await;
    assert_eq!(code, 1);
    assert!(
        text.starts_with("no answer after 1s: look whether the controller runs"),
        "{text}"
    );
}

#[tokio::test]
async fn renumbering_says_who_stays() {
    let server = ApiServer::start().await.unwrap();
    server.insert_raw(POOLS, pool(NAMESPACE));
    let vip = |reason: &str| {
        json!({
            "apiVersion": "ferrolb.io/v1alpha1", "kind": "VirtualIP", "metadata": { "name": "192.0.2.90" },
            "spec": { "address": "192.0.2.90", "pool": "lan", "claims": [] },
            "status": { "conditions": [{
                "type": "Allocated", "status": "True", "reason": reason, "message": "it is asked for by name",
                "lastTransitionTime": "2026-01-02T03:04:05Z",
            }] },
        })
    };
    server.insert_raw(VIPS, vip("PoolChanged"));
    let (text, code) = ask(&server, "renumber lan --timeout 1s").await;
    assert_eq!(code, 1);
    assert!(
        text.starts_with("after 1s there are still\n192.0.2.90: it is asked for by name\n"),
        "{text}"
    );
    let pools = objects(client(&server.kubeconfig()).await.unwrap(), "IPAddressPool");
    let notes = pools.get("lan").await.unwrap().metadata.annotations.unwrap_or_default();
    assert_eq!(notes["ferrolb.io/on-shrink"], "reassign");

    let leaves = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.insert_raw(VIPS, vip("Allocated"));
    };
    let ((text, code), ()) = tokio::join!(ask(&server, "renumber lan"), leaves);
    assert_eq!(code, 0);
    assert!(
        text.starts_with("no Service has an address that lan would not give\n"),
        "{text}"
    );
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let server = ApiServer::start().await.unwrap();
    let (text, code) = ask(&server, "rebalance 5").await;
    assert_eq!(
        (text.as_str(), code),
        (
            "there is no ConfigurationState ferrolb-system/controller; --ferrolb-namespace says where FerroLB is",
            2
        )
    );
    let (text, _) = ask(&server, "renumber lan").await;
    assert!(
        text.starts_with("there is no IPAddressPool ferrolb-system/lan;"),
        "{text}"
    );
    let (text, _) = ask(&server, "move web --to node-1").await;
    assert_eq!(text, "there is no Service default/web");
    let (text, _) = ask(&server, "move 192.0.2.100 --to node-1").await;
    assert_eq!(text, "there is no VirtualIP 192.0.2.100");

    server.inject(Rule::new([Verb::Patch], Fault::Forbidden).on(POOLS));
    let (text, code) = ask(&server, "renumber lan").await;
    assert_eq!(code, 2);
    assert!(
        text.contains("a rule with the verb patch for ipaddresspools of apiGroup metallb.io"),
        "{text}"
    );
}

#[tokio::test]
async fn missing_definitions_are_named_in_one_line() {
    let server = ApiServer::start().await.unwrap();
    for (group, plural) in [("metallb.io", "ipaddresspools"), ("ferrolb.io", "virtualips")] {
        withdraw(&server, group, plural);
    }
    for question in ["status", "why -A", "why web"] {
        let (text, code) = ask(&server, question).await;
        assert_eq!((text.lines().count(), code), (1, 2), "{text}");
        let names =
            "does not serve ipaddresspools.metallb.io, virtualips.ferrolb.io: the CustomResourceDefinitions are";
        assert!(text.contains(names), "{text}");
    }
    for request in ["renumber lan", "move 192.0.2.100 --to node-1"] {
        let (text, code) = ask(&server, request).await;
        assert_eq!(code, 2);
        assert!(
            text.contains("the CustomResourceDefinition is missing. Is this the right"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_shadow_only_lists() {
    let server = ApiServer::start().await.unwrap();
    for (group, plural, kind) in [
        ("", "configmaps", "ConfigMap"),
        ("apps", "deployments", "Deployment"),
        ("apps", "daemonsets", "DaemonSet"),
    ] {
        server.register(Resource::builtin(group, "v1", plural, kind, true));
    }
    // No FerroLB has ever been here.
    for plural in [
        "allocationpolicies",
        "announcementpolicies",
        "virtualips",
        "speakerstates",
    ] {
        withdraw(&server, "ferrolb.io", plural);
    }
    server.insert_raw(POOLS, pool("metallb-system"));
    server.insert_raw("services", service("web", "192.0.2.100"));
    let lines = Mutex::new(Vec::new());
    let told = |part: &'static str| {
        let lines = &lines;
        async move {
            while !lines.lock().unwrap().iter().any(|line: &String| line.contains(part)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let cli = cli("migrate shadow");
    let cluster = cluster(&server).await;
    let pace = Pace {
        every: Duration::from_millis(50),
        span: Some(Duration::from_secs(3)),
    };
    let looks = shadow(&cli, &cluster, "metallb-system", pace, |line| {
        lines.lock().unwrap().push(line);
    });
    let metallb = async {
        told("1 of 1 Services with an address keep it").await;
        server.inject(Rule::new([Verb::List], Fault::InternalError).on("services").times(1));
        told("cannot read the cluster, and look again").await;
        server.insert_raw("services", service("next", "203.0.113.1"));
        told("shop/next kept: 203.0.113.1: PoolChanged").await;
    };
    let (code, ()) = tokio::join!(looks, metallb);
    assert_eq!(code, Ok(1));
    let last = lines.lock().unwrap().last().cloned().unwrap();
    assert!(last.contains("2 of 2 Services with an address keep it"), "{last}");
    let others = server.log().into_iter().filter(|record| record.verb != Verb::List);
    assert_eq!(others.collect::<Vec<_>>(), []);
}

#[tokio::test]
async fn a_shadow_that_cannot_begin_says_why() {
    let server = ApiServer::start().await.unwrap();
    server.inject(Rule::new([Verb::List], Fault::Forbidden).on("services"));
    let cli = cli("migrate shadow");
    let cluster = cluster(&server).await;
    let pace = Pace {
        every: Duration::from_millis(50),
        span: None,
    };
    let told = shadow(&cli, &cluster, "metallb-system", pace, drop).await.unwrap_err();
    assert!(told.contains("you may not list services in all namespaces"), "{told}");
}
