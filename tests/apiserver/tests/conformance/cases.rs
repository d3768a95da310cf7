//! What is asked. Every case uses names of its own, for the real server is one for all.

use std::future::Future;
use std::pin::Pin;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::transcript::Transcript;

type Case = for<'a> fn(&'a mut Transcript) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// Every case, by name.
pub(crate) const CASES: &[(&str, Case)] = &[
    ("creation", |t| Box::pin(creation(t))),
    ("nothing there", |t| Box::pin(nothing_there(t))),
    ("preconditions of changes", |t| Box::pin(preconditions(t))),
    ("preconditions of deletions", |t| Box::pin(deletions(t))),
    ("status of a Service", |t| Box::pin(service_status(t))),
    ("status of a custom resource", |t| Box::pin(custom_status(t))),
    ("what changes nothing", |t| Box::pin(no_change(t))),
    ("lists in pages", |t| Box::pin(pages(t))),
    ("selectors", |t| Box::pin(selectors(t))),
    ("watches", |t| Box::pin(watches(t))),
    ("finalizers", |t| Box::pin(finalizers(t))),
    ("server-side apply", |t| Box::pin(apply(t))),
    ("leases", |t| Box::pin(leases(t))),
    ("a namespace that ends", |t| Box::pin(namespace(t))),
    ("nodes and endpoints", |t| Box::pin(nodes(t))),
    ("pools", |t| Box::pin(pools(t))),
];

const SERVICES: &str = "/api/v1/namespaces/default/services";
const VIPS: &str = "/apis/ferrolb.io/v1alpha1/virtualips";

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] },
    })
}

fn vip(address: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "ferrolb.io/v1alpha1", "kind": "VirtualIP", "metadata": { "name": address, "labels": labels },
        "spec": { "address": address, "claims": [{ "namespace": "n", "name": "s" }] },
    })
}

fn ingress(address: &str) -> Value {
    json!({ "loadBalancer": { "ingress": [{ "ip": address, "ipMode": "VIP" }] } })
}

async fn creation(t: &mut Transcript) -> Result<()> {
    let mut brings_status = service("creation");
    brings_status["status"] = ingress("192.0.2.9");
    t.ask("POST", SERVICES, brings_status).await?;
    t.ask("POST", SERVICES, service("creation")).await?;
    let mut brings_status = vip("192.0.2.10", json!({}));
    brings_status["status"] = json!({ "placement": { "owner": "n", "epoch": 1 } });
    t.ask("POST", VIPS, brings_status).await?;
    t.ask("POST", VIPS, vip("192.0.2.10", json!({}))).await?;
    t.ask("POST", "/api/v1/namespaces/nowhere/services", service("x"))
        .await?;
    let mut unnamed = vip("192.0.2.11", json!({}));
    unnamed["metadata"] = json!({});
    t.refused("POST", VIPS, unnamed).await?;
    let mut versioned = service("versioned");
    versioned["metadata"]["resourceVersion"] = json!("5");
    t.ask("POST", SERVICES, versioned).await?;
    let mut elsewhere = service("elsewhere");
    elsewhere["metadata"]["namespace"] = json!("other");
    t.ask("POST", SERVICES, elsewhere).await?;
    let mut generated = service("");
    generated["metadata"] = json!({ "generateName": "generated-" });
    let generated = t.quietly("POST", SERVICES, generated).await?;
    let name = generated.body["metadata"]["name"].as_str().unwrap_or_default();
    t.note("generated", name.starts_with("generated-") && name.len() == 15);
    Ok(())
}

async fn nothing_there(t: &mut Transcript) -> Result<()> {
    for path in [
        &format!("{SERVICES}/nothing"),
        &format!("{VIPS}/nothing"),
        "/apis/ferrolb.io/v1alpha1/nothings",
        "/apis/ferrolb.io/v1/virtualips",
        "/nowhere",
    ] {
        t.ask("GET", path, Value::Null).await?;
    }
    for path in [format!("{SERVICES}/nothing"), format!("{VIPS}/nothing/status")] {
        t.ask("MERGE", &path, json!({ "metadata": { "labels": { "a": "b" } } }))
            .await?;
        t.ask("MERGE", &path, json!({ "metadata": { "resourceVersion": "1" } }))
            .await?;
    }
    t.ask("DELETE", &format!("{VIPS}/nothing"), Value::Null).await?;
    Ok(())
}

async fn preconditions(t: &mut Transcript) -> Result<()> {
    let made = t.ask("POST", SERVICES, service("guarded")).await?;
    let path = format!("{SERVICES}/guarded");
    let at = |version: &str| json!({ "metadata": { "resourceVersion": version, "labels": { "v": "1" } } });
    let changed = t.ask("MERGE", &path, at(&made.version())).await?;
    t.note(
        "the version grew",
        changed.version().parse::<u64>()? > made.version().parse()?,
    );
    t.ask("MERGE", &path, at(&made.version())).await?;
    t.ask("MERGE", &format!("{path}/status"), at(&made.version())).await?;
    t.ask("MERGE", &path, at("nonsense")).await?;
    t.ask("PUT", &path, made.body.clone()).await?;
    let mut current = changed.body.clone();
    current["metadata"]["labels"]["v"] = json!("2");
    t.ask("PUT", &path, current).await?;

    let made = t.ask("POST", VIPS, vip("192.0.2.20", json!({}))).await?;
    let path = format!("{VIPS}/192.0.2.20");
    let changed = t.ask("MERGE", &path, at(&made.version())).await?;
    t.ask("MERGE", &path, at(&made.version())).await?;
    t.ask("MERGE", &format!("{path}/status"), at(&made.version())).await?;
    t.ask("PUT", &path, made.body).await?;
    t.ask("PUT", &path, vip("192.0.2.20", json!({}))).await?;
    t.refused("MERGE", &path, json!({ "metadata": { "uid": "another" } }))
        .await?;
    t.ask("MERGE", &path, json!({ "metadata": { "name": "192.0.2.21" } }))
        .await?;
    t.refused("STRATEGIC", &path, json!({})).await?;
    t.ask("PUT", &path, changed.body).await?;
    Ok(())
}

async fn deletions(t: &mut Transcript) -> Result<()> {
    for (base, object, name) in [
        (SERVICES, service("doomed"), "doomed"),
        (VIPS, vip("192.0.2.30", json!({})), "192.0.2.30"),
    ] {
        let made = t.ask("POST", base, object).await?;
        let path = format!("{base}/{name}");
        let uid = &made.body["metadata"]["uid"];
        let version = made.version();
        for preconditions in [
            json!({ "uid": "another" }),
            json!({ "uid": uid, "resourceVersion": "1" }),
            json!({ "uid": uid, "resourceVersion": version }),
        ] {
            let options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions });
            t.ask("DELETE", &path, options).await?;
        }
        t.ask("DELETE", &path, Value::Null).await?;
    }
    Ok(())
}

async fn service_status(t: &mut Transcript) -> Result<()> {
    t.ask("POST", SERVICES, service("status")).await?;
    let path = format!("{SERVICES}/status");
    let status = format!("{path}/status");
    let write = json!({
        "metadata": { "annotations": { "a": "b" }, "labels": { "l": "m" } },
        "spec": { "type": "ClusterIP" },
        "status": ingress("192.0.2.40"),
    });
    t.ask("MERGE", &status, write).await?;
    let write = json!({ "spec": { "internalTrafficPolicy": "Local" }, "status": ingress("192.0.2.41") });
    t.ask("MERGE", &path, write).await?;
    let write = json!({
        "metadata": { "annotations": { "a": null } },
        "status": { "loadBalancer": { "ingress": null } },
    });
    t.ask("MERGE", &status, write).await?;
    t.ask("MERGE", &status, json!({ "status": ingress("192.0.2.42") }))
        .await?;
    t.ask("MERGE", &path, json!({ "spec": { "type": "ClusterIP" } }))
        .await?;
    t.ask(
        "MERGE",
        &path,
        json!({ "spec": { "type": "LoadBalancer", "loadBalancerClass": "a.io/b" } }),
    )
    .await?;
    t.ask("MERGE", &path, json!({ "spec": { "type": "NodePort" } })).await?;
    Ok(())
}

async fn custom_status(t: &mut Transcript) -> Result<()> {
    t.ask("POST", VIPS, vip("192.0.2.50", json!({ "l": "m" }))).await?;
    let path = format!("{VIPS}/192.0.2.50");
    let status = format!("{path}/status");
    let placement = |owner: &str, epoch: u64| json!({ "owner": owner, "epoch": epoch, "unknown": 1 });
    let write = json!({
        "metadata": { "annotations": { "a": "b" } },
        "spec": { "pool": "p" },
        "status": { "placement": placement("n1", 1), "announcer": { "node": "n1" }, "unknown": 1 },
    });
    t.ask("MERGE", &status, write).await?;
    let write = json!({
        "metadata": { "annotations": { "a": "b" } },
        "spec": { "pool": "p", "unknown": 1 },
        "status": { "placement": placement("n2", 2) },
    });
    t.ask("MERGE", &path, write).await?;
    t.ask(
        "MERGE",
        &status,
        json!({ "status": { "placement": null, "conditions": [] } }),
    )
    .await?;
    t.ask("MERGE", &path, json!({ "spec": { "pool": null, "claims": null } }))
        .await?;
    t.ask("MERGE", &status, json!({ "status": null })).await?;
    Ok(())
}

async fn no_change(t: &mut Transcript) -> Result<()> {
    let made = t.quietly("POST", VIPS, vip("192.0.2.60", json!({}))).await?;
    let path = format!("{VIPS}/192.0.2.60");
    let same = t
        .ask("MERGE", &path, json!({ "spec": { "address": "192.0.2.60" } }))
        .await?;
    t.note(
        "a change to the same keeps the version",
        same.version() == made.version(),
    );
    let same = t
        .ask("MERGE", &format!("{path}/status"), json!({ "spec": { "pool": "p" } }))
        .await?;
    t.note(
        "the spec by way of the status keeps the version",
        same.version() == made.version(),
    );
    let labelled = t
        .ask("MERGE", &path, json!({ "metadata": { "labels": { "a": "b" } } }))
        .await?;
    t.note("a label does not", labelled.version() != made.version());
    let made = t.quietly("POST", SERVICES, service("same")).await?;
    let same = t.ask("PUT", &format!("{SERVICES}/same"), made.body.clone()).await?;
    t.note("a PUT of the same keeps the version", same.version() == made.version());
    Ok(())
}

async fn pages(t: &mut Transcript) -> Result<()> {
    let base = "/apis/metallb.io/v1beta1/namespaces/default/l2advertisements";
    for name in ["a", "b", "c", "d", "e"] {
        let object = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": { "name": name }, "spec": {},
        });
        t.quietly("POST", base, object).await?;
    }
    let all = t.ask("GET", base, Value::Null).await?;
    let first = t.ask("GET", &format!("{base}?limit=2"), Value::Null).await?;
    t.note(
        "a page has a version",
        first.version().parse::<u64>()? >= all.version().parse()?,
    );
    t.quietly("DELETE", &format!("{base}/d"), Value::Null).await?;
    let token = |answer: &Value| answer["metadata"]["continue"].as_str().map(str::to_owned);
    let rest = token(&first.body).context("a token")?;
    let second = t
        .ask("GET", &format!("{base}?limit=2&continue={rest}"), Value::Null)
        .await?;
    t.note(
        "the next page is of the same version",
        first.version() == second.version(),
    );
    let rest = token(&second.body).context("a token")?;
    t.ask("GET", &format!("{base}?limit=2&continue={rest}"), Value::Null)
        .await?;
    t.ask("GET", &format!("{base}?limit=3&resourceVersion=0"), Value::Null)
        .await?;
    t.ask("GET", &format!("{base}?limit=4"), Value::Null).await?;
    t.refused("GET", &format!("{base}?limit=2&continue=nonsense"), Value::Null)
        .await?;
    t.ask("GET", &format!("{base}?resourceVersion=99999999"), Value::Null)
        .await?;
    t.ask("GET", "/api/v1/namespaces/kube-system/services?limit=1", Value::Null)
        .await?;
    Ok(())
}

async fn selectors(t: &mut Transcript) -> Result<()> {
    for (address, tier) in [("192.0.2.71", "x"), ("192.0.2.72", "y"), ("192.0.2.73", "z")] {
        t.quietly("POST", VIPS, vip(address, json!({ "tier": tier, "case": "selectors" })))
            .await?;
    }
    for selector in [
        "labelSelector=case%3Dselectors",
        "labelSelector=case%3Dselectors%2Ctier%21%3Dx",
        "labelSelector=tier+in+%28x%2Cz%29",
        "labelSelector=case%3Dselectors%2C%21other&limit=1",
        "fieldSelector=metadata.name%3D192.0.2.72",
        "fieldSelector=spec.address%3D192.0.2.72",
    ] {
        t.ask("GET", &format!("{VIPS}?{selector}"), Value::Null).await?;
    }
    Ok(())
}

async fn watches(t: &mut Transcript) -> Result<()> {
    let start = t
        .quietly("GET", &format!("{VIPS}?limit=1"), Value::Null)
        .await?
        .version();
    let label = |value: &str| json!({ "metadata": { "labels": { "watch": value } } });
    let (one, two) = (format!("{VIPS}/192.0.2.81"), format!("{VIPS}/192.0.2.82"));
    t.quietly("POST", VIPS, vip("192.0.2.81", json!({ "watch": "in" })))
        .await?;
    t.quietly("POST", VIPS, vip("192.0.2.82", json!({ "watch": "out" })))
        .await?;
    t.quietly("MERGE", &one, json!({ "spec": { "pool": "p" } })).await?;
    t.quietly("MERGE", &two, label("in")).await?;
    let middle = t.quietly("MERGE", &one, label("out")).await?.version();
    t.quietly("DELETE", &two, Value::Null).await?;
    t.quietly("DELETE", &one, Value::Null).await?;
    let events = t
        .watch(&format!(
            "{VIPS}?watch=1&labelSelector=watch%3Din&resourceVersion={start}"
        ))
        .await?;
    let versions = events
        .iter()
        .map(|event| event["object"]["metadata"]["resourceVersion"].as_str());
    let versions = versions
        .map(|v| v.and_then(|v| v.parse::<u64>().ok()))
        .collect::<Vec<_>>();
    t.note(
        "versions grow, that of a deletion too",
        versions.is_sorted() && versions.iter().all(Option::is_some),
    );
    t.watch(&format!("{VIPS}?watch=1&labelSelector=watch&resourceVersion={middle}"))
        .await?;
    t.watch(&format!("{VIPS}?watch=true&resourceVersion=1")).await?;

    t.quietly("POST", VIPS, vip("192.0.2.83", json!({ "watch": "all" })))
        .await?;
    t.watch(&format!("{VIPS}?watch=1&labelSelector=watch%3Dall")).await?;
    t.watch(&format!("{VIPS}?watch=1&labelSelector=watch%3Dall&resourceVersion=0"))
        .await?;
    t.ask("GET", &format!("{VIPS}?watch=1&resourceVersion=nonsense"), Value::Null)
        .await?;

    let start = t.quietly("POST", SERVICES, service("watched")).await?.version();
    t.quietly(
        "MERGE",
        &format!("{SERVICES}/watched/status"),
        json!({ "status": ingress("192.0.2.80") }),
    )
    .await?;
    t.watch(&format!(
        "{SERVICES}?watch=1&fieldSelector=metadata.name%3Dwatched&resourceVersion={start}"
    ))
    .await?;
    Ok(())
}

async fn finalizers(t: &mut Transcript) -> Result<()> {
    let path = format!("{VIPS}/192.0.2.90");
    t.quietly("POST", VIPS, vip("192.0.2.90", json!({}))).await?;
    t.ask("MERGE", &path, json!({ "metadata": { "finalizers": ["a.io/b"] } }))
        .await?;
    let first = t.ask("DELETE", &path, Value::Null).await?;
    let again = t.ask("DELETE", &path, Value::Null).await?;
    t.note("a second deletion changes nothing", first.version() == again.version());
    t.ask("MERGE", &path, json!({ "spec": { "pool": "p" } })).await?;
    t.ask("MERGE", &path, json!({ "metadata": { "finalizers": null } }))
        .await?;
    t.ask("GET", &path, Value::Null).await?;
    Ok(())
}

async fn apply(t: &mut Transcript) -> Result<()> {
    let path = "/apis/metallb.io/v1beta1/namespaces/default/configurationstates/controller";
    let query = "fieldManager=m&force=true";
    let kind = json!({ "apiVersion": "metallb.io/v1beta1", "kind": "ConfigurationState" });
    let with = |field: &str, value: Value| {
        let mut object = kind.clone();
        object[field] = value;
        object
    };
    let object = with(
        "metadata",
        json!({ "name": "controller", "labels": { "a": "b", "c": "d" } }),
    );
    let status = |summary: Option<&str>| {
        let conditions = json!([{
            "type": "T", "status": "False", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]);
        let mut status = json!({ "result": "Invalid", "conditions": conditions });
        if let Some(summary) = summary {
            status["errorSummary"] = json!(summary);
        }
        with("status", status)
    };
    t.ask("APPLY", &format!("{path}/status?{query}"), status(None)).await?;
    let made = t.ask("APPLY", &format!("{path}?{query}"), object.clone()).await?;
    let same = t.ask("APPLY", &format!("{path}?{query}"), object).await?;
    t.note("applied again, it keeps its version", made.version() == same.version());
    t.ask("APPLY", &format!("{path}/status?{query}"), status(Some("x")))
        .await?;
    t.ask("APPLY", &format!("{path}/status?{query}"), status(None)).await?;
    let fewer = with("metadata", json!({ "name": "controller", "labels": { "a": "b" } }));
    t.ask("APPLY", &format!("{path}?{query}"), fewer).await?;
    Ok(())
}

async fn leases(t: &mut Transcript) -> Result<()> {
    let base = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = |name: &str, holder: &str, version: Option<&str>| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": name, "resourceVersion": version },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 1,
                      "renewTime": "2026-01-02T03:04:05.678901Z" },
        })
    };
    let made = t.ask("POST", base, lease("l", "a", None)).await?;
    t.ask("POST", base, lease("l", "b", None)).await?;
    t.ask("PUT", &format!("{base}/l"), lease("l", "b", None)).await?;
    t.ask("PUT", &format!("{base}/l"), lease("l", "b", Some(&made.version())))
        .await?;
    t.ask("PUT", &format!("{base}/l"), lease("l", "c", Some(&made.version())))
        .await?;
    t.ask(
        "MERGE",
        &format!("{base}/l"),
        json!({ "metadata": { "resourceVersion": made.version() } }),
    )
    .await?;
    t.ask("PUT", &format!("{base}/m"), lease("m", "a", Some("1"))).await?;
    t.ask("DELETE", &format!("{base}/l"), Value::Null).await?;
    Ok(())
}

async fn namespace(t: &mut Transcript) -> Result<()> {
    let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "ending" } });
    t.ask("POST", "/api/v1/namespaces", object).await?;
    t.ask(
        "MERGE",
        "/api/v1/namespaces/ending",
        json!({ "metadata": { "labels": { "a": "b" } } }),
    )
    .await?;
    t.ask("POST", "/api/v1/namespaces/ending/services", service("early"))
        .await?;
    t.ask("DELETE", "/api/v1/namespaces/ending", Value::Null).await?;
    t.ask("POST", "/api/v1/namespaces/ending/services", service("late"))
        .await?;
    t.ask("GET", "/api/v1/namespaces/ending/services/early", Value::Null)
        .await?;
    Ok(())
}

async fn nodes(t: &mut Transcript) -> Result<()> {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n", "labels": { "a": "b" } },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    let made = t.quietly("POST", "/api/v1/nodes", node).await?;
    t.note(
        "a Node brings its status",
        made.body["status"]["conditions"][0]["status"].clone(),
    );
    let write = json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } });
    let main = t.quietly("MERGE", "/api/v1/nodes/n", write.clone()).await?;
    t.note(
        "not changed here",
        main.body["status"]["conditions"][0]["status"].clone(),
    );
    let status = t.quietly("MERGE", "/api/v1/nodes/n/status", write).await?;
    t.note("but here", status.body["status"]["conditions"][0]["status"].clone());

    let base = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "e", "labels": { "kubernetes.io/service-name": "s" } },
        "endpoints": [{ "addresses": ["10.244.0.1"], "conditions": { "ready": true }, "nodeName": "n" }],
        "ports": [{ "name": "", "protocol": "TCP", "port": 80 }],
    });
    t.ask("POST", base, slice).await?;
    let endpoints = json!([{ "addresses": ["10.244.0.1"], "conditions": { "ready": false }, "nodeName": "n" }]);
    t.ask("MERGE", &format!("{base}/e"), json!({ "endpoints": endpoints }))
        .await?;
    t.ask(
        "GET",
        &format!("{base}?labelSelector=kubernetes.io%2Fservice-name%3Ds"),
        Value::Null,
    )
    .await?;
    Ok(())
}

async fn pools(t: &mut Transcript) -> Result<()> {
    let base = "/apis/metallb.io/v1beta1/namespaces/default/ipaddresspools";
    let pool = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": { "name": "p" },
        "spec": { "addresses": ["192.0.2.0/24"], "serviceAllocation": { "priority": 1, "namespaces": ["default"] } },
    });
    t.ask("POST", base, pool).await?;
    let counters = json!({ "assignedIPv4": 1, "assignedIPv6": 0, "availableIPv4": 255, "availableIPv6": 0 });
    t.ask("MERGE", &format!("{base}/p/status"), json!({ "status": counters }))
        .await?;
    t.ask(
        "MERGE",
        &format!("{base}/p"),
        json!({ "spec": { "autoAssign": null, "serviceAllocation": null } }),
    )
    .await?;
    Ok(())
}
